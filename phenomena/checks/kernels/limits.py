"""Checks of the kernel lab: the kernel of an infinitely wide network, from an angle."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from phenomena.checks import Wrong, check, compare, of_kind, samples, tolerance
from phenomena.checks.kernels.shared import Mistakes, kappas, mend_first, two_tensors

# 1: the arc-cosine kernels


@cache
def _by_quadrature(c: float) -> tuple[float, float]:
    """κ0 and κ1 as integrals over the direction φ of w in the plane of the two inputs, whose angle is θ.

    u = r cos φ and v = r cos(φ - θ) with E r² = 2, and both are positive for φ from θ - π/2 to π/2.
    """
    theta = math.acos(min(1.0, max(-1.0, c)))
    ends = theta - math.pi / 2, math.pi / 2
    share = quad(lambda phi: 1 / math.pi, *ends)[0]
    return share, quad(lambda phi: 2 / math.pi * math.cos(phi) * math.cos(phi - theta), *ends)[0]


@check(1, minutes=10, praise="one angle gives both. Next: is κ1(1) = 1, and why must it be?")
def arc_cosine(answer: Callable[..., object]) -> None:
    """The oracle integrates over the directions of the weights; some cosines lie outside [-1, 1] by rounding."""
    rng = torch.Generator().manual_seed(1)
    for name, c in (
        ("c from -1 to 1", torch.linspace(-1, 1, 9, dtype=torch.float64)),
        ("a matrix, not contiguous", 2 * torch.rand(4, 3, generator=rng, dtype=torch.float64).T - 1),
        ("float32", torch.linspace(-0.9, 0.95, 6)),
        ("one number", torch.tensor(0.3, dtype=torch.float64)),
        ("c = 1 and -1 up to rounding", torch.tensor([1 + 4e-16, 1 - 2e-16, -1 - 4e-16], dtype=torch.float64)),
        ("c = 1 and -1 up to rounding, float32", torch.tensor([1.0000001, -1.0000001, 0.5])),
    ):
        got = two_tensors(answer(c), c)
        if any(part.isnan().any() for part in got) and (c.abs() > 1).any():
            raise Wrong(f"NaN ({name}): rounding leaves cosines a little outside [-1, 1], where no arccos is defined.")
        k0, k1 = np.array([_by_quadrature(x) for x in c.double().flatten().tolist()]).T.reshape(2, *c.shape)
        c64 = c.double().clamp(-1, 1).numpy()
        root = np.sqrt(1 - c64**2)
        mistakes = [
            (k1, "the two are swapped: κ0 comes first."),
            (k0 / 2, "κ0 is half of what it should be: it is twice the probability."),
            (1 - k0, "κ0 grows with the angle: of equal inputs it must be 1."),
            ((1 + c64) / 2, "κ0 is a straight line in c: it is one in the angle, whose cosine is c."),
            (np.pi * k0, "κ0 is still an angle: which part of the half circle is it?"),
            (1 - np.rad2deg(np.arccos(c64)) / np.pi, "the angle is in degrees, and π in radians."),
            (2 * k0, "κ0 is twice what it should be: of equal inputs it must be 1."),
        ]
        compare(got[0], k0, mistakes, f"κ0, {name}", tolerance(c))
        mistakes = [
            (c64 * k0, "κ1 lacks the root: for inputs at a right angle it is not 0."),
            (np.pi * k1, "κ1 is too large by π: of equal inputs it must be 1."),
            (k1 / 2, "κ1 is half of what it should be: it is twice the mean."),
            (2 * k1, "κ1 is twice what it should be: of equal inputs it must be 1."),
            (c64 * k0 + root, "the root in κ1 is not divided by π, as the rest is."),
            (c64 * k0 + root**2 / np.pi, "in κ1 stands a root of 1 - c²."),
            (c64 * k0 - root / np.pi, "κ1 becomes negative: the root has the wrong sign."),
            (c64 * (1 - k0) + root / np.pi, "in κ1 is the angle itself, where κ0 has π minus the angle."),
            ((root - c64 * np.arccos(c64)) / np.pi, "κ1 lacks a term: its derivative is not κ0, but κ0 - 1."),
        ]
        compare(got[1], k1, mistakes, f"κ1, {name}", tolerance(c))


# 2: the kernel of an infinitely wide network


def _pair_kernel(x: np.ndarray, z: np.ndarray, depth: int) -> float:
    """Θ of two inputs from their three covariances, layer by layer, in plain numbers."""
    xx, xz, zz = float(x @ x), float(x @ z), float(z @ z)
    theta = xz
    for _ in range(depth):
        if xx == 0 or zz == 0:
            return 0.0
        angle = math.acos(min(1.0, max(-1.0, xz / math.sqrt(xx * zz))))
        xz = math.sqrt(xx * zz) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi
        theta = theta * (1 - angle / math.pi) + xz
    return theta


# Of κ0, κ1, Θ below, and Σ of this layer and of the one below: the new Θ.
Step = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
RIGHT_STEP: Step = lambda k0, k1, theta, new, old: k0 * theta + new  # noqa: E731
OTHER_STEPS: list[tuple[Step, str]] = [
    (lambda k0, k1, theta, new, old: new, "that is Σ, what the last weights add: Θ also has the rest."),
    (
        lambda k0, k1, theta, new, old: kappas(k1)[0] * theta + new,
        "κ0 is taken at the correlation of the new Σ: both κ belong to the layer below.",
    ),
    (lambda k0, k1, theta, new, old: k0 * theta + old, "Θ gets the Σ of the layer below: add the new one."),
    (lambda k0, k1, theta, new, old: k0 * theta, "nothing is added to Θ: the weights of a layer count too."),
    (lambda k0, k1, theta, new, old: k0 * (theta + new), "κ0 multiplies the old Θ alone, not the Σ that is added."),
    (
        lambda k0, k1, theta, new, old: theta + new,
        "κ0 is not in it: the old Θ passes through the units that are active for both inputs.",
    ),
    (lambda k0, k1, theta, new, old: k1 * theta + new, "Θ is multiplied by κ1: the slope of max(u, 0) belongs to κ0."),
]


def _recursion(
    X: Tensor, Z: Tensor, depth: int, step: Step = RIGHT_STEP, *,
    start: float = 1.0, power: float = 1.0, factor: float = 1.0, rows: bool = True,
) -> np.ndarray:  # fmt: skip
    """Θ after `depth` layers, or what other mistakes make of it: another start, other lengths, a factor on both κ."""
    A, B = X.double().numpy(), Z.double().numpy()
    lengths = np.outer(*((A**2).sum(1) ** 0.5 if rows else np.full(len(A), (A**2).sum() ** 0.5) for A in (A, B)))
    sigma = A @ B.T
    theta = start * sigma
    for _ in range(depth):
        k0, k1 = kappas(np.divide(sigma, lengths**power, out=np.zeros_like(sigma), where=lengths > 0))
        below, sigma = sigma, factor * lengths * k1
        theta = step(factor * k0, k1, theta, sigma, below)
    return theta


def _other_kernels(X: Tensor, Z: Tensor, depth: int) -> Mistakes:
    """What typical mistakes give in exercise 2."""
    right = _recursion(X, Z, depth)
    sizes = [A.double().norm(dim=1).clamp_min(1e-300) for A in (X, Z)]
    return [
        *((_recursion(X, Z, depth, step), hint) for step, hint in OTHER_STEPS),
        (_recursion(X, Z, depth - 1), "a layer is missing: depth counts the hidden layers."),
        (_recursion(X, Z, depth + 1), "there is a layer too many: depth counts the hidden layers."),
        (right / torch.outer(*sizes).numpy(), "the inputs are taken to have length 1: Θ grows with both lengths."),
        (_recursion(X, Z, depth, power=0), "Σ is no correlation: it is divided by both lengths, in every layer."),
        (_recursion(X, Z, depth, power=2), "c is divided by the squared lengths: a correlation is Σ/(‖x‖‖z‖)."),
        (_recursion(X, Z, depth, rows=False), "one norm for the whole matrix: each input has a length of its own."),
        (_recursion(X, Z, depth, factor=0.5), "everything is halved in each layer: the 2 is in both κ already."),
        (_recursion(X, Z, depth, start=0), "Θ starts at 0: without a hidden layer it is xᵀz."),
    ]


@check(2, minutes=15, praise="exact, for a network without end. Next: what does depth do to the curve?")
def ntk(answer: Callable[..., Tensor]) -> None:
    """The oracle is a double loop over pairs that carries their three covariances."""
    rng = torch.Generator().manual_seed(2)
    Z = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    repeated = torch.cat([Z, Z[:2], -Z[:1]])
    problems = [(f"{name}, depth {L}", X, Z.to(X), L) for L in (2, 1, 5) for name, X in samples(4, 3, rng)]
    problems += [
        ("equal and opposite inputs, c = ±1", repeated, repeated, 3),
        ("equal and opposite inputs, c = ±1, float32", repeated.float(), repeated.float(), 3),
        ("one feature, c = ±1", Z[:, :1], Z[:2, :1], 2),
        ("an input of length 0", torch.cat([Z[:2].flip(1), 0 * Z[:1]]), Z, 2),
    ]
    with mend_first(answer):
        for name, X, Z, depth in problems:
            got = of_kind(answer(X, Z, depth), X)
            if got.isnan().any() and "length 0" in name:
                raise Wrong("NaN for an input of length 0: there c is 0/0, and Σ and Θ are 0.")
            want = np.array([[_pair_kernel(x, z, depth) for z in Z.double().numpy()] for x in X.double().numpy()])
            # next to c = 1, κ0 makes 1e-4 of a harmless 1e-8 under a division
            rtol = 1e-3 if "c = ±1" in name else tolerance(X)
            compare(got, want, _other_kernels(X, Z, depth), name, rtol)
