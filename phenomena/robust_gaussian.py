"""Why linear is enough to be fooled, and what is the best that any classifier can do: two models solved exactly.

Gaussian model: x | y ~ N(yμ, σ²I) with y = ±1 equally likely, and an adversary that moves x by δ, ‖δ‖ <= ε. A linear
rule sign(w·x) loses at most ε‖w‖_* of its margin, with the dual norm ‖w‖₁ of linf and ‖w‖₂ of l2, so that all its
accuracies are values of the normal distribution function Φ. In d dimensions ‖w‖₁ is up to √d ‖w‖₂: small changes of
all inputs add up, and no curvature is needed.

The best rule is w* = μ - z, z the nearest point to μ in the ball of radius ε; for linf, w* = soft(μ, ε). Proof. The
adversary that moves every x by -yz leaves x | y ~ N(yw*, σ²I), whatever the classifier, and no classifier tells these
apart with an accuracy above Φ(‖w*‖₂/σ). The linear rule w* has this accuracy against every adversary: z is where w*·δ
is largest in the ball, so w*·μ - ε‖w*‖_* = w*·(μ - z) = ‖w*‖₂². (Bhagoji, Cullina & Mittal 2019, by transport.)

Tsipras et al. 2019, Section 2.1: y = ±1, x₁ = y with probability p and -y otherwise, x₂, ..., x_{d+1} ~ N(ηy, 1): one
robust feature and d that are useful together, and can be turned around by ε = 2η. Their Theorem 2.1: a classifier of
standard accuracy 1 - δ has robust accuracy at most δ p/(1 - p), for p >= 1/2 and ε >= 2η. Proof. Moving all of
x₂, ..., x_{d+1} by -2ηy turns the samples of label y into samples of label -y but for the odds of x₁, that is, up to a
factor of at most p/(1 - p) in their density. What is right for y there is wrong for -y, and errors have probability δ.
"""

import torch
from torch import Tensor

from phenomena.attacks import Norm, project


def soft(mu: Tensor, eps: float) -> Tensor:
    """Soft threshold sign(μ_i) max(|μ_i| - ε, 0) of each entry: the best rule against linf."""
    return mu.sign() * (mu.abs() - eps).clamp(min=0)


def optimal_rule(mu: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """w* = μ - argmin_{‖z‖ <= ε} ‖μ - z‖₂ (d,), of the largest robust accuracy among all classifiers; 0 if ‖μ‖ <= ε."""
    radius = torch.as_tensor(eps, dtype=mu.dtype)  # a Python number would become a float32
    return mu - project(mu[None], radius, norm)[0]


def optimal_accuracy(mu: Tensor, sigma: float, eps: float, norm: Norm = "linf") -> float:
    """Φ(‖w*‖₂/σ), the largest robust accuracy of any classifier; ε = 0: the Bayes accuracy."""
    return float(torch.special.ndtr(torch.linalg.vector_norm(optimal_rule(mu, eps, norm)) / sigma))


def dual_norm(w: Tensor, norm: Norm) -> Tensor:
    """‖w‖_* = max of w·δ over the unit ball of `norm`, for w (..., d): ‖w‖₁ for linf, ‖w‖₂ for l2."""
    return torch.linalg.vector_norm(w, ord=1 if norm == "linf" else 2, dim=-1)


def robust_accuracy(w: Tensor, mu: Tensor, sigma: float, eps: float | Tensor, norm: Norm = "linf") -> Tensor:
    """Φ((w·μ - ε‖w‖_*)/(σ‖w‖₂)) of rules w (..., d), in [0, 1]; ε >= 0, one or as many as rules; w = 0 guesses: 1/2."""
    if sigma <= 0:
        raise ValueError(f"the Gaussian model needs sigma > 0, not {sigma}")
    return _phi(w @ mu - eps * dual_norm(w, norm), sigma * torch.linalg.vector_norm(w, dim=-1))


def sample(n: int, mu: Tensor, sigma: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """X (n, d) and y (n,) = ±1 of the Gaussian model, in the dtype of mu (d,)."""
    y = _signs(n, 0.5, mu.dtype, generator)
    return y[:, None] * mu + sigma * torch.randn(n, len(mu), generator=generator, dtype=mu.dtype), y


def worst_margins(w: Tensor, X: Tensor, y: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """min_δ y w·(x + δ) = y w·x - ε‖w‖_* (n,): the exact inner maximum of adversarial training, for a linear rule.

    A loss of these margins that is smooth, convex and falling has its minimum over the Gaussian model at w ∝ w*: its
    gradient vanishes where a(μ - ε ∂‖w‖_*) = b σ² w with a, b > 0 (Stein's lemma), and that is the optimality of z.
    """
    return y * (X @ w) - eps * dual_norm(w, norm)


def tsipras_sample(n: int, d: int, p: float, eta: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """X (n, d + 1) float64 and y (n,) = ±1 of Tsipras' model, equation 3."""
    y = _signs(n, 0.5, torch.float64, generator)
    X = eta * y[:, None] + torch.randn(n, d + 1, generator=generator, dtype=torch.float64)
    X[:, 0] = y * _signs(n, p, torch.float64, generator)
    return X, y


def tsipras_accuracy(w: Tensor, p: float, eta: float, eps: float | Tensor) -> Tensor:
    """Exact accuracy of the rules w (..., d + 1) in Tsipras' model under linf attacks of radius ε (0: standard).

    p Φ((w₁ + η Σw_j - ε‖w‖₁)/‖v‖₂) + (1 - p) Φ((-w₁ + η Σw_j - ε‖w‖₁)/‖v‖₂), with v = (w₂, ..., w_{d+1}).
    """
    v = w[..., 1:]
    rest, length = eta * v.sum(-1) - eps * dual_norm(w, "linf"), torch.linalg.vector_norm(v, dim=-1)
    return p * _phi(w[..., 0] + rest, length) + (1 - p) * _phi(rest - w[..., 0], length)


def tsipras_bound(accuracy: Tensor, p: float) -> Tensor:
    """min(1, (1 - accuracy) p/(1 - p)): the largest robust accuracy at a standard one, ε >= 2η (Theorem 2.1)."""
    if not 0.5 <= p < 1:
        raise ValueError(f"the theorem needs 1/2 <= p < 1, not {p}")
    return ((1 - accuracy) * p / (1 - p)).clamp(max=1)


def _phi(margin: Tensor, length: Tensor) -> Tensor:
    """P(margin + length N(0, 1) > 0), half of ties: also for length 0."""
    return torch.special.ndtr(torch.where(margin == 0, margin, margin / length))


def _signs(n: int, p: float, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """+1 with probability p, else -1, (n,)."""
    return 2 * (torch.rand(n, generator=generator, dtype=torch.float64) < p).to(dtype) - 1
