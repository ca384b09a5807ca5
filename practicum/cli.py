"""The command line: all commands, in the order of a semester."""

from practicum.app import app
from practicum.commands import science

__all__ = ["app", "main", "science"]


def main() -> None:
    """Run the command line."""
    app(prog_name="practicum")
