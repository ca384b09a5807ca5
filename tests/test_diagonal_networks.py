import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from phenomena.diagonal_networks import (
    Network,
    NotConverged,
    basis_pursuit,
    descend,
    effective_alpha,
    hyperbolic_entropy,
    initialise,
    minimise_entropy,
)
from phenomena.errors import Diverged

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(n=8, d=15, s=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    beta = torch.zeros(d, dtype=torch.float64)
    beta[:s] = torch.tensor([1.0, -1.0, 0.7], dtype=torch.float64)[:s]
    return X, X @ beta, beta


def autograd_step(X, y, w_plus, w_minus, gamma):
    """One step on the mean over these samples of (<w₊² - w₋², x> - y)² / 4."""
    w = [w_plus.clone().requires_grad_(), w_minus.clone().requires_grad_()]
    loss = ((X @ (w[0] ** 2 - w[1] ** 2) - y) ** 2).mean() / 4
    return [v - gamma * g for v, g in zip((w_plus, w_minus), torch.autograd.grad(loss, w), strict=True)]


def test_many_runs_at_once_are_single_loops_of_autograd_steps():
    X, y, _ = problem()
    gamma, delta = torch.tensor([0.02, 0.05, 0.08]).double(), torch.tensor([0.0, 0.5, 1.0]).double()
    alpha = torch.linspace(0.1, 0.6, 15, dtype=torch.float64)
    run = descend(
        X,
        y,
        initialise(alpha, 3, 15),
        gamma,
        23,
        torch.Generator().manual_seed(1),
        noise="sample",
        delta=delta,
        every=10,
    )
    generator, draws = torch.Generator().manual_seed(1), []
    for block in (10, 10, 3):  # the order in which descend draws
        picked = torch.randint(8, (block, 3), generator=generator)
        draws.append((picked, torch.randn(block, 3, generator=generator, dtype=torch.float64)))
    picked, moved = (torch.cat(part) for part in zip(*draws, strict=True))
    for m in range(3):
        w, product, decay, losses = (alpha, alpha), alpha**2, 0.0, []
        for k in range(23):
            if k % 10 == 0:
                losses.append(float(((X @ (w[0] ** 2 - w[1] ** 2) - y) ** 2).mean() / 4))
            x, label = X[picked[k, m]], y[picked[k, m]] + delta[m] * moved[k, m]
            u = gamma[m] * (x @ (w[0] ** 2 - w[1] ** 2) - label) * x
            product, decay = product * (1 - u**2), decay + u**2 / 2
            w = autograd_step(x[None], label[None], *w, gamma[m])
        torch.testing.assert_close(run.network.w_plus[m], w[0])
        torch.testing.assert_close(run.network.w_minus[m], w[1])
        torch.testing.assert_close(run.network.alpha[m], product.sqrt())
        torch.testing.assert_close(run.decay[m], decay)
        np.testing.assert_allclose(run.loss[:3, m], losses)
        np.testing.assert_allclose(run.integral[m], gamma[m] * (10 * losses[0] + 10 * losses[1] + 3 * losses[2]))
    torch.testing.assert_close(run.time[:, 1], 0.05 * torch.tensor([0.0, 10, 20, 23]).double())
    torch.testing.assert_close(run.log_alpha[-1], run.network.alpha.log().mean(1))


def test_gradient_descent_is_a_loop_of_autograd_steps():
    X, y, _ = problem()
    run = descend(X, y, initialise(0.3, 2, 15), torch.tensor([0.05, 0.1]), 30)
    w = initialise(0.3, 1, 15)
    w, decay = [w.w_plus[0], w.w_minus[0]], 0.0
    for _ in range(30):
        decay = decay + (0.1 * X.T @ (X @ (w[0] ** 2 - w[1] ** 2) - y) / 8) ** 2 / 2
        w = autograd_step(X, y, *w, 0.1)
    torch.testing.assert_close(run.decay[1], decay, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(run.network.beta[1], w[0] ** 2 - w[1] ** 2, rtol=1e-6, atol=1e-9)


def test_isotropic_noise_is_as_large_as_that_of_single_samples():
    X, y, _ = problem(d=6)
    start = Network(*(0.2 + torch.rand(2, 1, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)))
    grads = []
    for i in range(8):
        moved = autograd_step(X[i : i + 1], y[i : i + 1], start.w_plus[0], start.w_minus[0], 1.0)
        grads.append(torch.cat([start.w_plus[0] - moved[0], start.w_minus[0] - moved[1]]))
    grads = torch.stack(grads)
    want = float(((grads - grads.mean(0)) ** 2).sum(1).mean())
    R = 5000
    many = Network(start.w_plus.expand(R, 6).clone(), start.w_minus.expand(R, 6).clone())
    run = descend(X, y, many, 0.01, 1, torch.Generator().manual_seed(3), noise="isotropic")
    step = (torch.cat(list(start), 1) - torch.cat(list(run.network), 1)) / 0.01
    noise = step - grads.mean(0)
    assert float(noise.square().sum(1).mean()) == pytest.approx(want, rel=4 * (2 / (12 * R)) ** 0.5)
    covariance = noise.T @ noise / R
    torch.testing.assert_close(covariance, want / 12 * torch.eye(12).double(), rtol=0, atol=6 * want / 12 / R**0.5)


def test_small_steps_of_gradient_descent_end_in_the_minimiser_of_the_entropy():
    X, y, _ = problem()
    alpha = torch.linspace(0.2, 0.5, 15, dtype=torch.float64)
    want = minimise_entropy(X, y, alpha)
    run = descend(X, y, initialise(alpha, 2, 15), torch.tensor([0.01, 0.02]), 100_000, tol=1e-22, every=50)
    off = (run.network.beta - want).norm(dim=1)
    assert off[0] < 0.01 * want.norm()
    assert float(off[1] / off[0]) == pytest.approx(2, rel=0.05)  # what is left is of the order of the step
    decay = -(run.network.alpha / alpha).log().mean(1)
    assert 0 < decay[0] < 0.02
    assert float(decay[1] / decay[0]) == pytest.approx(2, rel=0.1)


def test_sgd_ends_in_the_minimiser_of_the_entropy_of_its_own_alpha():
    X, y, _ = problem()
    gamma = torch.tensor([0.02, 0.005]).double().repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    run = descend(X, y, initialise(0.3, 8, 15), gamma, 200_000, generator, noise="sample", every=50, tol=1e-22)
    assert (run.network.alpha < 0.3).all()
    own = [(b - minimise_entropy(X, y, a)).norm() for b, a in zip(run.network.beta, run.network.alpha, strict=True)]
    own_large, own_small = torch.stack(own).reshape(2, 4).mean(1)
    large, small = (run.network.beta - minimise_entropy(X, y, 0.3)).norm(dim=1).reshape(2, 4).mean(1)
    assert own_small < 0.02 * small
    assert float(large / small) == pytest.approx(4, rel=0.4)  # the gain over gradient flow is of order γ,
    assert float(own_large / own_small) == pytest.approx(16, rel=0.4)  # what the own α leaves of order γ²


def test_entropy_is_the_integral_of_the_mirror_map():
    beta = torch.tensor([-2.0, 0.0, 0.3, 5.0], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.1, 1.0, 3.0, 0.01], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(hyperbolic_entropy(beta, alpha), beta)
    torch.testing.assert_close(gradient, torch.arcsinh(beta / (2 * alpha**2)).detach() / 4)
    assert float(hyperbolic_entropy(torch.zeros(4).double(), alpha)) == 0
    beta = beta.detach()
    assert float(hyperbolic_entropy(beta, 100.0)) == pytest.approx(float(beta.square().sum()) / 16e4, rel=1e-6)
    tiny, l1 = 1e-12, float(beta.abs().sum())
    assert float(hyperbolic_entropy(beta, tiny)) / (-np.log(tiny) / 2) == pytest.approx(l1, rel=0.05)


@pytest.mark.parametrize("scale", [0.05, 0.3, 2.0])
def test_minimiser_is_that_of_scipy_on_the_primal(scale):
    X, y, _ = problem(5, 9)
    alpha = scale * torch.linspace(0.5, 1.5, 9, dtype=torch.float64)
    a, A, b = 2 * alpha.numpy() ** 2, X.numpy(), y.numpy()
    found = minimize(
        lambda v: float(hyperbolic_entropy(torch.from_numpy(v), alpha)) * 8 * scale,  # scaled, or SLSQP stops early
        np.linalg.pinv(A) @ b,
        jac=lambda v: 2 * scale * np.arcsinh(v / a),
        constraints={"type": "eq", "fun": lambda v: A @ v - b, "jac": lambda v: A},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    beta = minimise_entropy(X, y, alpha)
    np.testing.assert_allclose(beta, found.x, atol=2e-5)
    assert hyperbolic_entropy(beta, alpha) <= hyperbolic_entropy(torch.from_numpy(found.x), alpha) + 1e-9


def test_minimiser_satisfies_the_optimality_conditions():
    X, y, _ = problem(40, 100)
    for alpha in (1e-4, 0.1, torch.logspace(-3, 1, 100, dtype=torch.float64)):
        beta = minimise_entropy(X, y, alpha).requires_grad_()
        (gradient,) = torch.autograd.grad(hyperbolic_entropy(beta, alpha), beta)
        null = torch.eye(100).double() - torch.linalg.pinv(X) @ X
        assert (null @ gradient).norm() < 1e-8 * gradient.norm()
        torch.testing.assert_close(X @ beta, y, rtol=0, atol=1e-8)


def test_small_alpha_is_basis_pursuit_and_large_alpha_the_minimum_norm():
    X, y, truth = problem(40, 100)
    sparse, dense = basis_pursuit(X, y), torch.linalg.pinv(X) @ y
    torch.testing.assert_close(sparse, truth, atol=1e-9, rtol=0)  # 40 samples find 3 coordinates
    off = [float((minimise_entropy(X, y, a) - sparse).norm()) for a in (1e-1, 1e-2, 1e-3)]
    assert off[0] > 3 * off[1] > 9 * off[2]
    assert off[2] < 1e-2
    torch.testing.assert_close(minimise_entropy(X, y, 1e3), dense, atol=1e-9, rtol=1e-6)
    X, y = X[:5], torch.randn(5, generator=torch.Generator().manual_seed(4)).double()  # no sparse truth
    assert basis_pursuit(X, y).abs().sum() < (torch.linalg.pinv(X) @ y).abs().sum()
    excess = [float(minimise_entropy(X, y, a).abs().sum() / basis_pursuit(X, y).abs().sum()) - 1 for a in (1e-2, 1e-8)]
    assert -1e-9 < excess[1] < 0.01  # only as 1 / log(1/α)
    assert excess[1] < excess[0] / 5


def test_label_noise_lowers_alpha_at_the_rate_of_its_variance():
    generator = torch.Generator().manual_seed(5)
    X = torch.randint(2, (20, 30), generator=generator).double() * 2 - 1  # squares of 1: the paper's exponent is exact
    y = X[:, :2].sum(1)
    gamma, steps, delta = 0.01, 2000, torch.tensor([0.0, 1.0, 2.0]).double().repeat_interleave(40)
    run = descend(X, y, initialise(0.3, 120, 30), gamma, steps, generator, noise="sample", delta=delta)
    want = effective_alpha(X, 0.3, gamma, run.integral, delta**2 * gamma * steps)
    assert want.shape == (120, 30)
    ratio = (run.network.alpha / 0.3).log().mean(1) / (want / 0.3).log().mean(1)
    for part in ratio.split(40):
        assert abs(float(part.mean()) - 1) < 4 * float(part.std()) / 40**0.5 + 0.02  # 0.02: of the order of the step


def test_with_one_sample_the_exponent_is_exact_up_to_the_step():
    X, y, alpha = torch.tensor([[1.0, 2.0, -0.5]]).double(), torch.tensor([2.0]).double(), torch.tensor([0.3, 0.4, 0.5])
    off = []
    for gamma in (0.01, 0.005):
        run = descend(X, y, initialise(alpha, 1, 3), gamma, 20_000, tol=1e-20)
        want = effective_alpha(X, alpha, gamma, run.integral)
        off.append(float(((run.network.alpha / want).log() / (want / alpha).log()).abs().max()))
    assert off[0] < 0.1
    assert off[1] < 0.8 * off[0]


def test_a_run_that_diverges_has_a_name():
    X, y, _ = problem()
    gamma = torch.tensor([0.05, 5.0])
    with pytest.raises(Diverged, match="step size 5 diverged before step"):
        descend(X, y, initialise(0.3, 2, 15), gamma, 500)
    run = descend(X, y, initialise(0.3, 2, 15), gamma, 5000, keep_diverged=True, tol=1e-20)
    assert run.finite.tolist() == [True, False]
    assert run.loss[-1, 0] < 1e-20


def test_no_solution_is_no_data_point():
    X, y, _ = problem()
    X = torch.cat([X, X[:1]])  # the same input with two labels
    y = torch.cat([y, y[:1] + 1])
    for solve in (lambda: minimise_entropy(X, y, 0.1), lambda: basis_pursuit(X, y)):
        with pytest.raises(NotConverged):
            solve()


def test_bad_input_is_one_clear_line():
    X, y, _ = problem()
    net = initialise(0.3, 2, 15)
    for bad, match in (
        (lambda: initialise(0.0, 2, 15), "α > 0"),
        (lambda: minimise_entropy(X, y, 0.0), "basis_pursuit"),
        (lambda: descend(X, y[:3], net, 0.1, 1), "descend got"),
        (lambda: descend(X, y, net, 0.1, 1, noise="sample"), "needs a generator"),
        (lambda: descend(X, y, net, -0.1, 1), "γ > 0"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
