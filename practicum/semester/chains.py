"""A log read past whatever is wrong with it, so that the audit can say all of it; `Log.events` stops at the first."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from practicum.semester.log import FIRST, Event


@dataclass(frozen=True)
class Chain:
    """A log as far as it can be read: its events, and what is wrong, a line each."""

    name: str
    events: list[Event]
    problems: list[str]
    notes: list[str]

    @property
    def heads(self) -> list[str]:
        """The hash of every line, that of the empty log first."""
        return [FIRST, *(event.hash for event in self.events)]


def read_chain(path: Path) -> Chain:
    """Read a log line by line past whatever is wrong, and say what that is."""
    chain = Chain(path.name, [], [], [])
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    before = FIRST
    for n, line in enumerate(lines[:-1], 1):
        where = f"{path.parent.name}/{path.name}:{n}"
        try:
            event = Event.model_validate_json(line)
        except ValidationError:
            chain.problems.append(f"{where}: is no event (it was changed)")
            before = ""
            continue
        whose = f"of {event.who}, {event.time:%Y-%m-%d %H:%M} UTC ({event.kind} {target(event)})"
        if event.hash != event.digest():
            chain.problems.append(f"{where}: was changed after it was written: line {whose}")
        if before and event.previous != before:
            told = "it, or the line before, was changed, added, removed or moved"
            chain.problems.append(f"{where}: does not follow line {n - 1}: {told}: line {whose}")
        elif event.n != n:
            chain.problems.append(f"{where}: says that it is line {event.n}: line {whose}")
        chain.events.append(event)
        before = event.hash
    if lines[-1]:
        chain.notes.append(f"{path.parent.name}/{path.name}:{len(lines)}: a torn line, never accepted (a crash; it is "
                           "left out, and the next line written puts it aside)")  # fmt: skip
    return chain


def target(event: Event) -> str:
    """Name what an event is about."""
    named = ("leaf", "group", "paper", "student", "deliverable")
    return " ".join(str(event.data[name]) for name in named if event.data.get(name))
