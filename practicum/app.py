"""The command line's frame: the app that the commands register with, and how they tell errors."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from practicum import PracticumError
from practicum.runs import Interrupted

Root = Annotated[Path, typer.Option(help="The repository.", show_default="this one", resolve_path=True)]
SemesterOption = Annotated[
    Path, typer.Option("--semester", help="The semester's folder.", show_default="the current one", resolve_path=True)
]

COLOURS = {"reproduced": "green", "partly": "yellow", "not reproduced": "red", "not run": "dim"}

ORDER = (
    "init", "papers", "groups", "allot", "start", "check", "submit", "receipt", "rerun", "status", "score", "desk",
    "gradebook", "feedback", "audit", "similar", "demo", "cards", "reproduce", "verdicts",
)  # fmt: skip


class InOrder(TyperGroup):
    """Lists the commands in the order of a semester; those on the papers themselves come last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Sort by ORDER."""
        return sorted(super().list_commands(ctx), key=lambda name: (name not in ORDER, (*ORDER, name).index(name)))


app = typer.Typer(
    cls=InOrder,
    help="Cards, runs and verdicts of the reproductions; and a semester in which groups write their own.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def harmless(text: str) -> str:
    """Blank what could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class Errors:
    """Known errors of one command: each is a line on stderr, and the worst sets the exit code."""

    def __init__(self) -> None:
        self.code = 0

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell a known error and go on after the block."""
        try:
            yield
        except PracticumError as error:
            self._tell(str(error), error.exit_code)
        except KeyboardInterrupt:
            self._tell("interrupted (the same command resumes)", Interrupted.exit_code)
        except BrokenPipeError:  # the reader, such as `head`, has enough
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - or Python tells of it at its end
        except OSError as error:
            self._tell(f"{error} (see that the file can be read and written)", 1)

    def _tell(self, message: str, code: int) -> None:
        typer.echo(harmless(message), err=True)
        self.code = max(self.code, code)

    def exit(self) -> None:
        """Leave with the exit code."""
        raise typer.Exit(self.code)


def plain_table(*columns: str) -> Table:
    """Begin a table whose cells wrap."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table; on a pipe it takes the width it needs, lest ids be cut."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if narrow else 200, highlight=False).print(table)
