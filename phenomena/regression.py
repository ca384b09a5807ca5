"""Least squares without enough data: minimum norm, ridge, and their exact risks.

Everything here is about y = X β + ε with n samples x_i ~ N(0, I_p), noise of variance σ², r² = ‖β‖², and the
excess risk R(β̂) = E (xᵀβ̂ - xᵀβ)² = ‖β̂ - β‖², the error on a fresh x without its own noise.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def min_norm(X: Tensor, y: Tensor) -> Tensor:
    """β̂ = X⁺ y (p,) or (p, K): the least-squares solution of smallest norm; X (n, p), y (n,) or (n, K)."""
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    # Directions that the data do not span stay at zero: dividing by a rounding error would fill them with noise.
    keep = s > s.max() * max(X.shape) * torch.finfo(X.dtype).eps
    return Vh[keep].mT @ ((U[:, keep].mT @ y) / _column(s[keep], y))


def ridge(X: Tensor, y: Tensor, lam: float) -> Tensor:
    """β̂_λ = (XᵀX/n + λI)⁻¹ Xᵀy/n by the SVD of X; shapes as in `min_norm`, λ > 0 (Hastie et al. 2022)."""
    if lam <= 0:
        raise ValueError(f"ridge needs λ > 0, got {lam}; for λ → 0 call min_norm")
    n = X.shape[0]
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    return Vh.mT @ (_column(s / (s**2 + n * lam), y) * (U.mT @ y))


def _column(s: Tensor, y: Tensor) -> Tensor:
    """Singular values shaped so that they scale the rows of Uᵀy, for one target or many."""
    return s if y.ndim == 1 else s[:, None]


def excess_risk(beta_hat: Tensor, beta: Tensor) -> float:
    """R(β̂) = ‖β̂ - β‖² for isotropic features, in squared units of y; both (p,)."""
    return float(((beta_hat - beta) ** 2).sum())


def min_norm_risk(
    n: int, p: ArrayLike, r2: ArrayLike, sigma2: ArrayLike
) -> NDArray:
    """E R of the minimum-norm solution, exact at every finite n and p.

    σ² p / (n - p - 1)                       for p < n - 1
    r² (1 - n/p) + σ² n / (p - n - 1)        for p > n + 1
    and infinite between: the noise term is the trace of an inverse Wishart
    mean, and r² n/p is what lies in the span of the data. As n, p → ∞ with
    p/n = γ this is Theorem 1 of Hastie et al. (2022).
    """
    p, r2, sigma2 = np.broadcast_arrays(np.asarray(p, float), r2, sigma2)
    with np.errstate(divide="ignore"):
        under = sigma2 * p / (n - p - 1)
        over = r2 * (1 - n / p) + sigma2 * n / (p - n - 1)
    return np.where(p < n - 1, under, np.where(p > n + 1, over, np.inf))


def seen_and_unseen(p: ArrayLike, beta: ArrayLike) -> tuple[NDArray, NDArray]:
    """r_p² = Σ_{j<=p} β_j² and Σ_{j>p} β_j²: what a model with the first p features can learn, and what it cannot."""
    learnable = np.concatenate([[0.0], np.cumsum(np.asarray(beta, float) ** 2)])
    r2_p = learnable[np.asarray(p, int)]
    return r2_p, learnable[-1] - r2_p


def subset_risk(n: int, p: ArrayLike, beta: ArrayLike, sigma2: float) -> NDArray:
    """E R of the minimum-norm solution that sees the first p isotropic features, exact (Belkin, Hsu & Xu 2020).

    The unseen features act as noise that is independent of the seen ones, so `min_norm_risk` holds with
    σ_p² = σ² + Σ_{j>p} β_j², and that last sum is lost for good. (Hastie et al. 2022, Section 5: misspecified model.)
    """
    r2_p, unseen = seen_and_unseen(p, beta)
    return unseen + min_norm_risk(n, p, r2_p, sigma2 + unseen)


def stieltjes(gamma: ArrayLike, lam: ArrayLike) -> NDArray:
    """m(-λ) of the Marchenko-Pastur law of XᵀX/n, p/n = γ: the limit of tr (XᵀX/n + λI)⁻¹ / p."""
    gamma, lam = np.asarray(gamma, float), np.asarray(lam, float)
    b = 1 - gamma + lam
    root = np.sqrt(b**2 + 4 * gamma * lam)
    # m is the positive root of γλm² + bm - 1 = 0, in the form that does not cancel for the sign of b.
    return np.where(b > 0, 2 / (root + np.abs(b)), (root + np.abs(b)) / (2 * gamma * lam))


def ridge_risk(gamma: ArrayLike, lam: ArrayLike, r2: float, sigma2: float) -> NDArray:
    """Limit of R(β̂_λ) as p/n → γ: r² λ² m'(-λ) + σ² γ (m(-λ) - λ m'(-λ)) (Dobriban & Wager 2018)."""
    gamma, lam = np.asarray(gamma, float), np.asarray(lam, float)
    m = stieltjes(gamma, lam)
    dm = m * (1 + gamma * m) / (2 * gamma * lam * m + 1 - gamma + lam)  # m'(-λ) = -dm/dλ, from the quadratic
    return r2 * lam**2 * dm + sigma2 * gamma * (m - lam * dm)


def optimal_ridge(gamma: ArrayLike, r2: float, sigma2: float) -> NDArray:
    """λ* = σ² γ / r², the penalty of smallest risk for isotropic features (Hastie et al. 2022, Section 6)."""
    return sigma2 * np.asarray(gamma, float) / r2
