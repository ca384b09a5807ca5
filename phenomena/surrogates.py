"""Surrogates: how uniform bounds explain a predictor that lies in no class with a uniform bound.

R is the risk and R_S the empirical risk on a sample S. Negrea, Dziugaite & Roy (2020) bound R(h) of a learned h by way
of a surrogate s, here in (1) a classifier on a hypercube with memorised noise and (2) minimum-norm regression.

Why h itself will not do (after Nagarajan & Kolter 2019). Let T map samples to samples such that the twin TS has the law
of S, and let R(h_S) <= ε and R_TS(h_S) >= 1 - ε with probability at least 1 - δ. If a fixed class H contains h_S with
probability at least 1 - δ_1, and |R(h) - R_S(h)| <= b for all h in H at once with probability at least 1 - δ_2, where
δ + δ_1 + δ_2 < 1, then b >= 1 - 2ε. For with positive probability h_S is in H, the bound holds at TS (it does so as
often as at S), and b >= |R(h_S) - R_TS(h_S)| >= 1 - 2ε.
"""

from math import ceil, pi
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import binom
from torch import Tensor

from phenomena.regression import min_norm

ROUNDING = 1e-9  # margins lie on a lattice: what is closer than this to 0 is 0


class Decomposition(NamedTuple):
    """The four terms whose sum is R(h)."""

    empirical: Any  # R_S(h)
    excess: Any  # R(h) - R(s): how much worse than its surrogate h is
    gap: Any  # R(s) - R_S(s): the only term that a uniform bound has to control
    price: Any  # R_S(s) - R_S(h): the empirical risk that the surrogate gives up


def decomposition(R_h: Any, RS_h: Any, R_s: Any, RS_s: Any) -> Decomposition:
    """R(h) = R_S(h) + [R(h) - R(s)] + [R(s) - R_S(s)] + [R_S(s) - R_S(h)], for numbers, arrays or tensors."""
    return Decomposition(RS_h, R_h - R_s, R_s - RS_s, RS_s - RS_h)


# 1. The hypercube: x = (y u, z), labels y = ±1, a signal u = 1/√m, and noise z uniform on the corners {±τ/√D}^D.


def hypercube(y: Tensor, m: int, D: int, tau2: float, generator: torch.Generator) -> Tensor:
    """Points X (len(y), 1 + D) with the labels y (±1), for samples of size m; the noise has |z|² = τ² exactly."""
    signs = torch.randint(0, 2, (len(y), D), generator=generator).double() * 2 - 1
    return torch.cat([y[:, None].double() / m**0.5, signs * (tau2 / D) ** 0.5], dim=1)


def twin(X: Tensor) -> Tensor:
    """The sample with all its noise turned round, (y u, -z): as likely as X (n, 1 + D), with the same labels."""
    return torch.cat([X[:, :1], -X[:, 1:]], dim=1)


def one_step(X: Tensor, y: Tensor) -> Tensor:
    """w = Σ_i y_i x_i (1 + D,): a step of gradient descent from 0 on the loss -Σ_i y_i w·x_i, of rate 1."""
    return X.mT @ y.to(X.dtype)


def classification_error(w: Tensor, X: Tensor, y: Tensor) -> float:
    """Fraction of the points X (n, 1 + D) with y w·x <= 0: a tie is an error."""
    return float((y * (X @ w) <= ROUNDING).double().mean())


