"""The command line: importing a module of commands registers them."""

from practicum.app import app
from practicum.commands import catalogue, demo, desk, grading, groupwork, people, reports, science

__all__ = ["app", "catalogue", "demo", "desk", "grading", "groupwork", "main", "people", "reports", "science"]


def main() -> None:
    """Run the command line."""
    app(prog_name="practicum")
