"""Scores as events: who gave what for which leaf, why, under which rubric, of which snapshot. The last one counts."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field, FiniteFloat, ValidationError

from practicum import choices
from practicum.reading import Strict
from practicum.semester.log import Event, Log
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.rerun import score_log
from practicum.semester.rubric import Leaf

Target = tuple[str, str, str]  # group, paper or "", student or ""


@dataclass(frozen=True)
class Score:
    """A leaf's points for one target, line `n` of the log; None points: withdrawn, as if never given."""

    n: int
    time: datetime
    who: str
    leaf: str
    target: Target
    points: float | None
    reason: str
    rubric: str
    snapshot: str
    of: int  # the most points that the leaf had then


class Said(Strict):
    """What a line of the log says."""

    leaf: str
    group: str
    paper: str
    student: str
    points: FiniteFloat | None
    reason: str
    rubric: str
    snapshot: str
    of: Annotated[int, Field(gt=0)]


def find_leaf(semester: Semester, path: str) -> Leaf:
    """Find a leaf by its path, or by its last part where that is the only such; SemesterError if there is none."""
    named = [leaf for leaf in semester.leaves if path == leaf.path or leaf.path.endswith(f".{path}")]
    exact = [leaf for leaf in named if leaf.path == path] or named
    if len(exact) != 1:
        why = "is in several places" if exact else "is no leaf of the rubric"
        paths = [leaf.path for leaf in exact or semester.leaves]
        short = not exact and "." not in path
        raise SemesterError(f"{path!r} {why} ({choices(path, [p.rpartition('.')[2] if short else p for p in paths])})")
    return exact[0]


def check_target(
    leaf: Leaf, target: Target, papers: dict[str, list[str]], students: dict[str, list[str]]
) -> None:
    """Compare whom a score is for with what the leaf is per; SemesterError with the mend."""
    group, paper, student = target
    if group not in papers:
        raise SemesterError(f"no group {group!r} has papers ({choices(group, papers)})")
    if (leaf.per == "paper") != bool(paper):
        told = "give --paper" if leaf.per == "paper" else "leave --paper away"
        raise SemesterError(f"{leaf.path} is scored per {leaf.per} ({told})")
    if (leaf.per == "student") != bool(student):
        told = "give --student" if leaf.per == "student" else "leave --student away"
        raise SemesterError(f"{leaf.path} is scored per {leaf.per} ({told})")
    if paper and paper not in papers[group]:
        raise SemesterError(f"{group}: is not allotted {paper!r} ({choices(paper, papers[group])})")
    if student and student not in students.get(group, []):
        raise SemesterError(f"{group}: has no student {student!r} ({choices(student, students.get(group, []))})")


def score(
    semester: Semester, who: str, leaf: Leaf, target: Target, points: float | None, reason: str, snapshot: str = ""
) -> Event:
    """Append a score, or its withdrawal (points None); SemesterError if it is out of range or lacks a reason.

    On a machine leaf it overrides what the machine computed, as a share from 0 to 1.
    """
    if points is not None and not 0 <= points <= leaf.points:
        raise SemesterError(f"{leaf.path}: {points:g} is not from 0 to {leaf.points} (correct the points)")
    if not reason.strip():
        raise SemesterError(f"{leaf.path}: the reason is missing (one sentence that the group will read)")
    if not who.strip():
        raise SemesterError("who scores is missing (give --who)")
    said = Said(
        leaf=leaf.path, group=target[0], paper=target[1], student=target[2], points=points, reason=reason.strip(),
        rubric=semester.plan.rubric_hash, snapshot=snapshot, of=leaf.points,
    )  # fmt: skip
    return score_log(semester).append("score", who.strip(), said.model_dump())


def scores(semester: Semester) -> list[Score]:
    """List all scores, in order; LogError if the log's chain is broken."""
    log = score_log(semester)
    return [_score(log, event) for event in log.events() if event.kind == "score"]


def _score(log: Log, event: Event) -> Score:
    try:
        d = Said.model_validate(event.data)
    except ValidationError:
        raise log.odd(event) from None
    target = (d.group, d.paper, d.student)
    return Score(event.n, event.time, event.who, d.leaf, target, d.points, d.reason, d.rubric, d.snapshot, d.of)


def standing(semester: Semester) -> dict[tuple[str, Target], Score]:
    """Fold the log: the last score of each leaf and target, withdrawn ones left out."""
    last = {(s.leaf, s.target): s for s in scores(semester)}
    return {key: s for key, s in last.items() if s.points is not None}
