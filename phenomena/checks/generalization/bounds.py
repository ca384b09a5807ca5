"""Checks of the generalization lab: the bounds, from Hoeffding to PAC-Bayes."""

import math
from collections.abc import Callable

import torch
from scipy.optimize import brentq
from scipy.special import rel_entr

from phenomena.checks import Wrong, check, compare, samples, used_by


@check(4, minutes=5, praise="the price of a promise for M classifiers. Next: M = 1, and M = 2 to the 32 W.")
def hoeffding(answer: Callable[..., float]) -> None:
    """The oracle solves M exp(-2nt²) = δ for t, in logarithms, by Brent's method."""
    for n, delta, log_M in ((50, 0.1, 3.9), (1500, 0.025, 72087.3), (1, 0.5, 0.0), (10**6, 1e-12, 3.0)):
        want = brentq(lambda t: log_M - 2 * n * t**2 - math.log(delta), 0, 1e6, xtol=1e-14)  # noqa: B023
        L = -math.log(delta)
        mistakes = [
            (math.sqrt((log_M + L) / n), "too large by a factor √2: which number stands in Hoeffding's exponent?"),
            (math.sqrt((log_M + L + math.log(2)) / (2 * n)), "two-sided: only R above R_S has to be excluded."),
            (math.sqrt((log_M + L / math.log(2)) / (2 * n)), "a logarithm to base 2: all of them are natural."),
            (math.sqrt((log_M + L / math.log(10)) / (2 * n)), "a logarithm to base 10: all of them are natural."),
            ((log_M + L) / (2 * n), "the square of the right value: t enters the exponent squared."),
            (math.sqrt(L / (2 * n)), "this holds for one classifier, not for M of them: where is log_M?"),
            (math.sqrt(log_M / (2 * n)), "δ is not in it."),
            (math.sqrt((log_M + delta) / (2 * n)), "δ itself is in it: it enters by a logarithm."),
            (math.sqrt((log_M + 1 / delta) / (2 * n)), "1/δ itself is in it: it enters by its logarithm."),
            (math.sqrt(log_M * L / (2 * n)), "a product of two logarithms: probabilities multiply, logarithms add."),
            (math.sqrt(log_M / (2 * n)) + math.sqrt(L / (2 * n)), "two roots: both logarithms stand under one."),
            (math.sqrt(log_M + L) / (2 * n), "2n is outside the root."),
            (math.sqrt(log_M + L / (2 * n)), "2n divides only one of the two logarithms."),
            (n * want, "n multiplies: a / 2 * n is (a / 2) * n."),
            (math.sqrt(abs(log_M - L) / (2 * n)), "a smaller δ must cost more: ln δ is negative."),
        ]
        if want > 1:
            mistakes.append((1.0, "it is cut off at 1: the contract says that it may be larger."))
        if log_M > 1:
            mistakes.append((math.sqrt((math.log(log_M) + L) / (2 * n)), "log_M is a logarithm already."))
        compare(answer(n, delta, log_M), want, mistakes, f"n = {n}, δ = {delta}, log_M = {log_M}", rtol=1e-6)


def _kl(q: float, p: float) -> float:
    return float(rel_entr(q, p) + rel_entr(1 - q, 1 - p))


def _upper(q: float, c: float) -> float:
    """The largest p with kl(q, p) <= c."""
    if q == 0:
        return -math.expm1(-c)
    if q == 1 or c == 0 or _kl(q, 1 - 1e-16) <= c:
        return q if c == 0 else 1.0
    return float(brentq(lambda p: _kl(q, p) - c, q, 1 - 1e-16, xtol=1e-15))


def _swapped(q: float, c: float) -> float:
    """The largest p with kl(p, q) <= c."""
    if q in (0, 1) or _kl(1, q) <= c:
        return 0.0 if q == 0 else 1.0
    return float(brentq(lambda p: _kl(p, q) - c, q, 1, xtol=1e-15))