def linear_risk(w: Tensor, m: int, tau2: float) -> float:
    """R(w) = P(y w·x <= 0) of a w (1 + D,) that `one_step` gave, without a test set, to about 1e-16 D.

    The noise coordinates of w are τ/√D times whole numbers n_k, so y w·x is w_0/√m + (τ²/D) Σ_k n_k s_k with
    independent signs s_k, and the law of that sum has the characteristic function Π_k cos(n_k θ).
    """
    D = len(w) - 1
    n = (w[1:].abs() * (D / tau2) ** 0.5).round().long()
    size = 2 ** int(2 * n.sum() + 1).bit_length()  # the sum never leaves (-size/2, size/2)
    theta = 2 * pi * torch.arange(size // 2 + 1, dtype=torch.float64) / size
    phi = torch.ones_like(theta)
    for value, count in zip(*n.unique(return_counts=True), strict=True):
        phi *= torch.cos(value * theta) ** count
    law = torch.fft.fftshift(torch.fft.irfft(phi, size))
    least = ceil(float(w[0]) / m**0.5 * D / tau2 - ROUNDING)  # the sum is symmetric: <= -least as often as >= least
    return float(law[max(size // 2 + least, 0) :].sum().clamp(0, 1))


class Errors(NamedTuple):
    """Mean errors over samples of the one-step classifier: on its own sample, on new points, on the twin sample."""

    training: float
    risk: float
    twin: float


def expected_errors(m: int, D: int, tau2: float) -> Errors:
    """E R_S(h), E R(h) and E R_TS(h), exact: a margin is 1 + τ², 1 or 1 - τ², plus τ²/D times a sum of fair signs.

    One sign for each coordinate and each training point but the one that is classified, so the margin's standard
    deviation is τ² √(m/D): h has a small risk for D much above m τ⁴, and fails on the twin if τ² > 1 as well.
    E R(h) is also both the risk and the empirical risk, on every S, of the surrogate that has the conditional law of h
    given the labels: with its noise drawn afresh, the points of S are to it as any others.
    """

    def at_least(t: float, signs: int) -> float:
        return float(binom.sf(ceil((signs + t) / 2 - ROUNDING) - 1, signs, 0.5))

    t, others = D / tau2, (m - 1) * D
    return Errors(at_least(t + D, others), at_least(t, m * D), at_least(t - D, others))


# 2. Regression: x ~ N(0, diag(λ)), y = x·θ* + ε, ε ~ N(0, σ²); h = X⁺ y interpolates.


def benign_tail(head: int, tail: int) -> Tensor:
    """λ (head + tail,): `head` eigenvalues 1, and `tail` equal ones that sum to 1, where noise can hide."""
    return torch.cat([torch.ones(head, dtype=torch.float64), torch.full((tail,), 1 / tail, dtype=torch.float64)])


def denoised(X: Tensor, theta: Tensor) -> Tensor:
    """s = E[h | X] = X⁺ X θ* (p,): h fitted to the labels without their noise (Negrea et al. 2020)."""
    return min_norm(X, X @ theta)


def gaussian_risk(theta_hat: Tensor, theta: Tensor, eigenvalues: Tensor, sigma2: float) -> Tensor:
    """R = σ² + Σ_j λ_j (θ̂_j - θ*_j)², exact, () or (K,) for θ̂ (p,) or K of them (p, K); in squared units of y."""
    truth = theta if theta_hat.ndim == 1 else theta[:, None]
    return sigma2 + eigenvalues @ (theta_hat - truth).square()


def equivalent_risk(eigenvalues: Tensor, theta: Tensor, sigma2: float, n: int) -> float:
    """What R(X⁺ y) concentrates at for large n: (σ² + B) / (1 - d/n), with κ from Σ_j λ_j / (λ_j + κ) = n.

    B = κ² Σ_j λ_j θ*_j² / (λ_j + κ)², d = Σ_j λ_j² / (λ_j + κ)². The general form of the anisotropic limit in Hastie
    et al. (2022). Labels without noise have σ² = 0 and R - σ² instead of R. ValueError unless 0 < n < p, λ > 0.
    """
    lam, theta_j = eigenvalues.numpy(), theta.numpy()
    if not 0 < n < len(lam) or lam.min() <= 0:
        raise ValueError(f"it takes more features than samples, all with λ > 0: n = {n}, p = {len(lam)}")
    kappa = brentq(lambda k: (lam / (lam + k)).sum() - n, 0, lam.sum() / n, xtol=1e-15)
    B = kappa**2 * (lam * theta_j**2 / (lam + kappa) ** 2).sum()
    return float((sigma2 + B) / (1 - (lam**2 / (lam + kappa) ** 2).sum() / n))


def mean_noise_gap(n: int, sigma2: float) -> float:
    """E |σ² - mean of n squared noises|, about 2σ²/√(πn): the surrogate's gap but for its small bias.

    The mean absolute deviation of σ² χ²_n / n: (4σ²/n) k^k e^-k / Γ(k) with k = n/2.
    """
    k = n / 2
    return float(4 * sigma2 / n * np.exp(k * np.log(k) - k - gammaln(k)))
