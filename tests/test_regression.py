import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.linear_model import Ridge

from phenomena.regression import (
    excess_risk,
    min_norm,
    min_norm_risk,
    optimal_ridge,
    ridge,
    ridge_risk,
    seen_and_unseen,
    stieltjes,
    subset_risk,
)


def data(n, p, seed=0, targets=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (n,) if targets is None else (n, targets)
    X = torch.randn(n, p, generator=generator, dtype=torch.float64).to(dtype)
    return X, torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("n", "p"), [(30, 7), (7, 30), (12, 12), (1, 5), (5, 1)])
@pytest.mark.parametrize("targets", [None, 3])
def test_min_norm_is_lapacks(n, p, targets):
    X, y = data(n, p, targets=targets)
    want = np.linalg.lstsq(X.numpy(), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(min_norm(X, y), want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_min_norm_leaves_out_directions_without_data(dtype):
    X, y = data(20, 3, dtype=dtype)
    X = torch.cat([X, X[:, :1]], dim=1)
    beta = min_norm(X, y)
    assert torch.allclose(beta[0], beta[3], atol=1e-4)  # two equal features share their weight
    assert beta.dtype == dtype
    assert beta.norm() < 10


@pytest.mark.parametrize(("n", "p"), [(30, 7), (7, 30)])
@pytest.mark.parametrize("lam", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("targets", [None, 3])
def test_ridge_is_scikit_learns(n, p, lam, targets):
    X, y = data(n, p, targets=targets)
    want = Ridge(alpha=n * lam, fit_intercept=False, solver="cholesky").fit(X, y).coef_.T
    np.testing.assert_allclose(ridge(X, y, lam), want, rtol=1e-7, atol=1e-9)


def test_ridge_without_penalty_is_refused():
    with pytest.raises(ValueError, match="min_norm"):
        ridge(*data(5, 3), 0.0)


@pytest.mark.parametrize(("n", "p"), [(40, 10), (10, 40)])
def test_noise_term_is_the_trace_of_an_inverse_wishart_mean(n, p):
    small, large = sorted((n, p))
    noise = np.trace(stats.invwishart(df=large, scale=np.eye(small)).mean())
    bias = 1 - n / p if p > n else 0.0
    assert min_norm_risk(n, p, 3.0, 2.0) == pytest.approx(3.0 * bias + 2.0 * noise)


def monte_carlo(n, p, r2, sigma2, solve, draws=400):
    generator = torch.Generator().manual_seed(1)
    risks = []
    for _ in range(draws):
        beta = torch.randn(p, generator=generator, dtype=torch.float64)
        beta *= r2**0.5 / beta.norm()
        X = torch.randn(n, p, generator=generator, dtype=torch.float64)
        y = X @ beta + sigma2**0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
        risks.append(excess_risk(solve(X, y), beta))
    return np.mean(risks), np.std(risks) / draws**0.5


@pytest.mark.parametrize(("n", "p"), [(30, 12), (20, 45)])
def test_min_norm_risk_by_simulation(n, p):
    mean, error = monte_carlo(n, p, 2.0, 1.5, min_norm)
    assert abs(mean - min_norm_risk(n, p, 2.0, 1.5)) < 4 * error


def test_min_norm_risk_is_infinite_at_the_threshold_alone():
    p = np.arange(1, 30)
    risk = min_norm_risk(10, p, 1.0, 1.0)
    assert list(p[np.isinf(risk)]) == [9, 10, 11]
    assert (np.diff(risk[:8]) > 0).all()


@pytest.mark.parametrize("p", [4, 30])
def test_subset_risk_by_simulation(p):
    n, beta = 15, 1 / torch.arange(1, 41, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    risks = []
    for _ in range(600):
        X = torch.randn(n, 40, generator=generator, dtype=torch.float64)
        y = X @ beta + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
        beta_hat = torch.zeros(40, dtype=torch.float64)
        beta_hat[:p] = min_norm(X[:, :p], y)
        risks.append(excess_risk(beta_hat, beta))
    error = np.std(risks) / len(risks) ** 0.5
    assert abs(np.mean(risks) - subset_risk(n, p, beta, 0.25)) < 4 * error


def test_seen_and_unseen_add_up():
    seen, unseen = seen_and_unseen([0, 2, 3], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(seen, [0, 5, 14])
    np.testing.assert_allclose(seen + unseen, 14)


@pytest.mark.parametrize("gamma", [0.4, 2.5])
def test_stieltjes_transform_of_a_large_wishart_matrix(gamma):
    n = 800
    p = round(gamma * n)
    X, _ = data(n, p)
    eigenvalues = torch.linalg.eigvalsh(X.T @ X / n).numpy()
    for lam in (0.05, 1.0):
        assert np.mean(1 / (eigenvalues + lam)) == pytest.approx(float(stieltjes(gamma, lam)), rel=0.01)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_ridge_risk_by_simulation(gamma):
    n, lam = 200, 0.3
    mean, error = monte_carlo(n, round(gamma * n), 3.0, 1.0, lambda X, y: ridge(X, y, lam), draws=40)
    assert abs(mean - ridge_risk(gamma, lam, 3.0, 1.0)) < 4 * error + 0.01 * mean  # the limit is 1/n off


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_ridge_risk_ends_in_the_minimum_norm_limit(gamma):
    limit = gamma / (1 - gamma) if gamma < 1 else 3 * (1 - 1 / gamma) + 1 / (gamma - 1)
    assert ridge_risk(gamma, 1e-9, 3.0, 1.0) == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize(("gamma", "r2", "sigma2"), [(0.5, 1.0, 1.0), (2.0, 5.0, 1.0), (1.0, 2.0, 3.0)])
def test_optimal_ridge_is_where_the_risk_is_least(gamma, r2, sigma2):
    found = optimize.minimize_scalar(
        lambda log: float(ridge_risk(gamma, np.exp(log), r2, sigma2)), bounds=(-6, 4), method="bounded"
    )
    assert np.exp(found.x) == pytest.approx(float(optimal_ridge(gamma, r2, sigma2)), rel=1e-3)
    at_best = sigma2 * gamma * stieltjes(gamma, optimal_ridge(gamma, r2, sigma2))
    assert found.fun == pytest.approx(float(at_best), rel=1e-6)
