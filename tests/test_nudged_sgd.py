import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from phenomena.errors import Diverged
from phenomena.networks import mlp
from phenomena.nudged_sgd import (
    batch_gradients,
    loss_along,
    nudged_step,
    quadratic_probe,
    step_probe,
    train_nudged,
)
from phenomena.training import cross_entropy, squared_loss, train

pytestmark = pytest.mark.usefixtures("one_thread")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def orthonormal(p, K, seed=0):
    return torch.linalg.qr(torch.randn(p, K, generator=rng(seed), dtype=torch.float64))[0]


def classes(n=60):
    """A small network in float64 and data that it can learn."""
    X = torch.randn(n, 4, generator=rng(1), dtype=torch.float64)
    y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    return mlp((4, 6, 3), rng(2), nn.Tanh).double(), X, y


def quadratic(n=30, d=6):
    """A linear model, so that the squared loss is quadratic with the Hessian XᵀX/n, of eigenvalues far apart."""
    U = orthonormal(n, d, 3)
    V = orthonormal(d, d, 4)
    values = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    X = U * (n * values).sqrt() @ V.mT
    y = torch.randn(n, 1, generator=rng(5), dtype=torch.float64)
    return nn.Linear(d, 1, bias=False).double(), X, y, values, V


def dense_hessian(model, X, y, loss):
    names = [name for name, _ in model.named_parameters()]
    shapes = [w.shape for w in model.parameters()]

    def value(theta):
        parts = theta.split([s.numel() for s in shapes])
        return loss(
            torch.func.functional_call(
                model, {k: t.view(s) for k, t, s in zip(names, parts, shapes, strict=True)}, (X,)
            ),
            y,
        )

    return torch.autograd.functional.hessian(value, parameters_to_vector(model.parameters()).detach())


@pytest.mark.parametrize("gamma", [0.0, 0.01, 1.0, 5.0])
def test_step_is_the_gradient_with_its_components_along_the_vectors_rescaled(gamma):
    g = torch.randn(9, generator=rng(), dtype=torch.float64)
    E = orthonormal(9, 3)
    want = [-0.1 * float(g[i]) for i in range(9)]
    for k in range(3):  # the equation, number by number
        inner = sum(float(g[i] * E[i, k]) for i in range(9))
        want = [w + 0.1 * (1 - gamma) * inner * float(E[i, k]) for i, w in enumerate(want)]
    step = nudged_step(g, E, 0.1, gamma)
    torch.testing.assert_close(step, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(E.mT @ step, -0.1 * gamma * (E.mT @ g), rtol=1e-12, atol=1e-14)


def test_gamma_one_is_the_plain_step_to_the_last_bit_and_gamma_zero_leaves_the_span_alone():
    g, E = torch.randn(50, generator=rng()), orthonormal(50, 5).float()
    assert torch.equal(nudged_step(g, E, 0.3, 1.0), -0.3 * g)
    assert (E.mT @ nudged_step(g, E, 0.3, 0.0)).abs().max() < 1e-6
    assert torch.equal(nudged_step(g, E[:, :0], 0.3, 0.0), -0.3 * g)  # no direction, no nudge


@pytest.mark.parametrize(
    ("g", "vectors", "eta", "match"),
    [
        (torch.ones(4), torch.ones(4), 0.1, r"vectors \(p, K\)"),
        (torch.ones(4), torch.ones(3, 2), 0.1, r"vectors \(p, K\)"),
        (torch.ones(4), torch.ones(4, 2), 0.0, "step size"),
    ],
)
def test_step_says_what_it_needs(g, vectors, eta, match):
    with pytest.raises(ValueError, match=match):
        nudged_step(g, vectors, eta, 1.0)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 1.5])
def test_on_a_quadratic_each_direction_contracts_by_its_own_factor(gamma):
    model, X, y, values, V = quadratic()
    minimum = torch.linalg.lstsq(X, y).solution[:, 0]
    before = V.mT @ (model.weight.detach()[0] - minimum)
    run = train_nudged(model, X, y, squared_loss, 20, 0.3, gamma, rng(), K=2, every=7, tol=1e-9)
    factor = 1 - 0.3 * values * torch.tensor([gamma, gamma, 1, 1, 1, 1])
    after = V.mT @ (model.weight.detach()[0] - minimum)
    torch.testing.assert_close(after, before * factor**20, rtol=1e-6, atol=1e-8)
    assert run.steps == [0, 7, 14, 20]
    torch.testing.assert_close(run.values, values[:2].expand(4, 2), rtol=1e-8, atol=0)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_gamma_one_is_sgd(batch_size):
    model, X, y = classes()
    other = copy.deepcopy(model)
    run = train_nudged(model, X, y, cross_entropy, 50, 0.5, 1.0, rng(7), K=3, every=20, batch_size=batch_size)
    history = train(
        other, X, y, cross_entropy, torch.optim.SGD(other.parameters(), lr=0.5), 50, batch_size, rng(7)
    )  # fmt: skip
    torch.testing.assert_close(run.losses, history.losses, rtol=1e-10, atol=0)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gamma_other_than_one_is_not_sgd_and_the_batches_are_the_same():
    runs = []
    for gamma, K in ((1.0, 1), (1.0, 4), (0.0, 4)):
        model, X, y = classes()
        runs.append(train_nudged(model, X, y, cross_entropy, 30, 0.5, gamma, rng(7), K=K, every=10, batch_size=16))
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert runs[0].losses[0] == runs[2].losses[0]
    assert (runs[0].losses - runs[2].losses).abs().max() > 0.01


