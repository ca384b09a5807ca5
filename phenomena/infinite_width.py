"""The kernels of infinitely wide networks: NNGP and NTK of fully connected ReLU and erf networks, in closed form.

The network, in the NTK parametrisation (all weights N(0, 1), depth L = number of hidden layers):

    g⁰ = x,   f^h = W^h g^(h-1) + β b^h,   g^h = √(c_σ/d_h) σ(f^h),   output f = W^(L+1) g^L + β b^(L+1)

As the widths d_h grow, the output at initialisation becomes a Gaussian process of covariance Σ^L (the NNGP kernel;
Lee et al. 2018) and the inner product of its weight gradients becomes Θ^L (the NTK; Jacot et al. 2018), where

    Σ⁰(x, x') = xᵀx' + β²      Σ^h = c_σ E[σ(u) σ(v)] + β²       Σ̇^h = c_σ E[σ̇(u) σ̇(v)]
    Θ⁰ = Σ⁰                    Θ^h = Σ̇^h Θ^(h-1) + Σ^h

with (u, v) Gaussian of covariance Σ^(h-1) and c_σ = 1/E[σ(z)²] (Arora et al. 2019, Section 3).

Two inputs meet in these expectations through two standard deviations and one angle. We carry the angle θ = arccos c
and not the correlation c: near c = 1 the arccos of a rounded c is wrong by √ε (3e-4 in float32), and so is Σ̇.
Carried as an angle, every layer is exact to a few ε for equal and near inputs too (and for opposite ones, but for
Σ̇ of erf when they are also large: 3e-5 in float32 at norm 700).
"""

from collections.abc import Callable
from math import asin, pi
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**20  # entries of a kernel computed at once: 4 MB a temporary in float32


class Kernels(NamedTuple):
    """The two kernels of an infinitely wide network, each (n, n')."""

    nngp: Tensor
    ntk: Tensor


def kappa0(c: Tensor) -> Tensor:
    """κ₀(c) = (π - arccos c)/π = 2 E[σ̇(u) σ̇(v)] for ReLU at correlation c, any shape (Cho & Saul 2009)."""
    return (pi - torch.arccos(c.clamp(-1, 1))) / pi


def kappa1(c: Tensor) -> Tensor:
    """κ₁(c) = (c (π - arccos c) + √(1 - c²))/π = 2 E[σ(u) σ(v)] for ReLU, unit variances (Cho & Saul 2009)."""
    c = c.clamp(-1, 1)
    return (c * (pi - torch.arccos(c)) + torch.sqrt((1 - c) * (1 + c))) / pi


@torch.no_grad()
def infinite_width(
    X: Tensor, Z: Tensor | None = None, depth: int = 1, activation: str = "relu", beta: float = 0.0
) -> Kernels:
    """NNGP Σ^L and NTK Θ^L of a fully connected network of L = depth hidden layers (Arora et al. 2019, Section 3).

    X (n, d), Z (n', d) or None for Z = X; each kernel (n, n'), in X's dtype and on its device. `activation` is "relu"
    or "erf"; β scales the biases; depth 0 is linear regression. Memory: the two results and some blocks of 2²⁰ entries.
    """
    if activation not in LAYERS:
        raise ValueError(f"infinite_width knows the activations {', '.join(LAYERS)}, not {activation!r}")
    if depth < 0 or beta < 0:
        raise ValueError(f"infinite_width needs depth >= 0 and beta >= 0, got depth {depth} and beta {beta}")
    _check(X, "X")
    if Z is not None:
        _check(Z, "Z")
        if (Z.shape[1], Z.dtype, Z.device) != (X.shape[1], X.dtype, X.device):
            raise ValueError(
                f"X and Z must share dimension, dtype and device; X is {tuple(X.shape)} {X.dtype} on {X.device}, "
                f"Z {tuple(Z.shape)} {Z.dtype} on {Z.device}"
            )
    layer = LAYERS[activation]
    if Z is not None:
        return _blocks(X, Z, lambda rows, _: _recursion(rows, Z, depth, layer, beta))
    kernels = _blocks(X, X, lambda rows, end: _recursion(rows, X[:end], depth, layer, beta))
    for K in kernels:  # only the lower triangle is right so far
        _mirror(K)
    return kernels


def _check(X: Tensor, name: str) -> None:
    if X.ndim != 2 or not X.is_floating_point():
        raise ValueError(f"{name} must be a floating (n, d) tensor (flatten images), got {tuple(X.shape)} {X.dtype}")
    if not X.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite entries; remove these inputs first")


def _blocks(X: Tensor, Z: Tensor, kernels: Callable[[Tensor, int], Kernels]) -> Kernels:
    """Fill both kernels some rows of X at a time; `kernels` may return fewer columns than Z has."""
    out = Kernels(*(X.new_zeros(len(X), len(Z)) for _ in range(2)))
    step = max(1, BLOCK // max(1, len(Z)))
    for start in range(0, len(X), step):
        rows = X[start : start + step]
        for whole, part in zip(out, kernels(rows, start + len(rows)), strict=True):
            whole[start : start + step, : part.shape[1]] = part
    return out


def _mirror(K: Tensor) -> None:
    """Copy the lower triangle onto the upper one, in place and in blocks."""
    step = max(1, BLOCK // max(1, len(K)))
    for start in range(0, len(K), step):
        stop = start + step
        K[:start, start:stop] = K[start:stop, :start].mT
        square = K[start:stop, start:stop]
        square.copy_(square.tril() + square.tril(-1).mT)


# The recursion. s (n, 1) and t (1, n') are the standard deviations √Σ(x, x) and √Σ(x', x').

Moments = tuple[Tensor, Tensor, Tensor]  # s, t, θ
Layer = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Moments]]


