"""How heavy is a tail? The stable index from sums, Hill's index from the largest values, and what misleads each.

A symmetric α-stable variable has the characteristic function exp(-|σ t|^α), 0 < α <= 2: tails P(|X| > x) ~ x^-α and no
variance for α < 2, the Gaussian N(0, 2σ²) for α = 2. Sums of m of them have its law, m^(1/α) times as wide.

`stable_index` reads α from that growth. It is an estimate for stable laws ONLY: it measures growth, not tails.
- Every law with a variance reads below 2 at finite m when its values spread over scales (`finite_variance_index`): the
  bias falls as 1/log m, so at any feasible m it looks like a number of its own. A stable law reads the same at every m.
- Pooled coordinates of unequal variance are such a law: Gaussian noise reads below 2 by the ratio of the arithmetic to
  the geometric mean of the variances (`pooled_gaussian_index`).
- The members of a sum must be independent. Neighbours that move together (weights of one unit) grow as m: α near 1.
- log|x| of a value near 0 counts as much as a tail; a coordinate that never moves, at a `floor`, swamps everything.
`hill` looks at the tail alone and needs no stability, but k decides: too large and it reads the body, too small and it
is noise of relative size 1/√k. A Hill index above 2 means a finite variance: no stable law but the Gaussian then fits.
"""

import math

import torch
from torch import Tensor

MEAN_LOG_NORMAL = -(0.5772156649015329 + math.log(2)) / 2  # E log|N(0, 1)|


def stable(alpha: float, shape: tuple[int, ...], generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Draw symmetric α-stable variables with characteristic function exp(-|scale · t|^α), float64 of the given shape.

    Chambers, Mallows & Stuck 1976 for skewness 0: with V uniform on (-π/2, π/2) and W exponential of mean 1,
    X = sin(αV) / cos(V)^(1/α) · (cos((1-α)V) / W)^((1-α)/α). α = 1 is Cauchy, α = 2 is N(0, 2 scale²).
    """
    if not (0 < alpha <= 2 and scale > 0):
        raise ValueError(f"a stable law needs 0 < alpha <= 2 and scale > 0, got alpha = {alpha} and scale = {scale}")
    V = math.pi * (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5)
    W = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    X = torch.sin(alpha * V) / V.cos() ** (1 / alpha) * (torch.cos((1 - alpha) * V) / W) ** ((1 - alpha) / alpha)
    return scale * X


def stable_index(X: Tensor, m: int | None = None, *, floor: float = 0.0) -> Tensor:
    """α̂ of symmetric stable X (..., N), i.i.d. along the last axis: (...), float64; not clipped, so it can exceed 2.

    With Y_i the sums of m consecutive values, 1/α̂ = (mean log|Y| - mean log|X|) / log m (Mohammadi, Mohammadpour &
    Ogata 2015, Corollary 2.4 by the code of Simsekli et al. 2019; their m is the largest divisor of N up to √N). m is
    ⌊√N⌋ unless given; the last N mod m values are left out. `floor` is added to each |X| and |Y|: the authors' code
    adds 2⁻⁵², so that a value of exactly 0 counts as log 2⁻⁵² = -36. At floor 0 such a value is refused.
    """
    N = X.shape[-1]
    m = math.isqrt(N) if m is None else m
    if not 2 <= m <= N:
        raise ValueError(f"stable_index needs sums of 2 <= m <= N values, got m = {m} with N = {N}: give more values")
    _finite("X", X)
    X = X[..., : N - N % m].double()
    Y = X.reshape(*X.shape[:-1], -1, m).sum(-1)
    if floor == 0 and not (X.all() and Y.all()):
        raise ValueError("stable_index: a value or a sum is exactly 0, its log infinite: drop what never moves")
    return math.log(m) / (torch.log(Y.abs() + floor).mean(-1) - torch.log(X.abs() + floor).mean(-1))


def finite_variance_index(X: Tensor, m: int) -> Tensor:
    """α̂ that `stable_index` reads at m on i.i.d. values with the mean square and mean log of X (..., N): (...).

    Sums of many values of finite variance are Gaussian whatever the tail, so E log|Y| = ½ log(m E X²) + E log|N(0, 1)|
    and 1/α̂ = ½ + (½ log E X² + E log|N(0, 1)| - E log|X|) / log m. Our derivation, for mean 0 and large m.
    """
    _finite("X", X)
    X = X.double()
    if not X.all():
        raise ValueError("finite_variance_index: a value is exactly 0, its log infinite: drop what never moves")
    return _index(0.5 * X.square().mean(-1).log() + MEAN_LOG_NORMAL - X.abs().log().mean(-1), m)


def pooled_gaussian_index(variances: Tensor, m: int) -> float:
    """α̂ that `stable_index` reads at m on independent N(0, σ_j²), pooled over the coordinates j in random order.

    `finite_variance_index` for that law: 1/α̂ = ½ + log(A/G) / (2 log m), with A the arithmetic and G the geometric mean
    of `variances` (p,), all above 0. Equal variances give 2; anything else less, with no heavy tail anywhere.
    """
    _finite("variances", variances)
    if not (variances > 0).all():
        raise ValueError("pooled_gaussian_index needs variances above 0: drop the coordinates that never move")
    v = variances.double()
    return float(_index(0.5 * (v.mean().log() - v.log().mean()), m))


def hill(X: Tensor, k: int) -> float:
    """Hill's tail index 1/mean_{i<=k} log(|X|_(i) / |X|_(k+1)) from the k largest of |X| (N,); standard error α/√k.

    For P(|X| > x) ~ x^-α (Hill 1975). It depends on k: show it for several.
    """
    if X.ndim != 1 or not 1 <= k < len(X):
        raise ValueError(f"hill needs X (N,) and 1 <= k < N, got shape {tuple(X.shape)} and k = {k}")
    _finite("X", X)
    largest = X.abs().double().topk(k + 1).values
    if largest[k] == 0 or largest[0] == largest[k]:
        raise ValueError(f"hill: the {k + 1} largest values are equal or include 0: no tail to measure, take another k")
    return float(1 / (largest[:k] / largest[k]).log().mean())


def _index(excess: Tensor, m: int) -> Tensor:
    if m < 2:
        raise ValueError(f"a sum needs m >= 2 values, got m = {m}")
    return 1 / (0.5 + excess / math.log(m))


def _finite(name: str, X: Tensor) -> None:
    if not X.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite entries: look at the run that made it")
