"""Mandt, Hoffman & Blei 2017: SGD with a constant step samples a Gaussian around the minimum, at best a posterior.

Their letters are ours but for N = n, S = B, ε = η, D = p, A = H, BBᵀ = C, and their preconditioner H, here P.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from phenomena.gradient_noise import noise_factor
from phenomena.program import Values, main
from phenomena.quadratic_sgd import (
    Gradient,
    LeastSquares,
    additive_gradient,
    continuous_covariance,
    draw_batches,
    excess_loss,
    least_squares,
    minibatch_covariance,
    minibatch_gradient,
    run_chains,
    stability_limit,
    stationary_covariance,
)


class Setting(NamedTuple):
    """How much one seed computes."""

    diabetes: int  # samples of 442
    cancer: int  # samples of 569
    chains: int
    records: int  # of each chain
    relaxations: int  # of the flattest direction, before the records and again while they are taken
    shares: tuple[float, ...]  # η, by the stability limit of the batch size
    additive: tuple[float, ...]  # η λ₁
    around: tuple[float, ...]  # η, by the optimal rate of Theorem 1
    logistic: tuple[float, ...]  # η λ₁


SHARES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9)
ADDITIVE = (0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 1.8)
AROUND = tuple(2 ** (k / 2) for k in range(-3, 4))
LOGISTIC = (0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6)
SETTINGS = {
    "smoke": Setting(350, 450, 40, 4, 1, (0.1, 0.6, 0.9), (0.05, 1.0), (1.0, 2.0, 4.0), (0.2, 1.6)),
    "laptop": Setting(350, 450, 2000, 20, 2, SHARES, ADDITIVE, AROUND, LOGISTIC),
    "paper": Setting(442, 569, 20_000, 20, 3, SHARES, ADDITIVE, AROUND, LOGISTIC),
}
BATCHES = (1, 8)  # of the curves against the rate
B = 4  # of the approximation to a posterior, and of logistic regression
COMPONENTS, CANCER_COMPONENTS = 8, 2
FAR = 0.6  # share of the stability limit beyond which a measured variance is itself too variable to be judged


def components(X: Tensor, k: int) -> Tensor:
    """The first k principal components of the standardised features, (n, k)."""
    X = (X - X.mean(0)) / X.std(0)
    return X @ torch.linalg.svd(X, full_matrices=False).Vh[:k].mT


def diabetes(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n patients, X (n, 8) and y (n,), centred; y in units of the residual, so n · L is a negative log likelihood."""
    data = load_diabetes()
    X, y = components(torch.from_numpy(data.data), COMPONENTS), torch.from_numpy(data.target)
    drawn = torch.randperm(len(X), generator=generator)[:n]
    X, y = X[drawn] - X[drawn].mean(0), y[drawn] - y[drawn].mean()
    return X, y / (X @ least_squares(X, y).minimum - y).square().mean().sqrt()


