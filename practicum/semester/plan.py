"""A semester's plan, `semester.yml`: dates, limits, policies and rubric; and where its files stand."""

from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from practicum import PracticumError, choices
from practicum.cards import Text
from practicum.reading import Loc, PlacedError, Strict, read
from practicum.results import write_whole
from practicum.semester.rubric import Leaf, Node, leaves

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
PLAN = "semester.yml"


class SemesterError(PracticumError):
    """A semester's folder that does not serve, in one line with the mend."""


def _all_differ(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("has a seed twice (write different ones)")
    return seeds


def _a_date(value: Any) -> Any:
    """Refuse a number, which would count seconds from 1970."""
    if isinstance(value, int | float):
        raise ValueError(f"{value!r} is no date (write one such as 2027-06-04 23:59)")
    return value


Date = Annotated[datetime, BeforeValidator(_a_date)]


class Seeds(Strict):
    """The seeds that groups run themselves, and how many hidden ones a re-run takes."""

    public: Annotated[list[Seed], Field(min_length=5), AfterValidator(_all_differ)] = [0, 1, 2, 3, 4]
    hidden: Annotated[int, Field(ge=5)] = 6  # one more than a verdict needs: one may fail


class SubmissionLimits(Strict):
    """What a snapshot may hold: how many files, megabytes a file and in all, endings of names."""

    files: Count = 200
    file_mb: Annotated[FiniteFloat, Field(gt=0)] = 10
    total_mb: Annotated[FiniteFloat, Field(gt=0)] = 50
    types: list[str] = [
        ".py", ".md", ".yml", ".json", ".csv", ".txt", ".png", ".jpg", ".svg", ".pdf", ".ipynb", ".tex", ".bib",
    ]  # fmt: skip


class RunLimits(Strict):
    """What one seed of a re-run may take; its time is the card's budget times `slack`, its memory the card's."""

    slack: Annotated[FiniteFloat, Field(ge=1)] = 3
    processes: Count = 64
    file_mb: Annotated[FiniteFloat, Field(gt=0)] = 100
    folder_mb: Annotated[FiniteFloat, Field(gt=0)] = 200
    output_kb: Annotated[FiniteFloat, Field(gt=0)] = 1000
    keys: Count = 1000


class Limits(Strict):
    """Limits of submissions and of runs."""

    submission: SubmissionLimits = SubmissionLimits()
    run: RunLimits = RunLimits()


class Late(Strict):
    """After the grace each day that has begun costs `per_day` of the marks, for at most `max_days`; then all."""

    grace_hours: Annotated[FiniteFloat, Field(ge=0)] = 2
    per_day: Share = 0.1
    max_days: Annotated[int, Field(ge=0)] = 3

    def factor(self, due: datetime, received: datetime) -> float:
        """Give the factor on the marks of what was received then."""
        over = received - due - timedelta(hours=self.grace_hours)
        if over <= timedelta(0):
            return 1.0
        days = -(-over // timedelta(days=1))  # a day that has begun counts
        return 0.0 if days > self.max_days else max(0.0, 1 - self.per_day * days)


class Extension(Strict):
    """A later date for one group, with the reason, which only the lecturer sees."""

    group: Text
    deliverable: Text
    until: Date
    reason: Text


class Peer(Strict):
    """The peer factor, own rating over the team's mean within these bounds; shown, and applied if so said."""

    apply: bool = False
    least: Share = 0.8
    most: Annotated[FiniteFloat, Field(ge=1)] = 1.05


class Plan(Strict):
    """All that a lecturer decides."""

    title: Text
    timezone: str = "Europe/Berlin"
    dates: Annotated[dict[Text, Date], Field(min_length=1)]
    group_size: Count = 3
    papers_per_group: Count = 2
    capacity: dict[str, Annotated[int, Field(ge=0)]] = {}
    seeds: Seeds = Seeds()
    limits: Limits = Limits()
    late: Late = Late()
    extensions: list[Extension] = []
    peer: Peer = Peer()
    rubric: Annotated[list[Node], Field(min_length=1)]
    gradebook: dict[Text, Text] = {}  # column of the university's system -> what stands in it
    grades: dict[Text, Annotated[FiniteFloat, Field(ge=0, le=100)]] = {}  # grade -> from which percentage on

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{name!r} is no time zone (write one such as Europe/Berlin)") from None
        return name

    @model_validator(mode="after")
    def _joins(self, info: ValidationInfo) -> "Plan":
        found: list[tuple[Loc, str]] = []
        zone = ZoneInfo(self.timezone)
        self.dates = {name: _at(date, zone) for name, date in self.dates.items()}
        for extension in self.extensions:
            extension.until = _at(extension.until, zone)
        for i, node in enumerate(self.rubric):
            found += [(("rubric", i, *loc), why) for loc, why in node.problems(self.dates)]
        names = [node.id for node in self.rubric]
        found += [(("rubric", i, "id"), f"{name!r} is taken (rename it)") for i, name in enumerate(names)
                  if name in names[:i]]  # fmt: skip
        for i, extension in enumerate(self.extensions):
            if extension.deliverable not in self.dates:
                told = choices(extension.deliverable, self.dates)
                found.append((("extensions", i, "deliverable"), f"{extension.deliverable!r} has no date ({told})"))
        if found:
            raise PlacedError(*found)
        return self

    @property
    def rubric_hash(self) -> str:
        """Name the rubric's present state; 16 hexadecimal digits."""
        text = "\n".join(node.model_dump_json() for node in self.rubric)
        return sha256(text.encode()).hexdigest()[:16]

    def due(self, deliverable: str, group: str) -> datetime:
        """Give a group's date for a deliverable, extensions counted."""
        if deliverable not in self.dates:
            raise SemesterError(f"no deliverable {deliverable!r} ({choices(deliverable, self.dates)})")
        later = [e.until for e in self.extensions if (e.group, e.deliverable) == (group, deliverable)]
        return max([self.dates[deliverable], *later])


class Public(Strict):
    """The part of the plan that a group's commands need; `drop/plan.yml`, and a copy in each kit."""

    title: Text
    timezone: str
    dates: dict[Text, AwareDatetime]
    later: dict[str, dict[str, AwareDatetime]] = {}  # deliverable -> group -> its own date, without the reason
    groups: dict[str, list[str]] = {}  # group -> its papers
    seeds: list[int]
    limits: Limits
    late: Late

    def due(self, deliverable: str, group: str) -> datetime:
        """Give a group's date for a deliverable."""
        return self.later.get(deliverable, {}).get(group, self.dates[deliverable])


class Semester:
    """A semester's folder: its plan, and where everything stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        if not (self.folder / PLAN).is_file():
            raise SemesterError(f"{folder}: holds no {PLAN} (`practicum init {folder}` writes one, or give --semester)")
        self.plan = read(self.folder / PLAN, Plan, self.folder)
        self.students = self.folder / "students.csv"  # the matching system's export
        self.groups = self.folder / "groups.csv"
        self.wishes = self.folder / "wishes.csv"
        self.allotment = self.folder / "allotment.csv"
        self.peers = self.folder / "peers.csv"
        self.kits = self.folder / "kits"
        self.drop = self.folder / "drop"  # snapshots and their log: groups' commands write here
        self.private = self.folder / "private"  # the secret, the re-runs, the scores' log: graders alone
        self.feedback = self.folder / "feedback"
        self.gradebook = self.folder / "gradebook.csv"
        self._publish()

    @cached_property
    def leaves(self) -> list[Leaf]:
        """The rubric's leaves, in its order."""
        return leaves(self.plan.rubric)

    def public(self) -> Public:
        """Select what groups may see."""
        p = self.plan
        later: dict[str, dict[str, datetime]] = {}
        for e in p.extensions:
            later.setdefault(e.deliverable, {})[e.group] = p.due(e.deliverable, e.group)
        return Public(title=p.title, timezone=p.timezone, dates=p.dates, later=later, groups=self.papers(),
                      seeds=p.seeds.public, limits=p.limits, late=p.late)  # fmt: skip

    def papers(self) -> dict[str, list[str]]:
        """List each group's papers, as allotment.csv has them; none before there is one."""
        if not self.allotment.is_file():
            return {}
        from practicum.semester.tables import read_table  # a module above this one

        names = {name: [name] for name in ("group", "paper")}
        table = read_table(self.allotment, names, [["group"], ["paper"]], "`practicum allot` writes it")
        table.done()
        found: dict[str, list[str]] = {}
        for row in table.rows:
            found.setdefault(row["group"], []).append(row["paper"])
        return found

    def _publish(self) -> None:
        """Keep `drop/plan.yml` as the plan says, so that a change of dates reaches the groups' commands."""
        text, path = dump(self.public().model_dump(mode="json")), self.drop / "plan.yml"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)


def dump(value: Any) -> str:
    """Write YAML in the order given."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)


def _at(date: datetime, zone: ZoneInfo) -> datetime:
    return date if date.tzinfo else date.replace(tzinfo=zone)
