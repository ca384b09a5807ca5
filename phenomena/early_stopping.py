"""Gradient descent on least squares, iterate by iterate, without iterating: the risk of early stopping.

Heckel & Yilmaz (2021): y = xᵀθ + z with x ~ N(0, diag(s_1², …, s_d²)) and z ~ N(0, σ²). Gradient descent from zero
on the mean squared error, with a stepsize η_i for each coordinate. The letters are the paper's, but s_i stands for
its feature scale σ_i.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def decoupled_risk(
    k: ArrayLike,
    s: ArrayLike,
    theta: ArrayLike,
    eta: ArrayLike,
    sigma2: float,
    n: int,
) -> NDArray:
    """R(k) for iterates k (m,), scales s, parameters θ and stepsizes η (d,).

    Excess risk if every coordinate were learned alone, as it is for n much
    larger than d: each coordinate is one bias-variance trade-off, over by
    step 1 / (η_i s_i²) (Heckel & Yilmaz 2021, Theorem 1).
    """
    k = np.atleast_1d(np.asarray(k, float))[:, None]
    s, theta = np.asarray(s, float), np.asarray(theta, float)
    q = (1 - np.asarray(eta, float) * s**2) ** k
    bias = (s**2 * theta**2 * q**2).sum(1)
    variance = sigma2 / n * ((1 - q) ** 2).sum(1)
    return bias + variance


def risk_path(X: Tensor, y: Tensor, s: Tensor, theta: Tensor, eta: Tensor, k: Tensor) -> Tensor:
    """Excess risk (m,) of the gradient-descent iterates k (m,) on X (n, d), y (n,), stepsizes η (d,), in closed form.

    With A = XᵀX/n, θ_k = (I - (I - ηA)^k) θ_∞. In the coordinates θ/√η the matrix √η A √η is symmetric, so one
    eigendecomposition gives every iterate. Raises ValueError if η is so large that the iterates diverge.
    """
    root = eta.sqrt()
    B = X * root / np.sqrt(X.shape[0])
    lam, Q = torch.linalg.eigh(B.mT @ B)
    if lam[-1] >= 2:
        raise ValueError(f"gradient descent diverges: the largest η λ is {float(lam[-1]):.3g}, it must be below 2")
    c = Q.mT @ (B.mT @ y) / np.sqrt(X.shape[0])
    # (1 - (1 - λ)^k) / λ, and its limit k in the directions without data, where λ is a rounding error
    flat = lam < lam[-1] * X.shape[1] * torch.finfo(X.dtype).eps
    lam = torch.where(flat, torch.zeros_like(lam), lam)
    gain = torch.where(flat, k[:, None].to(lam), (1 - (1 - lam) ** k[:, None]) / torch.where(flat, 1.0, lam))
    theta_k = (gain * c) @ Q.mT * root
    return ((theta_k - theta) ** 2 * s**2).sum(1)


def equalising_stepsizes(s: Tensor, eta_max: float) -> Tensor:
    """η_i = η_max max(s)² / s_i² (d,): every η_i s_i² is the same, so all coordinates are learned at one pace."""
    return eta_max * s.max() ** 2 / s**2
