import numpy as np
import pytest
import torch
from scipy.sparse import linalg
from torch import nn
from torch.autograd.functional import hessian as dense_hessian
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from phenomena.convolution_products import TwiceDifferentiable
from phenomena.curvature import (
    Eigenpairs,
    NotConverged,
    Operator,
    Stale,
    gauss_newton,
    gradient_covariance,
    hessian,
    top_eigenpairs,
)
from phenomena.errors import Diverged
from phenomena.training import cross_entropy, squared_loss

pytestmark = pytest.mark.usefixtures("one_thread")
LOSSES = (squared_loss, cross_entropy)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def fill(model):
    """A module in float64 with weights of a seed."""
    generator = seeded(3)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    return model


def perceptron():
    return fill(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)))


def rectified():
    return fill(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))


def conv():
    return fill(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, (2, 1), stride=(1, 2), dilation=(2, 1), groups=2, bias=False),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    )


def conv1d():
    return fill(
        nn.Sequential(
            nn.Conv1d(2, 3, 3, stride=2, padding="valid"),
            nn.Tanh(),
            nn.Conv1d(3, 2, 3, padding="same"),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    )


CASES = {
    "perceptron": (perceptron, (5,)),
    "rectified": (rectified, (5,)),
    "conv": (conv, (2, 6, 6)),
    "conv1d": (conv1d, (2, 9)),
}


def case(name, n=11):
    make, shape = CASES[name]
    return make(), randn(n, *shape, seed=1), torch.arange(n) % 3


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def at(model, theta, X):
    """Outputs with the parameters theta, by torch.func."""
    shapes = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts = theta.split([p.numel() for p in shapes.values()])
    named = {name: part.view_as(p) for (name, p), part in zip(shapes.items(), parts, strict=True)}
    return functional_call(model, named, (X,))


def slow_hessian(model, X, y, loss):
    return dense_hessian(lambda theta: loss(at(model, theta, X), y), flat(model))


def slow_gauss_newton(model, X, y, loss):
    total = 0
    for i in range(len(X)):
        J = torch.autograd.functional.jacobian(lambda theta, i=i: at(model, theta, X[i : i + 1])[0], flat(model))
        f = model(X[i : i + 1]).detach()[0]
        total = total + J.T @ dense_hessian(lambda f, i=i: loss(f[None], y[i : i + 1]), f) @ J
    return total / len(X)


def slow_covariance(model, X, y, loss, centred=True):
    params = [p for p in model.parameters() if p.requires_grad]
    G = torch.stack(
        [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(model(X[i : i + 1]), y[i : i + 1]), params)])
            for i in range(len(X))
        ]
    )
    total = torch.zeros(G.shape[1], G.shape[1], dtype=G.dtype)
    for g in G:
        d = g - G.mean(0) if centred else g
        total += torch.outer(d, d)
    return total / len(X)


OPERATORS = [(hessian, slow_hessian), (gauss_newton, slow_gauss_newton), (gradient_covariance, slow_covariance)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("make", "slow"), OPERATORS)
def test_dense_is_the_slow_one_in_one_graph_and_in_chunks(make, slow, name, loss):
    model, X, y = case(name)
    want = slow(model, X, y, loss)
    for chunk in (None, 4):
        A = make(model, X, y, loss, chunk=chunk)
        torch.testing.assert_close(A.dense(), want, rtol=1e-9, atol=1e-11)
        v = randn(A.shape[0], seed=7)
        torch.testing.assert_close(A @ v, want @ v, rtol=1e-9, atol=1e-11)
    assert want.abs().max() > 1e-2


def test_uncentred_covariance_is_the_second_moment():
    model, X, y = case("perceptron")
    A = gradient_covariance(model, X, y, cross_entropy, centred=False, chunk=3)
    torch.testing.assert_close(A.dense(), slow_covariance(model, X, y, cross_entropy, centred=False))


