"""How a lab's exercise is checked: fresh inputs, an independent oracle, and a hint for each typical mistake.

A check says which TODO is open, what a wrong value is like, or that it is right and what to look at next. It never
says the answer and never reads the solution.
"""

import copy
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import numpy as np
import torch


class Wrong(Exception):  # noqa: N818
    """An answer is wrong; the message is the hint."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: its status, and the line that the student reads."""

    exercise: str
    status: Literal["open", "wrong", "right"]
    message: str

    def __repr__(self) -> str:
        mark = {"open": "⬜", "wrong": "❌", "right": "✅"}[self.status]
        return f"{mark} {self.exercise}: {self.message}"


def is_open_todo(err: BaseException) -> bool:
    """Whether an error is an exercise not yet done, and not torch's own NotImplementedError."""
    return isinstance(err, NotImplementedError) and (not str(err) or str(err).startswith("TODO"))


def check(todo: str, praise: str) -> Callable[[Callable[..., None]], Callable[..., Verdict]]:
    """Make a function that raises `Wrong` for a wrong answer into a check that returns a `Verdict`."""

    def decorate(test: Callable[..., None]) -> Callable[..., Verdict]:
        @wraps(test)
        def run(answer: Callable[..., Any]) -> Verdict:
            try:
                test(_watched(answer))
            except NotImplementedError:
                return Verdict(test.__name__, "open", f"{todo} is open.")
            except Wrong as err:
                return Verdict(test.__name__, "wrong", str(err))
            return Verdict(test.__name__, "right", praise)

        return run

    return decorate


def _watched(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The student's function, on inputs of its own, its errors turned into hints and its inputs compared after."""

    def call(*inputs: Any) -> Any:
        # a generator is the one input that is to be used up: it goes in as it is
        given: list[Any] = [x if isinstance(x, torch.Generator) else copy.deepcopy(x) for x in inputs]
        try:
            got = answer(*given)
        except Exception as err:
            if is_open_todo(err):
                raise NotImplementedError(*err.args) from None
            frames = [f for f in traceback.extract_tb(err.__traceback__) if f.name == getattr(answer, "__name__", "")]
            line = f", at `{frames[-1].line}`" if frames and frames[-1].line else ""
            raise Wrong(f"it stopped with {type(err).__name__}: {err}{line}.") from err
        for before, after in zip(inputs, given, strict=True):
            if isinstance(before, torch.Tensor | np.ndarray) and not (
                before.shape == after.shape and bool((before == after).all())
            ):
                raise Wrong("it changes one of its inputs in place (`*=`, `/=`, ...): make a new array.")
        if got is None:
            raise Wrong("it returns nothing: is there a `return`?")
        return got

    return call


def of_kind(got: Any, like: torch.Tensor | np.ndarray) -> Any:
    """Return `got` if it is a tensor (array) of the dtype of `like`; raise `Wrong` if not."""
    if not isinstance(got, type(like)):
        raise Wrong(f"it returns a {type(got).__name__}, the contract says {type(like).__name__}.")
    if got.dtype != like.dtype:
        raise Wrong(f"its dtype is {got.dtype}, the contract says {like.dtype}, as the input's.")
    return got


def compare(got: Any, want: Any, mistakes: Iterable[tuple[Any, str]], where: str = "", rtol: float = 1e-5) -> None:
    """Raise `Wrong` unless `got` is `want` up to rtol; a value that a typical mistake gives gets its hint.

    `mistakes` are pairs: the value that a mistake gives on the same input, and its hint.
    """
    at = f" ({where})" if where else ""
    try:
        got = _array(got)
    except (TypeError, ValueError):
        raise Wrong(f"it returns a {type(got).__name__} that is no array of numbers{at}.") from None
    want = _array(want)
    if got.shape != want.shape:
        raise Wrong(f"the shape is {got.shape}, the contract says {want.shape}{at}.")
    if not np.isfinite(got).all():
        raise Wrong(f"it gives infinite or NaN values{at}: which division can be by zero?")
    if np.allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max(initial=0)):
        return
    for value, hint in mistakes:
        value = _array(value)
        if value.shape == got.shape and np.allclose(got, value, rtol=1e-4, atol=1e-4 * np.abs(value).max(initial=0)):
            raise Wrong(hint)
    off = np.linalg.norm(got - want) / (np.linalg.norm(want) or 1.0)
    raise Wrong(f"the values are off by {100 * off:.2g} % of the right ones' size{at}.")


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=float)
