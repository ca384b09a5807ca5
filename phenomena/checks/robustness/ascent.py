"""Checks of the robustness lab: projected gradient ascent."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phenomena.checks import Wrong, check, compare, of_kind, tolerance
from phenomena.checks.robustness.shared import (
    OUTSIDE,
    Each,
    Mistakes,
    lengths,
    losses,
    model_left_alone,
    networks,
    slopes,
)


class _Hill(NamedTuple):
    """What the exercise is given, and the slopes of `each`, independent of autograd."""

    each: Each
    slope: Callable[[Tensor], Tensor]
    X: Tensor
    steepest: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    a: float
    steps: int
    model: nn.Module


def _hills() -> Iterator[tuple[str, _Hill]]:
    rng = torch.Generator().manual_seed(3)
    X, centre, weight = torch.rand(3, 5, 4, generator=rng, dtype=torch.float64)
    X[:, ::2] = X[:, ::2].round()  # black and white pixels, next to tops that lie outside the box
    centre, weight = 2 * centre - 0.5, 0.3 + 2 * weight

    def hill(Z: Tensor, rows: int = 5) -> Tensor:
        return -(weight[:rows].to(Z) * (Z - centre[:rows].to(Z)) ** 2).sum(1)

    def slope(Z: Tensor) -> Tensor:
        return -2 * weight[: len(Z)] * (Z - centre[: len(Z)])

    small, round_ball = (_unit, partial(_ball, eps=0.2)), (_unit, partial(_ball, eps=0.35))
    cube = torch.sign, lambda d: d.clamp(-0.15, 0.15)
    yield "a small ball, long steps", _Hill(hill, slope, X, *small, 0.3, 3, nn.Identity())
    yield "a round ball", _Hill(hill, slope, X, *round_ball, 0.12, 6, nn.Identity())
    yield "a cube", _Hill(hill, slope, X, *cube, 0.06, 5, nn.Identity())
    yield "one step", _Hill(hill, slope, X, *round_ball, 0.5, 1, nn.Identity())
    yield "one input, float32", _Hill(partial(hill, rows=1), slope, X[:1].float(), *round_ball, 0.12, 4, nn.Identity())
    _, model, images, y, _ = networks()[1]
    loss = losses(model, y)
    climb = partial(slopes, loss)

    def each(Z: Tensor) -> Tensor:
        return cross_entropy(model(Z), y, reduction="none")

    yield "images and a network", _Hill(each, climb, images, *round_ball, 0.12, 4, model)


def _ball(d: Tensor, eps: float) -> Tensor:
    return d * (eps / lengths(d.detach()).clamp_min(eps)).to(d)


def _unit(g: Tensor) -> Tensor:
    return g / lengths(g.detach()).clamp_min(1e-300).to(g)


def _ascend(hill: _Hill, how: str = "") -> tuple[Tensor, Tensor]:
    """The end and the trace of an ascent in float64, or what a mistake makes of it."""
    X, project = hill.X.double(), hill.project
    steps = {"more": hill.steps + 1, "fewer": hill.steps - 1, "once": 1}.get(how, hill.steps)
    at, heights = X, []
    for _ in range(steps):
        heights.append(float(hill.each(at).detach().mean()))
        g = hill.slope(X if how == "frozen" else at)
        step = hill.a * (g if how == "raw" else hill.steepest(g))
        delta = at - X + (-step if how == "down" else step)
        if how == "forgets":
            delta = step
        if how == "clip first":
            at = X + project((X + delta).clamp(0, 1) - X)
            continue
        centre = {"moves": at, "zero": 0 * X}.get(how, X)
        at = X + delta if how in ("free", "late") else centre + project(X + delta - centre)
        at = at if how == "unclipped" else at.clamp(0, 1)
    if how == "late":
        at = (X + project(at - X)).clamp(0, 1)
    return at, torch.tensor([*heights, float(hill.each(at).detach().mean())])


OTHER_ASCENTS = {
    "down": "the loss falls from step to step: the attack climbs.",
    "raw": "`steepest` is not used: a step is `a` times the steepest direction, whatever the size of the gradient.",
    "free": "the perturbation is never projected: it leaves the ball.",
    "late": "projected once, after the last step: it is to be done after every step.",
    "zero": "the ball lies around 0: project the difference from X, not the image.",
    "moves": "the ball moves along with the image: it stays around X.",
    "frozen": "every step takes the gradient at X: take it where the attack is now.",
    "forgets": "each step starts at X again: it goes on from where the last one ended.",
    "unclipped": OUTSIDE,
    "clip first": "clipped before it is projected: first project, then clip.",
    "more": "there is a step too many.",
    "fewer": "there is a step too few.",
    "once": "that is one step alone: is there a loop, and does it end before the `return`?",
}


@check(3, minutes=20, praise="many small steps. Next: are they stronger than one large one?")
def pgd(answer: Callable[..., Any]) -> None:
    """The oracle climbs hills whose slopes are known, and those of a network by differences."""
    for name, hill, want, mistakes in _climbed():
        X = hill.X
        with model_left_alone(hill.model):
            got = answer(hill.each, X, hill.steepest, hill.project, hill.a, hill.steps)
            if not isinstance(got, tuple | list) or len(got) != 2:
                raise Wrong(f"it returns a {type(got).__name__}, the contract says two tensors.")
            end, trace = (of_kind(part, X) for part in got)
            if trace.shape == X.shape:
                raise Wrong("the two are swapped: the attacked inputs come first.")
            again = answer(hill.each, X, hill.steepest, hill.project, hill.a, hill.steps)[0]
            if end.isfinite().all() and not torch.equal(end, again):
                raise Wrong("a second call gives another result: the attack starts at X, not at a random point.")
            compare(end, want[0], mistakes, f"the inputs, {name}", tolerance(X))
            on_trace: Mistakes = [
                (len(X) * want[1], "the trace is a sum over the inputs: it is their mean."),
                (want[1].roll(-1), "the trace lacks its start: it begins with the loss at X."),
            ]
            compare(trace, want[1], on_trace, f"the trace, {name}", tolerance(X))


@cache  # the ascents are always the same
def _climbed() -> Sequence[tuple[str, _Hill, tuple[Tensor, Tensor], Mistakes]]:
    """Hills, their right ends and traces, and what mistakes make of the ends."""
    found = []
    for name, hill in _hills():
        end, trace = _ascend(hill)
        mistakes: Mistakes = [(_ascend(hill, how)[0], hint) for how, hint in OTHER_ASCENTS.items()]
        mistakes.append((end - hill.X.double(), "that is the perturbation alone: add it to X."))
        found.append((name, hill, (end, trace.detach()), mistakes))
    return found
