import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phenomena.curves import peak_ratio, valleys
from phenomena.data import gaussian_design, linear_labels
from phenomena.early_stopping import decoupled_risk, equalising_stepsizes, risk_path
from phenomena.features import random_relu, relu_features


def problem(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    s = torch.tensor([1.0, 0.5, 0.2, 1.5], dtype=torch.float64)
    theta = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    eta = torch.tensor([0.1, 0.3, 0.5, 0.2], dtype=torch.float64)
    X = gaussian_design(n, s, generator)
    return X, linear_labels(X, theta, 0.7, generator), s, theta, eta


@pytest.mark.parametrize("n", [60, 3])  # 3: fewer samples than features
def test_risk_path_is_what_the_iterations_give(n):
    X, y, s, theta, eta = problem(n)
    theta_k, want = torch.zeros(4, dtype=torch.float64), []
    for _ in range(31):
        want.append(float((s**2 * (theta_k - theta) ** 2).sum()))
        theta_k = theta_k - eta * (X.T @ (X @ theta_k - y)) / n
    k = torch.tensor([0, 1, 2, 17, 30], dtype=torch.float64)
    np.testing.assert_allclose(risk_path(X, y, s, theta, eta, k), [want[int(i)] for i in k], rtol=1e-9)


def test_risk_path_refuses_a_stepsize_that_diverges():
    X, y, s, theta, _ = problem()
    with pytest.raises(ValueError, match="diverges"):
        risk_path(X, y, s, theta, torch.full((4,), 5.0, dtype=torch.float64), torch.ones(1))


def test_decoupled_risk_is_the_mean_over_independent_coordinates():
    rng = np.random.default_rng(0)
    s, theta, eta, sigma2, n = np.array([1.0, 0.3]), np.array([1.0, 2.0]), np.array([0.5, 0.8]), 2.0, 20
    noise = rng.normal(size=(200_000, 2)) * (sigma2 / n) ** 0.5 * s  # of the mean gradient
    theta_k, risks = np.zeros((200_000, 2)), []
    for _ in range(6):
        risks.append((s**2 * (theta_k - theta) ** 2).sum(1).mean())
        theta_k = theta_k + eta * (s**2 * (theta - theta_k) + noise)
    np.testing.assert_allclose(decoupled_risk(np.arange(6), s, theta, eta, sigma2, n), risks, rtol=0.01)


def test_decoupled_risk_is_the_limit_of_many_samples():
    X, y, s, theta, eta = problem(200_000)
    k = torch.tensor([1.0, 5, 40], dtype=torch.float64)
    np.testing.assert_allclose(
        risk_path(X, y, s, theta, eta, k), decoupled_risk(k, s, theta, eta, 0.49, 200_000), rtol=0.02
    )


def test_decoupled_risk_is_never_below_its_bound_and_one_clock_attains_it():
    s, theta, sigma2, n = np.array([1.0, 0.1]), np.array([0.5, 5.0]), 1.0, 50  # equal signal s² θ²
    a, v, k = s**2 * theta**2, sigma2 / n, np.arange(3000)
    bound = (a * v / (a + v)).sum()
    assert decoupled_risk(k, s, theta, np.full(2, 0.01), sigma2, n).min() > 1.2 * bound
    eta = equalising_stepsizes(torch.tensor(s), 0.01).numpy()
    assert decoupled_risk(k, s, theta, eta, sigma2, n).min() == pytest.approx(bound, rel=1e-3)


def test_equalising_stepsizes_give_one_clock_and_keep_the_largest_scale():
    s = torch.tensor([0.5, 2.0, 1.0])
    eta = equalising_stepsizes(s, 0.1)
    assert torch.allclose(eta * s**2, torch.full((3,), 0.4))
    assert eta[1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("curve", "ratio"),
    [([3, 2, 1], 1), ([1, 2, 3], 1), ([2, 1, 2], 1), ([2, 1, 4, 2, 3], 2), ([1, 3, 2], 1.5), ([5, 1, 9, 3, 4], 3)],
)
def test_peak_ratio(curve, ratio):
    assert peak_ratio(curve) == pytest.approx(ratio)


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=30), st.floats(0.1, 10))
def test_peak_ratio_is_a_slow_search_and_has_no_units(curve, unit):
    slow = max(risk / max(min(curve[: j + 1]), min(curve[j:])) for j, risk in enumerate(curve))
    assert peak_ratio(curve) == pytest.approx(slow)
    assert peak_ratio(np.array(curve) * unit) == pytest.approx(slow)
    assert peak_ratio(curve[::-1]) == pytest.approx(slow)


def test_valleys_of_a_double_descent_and_of_none():
    assert valleys([5, 2, 1, 4, 9, 3, 0.5, 2]) == (2, 4, 6)
    for curve in ([3, 2, 1], [1, 2, 3], [2, 1, 2]):
        with pytest.raises(ValueError, match="no peak"):
            valleys(curve)


@pytest.mark.parametrize("curve", [[1, 2], [1, float("nan"), 2], [1, 0, 2], [[1, 2, 3]]])
def test_what_is_not_a_risk_curve_is_refused(curve):
    with pytest.raises(ValueError, match="risk curve"):
        peak_ratio(curve)


def test_random_features_keep_the_size_of_the_input():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    Phi = relu_features(X, random_relu(12, 200_000, generator))
    assert Phi.shape == (5, 200_000)
    assert (Phi >= 0).all()
    torch.testing.assert_close(Phi.square().sum(1), X.square().sum(1) / 12, rtol=0.02, atol=0)
