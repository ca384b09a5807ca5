from math import asin, erf, exp, pi, sqrt

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from phenomena import infinite_width as module
from phenomena.infinite_width import infinite_width, kappa0, kappa1

CASES = [(activation, beta) for activation in ("relu", "erf") for beta in (0.0, 0.7)]


pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(n=5, d=4, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# E σ(v) and E σ̇(v) for v ~ N(m, s²), and c_σ: the inner expectations, given u.
def mean_relu(m, s):
    return m * stats.norm.cdf(m / s) + s * stats.norm.pdf(m / s) if s > 0 else max(m, 0.0)


def mean_step(m, s):
    return stats.norm.cdf(m / s) if s > 0 else float(m > 0)


def mean_erf(m, s):
    return erf(m / sqrt(1 + 2 * s**2))


def mean_erf_slope(m, s):
    return 2 / sqrt(pi * (1 + 2 * s**2)) * exp(-(m**2) / (1 + 2 * s**2))


MEANS = {"relu": (mean_relu, mean_step, 2.0), "erf": (mean_erf, mean_erf_slope, pi / (2 * asin(2 / 3)))}


def expectation(mean, covariance):
    """E[σ(u) σ(v)], σ = mean(·, 0): by quadrature over u, with v given u in closed form; u = a z."""
    a, b = sqrt(covariance[0, 0]), sqrt(covariance[1, 1])
    c = np.clip(covariance[0, 1] / (a * b), -1, 1)
    s = b * sqrt(max(0.0, 1 - c**2))

    def integrand(z):
        return mean(a * z, 0.0) * mean(c * b * z, s) * stats.norm.pdf(z)

    return sum(integrate.quad(integrand, *half, epsabs=1e-12)[0] for half in ((-12, 0), (0, 12)))


def slow(x, z, depth, activation, beta):
    """Σ^L and Θ^L of one pair, from the definitions: 2 x 2 covariances and quadrature."""
    value, slope, c_sigma = MEANS[activation]
    pair = np.stack([x, z])
    covariance = pair @ pair.T + beta**2
    theta = covariance[0, 1]
    for _ in range(depth):
        derivative = c_sigma * expectation(slope, covariance)
        new = np.empty((2, 2))
        for i in range(2):
            for j in range(2):
                block = covariance[np.ix_([i, j], [i, j])]
                new[i, j] = c_sigma * expectation(value, block) + beta**2
        covariance = new
        theta = derivative * theta + covariance[0, 1]
    return covariance[0, 1], theta


@pytest.mark.parametrize("c", [-1.0, -0.6, 0.0, 0.3, 0.99, 1.0])
def test_kappas_are_gaussian_expectations(c):
    covariance = np.array([[1.0, c], [c, 1.0]])
    one = torch.tensor(c, dtype=torch.float64)
    assert float(kappa0(one)) == pytest.approx(2 * expectation(mean_step, covariance), abs=1e-8)
    assert float(kappa1(one)) == pytest.approx(2 * expectation(mean_relu, covariance), abs=1e-8)


def test_kappas_clamp_a_rounded_correlation():
    c = torch.tensor([1 + 1e-6, -1 - 1e-6])
    assert kappa0(c).tolist() == kappa1(c).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("activation", "beta"), CASES)
@pytest.mark.parametrize("depth", [1, 3])
def test_recursion_is_the_slow_one(activation, beta, depth):
    X, Z = inputs(2, seed=1), 2 * inputs(1, seed=2)
    kernels = infinite_width(X, Z, depth, activation, beta)
    for i, x in enumerate(X.numpy()):
        want = slow(x, Z[0].numpy(), depth, activation, beta)
        assert [float(K[i, 0]) for K in kernels] == pytest.approx(want, rel=1e-8)


def test_depth_one_on_the_sphere():
    X = torch.nn.functional.normalize(inputs(), dim=1)
    c = X @ X.mT
    kernels = infinite_width(X)
    assert torch.allclose(kernels.nngp, kappa1(c), atol=1e-7)
    assert torch.allclose(kernels.ntk, kappa1(c) + c * kappa0(c), atol=1e-7)


def test_depth_zero_is_linear_regression():
    X, Z = inputs(), inputs(3, seed=1)
    for K in infinite_width(X, Z, depth=0, beta=2.0):
        assert torch.allclose(K, X @ Z.mT + 4)


