"""Checks of the kernel lab: one layer of the convolutional kernel."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import Wrong, check, compare, tolerance
from phenomena.checks.kernels.shared import Mistakes, kappas, mend_first, two_tensors

Shift = Callable[[Tensor], Tensor]


def _shifted(A: Tensor, a: int, b: int, a_: int, b_: int) -> Tensor:
    """A at (i + a, j + b, i' + a_, j' + b_), zero outside."""
    for axis, by in enumerate((a, b, a_, b_)):
        A = torch.roll(A, -by, axis)
        if by:
            A = A.clone()
            A.narrow(axis, A.shape[axis] - 1 if by > 0 else 0, 1).zero_()
    return A


def _total(shifts: list[tuple[int, int, int, int]]) -> Shift:
    return lambda A: torch.stack([_shifted(A, *by) for by in shifts]).sum(0)


NEAR = list(product((-1, 0, 1), repeat=2))
TOGETHER: Shift = _total([(a, b, a, b) for a, b in NEAR])
OTHER_SHIFTS: list[tuple[Shift, str]] = [
    (lambda A: A, "there is no sum over shifts."),
    (
        lambda A: torch.stack([A.roll((a, b, a, b), (0, 1, 2, 3)) for a, b in NEAR]).sum(0),
        "the shifts wrap around the border: outside the images there are zeros.",
    ),
    (
        _total([(a, b, c, d) for (a, b), (c, d) in product(NEAR, NEAR)]),
        "81 terms, with shifts of their own for both positions: one weight acts on both, so they shift together.",
    ),
    (_total([(a, b, 0, 0) for a, b in NEAR]), "only the position in x is shifted: both shift together."),
    (_total([(0, 0, a, b) for a, b in NEAR]), "only the position in z is shifted: both shift together."),
    (_total([(a, b, -a, -b) for a, b in NEAR]), "the positions shift in opposite directions: both go the same way."),
    (_total([(a, a, b, b) for a, b in NEAR]), "the axes are mixed: 0 and 2 are the rows, 1 and 3 the columns."),
    (lambda A: TOGETHER(A) / 9, "S is a mean of nine terms: it is their sum."),
    (_total([(a, b, a, b) for a, b in NEAR if a * b == 0]), "five shifts: the corners of 3 x 3 belong to it."),
]


def _layer(
    K: Tensor, T: Tensor, v_x: Tensor, v_z: Tensor, S: Shift = TOGETHER, S_T: Shift | None = None, **change: Any
) -> tuple[Tensor, Tensor]:
    """A layer, or what mistakes make of it."""
    variance = v_x.double()[:, :, None, None] * v_z.double()[None, None]
    scale = variance ** change.get("root", 0.5)
    c = torch.where(scale > 0, S(K.double()) / torch.where(scale > 0, scale, 1), 0)
    k0, k1 = (torch.as_tensor(k) for k in kappas(c.numpy()))
    if change.get("swapped"):
        k0, k1 = k1, k0
    T_below = (S_T or S)(T.double())
    K_new = scale * k1 / change.get("ninth", 9)
    added = {"new": K_new, "old": K.double(), "none": 0 * K_new}[change.get("add", "new")]
    return K_new, k0 * T_below / change.get("ninth_T", change.get("ninth", 9)) + added


def _slow_layer(K: Tensor, T: Tensor, v_x: Tensor, v_z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The layer in plain numbers, position by position."""
    H, W = v_x.shape
    K_new, T_new = np.zeros((2, H, W, H, W))
    for i, j, k, m in product(range(H), range(W), range(H), range(W)):
        at = [(i + a, j + b, k + a, m + b) for a, b in NEAR]
        inside = [p for p in at if all(0 <= x < n for x, n in zip(p, (H, W, H, W), strict=True))]
        below_K, below_T = (sum(float(A[p]) for p in inside) for A in (K, T))
        s = math.sqrt(float(v_x[i, j]) * float(v_z[k, m]))
        if s > 0:
            angle = math.acos(min(1.0, max(-1.0, below_K / s)))
            K_new[i, j, k, m] = s * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi / 9
            T_new[i, j, k, m] = (1 - angle / math.pi) / 9 * below_T + K_new[i, j, k, m]
    return K_new, T_new


