"""Labels redrawn at each step, and firing neurons, against counts, expectations and loops."""

import numpy as np
import pytest
import torch
from program_fixtures import program
from torch import nn

from phenomena.label_noise import firing, fresh_label_loss, redrawn, smoothed_label_loss
from phenomena.networks import mlp

pytestmark = pytest.mark.usefixtures("one_thread")


def test_redrawn_labels_are_uniform_where_they_are_redrawn() -> None:
    n, p, classes = 200_000, 0.3, 5
    y = torch.full((n,), 2)
    counts = torch.bincount(redrawn(y, p, classes, torch.Generator().manual_seed(0)), minlength=classes) / n
    expected = torch.full((classes,), p / classes)
    expected[2] += 1 - p
    error = (expected * (1 - expected) / n).sqrt()
    assert ((counts - expected).abs() < 4 * error).all()


def test_redrawn_at_0_and_1() -> None:
    y = torch.arange(10)
    assert torch.equal(redrawn(y, 0.0, 10, torch.Generator().manual_seed(0)), y)
    assert not torch.equal(redrawn(y, 1.0, 10, torch.Generator().manual_seed(0)), y)
    with pytest.raises(ValueError, match="p is a probability"):
        redrawn(y, 1.5, 10, torch.Generator())


def test_each_call_draws_anew() -> None:
    loss = fresh_label_loss(0.5, 3, torch.Generator().manual_seed(0))
    f, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(8, dtype=torch.long)
    assert loss(f, y) != loss(f, y)


def test_smoothing_is_the_mean_of_the_noise() -> None:
    p, generator = 0.4, torch.Generator().manual_seed(0)
    f, y = torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    fresh = fresh_label_loss(p, 3, generator)
    values = torch.stack([fresh(f, y) for _ in range(8000)])
    assert (values.mean() - smoothed_label_loss(p)(f, y)).abs() < 4 * values.std() / 8000**0.5


def test_firing_counts_as_a_loop_does() -> None:
    generator = torch.Generator().manual_seed(0)
    model = mlp((4, 6, 5, 3), generator)
    with torch.no_grad():
        model[0].bias[0] = -100.0  # a dead unit
    X = torch.randn(30, 4, generator=generator)
    on, ever = 0, [0] * 11
    for x in X:
        h1 = [max(float(v), 0.0) for v in model[0](x).detach()]
        h2 = [max(float(v), 0.0) for v in model[2](torch.tensor(h1)).detach()]
        for i, h in enumerate(h1 + h2):
            on += h > 0
            ever[i] += h > 0
    found = firing(model, X)
    assert found.units == 11
    assert found.dead == sum(e == 0 for e in ever) >= 1
    assert found.active == pytest.approx(on / (30 * 11))


def test_a_network_without_relus_has_no_firing() -> None:
    with pytest.raises(ValueError, match="no ReLU layer"):
        firing(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))


def test_the_compiled_loop_is_sgd() -> None:
    """`wither` for a few updates against autograd on the same draws."""
    paper = program("cornacchia2021regularization")
    rng = np.random.default_rng(0)
    W, b, v, h, steps = rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=3), 0.1, 5
    mine = [torch.tensor(a, requires_grad=True) for a in (W, b, v, np.zeros(()))]

    draws = np.random.RandomState(7)  # numba's generator gives what numpy's old one does for a seed
    for _ in range(steps):
        x = torch.tensor(draws.standard_normal(2))
        y = 1.0 if draws.random_sample() < 0.5 else -1.0
        f = mine[2] @ torch.relu(mine[0] @ x + mine[1]) + mine[3]
        slopes = torch.autograd.grad(nn.functional.softplus(-y * f), mine)
        mine = [(a - h * g).detach().requires_grad_() for a, g in zip(mine, slopes, strict=True)]
    seen = paper.wither(W.copy(), b.copy(), v.copy(), 0.0, h, steps, steps, True, True, np.eye(2), 7)
    assert seen[1, 0] == pytest.approx(float(mine[0].detach().norm()), rel=1e-12)
    assert seen[1, 1] == pytest.approx(float(mine[1].detach().mean()), rel=1e-12)
