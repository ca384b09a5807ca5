"""The fold over submissions, re-runs and scores: what counts, what is open, and never a 0 for what is open."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from practicum_fixtures import write
from semester_fixtures import PAPERS, PEOPLE, empty_semester, fake_rerun, hand_in, semester

from practicum.semester import drop as dropping
from practicum.semester.grades import Book
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.scores import check_target, find_leaf, score, scores

PAPER, OTHER = PAPERS
BEFORE = datetime(2027, 1, 1, tzinfo=UTC)


def give(s: Semester, leaf: str, points: float | None, target: tuple[str, str, str], who: str = "cw") -> None:
    score(s, who, find_leaf(s, leaf), target, points, "as it is")


def score_all(s: Semester, group: str, points: float) -> None:
    """Every human leaf of a group gets `points` of 4."""
    for leaf in s.leaves:
        if leaf.check is None:
            papers = list(PAPERS) if leaf.per == "paper" else [""]
            students = [student for student, _ in PEOPLE[group]] if leaf.per == "student" else [""]
            for paper in papers:
                for student in students:
                    give(s, leaf.path, points, (group, paper, student))


def test_a_semester_that_is_whole(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    for paper in PAPERS:
        hand_in(s, root, "g01", paper, "final")
        fake_rerun(s, root, "g01", paper, "final")
    score_all(s, "g01", 4)
    grade = Book(s, root, BEFORE).grade("g01", "0101")
    assert grade.open == []
    assert grade.parts["reproducibility"] == pytest.approx(100)
    assert grade.total == pytest.approx(100)
    assert grade.grade == "1.0"
    give(s, "talk", 2, ("g01", "", "0102"))
    book = Book(s, root, BEFORE)
    assert book.grade("g01", "0101").total == pytest.approx(100)
    assert book.grade("g01", "0102").total == pytest.approx(90)  # 20 of 100 at one half
    assert book.grade("g01", "0102").parts["presentation"] == pytest.approx(75)


def test_weights_by_hand(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    for paper in PAPERS:
        hand_in(s, root, "g01", paper, "final", extension=False)
        fake_rerun(s, root, "g01", paper, "final")
    score_all(s, "g01", 3)
    give(s, "theory", 1, ("g01", OTHER, ""))
    human, machine, code = 0.75, 1.0, 0.0
    theory = (human + 0.25) / 2
    want = 12 * theory + (3 + 6 + 5) * machine + 4 * human + 10 * human + 14 * human + 6 * code + 40 * human
    assert Book(s, root, BEFORE).grade("g01", "0101").total == pytest.approx(want)


def test_what_is_missing_makes_a_grade_incomplete_and_never_nought(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    book = Book(s, root, BEFORE)
    grade = book.grade("g01", "0101")
    assert (grade.total, grade.grade) == (None, "")
    assert grade.parts["reproducibility.empirical.runs"] == pytest.approx(100)
    assert grade.parts["reproducibility"] is None
    assert "reproducibility.theory peak2020toy" in grade.open
    nobody = book.grade("g03", "0301")
    assert all(part is None for part in nobody.parts.values())
    reasons = {m.reason for m in book.marks("g03") if m.leaf.check}
    assert reasons == {"nothing is handed in yet"}


def test_nothing_handed_in_is_nought_for_the_machine_once_it_is_too_late(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    after = Book(s, root, s.plan.due("midterm", "g03") + timedelta(days=4))
    found = {m.leaf.path: m for m in after.marks("g03") if m.leaf.due == "midterm"}
    assert found["reproducibility.empirical.runs"].share == 0.0
    assert found["reproducibility.theory"].share is None  # a human has still to say so


def test_a_snapshot_that_was_changed_counts_for_nothing_and_costs_nothing(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    snapshot = Book(s, root).works["g01", PAPER, "midterm"].submission.snapshot
    claims = s.drop / "snapshots" / snapshot / "claims.yml"
    claims.chmod(0o644)
    write(claims, claims.read_text(encoding="utf-8").replace("status: reproduced", "status: partly"))
    mark = Book(s, root, BEFORE).mark(find_leaf(s, "consistent"), ("g01", PAPER, ""))
    assert (mark.share, mark.reason) == (None, "the snapshot is not what was handed in (restore it from a backup)")


def test_points_are_of_the_rubric_under_which_they_were_given(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    give(s, "theory", 3, ("g01", PAPER, ""))
    text = (s.folder / "semester.yml").read_text(encoding="utf-8")
    write(s.folder / "semester.yml", text.replace("points: 4", "points: 2"))
    assert Book(Semester(s.folder), root, BEFORE).mark(find_leaf(s, "theory"), ("g01", PAPER, "")).share == 0.75


def test_what_counts_for_nobody_any_more_is_named(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    give(s, "theory", 3, ("g01", PAPER, ""))
    assert Book(s, root).orphans == []
    for name in ("groups.csv", "allotment.csv"):
        write(s.folder / name, (s.folder / name).read_text(encoding="utf-8").replace("g01", "g11"))
    found = " | ".join(Book(Semester(s.folder), root).orphans)
    assert f"the submission g01 {PAPER} midterm is of nobody now" in found
    assert f"the score reproducibility.theory g01 {PAPER} by cw counts no more" in found


def test_a_deliverable_that_lost_its_date_is_named_and_stops_nothing(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    text = (s.folder / "semester.yml").read_text(encoding="utf-8")
    write(s.folder / "semester.yml", text.replace("midterm", "half"))
    book = Book(Semester(s.folder), root, BEFORE)
    assert any("g01 peak2020toy midterm is of nobody now" in told for told in book.orphans)
    assert book.grade("g01", "0101").total is None


def test_a_group_with_too_few_papers_has_no_grade(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    score_all(s, "g01", 4)
    text = (s.folder / "allotment.csv").read_text(encoding="utf-8")
    write(s.folder / "allotment.csv", "".join(t for t in text.splitlines(True) if not t.startswith(f"g01,{OTHER}")))
    book = Book(Semester(s.folder), root, BEFORE)
    assert "g01 has 1 papers, not 2 (see allotment.csv; its grades stay open)" in book.orphans
    assert book.grade("g01", "0101").total is None
    assert "its papers" in book.grade("g01", "0101").open


def test_half_of_the_seeds(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    found = {m.leaf.path: m for m in Book(s, root, BEFORE).marks("g02") if m.target[1] == PAPER}
    assert found["reproducibility.empirical.runs"].share == pytest.approx(3 / 6)
    assert "3 of 6 hidden seeds ran" in found["reproducibility.empirical.runs"].reason


def test_late_takes_its_share_of_every_leaf_of_the_deliverable(tmp_path: Path, monkeypatch) -> None:
    s, root = empty_semester(tmp_path)
    late = s.plan.due("midterm", "g01") + timedelta(hours=30)
    monkeypatch.setattr(dropping, "clock", lambda drop: late)
    hand_in(s, root, "g01", PAPER)
    fake_rerun(s, root, "g01", PAPER)
    give(s, "theory", 4, ("g01", PAPER, ""))
    marks = {m.leaf.path: m for m in Book(s, root, late).marks("g01") if m.target[1] == PAPER}
    assert marks["reproducibility.theory"].counted == pytest.approx(0.8)
    assert marks["reproducibility.empirical.matches"].counted == pytest.approx(0.8)
    # an extension given afterwards counts at once: penalties are computed at each reading
    plan = (s.folder / "semester.yml").read_text(encoding="utf-8")
    more = "- {group: g01, deliverable: midterm, until: 2027-06-06 12:00, reason: illness}"
    write(s.folder / "semester.yml", f"{plan}extensions:\n{more}\n")
    again = {m.leaf.path: m for m in Book(Semester(s.folder), root, late).marks("g01") if m.target[1] == PAPER}
    assert again["reproducibility.theory"].counted == pytest.approx(1.0)


def test_a_leaf_of_the_group_is_as_late_as_its_latest_paper(tmp_path: Path, monkeypatch) -> None:
    leaf = {"id": "talk", "title": "T", "weight": 1, "due": "midterm", "grader": "human", "points": 4}
    s, root = empty_semester(tmp_path, rubric=[leaf, leaf | {"id": "own", "per": "student"}])
    hand_in(s, root, "g01", PAPER)
    late = s.plan.due("midterm", "g01") + timedelta(hours=30)
    monkeypatch.setattr(dropping, "clock", lambda drop: late)
    hand_in(s, root, "g01", OTHER)
    book = Book(s, root, late)
    assert book.mark(find_leaf(s, "talk"), ("g01", "", "")).late == pytest.approx(0.8)
    assert book.mark(find_leaf(s, "own"), ("g01", "", "0101")).late == 1.0


def test_the_last_score_counts_and_a_withdrawn_one_is_open_again(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    target = ("g01", PAPER, "")
    for points, share in ((3, 0.75), (2, 0.5), (None, None)):
        give(s, "theory", points, target)
        assert Book(s, root, BEFORE).mark(find_leaf(s, "theory"), target).share == share
    assert [x.points for x in scores(s)] == [3, 2, None]


def test_a_machines_mark_can_be_overridden_with_a_reason_and_is_kept_beside(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    target, leaf = ("g02", PAPER, ""), find_leaf(s, "runs")
    score(s, "cw", leaf, target, 1.0, "The memory limit was the card's mistake.")
    mark = Book(s, root, BEFORE).mark(leaf, target)
    assert (mark.share, mark.by) == (1.0, "cw")
    assert mark.computed is not None
    assert mark.computed < 1
    give(s, "runs", None, target)
    assert Book(s, root, BEFORE).mark(leaf, target).share == mark.computed


def test_a_score_under_another_rubric_says_so(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    give(s, "theory", 3, ("g01", PAPER, ""))
    text = (s.folder / "semester.yml").read_text(encoding="utf-8")
    write(s.folder / "semester.yml", text.replace("weight: 12", "weight: 13"))
    mark = Book(Semester(s.folder), root, BEFORE).mark(find_leaf(s, "theory"), ("g01", PAPER, ""))
    assert mark.old_rubric
    assert mark.share == 0.75


@pytest.mark.parametrize(
    ("leaf", "target", "points", "reason", "told"),
    [
        ("thoery", ("g01", PAPER, ""), 3, "x", r"'thoery' is no leaf of the rubric \(did you mean"),
        ("theory", ("g01", PAPER, ""), 5, "x", "5 is not from 0 to 4"),
        ("theory", ("g01", PAPER, ""), float("nan"), "x", "nan is not from 0 to 4"),
        ("theory", ("g01", PAPER, ""), 3, " ", "the reason is missing"),
        ("theory", ("g01", "", ""), 3, "x", "give --paper"),
        ("theory", ("g01", "heckel2021early", ""), 3, "x", "is not allotted"),
        ("theory", ("g99", PAPER, ""), 3, "x", "no group 'g99'"),
        ("talk", ("g01", "", ""), 3, "x", "give --student"),
        ("talk", ("g01", "", "0201"), 3, "x", "g01: has no student '0201'"),
        ("runs", ("g01", PAPER, ""), 2, "x", "2 is not from 0 to 1"),
    ],
)
def test_what_is_no_score(tmp_path: Path, leaf: str, target, points: float, reason: str, told: str) -> None:
    s, root = semester(tmp_path)
    book = Book(s, root, BEFORE)

    def attempt() -> None:
        check_target(find_leaf(s, leaf), target, book.papers, book.students)
        score(s, "cw", find_leaf(s, leaf), target, points, reason)

    with pytest.raises(SemesterError, match=told):
        attempt()
    assert scores(s) == []


SCORE = """\
import sys
from pathlib import Path
from practicum.semester.plan import Semester
from practicum.semester.rerun import hidden_seeds
from practicum.semester.scores import find_leaf, score
s = Semester(Path(sys.argv[1]))
for i in range(10):
    score(s, sys.argv[2], find_leaf(s, "theory"), ("g01", "peak2020toy", ""), i % 5, f"reason {i}")
