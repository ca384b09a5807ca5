"""A small lab that has all that a lab needs: its source and its checks, to spoil one line at a time."""

import importlib.util
import sys
from pathlib import Path

import pytest

SOURCE = '''# %% [markdown]
# # A lab
#
# Two exercises, about 15
# minutes.

# %%
# %load_ext phenomena.lab
from phenomena.checks import topic as check
from phenomena.lab import summary

SIZE = 3

# %% [markdown]
# ### Exercise 1 ● (5 min)
#
# <details><summary>Hint</summary>Twice is two times.</details>

# %%
def double(x: float) -> float:
    """Twice x, a whole number if x is one."""
    # SOLUTION TODO 1 (double)
    twice_of_it = x * 2
    return twice_of_it
    # END SOLUTION


check.double(double)

# %%
raise ValueError("a cell that takes long, say")

# %% [markdown]
# ### Exercise 2 ●● (10 min)
#
# <details><summary>Hint 1</summary>You have written <code>double</code>.</details>

# %%
def fourfold(x: float) -> float:
    """Four times x."""
    # SOLUTION TODO 2 (fourfold)
    return double(double(x))
    # END SOLUTION


check.fourfold(fourfold)

# %%
summary(check, globals())
'''

CHECKS = '''"""Checks of a lab of two exercises."""

from phenomena.checks import Wrong, check, compare


@check(1, minutes=5, praise="twice as much. Next: four times.")
def double(answer):
    for x in (3.0, -1.5, 0.0):
        compare(answer(x), x + x, [(x * x, "that is the square."), (x / 2, "that is a half.")], f"x = {x}")
    if not isinstance(answer(3), int):
        raise Wrong("it makes a float of a whole number.")


@check(2, minutes=10, praise="four times as much. Next: nothing.")
def fourfold(answer):
    compare(answer(3.0), 12.0, [(9.0, "that is the square."), (6.0, "that is twice."), (3.0, "that is x itself.")])
'''


def write_lab(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str = SOURCE, checks: str = CHECKS) -> Path:
    """Write a lab's source and its checks, phenomena.checks.topic; returns the source's path."""
    file = folder / "topic.py"
    file.write_text(checks, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("phenomena.checks.topic", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "phenomena.checks.topic", module)
    path = folder / "01_topic.py"
    path.write_text(source, encoding="utf-8")
    return path
