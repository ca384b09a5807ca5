"""Negrea, Dziugaite & Roy 2020: predictors in no class with a tight uniform bound, explained by their surrogates."""

from statistics import fmean

import torch
from torch import Tensor

from phenomena.data import gaussian_design
from phenomena.program import Values, main
from phenomena.regression import min_norm, ridge
from phenomena.surrogates import (
    benign_tail,
    classification_error,
    decomposition,
    denoised,
    equivalent_risk,
    expected_errors,
    gaussian_risk,
    hypercube,
    linear_risk,
    mean_noise_gap,
    one_step,
    twin,
)

# m training points of the hypercube, the dimensions D per point, samples and redrawn surrogates of each; n of the
# regression, designs X, and noises on each.
SETTINGS = {
    "smoke": {"m": 10, "per_point": [1, 8, 80], "samples": 3, "redrawn": 20, "sizes": [10, 20, 40], "designs": 2},
    "laptop": {
        "m": 50, "per_point": [1, 2, 4, 8, 20, 80, 200, 800], "samples": 5, "redrawn": 200,
        "sizes": [50, 100, 200, 400], "designs": 2,
    },
    "paper": {
        "m": 50, "per_point": [1, 2, 4, 8, 20, 80, 800, 8000], "samples": 10, "redrawn": 1000,
        "sizes": [50, 100, 200, 400, 800], "designs": 10,
    },
}  # fmt: skip
NOISES = 200
TAU2, WEAK_TAU2 = 2.0, 0.5  # |z|² above and below 1: the margin that the signal has on any point
THEORY_AT = 8  # D/m where risk and failure are neither 0 nor 1
HEAD, TAIL = 5, 20  # unit eigenvalues; tail eigenvalues per training point (half as many to start the growing tail)
SIGMA = 1.0


def signs(m: int, generator: torch.Generator) -> Tensor:
    """Labels ±1 (m,), each as often as the other."""
    return torch.randint(0, 2, (m,), generator=generator) * 2.0 - 1


def hypercube_errors(m: int, D: int, tau2: float, samples: int, generator: torch.Generator) -> dict[str, list[float]]:
    """R_S(h), R(h) and R_TS(h) of the one-step classifier on each of several samples, and R_TS of its mean (√m, 0)."""
    found: dict[str, list[float]] = {"training": [], "risk": [], "twin": [], "twin_mean": []}
    for _ in range(samples):
        y = signs(m, generator)
        X = hypercube(y, m, D, tau2, generator)
        w = one_step(X, y)
        mean = torch.zeros_like(w)
        mean[0] = w[0]  # E[w | y]: the noise averages to 0
        found["training"].append(classification_error(w, X, y))
        found["risk"].append(linear_risk(w, m, tau2))
        found["twin"].append(classification_error(w, twin(X), y))
        found["twin_mean"].append(classification_error(mean, twin(X), y))
    return found


def redrawn_empirical_risk(m: int, D: int, samples: int, redrawn: int, generator: torch.Generator) -> list[float]:
    """R_S(s) on each of several samples, s drawn from the law of h given the labels, by so many draws."""
    found = []
    for _ in range(samples):
        y = signs(m, generator)
        X = hypercube(y, m, D, TAU2, generator)
        surrogates = (one_step(hypercube(y, m, D, TAU2, generator), y) for _ in range(redrawn))
        found.append(fmean(classification_error(s, X, y) for s in surrogates))
    return found


def redrawn_gap(m: int, D: int, samples: int, generator: torch.Generator) -> float:
    """Mean |R(s) - R_S(s)| of one surrogate a sample, not averaged over its noise."""
    gaps = []
    for _ in range(samples):
        y = signs(m, generator)
        X = hypercube(y, m, D, TAU2, generator)
        s = one_step(hypercube(y, m, D, TAU2, generator), y)
        gaps.append(abs(linear_risk(s, m, TAU2) - classification_error(s, X, y)))
    return fmean(gaps)


