"""SGD with a constant step on a quadratic loss: its stationary covariance, exactly.

The loss is L(θ) = ½ (θ - θ*)ᵀ H (θ - θ*), a step θ ← θ - η (H (θ - θ*) + noise). With A the matrix (p², p²) on vec Σ
that stands for Σ ↦ H Σ + Σ H, every theory here is one linear equation and differs in the operator M alone:

    (A - η M) vec Σ = η vec C,    M = 0                     continuous time, an Ornstein-Uhlenbeck process
                                  M = H ⊗ H                 discrete time, noise that does not depend on θ
                                  M = f F + (1 - f) H ⊗ H   minibatches of least squares: the noise grows with θ - θ*

There C is the covariance of the noise of a step (of the whole batch's gradient, not of one sample's), F the mean of
vec(x xᵀ) vec(x xᵀ)ᵀ over the samples, and f = 1/B with replacement or (1/B)(n - B)/(n - 1) without (`noise_factor`).
The covariance is finite where A - η M is positive definite, so the largest stable η is one over the largest generalised
eigenvalue of (M, A): 2/λ₁ in discrete time, and less for small batches. "Without replacement" is always within one
batch, batches being independent of each other; passing through the data in a random order (an epoch) makes them
dependent, shrinks the noise further, and is not what these equations are about.

Sources: Mandt, Hoffman & Blei (2017) for continuous time; the others follow from taking the second moment of one step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor

from phenomena.errors import Diverged
from phenomena.gradient_noise import noise_factor

Gradient = Callable[[Tensor], Tensor]  # noisy gradients (m, p) of m chains at θ (m, p), with fresh noise at each call


def continuous_covariance(H: Tensor, C: Tensor, eta: float) -> Tensor:
    """Σ (p, p) of the Ornstein-Uhlenbeck process, H Σ + Σ H = η C (Mandt et al. 2017); H positive definite, η > 0.

    C (p, p) is the covariance of the gradient noise of one step. Exact only as η λ₁ → 0; finite at every η.
    """
    lam, V = _eigen(H, eta)
    return _rotated(C, V, eta / (lam[:, None] + lam))


def stationary_covariance(H: Tensor, C: Tensor, eta: float) -> Tensor:
    """Σ (p, p) of the discrete steps, Σ = (I - ηH) Σ (I - ηH) + η² C; arguments as in `continuous_covariance`.

    In H's eigenbasis Σ_ij = η C_ij / (λ_i + λ_j - η λ_i λ_j). Diverged where η λ₁ >= 2: there is no such Σ.
    """
    lam, V = _eigen(H, eta)
    if eta * lam[-1] >= 2:
        raise Diverged(f"no stationary covariance: η λ₁ = {eta * lam[-1]:.4g} is not below 2; lower η")
    return _rotated(C, V, eta / (lam[:, None] + lam - eta * lam[:, None] * lam))


def momentum_covariance(H: Tensor, C: Tensor, eta: float, mu: float) -> Tensor:
    """Covariance (2p, 2p) of (θ, v) under the heavy ball v ← μ v - η (H θ + noise), θ ← θ + v, with 0 <= μ < 1.

    Its first p rows and columns are Σ; μ = 0 is `stationary_covariance`. Diverged where η λ₁ >= 2 (1 + μ).
    """
    if not 0 <= mu < 1:
        raise ValueError(f"momentum needs 0 <= μ < 1, got {mu}")
    lam, _ = _eigen(H, eta)
    if eta * lam[-1] >= 2 * (1 + mu):
        raise Diverged(f"no stationary covariance: η λ₁ = {eta * lam[-1]:.4g} is not below 2 (1 + μ); lower η")
    H, C = H.double(), C.double()
    identity = torch.eye(len(H), dtype=H.dtype)
    step = torch.cat([torch.cat([identity - eta * H, mu * identity], 1), torch.cat([-eta * H, mu * identity], 1)])
    return torch.from_numpy(solve_discrete_lyapunov(step.numpy(), (eta**2 * C).repeat(2, 2).numpy()))


def excess_loss(H: Tensor, Sigma: Tensor) -> float:
    """½ Tr(H Σ): the mean of L(θ) - L(θ*) over a stationary distribution around θ* with covariance Σ (p, p)."""
    return float((H * Sigma).sum() / 2)


class LeastSquares(NamedTuple):
    """½ mean (xᵀθ - y)²: its minimum θ* (p,), Hessian H (p, p), covariance C (p, p) of ONE sample's gradient at θ*."""

    minimum: Tensor
    H: Tensor
    C: Tensor