def halves(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n patients, X (n, 9) with a constant, y (n,) in {-1, 1}: above the median or not, classes that overlap."""
    X, y = diabetes(n, generator)
    return torch.cat([X, torch.ones_like(X[:, :1])], 1), (2.0 * (y > y.median()) - 1).double()


def cancer(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n tumours, X (n, 3) of two components and a constant, y (n,) in {-1, 1}: classes that hardly overlap."""
    data = load_breast_cancer()
    X, y = components(torch.from_numpy(data.data), CANCER_COMPONENTS), 2.0 * torch.from_numpy(data.target) - 1
    drawn = torch.randperm(len(X), generator=generator)[:n]
    X = X[drawn] / X[drawn].std(0)
    return torch.cat([X, torch.ones_like(X[:, :1])], 1), y[drawn].double()


def logistic(X: Tensor, y: Tensor) -> LeastSquares:
    """Minimum, Hessian and covariance of one sample's gradient there, of mean log(1 + e^(-y xᵀθ)) + |θ|²/(2n)."""
    n, p = X.shape
    theta = torch.zeros(p, dtype=X.dtype)
    for _ in range(50):  # Newton's steps
        s = torch.sigmoid(-y * (X @ theta))
        G = -X * (y * s)[:, None]
        H = (X * (s * (1 - s))[:, None]).mT @ X / n + torch.eye(p, dtype=X.dtype) / n
        step = torch.linalg.solve(H, G.mean(0) + theta / n)
        theta = theta - step
        if step.norm() < 1e-10:
            return LeastSquares(theta, H, torch.cov(G.mT, correction=0))
    raise ArithmeticError("Newton's method found no minimum of the logistic loss in 50 steps")


def logistic_gradient(X: Tensor, y: Tensor, B: int, generator: torch.Generator) -> Gradient:
    """Gradients of the same loss on a fresh batch of B with replacement for each chain."""

    def gradient(theta: Tensor) -> Tensor:
        batch = draw_batches(len(X), B, len(theta), generator)
        x = X[batch]
        pull = y[batch] * torch.sigmoid(-y[batch] * (x @ theta[:, :, None]).squeeze(2))
        return theta / len(X) - (pull[:, None, :] @ x).squeeze(1) / B

    return gradient


def deviations(gradient: Gradient, problem: LeastSquares, eta: float, setting: Setting, mu: float = 0.0) -> Tensor:
    """θ - θ* (N, p) of stationary chains, recorded after the setting's relaxation times from the minimum."""
    slowest = eta / (1 - mu) * float(torch.linalg.eigvalsh(problem.H)[0])
    every = max(math.ceil(setting.relaxations / slowest / setting.records), 5)
    start = problem.minimum.repeat(setting.chains, 1)
    records = run_chains(gradient, start, eta, 2 * setting.records * every, every=every, mu=mu)
    return (records[setting.records :] - problem.minimum).flatten(0, 1)


def second_moment(delta: Tensor) -> Tensor:
    """Mean of δ δᵀ (p, p), about the minimum and not about the mean."""
    return delta.mT @ delta / len(delta)


def kl(covariance: Tensor, H: Tensor, n: int, mean: Tensor | None = None) -> float:
    """KL divergence of N(θ* + mean, covariance) from the posterior N(θ*, H⁻¹/n), in nats."""
    zero = torch.zeros_like(H[0])
    sampled = MultivariateNormal(zero if mean is None else mean, covariance)
    return float(kl_divergence(sampled, MultivariateNormal(zero, precision_matrix=n * H)))


def sampled_kl(delta: Tensor, H: Tensor, n: int) -> float:
    """The same for the mean and covariance of samples δ (N, p)."""
    return kl(torch.cov(delta.mT), H, n, delta.mean(0))


def optimal_rate(C: Tensor, B: int, n: int) -> float:
    """η* = 2 B p / (n Tr C), the rate of smallest KL divergence (Theorem 1: ε* = 2 S D / (N Tr BBᵀ))."""
    return 2 * B * len(C) / (n * float(C.trace()))


def distance(S: Tensor, T: Tensor) -> float:
    """Frobenius norm of S - T, relative to that of T."""
    return float((S - T).norm() / T.norm())


def isotropic(C: Tensor) -> Tensor:
    """Noise with the same trace in all directions."""
    return C.trace() / len(C) * torch.eye(len(C), dtype=C.dtype)


def worst(measured: list[float], theory: list[float]) -> float:
    """Largest relative distance of two curves."""
    return max(abs(a / b - 1) for a, b in zip(measured, theory, strict=True))


def curves(name: str, covariances: dict[str, list[Tensor]], H: Tensor) -> dict[str, list[float]]:
    """Excess loss and variance along the top eigenvector against the rate, one curve for each theory."""
    v = torch.linalg.eigh(H).eigenvectors[:, -1]
    top = {f"top_{key}_{name}": [float(v @ S @ v) for S in many] for key, many in covariances.items()}
    return top | {f"excess_{key}_{name}": [excess_loss(H, S) for S in many] for key, many in covariances.items()}


def additive(problem: LeastSquares, setting: Setting, generator: torch.Generator) -> dict[str, float | list[float]]:
    """Gaussian noise of a constant covariance, at rates up to the edge of stability."""
    _, H, C = problem
    lam = float(torch.linalg.eigvalsh(H)[-1])
    still = LeastSquares(torch.zeros_like(H[0]), H, C / B)
    rates = [x / lam for x in setting.additive]
    noisy = additive_gradient(H, C / B, generator)
    values: dict[str, float | list[float]] = {"rates_additive": list(setting.additive)}
    theory = {
        "sim": [second_moment(deviations(noisy, still, eta, setting)) for eta in rates],
        "continuous": [continuous_covariance(H, C / B, eta) for eta in rates],
        "discrete": [stationary_covariance(H, C / B, eta) for eta in rates],
    }
    found = curves("additive", theory, H)
    for key in ("discrete", "continuous"):
        values[f"additive_error_{key}"] = worst(found["excess_sim_additive"], found[f"excess_{key}_additive"])
    ratio = [a / b for a, b in zip(found["top_sim_additive"], found["top_continuous_additive"], strict=True)]
    one = setting.additive.index(1.0)
    return values | found | {"gap_additive": ratio, "gap_at_one": ratio[one], "gap_at_small": ratio[0]}


def minibatches(
    X: Tensor, y: Tensor, B: int, setting: Setting, generator: torch.Generator
) -> dict[str, float | list[float]]:
    """Batches of B with replacement, at rates up to the limit of stability; keys end in _b{B}."""
    problem, limit = least_squares(X, y), stability_limit(X, B)
    _, H, C = problem
    lam, V = torch.linalg.eigh(H)
    rates, name = [share * limit for share in setting.shares], f"b{B}"
    gradient = minibatch_gradient(X, y, B, generator)
    samples = [deviations(gradient, problem, eta, setting) for eta in rates]
    theory = {
        "sim": [second_moment(delta) for delta in samples],
        "continuous": [continuous_covariance(H, C / B, eta) for eta in rates],
        "discrete": [stationary_covariance(H, C / B, eta) for eta in rates],
        "exact": [minibatch_covariance(X, y, eta, B) for eta in rates],
    }
    found = curves(name, theory, H)
    near = sum(share <= FAR for share in setting.shares)
    errors = {
        f"{key}_error_{name}": worst(found[f"excess_sim_{name}"][:near], found[f"excess_{key}_{name}"][:near])
        for key in ("continuous", "discrete", "exact")
    }
    kurtosis = [excess_kurtosis(delta @ V[:, -1]) for delta in samples]
    return {
        f"rates_{name}": [float(eta * lam[-1]) for eta in rates],
        f"limit_{name}": float(limit * lam[-1] / 2),
        f"kurtosis_{name}": kurtosis,
        f"kurtosis_far_{name}": kurtosis[-1],
        **found,
        **errors,
    }  # fmt: skip


def excess_kurtosis(x: Tensor) -> float:
    """Fourth moment over the squared second, less the Gaussian's 3."""
    x = x - x.mean()
    return float((x**4).mean() / (x**2).mean() ** 2 - 3)


def best(factors: list[float], divergence: list[float]) -> float:
    """The factor of smallest divergence, from the parabola through the three lowest points, in the logarithm."""
    low = min(max(divergence.index(min(divergence)), 1), len(factors) - 2)
    x = torch.tensor(factors[low - 1 : low + 2], dtype=torch.float64).log()
    _, b, a = torch.linalg.solve(torch.stack([x**0, x, x**2], 1), torch.tensor(divergence[low - 1 : low + 2]).double())
    return math.exp(float(-b / (2 * a)))


def posterior(X: Tensor, y: Tensor, setting: Setting, generator: torch.Generator) -> dict[str, float | list[float]]:
    """How near to the posterior the chains come: at the rates around η*, and with a preconditioner."""
    problem, n = least_squares(X, y), len(X)
    _, H, C = problem
    optimum, factors = optimal_rate(C, B, n), list(setting.around)
    _, V = torch.linalg.eigh(H)
    gradient, half = minibatch_gradient(X, y, B, generator), minibatch_gradient(X, y, B // 2, generator)
    samples = [deviations(gradient, problem, f * optimum, setting) for f in factors]
    divergence = [sampled_kl(delta, H, n) for delta in samples]
    halved = [sampled_kl(deviations(half, problem, f * optimum / 2, setting), H, n) for f in factors]
    at, measured = factors.index(1.0), second_moment(samples[factors.index(1.0)])
    values: dict[str, float | list[float]] = {
        "rates_optimum": factors,
        "optimum": float(optimum * torch.linalg.eigvalsh(H)[-1]),
        "kl_sim": divergence,
        "kl_continuous": [kl(continuous_covariance(H, C / B, f * optimum), H, n) for f in factors],
        "kl_exact": [kl(minibatch_covariance(X, y, f * optimum, B), H, n) for f in factors],
        "best_rate": best(factors, divergence),
        "best_rate_half": best(factors, halved) / 2,  # by the optimum of B, not of B / 2
        "kl_scalar": divergence[at],
        "distance_linear": distance(measured, continuous_covariance(H, C / B, optimum)),
        "distance_linear_isotropic": distance(measured, continuous_covariance(H, isotropic(C) / B, optimum)),
        "kurtosis_optimum": excess_kurtosis(samples[at] @ V[:, -1]),
        "kl_halved_batch": halved,
    }
    # With θ = R u and u descended by plain SGD, θ is descended with the preconditioner P = R Rᵀ.
    w, U = torch.linalg.eigh(C)
    for name, power in (("preconditioned", -0.5), ("root", -0.25)):  # P ~ C⁻¹ (Theorem 2), C^-½ (as in AdaGrad)
        R = U * w**power @ U.mT
        inner = least_squares(X @ R, y)
        noisy = minibatch_gradient(X @ R, y, B, generator)
        delta = deviations(noisy, inner, optimal_rate(inner.C, B, n), setting) @ R.mT
        values[f"kl_{name}"] = sampled_kl(delta, H, n)
    return values


def averaging(X: Tensor, y: Tensor, setting: Setting, generator: torch.Generator) -> dict[str, float]:
    """Means over the iterates of one epoch, and of a tenth of it, at a large rate."""
    problem, n = least_squares(X, y), len(X)
    eta = 0.4 / float(torch.linalg.eigvalsh(problem.H)[-1])
    window, chains = n // B, max(setting.chains // 4, 20)
    start = problem.minimum.repeat(chains, 1)
    records = run_chains(minibatch_gradient(X, y, B, generator), start, eta, 9 * window)[window:] - problem.minimum
    values = {}
    for name, length in (("averaged", window), ("averaged_tenth", window // 10)):
        whole = len(records) // length * length
        means = records[:whole].unflatten(0, (-1, length)).mean(1).flatten(0, 1)
        values[f"kl_{name}"] = sampled_kl(means, problem.H, n)
    return values


def scaling(X: Tensor, y: Tensor, setting: Setting, generator: torch.Generator) -> dict[str, float]:
    """Excess loss of batches of 8 over that of one sample, at 8 times the rate (small and large) or the same."""
    problem = least_squares(X, y)
    lam = float(torch.linalg.eigvalsh(problem.H)[-1])

    def excess(x: float, B: int) -> float:
        noisy = minibatch_gradient(X, y, B, generator)
        return excess_loss(problem.H, second_moment(deviations(noisy, problem, x / lam, setting)))

    single = excess(0.02, 1)
    return {
        "same_ratio": excess(0.16, 8) / single,
        "same_rate": excess(0.02, 8) / single,
        "same_ratio_large": excess(1.2, 8) / excess(0.15, 1),
    }


def without_replacement(X: Tensor, y: Tensor, setting: Setting, generator: torch.Generator) -> dict[str, float]:
    """Excess loss of batches of half the samples, without replacement over with, and with over with again."""
    problem, half = least_squares(X, y), len(X) // 2
    eta, fewer = (
        0.5 / float(torch.linalg.eigvalsh(problem.H)[-1]),
        setting._replace(chains=max(setting.chains // 5, 10)),
    )

    def excess(replacement: bool) -> float:
        noisy = minibatch_gradient(X, y, half, generator, replacement=replacement)
        return excess_loss(problem.H, second_moment(deviations(noisy, problem, eta, fewer)))

    return {
        "without_over_with": excess(False) / (reference := excess(True)),
        "with_over_with": excess(True) / reference,
        "factor_without": noise_factor(len(X), half, replacement=False) * half,
    }


def momentum(X: Tensor, y: Tensor, setting: Setting, generator: torch.Generator) -> dict[str, float]:
    """Excess loss of the heavy ball (μ = 0.9) over that of plain SGD, at a tenth of the rate and at the same rate."""
    problem, mu = least_squares(X, y), 0.9
    eta = optimal_rate(problem.C, B, len(X))
    noisy = minibatch_gradient(X, y, B, generator)

    def excess(eta: float, mu: float) -> float:
        return excess_loss(problem.H, second_moment(deviations(noisy, problem, eta, setting, mu)))

    plain = excess(eta, 0.0)
    return {"momentum_over_plain": excess((1 - mu) * eta, mu) / plain, "momentum_same_rate": excess(eta, mu) / plain}


def classification(
    name: str, X: Tensor, y: Tensor, setting: Setting, generator: torch.Generator
) -> dict[str, float | list[float]]:
    """Logistic regression with a Gaussian prior: H and C at the minimum are all that the theories know of the loss."""
    problem, n = logistic(X, y), len(X)
    _, H, C = problem
    lam = float(torch.linalg.eigvalsh(H)[-1])
    gradient = logistic_gradient(X, y, B, generator)
    rates = [x / lam for x in setting.logistic]
    theory = {
        "sim": [second_moment(deviations(gradient, problem, eta, setting)) for eta in rates],
        "continuous": [continuous_covariance(H, C / B, eta) for eta in rates],
        "discrete": [stationary_covariance(H, C / B, eta) for eta in rates],
    }
    found = curves(name, theory, H)
    optimum = optimal_rate(C, B, n)
    measured = second_moment(deviations(gradient, problem, optimum, setting))
    ratio = [a / b for a, b in zip(found[f"excess_sim_{name}"], found[f"excess_discrete_{name}"], strict=True)]
    return {
        f"rates_{name}": list(setting.logistic),
        f"optimum_{name}": optimum * lam,
        f"distance_{name}": distance(measured, continuous_covariance(H, C / B, optimum)),
        f"distance_{name}_isotropic": distance(measured, continuous_covariance(H, isotropic(C) / B, optimum)),
        f"off_{name}": ratio,
        f"off_{name}_small": ratio[0],
        f"off_{name}_large": ratio[-1],
        **found,
    }


def measure(seed: int, scale: str) -> Values:
    """All of it for one seed, which draws the samples of the data sets and all noise."""
    setting, generator = SETTINGS[scale], torch.Generator().manual_seed(seed)
    X, y = diabetes(setting.diabetes, generator)
    problem = least_squares(X, y)
    values = additive(problem, setting, generator)
    for size in BATCHES:
        values |= minibatches(X, y, size, setting, generator)
    parts: list[Callable[..., dict]] = [posterior, averaging, scaling, without_replacement, momentum]
    for part in parts:
        values |= part(X, y, setting, generator)
    lam = float(torch.linalg.eigvalsh(problem.H)[-1])
    values["limit_full"] = stability_limit(X, len(X), replacement=False) * lam / 2
    values |= classification("halves", *halves(setting.diabetes, generator), setting, generator)
    return values | classification("cancer", *cancer(setting.cancer, generator), setting, generator)


if __name__ == "__main__":
    main(measure)
