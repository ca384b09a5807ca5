"""The audit: both logs' chains, the snapshots and re-runs that they name, and who changed what and when.

A chain alone shows no cut tail. What each log says of the other does, and so do the heads that gradebooks and
feedback pages carry: a head that the chain no longer has means that lines were cut off or written anew.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from practicum.semester.chains import Chain, read_chain, target
from practicum.semester.drop import LOG, DropError, Submission, intact, manifest, snapshot_hash, snapshot_path, verify
from practicum.semester.gradebook import Heads, heads_path
from practicum.semester.log import Event
from practicum.semester.plan import Semester
from practicum.semester.rerun import rerun_folder, score_log, tampered

FOOTER = re.compile(r'data-scores="([0-9a-f]{12,64})" data-drop="([0-9a-f]{12,64})"')


@dataclass(frozen=True)
class Change:
    """A score event beside the one that it replaces."""

    line: int
    time: str
    who: str
    leaf: str
    group: str
    paper: str
    student: str
    old: float | None
    new: float | None
    reason: str
    override: bool  # of what the machine computes
    old_rubric: bool


@dataclass(frozen=True)
class Audit:
    """What was found: problems make it fail, notes do not."""

    problems: list[str]
    notes: list[str]
    changes: list[Change]
    unsafe: list[str]  # re-runs without isolation
    heads: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Put it into JSON's types."""
        return asdict(self)


def audit(semester: Semester, kept: Iterable[str] = (), receipts: bool = False) -> Audit:
    """Verify a semester; `kept` are heads of either log that someone wrote down, `receipts`: also those in the kits."""
    drop, scores = read_chain(semester.drop / LOG), read_chain(score_log(semester).path)
    problems = [*drop.problems, *scores.problems]
    problems += _snapshots(semester, drop)
    problems += _reruns(semester, drop, scores)
    problems += _anchors(semester, drop, scores, kept)
    if receipts:
        problems += _receipts(semester)
    accepted = {event.data.get("snapshot") for event in drop.events}
    there = semester.drop / "snapshots"
    spare = sorted(path.name for path in there.iterdir() if path.name not in accepted) if there.is_dir() else []
    notes = [*drop.notes, *scores.notes]
    told = "no line accepts it (a submission that was cut short, or a line that is gone)"
    notes += [f"drop/snapshots/{name[:12]}: {told}" for name in spare]
    heads = {"scores": scores.heads[-1], "submissions": drop.heads[-1]}
    return Audit(list(dict.fromkeys(problems)), notes, changes(semester, scores.events), _unsafe(scores), heads)


def changes(semester: Semester, events: Iterable[Event]) -> list[Change]:
    """List all score events, by leaf and target and then in order, each with the points before."""
    machine = {leaf.path for leaf in semester.leaves if leaf.check}
    order = {leaf.path: i for i, leaf in enumerate(semester.leaves)}
    scored = [event for event in events if event.kind == "score"]
    scored.sort(key=lambda event: (order.get(event.data.get("leaf", ""), len(order)), _key(event), event.n))
    found = []
    for (leaf, group, paper, student), same in groupby(scored, _key):
        old = None
        for event in same:
            new, time = event.data.get("points"), f"{event.time:%Y-%m-%d %H:%M} UTC"
            older = event.data.get("rubric") != semester.plan.rubric_hash
            found.append(Change(event.n, time, event.who, leaf, group, paper, student, old, new,
                                str(event.data.get("reason", "")), leaf in machine, older))  # fmt: skip
            old = new
    return found


def _key(event: Event) -> tuple[str, str, str, str]:
    leaf, group, paper, student = (str(event.data.get(name, "")) for name in ("leaf", "group", "paper", "student"))
    return leaf, group, paper, student


def _submissions(chain: Chain, kind: str) -> Iterator[Submission]:
    """Give the submissions that lines of this kind name."""
    for event in chain.events:
        if event.kind == kind:
            named = {name: str(event.data.get(name, "")) for name in ("group", "paper", "deliverable", "snapshot")}
            yield Submission(**named, received=event.time, n=event.n)