def test_a_loss_of_ones_own_and_float_targets():
    def quartic(f, y):
        return (f - y).pow(4).sum(-1).mean(-1)

    model, X, _ = case("perceptron")
    Y = randn(11, 3, seed=5)
    for make, slow in OPERATORS:
        torch.testing.assert_close(make(model, X, Y, quartic).dense(), slow(model, X, Y, quartic))
        torch.testing.assert_close(make(model, X, Y, squared_loss).dense(), slow(model, X, Y, squared_loss))


def test_hessian_product_is_the_difference_of_two_gradients():
    model, X, y = case("conv", n=30)
    A, v, h = hessian(model, X, y, cross_entropy), randn(flat(model).numel(), seed=2), 1e-5
    Hv, theta, gradients = A @ v, flat(model), []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(theta + sign * h * v, model.parameters())
        grads = torch.autograd.grad(cross_entropy(model(X), y), list(model.parameters()))
        gradients.append(torch.cat([g.reshape(-1) for g in grads]))
    torch.testing.assert_close(Hv, (gradients[0] - gradients[1]) / (2 * h), rtol=1e-4, atol=1e-6)


def test_columns_are_single_products():
    for name in ("perceptron", "conv"):
        model, X, y = case(name)
        V = randn(flat(model).numel(), 40, seed=2)
        for make, _ in OPERATORS:
            for chunk in (None, 5):
                A = make(model, X, y, cross_entropy, chunk=chunk)
                torch.testing.assert_close(A @ V, torch.stack([A @ v for v in V.T], 1))
                assert (A @ V[:, :0]).shape == (len(V), 0)


class WithSpare(nn.Module):
    """A network that does not use all of its parameters."""

    def __init__(self):
        super().__init__()
        self.net, self.spare = perceptron(), nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, X):
        return self.net(X)


def test_frozen_and_unused_parameters():
    model, X, y = WithSpare(), randn(11, 5, seed=1), torch.arange(11) % 3
    model.net[0].weight.requires_grad_(False)
    for make, slow in OPERATORS:
        whole = slow(model.net, X, y, cross_entropy)
        for chunk in (None, 4):
            A = make(model, X, y, cross_entropy, chunk=chunk).dense()
            assert A.shape == (4 + len(whole),) * 2
            assert not A[:4].any()  # the module's own parameters come first
            torch.testing.assert_close(A[4:, 4:], whole)


def test_what_is_linear_has_no_curvature():
    def linear(f, y):
        return f.sum(-1).mean(-1)

    model = fill(nn.Sequential(nn.Linear(5, 3)))
    X, y = randn(11, 5), torch.zeros(11)
    for make in (hessian, gauss_newton):
        assert not make(model, X, y, linear).dense().any()
    assert gradient_covariance(model, X, y, linear).dense().any()


def test_convolutions_are_pytorchs():
    model, X, _ = case("conv")
    with TwiceDifferentiable() as mode:
        ours = model(X)
        grouped = F.conv2d(X, randn(4, 1, 3, 2, seed=4), stride=2, groups=2)
        same = F.conv2d(X, randn(4, 2, 3, 3, seed=4), padding="same")
    assert mode.used
    torch.testing.assert_close(ours, model(X))
    torch.testing.assert_close(grouped, F.conv2d(X, randn(4, 1, 3, 2, seed=4), stride=2, groups=2))
    torch.testing.assert_close(same, F.conv2d(X, randn(4, 2, 3, 3, seed=4), padding="same"))


@pytest.mark.parametrize("chunk", [None, 4])
def test_an_operator_is_stale_after_a_step(chunk):
    model, X, y = case("perceptron")
    for make, slow in OPERATORS:
        A = make(model, X, y, cross_entropy, chunk=chunk)
        v = randn(A.shape[0])
        A @ v
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        cross_entropy(model(X), y).backward()
        optimizer.step()
        with pytest.raises(Stale, match="make a new one"):
            A @ v
        torch.testing.assert_close(make(model, X, y, cross_entropy) @ v, slow(model, X, y, cross_entropy) @ v)
        torch.nn.utils.vector_to_parameters(flat(model), model.parameters())


