"""Each bound against its theorem: closed forms, simulation of what it promises, and the steps of its proof."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from phenomena import bounds
from phenomena.networks import mlp

probability = st.floats(0, 1)


def outputs(weights, X):
    A = X
    for W in weights[:-1]:
        A = torch.relu(A @ W.T)
    return (A @ weights[-1].T).squeeze(-1)


@given(st.floats(0, 1), st.floats(1e-3, 1 - 1e-3))
def test_the_small_kl_is_scipys_relative_entropy(q, p):
    assert bounds.kl(q, p) == pytest.approx(entropy([q, 1 - q], [p, 1 - p]), abs=1e-12)


@given(probability, st.floats(0, 5))
def test_the_inverse_is_the_largest_p_within_c(q, c):
    p = bounds.kl_inverse(q, c)
    assert q <= p <= 1
    if p < 1:  # right to 1e-7: near q the kl is a square, and its rounding of 1e-16 a step of 1e-8
        assert bounds.kl(q, max(q, p - 1e-7)) <= c + 1e-15
        assert bounds.kl(q, min(1.0, p + 1e-7)) >= c


def test_the_inverse_at_its_ends():
    assert bounds.kl_inverse(0.0, 0.3) == pytest.approx(1 - math.exp(-0.3))  # kl(0, p) = -ln(1 - p)
    assert bounds.kl_inverse(0.3, 0.0) == 0.3
    assert bounds.kl_inverse(1.0, 0.1) == 1.0
    assert bounds.kl_inverse(0.2, 1e6) == 1.0
    for q, c in ((-0.1, 1.0), (1.1, 1.0), (0.5, -1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="kl_inverse needs"):
            bounds.kl_inverse(q, c)


@given(probability, st.floats(0, 5))
def test_pinsker_is_weaker(q, c):
    assert bounds.kl_inverse(q, c) <= q + math.sqrt(c / 2) + 1e-7  # the rounding of kl, as above


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_hoeffding_and_chernoff_fail_no_more_often_than_delta(p):
    n, delta, rng = 60, 0.1, np.random.default_rng(0)
    seen = rng.binomial(n, p, size=20_000) / n
    assert (p > seen + bounds.hoeffding(n, delta)).mean() <= delta
    values, counts = np.unique(seen, return_counts=True)
    broken = [p > bounds.kl_inverse(float(q), math.log(1 / delta) / n) for q in values]
    assert counts[broken].sum() / counts.sum() <= delta
    # a bound at a tenth of the width does fail more often: the test can fail
    assert (p > seen + 0.1 * bounds.hoeffding(n, delta)).mean() > delta


def test_hoeffding_over_many_hypotheses_holds_for_the_worst_of_them():
    n, M, delta, rng = 50, 200, 0.2, np.random.default_rng(1)
    worst = 0.5 - rng.binomial(n, 0.5, size=(2000, M)).min(1) / n  # M coins: the luckiest looks best
    assert (worst > bounds.hoeffding(n, delta, M)).mean() <= delta
    assert (worst > bounds.hoeffding(n, delta)).mean() > delta  # one hypothesis's bound does not serve M


def test_counting_weights_is_hoeffding_over_all_bit_patterns():
    assert bounds.parameter_bound(0.1, 40, 3, 0.05, bits=2) == pytest.approx(0.1 + bounds.hoeffding(40, 0.05, 2**6))
    assert bounds.parameter_bound(0.0, 1500, 10**6, 0.05) > 50  # no overflow


def network(seed=0, sizes=(6, 9, 1)):
    generator = torch.Generator().manual_seed(seed)
    weights = [p.detach().double() for p in mlp(sizes, generator, bias=False).parameters()]
    return weights, torch.rand(40, sizes[0], generator=generator, dtype=torch.float64)


def test_the_path_norm_is_a_sum_over_paths_and_below_the_frobenius_product():
    (W, v), _ = network()
    paths = sum(abs(v[0, j]) * sum(W[j, k] ** 2 for k in range(6)) ** 0.5 for j in range(9))
    assert bounds.path_norm([W, v]) == pytest.approx(float(paths))
    assert bounds.path_norm([W, v]) <= bounds.frobenius_product([W, v])
    assert bounds.frobenius_product([W, v]) == pytest.approx(np.linalg.norm(W) * np.linalg.norm(v))


@pytest.mark.parametrize("function", ["norm", "spectral"])
def test_bounds_do_not_change_with_the_scale_of_a_layer(function):
    (W, v), X = network()
    y = torch.sign(outputs([W, v], X) + 0.05)

    def bound(W, v):
        m = y * outputs([W, v], X)
        if function == "spectral":
            return bounds.spectral_bound(m, [W, v], 6**0.5, 0.05)
        return bounds.norm_bound(m, bounds.path_norm([W, v]), X, 6**0.5, 2, 0.05)

    assert bound(5 * W, v / 5) == pytest.approx(bound(W, v))
    assert bound(5 * W, v) == pytest.approx(bound(W, v))  # nor with that of the function: its sign is the classifier


@pytest.mark.parametrize(("layers", "depth"), [(2, 2.0), (3, math.sqrt(6 * math.log(2)) + 1), (5, 3.6328)])
def test_the_norm_bound_has_its_three_terms(layers, depth):
    _, X = network()
    m = torch.full((40,), 0.5, dtype=torch.float64)
    k, theta = 129, 2.0 / 2 ** (129 / 64)  # at k = 128 theta is 0.5, which the margins do not exceed
    assert bounds.margin_level(m, 2.0) == (k, theta, 0.0)
    rademacher = depth * math.sqrt(float((X**2).sum())) / 40
    slack = 3 * math.sqrt(math.log(2 * (k + 1) * (k + 2) / 0.05) / 80)
    got = bounds.norm_bound(m, 1.0, X, 2.0, layers, 0.05)
    assert got == pytest.approx(2 * rademacher / theta + slack, rel=1e-4)


def test_with_all_the_slack_there_is_the_bound_gives_up_the_training_error():
    _, X = network()
    m = torch.full((40,), 0.5, dtype=torch.float64)
    free = bounds.norm_bound(m, 1.0, X, 2.0, 2, 0.05, slack=1.0)
    assert 1 < free < bounds.norm_bound(m, 1.0, X, 2.0, 2, 0.05)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3.0])
def test_margins_that_no_network_of_the_class_has_are_an_error(bad):
    """NaN compares as False: it once passed for a margin above every threshold, and so for a certificate."""
    m = torch.full((1000,), 0.5, dtype=torch.float64)
    m[3] = bad
    with pytest.raises(ArithmeticError, match="diverge"):
        bounds.margin_level(m, 2.0)


def test_zero_weights_are_an_error_and_no_certificate():
    m, X = torch.zeros(100_000), torch.ones(100_000, 1)
    with pytest.raises(ValueError, match="positive norm"):
        bounds.norm_bound(m, 0.0, X, 1.0, 2, 0.05)
    with pytest.raises(ValueError, match="positive spectral norm"):
        bounds.spectral_bound(m, [torch.zeros(2, 1), torch.zeros(1, 2)], 1.0, 0.05)
    with pytest.raises(ValueError, match="points"):
        bounds.norm_bound(m, 1.0, X[:5], 1.0, 2, 0.05)


@pytest.mark.parametrize("delta", [0.0, 1.0, 2.0, -0.1])
def test_delta_is_a_probability(delta):
    for bound in (lambda: bounds.hoeffding(10, delta), lambda: bounds.pac_bayes_bound(0.1, 1.0, 10, delta)):
        with pytest.raises(ValueError, match="delta is a probability"):
            bound()


def test_the_margin_levels_spend_no_more_than_delta():
    assert sum(1 / ((k + 1) * (k + 2)) for k in range(100_000)) <= 1


def test_an_untrained_tie_is_an_error_with_a_name():
    with pytest.raises(ArithmeticError, match="too small"):
        bounds.margin_level(torch.full((10,), 1e-60, dtype=torch.float64), 1.0)


def test_two_layers_of_norm_one_have_at_most_the_rademacher_complexity_of_the_theorem():
    """sup over the unit class of sum_i e_i f(x_i) is at one unit of norm 1, so a fine grid of directions finds it."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    for _ in range(20):
        X = rng.normal(size=(8, 2))
        units = np.maximum(X @ np.stack([np.cos(angle), np.sin(angle)]), 0)
        signs = rng.choice([-1, 1], size=(400, 8))
        complexity = np.abs(signs @ units).max(1).mean() / 8
        assert complexity <= 2 * np.sqrt((X**2).sum()) / 8


