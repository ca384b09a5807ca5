"""Checks of the SGD-noise lab: the stationary covariance on a parabola."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov
from torch import Tensor

from phenomena.checks import check, compare, of_kind, tolerance
from phenomena.checks.sgd_noise.shared import Mistakes, rotation


def _parabolas() -> Iterator[tuple[str, Tensor, Tensor, float]]:
    rng = torch.Generator().manual_seed(1)

    def draw(curvatures: list[float], rank: int) -> tuple[Tensor, Tensor]:
        p = len(curvatures)
        Q, root = rotation(p, rng), torch.randn(p, rank, generator=rng, dtype=torch.float64)
        H, C = Q * torch.tensor(curvatures, dtype=torch.float64) @ Q.mT, root @ root.mT
        return (H + H.mT) / 2, C

    three = draw([1.9, 0.9, 0.4], 3)
    yield "three parameters", *three, 0.45
    yield "close to the largest step", *three, 0.95
    yield "a small step", *three, 0.02
    yield "noise of rank 1", *draw([1.5, 1.0, 0.6, 0.3], 1), 0.8
    H, C = draw([1.2, 0.8, 0.5, 0.3], 4)
    yield "four parameters, float32", H.float(), C.float(), 0.4
    yield "one parameter", *draw([1.8], 1), 0.3


def _series(A: np.ndarray, first: np.ndarray, terms: int) -> np.ndarray:
    """first + A first A + ... + A^(terms-1) first A^(terms-1): what is left of the noise of all steps; in numbers."""
    total, term = 0 * first, first
    for _ in range(terms):
        total, term = total + term, A @ term @ A
    return total


@check(1, minutes=15, praise="old noise shrinks as new noise comes in. Next: does the cloud have this shape?")
def stationary_covariance(answer: Callable[..., Tensor]) -> None:
    """The oracle adds up what is left of the noise of every step of the past."""
    for name, H, C, eta, want, mistakes in _settled():
        compare(of_kind(answer(H, C, eta), H), want, mistakes, name, tolerance(H))


@cache  # the sums are always the same
def _settled() -> list[tuple[str, Tensor, Tensor, float, np.ndarray, Mistakes]]:
    found = []
    for name, H, C, eta in _parabolas():
        h, c = H.double().numpy(), C.double().numpy()
        want = _series(np.eye(len(h)) - eta * h, eta**2 * c, 6000)
        found.append((name, H, C, eta, want, _others(H, h, c, eta, want)))
    return found


def _others(H: Tensor, h: np.ndarray, c: np.ndarray, eta: float, want: np.ndarray) -> Mistakes:
    """What typical mistakes give in exercise 1."""
    A, first = np.eye(len(h)) - eta * h, eta**2 * c
    lam, V = (part.double().numpy() for part in torch.linalg.eigh(H))
    sums, products = lam[:, None] + lam, lam[:, None] * lam
    within = V.T @ c @ V
    factors = eta / (sums - eta * products)
    early = "stopped too early: old noise is not yet forgotten."
    commuting = "right only if C and H commute: in the eigenbasis an entry of Σ has two eigenvalues in it."
    one_side = "one factor I - ηH alone: an outer product has it on both sides."
    return [
        (first, "that is the noise of one step: what is left of all the steps before it is missing."),
        (solve_continuous_lyapunov(h, eta * c), "that is continuous time: a real step has a term with η² in H too."),
        (want / eta, "too large by 1/η: a step moves by η times the noise. What is the covariance of that?"),
        (want / eta**2, "too large by 1/η²: the step multiplies the noise by η, and where has it gone?"),
        (V @ (eta / (sums + eta * products) * within) @ V.T, "a sign: the term with both eigenvalues makes Σ larger."),
        (
            V @ (eta / (-sums - eta * products) * within) @ V.T,
            "negative variances: the step goes down the gradient, I - ηH.",
        ),
        (V @ (eta / (sums - products) * within) @ V.T, "the term with both eigenvalues lacks its η."),
        (
            V @ np.diag(np.diag(factors * within)) @ V.T,
            "the noises along two eigenvectors may be correlated: C has more than a diagonal there.",
        ),
        (factors * within, "that is Σ in the eigenbasis of H: turn it back."),
        (V @ (factors * c) @ V.T, "C is to be turned into the eigenbasis of H before it is divided."),
        (V @ (factors * within) @ V, "one of the two V that turn it back is to be transposed."),
        (V.T @ (factors * (V @ c @ V.T)) @ V, "turned the wrong way: the eigenvectors are the columns of V."),
        (first @ np.linalg.inv(2 * eta * h - eta**2 * h @ h), commuting),
        (np.linalg.inv(2 * eta * h - eta**2 * h @ h) @ first, commuting),
        (eta * np.linalg.inv(h) @ c, one_side),
        (eta * c @ np.linalg.inv(h), one_side),
        (first / (1 - A**2), "entry by entry (`*`): matrices are multiplied by `@`."),
        *((_series(A, first, terms), early) for terms in (2, 5, 10, 20, 30, 100, 300, 1000)),
    ]
