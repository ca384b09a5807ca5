from math import inf

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge

from phenomena.empirical_ntk import empirical_ntk, linearised
from phenomena.infinite_width import infinite_width
from phenomena.kernel_regression import gradient_flow, kernel_regression, trained_process
from phenomena.wide import ntk_mlp

TIMES = (0.0, 0.3, 2.0, 40.0)


pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(n=12, m=5, outputs=None, d=4):
    """NNGP and NTK of a ReLU network: Θ, Θ(test, train), K, K(test, train), K(test), targets."""
    X, Z = normal(n, d), normal(m, d, seed=1)
    train, across, test = infinite_width(X, None, 2), infinite_width(Z, X, 2), infinite_width(Z, None, 2)
    Y = normal(n, seed=2) if outputs is None else normal(n, outputs, seed=2)
    return train.ntk, across.ntk, train.nngp, across.nngp, test.nngp, Y


@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 3.0])
def test_kernel_regression_is_scikit_learns(outputs, ridge):
    K, K_test, *_, Y = problem(outputs=outputs)
    alpha = ridge * float(K.diagonal().mean())
    want = KernelRidge(alpha=alpha, kernel="precomputed").fit(K, Y).predict(K_test)
    predictions = kernel_regression(K, Y, K_test, ridge)
    assert predictions.shape == want.shape
    np.testing.assert_allclose(predictions, want, rtol=1e-7)


def test_without_ridge_it_interpolates():
    K, K_test, *_, Y = problem()
    assert torch.allclose(kernel_regression(K, Y, K), Y)
    assert torch.allclose(kernel_regression(K, Y, K_test), K_test @ torch.linalg.solve(K, Y))