def _recursion(X: Tensor, Z: Tensor, depth: int, layer: Layer, beta: float) -> Kernels:
    if beta:  # a bias is the weight of one more input, whose value is β
        X, Z = (torch.cat([A, torch.full_like(A[:, :1], beta)], dim=1) for A in (X, Z))
    s, t = X.norm(dim=1)[:, None], Z.norm(dim=1)[None, :]
    theta = angles(X / _nonzero(s), Z / _nonzero(t.mT))
    nngp = s * t * torch.cos(theta)
    ntk = nngp
    for _ in range(depth):
        nngp, derivative, (s, t, theta) = layer(s, t, theta, beta)
        ntk = derivative * ntk + nngp
    return Kernels(nngp, ntk)


def _relu(s: Tensor, t: Tensor, theta: Tensor, beta: float) -> tuple[Tensor, Tensor, Moments]:
    """Σ, Σ̇ and the next (s, t, θ): Σ = s t κ₁(cos θ) + β², Σ̇ = κ₀(cos θ), for c_σ = 2."""
    gap = 2 * torch.sin(theta / 2) ** 2 - (torch.sin(theta) - theta * torch.cos(theta)) / pi  # 1 - κ₁(cos θ)
    product = s * t
    sigma, derivative = product * (1 - gap) + beta**2, 1 - theta / pi
    if not beta:
        return sigma, derivative, (s, t, _angle(gap))
    s_next, t_next = torch.sqrt(s**2 + beta**2), torch.sqrt(t**2 + beta**2)
    # 1 - c for the covariance with bias, rearranged so that nothing cancels when s ≈ t and θ ≈ 0.
    scale = s_next * t_next
    unequal = beta**2 * (s - t) ** 2 / (scale + product + beta**2)
    return sigma, derivative, (s_next, t_next, _angle((unequal + product * gap) / scale))


def _erf(s: Tensor, t: Tensor, theta: Tensor, beta: float) -> tuple[Tensor, Tensor, Moments]:
    """Σ = (2c/π) arcsin(2Λ/√((1 + 2s²)(1 + 2t²))) + β² with Λ = s t cos θ, and Σ̇ = (4c/π)/√det(I + 2Λ) (Williams 1997).

    The arcsin is written as an arctan of two numbers, and the determinant by the angle: no digits cancel.
    """
    c = pi / (2 * asin(2 / 3))  # 1/E[erf(z)²]
    root = torch.sqrt(1 + 2 * s**2 + 2 * t**2 + (2 * s * t * torch.sin(theta)) ** 2)
    sigma = 2 * c / pi * torch.atan2(2 * s * t * torch.cos(theta), root) + beta**2
    s_next, t_next = (
        torch.sqrt(2 * c / pi * torch.atan2(2 * a**2, torch.sqrt(1 + 4 * a**2)) + beta**2) for a in (s, t)
    )
    # Here θ enters by sin² θ alone, with variances that erf bounds, so an arccos is accurate enough.
    correlation = sigma / _nonzero(s_next * t_next)
    return sigma, 4 * c / pi / root, (s_next, t_next, torch.arccos(correlation.clamp(-1, 1)))


LAYERS: dict[str, Layer] = {"relu": _relu, "erf": _erf}


def angles(U: Tensor, V: Tensor) -> Tensor:
    """Angles between the unit vectors U (n, d) and V (n', d), (n, n'), in radians, right to a few rounding errors.

    The arccos of Uᵀv loses digits for near-parallel vectors; those pairs, |c| > 0.995, get the formula of Kahan:
    θ = 2 atan2(‖u - v‖, ‖u + v‖), which is exactly 0 for u = v.
    """
    cosine = U @ V.mT
    theta = torch.arccos(cosine.clamp(-1, 1))
    near = (cosine.abs() > 0.995).nonzero()
    for pairs in near.split(max(1, BLOCK // max(1, U.shape[1]))):
        i, j = pairs.unbind(1)
        theta[i, j] = 2 * torch.atan2((U[i] - V[j]).norm(dim=1), (U[i] + V[j]).norm(dim=1))
    return theta


def _angle(gap: Tensor) -> Tensor:
    """θ from 1 - cos θ = 2 sin²(θ/2)."""
    return 2 * torch.arcsin(torch.sqrt((gap / 2).clamp(0, 1)))


def _nonzero(norm: Tensor) -> Tensor:
    """The norm, or 1 where it is 0: a zero vector has no angle, and its kernel is 0 (or β²) at whatever angle."""
    return torch.where(norm > 0, norm, torch.ones_like(norm))
