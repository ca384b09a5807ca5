"""A stochastic network whose risk can be bounded: a Gaussian posterior trained on the bound (Dziugaite & Roy 2017).

Q = N(w, diag(s^2)) over the weights of a network of one hidden layer, f(x) = v . relu(W x); P = N(w_0, lambda I) around
the weights before training. The Gibbs classifier draws the weights anew for each input, and errs with
probability R(Q). Given the input, the hidden units are independent Gaussians, so we draw them and not the weights.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm.auto import tqdm

from phenomena.bounds import kl_inverse, pac_bayes_bound
from phenomena.errors import Diverged
from phenomena.training import batches, cosine

B_GRID, C_GRID = (
    100,
    1.0,
)  # the prior's variance is one of c exp(-j/b), j = 1, 2, ...; a union bound pays for the choice


class Posterior(NamedTuple):
    """Means and standard deviations of the weights W (H, d) and v (1, H), and the index j of the prior's variance."""

    means: list[Tensor]
    stds: list[Tensor]
    j: int


class Certificate(NamedTuple):
    """Q's training error as estimated and with its Monte-Carlo error, KL(Q||P), and the bound on R(Q)."""

    gibbs_error: float
    gibbs_error_upper: float
    divergence: float
    bound: float


def prior_variance(j: int) -> float:
    """lambda_j = c exp(-j/b)."""
    return C_GRID * math.exp(-j / B_GRID)


def divergence(means: list[Tensor], stds: list[Tensor], centre: list[Tensor], variance: Tensor | float) -> Tensor:
    """KL(N(w, diag(s^2)) || N(w_0, lambda I)) = sum_i ((s_i^2 + (w_i - w_0i)^2)/lambda - 1 - ln(s_i^2/lambda)) / 2."""
    total = torch.zeros(())
    for w, s, w_0 in zip(means, stds, centre, strict=True):
        ratio = s.square() / variance
        total = total + 0.5 * ((w - w_0).square() / variance + ratio - 1 - ratio.log()).sum()
    return total


def output_moments(
    X: Tensor, means: list[Tensor], stds: list[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the hidden units of each input once; mean and variance (n,) of f(x) over the last layer's weights."""
    (W, v), (s_W, s_v) = means, stds
    variance = X.square() @ s_W.square().T
    Z = X @ W.T + _root(variance) * torch.randn(len(X), len(W), generator=generator)
    H = torch.relu(Z)
    return (H @ v.T).squeeze(1), (H.square() @ s_v.square().T).squeeze(1)


def _root(variance: Tensor) -> Tensor:
    """Square root with derivative 0 at 0, where a hidden layer that is all 0 leaves no variance."""
    positive = variance > 0
    return torch.where(positive, variance, 1.0).sqrt() * positive


@torch.no_grad()
def gibbs_error(posterior: Posterior, X: Tensor, y: Tensor, draws: int, generator: torch.Generator) -> float:
    """Estimate the Gibbs classifier's error on X (n, d), y (n,) in {-1, 1}: the mean of n * draws independent numbers.

    Each is the probability over v, given the hidden units, that y f(x) <= 0.
    """
    errors = torch.zeros((), dtype=torch.float64)
    for _ in range(draws):
        mean, variance = output_moments(X, posterior.means, posterior.stds, generator)
        sure = (y * mean <= 0).double()  # all hidden units 0: f(x) = 0, an error
        errors += torch.where(variance > 0, torch.special.ndtr((-y * mean / variance.sqrt()).double()), sure).mean()
    return float(errors) / draws


def fit_posterior(
    weights: list[Tensor], centre: list[Tensor], X: Tensor, y: Tensor, delta: float, generator: torch.Generator,
    *, steps: int, batch_size: int, lr: float = 0.03, std: float = 0.1, progress: bool = False,
) -> Posterior:  # fmt: skip
    """Minimise  E_Q loss + sqrt((KL + ln(2 sqrt(n)/delta_j)) / 2n)  over w, s and lambda from `weights`, by Adam.

    The loss log2(1 + exp(-y f)) lies above the 0-1 loss. Standard deviations start at `std`. Diverged if not finite.
    """
    n = len(X)
    w = [p.detach().clone().requires_grad_() for p in weights]
    log_s = [torch.full_like(p, math.log(std)).requires_grad_() for p in weights]
    log_lam = torch.tensor(2 * math.log(std), requires_grad=True)
    optimizer = torch.optim.Adam([*w, *log_s, log_lam], lr=lr)
    decay, batch = cosine(steps), batches(n, min(batch_size, n), generator)
    for step in tqdm(range(steps), desc="posterior", disable=not progress):
        i = next(batch)
        s = [p.exp() for p in log_s]
        mean, variance = output_moments(X[i], w, s, generator)
        f = mean + _root(variance) * torch.randn(mean.shape, generator=generator)
        j = B_GRID * (math.log(C_GRID) - log_lam)
        information = divergence(w, s, centre, log_lam.exp()) + math.log(2 * math.sqrt(n) / delta) + grid_price(j)
        objective = F.softplus(-y[i] * f).mean() / math.log(2) + (information / (2 * n)).sqrt()
        if not objective.isfinite():
            raise Diverged(f"the PAC-Bayes objective is {objective.item():g} at step {step}")
        for group in optimizer.param_groups:
            group["lr"] = lr * decay(step)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        with torch.no_grad():
            log_lam.clamp_(max=math.log(C_GRID) - 1 / B_GRID)
    j_last = max(1, round(B_GRID * (math.log(C_GRID) - log_lam.item())))
    return Posterior([p.detach() for p in w], [p.detach().exp() for p in log_s], j_last)


def grid_price(j: Tensor) -> Tensor:
    """ln(pi^2 j^2 / 6): delta_j = 6 delta/(pi^2 j^2) sums to delta over j = 1, 2, ..."""
    return (math.pi**2 * j.square() / 6).log()


def certificate(
    posterior: Posterior, centre: list[Tensor], X: Tensor, y: Tensor, delta: float, generator: torch.Generator,
    *, draws: int = 200, delta_draws: float = 0.01,
) -> Certificate:  # fmt: skip
    """Bound R(Q) with probability 1 - delta - delta_draws: first the Monte-Carlo error of R_S(Q), then PAC-Bayes.

    R_S(Q) <= kl^-1(estimate, ln(1/delta_draws)/m) with m independent draws (Chernoff), and R(Q) <= kl^-1 of that.
    """
    estimate = gibbs_error(posterior, X, y, draws, generator)
    upper = kl_inverse(min(estimate, 1.0), math.log(1 / delta_draws) / (draws * len(X)))
    w, s, w_0 = ([p.double() for p in ps] for ps in (posterior.means, posterior.stds, centre))
    KL = float(divergence(w, s, w_0, prior_variance(posterior.j)))
    price = float(grid_price(torch.tensor(float(posterior.j))))
    return Certificate(estimate, upper, KL, pac_bayes_bound(upper, KL, len(X), delta * math.exp(-price)))
