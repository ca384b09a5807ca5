"""How a lab's exercise is checked: fresh inputs, an independent oracle, and a hint for each typical mistake.

A check says which TODO is open, what a wrong value is like, or that it is right and what to look at next. It never
says the answer and never reads the solution. `solutions/README.md` says how to write one.
"""

import copy
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


class Wrong(Exception):  # noqa: N818
    """An answer is wrong; the message is the hint."""


class _Open(Exception):  # noqa: N818
    """An answer, or one that it calls, is not written yet; the message is the TODO."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: its status, and the line that the student reads."""

    exercise: str
    status: Literal["open", "wrong", "right"]
    message: str

    @property
    def mark(self) -> str:
        """The status as a sign."""
        return {"open": "⬜", "wrong": "❌", "right": "✅"}[self.status]

    def __repr__(self) -> str:
        return f"{self.mark} {self.exercise}{' is right' if self.status == 'right' else ''}: {self.message}"


@dataclass(frozen=True)
class Check:
    """The check of one exercise: called with the student's function, it returns a `Verdict`."""

    number: int
    minutes: int
    praise: str
    test: Callable[[Callable[..., Any]], None]

    @property
    def name(self) -> str:
        """The name of the function that the student writes."""
        return self.test.__name__

    def __call__(self, answer: Any) -> Verdict:
        """Judge a student's function; whatever it returns or raises becomes one line."""
        try:
            if not callable(answer):
                given = type(answer).__name__
                raise Wrong(f"the check takes the function itself, check.{self.name}({self.name}), not its {given}.")
            self.test(_watched(answer))
        except _Open as err:
            todo = str(err) or f"exercise {self.number}"
            own = todo == f"exercise {self.number}" or todo.startswith(f"TODO {self.number} ")
            return Verdict(self.name, "open", f"{todo} is open." if own else f"it waits for {todo}, which is open.")
        except Wrong as err:
            return Verdict(self.name, "wrong", str(err))
        except Exception as err:  # a student shall not read a traceback of the check
            return Verdict(self.name, "wrong", f"the check cannot read what it returns ({_line(err)}).")
        return Verdict(self.name, "right", self.praise)


def check(number: int, *, minutes: int, praise: str) -> Callable[[Callable[..., None]], Check]:
    """Make a function that raises `Wrong` for a wrong answer into the check of the exercise of its name.

    `praise` is what the student reads when it is right: what that means, and "Next: ...", what to look at now.
    """
    return lambda test: Check(number, minutes, praise, test)


def exercises(checks: ModuleType) -> list[Check]:
    """The checks of a lab, in the order of its exercises."""
    return sorted((x for x in vars(checks).values() if isinstance(x, Check)), key=lambda check: check.number)


def is_open_todo(err: BaseException) -> bool:
    """Whether an error is an exercise not yet done, and not torch's own NotImplementedError."""
    return isinstance(err, NotImplementedError) and (not str(err) or str(err).startswith("TODO"))


# What a function may use up or train: it goes in as it is. All else goes in as a copy, so that a change shows.
_TO_BE_USED = (torch.Generator, np.random.Generator, torch.nn.Module)


def _watched(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The student's function, on inputs of its own, its errors turned into hints and its inputs compared after."""

    def call(*inputs: Any) -> Any:
        given = [x if isinstance(x, _TO_BE_USED) else copy.deepcopy(x) for x in inputs]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # a warning is no failure, even where filters make errors of them
                got = answer(*given)
        except Exception as err:
            if is_open_todo(err):
                raise _Open(*err.args) from None
            frames = [f for f in traceback.extract_tb(err.__traceback__) if f.name == getattr(answer, "__name__", "")]
            at = f", at `{frames[-1].line}`" if frames and frames[-1].line else ""
            raise Wrong(f"it stopped with {_line(err)}{at}.") from err
        if any(
            isinstance(x, Tensor) and x.requires_grad and not y.requires_grad
            for x, y in zip(given, inputs, strict=True)
        ):
            raise Wrong(
                "it makes one of its inputs require a gradient: take a copy, `x.detach().clone().requires_grad_()`."
            )
        if not _same(inputs, tuple(given)):
            raise Wrong("it changes one of its inputs in place (`*=`, `.sort()`, ...): make a new one.")
        if got is None:
            raise Wrong("it returns nothing: is there a `return`?")
        return got

    return call


def _line(err: Exception) -> str:
    """An error as one line."""
    first = str(err).strip().split("\n")[0].rstrip(".")
    return f"{type(err).__name__}: {first}" if first else type(err).__name__


def _same(before: Any, after: Any) -> bool:
    """Whether inputs are what they were: tensors, arrays (NaN equals NaN), and lists, tuples and dicts of them."""
    if type(before) is not type(after):
        return False
    if isinstance(before, Tensor | np.ndarray):
        if before.shape != after.shape or before.dtype != after.dtype:
            return False
        return bool(((before == after) | ((before != before) & (after != after))).all())
    if isinstance(before, dict):
        return list(before) == list(after) and all(_same(before[key], after[key]) for key in before)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_same, before, after))
    return not isinstance(before, int | float | str) or before == after or before != before


