"""Checks of the robustness lab: a radius that is proved."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.optimize import brentq

from phenomena import checks
from phenomena.checks import Wrong, check, compare
from phenomena.checks.robustness.shared import Mistakes


def _lower(k: float, n: float, alpha: float) -> float:
    """The p at which k or more of n come up with probability alpha, by bisection of the binomial's tail."""
    return 0.0 if k <= 0 else float(brentq(lambda p: stats.binom.sf(k - 1, n, p) - alpha, 0, 1, xtol=1e-15, rtol=1e-14))


def _quantile(p: float) -> float:
    return NormalDist().inv_cdf(min(max(p, 1e-300), 1 - 1e-16))


VOTES: list[tuple[str, list[int], list[int], float, float]] = [
    ("940 votes of 1000", [2, 90, 8], [25, 940, 35], 0.4, 0.001),
    ("990 votes of 1000, five classes", [0, 1, 98, 1, 0], [3, 2, 990, 4, 1], 0.25, 0.01),
    ("all of 500 votes", [50, 0, 0], [500, 0, 0], 1.0, 0.001),
    ("98,000 votes of 100,000", [1, 0, 99], [1500, 500, 98_000], 0.12, 0.001),
    ("510 votes of 1000", [30, 55, 15], [300, 510, 190], 0.5, 0.001),
    ("the second draws prefer another class", [55, 35, 10], [150, 830, 20], 0.5, 0.001),
    ("the chosen class comes up no more", [0, 3, 2], [60, 0, 40], 0.5, 0.05),
]
ABSTAINS = -1, 0.0


@check(5, minutes=20, praise="a promise that is broken with probability α at most. Next: how far can it reach?")
def certificate(answer: Callable[..., tuple[int, float]]) -> None:
    """The oracle bisects the tail of the binomial distribution."""
    for (name, *given), right, on_radius, on_label in _certified():
        first, second, sigma, alpha = given
        got = answer(torch.tensor(first), torch.tensor(second), sigma, alpha)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"it returns a {type(got).__name__}, the contract says a label and a radius.")
        try:
            compare(got[1], right[1], on_radius, f"the radius, {name}", 1e-6)
        except checks.Wrong as err:
            if "NaN" in str(err) and "no more" in name:
                raise Wrong("NaN for a class without a vote: its lower bound is 0, and so it abstains.") from None
            raise
        compare(got[0], right[0], on_label, f"the label, {name}")


@cache  # bisection is slow, and always gives the same
def _certified() -> Sequence[tuple[Any, tuple[int, float], Mistakes, Mistakes]]:
    """Votes, the right label and radius, and what mistakes make of the radius and of the label."""
    found = []
    for name, first, second, sigma, alpha in VOTES:
        top, n, n0 = int(np.argmax(first)), sum(second), sum(first)
        k, share = second[top], second[top] / n
        p = _lower(k, n, alpha)
        rival = max(votes for label, votes in enumerate(second) if label != top)
        above = 1 - _lower(n - rival, n, alpha)  # what the rival's probability is not above
        z, above_p = _quantile(1 - alpha), (1 - _lower(n - k, n, alpha), _lower(k, n, 1 - alpha))
        both = "the class is chosen by the same draws that are then counted: choose it by the first ones."
        others = [
            (_lower(k, n, alpha / 2), "half of α: only a bound from below is needed, and it may have all of it."),
            (share, "that is the share of the votes: where is the bound that holds with probability 1 - α?"),
            (_lower(first[top], n0, alpha), "the draws that chose the class are counted: they favour it."),
            (_lower(first[top] + k, n0 + n, alpha), "the draws that chose the class are counted too: they favour it."),
            (_lower(max(second), n, alpha), both),
            *((bound, "that is a bound from above: p lies below it.") for bound in above_p),
            (_lower(k, n0 + n, alpha), "n counts all draws: k of them can only come from the second ones."),
            (
                stats.beta.ppf(alpha, k + 1, n - k) if k < n else 1,
                "one vote too many for it: mind the parameters of the beta.",
            ),
            (
                stats.beta.ppf(alpha, k, n - k) if 0 < k < n else 0,
                "one vote too few against it: mind the parameters of the beta.",
            ),
            (share - z * (share * (1 - share) / n) ** 0.5, "a normal approximation: near p = 1 it promises too much."),
            (share - (math.log(1 / alpha) / 2 / n) ** 0.5, "Hoeffding's bound: true, but not the largest there is."),
            (k / max(k + rival, 1), "the share of the top two alone, and without a bound."),
            (_lower(k, max(k + rival, 1), alpha), "n counts the votes of all classes, not of the top two alone."),
        ]
        on_radius: Mistakes = [(sigma * _quantile(bound), hint) for bound, hint in others]
        if p <= 0.5:
            hint = "the bound is not above 1/2, so nothing is proved: abstain, with the radius 0."
            on_radius.insert(0, (sigma * _quantile(p), hint))
        on_radius += [
            (_quantile(p), "σ is missing: twice the noise, twice the radius."),
            (sigma**2 * _quantile(p), "σ² is the variance: the radius grows with σ."),
            (sigma / 2 * _quantile(p), "half of it: the rival has 1 - p at most, and gives the other half."),
            (sigma * p, "the bound itself is no radius: it goes through Φ⁻¹."),
            (sigma * NormalDist().cdf(p), "that is Φ: the radius has Φ⁻¹."),
            (
                sigma / 2 * (_quantile(p) - _quantile(above)),
                "two bounds, each wrong with probability α: the first alone says that the rival has 1 - p at most.",
            ),
            (
                sigma / 2 * (_quantile(p) - _quantile(rival / n)),
                "the rival's share of the votes is no bound: it has 1 - p at most.",
            ),
        ]
        right = (top, sigma * _quantile(p)) if p > 0.5 else ABSTAINS
        on_label: Mistakes = [(top, "a label without a proof: whoever abstains says -1.")]
        found.append(((name, first, second, sigma, alpha), right, on_radius, on_label))
    return found
