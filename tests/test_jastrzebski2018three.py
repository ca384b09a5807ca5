"""Jastrzebski et al. 2018: the program's pieces against the course's own loop, scikit-learn and autograd."""

import numpy as np
import pytest
import torch
from program_fixtures import program, tiny_cifar
from sklearn.linear_model import LogisticRegression

from phenomena.data import Dataset
from phenomena.errors import Diverged
from phenomena.image_networks import resnet
from phenomena.networks import mlp
from phenomena.training import cross_entropy, squared_loss, train
from practicum.cards import load_card
from practicum.runs import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def three():
    return program("jastrzebski2018three")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def samples():
    """Labels drawn from a softmax of random weights, so that no classes are separable and C is nearly H."""
    X, W = torch.randn(3000, 3, generator=rng(1)), torch.randn(4, 10, generator=rng(2))
    probabilities = torch.softmax(torch.cat([X, torch.ones(3000, 1)], 1) @ W, 1)
    return X, torch.multinomial(probabilities, 1, generator=rng(3))[:, 0]


@pytest.mark.parametrize("B", [7, 40])
def test_descent_is_the_courses_own_sgd(three, B):
    X, y = torch.randn(40, 5, generator=rng()), torch.arange(40) % 10
    ours, theirs = mlp((5, 8, 10), rng(4)), mlp((5, 8, 10), rng(4))
    steps = three.descent(ours, X, y, three.constant(0.1, B), rng(5))
    times = [next(steps) for _ in range(24)]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    train(theirs, X, y, cross_entropy, optimizer, 23, B if B < 40 else None, rng(5) if B < 40 else None)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    np.testing.assert_allclose(times, 0.1 * np.arange(24), atol=1e-12)


def test_cycles_take_turns_epoch_by_epoch(three):
    rule = three.in_turn((0.2, 16), (0.05, 4))
    model, X, y = mlp((5, 10), rng()), torch.randn(32, 5, generator=rng()), torch.arange(32) % 10
    steps = three.descent(model, X, y, rule, rng())
    times = np.diff([next(steps) for _ in range(2 + 8 + 2 + 1)])
    np.testing.assert_allclose(times, [0.2] * 2 + [0.05] * 8 + [0.2] * 2)


def test_widths_are_those_of_the_dense_hessian(three):
    X, y = torch.randn(60, 4, generator=rng()), torch.arange(60) % 3
    model = mlp((4, 5, 3), rng(1))
    H = three.hessian(model, X, y, cross_entropy).dense()
    lambda_1, trace = three.widths(model, X, y, rng(2), probes=4000)
    eigenvalues = torch.linalg.eigvalsh((H + H.T) / 2)
    assert lambda_1 == pytest.approx(eigenvalues[-1].item(), rel=0.01)
    off = H - H.diag().diag()
    standard_error = (2 * off.square().sum().item() / 4000) ** 0.5  # Hutchinson's
    assert abs(trace - H.trace().item()) < 4 * standard_error


def test_a_run_ends_below_its_loss_and_keeps_its_curve(three):
    X = torch.randn(64, 5, generator=rng())
    y = X[:, :3].argmax(1)
    data = Dataset("toy", X[:48], y[:48], X[48:], y[48:], (1, 5))
    setting = {"hidden": (16,), "loss": 0.5, "horizon": 30.0}
    run = three.run(data, setting, three.constant(0.2, 8), 0)
    model, generator = three.start(data, (16,), 0)
    first = cross_entropy(model(data.X_train), data.y_train).item()
    assert run.curve[0] == pytest.approx(first)
    assert len(run.curve) == 31
    for time in three.descent(model, data.X_train, data.y_train, three.constant(0.2, 8), generator):
        if time >= run.time:
            break
    assert cross_entropy(model(data.X_train), data.y_train).item() < 0.5
    assert run.accuracy == pytest.approx(100 * (model(data.X_test).argmax(1) == data.y_test).double().mean().item())


def test_a_run_without_end_is_no_data_point(three, monkeypatch):
    monkeypatch.setattr(three, "PATIENCE", 3.0)
    X, y = torch.zeros(20, 5), torch.arange(20) % 10
    data = Dataset("noise", X, y, X, y, (1, 5))
    with pytest.raises(Diverged, match="has not come down after time 3"):
        three.run(data, {"hidden": (4,), "loss": 0.1, "horizon": 1.0}, three.constant(0.1, 10), 0)


def test_newtons_minimum_is_scikit_learns(three, samples):
    X, y = samples
    ours = torch.cat([X, torch.ones(len(X), 1)], 1).double()
    loss = cross_entropy(ours @ three.minimum(ours, y), y).item()
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000).fit(X.double().numpy(), y.numpy())
    theirs = -np.log(fitted.predict_proba(X.double().numpy())[np.arange(len(y)), y.numpy()]).mean()
    assert loss == pytest.approx(theirs, rel=1e-6)
    with pytest.raises(Diverged, match="no minimum"):
        three.minimum(ours[:20], torch.arange(20) % 10, steps=8)


@pytest.mark.parametrize(("loss", "function"), [("softmax", cross_entropy), ("squared", squared_loss)])
def test_the_stationary_loss_has_the_traces_of_autograd(three, samples, loss, function):
    X, y = samples
    excess, by_H, by_C = three.stationary(X, y, loss, {"chains": 8, "steps": 3000}, 0, 0.1)
    Z = torch.cat([X, torch.ones(len(X), 1)], 1).double()
    W = three.minimum(Z, y) if loss == "softmax" else torch.linalg.lstsq(Z, torch.eye(10, dtype=Z.dtype)[y]).solution
    H = torch.autograd.functional.hessian(lambda w: function(Z @ w.view(4, 10), y), W.flatten())
    targets = y if loss == "softmax" else torch.eye(10, dtype=Z.dtype)[y]
    gradient = torch.func.grad(lambda w, z, target: function((z @ w)[None], target[None]))
    g = torch.func.vmap(gradient, (None, 0, 0))(W, Z, targets)
    assert by_H == pytest.approx(0.1 / 40 * H.trace().item(), rel=1e-6)
    assert by_C == pytest.approx(0.1 / 40 * g.flatten(1).var(0, correction=0).sum().item(), rel=1e-6)
    assert excess == pytest.approx(by_C, rel=0.1)


def test_the_paper_scale_runs_on_tiny_images_and_resumes(three, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(three, "load", tiny_cifar)
    tiny = {name: lambda generator: resnet((3, 32, 32), 10, 1, generator, width=2) for name in ("vgg11", "resnet56")}
    arguments = {"networks": tiny, "pairs": ((0.02, 80),), "measured": 10}
    half = three.cifar10(0, epochs=1, folder=tmp_path / "resumed", **arguments)
    resumed = three.cifar10(0, epochs=2, folder=tmp_path / "resumed", **arguments)
    whole = three.cifar10(0, epochs=2, folder=tmp_path / "whole", **arguments)
    assert resumed == whole
    assert half != whole
    assert "epoch 2 of 2" in capsys.readouterr().err
    card = load_card(ROOT / "reproductions" / "jastrzebski2018three" / "paper.yml")
    assert {key for claim in card.at("paper") for key in claim.reads} <= whole.keys()
