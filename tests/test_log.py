"""The hash-chained log: appended by many at once, torn by crashes, and never changed unnoticed."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from practicum.semester.log import FIRST, Log, LogError

APPEND = """\
import sys
from pathlib import Path
from practicum.semester.log import Log
log = Log(Path(sys.argv[1]))
for i in range(20):
    log.append("score", sys.argv[2], {"i": i})
"""


def filled(path: Path, n: int = 5) -> Log:
    log = Log(path)
    for i in range(n):
        log.append("score", f"grader {i}", {"points": i, "reason": "gut, weil größer"})
    return log


def test_events_are_chained_from_the_first(tmp_path: Path) -> None:
    events = filled(tmp_path / "log.jsonl").events()
    assert [e.n for e in events] == [1, 2, 3, 4, 5]
    assert events[0].previous == FIRST
    assert all(b.previous == a.hash for a, b in pairwise(events))
    assert filled(tmp_path / "empty", 0).head() == FIRST


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("harm", "where", "told"),
    [
        (lambda ls: ls.__setitem__(2, ls[2].replace(b'"points":2', b'"points":4')), 3, "was changed after grader 2"),
        (lambda ls: ls.pop(1), 2, "does not follow"),
        (lambda ls: ls.insert(1, ls[1]), 3, "does not follow"),
        (lambda ls: ls.__setitem__(slice(1, 3), [ls[2], ls[1]]), 2, "does not follow"),
        (lambda ls: ls.__setitem__(3, b"{}\n"), 4, "is no event"),
        (lambda ls: ls.pop(0), 1, "does not follow"),
    ],
)
def test_a_change_shows_and_says_where(tmp_path: Path, harm, where: int, told: str) -> None:
    log = filled(tmp_path / "log.jsonl")
    found = lines(log.path)
    harm(found)
    log.path.write_bytes(b"".join(found))
    with pytest.raises(LogError, match=f"log.jsonl:{where}: .*{told}"):
        log.events()
    with pytest.raises(LogError):
        log.append("score", "x", {})
    assert lines(log.path) == found  # nothing is built on a broken chain


def test_a_forged_event_needs_all_that_follow_to_be_forged(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.jsonl")
    found = lines(log.path)
    event = log.events()[2]
    event.data["points"] = 4
    event.hash = event.digest()  # the forger mends the line's own hash
    found[2] = (json.dumps(event.model_dump(mode="json")) + "\n").encode()
    log.path.write_bytes(b"".join(found))
    with pytest.raises(LogError, match=r"log\.jsonl:4: does not follow"):
        log.events()


def test_a_torn_last_line_was_never_accepted(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.jsonl")
    whole = log.path.read_bytes()
    for cut in range(1, 120, 7):
        log.path.write_bytes(whole + lines(log.path)[-1][:cut].rstrip(b"\n"))
        assert len(log.events()) == 5
        event = log.append("score", "x", {})
        assert event.n == 6
        assert len(log.events()) == 6
        log.path.write_bytes(whole)


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), f"p{k}"]) for k in range(3)]
    assert [child.wait() for child in running] == [0, 0, 0]
    events = Log(path).events()
    assert len(events) == 60
    for k in range(3):
        assert [e.data["i"] for e in events if e.who == f"p{k}"] == list(range(20))


def test_what_json_does_not_have_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.jsonl", 1)
    with pytest.raises(ValueError, match="JSON"):
        log.append("score", "x", {"points": float("nan")})
    assert len(log.events()) == 1