@check(5, minutes=15, praise="the largest risk that the sample still allows. Next: how far is it from the square root?")
def kl_inverse(answer: Callable[..., float]) -> None:
    """The oracle is Brent's method on scipy's relative entropy, and 1 - exp(-c) at q = 0."""
    cases = [(0.1, 0.05), (0.3, 0.4), (0.02, 0.3), (0.5, 0.01), (0.0, 0.05), (0.1, 0.0), (0.3, 1000.0), (1.0, 0.1)]
    for q, c in [*cases, (0.0, 1e-6), (1e-9, 0.01), (0.25, 1e-7)]:
        want, where = _upper(q, c), f"q = {q}, c = {c}"
        got, pinsker = answer(q, c), q + math.sqrt(c / 2)
        number, inside = _number(got), q + 1e-9 < want < 1 - 1e-9
        ends = [
            (inside and q == 0 and number < 1e-9, "it ends at q = 0: there 0 ln 0 is 0, and not NaN."),
            (inside and abs(number - q) < 1e-9, "it ends at q: which half of the interval has the crossing?"),
            (inside and abs(number - 1) < 1e-9, "it ends at 1: which half of the interval has the crossing?"),
        ]
        mistakes = [
            *((got, hint) for so, hint in ends if so),
            (_swapped(q, c), "the arguments are swapped: q, the training error, comes first."),
            (pinsker, "that is Pinsker's q + √(c/2): right as a bound, but not the sharp one."),
            (min(1.0, pinsker), "that is Pinsker's q + √(c/2): right as a bound, but not the sharp one."),
            (_upper(q, c * math.log(2)), "the kl is in bits: use natural logarithms."),
            (_kl(q, min(c, 1.0)), "that is kl(q‖c) itself: solve kl(q‖p) = c for p."),
        ]
        if number < q - 1e-9:
            mistakes.append((number, "it is below q: kl grows on both sides of q, and a bound is above."))
        mistakes.append((want - q, "that is how far p lies above q: the contract says p."))
        # first roughly: whoever halves too seldom has the right idea
        compare(got, want, mistakes, where, rtol=2e-3 / want)
        if abs(number - want) > 1e-8:
            raise Wrong(
                f"near, but not to within 1e-8 ({where}): each halving of the interval gains one bit, in float64."
            )


def _number(got: object) -> float:
    """A number as a float, NaN for anything else."""
    try:
        return float(got)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return math.nan


@check(6, minutes=10, praise="the information in a cloud, in nats. Next: which weights may be noisy for nothing?")
def gaussian_kl(answer: Callable[..., float]) -> None:
    """The oracle is torch.distributions."""
    rng = torch.Generator().manual_seed(61)
    for name, rows in samples(7, 3, rng):
        w, w_0, s = rows[:, 0], rows[:, 1] / 2, 0.2 + rows[:, 2].abs()
        for lam in (0.3, 2.5):
            Q = torch.distributions.Normal(w.double(), s.double())
            P = torch.distributions.Normal(w_0.double(), math.sqrt(lam))
            R = torch.distributions.Normal(w_0.double(), lam)
            want = torch.distributions.kl_divergence(Q, P).sum()
            far, ratio, d = ((w - w_0).double() ** 2).sum(), s.double() ** 2 / lam, len(w)
            log_ratio, wide = ratio.log().sum(), s.double() / lam
            mistakes = [
                (torch.distributions.kl_divergence(P, Q).sum(), "that is KL(P‖Q): Q, the trained cloud, comes first."),
                (want + d / 2, "the -1 is missing: a weight with s² = λ and w = w₀ costs nothing."),
                (2 * want, "twice too large: the sum is halved."),
                ((far / lam + (wide - 1 - wide.log()).sum()) / 2, "s is taken for a variance: it is to be squared."),
                (torch.distributions.kl_divergence(Q, R).sum(), "λ is taken for a standard deviation."),
                (want + log_ratio, "the sign of the logarithm is turned round."),
                (want + log_ratio / 4, "s is not squared in the logarithm."),
                ((far + (ratio - 1 - ratio.log()).sum()) / 2, "the distance w - w₀ is not in units of λ."),
                ((w.double().square().sum() - far) / (2 * lam) + want, "w₀ is not in it: the prior is around w₀."),
                (want / d, "a mean over the weights: independent weights add up."),
                (want + (d - 1) / 2, "the -1 stands in the sum, once for each weight."),
                (want + d / 2 - 1, "the -1 stands in the sum, once for each weight."),
                (want + log_ratio / 2, "the logarithm is missing."),
                (want - d * math.log(lam) / 2, "λ is missing in the logarithm."),
                (want + s.double().log().sum() / 2, "s is not squared in the logarithm."),
                (want + log_ratio * (1 - 1 / math.log(2)) / 2, "a logarithm to base 2: all of them are natural."),
                (want + log_ratio * (1 - 1 / math.log(10)) / 2, "a logarithm to base 10: all of them are natural."),
                (want / math.log(2), "that is in bits: nats have natural logarithms."),
                (want + (ratio * lam - ratio).sum() / 2, "s² is not divided by λ."),
                (-want, "a divergence is never below 0: turn the sign round."),
            ]
            tolerance = 1e-4 if w.dtype == torch.float32 else 1e-6
            compare(answer(w, s, w_0, lam), want, mistakes, f"{name}, λ = {lam}", tolerance)


