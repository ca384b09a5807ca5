"""Handing in: what is taken, what is refused, and what a kill leaves."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from practicum_fixtures import write
from semester_fixtures import PAPERS, as_json, empty_semester, fill, hand_in

from practicum.reading import ReadingError
from practicum.semester import drop as dropping
from practicum.semester.drop import (
    DropError,
    clock,
    intact,
    latest,
    manifest,
    snapshot_hash,
    submissions,
    submit,
    verify,
)
from practicum.semester.kit import start
from practicum.semester.log import Log, LogError

PAPER = "peak2020toy"


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    semester, root = empty_semester(tmp_path)
    return fill(start(semester, PAPER, "g01", ["Ada Adler"], root))


def drop_of(kit: Path) -> Path:
    return kit.parents[2] / "drop"


def test_a_submission_is_a_snapshot_a_line_and_a_receipt(kit: Path) -> None:
    receipt = submit(kit, "midterm", drop_of(kit))
    snapshot = drop_of(kit) / "snapshots" / receipt.snapshot
    there = {f.relative_to(snapshot).as_posix() for f in snapshot.rglob("*") if f.is_file()}
    assert there == {f.path for f in receipt.files}
    assert {"claims.yml", "reproduce.py", "report.md", "figure.png", "results.json"} <= there
    assert not any("receipts" in name for name in there)
    assert all(not os.stat(snapshot / name).st_mode & 0o222 for name in there)
    [event] = submissions(drop_of(kit))
    assert (event.group, event.paper, event.deliverable, event.snapshot) == ("g01", PAPER, "midterm", receipt.snapshot)
    [file] = (kit / "receipts").iterdir()
    assert verify(file, drop_of(kit)) == receipt


def test_resubmission_keeps_the_old_one_and_the_same_folder_is_told(kit: Path) -> None:
    first = submit(kit, "midterm", drop_of(kit))
    with pytest.raises(DropError, match="this very folder was handed in already"):
        submit(kit, "midterm", drop_of(kit))
    write(kit / "report.md", "better")
    second = submit(kit, "midterm", drop_of(kit))
    assert first.snapshot != second.snapshot
    assert intact(drop_of(kit), first.snapshot)
    assert latest(submissions(drop_of(kit)))["g01", PAPER, "midterm"].snapshot == second.snapshot
    assert submit(kit, "final", drop_of(kit)).snapshot == second.snapshot  # one content, two deliverables


def test_the_name_is_of_the_content_alone(kit: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        for name in sorted(("x.py", "sub/y.md"), reverse=folder == b):
            write(folder / name, name)
    os.utime(b / "x.py", (1, 1))
    assert snapshot_hash(manifest(a)) == snapshot_hash(manifest(b))
    (b / "x.py").rename(b / "z.py")
    assert snapshot_hash(manifest(a)) != snapshot_hash(manifest(b))


def test_late_is_by_the_receiving_side(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs((clock(drop_of(kit)) - datetime.now(UTC)).total_seconds()) < 5
    monkeypatch.setattr(dropping, "clock", lambda drop: datetime(2027, 6, 5, 12, 0, tzinfo=UTC))
    receipt = submit(kit, "midterm", drop_of(kit))
    assert receipt.factor == pytest.approx(0.9)
    assert receipt.received == datetime(2027, 6, 5, 12, 0, tzinfo=UTC)


def test_a_late_one_does_not_replace_a_punctual_one_by_accident(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(kit, "midterm", drop_of(kit))
    write(kit / "report.md", "better")
    monkeypatch.setattr(dropping, "clock", lambda drop: datetime(2027, 6, 5, 12, 0, tzinfo=UTC))
    with pytest.raises(DropError, match=r"would count for 90%, .* counts for 100% \(leave it, or say --replace\)"):
        submit(kit, "midterm", drop_of(kit))
    assert len(submissions(drop_of(kit))) == 1
    assert submit(kit, "midterm", drop_of(kit), replace=True).factor == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda kit: (kit / "reproduce.py").unlink(), "holds no reproduce.py"),
        (lambda kit: write(kit / "data.bin", "x"), "data.bin: files of this type are not taken"),
        (lambda kit: (kit / "big.csv").write_bytes(b"0" * 11_000_000), "big.csv: has 11.0 MB, more than 10"),
        (lambda kit: [write(kit / f"f{i}.txt", "x") for i in range(201)], "files, more than 200"),
        (lambda kit: [(kit / f"f{i}.txt").write_bytes(b"0" * 9_000_000) for i in range(6)], "MB, more than 50"),
        (lambda kit: (kit / "link.md").symlink_to("/etc/passwd"), "link.md: is no plain file"),
        (lambda kit: (kit / "folder").symlink_to("/etc"), "folder: is no plain file"),
        (lambda kit: os.mkfifo(kit / "pipe.txt"), "pipe.txt: is no plain file"),
    ],
)
def test_what_is_not_taken_leaves_nothing_behind(kit: Path, harm, told: str) -> None:
    harm(kit)
    with pytest.raises(DropError, match=told):
        submit(kit, "midterm", drop_of(kit))
    assert submissions(drop_of(kit)) == []
    assert not list(drop_of(kit).glob("snapshots/*"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("group: g01", "group: g09", "'g09' is allotted no paper, not 'peak2020toy'"),
        ("paper: peak2020toy", "paper: tail2021toy", "is not the kit's paper"),
        ("status: reproduced", "status: proven", "'proven' is none of"),
        ("id: law", "id: lax", r"'lax' is no claim of the card \(did you mean 'law'"),
        ("id: law", "id: peak", "'peak' is taken"),
        ("claims:", "claims: [", "is no YAML"),
        ("at_most: 4", "at_most: 4\n    equals: 3", "exactly one of"),
    ],
)
def test_claims_that_do_not_serve_are_refused(kit: Path, old: str, new: str, told: str) -> None:
    text = (kit / "claims.yml").read_text(encoding="utf-8")
    assert old in text
    write(kit / "claims.yml", text.replace(old, new, 1))
    with pytest.raises((DropError, ReadingError), match=told):
        submit(kit, "midterm", drop_of(kit))
    assert submissions(drop_of(kit)) == []


def test_other_mistakes(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(DropError, match=r"no deliverable 'mid-term' \(did you mean 'midterm'"):
        submit(kit, "mid-term", drop_of(kit))
    with pytest.raises(DropError, match=r"holds no plan\.yml"):
        submit(kit, "midterm", tmp_path / "elsewhere")


def test_a_file_that_snapshots_leave_out_is_not_slipped_into_one(kit: Path) -> None:
    write(kit / "__pycache__/helper.pyc", "x")
    write(kit / ".hidden", "x")
    receipt = submit(kit, "midterm", drop_of(kit))
    assert intact(drop_of(kit), receipt.snapshot)
    write(drop_of(kit) / "snapshots" / receipt.snapshot / "__pycache__/numpy.pyc", "x")
    assert not intact(drop_of(kit), receipt.snapshot)


def test_the_receiving_side_says_whose_folder_it_is(kit: Path) -> None:
    with pytest.raises(DropError, match="is of 'g01', and handed in by 'g02'"):
        submit(kit, "midterm", drop_of(kit), group="g02")
    assert submit(kit, "midterm", drop_of(kit), group="g01").group == "g01"


def test_nothing_is_read_through_a_link(kit: Path, tmp_path: Path) -> None:
    write(tmp_path / "secret.yml", "password: hunter2\n")
    (kit / "claims.yml").unlink()
    (kit / "claims.yml").symlink_to(tmp_path / "secret.yml")
    with pytest.raises(DropError, match=r"claims\.yml: is no plain file") as told:
        submit(kit, "midterm", drop_of(kit))
    assert "password" not in str(told.value)


@pytest.mark.parametrize("name", ["a\nb.txt", "\x1b[2J.md", "\udcff.py"])
def test_a_name_that_could_stand_for_others_is_refused(kit: Path, name: str) -> None:
    write(kit / name, "x")
    with pytest.raises(DropError, match="has signs that cannot be printed"):
        submit(kit, "midterm", drop_of(kit))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("contributions:\n" + "".join(f"  name{i}: []\n" for i in range(20_000)), "kB, more than 200"),
        ("extensions: [" + "{}, " * 11 + "]", "at most 10"),
        ("x: &a [1]\ny: [*a, *a]\n", r"an alias \(\*a\) is not taken"),
        ("\n".join(f"unknown{i}: 1" for i in range(500)), "more problems"),
        ("contributions: {Ada: [" + '"\\e]0;pwn\\a"' + "]}", "which cannot be printed"),
    ],
)
def test_claims_that_would_hold_the_grader_up(kit: Path, more: str, told: str) -> None:
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    kept = {name: said[name] for name in ("group", "paper", "claims")}
    write(kit / "claims.yml", yaml.safe_dump(kept, allow_unicode=True) + more)
    begin = time.perf_counter()
    with pytest.raises((DropError, ReadingError), match=told):
        submit(kit, "midterm", drop_of(kit))
    assert time.perf_counter() - begin < 20  # it took minutes: a bound on growth, not a timing


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"expect": {"equals": "slow"}}, "compares a key with itself"),
        ({"id": "law"}, "'law' is taken"),
        ({"keys": ["tail"]}, "an extension measures a key of its own"),
    ],
)
def test_an_extension_that_cannot_fail_is_refused(kit: Path, changed: dict, told: str) -> None:
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    said["extensions"][0] |= changed
    write(kit / "claims.yml", yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
    with pytest.raises(ReadingError, match=told):
        submit(kit, "midterm", drop_of(kit))


def test_an_odd_line_of_the_log_is_named(kit: Path) -> None:
    submit(kit, "midterm", drop_of(kit))
    Log(drop_of(kit) / "log.jsonl").append("submit", "g01", {"x": 1})
    with pytest.raises(LogError, match=r"log\.jsonl:2: is no submit as this program writes them, by 'g01'"):
        submissions(drop_of(kit))


def test_a_receipt_shows_what_was_done_to_the_drop_folder(kit: Path) -> None:
    receipt = submit(kit, "midterm", drop_of(kit))
    [file] = (kit / "receipts").iterdir()
    for forged in ({"line": 2}, {"group": "g03"}, {"deliverable": "final"}, {"received": "2026-01-01T00:00:00Z"}):
        write(kit / "forged.json", json.dumps(as_json(file) | forged))
        with pytest.raises(DropError, match="the log has no such line"):
            verify(kit / "forged.json", drop_of(kit))
    (kit / "forged.json").unlink()
    report = drop_of(kit) / "snapshots" / receipt.snapshot / "report.md"
    report.chmod(0o644)
    report.write_text("changed")
    with pytest.raises(DropError, match="is not what it was"):
        verify(file, drop_of(kit))
    with pytest.raises(DropError, match="is no receipt"):
        verify(kit / "claims.yml", drop_of(kit))


SUBMIT = """\
import sys
from pathlib import Path
from practicum.semester.drop import submit
submit(Path(sys.argv[1]), "midterm", Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_kill_at_any_moment_leaves_nothing_half(kit: Path) -> None:
    (kit / "figure.csv").write_bytes(b"0" * 8_000_000)  # some time to be killed in
    drop, wait = drop_of(kit), random.Random(0)
    command = [sys.executable, "-c", SUBMIT, str(kit), str(drop)]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    whole, killed = time.perf_counter() - start, 0
    for i in range(8):
        before = len(submissions(drop))
        write(kit / "report.md", f"version {i}")
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(whole * (0.5 + 0.5 * wait.random()))
        child.kill()
        killed += child.wait() != 0
        accepted = submissions(drop)  # the chain holds
        assert all(intact(drop, s.snapshot) for s in accepted)
        assert len(accepted) - before in (0, 1)
        if len(accepted) == before:  # not accepted: the same command does it, whatever was left
            subprocess.run(command, check=True)
        assert len(submissions(drop)) == before + 1
    assert killed > 0


def test_two_groups_hand_in_at_once(tmp_path: Path) -> None:
    semester, root = empty_semester(tmp_path)
    kits = [fill(start(semester, paper, group, ["A"], root)) for group in ("g01", "g02", "g03") for paper in PAPERS]
    running = [subprocess.Popen([sys.executable, "-c", SUBMIT, str(kit), str(semester.drop)]) for kit in kits]
    assert [child.wait() for child in running] == [0] * 6
    assert len(latest(submissions(semester.drop))) == 6


def test_a_group_that_hands_in_twice_keeps_both_receipts(tmp_path: Path) -> None:
    semester, root = empty_semester(tmp_path)
    for deliverable in ("midterm", "final"):
        hand_in(semester, root, "g02", PAPER, deliverable)
    assert len(list((semester.kits / "g02" / PAPER / "receipts").iterdir())) == 2