def test_scipy_finds_the_same_eigenvalues_both_ends():
    model, X, y = case("perceptron", n=40)
    H = hessian(model, X, y, cross_entropy)
    want = torch.linalg.eigvalsh(slow_hessian(model, X, y, cross_entropy))
    assert want[0] < -0.01 < 0.01 < want[-1]  # indefinite
    for which, ends in (("LA", want[-3:]), ("SA", want[:3])):
        got = linalg.eigsh(H.scipy(), 3, which=which, return_eigenvectors=False, v0=np.ones(H.shape[0]))
        np.testing.assert_allclose(np.sort(got), ends, rtol=1e-8)
    assert H.scipy().matmat(np.eye(H.shape[0])).shape == H.shape


def matrix(values, seed=0):
    """A symmetric matrix with these eigenvalues and its operator, which counts its products."""
    U = torch.linalg.qr(randn(len(values), len(values), seed=seed))[0]
    A = U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ U.T
    count = [0]

    def product(v):
        count[0] += 1 if v.dim() == 1 else len(v)
        return v @ A

    return U, Operator(product, len(values), torch.float64, torch.device("cpu")), count


@pytest.mark.parametrize("k", [1, 4])
def test_top_eigenpairs_of_networks(k):
    for name in ("perceptron", "conv"):
        model, X, y = case(name, n=40)
        H = hessian(model, X, y, cross_entropy)
        pairs = top_eigenpairs(H, k, seeded(), tol=1e-8)
        values, vectors = torch.linalg.eigh(slow_hessian(model, X, y, cross_entropy))
        torch.testing.assert_close(pairs.values, values.flip(0)[:k], rtol=1e-7, atol=0)
        overlap = (pairs.vectors * vectors.flip(1)[:, :k]).sum(0).abs()
        torch.testing.assert_close(overlap, torch.ones(k, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_largest_are_algebraic_and_the_residual_holds():
    U, A, _ = matrix([-9.0, -5.0, *np.linspace(-1, 1, 90), 3.0, 2.0])
    for tol in (1e-2, 1e-4, 1e-9):
        values, vectors = top_eigenpairs(A, 2, seeded(1), tol=tol)
        torch.testing.assert_close(values, torch.tensor([3.0, 2.0], dtype=torch.float64), rtol=tol**1.5, atol=0)
        assert ((A @ vectors - vectors * values).norm(dim=0) <= tol * values).all()
    assert (vectors[:, 0] @ U[:, -2]).abs() > 1 - 1e-9
    all_negative = top_eigenpairs(matrix([-3.0, -2.0, -1.0])[1], 1, seeded()).values
    torch.testing.assert_close(all_negative, torch.tensor([-1.0], dtype=torch.float64))


def test_equal_eigenvalues_invariant_starts_and_all_of_them():
    _, A, _ = matrix([5.0, 5.0, 5.0, *[1.0] * 20])
    torch.testing.assert_close(top_eigenpairs(A, 3, seeded()).values, torch.full((3,), 5.0, dtype=torch.float64))
    U, A, _ = matrix([4.0, 3.0, 2.0, 1.0, 0.5, -1.0])
    found = top_eigenpairs(A, 2, seeded(), start=U[:, :1])  # an invariant space of one dimension, two wanted
    torch.testing.assert_close(found.values, torch.tensor([4.0, 3.0], dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(top_eigenpairs(A, 6, seeded()).values[-1], torch.tensor(-1.0, dtype=torch.float64))


def test_a_warm_start_needs_fewer_products():
    U, A, count = matrix([*np.linspace(0, 1, 200), 2.0, 2.5, 3.0])
    cold = top_eigenpairs(A, 3, seeded())
    cold_count, count[0] = count[0], 0
    near = cold.vectors + 1e-3 * randn(len(U), 3, seed=4) / len(U) ** 0.5
    warm = top_eigenpairs(A, 3, seeded(), start=near)
    assert count[0] <= cold_count / 3
    torch.testing.assert_close(warm.values, cold.values, rtol=1e-4, atol=0)
    count[0] = 0
    top_eigenpairs(A, 3, seeded(), start=Eigenpairs(*warm))
    assert count[0] == 3  # already there


def test_restarts_reach_what_a_small_basis_cannot():
    _, A, count = matrix([*np.linspace(0, 1, 400), 1.02])
    found = top_eigenpairs(A, 1, seeded(), tol=1e-6)
    assert count[0] > 30
    assert found.values.item() == pytest.approx(1.02, rel=1e-6)


def test_not_converged_has_a_name():
    _, A, count = matrix([*np.linspace(0, 1, 400), 1.001])
    with pytest.raises(NotConverged, match=r"1 of 1 eigenpairs miss the tolerance 1e-09 after 12 products"):
        top_eigenpairs(A, 1, seeded(), tol=1e-9, max_products=12)
    assert count[0] == 12


def test_bad_input_is_one_clear_line():
    model, X, y = case("perceptron")
    H = hessian(model, X, y, squared_loss)
    with pytest.raises(ValueError, match=r"needs v \(p,\) or \(p, k\)"):
        H @ torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"k must be in 1\.\."):
        top_eigenpairs(H, 0, seeded())
    with pytest.raises(ValueError, match="same samples"):
        hessian(model, X, y[:3], squared_loss)
    with pytest.raises(ValueError, match="chunk must be"):
        hessian(model, X, y, squared_loss, chunk=0)
    with pytest.raises(ValueError, match="mean over the samples"):
        hessian(model, X, y, lambda f, y: (f**2).sum(-1))
    with pytest.raises(ValueError, match="must reduce"):
        gradient_covariance(model, X, y, lambda f, y: (f**2).mean())
    with pytest.raises(ValueError, match="no parameters"):
        hessian(nn.Sequential(nn.Tanh()), X, y, squared_loss)
    with pytest.raises(Diverged, match="loss is nan"):
        hessian(model, X * float("nan"), y, squared_loss)
    bad = Operator(lambda v: v * float("nan"), 4, torch.float64, torch.device("cpu"))
    with pytest.raises(Diverged, match="not finite"):
        top_eigenpairs(bad, 1, seeded())


def test_layers_that_mix_samples_are_refused():
    X, y = randn(12, 5), torch.arange(12) % 3
    for layer, whole in ((nn.Dropout(), False), (nn.BatchNorm1d(6), True)):
        model = fill(nn.Sequential(nn.Linear(5, 6), layer, nn.Tanh(), nn.Linear(6, 3))).train()
        for make, chunk in ((hessian, 4), (gauss_newton, None), (gradient_covariance, None)):
            with pytest.raises(ValueError, match=r"model\.eval"):
                make(model, X, y, cross_entropy, chunk=chunk)
        if whole:
            torch.testing.assert_close(
                hessian(model, X, y, cross_entropy).dense(), slow_hessian(model, X, y, cross_entropy)
            )
        model.eval()
        torch.testing.assert_close(
            hessian(model, X, y, cross_entropy, chunk=5).dense(), slow_hessian(model, X, y, cross_entropy)
        )


def test_gradients_may_be_off_and_single_precision_stays():
    model, X, y = case("perceptron")
    model.float()
    with torch.no_grad():
        H = hessian(model, X.float(), y, cross_entropy, chunk=4)
        C = gradient_covariance(model, X.float(), y, cross_entropy)
        assert (H @ torch.ones(H.shape[0])).dtype == (C @ torch.ones(H.shape[0])).dtype == torch.float32
    assert H.scipy().dtype == np.float32
    assert all(p.grad is None for p in model.parameters())
