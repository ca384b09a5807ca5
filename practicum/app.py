"""The command line's frame: the app that the commands register with, and how they tell errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from practicum import PracticumError
from practicum.runs import Interrupted

Root = Annotated[Path, typer.Option(help="The repository.", show_default="this one", resolve_path=True)]

app = typer.Typer(
    help="Cards, runs and verdicts of the reproductions; and a semester in which groups write their own.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
        except OSError as error:
            self._tell(f"{error} (see that the file can be read and written)", 1)

    def _tell(self, message: str, code: int) -> None:
        typer.echo(message, err=True)
        self.code = max(self.code, code)

    def exit(self) -> None:
        """Leave with the exit code."""
        raise typer.Exit(self.code)
