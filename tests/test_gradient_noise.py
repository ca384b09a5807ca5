from itertools import combinations, product

import pytest
import torch
from torch import nn

from phenomena.curvature import gauss_newton, gradient_covariance, hessian
from phenomena.errors import Diverged
from phenomena.gradient_noise import (
    alignment,
    curvatures,
    escape_indicator,
    gaussian_noise,
    noise_covariance,
    noise_factor,
    per_sample_gradients,
)
from phenomena.networks import mlp
from phenomena.training import cross_entropy, squared_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(sizes=(3, 5, 4), seed=0):
    """A small tanh network, float64."""
    return mlp(sizes, generator(seed), nn.Tanh).double()


def sample(n=7, d=3, classes=4, seed=1):
    g = generator(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64), torch.randint(classes, (n,), generator=g)


def loop(model, X, y, loss):
    """g_i by one backward pass a sample."""
    rows = []
    for i in range(len(X)):
        gradients = torch.autograd.grad(loss(model(X[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def symmetric(p, seed, *, positive=True):
    R = torch.randn(p, p, generator=generator(seed), dtype=torch.float64)
    return R @ R.mT if positive else R + R.mT


# per-sample gradients


@pytest.mark.parametrize("loss", [cross_entropy, squared_loss])
@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
def test_per_sample_gradients_are_those_of_a_loop(loss, chunk):
    model, (X, y) = network(), sample()
    G = per_sample_gradients(model, X, y, loss, chunk=chunk)
    assert G.shape == (7, 3 * 5 + 5 + 5 * 4 + 4)
    assert not G.requires_grad
    torch.testing.assert_close(G, loop(model, X, y, loss))


def test_per_sample_gradients_of_a_convolution_with_real_targets():
    g = generator()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4 * 4, 2)).double()
    X = torch.randn(5, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randn(5, 2, generator=g, dtype=torch.float64)
    torch.testing.assert_close(per_sample_gradients(model, X, y, squared_loss), loop(model, X, y, squared_loss))


def test_their_mean_is_the_gradient_of_the_batch():
    model, (X, y) = network(), sample()
    whole = torch.autograd.grad(cross_entropy(model(X), y), list(model.parameters()))
    flat = torch.cat([g.flatten() for g in whole])
    torch.testing.assert_close(per_sample_gradients(model, X, y, cross_entropy).mean(0), flat)


def test_frozen_parameters_do_not_count():
    model, (X, y) = network(), sample()
    everything = per_sample_gradients(model, X, y, cross_entropy)
    model[0].weight.requires_grad_(False)
    torch.testing.assert_close(per_sample_gradients(model, X, y, cross_entropy), everything[:, 15:])


def test_eval_mode_batch_norm_has_sample_gradients():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).double()
    X, y = sample()
    with pytest.raises(ValueError, match="eval"):
        per_sample_gradients(model, X, y, cross_entropy)
    model.eval()
    torch.testing.assert_close(per_sample_gradients(model, X, y, cross_entropy), loop(model, X, y, cross_entropy))


def test_dropout_frozen_models_and_empty_sets_are_refused():
    X, y = sample()
    with pytest.raises(ValueError, match="Dropout"):
        per_sample_gradients(nn.Sequential(nn.Dropout(), nn.Linear(3, 4)).double(), X, y, cross_entropy)
    with pytest.raises(ValueError, match="no parameters"):
        per_sample_gradients(network().requires_grad_(False), X, y, cross_entropy)
    with pytest.raises(ValueError, match="same samples"):
        per_sample_gradients(network(), X, y[:3], cross_entropy)
    with pytest.raises(ValueError, match="same samples"):
        per_sample_gradients(network(), X[:0], y[:0], cross_entropy)


def test_a_gradient_that_is_not_finite_is_no_measurement():
    X, y = sample()
    X[2, 0] = float("nan")
    with pytest.raises(Diverged):
        per_sample_gradients(network(), X, y, cross_entropy)


# the covariance of a batch's gradient


@pytest.mark.parametrize("n", [1, 4, 5])
@pytest.mark.parametrize("B", [1, 2, 3, 4])
@pytest.mark.parametrize("replacement", [True, False])
def test_covariance_is_that_of_all_batches(n, B, replacement):
    if not replacement and n < B:
        with pytest.raises(ValueError, match="without"):
            noise_factor(n, B, replacement=False)
        return
    G = torch.randn(n, 3, generator=generator(n), dtype=torch.float64)
    all_batches = product(range(n), repeat=B) if replacement else combinations(range(n), B)
    means = torch.stack([G[list(batch)].mean(0) for batch in all_batches])
    difference = means - G.mean(0)
    exact = difference.mT @ difference / len(means)
    torch.testing.assert_close(noise_covariance(G, B, replacement=replacement), exact, atol=1e-14, rtol=1e-10)


def test_one_sample_has_C_and_the_full_batch_none():
    G = torch.randn(6, 3, generator=generator(), dtype=torch.float64)
    C = torch.cov(G.mT, correction=0)
    torch.testing.assert_close(noise_covariance(G, 1, replacement=True), C)
    torch.testing.assert_close(noise_covariance(G, 1, replacement=False), C)
    assert noise_factor(6, 6, replacement=False) == 0
    with pytest.raises(ValueError, match="batch of 0"):
        noise_factor(6, 0, replacement=True)


@pytest.mark.parametrize("replacement", [True, False])
def test_covariance_by_monte_carlo(replacement):
    n, B, draws, g = 20, 6, 20_000, generator(3)
    G = torch.randn(n, 3, generator=g, dtype=torch.float64).pow(3)
    weights = torch.ones(draws, n)
    batches = torch.multinomial(weights, B, replacement=replacement, generator=g)
    difference = G[batches].mean(1) - G.mean(0)
    products = difference[:, :, None] * difference[:, None, :]
    error = products.std(0) / draws**0.5
    z = (products.mean(0) - noise_covariance(G, B, replacement=replacement)) / error
    assert z.abs().max() < 4
    wrong = (products.mean(0) - noise_covariance(G, B, replacement=not replacement)) / error
    assert wrong.abs().max() > 8


def test_gaussian_noise_has_the_batch_covariance():
    g = generator(4)
    G = torch.randn(8, 3, generator=g, dtype=torch.float64) + 5  # a mean that must not show
    xi = torch.stack([gaussian_noise(G, 3, g, replacement=False) for _ in range(20_000)])
    error = (xi[:, :, None] * xi[:, None, :]).std(0) / len(xi) ** 0.5
    assert ((torch.cov(xi.mT) - noise_covariance(G, 3, replacement=False)) / error).abs().max() < 4
    assert (xi.mean(0) / (xi.std(0) / len(xi) ** 0.5)).abs().max() < 4
    assert gaussian_noise(G, 8, g, replacement=False).norm() == 0


# closed forms


def least_squares(n=60, p=4, sigma=0.7, seed=5):
    g = generator(seed)
    X = torch.randn(n, p, generator=g, dtype=torch.float64) * torch.arange(1.0, p + 1)
    theta = torch.randn(p, generator=g, dtype=torch.float64)
    return X, theta, sigma, g


def linear(theta):
    model = nn.Linear(len(theta), 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(theta[None])
    return model


def test_least_squares_is_weighted_by_residuals():
    X, theta, _, g = least_squares()
    y = torch.randn(60, 1, generator=g, dtype=torch.float64)
    G = per_sample_gradients(linear(theta), X, y, squared_loss)
    r = X @ theta - y[:, 0]
    mean = X.mT @ r / 60
    weighted = sum(r[i] ** 2 * torch.outer(X[i], X[i]) for i in range(60)) / 60
    torch.testing.assert_close(noise_covariance(G, 1, replacement=True), weighted - torch.outer(mean, mean))


def test_well_specified_least_squares_has_C_equal_to_sigma2_H_but_for_the_leverages():
    X, theta, sigma, g = least_squares()
    n, H = 60, X.mT @ X / 60
    P = X @ torch.linalg.solve(X.mT @ X, X.mT)
    draws = []
    for _ in range(4000):
        y = X @ theta + sigma * torch.randn(n, generator=g, dtype=torch.float64)
        r = y - P @ y  # at the fit
        draws.append((X * r[:, None] ** 2).mT @ X / n)  # the fit's gradient is 0
    C = torch.stack(draws)
    error = C.std(0) / len(C) ** 0.5
    exact = sigma**2 * (X * (1 - P.diagonal())[:, None]).mT @ X / n
    assert ((C.mean(0) - exact) / error).abs().max() < 4
    found = alignment(exact, H)
    assert found.cosine > 0.999  # leverages of mean p/n = 1/15 hardly turn it
    assert (exact / (sigma**2 * H)).diagonal().sub(1 - 4 / 60).abs().max() < 0.1


def test_heteroscedastic_noise_breaks_it():
    X, _, _, _ = least_squares(n=400)
    H = X.mT @ X / 400
    r2 = (X[:, 0] > 1).double()  # only some samples are noisy
    assert alignment((X * r2[:, None]).mT @ X / 400, H).cosine < 0.99
    assert alignment(0.3 * H, H).cosine == pytest.approx(1)


def test_second_moment_under_the_models_own_labels_is_gauss_newton():
    model, (X, _) = network(), sample()
    n, classes = len(X), 4
    weights = model(X).detach().softmax(1)
    second = 0
    for label in range(classes):  # the expectation over labels, exactly
        G = per_sample_gradients(model, X, torch.full((n,), label), cross_entropy)
        second = second + (G * weights[:, label, None]).mT @ G / n
    torch.testing.assert_close(second, gauss_newton(model, X, torch.zeros(n, dtype=torch.int64), cross_entropy).dense())


# alignment with the Hessian


def test_covariance_is_that_of_the_curvature_module():
    model, (X, y) = network(), sample()
    G = per_sample_gradients(model, X, y, cross_entropy)
    C = noise_covariance(G, 1, replacement=True)
    torch.testing.assert_close(C, gradient_covariance(model, X, y, cross_entropy).dense())


def test_alignment_by_its_definitions():
    C, H = symmetric(5, 1), symmetric(5, 2)
    found = alignment(C, H)
    assert found.cosine == pytest.approx(float(torch.trace(C @ H) / (torch.trace(C @ C) * torch.trace(H @ H)).sqrt()))
    assert found.ratio == pytest.approx(float(torch.trace(H @ C) / (H.trace() * C.trace() / 5)))
    values, vectors = torch.linalg.eigh(H)
    u = vectors[:, -1]
    assert found.leading == pytest.approx(float(u @ C @ u * H.trace() / (values[-1] * C.trace())))
    assert alignment(C, C) == pytest.approx((1, float(torch.trace(C @ C) * 5 / C.trace() ** 2), 1))


def test_isotropic_and_turned_noise_have_ratio_one():
    H = torch.diag(torch.tensor([10.0, 1, 0.1, 0, 0, 0], dtype=torch.float64))
    assert alignment(torch.eye(6), H).ratio == pytest.approx(1)
    g, C, ratios = generator(7), 3 * H, []
    for _ in range(1500):
        Q = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
        ratios.append(alignment(Q @ C @ Q.mT, H).ratio)
    ratios = torch.tensor(ratios)
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / len(ratios) ** 0.5
    assert alignment(C, H).ratio > 4


def test_indicator_is_the_trace_and_the_second_order_rise_of_the_loss():
    model, (X, y) = network(), sample()
    H, G = hessian(model, X, y, cross_entropy), per_sample_gradients(model, X, y, cross_entropy)
    C = noise_covariance(G, 1, replacement=True)
    dense = H.dense()
    torch.testing.assert_close(escape_indicator(H, G), torch.trace(dense @ C))
    torch.testing.assert_close(escape_indicator(dense, G), torch.trace(dense @ C))
    V = torch.linalg.eigh(C)[1]
    torch.testing.assert_close(curvatures(H, V), (V.mT @ dense @ V).diagonal())

    # E L(θ - ηξ) - L(θ) -> η²/2 Tr(HC) for noise of covariance C: the two points θ ± η (g_i - g) √n cancel odd terms
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    eta, rises = 1e-3, []

    def loss_at(point):
        nn.utils.vector_to_parameters(point, model.parameters())
        return cross_entropy(model(X), y).item()

    for c in G - G.mean(0):
        rises.append((loss_at(theta + eta * c) + loss_at(theta - eta * c)) / 2 - loss_at(theta))
    expected = eta**2 / 2 * float(torch.trace(dense @ C))
    assert sum(rises) / len(rises) == pytest.approx(expected, rel=1e-3)


def test_alignment_of_nothing_is_refused():
    H = symmetric(3, 1)
    with pytest.raises(ValueError, match=r"Tr\(C\)"):
        alignment(torch.zeros(3, 3), H)
    with pytest.raises(ValueError, match="one p"):
        alignment(torch.eye(2), H)
    with pytest.raises(ValueError, match="one p"):
        alignment(H[:2], H[:2])
    with pytest.raises(Diverged):
        alignment(H * float("nan"), H)
