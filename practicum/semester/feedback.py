"""What a group reads at the end: one page a group, and one a student that has the individual marks besides.

A page shows what the group wrote itself, the graders' reasons, and the re-run's means and deviations over the hidden
seeds, rounded, of the card's claims. It never shows a seed, one seed's values, what a program printed, or the tolerance
of a number; nor the means of extensions, of which a group could invent enough to spell its seeds. Texts that a program
chooses (its keys, its messages) are replaced by the kind of failure. The few means of the card's own claims could still
carry a part of the seeds; each deliverable has others, so they are of no use by then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from practicum import choices
from practicum.results import write_whole
from practicum.semester.gradebook import Heads, cut, heads
from practicum.semester.grades import Book, Mark, Work
from practicum.semester.plan import SemesterError
from practicum.semester.rerun import hidden_seeds
from practicum.semester.wording import claim_words, late_words, rerun_words, scrubber

CLAIM_CHECKS = ("runs", "matches", "consistent")


@dataclass(frozen=True)
class Line:
    """A leaf's marks as a group reads them; `got` of `worth` percent of the grade, None while incomplete."""

    title: str
    points: str
    worth: float
    got: float | None
    reason: str
    who: str

    @property
    def earned(self) -> str:
        """Both in words."""
        return f"{'open' if self.got is None else f'{self.got:.2f}'} of {self.worth:.2f} %"


