"""The gradebook: a fold over submissions, re-runs and scores. What is missing makes a grade incomplete, never 0."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from math import isclose
from pathlib import Path
from statistics import fmean

from practicum import ROOT
from practicum.cards import Card, load_cards
from practicum.semester.allot import allotted
from practicum.semester.claims import GroupClaims, load_claims
from practicum.semester.drop import Submission, intact, latest, snapshot_path, submissions
from practicum.semester.evidence import Evidence, Row, share_run, table
from practicum.semester.people import Group, load_groups
from practicum.semester.plan import Semester
from practicum.semester.rerun import load_evidence
from practicum.semester.rubric import Leaf
from practicum.semester.scores import Score, Target, standing


@dataclass(frozen=True)
class Mark:
    """A leaf for one target: the share of its marks, before the late factor; None while it is incomplete."""

    leaf: Leaf
    target: Target
    share: float | None
    reason: str
    late: float = 1.0  # the factor of what was handed in late
    by: str = ""  # who scored, or "machine"
    computed: float | None = None  # what the machine had, where a human overrode it
    old_rubric: bool = False  # scored under another state of the rubric

    @property
    def counted(self) -> float | None:
        """The share with the late factor."""
        return None if self.share is None else self.share * self.late


@dataclass(frozen=True)
class Work:
    """What a group handed in on a paper for a deliverable, and all that is known of it."""

    submission: Submission
    factor: float
    claims: GroupClaims | None
    evidence: Evidence | None
    rows: list[Row]
    problem: str = ""  # why its claims cannot be read
    intact: bool = True  # the snapshot is what was handed in


@dataclass(frozen=True)
class Grade:
    """A student's grade; `parts` by the path of every inner node and leaf, in percent, None while incomplete."""

    group: str
    student: str
    parts: dict[str, float | None]
    peer: float = 1.0
    total: float | None = None
    grade: str = ""
    open: list[str] = field(default_factory=list)  # what is missing


