"""Graded reproductions: the cards of papers, runs of their programs, verdicts on their claims."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class PracticumError(Exception):
    """A mistake that we know: one line a problem, each with its mend, and the exit code it leads to."""

    exit_code = 1


def choices(name: str, there: Iterable[str], most: int = 20) -> str:
    """Say what `name` may have been meant to be, and what there is."""
    names = sorted(there)
    near = get_close_matches(name, names, n=1)
    listed = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"there are: {listed or 'none'}"
