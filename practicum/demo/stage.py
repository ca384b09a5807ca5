"""The stage: runs the real commands in the semester's folder, at made-up times, and writes down what they print.

The demonstration plays its own calendar: inside `Stage.at` the modules that ask for the time, the drop folder's clock
among them, are told a made-up one, so that the output is the same on every run. Nothing else is replaced.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from unittest.mock import patch

import typer
from typer.testing import CliRunner

from practicum import PracticumError

CLOCKS = ("gradebook", "log", "grades", "rerun")  # modules of practicum.semester that ask what time it is
WIDE = re.compile(r"[ \t]+$", re.M)


class DemoError(PracticumError):
    """A command that did not end as the play has it."""


class Stage:
    """Runs commands in `folder`, tells what happens, and keeps the transcript of each act."""

    def __init__(self, folder: Path, transcript: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.transcript = transcript.resolve() if transcript else None
        self.seconds: dict[str, float] = {}
        self._lines: list[str] = []

    @contextmanager
    def act(self, name: str, title: str) -> Iterator[None]:
        """Play an act: its commands' output goes to the terminal and into the act's transcript."""
        typer.echo(f"\n== {title} ==")
        self._lines, begin = [], time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin
        typer.echo(f"({self.seconds[name]:.1f} s)")
        if self.transcript and self._lines:
            self.transcript.mkdir(parents=True, exist_ok=True)
            text = WIDE.sub("", "\n".join(self._lines)).rstrip() + "\n"
            (self.transcript / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")

    def tell(self, sentence: str) -> None:
        """Say what happens next."""
        typer.echo(f"\n{sentence}")

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command and show it with what it prints; DemoError unless it ends with this exit code."""
        shown = " ".join(f'"{a}"' if re.search(r"[^\w./,:=@+-]", a) else a for a in arguments)
        output = self.quietly(*arguments, code=code)
        text = f"$ practicum {shown}\n{output.rstrip()}\n"
        typer.echo(WIDE.sub("", text))
        self._lines.append(text)
        return output

    def quietly(self, *arguments: str, code: int = 0) -> str:
        """Run a command and give what it prints, which is shown only if it ends otherwise than it should."""
        from practicum.cli import app

        with chdir(self.folder), patch.dict(os.environ):
            os.environ["COLUMNS"] = "140"  # what the handbook's page can show
            result = CliRunner().invoke(app, list(arguments), prog_name="practicum")
        if result.exit_code != code:
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            told = " ".join(arguments)
            raise DemoError(f"practicum {told}: ended with {result.exit_code}, not {code}:\n{result.output}")
        return result.output

    @contextmanager
    def at(self, moment: str) -> Iterator[None]:
        """Play at a made-up time, UTC."""
        now = datetime.fromisoformat(moment).replace(tzinfo=UTC)

        class Then(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return now.astimezone(tz)

        with ExitStack() as stack:
            stack.enter_context(patch("practicum.semester.drop.clock", lambda drop: now))
            for name in CLOCKS:
                stack.enter_context(patch(f"practicum.semester.{name}.datetime", Then))
            yield
