"""Checks of the generalization lab: the terms of a surrogate."""

from collections.abc import Callable

import numpy as np
import torch

from phenomena.checks import check, compare, samples


@check(8, minutes=20, praise="they sum to R(h). Next: which of them shrinks as n grows?")
def risk_terms(answer: Callable[..., object]) -> None:
    """The oracle fits by numpy's lstsq and takes every mean in a loop; mistakes are differences of other risks."""
    rng = torch.Generator().manual_seed(81)
    tall = torch.randn(9, 4, generator=rng, dtype=torch.float64)
    repeated = torch.randn(5, 8, generator=rng, dtype=torch.float64)[[0, 1, 2, 3, 4, 0]]
    for name, X in [*samples(6, 11, rng), ("more samples than features", tall), ("a repeated sample", repeated)]:
        n, p = X.shape
        eps, theta, Lambda = (torch.randn(k, generator=rng, dtype=torch.float64) for k in (n, p, p))
        eps, theta, Lambda, sigma2 = (1.3 * eps).to(X), theta.to(X), (0.1 + Lambda.abs()).to(X), 1.69
        A, noise, truth, variances = (part.double().numpy() for part in (X, eps, theta, Lambda))
        signal = A @ truth

        def fit(target: np.ndarray, A: np.ndarray = A) -> np.ndarray:
            return np.linalg.lstsq(A, target, rcond=1e-6)[0]

        def risk(
            beta: np.ndarray, weights: np.ndarray = variances, sigma2: float = sigma2, truth: np.ndarray = truth
        ) -> float:
            return sigma2 + sum(v * (b - t) ** 2 for v, b, t in zip(weights, beta, truth, strict=True))

        def on(beta: np.ndarray, labels: np.ndarray, A: np.ndarray = A) -> float:
            return sum((row @ beta - label) ** 2 for row, label in zip(A, labels, strict=True)) / len(A)

        def terms(R_h: float, RS_h: float, R_s: float, RS_s: float) -> np.ndarray:
            return np.array([RS_h, R_h - R_s, R_s - RS_s, RS_s - RS_h])

        y = signal + noise
        h, s = fit(y), fit(signal)
        want = terms(risk(h), on(h, y), risk(s), on(s, y))
        of_h = (risk(h), on(h, y))
        clean = "R_S compares with the labels of the sample, and those are noisy, for s too."
        over = "R is a sum over the features, not a mean."
        ones, flat = np.ones(p), "a risk weighs each feature's error by its variance, once."
        mistakes = [
            (terms(*of_h, *of_h), "s is h: the surrogate is fitted to labels without noise."),
            (terms(*of_h, risk(s), on(s, signal)), clean),
            (terms(risk(h), on(h, signal), risk(s), on(s, signal)), clean),
            (terms(risk(h, sigma2=0), on(h, y), risk(s, sigma2=0), on(s, y)), "σ² is not in R: a new label is noisy."),
            (terms(risk(h), n * on(h, y), risk(s), n * on(s, y)), "R_S is a sum over the samples: take the mean."),
            (terms(risk(h, ones), on(h, y), risk(s, ones), on(s, y)), flat),
            (terms(risk(h, variances**2), on(h, y), risk(s, variances**2), on(s, y)), flat),
            (terms(risk(h, variances**0.5), on(h, y), risk(s, variances**0.5), on(s, y)), flat),
            (
                terms(*of_h, risk(truth), on(truth, y)),
                "s is θ* itself: the surrogate is the fit to labels without noise.",
            ),
            (terms(risk(fit(noise)), on(fit(noise), y), risk(s), on(s, y)), "h is fitted to the noise alone."),
            (terms(risk(s), on(s, y), *of_h), "h and s are swapped."),
            (terms(risk(h, sigma2=sigma2**2), on(h, y), risk(s, sigma2=sigma2**2), on(s, y)), "sigma2 is σ² already."),
            (terms(risk(h, sigma2=sigma2**0.5), on(h, y), risk(s, sigma2=sigma2**0.5), on(s, y)), "sigma2 is σ²."),
            (terms(risk(h, variances / p), on(h, y), risk(s, variances / p), on(s, y)), over),
            ([0.0, *want[1:3], on(s, y)], "R_S(h) is 0 only where h interpolates: n may exceed p."),
            ([*want[:3], on(s, y)], "R_S(h) is 0 only where h interpolates: n may exceed p."),
            ([want[0], want[1], risk(h) - on(h, y), want[3]], "the gap is that of s, not of h."),
            (want * [1, 1, 1, -1], "the price has the wrong sign: the four terms must sum to R(h)."),
            (want * [1, 1, -1, 1], "the gap has the wrong sign: the four terms must sum to R(h)."),
            (want * [1, -1, 1, 1], "the excess has the wrong sign: the four terms must sum to R(h)."),
            ([on(h, y), risk(h), risk(s), on(s, y)], "these are risks: three of the terms are differences of them."),
        ]
        compare(answer(X, eps, theta, Lambda, sigma2), want, mistakes, name, 1e-3 if X.dtype == torch.float32 else 1e-6)
