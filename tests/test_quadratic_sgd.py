import itertools

import numpy as np
import pytest
import torch
from program_fixtures import program
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from sklearn.linear_model import LogisticRegression

from phenomena.errors import Diverged
from phenomena.gradient_noise import noise_factor
from phenomena.quadratic_sgd import (
    additive_gradient,
    continuous_covariance,
    draw_batches,
    excess_loss,
    least_squares,
    minibatch_covariance,
    minibatch_gradient,
    momentum_covariance,
    run_chains,
    second_moment_operator,
    spectral_radius,
    stability_limit,
    stationary_covariance,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratic(p=3, seed=0):
    """H and C that do not commute, λ₁ about 1."""
    g = generator(seed)
    R, S = torch.randn(2, p, p, generator=g, dtype=torch.float64)
    H = R @ R.mT + 0.2 * torch.eye(p, dtype=torch.float64)
    return H / torch.linalg.matrix_norm(H, 2), S @ S.mT


def samples(n=7, p=2, seed=0):
    g = generator(seed)
    X = torch.randn(n, p, generator=g, dtype=torch.float64)
    return X, X.sum(1) + torch.randn(n, generator=g, dtype=torch.float64)


def close(Sigma, want):
    np.testing.assert_allclose(np.asarray(Sigma), np.asarray(want), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [1e-3, 0.5, 1.9])
def test_lyapunov_equations_are_scipys(eta):
    H, C = quadratic()
    close(continuous_covariance(H, C, eta), solve_continuous_lyapunov(H.numpy(), eta * C.numpy()))
    step = torch.eye(3, dtype=torch.float64) - eta * H
    close(stationary_covariance(H, C, eta), solve_discrete_lyapunov(step.numpy(), eta**2 * C.numpy()))


def test_one_dimension_has_closed_forms():
    h, c, eta, mu = 0.7, 3.0, 1.1, 0.6
    H, C = torch.tensor([[h]]), torch.tensor([[c]])
    assert float(continuous_covariance(H, C, eta)) == pytest.approx(eta * c / (2 * h))
    assert float(stationary_covariance(H, C, eta)) == pytest.approx(eta * c / (h * (2 - eta * h)))
    heavy = eta * c * (1 + mu) / (h * (1 - mu) * (2 * (1 + mu) - eta * h))
    assert float(momentum_covariance(H, C, eta, mu)[0, 0]) == pytest.approx(heavy)
    assert excess_loss(H, torch.tensor([[2.0]])) == pytest.approx(0.7)


def test_one_dimension_of_minibatches_has_a_closed_form():
    X, y = samples(9, 1)
    x, r = X[:, 0], y - X[:, 0] * (X[:, 0] @ y) / (X[:, 0] @ X[:, 0])
    h, q, c = (x**2).mean(), (x**4).mean(), (x**2 * r**2).mean()
    for B, f in ((1, 1.0), (3, (9 - 3) / (3 * 8))):
        m = f * q + (1 - f) * h**2
        assert stability_limit(X, B, replacement=False) == pytest.approx(float(2 * h / m))
        Sigma = minibatch_covariance(X, y, 0.2, B, replacement=False)
        assert float(Sigma) == pytest.approx(float(0.2 * f * c / (2 * h - 0.2 * m)))


def test_discrete_steps_become_continuous_time_at_first_order():
    H, C = quadratic()
    gap = [
        float((stationary_covariance(H, C, eta) / continuous_covariance(H, C, eta) - 1).abs().max())
        for eta in (1e-3, 1e-4)
    ]
    assert gap[0] / gap[1] == pytest.approx(10, rel=0.01)


def test_momentum_is_a_fixed_point_of_its_step_and_none_of_it_is_sgd():
    H, C = quadratic()
    close(momentum_covariance(H, C, 0.8, 0.0)[:3, :3], stationary_covariance(H, C, 0.8))
    S = momentum_covariance(H, C, 1.5, 0.9)
    blocks = [[np.eye(3) - 1.5 * H.numpy(), 0.9 * np.eye(3)], [-1.5 * H.numpy(), 0.9 * np.eye(3)]]
    noise = np.kron(np.ones((2, 2)), 1.5**2 * C.numpy())
    close(np.block(blocks) @ S.numpy() @ np.block(blocks).T + noise, S)


def all_batches(n, B, replacement):
    """Every batch once, all as likely: ordered draws with replacement, sets without."""
    pool = itertools.product(range(n), repeat=B) if replacement else itertools.combinations(range(n), B)
    return [list(batch) for batch in pool]


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("B", [1, 2, 3])
def test_second_moment_of_a_step_is_the_mean_over_all_batches(B, replacement):
    X, y = samples(5, 2)
    problem, eta = least_squares(X, y), 0.3
    Sigma = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    moved, noise = torch.zeros(2, 2, 2, dtype=torch.float64)
    batches = all_batches(5, B, replacement)
    for batch in batches:
        x = X[batch]
        step = torch.eye(2, dtype=torch.float64) - eta * x.mT @ x / B
        g = x.mT @ (x @ problem.minimum - y[batch]) / B
        moved += step @ Sigma @ step.mT / len(batches)
        noise += torch.outer(g, g) / len(batches)
    K = second_moment_operator(X, eta, B, replacement=replacement)
    close((K @ Sigma.flatten()).reshape(2, 2), moved)
    close(noise_factor(5, B, replacement=replacement) * problem.C, noise)
    stationary = minibatch_covariance(X, y, eta, B, replacement=replacement)
    close((K @ stationary.flatten()).reshape(2, 2) + eta**2 * noise, stationary)


def test_least_squares_is_its_gradients():
    X, y = samples(8, 3)
    problem = least_squares(X, y)
    close(problem.minimum, np.linalg.lstsq(X.numpy(), y.numpy(), rcond=None)[0])

    def loss(theta):
        return ((X @ theta - y) ** 2).mean() / 2

    close(problem.H, torch.autograd.functional.hessian(loss, problem.minimum))
    G = torch.autograd.functional.jacobian(lambda theta: (X @ theta - y) ** 2 / 2, problem.minimum)
    close(problem.C, np.cov(G.numpy().T, bias=True))


def test_a_batch_of_all_samples_is_gradient_descent():
    X, y = samples(7, 2)
    lam = float(torch.linalg.eigvalsh(least_squares(X, y).H)[-1])
    assert stability_limit(X, 7, replacement=False) == pytest.approx(2 / lam)
    close(minibatch_covariance(X, y, 1.9 / lam, 7, replacement=False), torch.zeros(2, 2))
    # with replacement the noise vanishes as B → ∞, and with it what depends on θ
    assert stability_limit(X, 10**6) == pytest.approx(2 / lam, rel=1e-4)


@pytest.mark.parametrize("replacement", [True, False])
def test_stability_limit_is_where_the_spectral_radius_is_one(replacement):
    X, _ = samples(20, 3)
    limits = [stability_limit(X, B, replacement=replacement) for B in (1, 2, 5, 20)]
    assert limits == sorted(limits)
    for B, limit in zip((1, 2, 5), limits, strict=False):
        radius = [spectral_radius(X, c * limit, B, replacement=replacement) for c in (0.99, 1, 1.01)]
        assert radius[0] < radius[1] < radius[2]
        assert radius[1] == pytest.approx(1, abs=1e-9)


def chain_errors(records, center):
    """Mean of δδᵀ over chains and records, and its standard error from the chains' own means."""
    delta = records - center
    moments = torch.einsum("rmi,rmj->mij", delta, delta) / len(records)
    return moments.mean(0), moments.std(0) / len(moments) ** 0.5


def test_additive_noise_by_simulation():
    H, C = quadratic(2)
    start, zero = torch.zeros(400, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for eta, mu in ((1.4, 0.0), (1.4, 0.5)):
        records = run_chains(additive_gradient(H, C, generator(1)), start, eta, 1200, every=4, mu=mu)[50:]
        mean, error = chain_errors(records, zero)
        want = momentum_covariance(H, C, eta, mu)[:2, :2]
        assert (mean - want).abs().le(4 * error).all()
        # sharp enough to tell the two theories apart
        assert ((mean - continuous_covariance(H, C, eta) / (1 - mu)).abs() > 4 * error).any()


@pytest.mark.parametrize("replacement", [True, False])
def test_minibatches_by_simulation(replacement):
    X, y = samples(12, 2)
    problem, B = least_squares(X, y), 3
    eta = 0.5 * stability_limit(X, B, replacement=replacement)
    gradient = minibatch_gradient(X, y, B, generator(2), replacement=replacement)
    records = run_chains(gradient, problem.minimum.repeat(600, 1), eta, 1200, every=4)[50:]
    mean, error = chain_errors(records, problem.minimum)
    want = minibatch_covariance(X, y, eta, B, replacement=replacement)
    assert (mean - want).abs().le(4 * error).all()
    f = noise_factor(12, B, replacement=replacement)
    assert ((mean - stationary_covariance(problem.H, f * problem.C, eta)).abs() > 4 * error).any()
    other = minibatch_covariance(X, y, eta, B, replacement=not replacement)
    assert ((mean - other).abs() > 4 * error).any()


@pytest.mark.parametrize(("c", "falls"), [(0.8, True), (1.25, False)])
def test_stability_by_simulation_on_either_side(c, falls):
    # Targets of 0: a chain moves by a product of random steps only. Few steps, or rare chains rule the mean.
    X, _ = samples(12, 2)
    y = torch.zeros(12, dtype=torch.float64)
    eta = c * stability_limit(X, 2)
    start = torch.eye(2, dtype=torch.float64)[0].repeat(40_000, 1)
    records = run_chains(minibatch_gradient(X, y, 2, generator(3)), start, eta, 4)
    K = second_moment_operator(X, eta, 2)
    want = torch.linalg.matrix_power(K, 4) @ torch.outer(start[0], start[0]).flatten()
    square = records[-1].square().sum(1)
    assert abs(float(square.mean() - want[[0, 3]].sum())) < 4 * float(square.std()) / 200
    assert (spectral_radius(X, eta, 2) < 1) == falls
    growth = torch.linalg.matrix_power(K, 400) @ torch.eye(2, dtype=torch.float64).flatten()
    assert (float(growth.norm()) < 1e-3) == falls


def test_batches_are_uniform_and_without_repeats():
    batches = draw_batches(4, 2, 24_000, generator(), replacement=False).sort(1).values
    assert (batches[:, 0] < batches[:, 1]).all()
    counts = torch.bincount(batches[:, 0] * 4 + batches[:, 1])
    pairs = counts[counts > 0].double()
    assert len(pairs) == 6
    assert (pairs - 4000).abs().max() < 4 * (4000 * 5 / 6) ** 0.5
    assert bool((draw_batches(4, 2, 1000, generator())[:, 0] == draw_batches(4, 2, 1000, generator())[:, 1]).any())


def test_divergence_has_a_name():
    X, y = samples(12, 2)
    H, C = quadratic()
    with pytest.raises(Diverged, match="not below 2"):
        stationary_covariance(H, C, 2.001)
    with pytest.raises(Diverged, match="1 \\+ μ"):
        momentum_covariance(H, C, 3.001, 0.5)
    assert momentum_covariance(H, C, 2.9, 0.5).isfinite().all()
    limit = stability_limit(X, 2)
    assert minibatch_covariance(X, y, 0.999 * limit, 2).isfinite().all()
    with pytest.raises(Diverged, match="raise B"):
        minibatch_covariance(X, y, 1.001 * limit, 2)
    start = torch.zeros(5, 3, dtype=torch.float64)
    with pytest.raises(Diverged, match="step"):
        run_chains(additive_gradient(H, C, generator()), start, 4.0, 2000, every=100)


def test_bad_input_is_refused():
    X, y = samples(5, 2)
    H, C = quadratic()
    with pytest.raises(ValueError, match="positive"):
        stationary_covariance(H, C, 0.0)
    with pytest.raises(ValueError, match="positive definite"):
        continuous_covariance(torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2), 0.1)
    with pytest.raises(ValueError, match="NaN"):
        continuous_covariance(H * float("nan"), C, 0.1)
    with pytest.raises(ValueError, match="μ"):
        momentum_covariance(H, C, 0.1, 1.0)
    with pytest.raises(ValueError, match="one target"):
        least_squares(X, y[:, None])
    with pytest.raises(ValueError, match="positive definite"):
        stability_limit(torch.cat([X, X], 1), 2)
    with pytest.raises(ValueError):  # noqa: PT011 (the message is noise_factor's)
        minibatch_gradient(X, y, 6, generator(), replacement=False)


@pytest.fixture(scope="module")
def mandt():
    return program("mandt2017stochastic")


def test_mandts_logistic_regression_is_scikit_learns(mandt):
    X, y = mandt.cancer(300, generator())
    fit = LogisticRegression(fit_intercept=False, C=1.0, tol=1e-12, max_iter=1000).fit(X.numpy(), y.numpy())
    np.testing.assert_allclose(mandt.logistic(X, y).minimum, fit.coef_[0], rtol=1e-4)


def test_mandts_logistic_gradients_are_autograds(mandt):
    X, y = samples(6, 2)
    y = y.sign()

    def loss(theta, i=slice(None)):
        return torch.nn.functional.softplus(-y[i] * (X[i] @ theta)).mean() + theta @ theta / 12

    minimum, H, C = mandt.logistic(X, y)
    close(torch.autograd.functional.jacobian(loss, minimum), torch.zeros(2))
    close(H, torch.autograd.functional.hessian(loss, minimum))
    theta = torch.tensor([0.3, -2.0], dtype=torch.float64)
    each = torch.stack([torch.autograd.functional.jacobian(lambda t, i=i: loss(t, [i]), theta) for i in range(6)])
    drawn = mandt.logistic_gradient(X, y, 1, generator())(theta.repeat(200, 1))
    assert (drawn[:, None] - each).abs().sum(2).min(1).values.max() < 1e-12
    there = torch.stack([torch.autograd.functional.jacobian(lambda t, i=i: loss(t, [i]), minimum) for i in range(6)])
    close(C, np.cov(there.numpy().T, bias=True))


def test_mandts_divergence_is_smallest_at_the_rate_of_theorem_1_and_vanishes_with_the_preconditioner(mandt):
    H, C = quadratic()
    n, B = 50, 4
    optimum = mandt.optimal_rate(C, B, n)
    at = [mandt.kl(continuous_covariance(H, C / B, f * optimum), H, n) for f in (0.98, 1.0, 1.02)]
    assert at[1] == min(at)
    M = n * H @ continuous_covariance(H, C / B, optimum)
    assert at[1] == pytest.approx(float(torch.trace(M) - 3 - torch.logdet(M)) / 2)
    # P = 2B/(ηn) C⁻¹ in P H Σ + Σ H P = (η/B) P C P
    posterior = torch.linalg.inv(H) / n
    P = 2 * B / n * torch.linalg.inv(C)
    close(P @ H @ posterior + posterior @ H @ P, P @ C @ P / B)
    assert mandt.kl(posterior, H, n) == pytest.approx(0, abs=1e-9)


def test_mandts_best_rate_is_the_bottom_of_the_parabola(mandt):
    factors = [0.5, 0.7, 1.0, 1.4, 2.0]
    assert mandt.best(factors, [3 + np.log(f / 1.1) ** 2 for f in factors]) == pytest.approx(1.1)