def test_eigenpairs_found_warm_are_those_of_the_dense_hessian():
    model, X, y = classes()
    found = []

    def record(step, model, pairs):
        H = dense_hessian(model, X[10:50], y[10:50], cross_entropy)
        values, vectors = torch.linalg.eigh(H)
        overlap = (vectors[:, -2:].mT @ pairs.vectors[:, :2]).square().sum(0)
        found.append((step, (pairs.values - values.flip(0)[:3]).abs().max() / values[-1], overlap.min()))
        return {"largest": float(values[-1])}

    run = train_nudged(
        model, X, y, cross_entropy, 60, 0.5, 0.5, rng(7),
        K=3, every=15, batch_size=20, subset=slice(10, 50), record=record, tol=1e-6,
    )  # fmt: skip
    assert [step for step, *_ in found] == run.recorded["step"] == run.steps == [0, 15, 30, 45, 60]
    assert max(error for _, error, _ in found) < 1e-6
    assert min(overlap for *_, overlap in found) > 1 - 1e-6
    torch.testing.assert_close(run.values[:, 0].tolist(), run.recorded["largest"], rtol=1e-6, atol=0)


def test_other_directions_may_be_nudged():
    model, X, y = classes()
    before = parameters_to_vector(model.parameters()).detach().clone()
    E = orthonormal(len(before), 5)
    train_nudged(model, X, y, cross_entropy, 25, 0.5, 0.0, rng(7), K=1, every=10, choose=lambda pairs: E)
    moved = parameters_to_vector(model.parameters()).detach() - before
    assert (E.mT @ moved).abs().max() < 1e-12
    assert moved.norm() > 0.1


def test_weights_without_a_gradient_stay():
    model, X, y = classes()
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    train_nudged(model, X, y, cross_entropy, 5, 0.5, 0.5, rng(7), K=2, every=5)
    assert torch.equal(model[0].weight, frozen)


def test_augmentation_changes_what_the_batches_hold():
    losses = []
    for augment in (None, lambda batch: 0 * batch):
        model, X, y = classes()
        losses.append(train_nudged(model, X, y, cross_entropy, 3, 0.5, 1.0, rng(7), K=1, augment=augment).losses)
    model, X, y = classes()
    assert losses[1][0] == cross_entropy(model(0 * X), y)
    assert losses[0][0] == cross_entropy(model(X), y)


@pytest.mark.parametrize("gamma", [1.0, 50.0])
def test_a_diverged_run_says_where(gamma):
    model, X, y, *_ = quadratic()
    with pytest.raises(Diverged, match=r"step .*\(too far\)"):
        train_nudged(model, X, y, squared_loss, 2000, 0.9, gamma, rng(), K=1, every=5000, label="too far")


def test_loss_along_is_that_of_a_moved_copy_and_leaves_the_model():
    model, X, y = classes()
    theta = parameters_to_vector(model.parameters()).detach().clone()
    v = orthonormal(len(theta), 1)[:, 0]
    lengths = torch.tensor([-2.0, 0.0, 0.5])
    found = loss_along(model, X, y, cross_entropy, v, lengths)
    other = copy.deepcopy(model)
    for s, value in zip(lengths, found, strict=True):
        vector_to_parameters(theta + s * v, other.parameters())
        assert value.item() == pytest.approx(cross_entropy(other(X), y).item(), rel=1e-12)
    assert torch.equal(parameters_to_vector(model.parameters()), theta)
    with pytest.raises(ValueError, match="flat vector"):
        loss_along(model, X, y, cross_entropy, v[:-1], lengths)


def test_batch_gradients_by_hand():
    model, X, y = classes()
    whole = batch_gradients(model, X, y, cross_entropy, len(X), 2, rng())
    want = torch.cat([g.flatten() for g in torch.autograd.grad(cross_entropy(model(X), y), list(model.parameters()))])
    torch.testing.assert_close(whole, want.expand(2, -1))
    small = batch_gradients(model, X, y, cross_entropy, 5, 400, rng())
    error = small.std(0) / 400**0.5  # of the mean
    assert ((small.mean(0) - want).abs() < 5 * error + 1e-12).all()
    with pytest.raises(ValueError, match=r"in 1\.\.60"):
        batch_gradients(model, X, y, cross_entropy, 61, 1, rng())


@pytest.mark.parametrize("k", [0, 3])
def test_probe_on_a_quadratic_is_its_closed_form(k):
    model, X, y, values, V = quadratic()
    v = V[:, k]
    # all batches of one sample, whose mean gradient is the gradient itself
    gradients = ((model(X) - y) * X).detach()
    along = gradients @ v
    multiples = [0.0, 0.25, 1.0, 3.0]
    found = step_probe(model, X, y, squared_loss, v, gradients, 0.2, multiples)
    change = quadratic_probe(along.mean().item(), along, float(values[k]), 0.2, multiples)
    torch.testing.assert_close(found, change / squared_loss(model(X), y).item(), rtol=1e-9, atol=1e-12)


def test_noise_makes_a_step_too_long_before_the_edge_of_stability():
    edge = quadratic_probe(1.5, torch.tensor([1.5]), 4.0, 0.5, [0.9, 1.0, 1.1]).tolist()  # η λ = 2: at the edge
    # half the step, and batches whose slopes have as large a standard deviation, 1.5, as a mean
    noisy = quadratic_probe(1.5, torch.tensor([0.0, 3.0]), 4.0, 0.25, [0.9, 1.0, 1.1]).tolist()
    for below, at, above in (edge, noisy):
        assert below < -0.01
        assert at == pytest.approx(0, abs=1e-12)
        assert above > 0.01


def test_probe_of_a_step_out_of_range():
    model, X, y, _, V = quadratic()
    gradients = ((model(X) - y) * X).detach()
    with pytest.raises(Diverged, match="not finite"):
        step_probe(model, X, y, squared_loss, V[:, 0], gradients, 1e200, [1.0])
