"""Checks of the SGD-noise lab: a step that is shortened along some directions."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import Wrong, check, compare, of_kind, tolerance
from phenomena.checks.sgd_noise.shared import Mistakes, rotation


def _steps() -> Iterator[tuple[str, Tensor, Tensor, float, float]]:
    rng = torch.Generator().manual_seed(6)
    g, Q = torch.randn(6, generator=rng, dtype=torch.float64), rotation(6, rng)
    yield "two directions of six, γ = 0.3", g, Q[:, :2], 0.4, 0.3
    yield "three directions of six, γ = 2", g, Q[:, 3:], 0.1, 2.0
    yield "one direction, γ = 0", g, Q[:, :1], 0.4, 0.0
    yield "γ = 1", g, Q[:, :2], 0.4, 1.0
    yield "float32", g.float(), Q[:, 1:4].float(), 0.2, 0.1


@check(6, minutes=10, praise="one step size for the steep directions, another for the rest. Next: where does λ₁ go?")
def nudged_step(answer: Callable[..., Tensor]) -> None:
    """The oracle splits the gradient by least squares on the directions."""
    for name, g, E, eta, gamma in _steps():
        got = of_kind(answer(g, E, eta, gamma), g)
        x, e = g.double().numpy(), E.double().numpy()
        parts = np.linalg.lstsq(e, x, rcond=None)[0]
        along = e @ parts
        rest, first = x - along, e[:, 0] * parts[0]
        if got.shape == (E.shape[1],):
            raise Wrong("these are the coordinates along the directions: the step has all p parameters.")
        mistakes: Mistakes = [
            (eta * (rest + gamma * along), "uphill: a step goes against the gradient."),
            (rest + gamma * along, "that is the gradient, nudged: the step is -η times it."),
            (-(rest + gamma * along), "η is missing."),
            (-eta * x, "that is SGD's step: nothing is nudged."),
            (-eta * gamma * x, "all directions are nudged: only those in `vectors` are."),
            (-eta * (x - gamma * along), "γ and 1 - γ are mixed up: γ = 1 is SGD."),
            (-eta * rest, "the part along the directions is dropped: γ of it stays."),
            (-eta * gamma * along, "the rest of the gradient is missing: it is not nudged, but it is there."),
            (-eta * (gamma * rest + along), "the other directions are nudged: γ belongs to those in `vectors`."),
            (-eta * (x - (1 - gamma) * first), "only the first direction is nudged: all columns of `vectors` are."),
            (
                -eta * (x - (1 - gamma) * e.sum(1)),
                "the directions are subtracted, not the gradient's parts along them.",
            ),
            *(
                (-eta * x + s * (1 - gamma) * along, "η is missing in the second part: it multiplies both.")
                for s in (1, -1)
            ),
            (-eta * (1 - gamma) * along, "that is what is taken away: subtract it from the gradient first."),
            (-eta * (x + gamma * along), "γ times the part is added to it: γ = 1 is SGD."),
            (-eta * (x + (1 - gamma) * along), "the sign of 1 - γ: a small γ makes the step along them shorter."),
        ]
        compare(got, -eta * (rest + gamma * along), mistakes, name, tolerance(g))
