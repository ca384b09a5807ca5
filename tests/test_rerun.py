"""The re-run through the command line: isolated, resumable, one group's crash touching no other, caught cheats."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from practicum_fixtures import write
from semester_fixtures import PAPERS, PROGRAM, empty_semester, hand_in, values
from typer.testing import CliRunner

from practicum.cli import app
from practicum.runs import ROOT
from practicum.semester.drop import latest, snapshot_path, submissions
from practicum.semester.grades import Book
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.rerun import hidden_seeds, load_evidence, rerun_folder, score_log, tampered
from practicum.semester.sandbox import SandboxError, choose

PAPER, OTHER = PAPERS
HARD_CODED = PROGRAM.replace("random.Random(int(a.seed))", "random.Random(0)")
CRASH = "import sys\nsys.exit('no luck with ' + sys.argv[2])\n"
PEEK = """\
import glob
found = [p for p in glob.glob('{folder}/**/*', recursive=True)] + glob.glob('{home}/*')
try:
    open('{folder}/private/scores.jsonl', 'a').write('mine')
    found.append('wrote')
except OSError:
    pass
values_extra = len(found)
"""


def box() -> str:
    """The flag for this machine: none where bubblewrap works, which CI must have."""
    try:
        choose()
    except SandboxError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    return ""


def told(semester: Semester, root: Path, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*words, "--semester", str(semester.folder), "--root", str(root)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def share(semester: Semester, root: Path, group: str, leaf: str, paper: str = PAPER) -> tuple[float | None, str]:
    mark = next(m for m in Book(semester, root).marks(group) if m.leaf.path.endswith(leaf) and m.target[1] == paper)
    return mark.share, mark.reason


def test_a_class_is_rerun(tmp_path: Path) -> None:
    box()
    s, root = empty_semester(tmp_path)
    peek = PEEK.format(folder=s.folder, home=Path.home())
    peek += PROGRAM.replace('"slow": 3', '"found": values_extra, "slow": 3')
    hand_in(s, root, "g01", PAPER, program=peek)
    hand_in(s, root, "g02", PAPER, program=HARD_CODED, measured=lambda seed: values(0))
    hand_in(s, root, "g03", PAPER, program=CRASH)
    before = (s.private / "scores.jsonl").exists() and score_log(s).events()
    code, out, err = told(s, root, "rerun")
    assert code == 0, err
    assert "3 submissions count, 3 to re-run, isolation: bubblewrap" in out
    assert not before
    # honest: all
    assert share(s, root, "g01", ".runs")[0] == 1
    assert share(s, root, "g01", ".matches") == (1.0, "3 of 3 claimed numbers are the re-run's")
    assert share(s, root, "g01", ".consistent")[0] == 1
    evidence = load_evidence(s, latest(submissions(s.drop))["g01", PAPER, "midterm"])
    assert evidence is not None
    assert {run.values["found"] for run in evidence.good if run.values} == {0.0}  # it saw nothing of ours
    assert [event.kind for event in score_log(s).events()] == ["rerun"] * 3
    # numbers that were typed in
    assert share(s, root, "g02", ".runs")[0] == 1
    assert share(s, root, "g02", ".matches")[0] == 0
    # a crash is a problem with a name and without the seed
    assert share(s, root, "g03", ".matches")[0] == 0
    why = share(s, root, "g03", ".runs")[1]
    assert "no luck with" in why
    assert not any(str(seed) in why + out for seed in hidden_seeds(s, PAPER, "midterm"))
    # nothing to do any more
    assert "3 submissions count, 0 to re-run" in told(s, root, "rerun")[1]
    assert tampered(s) == []
    (rerun_folder(s, latest(submissions(s.drop))["g01", PAPER, "midterm"]) / "evidence.json").write_text("{}")
    assert tampered(s) == [f"g01 {PAPER} midterm"]


def test_hidden_seeds_are_secret_stable_and_not_the_public_ones(tmp_path: Path) -> None:
    (s, _), (other, _) = (empty_semester(tmp_path / name) for name in ("one", "other"))
    for semester in (s, other):
        (semester.private / "secret").unlink()  # so that each draws its own
    first = hidden_seeds(s, PAPER, "midterm")
    assert first == hidden_seeds(s, PAPER, "midterm")
    assert len(set(first)) == 6
    assert not set(first) & set(s.plan.seeds.public)
    assert not set(first) & set(hidden_seeds(s, OTHER, "midterm"))
    assert not set(first) & set(hidden_seeds(s, PAPER, "final"))
    if os.name == "posix":
        assert (s.private / "secret").stat().st_mode & 0o077 == 0
    assert not set(first) & set(hidden_seeds(other, PAPER, "midterm"))


def test_what_a_group_writes_into_its_results_earns_nothing(tmp_path: Path) -> None:
    """The program's law is off by two; results.json says otherwise, and so does the status."""
    s, root = empty_semester(tmp_path)
    hand_in(s, root, "g01", PAPER, program=PROGRAM.replace('"tail": 1 +', '"tail": 3 +'))  # results.json: as it was
    told(s, root, "rerun", "--unsafe-local")
    rows = {row.claim: row for row in Book(s, root).works["g01", PAPER, "midterm"].rows}
    assert (rows["law"].status, str(rows["law"].verdict)) == ("reproduced", "not reproduced")
    assert (rows["law"].matches, rows["law"].consistent) == (False, 0.0)