@pytest.mark.parametrize(("activation", "beta"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_symmetric_and_positive_semidefinite(activation, beta, dtype):
    X = torch.cat([inputs(40, 6, dtype=dtype), inputs(3, 6, dtype=dtype)])  # the first three come twice
    for K in infinite_width(X, depth=4, activation=activation, beta=beta):
        assert K.dtype == dtype
        assert torch.equal(K, K.mT)
        eigenvalues = torch.linalg.eigvalsh(K.double())
        assert eigenvalues[0] > -10 * torch.finfo(dtype).eps * eigenvalues[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_diagonals_are_norms(dtype):
    X = inputs(50, 30, dtype=dtype)
    norms = (X**2).sum(1)
    for Z in (None, X.clone()):
        nngp, ntk = infinite_width(X, Z, depth=5)
        tolerance = {"rtol": 20 * torch.finfo(dtype).eps, "atol": 0.0}
        assert torch.allclose(nngp.diagonal(), norms, **tolerance)
        assert torch.allclose(ntk.diagonal(), 6 * norms, **tolerance)


@pytest.mark.parametrize(("activation", "beta"), CASES)
def test_kernel_of_an_input_set_with_itself_and_with_its_copy(activation, beta):
    X = inputs(8)
    for own, copy in zip(
        infinite_width(X, None, 3, activation, beta), infinite_width(X, X.clone(), 3, activation, beta), strict=True
    ):
        assert torch.allclose(own, copy, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("activation", "beta"), CASES)
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_float32_near_equal_and_opposite_inputs(activation, beta, distance, size):
    """The same float32 inputs in float64 give the same kernels, up to rounding errors.

    Looser for erf: Σ̇ of large, nearly opposite inputs goes as 1/sin θ, and θ near π is known to the rounding of π.
    """
    X = size * inputs(6, 50, dtype=torch.float32)
    Z = torch.cat([X + size * distance * inputs(6, 50, seed=1, dtype=torch.float32), -X])
    singles = infinite_width(X, Z, 4, activation, beta)
    doubles = infinite_width(X.double(), Z.double(), 4, activation, beta)
    for single, double in zip(singles, doubles, strict=True):
        assert (single - double).abs().max() < {"relu": 2e-6, "erf": 5e-5}[activation] * double.abs().max()


def test_arccos_of_a_float32_correlation_would_be_worse():
    """The control: the textbook recursion in float32 misses the derivative by what the angles avoid."""
    X = torch.nn.functional.normalize(inputs(200, 50, dtype=torch.float32), dim=1)
    Z = torch.nn.functional.normalize(X + 1e-4 * inputs(200, 50, seed=1, dtype=torch.float32), dim=1)
    want = infinite_width(X.double(), Z.double()).ntk.diagonal()
    c = (X @ Z.mT).diagonal()
    ours, textbook = infinite_width(X, Z).ntk.diagonal(), kappa1(c) + c * kappa0(c)
    assert (ours - want).abs().max() < 1e-6
    assert (textbook - want).abs().max() > 1e-5


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_zero_vectors(activation):
    X = torch.cat([inputs(3), torch.zeros(1, 4, dtype=torch.float64)])
    without = infinite_width(X[:3], depth=3, activation=activation)
    for K, rest in zip(infinite_width(X, depth=3, activation=activation), without, strict=True):
        assert torch.equal(K[3], torch.zeros(4, dtype=torch.float64))
        assert torch.allclose(K[:3, :3], rest)
    kernels = infinite_width(X, depth=2, activation=activation, beta=0.5)
    want = slow(X[3].numpy(), X[0].numpy(), 2, activation, 0.5)
    assert [float(K[3, 0]) for K in kernels] == pytest.approx(want, rel=1e-8)


def test_relu_kernels_scale_with_the_inputs_and_turn_with_them():
    X, Z = inputs(), inputs(3, seed=1)
    Q = torch.linalg.qr(inputs(4, seed=2))[0]
    for K, scaled, turned in zip(
        infinite_width(X, Z, 3), infinite_width(2 * X, 5 * Z, 3), infinite_width(X @ Q, Z @ Q, 3), strict=True
    ):
        assert torch.allclose(scaled, 10 * K)
        assert torch.allclose(turned, K)


@pytest.mark.parametrize("block", [1, 7, 30])
def test_blocks_change_nothing(block, monkeypatch):
    X, Z = inputs(9), inputs(4, seed=1)
    X[4] = X[3]
    whole = [*infinite_width(X, None, 2, beta=0.3), *infinite_width(X, Z, 2, beta=0.3)]
    monkeypatch.setattr(module, "BLOCK", block)
    parts = [*infinite_width(X, None, 2, beta=0.3), *infinite_width(X, Z, 2, beta=0.3)]
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanh"}, "relu, erf"),
        ({"depth": -1}, "depth"),
        ({"beta": -0.1}, "beta"),
        ({"Z": torch.zeros(2, 3, dtype=torch.float64)}, "share"),
        ({"Z": torch.zeros(2, 4)}, "share"),
        ({"X": torch.zeros(2, 1, 4, 4)}, "flatten"),
        ({"X": torch.zeros(2, 4, dtype=torch.int64)}, "floating"),
        ({"X": torch.full((2, 4), torch.nan)}, "NaN"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        infinite_width(**({"X": inputs()} | arguments))