@pytest.mark.parametrize("sizes", [(6, 9, 1), (5, 7, 4, 1)])
def test_noise_of_the_tolerated_size_moves_outputs_by_no_more_than_the_change(sizes):
    weights, X = network(1, sizes)
    weights = [W / torch.linalg.matrix_norm(W, 2) for W in weights]
    B, change = float(X.norm(dim=1).max()), 0.3
    sigma = bounds.tolerated_noise(weights, change, B)
    generator = torch.Generator().manual_seed(0)

    def moved(scale):
        noisy = [W + scale * torch.randn(W.shape, generator=generator, dtype=torch.float64) for W in weights]
        return float((outputs(noisy, X) - outputs(weights, X)).abs().max())

    assert np.mean([moved(sigma) <= change for _ in range(300)]) >= 0.5
    assert np.mean([moved(30 * sigma) <= change for _ in range(300)]) < 0.5


def test_conditioning_symmetric_noise_costs_no_more_than_the_log_of_the_probability():
    """The step of the spectral bound: Q = N(w, 1) given |u| <= c, P = N(0, 1), by numerical integration."""
    w, c = 1.3, 0.8
    u = np.linspace(-c, c, 200_001)
    density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    mass = np.trapezoid(density, u)
    KL = np.trapezoid(density / mass * (((w + u) ** 2 - u**2) / 2 - math.log(mass)), u)
    assert pytest.approx(w**2 / 2 - math.log(mass)) == KL