def least_squares(X: Tensor, y: Tensor) -> LeastSquares:
    """The quadratic of the samples X (n, p), y (n,), in float64: H = XᵀX/n, C = mean r² x xᵀ with r = xᵀθ* - y.

    ValueError unless X has rank p: along a direction that no sample has SGD never moves, and Σ means nothing.
    """
    if y.shape != X.shape[:1]:
        raise ValueError(f"y must be ({len(X)},), one target a row of X, got {tuple(y.shape)}")
    X, y = X.double(), y.double()
    H = _hessian(X)
    minimum = torch.linalg.solve(H, X.mT @ y / len(X))
    G = X * (X @ minimum - y)[:, None]
    return LeastSquares(minimum, H, G.mT @ G / len(X))


def minibatch_covariance(X: Tensor, y: Tensor, eta: float, B: int, *, replacement: bool = True) -> Tensor:
    """Σ (p, p) = E (θ - θ*)(θ - θ*)ᵀ of minibatch SGD on least squares, exact at every stable η and batch size B.

    The mean of θ is θ*. Diverged from `stability_limit` on: a stationary law may still exist, but with an infinite
    second moment. Solves p² equations, so p up to about 50.
    """
    _, H, C = least_squares(X, y)
    _eigen(H, eta)
    f = noise_factor(len(X), B, replacement=replacement)
    A, M = _operators(X.double(), f)
    factor, failed = torch.linalg.cholesky_ex(A - eta * M)
    if failed:
        limit = stability_limit(X, B, replacement=replacement)
        raise Diverged(f"no finite second moment: η = {eta:.4g} is not below the limit {limit:.4g}; lower η or raise B")
    Sigma = torch.cholesky_solve(eta * f * C.reshape(-1, 1), factor).reshape(H.shape)
    return (Sigma + Sigma.mT) / 2


def second_moment_operator(X: Tensor, eta: float, B: int, *, replacement: bool = True) -> Tensor:
    """K (p², p²) with vec E[(I - ηH_b) Σ (I - ηH_b)] = K vec Σ over batches b; K = I - ηA + η²M is symmetric.

    One step takes E (θ - θ*)(θ - θ*)ᵀ from Σ to K Σ + η² f C, as long as E θ = θ*.
    """
    A, M = _operators(X.double(), noise_factor(len(X), B, replacement=replacement))
    return torch.eye(len(A), dtype=A.dtype) - eta * A + eta**2 * M


def spectral_radius(X: Tensor, eta: float, B: int, *, replacement: bool = True) -> float:
    """Factor by which a far second moment of θ - θ* grows per step in the end; below 1 where SGD is stable."""
    return float(torch.linalg.eigvalsh(second_moment_operator(X, eta, B, replacement=replacement)).abs().max())


def stability_limit(X: Tensor, B: int, *, replacement: bool = True) -> float:
    """The η below which minibatch SGD on least squares keeps a finite second moment: at most 2/λ₁, less for small B.

    Targets do not matter. B = n without replacement is gradient descent: 2/λ₁.
    """
    X = X.double()
    _hessian(X)
    A, M = _operators(X, noise_factor(len(X), B, replacement=replacement))
    # the largest μ with det(M - μA) = 0, by A = LLᵀ: an eigenvalue of L⁻¹ M L⁻ᵀ
    L = torch.linalg.cholesky(A)
    half = torch.linalg.solve_triangular(L, M, upper=False)
    return 1 / float(torch.linalg.eigvalsh(torch.linalg.solve_triangular(L, half.mT, upper=False))[-1])