def samples(n: int, d: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Standard normal inputs X (n, d) with their names: plain, and what a quick answer forgets."""
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    yield f"{n} samples of {d} features", X
    yield f"{n} samples of {d} features, not contiguous", torch.randn(d, n, generator=generator, dtype=X.dtype).T
    yield f"{n} samples of {d} features, float32", torch.randn(n, d, generator=generator)
    yield "one sample", torch.randn(1, d, generator=generator, dtype=X.dtype)


def relabelled(y: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Class labels y (n,) from 0 under other names, for exercises in which labels are names and no indices."""
    yield "labels from 0", y
    yield "labels from 3", y + 3
    yield "labels from -1, with gaps", 3 * y - 1


def tolerance(X: Tensor) -> float:
    """The relative error of a right answer at most, for inputs of this precision."""
    return 1e-3 if X.dtype == torch.float32 else 1e-6


def used_by(answer: Callable[..., object]) -> Mapping[str, object]:
    """The student's own functions, and all other global names, that an answer uses."""
    student = inspect.getclosurevars(answer).nonlocals.get("answer", answer)  # a check is given a wrapper
    return inspect.getclosurevars(student).globals if inspect.isfunction(student) else {}


def of_kind(got: Any, like: Tensor | np.ndarray, *, dtype: bool = True) -> Any:
    """Return `got` if it is a tensor (array) as `like` is, of its dtype unless `dtype` is False; else raise `Wrong`."""
    if not isinstance(got, type(like)):
        raise Wrong(f"it returns a {type(got).__name__}, the contract says {type(like).__name__}.")
    if dtype and got.dtype != like.dtype:
        raise Wrong(f"its dtype is {got.dtype}, the contract says {like.dtype}, as the input's.")
    if isinstance(got, Tensor) and isinstance(like, Tensor) and got.requires_grad and not like.requires_grad:
        raise Wrong("it returns a tensor that still requires a gradient: the contract says plain values.")
    return got


def compare(got: Any, want: Any, mistakes: Iterable[tuple[Any, str]] = (), where: str = "", rtol: float = 1e-5) -> None:
    """Raise `Wrong` unless `got` is `want` up to rtol; a value that a typical mistake gives gets its hint.

    `mistakes` are pairs: the value that a mistake gives on the same input, and its hint. Lists, arrays and tensors of
    any real dtype count alike: call `of_kind` first where the contract is stricter.
    """
    at = f" ({where})" if where else ""
    try:
        got = _array(got)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"it returns a {type(got).__name__} that is no array of real numbers{at}.") from None
    want = _array(want)
    if got.shape != want.shape:
        swapped = "the axes are swapped: " if got.ndim > 1 and got.shape == want.shape[::-1] else ""
        raise Wrong(f"{swapped}the shape is {got.shape}, the contract says {want.shape}{at}.")
    if np.isnan(got[~np.isnan(want)]).any() or np.isinf(got[np.isfinite(want)]).any():
        raise Wrong(f"it gives infinite or NaN values{at}: which division, logarithm or root is of zero or less?")
    if _close(got, want, rtol):
        return
    for value, hint in mistakes:
        value = _array(value)
        if value.shape == got.shape and _close(got, value, 1e-4):
            raise Wrong(hint)
    raise Wrong(f"{_likeness(got, want, rtol)}{at}.")


def _likeness(got: np.ndarray, want: np.ndarray, rtol: float) -> str:
    """What a wrong value that is no typical mistake is like."""
    finite = np.isfinite(want)
    if not np.isfinite(got[finite]).all() or np.isfinite(got[~finite]).any():
        return "it is finite where the right value is not"
    got, want = got[finite], want[finite]
    if not got.any():
        return "every value is 0"
    if got.size > 1 and want.any():
        factor = float(got @ want) / float(want @ want)
        if _close(got, -want, rtol):
            return "every sign is turned round"
        if factor and _close(got, factor * want, rtol):
            return f"every value is {factor:.3g} times the right one"
        if _close(np.sort(got), np.sort(want), rtol):
            return "these are the right values in another order"
    percent = 100 * float(np.linalg.norm(got - want) / (np.linalg.norm(want) or 1.0))
    return f"the values are off by {percent:{'.2g' if percent < 10 else ',.0f'}} % of the right ones' size"


def _close(a: np.ndarray, b: np.ndarray, rtol: float) -> bool:
    """Whether a is b up to rtol of the size of b; infinities and NaN must agree."""
    return np.allclose(a, b, rtol=rtol, atol=rtol * np.abs(b[np.isfinite(b)]).max(initial=0), equal_nan=True)


def _array(value: Any) -> np.ndarray:
    """Real numbers as a float64 array; TypeError or ValueError for anything else."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.numpy() if value.is_complex() else value.double().numpy()
    elif isinstance(value, list | tuple):
        value = [_array(x) for x in value]
    value = np.asarray(value)
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{value.dtype} is no real number")
    return value.astype(float)