@dataclass
class Part:
    """What there is on one paper for one deliverable, or without a paper."""

    title: str
    received: str = ""
    rerun: str = ""
    claims: list[dict[str, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A deliverable: when it was due, and its parts."""

    title: str
    due: str
    parts: list[Part]


@dataclass(frozen=True)
class Frame:
    """What all pages share: the template, which hides the hidden seeds, the heads of the logs, and an option."""

    template: Template
    heads: Heads
    graders: bool = False

    @classmethod
    def of(cls, book: Book, graders: bool = False) -> "Frame":
        """Make the frame of a semester's pages; `graders`: they name who scored."""
        made = Environment(loader=PackageLoader("practicum", "templates"), undefined=StrictUndefined, autoescape=True,
                           trim_blocks=True, lstrip_blocks=True, finalize=scrubber(hidden(book)))  # fmt: skip
        return cls(made.get_template("feedback.html.j2"), heads(book.semester), graders)


def write(book: Book, groups: Iterable[str] | None = None, graders: bool = False) -> list[Path]:
    """Write the pages of these groups, or of all, into the semester's feedback folder; give their paths."""
    chosen = list(book.groups if groups is None else groups)
    if unknown := [group for group in chosen if group not in book.groups]:
        raise SemesterError(f"no group {unknown[0]!r} ({choices(unknown[0], book.groups)})")
    written, frame = [], Frame.of(book, graders)
    for group in chosen:
        for student in [None, *book.students[group]]:
            path = page_path(book, group, student)
            write_whole(path, page(book, frame, group, student))
            written.append(path)
    return written


def page_path(book: Book, group: str, student: str | None = None) -> Path:
    """Where a page stands; a matriculation number may hold what no file name can."""
    name = group if student is None else f"{group}-{quote(student, safe='')}"
    return book.semester.feedback / f"{name}.html"


def all_paths(book: Book) -> set[Path]:
    """List where the pages of all groups and students stand."""
    return {page_path(book, group, student) for group in book.groups for student in [None, *book.students[group]]}


def page(book: Book, frame: Frame, group: str, student: str | None = None) -> str:
    """Write a group's page, or that of one of its students with the individual marks."""
    team, now, graders = book.groups[group], frame.heads, frame.graders
    marks = [mark for mark in book.marks(group, student) if student or mark.leaf.per != "student"]
    lines = {id(mark): _line(book, mark, graders) for mark in marks}
    grade = book.grade(group, student) if student else None
    peer = ""
    if grade and book.ratings.get(group):
        applied = "it is applied to the group's parts" if book.semester.plan.peer.apply else "it is not applied"
        peer = f"{grade.peer:.2f}; {applied}"
    summary = []
    for node in book.semester.plan.rubric:
        mine = [lines[id(mark)] for mark in marks if mark.leaf.path.split(".")[0] == node.id]
        worth = sum(line.worth for line in mine)
        percent = grade.parts[node.id] if grade else _sum(mine)
        if mine:
            earned = percent if not grade or percent is None else percent * worth / 100
            told = "open" if earned is None else _percent(earned)
            summary.append((node.title, _percent(worth), told))
    have = {
        "plan": book.semester.plan, "group": group, "given": team.given if team.given != group else "",
        "names": [s.name for s in team.students], "student": next((s for s in team.students if s.id == student), None),
        "summary": summary, "grade": grade, "peer": peer, "sections": list(_sections(book, group, marks, lines)),
        "total": _percent(grade.total) if grade and grade.total is not None else "",
        "seeds": str(book.semester.plan.seeds.hidden), "heads": now, "written": _time(book, now.date),
    }  # fmt: skip
    return frame.template.render(have)


def hidden(book: Book) -> set[int]:
    """Gather the hidden seeds of all papers and deliverables, and those that re-runs took."""
    papers = {paper for papers in book.papers.values() for paper in papers}
    drawn = {seed for paper in papers for name in book.semester.plan.dates
             for seed in hidden_seeds(book.semester, paper, name)}  # fmt: skip
    taken = {run.seed for work in book.works.values() if work.evidence for run in work.evidence.runs}
    return drawn | taken - set(book.semester.plan.seeds.public)


def _sections(book: Book, group: str, marks: list[Mark], lines: dict[int, Line]) -> Iterator[Section]:
    plan = book.semester.plan
    for name in plan.dates:
        here = [mark for mark in marks if mark.leaf.due == name]
        checks: set[str | None] = {mark.leaf.check for mark in here}
        parts = []
        for paper in book.papers.get(group, []):
            mine = [lines[id(mark)] for mark in here if mark.target[1] == paper]
            work = book.works.get((group, paper, name))
            if mine:
                parts.append(_part(book, group, paper, name, work, checks, mine))
        for title, student in (("The group", False), ("You", True)):
            mine = [lines[id(m)] for m in here if not m.target[1] and bool(m.target[2]) == student]
            if mine:
                parts.append(Part(title, lines=mine))
        if parts:
            due = plan.due(name, group)
            told = " (extended for this group)" if due != plan.dates[name] else ""
            yield Section(name, _time(book, due) + told, parts)


def _part(
    book: Book, group: str, paper: str, deliverable: str, work: Work | None, checks: set[str | None], lines: list[Line]
) -> Part:
    part = Part(book.cards[paper].title, lines=lines)
    if work is None:
        early = book.now < book.semester.plan.due(deliverable, group)
        part.received = "Nothing was received yet." if early else "Nothing was received."
        return part
    s = work.submission
    due = book.semester.plan.due(deliverable, s.group)
    part.received = (
        f"Received on {_time(book, s.received)}, {late_words(due, s.received, book.semester.plan.late)}; "
        f"snapshot {s.short}."
    )
    part.rerun = rerun_words(work.evidence)
    if work.claims is None:
        part.rerun += f" claims.yml cannot be read: {work.problem}"
    kept = [row for row in work.rows
            if ("extension" in checks if row.extension else not checks.isdisjoint(CLAIM_CHECKS))]  # fmt: skip
    part.claims = [claim_words(row, work.evidence) for row in kept]
    return part


def _line(book: Book, mark: Mark, graders: bool) -> Line:
    leaf, machine = mark.leaf, mark.by == "machine"
    worth = 100 * leaf.share / (1 if leaf.per == "student" else len(book.targets(leaf, mark.target[0])))
    if mark.share is None:
        return Line(leaf.title, "not scored yet", worth, None, mark.reason if leaf.check else "", "")
    points = f"{100 * mark.share:.0f} %" if leaf.check else f"{mark.share * leaf.points:g} of {leaf.points}"
    late = "" if mark.late == 1 else f" × {mark.late:g} (late)"
    work, reason = book.works.get((mark.target[0], mark.target[1], leaf.due)), mark.reason
    if machine and leaf.check == "runs" and work and work.evidence and work.claims:
        reason = rerun_words(work.evidence)  # the machine's reason quotes what programs printed
    if leaf.check and not machine and mark.computed is not None:
        reason += f" (set by hand; the re-run gives {100 * mark.computed:.0f} %)"
    who = mark.by if graders and not machine else ""
    return Line(leaf.title, points + late, worth, worth * (mark.counted or 0), reason, who)


def _sum(lines: list[Line]) -> float | None:
    found = [line.got for line in lines]
    return None if None in found else sum(got for got in found if got is not None)


def _percent(value: float) -> str:
    return f"{cut(value):.2f}".rstrip("0").rstrip(".") + " %"


def _time(book: Book, at: datetime) -> str:
    zone = ZoneInfo(book.semester.plan.timezone)
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M} ({book.semester.plan.timezone})"
