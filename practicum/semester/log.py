"""An append-only log in which each line holds the hash of the line before, so that a change shows."""

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import AwareDatetime, ValidationError

from practicum import PracticumError
from practicum.reading import Strict

FIRST = "0" * 64


class LogError(PracticumError):
    """A log whose chain is broken: file, line and what is wrong."""


class Event(Strict):
    """One line: its number from 1, when and by whom it was written, what it says, the hashes before and of it."""

    n: int
    time: AwareDatetime
    who: str
    kind: str
    data: dict[str, Any]
    previous: str
    hash: str = ""

    def digest(self) -> str:
        """Hash all of the event but its own hash; SHA-256 over sorted compact JSON."""
        return sha256(_compact(self.model_dump(mode="json", exclude={"hash"})).encode()).hexdigest()


class Log:
    """A log file; several processes may append at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, kind: str, who: str, data: dict[str, Any], time: datetime | None = None) -> Event:
        """Add a line, on the disk when this returns; LogError if the chain so far is broken."""
        return self.extend([(kind, data)], who, time)[0]

    def extend(
        self, entries: Iterable[tuple[str, dict[str, Any]]], who: str, time: datetime | None = None
    ) -> list[Event]:
        """Add several lines at once: all of them or, after a crash, the first ones."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            self._mend()
            events = self.events()
            last, n, added = events[-1].hash if events else FIRST, len(events), []
            for kind, data in entries:
                at, n = time or datetime.now(UTC), n + 1
                _compact(data)  # ValueError for a NaN, which pydantic would write as null
                event = Event(n=n, time=at, who=who, kind=kind, data=data, previous=last)
                event = Event.model_validate_json(event.model_dump_json())  # as it will be read
                event.hash = last = event.digest()
                added.append(event)
            text = "".join(_compact(event.model_dump(mode="json")) + "\n" for event in added)
            with open(self.path, "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        return added

    def events(self) -> list[Event]:
        """Read the whole log; LogError says where the chain breaks. A line that a crash tore is not counted."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last line's end was never accepted
        found: list[Event] = []
        for n, line in enumerate(lines, 1):
            try:
                event = Event.model_validate_json(line)
            except ValidationError:
                raise self._broken(n, "is no event") from None
            if event.n != n or event.previous != (found[-1].hash if found else FIRST):
                raise self._broken(n, "does not follow the line before: a line was changed, added or removed")
            if event.hash != event.digest():
                raise self._broken(n, f"was changed after {event.who} wrote it on {event.time:%Y-%m-%d %H:%M} UTC")
            found.append(event)
        return found

    def head(self) -> str:
        """Give the last line's hash: who keeps it can show that nothing before was cut off."""
        events = self.events()
        return events[-1].hash if events else FIRST

    def odd(self, event: Event) -> LogError:
        """Say that an event holds what its kind does not."""
        return self._broken(event.n, f"is no {event.kind} as this program writes them, by {event.who!r}")

    def _broken(self, n: int, why: str) -> LogError:
        return LogError(f"{self.path.name}:{n}: {why} (restore the file from a backup; `practicum audit` tells more)")

    def _mend(self) -> None:
        """Put a torn last line aside."""
        if self.path.exists() and (torn := self.path.read_bytes().rpartition(b"\n")[2]):
            with open(self.path, "r+b") as file:
                file.truncate(self.path.stat().st_size - len(torn))


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