def test_the_public_seeds_are_rerun_where_something_is_in_doubt(tmp_path: Path) -> None:
    s, root = empty_semester(tmp_path)
    for group, changed in (("g01", {}), ("g02", {"law": "partly"})):
        hand_in(s, root, group, PAPER, **changed)
    told(s, root, "rerun", "--unsafe-local")
    works = Book(s, root).works
    first, second = (works[group, PAPER, "midterm"].evidence for group in ("g01", "g02"))
    assert first is not None
    assert second is not None
    assert [run.seed for run in second.public] == [0, 1, 2, 3, 4]
    assert second.public[2].values == values(2)
    assert first.own is None


def test_a_secret_that_is_gone_or_broken_is_not_drawn_anew(tmp_path: Path) -> None:
    s, root = empty_semester(tmp_path)
    hand_in(s, root, "g01", PAPER)
    told(s, root, "rerun", "--unsafe-local")
    path = s.private / "secret"
    kept = path.read_text()
    for text in ("", "zz" * 32, None):
        path.unlink() if text is None else write(path, text)
        with pytest.raises(SemesterError, match="private/secret: is "):
            hidden_seeds(s, PAPER, "midterm")
    write(path, kept)
    assert len(hidden_seeds(s, PAPER, "midterm")) == 6


def test_what_nothing_is_called_is_refused(tmp_path: Path) -> None:
    s, root = empty_semester(tmp_path)
    for words in (("--group", "g1"), ("--paper", "peak"), ("--for", "mid")):
        code, _, err = told(s, root, "rerun", "--unsafe-local", *words)
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"nothing is called {words[1]!r} here (")


def test_without_isolation_only_when_told_and_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s, root = empty_semester(tmp_path)
    hand_in(s, root, "g01", PAPER)

    def refuse(unsafe_local: bool = False) -> str:
        if unsafe_local:
            return "unsafe-local"
        raise SandboxError("programs cannot be isolated here: no bwrap; or waive isolation by --unsafe-local")

    monkeypatch.setattr("practicum.commands.grading.choose", refuse)
    code, out, err = told(s, root, "rerun")
    assert (code, out) == (1, "")
    assert err == "programs cannot be isolated here: no bwrap; or waive isolation by --unsafe-local\n"
    code, out, err = told(s, root, "rerun", "--unsafe-local")
    assert code == 0
    assert "these programs can read and write whatever you can" in err
    [event] = score_log(s).events()
    assert event.data["how"] == "unsafe-local"
    assert share(s, root, "g01", ".runs")[0] == 1


def test_a_snapshot_that_was_changed_is_not_run(tmp_path: Path) -> None:
    s, root = empty_semester(tmp_path)
    receipt = hand_in(s, root, "g01", PAPER)
    program = snapshot_path(s.drop, receipt.snapshot) / "reproduce.py"
    program.chmod(0o644)
    write(program, f"open({str(tmp_path / 'ran')!r}, 'w')")
    told(s, root, "rerun", "--unsafe-local")
    assert not (tmp_path / "ran").exists()
    assert "is not what was handed in" in share(s, root, "g01", ".runs")[1]


SLOW = "import time\ntime.sleep(.7)\n" + PROGRAM


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize("with_signal", ["SIGKILL", "SIGINT"])
def test_killed_at_any_moment_it_resumes(tmp_path: Path, with_signal: str) -> None:
    s, root = empty_semester(tmp_path)
    hand_in(s, root, "g01", PAPER, program=SLOW)
    command = [sys.executable, "-m", "practicum", "rerun", "--unsafe-local", "--jobs", "1", "--semester", str(s.folder),
               "--root", str(root)]  # fmt: skip
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    submission = latest(submissions(s.drop))["g01", PAPER, "midterm"]
    folder, deadline = rerun_folder(s, submission), time.monotonic() + 60
    slow = s.plan.seeds.hidden
    while not folder.is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)
    child.send_signal(getattr(signal, with_signal))
    _, err = child.communicate()
    if with_signal == "SIGINT":
        assert child.returncode == 130
        assert re.search(r"interrupted: the finished seeds are kept \(the same command resumes\)", err)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("seed-*.json")}
    assert load_evidence(s, submission) is None
    assert score_log(s).events() == []
    code, _, err = told(s, root, "rerun", "--unsafe-local", "--jobs", "1")
    assert code == 0, err
    evidence = load_evidence(s, submission)
    assert evidence is not None
    assert len(evidence.good) == slow
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("seed-*.json")}.items() >= kept.items()


def test_two_graders_rerun_at_once_and_each_snapshot_once(tmp_path: Path) -> None:
    s, root = empty_semester(tmp_path)
    for group in ("g01", "g02"):
        hand_in(s, root, group, PAPER, program=SLOW + f"# {group}\n")
    command = [sys.executable, "-m", "practicum", "rerun", "--unsafe-local", "--jobs", "2", "--semester", str(s.folder),
               "--root", str(root)]  # fmt: skip
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(2)]  # fmt: skip
    for child in running:
        child.communicate()
    logged = [event.data["group"] for event in score_log(s).events()]
    assert sorted(logged) == ["g01", "g02"]


def test_status_shows_who_has_handed_in_what(tmp_path: Path) -> None:
    s, root = empty_semester(tmp_path)
    hand_in(s, root, "g01", PAPER)
    told(s, root, "rerun", "--unsafe-local")
    code, out, _ = told(s, root, "status")
    assert code == 0
    assert re.search(rf"g01 +{PAPER} +midterm +20\d\d-.* 100% +6/6 unsafe-local", out)
    code, out, _ = told(s, root, "status", "--group", "g01")
    assert "the re-run" not in out
    assert "number, status" in out
    assert told(s, root, "status", "--group", "g77")[2].startswith("no group 'g77' has papers")
