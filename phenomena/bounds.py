"""Bounds on the risk of a trained classifier, each a theorem with all its constants.

Labels are y in {-1, 1}, the classifier is the sign of f(x), and R = P(y f(x) <= 0). Each function returns the
right-hand side of its theorem, which holds with probability at least 1 - delta over the n samples. It may exceed
1: then it says nothing, but it still says by how much it misses. The networks are f(x) = W_L relu(... relu(W_1 x)),
without biases, with one output, on inputs of Euclidean length at most B.
"""

import math
from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from scipy.special import kl_div
from torch import Tensor


def kl(q: float, p: float) -> float:
    """Small kl, KL(Bernoulli(q) || Bernoulli(p)) = q ln(q/p) + (1-q) ln((1-q)/(1-p)), in nats."""
    return float(kl_div(q, p) + kl_div(1 - q, 1 - p))


def kl_inverse(q: float, c: float) -> float:
    """Largest p in [q, 1] with kl(q, p) <= c, for q in [0, 1] and c >= 0."""
    if not (0 <= q <= 1 and c >= 0):
        raise ValueError(f"kl_inverse needs q in [0, 1] and c >= 0, not {q} and {c}")
    below_one = 1 - 1e-15
    if q >= below_one or kl(q, below_one) <= c:
        return 1.0
    return float(brentq(lambda p: kl(q, p) - c, q, below_one, xtol=1e-15)) if c > 0 else q


def hoeffding(n: int, delta: float, hypotheses: float = 1.0) -> float:
    """sqrt(ln(M/delta) / 2n): how far R exceeds R_S at most, for all of M hypotheses at once (Hoeffding 1963)."""
    return math.sqrt((math.log(hypotheses) + _log_inverse(delta)) / (2 * n))


def parameter_bound(train_error: float, n: int, weights: int, delta: float, bits: int = 32) -> float:
    """R_S + sqrt((bits W ln 2 + ln(1/delta)) / 2n): W numbers of so many bits are one of 2^(bits W) classifiers."""
    return train_error + math.sqrt((bits * weights * math.log(2) + _log_inverse(delta)) / (2 * n))


def frobenius_product(weights: Sequence[Tensor]) -> float:
    """Product of the layers' Frobenius norms."""
    return math.prod(float(W.norm()) for W in weights)


def path_norm(weights: Sequence[Tensor]) -> float:
    """sum_j |v_j| |w_j| over the hidden units of a network of one hidden layer; at most the Frobenius product."""
    W, v = weights
    return float(v.abs().squeeze(0) @ W.norm(dim=1))


def norm_bound(
    margins: Tensor, norm: float, X: Tensor, B: float, layers: int, delta: float, slack: float = 0.01
) -> float:
    """Margin bound for a product of Frobenius norms, or for the path norm of two layers.

    R_S(theta_k) + 2 Rad / theta_k + 3 sqrt(ln(2/delta_k) / 2n),  where R_S(theta) is the fraction of normalised margins
    y_i f(x_i)/norm that are at most theta, delta_k = delta/((k+1)(k+2)), k as in `margin_level`, and
    Rad = min(2^(L-1), sqrt(2 ln 2 L) + 1) sqrt(sum |x_i|^2) / n bounds the Rademacher complexity of the networks of
    norm 1 (Neyshabur, Tomioka & Srebro 2015; Golowich, Rakhlin & Shamir 2018). margins y_i f(x_i): (n,).
    """
    n = len(margins)
    if len(X) != n or not norm > 0:
        raise ValueError(
            f"{n} margins need the {n} points that they are of and a positive norm, not {len(X)} and {norm}"
        )
    k, theta, error = margin_level(margins / norm, B, slack)
    depth = min(2 ** (layers - 1), math.sqrt(2 * math.log(2) * layers) + 1)
    rademacher = depth * float(X.double().square().sum().sqrt()) / n
    return error + 2 * rademacher / theta + 3 * math.sqrt(_log_inverse(_share(delta, k) / 2) / (2 * n))