def test_a_spectral_norm_exceeds_davidson_and_szareks_bound_rarely_enough():
    generator, t = torch.Generator().manual_seed(0), 0.7
    G = torch.randn(4000, 3, 5, generator=generator, dtype=torch.float64)
    beyond = torch.linalg.matrix_norm(G, 2) > math.sqrt(3) + math.sqrt(5) + t
    assert beyond.double().mean() <= math.exp(-(t**2) / 2)


def test_the_spectral_bound_is_its_formula():
    weights, X = network(2)
    m = outputs(weights, X).abs() + 0.1
    s = [float(np.linalg.svd(W, compute_uv=False)[0]) for W in weights]
    k, theta, error = bounds.margin_level(m / (s[0] * s[1]), 3.0)
    c = [math.sqrt(9) + math.sqrt(6) + math.sqrt(2 * math.log(4)), 1 + math.sqrt(9) + math.sqrt(2 * math.log(4))]
    # (1 + sigma c_1)(1 + sigma c_2) = 1 + theta/(2B), a quadratic
    a = theta / 6
    sigma = (-(c[0] + c[1]) + math.sqrt((c[0] + c[1]) ** 2 + 4 * c[0] * c[1] * a)) / (2 * c[0] * c[1])
    # KL(Q || P) of noise that is symmetric and conditioned on an event of probability 1/2 or more
    KL = sum(float((W / x).square().sum()) for W, x in zip(weights, s, strict=True)) / (2 * sigma**2) + math.log(2)
    information = KL + math.log(2 * math.sqrt(40) * (k + 1) * (k + 2) / 0.05)
    assert bounds.spectral_bound(m, weights, 3.0, 0.05) == pytest.approx(error + math.sqrt(information / 80))


def test_pac_bayes_holds_for_the_posterior_that_looks_best():
    """Ten coins, a uniform prior, and the posterior on the luckiest coin: its bias is below the bound often enough."""
    n, delta, rng = 50, 0.2, np.random.default_rng(0)
    luckiest = rng.binomial(n, 0.4, size=(4000, 10)).min(1) / n
    levels, counts = np.unique(luckiest, return_counts=True)
    paid = [bounds.pac_bayes_bound(float(q), math.log(10), n, delta) < 0.4 for q in levels]
    unpaid = [bounds.kl_inverse(float(q), math.log(1 / delta) / n) < 0.4 for q in levels]
    assert counts[paid].sum() / counts.sum() <= delta
    assert counts[unpaid].sum() / counts.sum() > delta  # without the price of choosing, it fails too often
