"""Checks of the robustness lab: the displacements of a random smooth deformation."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import check, compare, of_kind, tolerance
from phenomena.checks.robustness.shared import Mistakes

Weight = Callable[[int, int, int], float]  # of i, j and the cut c


def _rounded(i: int, j: int, c: int) -> float:
    """The standard deviation of C_ij at T = 1."""
    return 1 / math.hypot(i, j) if i * i + j * j <= c * c else 0.0


def _series(
    Z: Tensor,
    n: int,
    weight: Weight = _rounded,
    wave: Callable[[float], float] = math.sin,
    place: Callable[[int, int], float] = lambda k, n: k / (n - 1),
    first: int = 1,
) -> np.ndarray:
    """The series at every pixel, term by term, or what another weight, wave, grid or first mode makes of it."""
    c = len(Z)
    waves = [[wave(math.pi * i * place(k, n)) for i in range(first, c + first)] for k in range(n)]
    z = Z.tolist()
    terms = [(i, j, weight(i + 1, j + 1, c) * z[i][j]) for i in range(c) for j in range(c)]
    return np.array([[sum(a * u[i] * v[j] for i, j, a in terms) for v in waves] for u in waves])


def _draws() -> Iterator[tuple[str, Tensor, int]]:
    rng = torch.Generator().manual_seed(6)
    for name, c, n, dtype in (
        ("cut 5, 7 pixels a side", 5, 7, torch.float64),
        ("cut 2, 4 pixels a side", 2, 4, torch.float64),
        ("cut 3, 6 pixels a side, float32", 3, 6, torch.float32),
        ("more modes than pixels", 6, 3, torch.float64),
    ):
        yield name, torch.randn(c, c, generator=rng, dtype=torch.float64).to(dtype), n
    yield "not contiguous", torch.randn(4, 4, generator=rng, dtype=torch.float64).T, 5


def _others(Z: Tensor, n: int) -> Mistakes:
    """What typical mistakes give in exercise 6."""
    right = _series(Z, n)
    return [
        (_series(Z.T, n), "the axes are mixed: i belongs to u, the first axis, in Z and in the image."),
        (
            _series(Z, n, lambda i, j, c: 1 / math.hypot(i, j)),
            "the corner of the square of modes is in it: the cut is round, i² + j² <= c².",
        ),
        (
            _series(Z, n, lambda i, j, c: _rounded(i, j, c) if i * i + j * j < c * c else 0),
            "the modes on the circle, i² + j² = c², belong to it.",
        ),
        (
            _series(Z, n, lambda i, j, c: 1 / math.hypot(i, j) if math.hypot(i, j) < c + 0.5 else 0),
            "modes a little beyond the cut are in it: it is i² + j² <= c².",
        ),
        (_series(Z, n, lambda i, j, c: float(_rounded(i, j, c) > 0)), "all modes are equally strong: divide by r."),
        (
            _series(Z, n, lambda i, j, c: _rounded(i, j, c) ** 2),
            "1/r² is the variance of C: its standard deviation multiplies Z.",
        ),
        (_series(Z, n, lambda i, j, c: _rounded(i, j, c) * (i == j)), "only i = j is in it: each i goes with each j."),
        (_series(Z, n, wave=math.cos), "cosines move the frame: it is to stay where it is."),
        (_series(Z, n, wave=lambda x: math.sin(x / math.pi)), "π is missing: the last pixel does not stay."),
        (_series(Z, n, wave=lambda x: math.sin(2 * x)), "2π is one wave: the first mode is half of one."),
        (_series(Z, n, first=0), "the modes begin at 0 in the sines: i and j start at 1."),
        (_series(Z, n, place=lambda k, n: k / n), "pixel k lies at k/n: then the last one is not on the frame."),
        (_series(Z, n, place=lambda k, n: (k + 0.5) / n), "pixel k lies at (k + 1/2)/n: it is at k/(n - 1)."),
        ((n - 1) * right, "that is in pixels: it is to be in parts of the image's side."),
    ]


@check(6, minutes=15, praise="smooth, random, and the frame stays. Next: deform a digit with two of them.")
def displacement(answer: Callable[..., Tensor]) -> None:
    """The oracle adds up the series term by term, pixel by pixel."""
    for name, Z, n in _draws():
        got = of_kind(answer(Z, n), Z)
        # the rounding of sin(kπ) is no mistake: it is small beside the rest
        compare(got, _series(Z, n), _others(Z, n), name, tolerance(Z))