class Book:
    """All marks of a semester, read once; make a new one after a change."""

    def __init__(self, semester: Semester, root: Path = ROOT, now: datetime | None = None) -> None:
        self.semester = semester
        self.now = now or datetime.now(UTC)
        self.papers = allotted(semester, root)
        self.groups: dict[str, Group] = load_groups(semester)
        self.students = {group.id: [student.id for student in group.students] for group in self.groups.values()}
        needed = sorted({paper for papers in self.papers.values() for paper in papers})
        self.cards: dict[str, Card] = load_cards(root, needed)

    @cached_property
    def works(self) -> dict[tuple[str, str, str], Work]:
        """What counts, by group, paper and deliverable."""
        counting = latest(submissions(self.semester.drop))
        return {key: self._work(s) for key, s in counting.items() if self._is_somebodys(s)}

    def _work(self, s: Submission) -> Work:
        plan, folder = self.semester.plan, snapshot_path(self.semester.drop, s.snapshot)
        factor, card = plan.late.factor(plan.due(s.deliverable, s.group), s.received), self.cards[s.paper]
        evidence = load_evidence(self.semester, s)
        if not intact(self.semester.drop, s.snapshot):
            return Work(s, factor, None, evidence, [], "", intact=False)
        claims, problem = None, ""
        try:
            claims = load_claims(folder / "claims.yml", card, folder)
        except Exception as error:  # whatever a hand-made folder holds, the others are to be graded
            problem = str(error).splitlines()[0]
        rows = table(card, claims, evidence, evidence.own if evidence else None)
        return Work(s, factor, claims, evidence, rows, problem)

    @cached_property
    def orphans(self) -> list[str]:
        """Name what counts for nobody, since the plan, the groups or the allotment changed under it."""
        found, per_group = [], self.semester.plan.papers_per_group
        for group in self.groups:
            if (n := len(self.papers.get(group, []))) != per_group:
                found.append(f"{group} has {n} papers, not {per_group} (see allotment.csv; its grades stay open)")
        for s in latest(submissions(self.semester.drop)).values():
            if not self._is_somebodys(s):
                told = f"{s.group} {s.paper} {s.deliverable}"
                found.append(f"the submission {told} is of nobody now (keep the old names of groups, papers and dates)")
        targets = {leaf.path: {t for group in self.groups for t in self.targets(leaf, group)}
                   for leaf in self.semester.leaves}  # fmt: skip
        for (path, target), score in self.standing.items():
            if target not in targets.get(path, ()):
                told = " ".join(filter(None, (path, *target)))
                found.append(f"the score {told} by {score.who} counts no more (keep the old names, or score again)")
        return found

    def _is_somebodys(self, s: Submission) -> bool:
        return s.paper in self.papers.get(s.group, []) and s.deliverable in self.semester.plan.dates

    @cached_property
    def standing(self) -> dict[tuple[str, Target], Score]:
        """The scores that count."""
        return standing(self.semester)

    def targets(self, leaf: Leaf, group: str) -> list[Target]:
        """List whom a leaf is scored for in one group."""
        if leaf.per == "paper":
            return [(group, paper, "") for paper in self.papers.get(group, [])]
        if leaf.per == "student":
            return [(group, "", student) for student in self.students.get(group, [])]
        return [(group, "", "")]

    def mark(self, leaf: Leaf, target: Target) -> Mark:
        """Give the mark of a leaf: a human's score, or what the machine computes from the re-run."""
        work = self.works.get((target[0], target[1], leaf.due))
        late = self._late(leaf, target)
        computed, why = self._machine(leaf, target, work) if leaf.check else (None, "")
        score = self.standing.get((leaf.path, target))
        if score is None or score.points is None:
            return Mark(leaf, target, computed, why or "not scored yet", late, "machine" if leaf.check else "")
        old = score.rubric != self.semester.plan.rubric_hash
        return Mark(leaf, target, score.points / score.of, score.reason, late, score.who, computed, old)

    def _late(self, leaf: Leaf, target: Target) -> float:
        """Give the late factor: of the paper's submission, or the worst of the group's; nothing is late on a stage."""
        papers = [target[1]] if target[1] else [] if leaf.per == "student" else self.papers.get(target[0], [])
        found = [work.factor for paper in papers if (work := self.works.get((target[0], paper, leaf.due)))]
        return min(found, default=1.0)

    def _machine(self, leaf: Leaf, target: Target, work: Work | None) -> tuple[float | None, str]:
        if work is not None and not work.intact:
            return None, "the snapshot is not what was handed in (restore it from a backup)"
        if work is None:
            plan = self.semester.plan
            if plan.late.factor(plan.due(leaf.due, target[0]), self.now) > 0:
                return None, "nothing is handed in yet"
            return 0.0, "nothing was handed in"
        if work.claims is None:
            return 0.0, f"claims.yml cannot be read: {work.problem}"
        if work.evidence is None:
            return None, "not re-run yet"
        return CHECKS[leaf.check or "runs"](work, self.cards[target[1]])

    def marks(self, group: str, student: str | None = None) -> list[Mark]:
        """List a group's marks in the rubric's order, or those that count for one student."""
        return [
            self.mark(leaf, target)
            for leaf in self.semester.leaves
            for target in self.targets(leaf, group)
            if leaf.per != "student" or student is None or target[2] == student
        ]

    def grade(self, group: str, student: str) -> Grade:
        """Fold a student's marks; a part is incomplete as long as anything below it is."""
        marks, peer = self.marks(group, student), self.peer(group, student)
        applied = peer if self.semester.plan.peer.apply else 1.0
        parts: dict[str, float | None] = {}
        for path in self._paths():
            below = [m for m in marks if m.leaf.path == path or m.leaf.path.startswith(f"{path}.")]
            parts[path] = _part(below, applied)
        missing = [_named(m) for m in marks if m.share is None]
        if len(self.papers.get(group, [])) < self.semester.plan.papers_per_group:
            parts, missing = dict.fromkeys(parts), [*missing, "its papers"]
        total = None if missing else _part(marks, applied)
        return Grade(group, student, parts, peer, total, self._grade(total), missing)

    def _paths(self) -> list[str]:
        found: dict[str, None] = {}
        for leaf in self.semester.leaves:
            steps = leaf.path.split(".")
            found |= dict.fromkeys(".".join(steps[: i + 1]) for i in range(len(steps)))
        return list(found)

    def _grade(self, total: float | None) -> str:
        steps = sorted(self.semester.plan.grades.items(), key=lambda step: -step[1])
        if total is None or not steps:
            return ""
        return next((name for name, least in steps if total >= least or isclose(total, least)), steps[-1][0])

    def peer(self, group: str, student: str) -> float:
        """Give a student's peer factor within the plan's bounds; 1 where nobody has rated."""
        p = self.semester.plan.peer
        ratings = self.ratings.get(group, {})
        if student not in ratings or not any(ratings.values()):
            return 1.0
        return min(max(ratings[student] / fmean(ratings.values()), p.least), p.most)

    @cached_property
    def ratings(self) -> dict[str, dict[str, float]]:
        """Each student's mean rating by the others, by group; peers.csv has group, rater, student, points."""
        from practicum.semester.peers import load_ratings

        return load_ratings(self.semester, self.groups)