def classification(
    m: int, per_point: list[int], samples: int, redrawn: int, generator: torch.Generator
) -> dict[str, float | list[float]]:
    """The hypercube over D at one m and over m at one D/m; its table of the decomposition, a row for each D."""
    D = [m * ratio for ratio in per_point]
    runs = {d: hypercube_errors(m, d, TAU2, samples, generator) for d in D}
    mean = {name: [fmean(runs[d][name]) for d in D] for name in ("training", "risk", "twin")}
    theory = [expected_errors(m, d, TAU2) for d in D]
    table = [
        # risk and empirical risk of the surrogate are one number, E R(h)
        decomposition(risk, training, exact.risk, exact.risk)
        for risk, training, exact in zip(mean["risk"], mean["training"], theory, strict=True)
    ]
    off = [abs(risk - sum(row)) for risk, row in zip(mean["risk"], table, strict=True)]
    at = m * THEORY_AT
    exact, found = expected_errors(m, at, TAU2), hypercube_errors(m, at, TAU2, 20 * samples, generator)
    surrogate = redrawn_empirical_risk(m, at, samples, redrawn, generator)
    points = [m // 2, m, 2 * m, 4 * m]
    over_m = [hypercube_errors(m_, 200 * m_, TAU2, 2, generator) for m_ in points]
    weak = hypercube_errors(m, D[-1], WEAK_TAU2, samples, generator)
    return {
        "D": D,
        "cube_training": mean["training"],
        "cube_risk": mean["risk"],
        "cube_twin": mean["twin"],
        "cube_training_theory": [e.training for e in theory],
        "cube_risk_theory": [e.risk for e in theory],
        "cube_twin_theory": [e.twin for e in theory],
        "cube_row_empirical": [row.empirical for row in table],
        "cube_row_excess": [row.excess for row in table],
        "cube_row_gap": [row.gap for row in table],
        "cube_row_price": [row.price for row in table],
        "cube_residual": max(off),
        "cube_training_largest": mean["training"][-1],
        "cube_risk_largest": mean["risk"][-1],
        "cube_risk_smallest": mean["risk"][0],
        "cube_twin_largest": mean["twin"][-1],
        "cube_twin_mean": fmean(runs[D[-1]]["twin_mean"]),
        "cube_twin_weak": fmean(weak["twin"]),
        "cube_risk_middle": fmean(found["risk"]),
        "cube_risk_middle_theory": exact.risk,
        "cube_twin_middle": fmean(found["twin"]),
        "cube_twin_middle_theory": exact.twin,
        "cube_gap_middle": fmean(abs(r - t) for r, t in zip(found["risk"], found["training"], strict=True)),
        "cube_surrogate_empirical": fmean(surrogate),
        "cube_surrogate_gap_one": redrawn_gap(m, at, 20 * samples, generator),
        "cube_surrogate_gap": fmean(abs(R_S - exact.risk) for R_S in surrogate),
        "points": points,
        "points_risk": [fmean(run["risk"]) for run in over_m],
        "points_twin": [fmean(run["twin"]) for run in over_m],
        "points_twin_least": min(min(run["twin"]) for run in over_m),
    }


def true_theta(p: int) -> Tensor:
    """θ* (p,): of norm 1, in the directions of the unit eigenvalues alone."""
    theta = torch.zeros(p, dtype=torch.float64)
    theta[:HEAD] = HEAD**-0.5
    return theta


def table_rows(
    h: Tensor, s: Tensor, X: Tensor, eps: Tensor, theta: Tensor, lam: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The decomposition's terms (K,) for K noises, each from its own formula and not as a difference.

    h (p, K) fitted to Xθ* + eps, eps (n, K), and s (p, 1) to Xθ*. The price is the mean ε² only if h and s
    interpolate, and the excess is the noise's own error and its product with the bias of s.
    """
    signal = (X @ theta)[:, None]
    empirical = (X @ h - signal - eps).square().mean(0)
    excess = lam @ ((h - s) * (h - s + 2 * (s - theta[:, None])))
    gap = gaussian_risk(s, theta, lam, SIGMA**2) - (X @ s - signal - eps).square().mean(0)
    return empirical, excess, gap, eps.square().mean(0)


def regression(n: int, lam: Tensor, designs: int, generator: torch.Generator) -> dict[str, float]:
    """Means over designs and noises of the risks and gaps of h, its twin, its surrogate and a refitted one."""
    theta, sigma2 = true_theta(len(lam)), SIGMA**2
    runs: list[dict[str, Tensor]] = []
    for _ in range(designs):
        X = gaussian_design(n, lam.sqrt(), generator)
        eps, fresh = SIGMA * torch.randn(2, n, NOISES, generator=generator, dtype=torch.float64)
        signal = (X @ theta)[:, None]
        labels = torch.cat([signal + eps, signal - eps, signal + fresh, signal], dim=1)
        h, h_twin, refitted, s = min_norm(X, labels).split([NOISES, NOISES, NOISES, 1], dim=1)
        R_h, R_s, R_refitted = (gaussian_risk(fit, theta, lam, sigma2) for fit in (h, s, refitted))
        rows = table_rows(h, s, X, eps, theta, lam)
        on_sample = {"h_twin": h_twin, "s": s, "refitted": refitted}
        RS = {name: (X @ fit - signal - eps).square().mean(0) for name, fit in on_sample.items()}
        # a fit to the twin sample, on S, is a fit to S, on its twin: the two are a pair
        RS_twin = (X @ s - signal + eps).square().mean(0)
        runs.append({
            "risk": R_h, "empirical": rows[0], "excess": rows[1], "gap": rows[2], "price": rows[3],
            "residual": (R_h - torch.stack(rows).sum(0)).abs(),
            "twin": RS["h_twin"], "twin_gap": (R_h - RS["h_twin"]).abs(), "own_gap": (R_h - rows[0]).abs(),
            "surrogate_gap": (R_s - RS["s"]).abs(), "surrogate_twin": RS_twin,
            "surrogate_twin_gap": (R_s - RS_twin).abs(), "refitted_gap": (R_refitted - RS["refitted"]).abs(),
        })  # fmt: skip
    found = {name: torch.cat([run[name] for run in runs]) for name in runs[0]}
    worst = {f"{name}_worst": float(found[name].max()) for name in ("residual", "empirical")}
    return {name: float(values.mean()) for name, values in found.items()} | worst


def ridge_residual(n: int, lam: Tensor, generator: torch.Generator) -> float:
    """How far the table's rows are from adding up for a fit that does not interpolate; least over the noises."""
    theta = true_theta(len(lam))
    X = gaussian_design(n, lam.sqrt(), generator)
    eps = SIGMA * torch.randn(n, NOISES, generator=generator, dtype=torch.float64)
    h, s = ridge(X, (X @ theta)[:, None] + eps, 0.1 / n), denoised(X, theta)[:, None]
    off = gaussian_risk(h, theta, lam, SIGMA**2) - torch.stack(table_rows(h, s, X, eps, theta, lam)).sum(0)
    return float(off.abs().min())


def noiseless_twin(n: int, lam: Tensor, generator: torch.Generator) -> float:
    """Empirical risk of the twin for labels without noise: it is the predictor itself."""
    theta = true_theta(len(lam))
    X = gaussian_design(n, lam.sqrt(), generator)
    return float((X @ denoised(X, theta) - X @ theta).square().mean())


def interpolation(sizes: list[int], designs: int, generator: torch.Generator) -> dict[str, float | list[float]]:
    """Minimum-norm regression over n: a tail of 20n features, one that grows as n^1.5, and no tail at all."""
    spectra = [benign_tail(HEAD, TAIL * n) for n in sizes]
    runs = [regression(n, lam, designs, generator) for n, lam in zip(sizes, spectra, strict=True)]
    growing = [benign_tail(HEAD, round(TAIL / 2 * n * (n / sizes[0]) ** 0.5)) for n in sizes]
    isotropic = [torch.ones(2 * n, dtype=torch.float64) for n in sizes]
    excess = {
        name: [regression(n, lam, 1, generator)["risk"] - SIGMA**2 for n, lam in zip(sizes, spectrum, strict=True)]
        for name, spectrum in (("growing", growing), ("isotropic", isotropic))
    }

    def theory(spectrum: list[Tensor]) -> list[float]:
        pairs = zip(sizes, spectrum, strict=True)
        return [equivalent_risk(lam, true_theta(len(lam)), SIGMA**2, n) for n, lam in pairs]

    gap_theory = [mean_noise_gap(n, SIGMA**2) for n in sizes]
    curves = ("risk", "empirical", "excess", "gap", "price", "twin", "own_gap", "twin_gap", "surrogate_gap",
              "surrogate_twin_gap", "refitted_gap")  # fmt: skip
    return {
        "n": sizes,
        **{name: [run[name] for run in runs] for name in curves},
        "risk_theory": theory(spectra),
        "surrogate_gap_theory": gap_theory,
        "excess_growing": excess["growing"],
        "excess_growing_theory": [risk - SIGMA**2 for risk in theory(growing)],
        "excess_isotropic": excess["isotropic"],
        "excess_isotropic_theory": [risk - SIGMA**2 for risk in theory(isotropic)],
        "bayes": SIGMA**2,
        "interpolation_error": max(run["empirical_worst"] for run in runs),
        "residual": max(run["residual_worst"] for run in runs),
        "residual_ridge": ridge_residual(sizes[0], spectra[0], generator),
        "risk_smallest": runs[0]["risk"],
        "risk_smallest_theory": theory(spectra)[0],
        "risk_largest": runs[-1]["risk"],
        "risk_largest_theory": theory(spectra)[-1],
        "risk_isotropic": excess["isotropic"][-1] + SIGMA**2,
        "twin_largest": runs[-1]["twin"],
        "twin_noiseless": noiseless_twin(sizes[0], spectra[0], generator),
        "twin_surrogate": runs[-1]["surrogate_twin"],
        "own_gap_largest": runs[-1]["own_gap"],
        "twin_gap_largest": runs[-1]["twin_gap"],
        "surrogate_gap_largest": runs[-1]["surrogate_gap"],
        "surrogate_gap_largest_theory": gap_theory[-1],
        "surrogate_twin_gap_largest": runs[-1]["surrogate_twin_gap"],
        "refitted_gap_largest": runs[-1]["refitted_gap"],
    }


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed."""
    setting = dict(SETTINGS[scale])
    sizes, designs = setting.pop("sizes"), setting.pop("designs")
    generator = torch.Generator().manual_seed(seed)
    values = classification(**setting, generator=generator) | interpolation(sizes, designs, generator)
    return values | {"residual_worst": max(values["residual"], values["cube_residual"])}


if __name__ == "__main__":
    main(measure)