def spectral_bound(margins: Tensor, weights: Sequence[Tensor], B: float, delta: float) -> float:
    """Margin bound by spectral norms and stable ranks (after Neyshabur, Bhojanapalli & Srebro 2018).

    R_S(theta_k) + sqrt((r/(2 sigma_k^2) + ln(4 sqrt(n)/delta_k)) / 2n)  with k and delta_k as in `norm_bound`, the
    margins over the product of spectral norms, r = sum_l |W_l|_F^2 / |W_l|_2^2 the sum of stable ranks, and sigma_k the
    `tolerated_noise` at a change of theta_k/2.
    """
    n = len(margins)
    spectral = [float(torch.linalg.matrix_norm(W, 2)) for W in weights]
    if not min(spectral) > 0:
        raise ValueError(f"every layer needs a positive spectral norm, not {spectral}")
    r = sum(float(W.norm()) ** 2 / s**2 for W, s in zip(weights, spectral, strict=True))
    k, theta, error = margin_level(margins / math.prod(spectral), B)
    sigma = tolerated_noise(weights, theta / 2, B)
    information = r / (2 * sigma**2) + math.log(4 * math.sqrt(n)) + _log_inverse(_share(delta, k))
    return error + math.sqrt(information / (2 * n))


def tolerated_noise(weights: Sequence[Tensor], change: float, B: float) -> float:
    """sigma for which N(0, sigma^2) noise on layers of spectral norm 1 moves f by at most `change`, half of the time.

    f moves by at most B (prod_l (1 + |U_l|_2) - 1), and |U_l|_2 <= sigma (sqrt(rows) + sqrt(columns) + t) for all L
    layers but for a probability L exp(-t^2/2), which is 1/2 here (Davidson & Szarek 2001). Shapes as `weights`.
    """
    t = math.sqrt(2 * math.log(2 * len(weights)))
    sizes = [sum(math.sqrt(side) for side in W.shape) + t for W in weights]
    return float(
        brentq(
            lambda sigma: B * math.expm1(sum(math.log1p(sigma * size) for size in sizes)) - change,
            0,
            change / B,
            xtol=1e-300,
        )
    )


def margin_level(normalised: Tensor, B: float, slack: float = 0.01) -> tuple[int, float, float]:
    """The k, theta_k = B/2^(k/64) and R_S(theta_k) of the largest theta_k that costs at most `slack` of training error.

    A larger theta makes the rest of a margin bound smaller, but R_S(B) = 1 already says nothing. The theorems hold
    for all k at once: any rule to choose k is allowed. ArithmeticError for margins that are not finite or above B.
    """
    m = normalised.double()
    if not (m.numel() and m.isfinite().all() and float(m.max()) <= B * (1 + 1e-5)):
        raise ArithmeticError(
            f"the margins over the norm must be finite and at most B = {B:g}: did the network diverge?"
        )
    least = float((m <= 0).double().mean()) + slack
    for k in range(10_000):
        theta = B / 2 ** (k / 64)
        error = float((m <= theta).double().mean())
        if error <= least:
            return k, theta, error
    raise ArithmeticError("the margins are too small for floating point: is the network trained?")


def pac_bayes_bound(gibbs_error: float, divergence: float, n: int, delta: float) -> float:
    """kl^-1(R_S(Q), (KL(Q||P) + ln(2 sqrt(n)/delta)) / n): bounds R(Q) for all Q at once, n >= 8 (Maurer 2004)."""
    return kl_inverse(gibbs_error, (divergence + math.log(2 * math.sqrt(n)) + _log_inverse(delta)) / n)


def _share(delta: float, k: int) -> float:
    """delta_k = delta/((k+1)(k+2)): they sum to delta over k = 0, 1, ..."""
    return delta / ((k + 1) * (k + 2))


def _log_inverse(delta: float) -> float:
    """ln(1/delta), of a probability between 0 and 1."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is a probability between 0 and 1, not {delta}")
    return math.log(1 / delta)
