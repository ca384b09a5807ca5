"""What the desk's pages show: sheets, each a group's work on a paper for a deliverable beside the leaves to score."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from posixpath import splitext
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined

from practicum.semester.desk_files import FIGURES, LostError, file_url, files_of, report
from practicum.semester.drop import Submission, submissions
from practicum.semester.evidence import Evidence
from practicum.semester.grades import Book, Mark, Work
from practicum.semester.rubric import Leaf
from practicum.semester.scores import Score, Target
from practicum.semester.wording import late_words

History = Mapping[tuple[str, Target], list[Score]]
REPORTS = ("report.md", "extension.md")
NOTHING: dict[str, Any] = {"files": [], "reports": [], "figures": [], "pdfs": []}


@dataclass(frozen=True)
class Sheet:
    """One page of the desk: the leaves of a deliverable for a group and a paper, or for a group without a paper."""

    book: Book
    group: str
    deliverable: str
    paper: str
    marks: list[Mark]

    @property
    def url(self) -> str:
        """Where it stands."""
        return "/sheet/" + "/".join(quote(part, safe="") for part in (self.group, self.deliverable, self.paper) if part)

    @property
    def work(self) -> Work | None:
        """What was handed in for it."""
        return self.book.works.get((self.group, self.paper, self.deliverable))

    @property
    def to_score(self) -> int:
        """How many leaves wait for a human."""
        return sum(mark.share is None and not mark.leaf.check for mark in self.marks)

    @property
    def waiting(self) -> int:
        """How many leaves wait for a submission or its re-run."""
        return sum(mark.share is None and bool(mark.leaf.check) for mark in self.marks)

    @property
    def open_words(self) -> str:
        """Say what is missing."""
        told = [f"{self.to_score} to score"] if self.to_score else []
        if self.waiting:
            told.append(f"{self.waiting} computed {'by the re-run' if self.work else 'once it is handed in'}")
        return ", ".join(told)

    @property
    def ready(self) -> bool:
        """Whether a human can and should score it now."""
        return bool(self.to_score and (self.work or not self.paper))

    @property
    def worth(self) -> float:
        """How many percent of the grade it is about; for students' leaves those of each."""
        return sum(self._worth(mark) for mark in self.marks)

    @property
    def got(self) -> float:
        """How many percent of the grade are earned so far; for students' leaves on average."""
        return sum(self._worth(mark) * mark.counted for mark in self.marks if mark.counted is not None)

    def _worth(self, mark: Mark) -> float:
        return 100 * mark.leaf.share / len(self.book.targets(mark.leaf, self.group))


@dataclass(frozen=True)
class Entry:
    """A leaf for one target: its mark, and all its scores."""

    mark: Mark
    label: str
    history: list[Score]
    snapshot: str

    @property
    def id(self) -> str:
        """A name for the page's elements."""
        return "-".join(filter(None, ["leaf", self.mark.leaf.path.replace(".", "-"), self.mark.target[2]]))

    @property
    def n(self) -> int:
        """The number of the last score, withdrawn or not; 0 if there is none."""
        return self.history[-1].n if self.history else 0

    @cached_property
    def score(self) -> Score | None:
        """The score that stands."""
        return self.history[-1] if self.history and self.history[-1].points is not None else None

    @property
    def other_snapshot(self) -> str:
        """The earlier snapshot that the standing score was given for, if it was another one."""
        was = self.score.snapshot if self.score else ""
        return was if was != self.snapshot else ""


def by_target(scored: Iterable[Score]) -> History:
    """Sort scores by leaf and target, each in order."""
    found: dict[tuple[str, Target], list[Score]] = {}
    for score in scored:
        found.setdefault((score.leaf, score.target), []).append(score)
    return found


def sheets(book: Book) -> list[Sheet]:
    """List the pages, by group, deliverable and paper."""
    found = []
    for group in book.groups:
        marks = book.marks(group)
        for name in book.semester.plan.dates:
            for paper in [*book.papers.get(group, []), ""]:
                mine = [mark for mark in marks if mark.leaf.due == name and mark.target[1] == paper]
                if mine:
                    found.append(Sheet(book, group, name, paper, mine))
    return found


def entry(book: Book, history: History, leaf: Leaf, target: Target) -> Entry:
    """Gather what there is of one leaf and target."""
    names = {student.id: student.name for student in book.groups[target[0]].students}
    work = book.works.get((target[0], target[1], leaf.due))
    label = f"{names[target[2]]} ({target[2]})" if target[2] else ""
    return Entry(book.mark(leaf, target), label, history.get((leaf.path, target), []),
                 work.submission.snapshot if work else "")  # fmt: skip


def totals(book: Book, sheet: Sheet) -> dict[str, Any]:
    """Gather what the totals' panel shows."""
    return {
        "book": book, "sheet": sheet,
        "students": [(student, book.grade(sheet.group, student.id)) for student in book.groups[sheet.group].students],
        "rated": bool(book.ratings.get(sheet.group)),
    }  # fmt: skip


