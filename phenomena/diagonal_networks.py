"""Diagonal linear networks β = w₊² - w₋²: the solution that gradient descent, SGD and label noise each choose.

Letters of Pesme, Pillaud-Vivien & Flammarion 2021: n samples x_i in R^d, loss L = 1/(4n) Σ (<β, x_i> - y_i)², step γ,
initial weights w₊ = w₋ = α. One step of SGD on sample i with residual r multiplies the weights,

    w₊ <- w₊ (1 - γ r x_i)    w₋ <- w₋ (1 + γ r x_i)    so that    w₊ w₋ <- w₊ w₋ (1 - γ² r² x_i²),

coordinate by coordinate. Gradient flow keeps w₊ w₋ = α², and so ends in the interpolator of least φ_α. Noise only ever
lowers it (while γ |r x| < √2): with α_t = √|w₊ w₋| the end is that of gradient flow from a smaller α_∞, which is
α exp(-Σ γ² r² x_j² / 2) to second order in γ: `Descent.decay` is this sum over the samples that were drawn. Its mean
is γ ∫ 1/(2n) Σ_i r_i² x_ij² ds, and where the squares of residuals and inputs average apart, 2γ diag(XᵀX/n) ∫ L ds,
the paper's exponent: two steps that its stochastic flow takes for granted. Everything is float64.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from phenomena.errors import Diverged


class NotConverged(ArithmeticError):  # noqa: N818
    """A solver stopped before its optimality conditions held; its last iterate is no solution."""


class Network(NamedTuple):
    """Weights of R networks: w_plus and w_minus, each (R, d)."""

    w_plus: Tensor
    w_minus: Tensor

    @property
    def beta(self) -> Tensor:
        """The linear predictors w₊² - w₋², (R, d)."""
        return self.w_plus**2 - self.w_minus**2

    @property
    def alpha(self) -> Tensor:
        """The effective scales √|w₊ w₋|, (R, d): gradient flow keeps them, noise lowers them."""
        return (self.w_plus * self.w_minus).abs().sqrt()


class Descent(NamedTuple):
    """The end of R runs, and what was recorded on the way: k times, the first and the last step among them.

    time (k, R) is γ times the step; loss and log_alpha (the mean over coordinates of log α_t) are (k, R);
    integral (R,) is ∫ L ds; decay (R, d) is ½ Σ (γ r x_j)² over the samples drawn (moved labels included), or for the
    full gradient with the mean of r x_j; finite (R,) tells which runs did not diverge.
    """

    network: Network
    time: Tensor
    loss: Tensor
    log_alpha: Tensor
    integral: Tensor
    decay: Tensor
    finite: Tensor


def initialise(alpha: float | Tensor, runs: int, d: int) -> Network:
    """`runs` networks with w₊ = w₋ = α > 0, so β = 0; α a number, (d,) or (runs, d)."""
    w = torch.as_tensor(alpha, dtype=torch.float64).expand(runs, d).clone()
    if not bool((w > 0).all()):
        raise ValueError("initialise needs α > 0: a weight of 0 never moves")
    return Network(w, w.clone())


def descend(
    X: Tensor,
    y: Tensor,
    network: Network,
    gamma: float | Tensor,
    steps: int,
    generator: torch.Generator | None = None,
    *,
    noise: Literal["none", "sample", "isotropic"] = "none",
    delta: float | Tensor = 0.0,
    every: int = 1,
    tol: float = 0.0,
    keep_diverged: bool = False,
) -> Descent:
    """R runs at once from `network`, on X (n, d) and y (n,); gamma and delta are numbers or one a run, (R,).

    noise "none" is gradient descent; "sample" is SGD, one sample a step, its label moved by fresh N(0, δ²);
    "isotropic" adds to the full gradient a Gaussian of the same expected squared length as SGD's noise at that point,
    but of no direction (label noise does not enter it). The loss is taken every `every` steps, and its integral is
    the Riemann sum over these, too large by half the first loss times the first interval: take every=1 while the loss
    falls. All runs end once every loss is below `tol`. A run that is not finite raises Diverged, or with keep_diverged
    counts as not finite and does not hold up the others.
    """
    n, d = X.shape
    R = len(network.w_plus)
    if y.shape != (n,) or network.w_plus.shape[1] != d:
        raise ValueError(f"descend got X {tuple(X.shape)}, y {tuple(y.shape)} and weights {tuple(network[0].shape)}")
    if noise != "none" and generator is None:
        raise ValueError(f'noise "{noise}" needs a generator')
    gamma, delta = (torch.as_tensor(v, dtype=torch.float64).expand(R) for v in (gamma, delta))
    if not bool((gamma > 0).all()):
        raise ValueError("descend needs every step size γ > 0")
    noisy = bool((delta > 0).any())
    Z = torch.cat([X, -X], dim=1).double()  # <β, x> = <w², z> with w = (w₊, w₋), and dL/dw = mean of r z w
    y = y.double()
    squares = X.double() ** 2
    w = torch.cat(list(network), dim=1)
    decay, integral = torch.zeros(R, d, dtype=torch.float64), torch.zeros(R, dtype=torch.float64)
    loss, log_alpha = [], []
    k, at = 0, [0]
    while True:
        residual = w**2 @ Z.T - y
        loss.append(residual.square().mean(1) / 4)
        log_alpha.append((w[:, :d] * w[:, d:]).abs().log().mean(1) / 2)
        finite = w.isfinite().all(1) & loss[-1].isfinite()
        if not keep_diverged and not bool(finite.all()):
            raise Diverged(f"step size {gamma[~finite].min():.3g} diverged before step {k}: take a smaller one")
        if k == steps or bool((loss[-1] < tol)[finite].all()):
            break
        block = min(every, steps - k)
        integral += gamma * block * loss[-1]
        if noise == "sample":
            picked = torch.randint(n, (block, R), generator=generator)
            labels = y[picked]
            if noisy:
                labels += delta * torch.randn(block, R, generator=generator, dtype=torch.float64)
            for i, label in zip(picked, labels, strict=True):
                z = Z[i]
                step = gamma * (torch.linalg.vecdot(w * w, z) - label)  # γ r
                w.addcmul_(w * z, -step[:, None])
                decay.addcmul_(squares[i], step.square()[:, None], value=0.5)
        else:
            for _ in range(block):
                residual = w**2 @ Z.T - y
                pull = residual @ Z / n
                step = pull * w
                if noise == "isotropic":
                    second = (residual**2 * (w**2 @ Z.T**2)).mean(1)  # E |r z w|²
                    size = ((second - step.square().sum(1)).clamp(min=0) / (2 * d)).sqrt()
                    step += size[:, None] * torch.randn(R, 2 * d, generator=generator, dtype=torch.float64)
                w = w - gamma[:, None] * step
                decay += (gamma[:, None] * pull[:, :d]) ** 2 / 2
        k += block
        at.append(k)
    time = torch.tensor(at, dtype=torch.float64)[:, None] * gamma
    end = Network(w[:, :d], w[:, d:])
    return Descent(end, time, torch.stack(loss), torch.stack(log_alpha), integral, decay, finite)


def effective_alpha(
    X: Tensor, alpha: float | Tensor, gamma: float | Tensor, integral: Tensor, noise_integral: float | Tensor = 0.0
) -> Tensor:
    """α_∞ = α exp(-2γ diag(XᵀX/n) (∫ L ds + ∫ δ²/4 ds)), (R, d), from the loss integrals (R,) (Theorem 1).

    `noise_integral` is ∫ δ² ds = δ² times the time γ k for which the labels were moved: such a move of variance δ²
    adds δ²/4 to the loss that a step sees. The letter δ in the paper may be half of ours: unchecked. With the samples
    that were drawn, α exp(-`Descent.decay`) is closer.
    """
    seen = gamma * (integral + torch.as_tensor(noise_integral) / 4)
    return alpha * torch.exp(-2 * seen[:, None] * (X.double() ** 2).mean(0))


def hyperbolic_entropy(beta: Tensor, alpha: float | Tensor) -> Tensor:
    """φ_α(β) = ¼ Σ_j [β_j arcsinh(β_j / 2α_j²) - √(β_j² + 4α_j⁴) + 2α_j²] of β (..., d).

    Like the ℓ1 norm for α -> 0, |β|² / 16α² for α -> ∞ (Woodworth et al. 2020, in the paper's constants).
    """
    a = 2 * torch.as_tensor(alpha, dtype=torch.float64) ** 2
    return (beta * torch.arcsinh(beta / a) - torch.sqrt(beta**2 + a**2) + a).sum(-1) / 4


def minimise_entropy(X: Tensor, y: Tensor, alpha: float | Tensor, *, tol: float = 1e-10, most: int = 500) -> Tensor:
    """The β (d,) of least φ_α among those with Xβ = y: where gradient flow from α ends.

    Newton's method on the dual, min over ν of Σ_j 2α_j² cosh((Xᵀν)_j) - <y, ν>. At its minimum β = 2α² sinh(Xᵀν) has
    ∇φ_α in the span of the inputs by construction, and Xβ = y within tol |y| is verified: NotConverged otherwise.
    alpha is a number or (d,), X (n, d) of rank n.
    """
    X, y = X.double(), y.double()
    a = (2 * torch.as_tensor(alpha, dtype=torch.float64) ** 2).expand(X.shape[1])
    if not bool((a > 0).all()):
        raise ValueError("minimise_entropy needs α > 0; for α -> 0 call basis_pursuit")
    nu = torch.zeros_like(y)
    for _ in range(most):
        beta = a * torch.sinh(nu @ X)
        gradient = X @ beta - y
        if gradient.norm() <= tol * y.norm():
            return beta
        L, failed = torch.linalg.cholesky_ex((X * torch.sqrt(beta**2 + a**2)) @ X.T)
        if failed:
            break
        step = torch.cholesky_solve(gradient[:, None], L)[:, 0]
        value, decrease, t = _dual(X, y, a, nu), float(gradient @ step), 1.0
        # Halve until the value falls (from infinity, too: cosh overflows); at rounding level it cannot tell.
        while t > 1e-30 and not _dual(X, y, a, nu - t * step) <= value - 1e-4 * t * decrease + 1e-15 * abs(value):
            t /= 2
        nu = nu - t * step
    off = gradient.norm() / y.norm()
    raise NotConverged(f"minimise_entropy: Xβ is {off:.1e} |y| from y; has X rank n, or is α too small?")


def _dual(X: Tensor, y: Tensor, a: Tensor, nu: Tensor) -> float:
    return float((a * torch.cosh(nu @ X)).sum() - y @ nu)


def basis_pursuit(X: Tensor, y: Tensor) -> Tensor:
    """The β (d,) of least ℓ1 norm with Xβ = y, by linear programming in β = p - q; NotConverged if there is none."""
    A = np.hstack([X.double().numpy(), -X.double().numpy()])
    result = linprog(np.ones(A.shape[1]), A_eq=A, b_eq=y.numpy(), bounds=(0, None), method="highs")
    if result.status != 0:
        raise NotConverged(f"basis_pursuit: {result.message}")
    p, q = torch.from_numpy(result.x).reshape(2, -1)
    return p - q