@check(7, minutes=5, praise="it holds for the cloud that you trained, too. Next: is it below the error of a coin?")
def pac_bayes(answer: Callable[..., float]) -> None:
    """The oracle inverts the small kl by Brent's method."""
    for gibbs_error, KL, n, delta in (
        (0.04, 55.0, 200, 0.05), (0.0, 3.0, 50, 0.1), (0.035, 530.0, 1500, 0.025), (0.2, 0.0, 1000, 0.01),
        (0.5, 1e6, 100, 0.05),
    ):  # fmt: skip
        price = math.log(2 * math.sqrt(n) / delta)
        c = (KL + price) / n
        mistakes = [
            (_upper(gibbs_error, KL / n), "the price of confidence, ln(2√n/δ), is not in it."),
            (_upper(gibbs_error, KL / n + price), "only the KL is divided by n: both terms are."),
            (_upper(gibbs_error, KL + price), "nothing is divided by n."),
            (_upper(gibbs_error, (KL + math.log(1 / delta)) / n), "2√n is missing in the logarithm."),
            (_upper(gibbs_error, (KL + math.log(2 * n / delta)) / n), "n has lost its root in the logarithm."),
            (_upper(gibbs_error, (KL + math.log(math.sqrt(n) / delta)) / n), "a 2 is missing in the logarithm."),
            (_upper(gibbs_error, max(0.0, (KL + price + 2 * math.log(delta)) / n)), "a smaller δ must cost more."),
            (_upper(gibbs_error, c / 2), "c is too small by a factor 2: that one belongs to the square root."),
            (gibbs_error + math.sqrt(c / 2), "that is the square root of Hoeffding and Pinsker: use your kl_inverse."),
            (_upper(0.0, c), "the training error is not in it."),
            (gibbs_error + _upper(0.0, c), "the training error is an argument of the inverse, not added to it."),
            (c, "that is c: the risk is not yet solved for."),
            (gibbs_error + c, "that is c added to the training error: use your kl_inverse."),
        ]
        for price_of, hint in (
            (math.log(2 * math.sqrt(n)), "δ is not in it."),
            (math.log2(2 * math.sqrt(n) / delta), "a logarithm to base 2: all of them are natural."),
            (math.log10(2 * math.sqrt(n) / delta), "a logarithm to base 10: all of them are natural."),
            (math.log(math.sqrt(2 * n) / delta), "the 2 stands before the root, not under it."),
            (math.log(2 * math.sqrt(n / delta)), "δ does not stand under the root."),
            (price - KL, "the KL is not in it."),
        ):
            mistakes.append((_upper(gibbs_error, (KL + price_of) / n), hint))
        if c <= 1:
            mistakes.append((_upper(c, gibbs_error), "the arguments of the inverse are swapped."))
        where = f"R_S(Q) = {gibbs_error}, KL = {KL:g}, n = {n}, δ = {delta}"
        got, want = answer(gibbs_error, KL, n, delta), _upper(gibbs_error, c)
        own = used_by(answer).get("kl_inverse")
        if callable(own) and not (math.isclose(_number(got), want, rel_tol=1e-6) or _gives(own, gibbs_error, c, want)):
            raise Wrong("it rests on your kl_inverse, which is not right yet: first mend exercise 5.")
        compare(got, want, mistakes, where, rtol=1e-6)


def _gives(inverse: Callable[..., object], q: float, c: float, want: float) -> bool:
    try:
        return math.isclose(_number(inverse(q, c)), want, rel_tol=1e-6)
    except Exception:  # whatever a student's function may raise
        return False