def run_chains(gradient: Gradient, start: Tensor, eta: float, steps: int, *, every: int = 1, mu: float = 0.0) -> Tensor:
    """θ (steps // every, m, p) of m chains at once, after each `every` steps of SGD from start (m, p); μ: heavy ball.

    Consecutive records depend on each other, chains do not: standard errors come from the means of the chains.
    Diverged, with the step, once a square of θ overflows.
    """
    theta, velocity = start.clone(), torch.zeros_like(start)
    records = start.new_empty(steps // every, *start.shape)
    for t in range(1, steps + 1):
        velocity = mu * velocity - eta * gradient(theta)
        theta = theta + velocity
        if t % every == 0:
            if not theta.square().sum().isfinite():
                raise Diverged(f"SGD diverged by step {t} at η = {eta:.4g}; lower η")
            records[t // every - 1] = theta
    return records


def additive_gradient(H: Tensor, C: Tensor, generator: torch.Generator) -> Gradient:
    """H θ + N(0, C), fresh noise for each chain and step: the quadratic with its minimum at 0; H, C (p, p)."""
    lam, V = torch.linalg.eigh(C)
    root = V * lam.clamp(min=0).sqrt()  # C may be singular, so not by Cholesky
    return lambda theta: theta @ H + torch.randn(theta.shape, generator=generator, dtype=theta.dtype) @ root.mT


def minibatch_gradient(
    X: Tensor, y: Tensor, B: int, generator: torch.Generator, *, replacement: bool = True
) -> Gradient:
    """Least-squares gradients, each chain on its own fresh batch of B of the samples X (n, p), y (n,)."""
    n = len(X)
    noise_factor(n, B, replacement=replacement)  # refuses a B that does not fit

    def gradient(theta: Tensor) -> Tensor:
        batch = draw_batches(n, B, len(theta), generator, replacement=replacement)
        x = X[batch]  # (m, B, p)
        residual = (x @ theta[:, :, None]).squeeze(2) - y[batch]
        return (residual[:, None, :] @ x).squeeze(1) / B

    return gradient


def draw_batches(n: int, B: int, m: int, generator: torch.Generator, *, replacement: bool = True) -> Tensor:
    """Indices (m, B) of m independent batches out of n samples, int64."""
    if replacement:
        return torch.randint(n, (m, B), generator=generator)
    return torch.rand(m, n, generator=generator).topk(B, dim=1).indices  # the B first of a random order


def _eigen(H: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of H in float64, checked together with η."""
    if not eta > 0:
        raise ValueError(f"the step size must be positive, got η = {eta}")
    if not H.isfinite().all():
        raise ValueError("H holds NaN or infinite entries; look at the data and at the code that made it")
    lam, V = torch.linalg.eigh(H.double())
    if not lam[0] > 1e-12 * lam[-1]:
        raise ValueError(
            f"H must be positive definite, its eigenvalues are {lam[0]:.3g} to {lam[-1]:.3g}; drop flat directions"
        )
    return lam, V


def _rotated(C: Tensor, V: Tensor, factors: Tensor) -> Tensor:
    """C, its entries in the basis V multiplied by the factors, back in the old basis."""
    return V @ (factors * (V.mT @ C.double() @ V)) @ V.mT


def _hessian(X: Tensor) -> Tensor:
    H = X.mT @ X / len(X)
    _eigen(H, 1.0)
    return H


def _operators(X: Tensor, f: float) -> tuple[Tensor, Tensor]:
    """A and M (p², p²) of the module's equation for least squares with noise factor f."""
    n, p = X.shape
    H, identity = X.mT @ X / n, torch.eye(p, dtype=X.dtype)
    outer = (X[:, :, None] * X[:, None, :]).reshape(n, p * p)
    A = torch.kron(H, identity) + torch.kron(identity, H)
    return A, f * (outer.mT @ outer / n) + (1 - f) * torch.kron(H, H)