def test_ridge_is_relative_to_the_kernel():
    K, K_test, *_, Y = problem()
    assert torch.allclose(kernel_regression(100 * K, Y, 100 * K_test, 0.2), kernel_regression(K, Y, K_test, 0.2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_inputs_need_a_ridge(dtype):
    X = normal(9, 4)
    X = torch.cat([X, X[:2]]).to(dtype)
    Y = normal(9, seed=2)
    Y = torch.cat([Y, Y[:2]]).to(dtype)
    K = infinite_width(X).ntk
    with pytest.raises(ValueError, match="singular"):
        kernel_regression(K, Y, K)
    for ridge in (1e-12, 1e-6):  # below the rounding errors of the kernel and above them
        predictions = kernel_regression(K, Y, K, ridge)
        assert predictions.dtype == dtype
        assert torch.allclose(predictions, Y, atol=1e-4)


def test_a_float32_kernel_of_bad_condition_gives_the_float64_answer():
    """Eigenvalues over eight decades and a ridge of 1e-6: a solve in float32 would be noise."""
    X, Z = normal(80, 1), 0.9 * normal(20, 1, seed=1)
    K, K_test = torch.exp(-((X - X.mT) ** 2)), torch.exp(-((Z - X.mT) ** 2))
    Y = torch.sin(3 * X[:, 0])
    want = kernel_regression(K, Y, K_test, 1e-6)
    single = kernel_regression(K.float(), Y.float(), K_test.float(), 1e-6)
    assert (single - want).abs().max() < 0.01
    assert (want - torch.sin(3 * Z[:, 0])).abs().median() < 0.01


def test_gradient_flow_is_the_differential_equation():
    Theta, Theta_test, *_, Y = problem()
    f0, f0_test = normal(12, seed=3), normal(5, seed=4)

    def flow(_, f):
        residual = f[:12] - Y.numpy()
        return -np.concatenate([Theta.numpy() @ residual, Theta_test.numpy() @ residual])

    start = np.concatenate([f0, f0_test])
    solution = solve_ivp(flow, (0, 2), start, t_eval=[0, 0.3, 2], method="Radau", rtol=1e-9, atol=1e-11)
    times = torch.tensor([0.0, 0.3, 2.0])
    want = torch.from_numpy(solution.y.T)
    assert torch.allclose(gradient_flow(Theta, Y, Theta, times, f0, f0), want[:, :12], atol=1e-6)
    assert torch.allclose(gradient_flow(Theta, Y, Theta_test, times, f0, f0_test), want[:, 12:], atol=1e-6)


def test_gradient_flow_is_many_small_steps_of_gradient_descent():
    Theta, Theta_test, *_, Y = problem(outputs=2)
    f, f_test, rate = torch.zeros_like(Y), torch.zeros(5, 2, dtype=Y.dtype), 1e-4
    for _ in range(5000):
        f, f_test = f - rate * Theta @ (f - Y), f_test - rate * Theta_test @ (f - Y)
    got = gradient_flow(Theta, Y, Theta_test, 0.5)
    assert got.shape == (5, 2)
    assert torch.allclose(got, f_test, atol=5e-3)


def test_gradient_flow_at_its_ends():
    Theta, Theta_test, *_, Y = problem(outputs=2)
    f0, f0_test = normal(12, 2, seed=3), normal(5, 2, seed=4)
    assert torch.equal(gradient_flow(Theta, Y, Theta_test, 0, f0, f0_test), f0_test)
    want = f0_test + kernel_regression(Theta, Y - f0, Theta_test)
    for t in (inf, 1e9):
        assert torch.allclose(gradient_flow(Theta, Y, Theta_test, t, f0, f0_test), want)


@pytest.mark.parametrize("outputs", [None, 2])
def test_times_give_a_leading_axis(outputs):
    Theta, Theta_test, K, K_across, K_test, Y = problem(outputs=outputs)
    times = torch.tensor([*TIMES, inf])
    flow = gradient_flow(Theta, Y, Theta_test, times, 0.3, 0.1)
    process = trained_process(Theta, Theta_test, K, K_across, K_test, Y, times)
    for i, t in enumerate(times):
        assert torch.allclose(flow[i], gradient_flow(Theta, Y, Theta_test, float(t), 0.3, 0.1))
        one = trained_process(Theta, Theta_test, K, K_across, K_test, Y, t)
        assert torch.allclose(process.mean[i], one.mean)
        assert torch.allclose(process.cov[i], one.cov)
        assert one.mean.shape == (5, *Y.shape[1:])
        assert one.cov.shape == (5, 5)


@pytest.mark.parametrize("t", [0.7, 50.0, 1e12, inf])
def test_flow_with_equal_inputs(t):
    """Θ is singular, yet the flow is e^(-Θt); in the end both copies have the mean of their targets."""
    X, Y = normal(6, 4), normal(6, seed=2)
    K = infinite_width(torch.cat([X, X[:1]])).ntk
    targets = torch.cat([Y, Y[:1] + 2])
    if t < 100:
        want = targets - torch.from_numpy(expm(-K.numpy() * t)) @ targets
        seen = torch.eye(7, dtype=K.dtype)
        seen[[0, 0, 6, 6], [0, 6, 0, 6]] = 0.5  # e^(-Θt) - I has no part along the difference of the copies
        assert torch.allclose(seen @ want, want)
    else:
        want = targets.clone()
        want[[0, 6]] = Y[0] + 1
    assert torch.allclose(gradient_flow(K, targets, K, t), want, atol=1e-7)


@pytest.mark.parametrize("t", TIMES)
def test_trained_process_by_matrix_exponentials(t):
    """The law of f₀(x) + A (Y - f₀(X)), a linear map of the Gaussian vector (f₀(X), f₀(x))."""
    Theta, Theta_test, K, K_across, K_test, Y = (a.numpy() for a in problem(outputs=2))
    A = Theta_test @ np.linalg.inv(Theta) @ (np.eye(12) - expm(-Theta * t))
    joint = np.block([[K, K_across.T], [K_across, K_test]])
    linear = np.hstack([-A, np.eye(5)])
    process = trained_process(*problem(outputs=2), t)
    np.testing.assert_allclose(process.mean, A @ Y, atol=1e-10)
    np.testing.assert_allclose(process.cov, linear @ joint @ linear.T, atol=1e-10)
    assert torch.equal(process.cov, process.cov.mT)
    assert torch.linalg.eigvalsh(process.cov)[0] > -1e-12


def test_trained_process_starts_as_the_prior_and_forgets_the_start_on_the_training_set():
    Theta, Theta_test, K, K_across, K_test, Y = problem()
    start = trained_process(Theta, Theta_test, K, K_across, K_test, Y, 0)
    assert torch.equal(start.mean, torch.zeros(5, dtype=Y.dtype))
    assert torch.allclose(start.cov, K_test)
    end = trained_process(Theta, Theta, K, K, K, Y, inf)
    assert torch.allclose(end.mean, Y)
    assert end.cov.abs().max() < 1e-10


def test_training_the_last_layer_only_gives_the_posterior():
    """Θ = K and t = ∞: Gaussian process regression, against scikit-learn; with the NTK it is another law."""
    X, Z, Y = (a.numpy() for a in (normal(8, 2), normal(4, 2, seed=1), normal(8, seed=2)))
    rbf = RBF(0.5)
    K, K_across, K_test = (torch.from_numpy(rbf(a, b)) for a, b in ((X, X), (Z, X), (Z, Z)))
    posterior = GaussianProcessRegressor(rbf, alpha=1e-12, optimizer=None).fit(X, Y)
    mean, cov = posterior.predict(Z, return_cov=True)
    process = trained_process(K, K_across, K, K_across, K_test, torch.from_numpy(Y), inf)
    np.testing.assert_allclose(process.mean, mean, atol=1e-7)
    np.testing.assert_allclose(process.cov, cov, atol=1e-7)

    Theta, Theta_test, K, K_across, K_test, Y = problem()
    ntk = trained_process(Theta, Theta_test, K, K_across, K_test, Y, inf)
    nngp = trained_process(K, K_across, K, K_across, K_test, Y, inf)
    assert (ntk.cov.diagonal() >= nngp.cov.diagonal() - 1e-12).all()  # the posterior has the least variance
    assert (ntk.cov.diagonal() > 1.05 * nngp.cov.diagonal()).any()


def test_trained_process_is_that_of_wide_linearised_networks():
    """Monte Carlo over networks of width 512, each linearised and trained by its own NTK; within 5 standard errors."""
    X, Z, Y, t, draws = normal(4, 3), normal(3, 3, seed=1), normal(4, seed=2), 0.4, 400
    both = torch.cat([X, Z])
    outputs = []
    for seed in range(draws):
        network = ntk_mlp(3, 512, 1, torch.Generator().manual_seed(seed), dtype=torch.float64)
        f0, Theta = network(both).detach()[:, 0], empirical_ntk(network, both)[..., 0, 0]
        outputs.append(gradient_flow(Theta[:4, :4], Y, Theta[4:, :4], t, f0[:4], f0[4:]))
    f = torch.stack(outputs)
    kernels = infinite_width(both)
    want = trained_process(
        kernels.ntk[:4, :4], kernels.ntk[4:, :4], kernels.nngp[:4, :4], kernels.nngp[4:, :4], kernels.nngp[4:, 4:], Y, t
    )
    assert ((f.mean(0) - want.mean).abs() < 5 * f.std(0) / draws**0.5).all()
    variances = want.cov.diagonal()
    error = ((variances[:, None] * variances + want.cov**2) / draws) ** 0.5  # of a Gaussian sample covariance
    assert ((torch.cov(f.mT) - want.cov).abs() < 5 * error).all()
    assert ((torch.cov(f.mT) - kernels.nngp[4:, 4:]).abs() > 5 * error).any()  # the draws tell it from the prior


def test_a_linearised_network_in_small_steps_follows_the_flow():
    X, Z, Y = normal(5, 3), normal(3, 3, seed=1), normal(5, 1, seed=2)
    network = ntk_mlp(3, 30, 2, torch.Generator().manual_seed(0), dtype=torch.float64)
    f0, f0_test = network(X).detach(), network(Z).detach()
    Theta, Theta_test = (empirical_ntk(network, A, X)[..., 0, 0] for A in (X, Z))
    line, steps, t = linearised(network), 400, 0.2
    optimiser = torch.optim.SGD(line.parameters(), t / steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (((line(X) - Y) ** 2).sum() / 2).backward()
        optimiser.step()
    want = gradient_flow(Theta, Y, Theta_test, t, f0, f0_test)
    assert torch.allclose(line(Z), want, atol=0.01)
    assert (want - f0_test).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_kernels_dtype(dtype):
    Theta, Theta_test, K, K_across, K_test, Y = (a.to(dtype) for a in problem())
    process = trained_process(Theta, Theta_test, K, K_across, K_test, Y, 1.0)
    assert process.mean.dtype == process.cov.dtype == dtype
    assert kernel_regression(K, Y, K_across).dtype == gradient_flow(Theta, Y, Theta_test, 1.0, 0.5, 0.5).dtype == dtype


def test_bad_input_is_refused():
    K, K_test, *rest, Y = problem()
    with pytest.raises(ValueError, match="shape"):
        kernel_regression(K, Y[:5], K_test)
    with pytest.raises(ValueError, match="shape"):
        kernel_regression(K, Y, K_test[:, :5])
    with pytest.raises(ValueError, match="shape"):
        kernel_regression(K[:5], Y, K_test)
    with pytest.raises(ValueError, match="NaN"):
        kernel_regression(K * torch.nan, Y, K_test)
    with pytest.raises(ValueError, match="NaN"):
        gradient_flow(K, Y, K_test / 0, 1.0)
    with pytest.raises(ValueError, match="ridge"):
        kernel_regression(K, Y, K_test, -1.0)
    with pytest.raises(ValueError, match="zero"):
        kernel_regression(0 * K, Y, K_test, 1.0)
    for t in (-1.0, torch.nan, torch.ones(2, 2)):
        with pytest.raises(ValueError, match="time"):
            gradient_flow(K, Y, K_test, t)
    with pytest.raises(ValueError, match="K_test must"):
        trained_process(K, K_test, rest[0], rest[1], rest[2][:2], Y, 1.0)


def test_a_rounded_eigenvalue_below_zero_counts_as_zero():
    K = torch.diag(torch.tensor([1.0, -1e-9]))
    predictions = kernel_regression(K, torch.ones(2), torch.eye(2), ridge=4e-9)  # λ = 4e-9 · tr(K)/n = 2e-9
    assert predictions.tolist() == pytest.approx([1.0, 1 / 2e-9], rel=1e-5)