def _snapshots(semester: Semester, drop: Chain) -> Iterator[str]:
    """Find accepted snapshots that are gone or changed, or hold files that no manifest counts."""
    seen: set[str] = set()
    for s in _submissions(drop, "submit"):
        if s.snapshot in seen:
            continue
        seen.add(s.snapshot)
        where = f"drop/snapshots/{s.short} ({s.group} {s.paper} {s.deliverable})"
        folder = snapshot_path(semester.drop, s.snapshot)
        if intact(semester.drop, s.snapshot):
            continue
        with suppress(DropError, OSError):
            counted = manifest(folder)
            added = sorted({file.path for file in manifest(folder, whole=True)} - {file.path for file in counted})
            if added and snapshot_hash(counted) == s.snapshot:
                yield f"{where}: holds {added[0]}, which was not handed in (remove it)"
                continue
        yield f"{where}: is {'not what was handed in' if folder.is_dir() else 'gone'} (restore it from a backup)"


def _reruns(semester: Semester, drop: Chain, scores: Chain) -> Iterator[str]:
    """Find evidence that is not what was logged, or not logged, and lines on submissions that no line accepts."""
    if not scores.problems:
        yield from (f"{name}: the re-run's evidence is not what was logged (`practicum rerun --force`)"
                    for name in tampered(semester))  # fmt: skip
    accepted = {(s.group, s.paper, s.deliverable, s.snapshot) for s in _submissions(drop, "submit")}
    known = set()
    for s in _submissions(scores, "rerun"):
        known.add(rerun_folder(semester, s).name)
        if (s.group, s.paper, s.deliverable, s.snapshot) not in accepted:
            told = f"{s.group} {s.paper} {s.deliverable} {s.short}"
            yield f"drop/{LOG}: no line accepts what private/{scores.name}:{s.n} re-ran: {told} (lines were cut off)"
    snapshots = {key[3] for key in accepted}
    for event in scores.events:
        snapshot = event.data.get("snapshot")
        if event.kind == "score" and snapshot and snapshot not in snapshots:
            told = f"private/{scores.name}:{event.n} scores"
            yield f"drop/{LOG}: no line accepts the snapshot that {told} (lines were cut off)"
    for path in sorted((semester.private / "reruns").glob("*/evidence.json")):
        if path.parent.name not in known:
            told = "no line logs this evidence (lines were cut off, or a crash came first: `practicum rerun --force`)"
            yield f"private/reruns/{path.parent.name}: {told}"


def _anchors(semester: Semester, drop: Chain, scores: Chain, kept: Iterable[str]) -> Iterator[str]:
    """Look up every head that was written somewhere in the chain that it should be in."""
    found: list[tuple[str, Chain, str]] = []
    sidecar = heads_path(semester.gradebook)
    if sidecar.is_file():
        try:
            heads = Heads.model_validate_json(sidecar.read_bytes())
            found += [(sidecar.name, scores, heads.scores), (sidecar.name, drop, heads.drop)]
        except ValidationError:
            yield f"{sidecar.name}: cannot be read (`practicum gradebook` writes it anew)"
    for page in sorted(semester.feedback.glob("*.html")):
        if carried := FOOTER.search(page.read_text(encoding="utf-8", errors="replace")):
            found += [(f"feedback/{page.name}", scores, carried[1]), (f"feedback/{page.name}", drop, carried[2])]
    for where, chain, head in found:
        if not any(one.startswith(head) for one in chain.heads):
            yield f"{where}: has the head {head[:12]}, which {chain.name} has no more (lines were cut off or rewritten)"
    for head in kept:
        if len(head) < 12 or not any(one.startswith(head.lower()) for one in scores.heads + drop.heads):
            told = "is no head of either log (lines were cut off or rewritten)" if len(head) >= 12 else "is too short"
            yield f"--head {head}: {told}"


def _receipts(semester: Semester) -> Iterator[str]:
    for path in sorted(semester.kits.glob("*/*/receipts/*.json")):
        try:
            verify(path, semester.drop)
        except DropError as error:
            yield f"{path.relative_to(semester.folder).as_posix()}: {error}"
        except Exception as error:  # the log itself is broken, which is told above
            yield f"{path.relative_to(semester.folder).as_posix()}: cannot be verified: {error}"


def _unsafe(scores: Chain) -> list[str]:
    """Name the re-runs that stand and were made without isolation."""
    last = {target(event): event.data.get("how") for event in scores.events if event.kind == "rerun"}
    return [name for name, how in last.items() if how == "unsafe-local"]