def _part(marks: Sequence[Mark], peer: float) -> float | None:
    """Sum the percent of these marks; a leaf counts with the mean over its papers."""
    by_leaf: dict[str, list[Mark]] = {}
    for mark in marks:
        by_leaf.setdefault(mark.leaf.path, []).append(mark)
    total, whole = 0.0, 0.0
    for found in by_leaf.values():
        shares = [mark.counted for mark in found]
        if None in shares:
            return None
        leaf = found[0].leaf
        factor = 1.0 if leaf.per == "student" else peer
        total += leaf.share * min(1.0, fmean(s for s in shares if s is not None) * factor)
        whole += leaf.share
    return 100 * total / whole if whole else None


def _named(mark: Mark) -> str:
    return " ".join(filter(None, [mark.leaf.path, *mark.target[1:]]))


def _runs(work: Work, card: Card) -> tuple[float, str]:
    assert work.evidence is not None
    if all(row.status == "not attempted" for row in work.rows if not row.extension):
        return 0.0, "no claim is attempted"
    share = share_run(work.evidence, sorted({key for claim in card.at("laptop") for key in claim.reads}))
    told = f"{len(work.evidence.good)} of {len(work.evidence.runs)} hidden seeds ran"
    return share, "; ".join([told, *work.evidence.problems])


def _matches(work: Work, card: Card) -> tuple[float, str]:
    return _over([row for row in work.rows if not row.extension], lambda row: float(bool(row.matches)),
                 "claimed numbers are the re-run's")  # fmt: skip


def _consistent(work: Work, card: Card) -> tuple[float, str]:
    return _over([row for row in work.rows if not row.extension], lambda row: row.consistent or 0.0,
                 "statuses agree with the evidence")  # fmt: skip


def _extension(work: Work, card: Card) -> tuple[float, str]:
    rows = [row for row in work.rows if row.extension]
    if not rows:
        return 0.0, "claims.yml has no extension"
    return _over(rows, lambda row: (float(bool(row.matches)) + (row.consistent or 0.0)) / 2,
                 "hypotheses re-run as claimed")  # fmt: skip


def _over(rows: Iterable[Row], worth: Callable[[Row], float], what: str) -> tuple[float, str]:
    """Average over claims; what was not attempted is worth nothing."""
    found = list(rows)
    total = sum(worth(row) for row in found)
    return total / len(found), f"{total:g} of {len(found)} {what}"


CHECKS: dict[str, Callable[[Work, Card], tuple[float, str]]] = {
    "runs": _runs, "matches": _matches, "consistent": _consistent, "extension": _extension,
}  # fmt: skip