def start_view(book: Book, open_first: bool, deliverable: str) -> dict[str, Any]:
    """Gather what the start page shows."""
    every = sheets(book)
    shown = [sheet for sheet in every if deliverable in ("", sheet.deliverable)]
    if open_first:
        shown.sort(key=lambda sheet: (not sheet.ready, not sheet.to_score, not sheet.waiting))
    progress = []
    for name in book.semester.plan.dates:
        here = [mark for sheet in every if sheet.deliverable == name for mark in sheet.marks]
        if here:
            progress.append((name, sum(mark.share is not None for mark in here), len(here)))
    return {"book": book, "sheets": shown, "progress": progress, "open_first": open_first, "deliverable": deliverable}


def sheet_view(book: Book, sheet: Sheet, history: History) -> dict[str, Any]:
    """Gather what a sheet's page shows."""
    leaves: dict[str, list[Entry]] = {}
    for mark in sheet.marks:
        leaves.setdefault(mark.leaf.path, []).append(entry(book, history, mark.leaf, mark.target))
    every = sheets(book)
    at = next(i for i, one in enumerate(every) if one.url == sheet.url)
    around = [*every[at + 1 :], *every[:at]]
    like = [one for one in around if one.deliverable == sheet.deliverable and one.ready]
    handed = [s for s in submissions(book.semester.drop)
              if (s.group, s.paper, s.deliverable) == (sheet.group, sheet.paper, sheet.deliverable)]  # fmt: skip
    have = {
        "leaves": [(found[0].mark.leaf, found) for found in leaves.values()],
        "same_group": [one for one in every if one.group == sheet.group],
        "next_open": like[0] if like else None,
        "earlier": [(s, _files(book, s.snapshot)) for s in reversed(handed[:-1])],
        "peer": book.semester.plan.peer, "rubric": book.semester.plan.rubric_hash,
        "evidence": sheet.work.evidence if sheet.work else None,
    }  # fmt: skip
    return have | totals(book, sheet) | _handed_in(book, sheet)


def _handed_in(book: Book, sheet: Sheet) -> dict[str, Any]:
    """Gather a submission's files: reports, figures that no report shows, and the list of all."""
    if sheet.work is None:
        return NOTHING | {"lost": ""}
    drop, snapshot = book.semester.drop, sheet.work.submission.snapshot
    try:
        files = files_of(drop, snapshot)
        first = "extension.md" if any(mark.leaf.check == "extension" for mark in sheet.marks) else "report.md"
        names = sorted((name for name in REPORTS if name in files), key=lambda name: name != first)
        reports = [(name, report(drop, snapshot, name)) for name in names]
    except LostError as error:
        return NOTHING | {"lost": str(error)}
    figures = [path for path in files if splitext(path)[1].lower() in FIGURES]
    shown = "".join(text for _, text in reports)
    figures = [path for path in figures if f'src="{file_url(snapshot, path)}"' not in shown]
    listed = _files(book, snapshot)
    pdfs = [file for file in listed if file[0].lower().endswith(".pdf")]
    return {"files": listed, "lost": "", "reports": reports, "figures": figures, "pdfs": pdfs}


def _files(book: Book, snapshot: str) -> list[tuple[str, int, str]]:
    try:
        found = files_of(book.semester.drop, snapshot).values()
    except LostError:
        return []
    return [(file.path, file.bytes, file_url(snapshot, file.path)) for file in found]


def rerun_state(work: Work | None) -> str:
    """Say in a few words how the re-run went."""
    if work is None:
        return ""
    if work.evidence is None:
        return "not re-run"
    return f"{len(work.evidence.good)} of {len(work.evidence.runs)} seeds, {isolation(work.evidence)}"


def isolation(evidence: Evidence) -> str:
    """Say how the re-run was isolated."""
    return {"bubblewrap": "isolated", "unsafe-local": "not isolated"}.get(evidence.how, evidence.how)


def late(book: Book, s: Submission) -> str:
    """Say how late a submission was."""
    return late_words(book.semester.plan.due(s.deliverable, s.group), s.received, book.semester.plan.late)


def templates() -> Environment:
    """Make the pages' templates; what they are given is escaped."""
    made = Environment(loader=PackageLoader("practicum", "templates/desk"), undefined=StrictUndefined, autoescape=True,
                       trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    made.filters["percent"] = lambda value: "open" if value is None else f"{value:.1f}"
    made.globals |= {function.__name__: function for function in (rerun_state, isolation, late, when, file_url)}
    return made


def when(book: Book, at: datetime, pattern: str = "%Y-%m-%d %H:%M") -> str:
    """Write a time as clocks show it where the semester is."""
    return at.astimezone(ZoneInfo(book.semester.plan.timezone)).strftime(pattern)
