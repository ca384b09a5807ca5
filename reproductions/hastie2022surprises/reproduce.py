"""Hastie, Montanari, Rosset & Tibshirani 2022: minimum-norm least squares through the interpolation threshold."""

from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

from phenomena.curves import peak_ratio
from phenomena.program import Values, main
from phenomena.regression import (
    excess_risk,
    min_norm,
    min_norm_risk,
    optimal_ridge,
    ridge,
    ridge_risk,
    seen_and_unseen,
    subset_risk,
)

# n samples (the samples of the model-wise sweeps), draws: independent data sets that one seed averages over.
SETTINGS = {
    "smoke": {"n": 40, "draws": 8},
    "laptop": {"n": 200, "draws": 20},
    "paper": {"n": 1000, "draws": 200},
}
# p/n, and n/p sample-wise
GAMMA = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0]
SIGMA2, SNR, WEAK_SNR, DECAY = 1.0, 5.0, 0.5, 2.0


def draw(n: int, beta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """X (n, p) with standard Gaussian rows, y = Xβ + ε with ε of variance σ²."""
    X = torch.randn(n, len(beta), generator=generator, dtype=torch.float64)
    return X, X @ beta + SIGMA2**0.5 * torch.randn(n, generator=generator, dtype=torch.float64)


def direction(p: int, r2: float, generator: torch.Generator) -> Tensor:
    """A β (p,) of squared length r² and random direction."""
    beta = torch.randn(p, generator=generator, dtype=torch.float64)
    return beta * (r2**0.5 / beta.norm())


def risks(n: int, p: int, r2: float, draws: int, generator: torch.Generator) -> tuple[list[float], list[float]]:
    """Excess risks of the minimum-norm and of the optimally tuned ridge solution, one a draw."""
    lam = float(optimal_ridge(p / n, r2, SIGMA2))
    plain, ridged = [], []
    for _ in range(draws):
        beta = direction(p, r2, generator)
        X, y = draw(n, beta, generator)
        plain.append(excess_risk(min_norm(X, y), beta))
        ridged.append(excess_risk(ridge(X, y, lam), beta))
    return plain, ridged


def model_wise(n: int, draws: int, generator: torch.Generator) -> dict[str, float | list[float]]:
    """p sweeps through n at fixed ‖β‖: Figure 2 of the paper, with medians where the mean is infinite."""
    p = [round(g * n) for g in GAMMA]
    runs = [risks(n, p_, SNR * SIGMA2, draws, generator) for p_ in p]
    weak = [fmean(risks(n, p_, WEAK_SNR * SIGMA2, draws, generator)[0]) for p_ in p if p_ > n]
    at = dict(zip(GAMMA, runs, strict=True))
    theory = {g: float(min_norm_risk(n, round(g * n), SNR * SIGMA2, SIGMA2)) for g in GAMMA if g != 1}
    return {
        "gamma": GAMMA,
        "risk_median": [median(plain) for plain, _ in runs],
        "ridge_median": [median(ridged) for _, ridged in runs],
        "risk_half": fmean(at[0.5][0]),
        "theory_half": theory[0.5],
        "risk_nine_tenths": fmean(at[0.9][0]),
        "theory_nine_tenths": theory[0.9],
        "risk_double": fmean(at[2.0][0]),
        "theory_double": theory[2.0],
        "risk_fivefold": fmean(at[5.0][0]),
        "theory_fivefold": theory[5.0],
        "peak": median(at[1.0][0]),
        "peak_ridge": median(at[1.0][1]),
        "wide": median(at[5.0][0]),
        "wide_ridge": median(at[5.0][1]),
        "ridge_peak_ratio": peak_ratio([fmean(ridged) for _, ridged in runs]),
        "ridge_double": fmean(at[2.0][1]),
        "ridge_theory_double": float(ridge_risk(2.0, optimal_ridge(2.0, SNR, 1.0), SNR * SIGMA2, SIGMA2)),
        "best_wide": min(fmean(at[g][0]) for g in GAMMA if g > 1),
        "null": SNR * SIGMA2,
        "best_wide_weak": min(weak),
        "null_weak": WEAK_SNR * SIGMA2,
    }


def sample_wise(p: int, draws: int, generator: torch.Generator) -> dict[str, float | list[float]]:
    """n sweeps through p at fixed β: more data, more risk."""
    n = [round(g * p) for g in GAMMA]
    runs = [risks(n_, p, SNR * SIGMA2, draws, generator) for n_ in n]
    at = dict(zip(GAMMA, runs, strict=True))
    return {
        "samples": n,
        "samples_risk": [median(plain) for plain, _ in runs],
        "samples_ridge": [median(ridged) for _, ridged in runs],
        "few": median(at[0.3][0]),
        "as_many": median(at[1.0][0]),
        "samples_ridge_peak_ratio": peak_ratio([fmean(ridged) for _, ridged in runs]),
        "few_ridge": median(at[0.3][1]),
        "as_many_ridge": median(at[1.0][1]),
    }


def misspecified(n: int, draws: int, generator: torch.Generator) -> dict[str, float | list[float]]:
    """The model sees the first p features of a β that decays: a U, a peak, and a second valley below the first."""
    D = 10 * n
    beta = (1 + torch.arange(D, dtype=torch.float64) / n) ** (-(DECAY + 1) / 2)
    beta *= (SNR * SIGMA2) ** 0.5 / beta.norm()
    gamma = [*GAMMA, 7.0, 10.0]
    p = [round(g * n) for g in gamma]
    unseen = seen_and_unseen(p, beta)[1]
    runs: list[list[float]] = [[] for _ in p]
    for _ in range(draws):
        X, y = draw(n, beta, generator)
        for i, p_ in enumerate(p):
            runs[i].append(excess_risk(min_norm(X[:, :p_], y), beta[:p_]) + float(unseen[i]))
    mean = [fmean(run) for run in runs]
    theory = subset_risk(n, p, beta, SIGMA2)
    return {
        "subset_gamma": gamma,
        "subset_risk": [median(run) for run in runs],
        "subset_first_valley": min(m for m, g in zip(mean, gamma, strict=True) if g < 1),
        "subset_second_valley": min(m for m, g in zip(mean, gamma, strict=True) if g > 1),
        "subset_theory_first": float(np.min(theory[np.array(gamma) < 1])),
        "subset_theory_second": float(np.min(theory[np.array(gamma) > 1])),
    }


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed."""
    n, draws = SETTINGS[scale]["n"], SETTINGS[scale]["draws"]
    generator = torch.Generator().manual_seed(seed)
    return {
        **model_wise(n, draws, generator),
        **sample_wise(n // 2, draws, generator),
        **misspecified(n, draws, generator),
    }


if __name__ == "__main__":
    main(measure)