"""


def test_two_graders_at_once_lose_nothing_and_a_kill_neither(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    command = [sys.executable, "-c", SCORE, str(s.folder)]
    running = [subprocess.Popen([*command, who]) for who in ("cw", "mf")]
    assert [child.wait() for child in running] == [0, 0]
    assert sorted(x.who for x in scores(s)) == ["cw"] * 10 + ["mf"] * 10
    child = subprocess.Popen([*command, "late"])
    while not any(x.who == "late" for x in scores(s)) and child.poll() is None:
        pass
    child.kill()
    child.wait()
    kept = [x for x in scores(s) if x.who == "late"]
    assert [x.reason for x in kept] == [f"reason {i}" for i in range(len(kept))]  # a beginning, whole
    give(s, "theory", 4, ("g01", PAPER, ""))
    assert Book(s, root, BEFORE).mark(find_leaf(s, "theory"), ("g01", PAPER, "")).share == 1.0


def test_what_a_hostile_folder_holds_stops_nobody_elses_grade(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("practicum.semester.grades.intact", lambda drop, snapshot: True)
    s, root = semester(tmp_path)
    [folder] = [s.drop / "snapshots" / w.submission.snapshot for k, w in Book(s, root).works.items() if k[0] == "g02"]
    (folder / "claims.yml").chmod(0o644)
    for text in ("claims: [", "", "[1]", "&a [*a]", "group: {}\n" * 3, "\x00", "a: " + "[" * 5000):
        write(folder / "claims.yml", text)
        book = Book(s, root, BEFORE)
        mark = book.mark(find_leaf(s, "matches"), ("g02", PAPER, ""))
        assert mark.share == 0.0
        assert mark.reason.startswith("claims.yml cannot be read: claims.yml")
        assert book.grade("g01", "0101").parts["reproducibility.empirical.matches"] == pytest.approx(100)