def _images() -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """K, T, v_x and v_z of a second layer, from images of three channels."""
    rng = torch.Generator().manual_seed(6)
    for name, H, W, dtype in (
        ("images of 4 x 4", 4, 4, torch.float64),
        ("images of 3 x 5", 3, 5, torch.float64),
        ("one row of pixels", 1, 4, torch.float64),
        ("an image with itself, float32", 4, 3, torch.float32),
        ("a black corner", 6, 5, torch.float64),
    ):
        x, z = (torch.randn(3, H, W, generator=rng, dtype=torch.float64) for _ in range(2))
        if "itself" in name:
            z = x
        if "black" in name:
            x[:, :4, :4] = 0
        pairs = [torch.einsum("cij,ckl->ijkl", *pair) for pair in ((x, z), (x, x), (z, z))]
        v_x, v_z = (_diagonal(TOGETHER(K)) for K in pairs[1:])
        K, T = _layer(pairs[0], pairs[0], v_x, v_z)
        v_x, v_z = (_diagonal(TOGETHER(_layer(K, K, v, v)[0])) for K, v in zip(pairs[1:], (v_x, v_z), strict=True))
        yield name, (K.to(dtype), T.to(dtype), v_x.to(dtype), v_z.to(dtype))


def _diagonal(A: Tensor) -> Tensor:
    """A_{ij,ij}, (H, W)."""
    return torch.einsum("ijij->ij", A).clone()


@check(6, minutes=20, praise="a layer of infinitely many channels. Next: three of them, and an average over positions.")
def cntk_layer(answer: Callable[..., object]) -> None:
    """The oracle is a loop over pairs of positions; one image has a corner where everything is 0."""
    with mend_first(answer):
        for name, given, want, for_K, for_T in _layers():
            got = two_tensors(answer(*given), given[0])
            if any(part.isnan().any() for part in got) and "black" in name:
                raise Wrong("NaN where a variance is 0 (a black corner): there c is 0/0, and K and T are 0.")
            compare(got[0], want[0], for_K, f"K, {name}", tolerance(given[0]))
            compare(got[1], want[1], for_T, f"T, {name}", tolerance(given[0]))


@cache  # the loops of the oracle are slow, and always the same
def _layers() -> Sequence[tuple[str, tuple[Tensor, ...], tuple[np.ndarray, np.ndarray], Mistakes, Mistakes]]:
    """What the exercise is given, the right K and T, and what mistakes make of both."""
    found = []
    for name, given in _images():
        K, T, v_x, v_z = given
        want_K, want_T = _slow_layer(*given)
        for_K: Mistakes = [
            *((_layer(*given, S=S)[0], hint) for S, hint in OTHER_SHIFTS),
            (want_T, "the two are swapped: K comes first."),
            (9 * want_K, "K is too large by 9: the mean is over nine terms."),
            (_layer(*given, root=1.0)[0], "the root of the product of the variances is missing."),
            (_layer(*given, root=0.25)[0], "v_x and v_z are variances already: one root of their product."),
            (_layer(*given, swapped=True)[0], "κ0 and κ1 are swapped."),
            (TOGETHER(torch.as_tensor(want_K)), "S comes before κ, on the K that is given, not after it."),
        ]
        if v_x.shape[0] == v_x.shape[1]:
            for_K.append((_layer(K, T, v_z, v_x)[0], "v_x and v_z are swapped: x has the first two axes."))
        for_T: Mistakes = [
            *((_layer(*given, S_T=S)[1], f"in T: {hint}") for S, hint in OTHER_SHIFTS[:2]),
            (_layer(*given, ninth_T=1)[1], "κ0 is to be divided by 9, as κ1 is."),
            (want_K, "that is K twice: T also has a part from below."),
            (_layer(*given, add="old")[1], "the K that is added to T is the new one."),
            (_layer(*given, add="none")[1], "nothing is added to T: the new K is."),
            (_layer(K, K, v_x, v_z)[1], "T comes from K: S is to be applied to T."),
        ]
        found.append((name, given, (want_K, want_T), for_K, for_T))
    return found
