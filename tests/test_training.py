import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import log_loss
from torch import Tensor, nn

from phenomena.networks import cnn5, mlp, n_parameters
from phenomena.training import Diverged, batches, cosine, cross_entropy, error_rate, squared_loss, train


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(n: int = 60, d: int = 5, C: int = 3) -> tuple[Tensor, Tensor]:
    g = rng(11)
    return torch.randn(n, d, generator=g), torch.randint(0, C, (n,), generator=g)


# --- networks


def test_mlp_has_the_layers_asked_for() -> None:
    model = mlp((7, 5, 4, 3), rng(), nn.Tanh)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert n_parameters(model) == 7 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3
    assert n_parameters(mlp((7, 5, 3), rng(), bias=False)) == 7 * 5 + 5 * 3
    x = torch.randn(7, generator=rng(1))
    h = np.tanh(model[0].weight.detach().numpy() @ x.numpy() + model[0].bias.detach().numpy())
    h = np.tanh(model[2].weight.detach().numpy() @ h + model[2].bias.detach().numpy())
    f = model[4].weight.detach().numpy() @ h + model[4].bias.detach().numpy()
    np.testing.assert_allclose(model(x).detach(), f, atol=1e-6)


def test_mlp_initial_weights_follow_the_stated_laws() -> None:
    uniform, he = mlp((50, 400, 100), rng()), mlp((50, 400, 100), rng(), init="he")
    for layer, fan_in in ((0, 50), (2, 400)):
        u = stats.uniform(-(fan_in**-0.5), 2 * fan_in**-0.5)
        assert stats.kstest(uniform[layer].weight.detach().flatten().numpy(), u.cdf).pvalue > 1e-3
        assert stats.kstest(uniform[layer].bias.detach().numpy(), u.cdf).pvalue > 1e-3
        normal = stats.norm(0, math.sqrt(2 / fan_in))
        assert stats.kstest(he[layer].weight.detach().flatten().numpy(), normal.cdf).pvalue > 1e-3
        assert not he[layer].bias.any()


def test_mlp_draws_from_its_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = mlp((4, 3, 2), rng(1)), mlp((4, 3, 2), rng(1)), mlp((4, 3, 2), rng(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a[0].weight, c[0].weight)


def test_mlp_errors() -> None:
    for sizes in ((3,), (3, 0, 2)):
        with pytest.raises(ValueError, match="layer sizes"):
            mlp(sizes, rng())
    with pytest.raises(ValueError, match="'torch' or 'he'"):
        mlp((3, 2), rng(), init="xavier")  # type: ignore[arg-type]


# --- losses


def test_squared_loss_is_half_the_mean_squared_distance() -> None:
    f, y = torch.randn(6, 3, generator=rng()), torch.tensor([0, 1, 2, 2, 1, 0])
    by_hand = sum((f[i, c].item() - (c == y[i].item())) ** 2 for i in range(6) for c in range(3)) / (2 * 6)
    assert squared_loss(f, y).item() == pytest.approx(float(by_hand), rel=1e-6)
    assert squared_loss(f, torch.eye(3)[y]).item() == pytest.approx(float(by_hand), rel=1e-6)


def test_cross_entropy_is_the_log_loss() -> None:
    f, y = 5 * torch.randn(40, 4, generator=rng(), dtype=torch.float64), torch.arange(40) % 4
    assert cross_entropy(f, y).item() == pytest.approx(log_loss(y, f.softmax(1).numpy()), rel=1e-12)
    assert cross_entropy(torch.tensor([[0.0, 1000.0]]), torch.tensor([0])).item() == pytest.approx(1000)


@pytest.mark.parametrize("loss", [squared_loss, cross_entropy])
def test_losses_give_one_number_a_member(loss: object) -> None:
    f = torch.randn(4, 7, 3, generator=rng())
    shared, own = torch.arange(7) % 3, torch.randint(0, 3, (4, 7), generator=rng())
    for y in (shared, own):
        one_by_one = [loss(f[m], y if y is shared else y[m]) for m in range(4)]  # type: ignore[operator]
        torch.testing.assert_close(loss(f, y), torch.stack(one_by_one))  # type: ignore[operator]


def test_squared_loss_refuses_targets_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"need targets \(n, C\)"):
        squared_loss(torch.zeros(5, 1), torch.zeros(5))


# --- batches and schedules


def test_batches_reshuffle_each_epoch_without_repeats() -> None:
    stream = batches(10, 3, rng(4))
    epochs = [torch.cat([b for _ in range(3) if (b := next(stream)) is not None]) for _ in range(200)]
    assert all(len(set(e.tolist())) == 9 for e in epochs)
    assert len({tuple(e.tolist()) for e in epochs}) > 190
    left_out = [(set(range(10)) - set(e.tolist())).pop() for e in epochs]
    assert stats.chisquare(np.bincount(left_out, minlength=10)).pvalue > 1e-3


def test_batches_errors() -> None:
    assert next(batches(10, None, None)) is None
    for size in (0, 11):
        with pytest.raises(ValueError, match=r"in 1\.\.10"):
            next(batches(10, size, rng()))
    with pytest.raises(ValueError, match="generator"):
        next(batches(10, 5, None))


def test_cosine_is_pytorchs_cosine_annealing() -> None:
    p = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    factor = cosine(20)
    for step in range(21):
        assert factor(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert [cosine(12, warmup=4)(t) for t in (0, 1, 3, 4, 8, 12)] == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0])


# --- the loop


def test_gradient_descent_on_a_linear_network_follows_the_closed_form() -> None:
    g = rng()
    X, Y = torch.randn(30, 4, generator=g, dtype=torch.float64), torch.randn(30, 2, generator=g, dtype=torch.float64)
    model = mlp((4, 2), g, bias=False).double()
    W0, lr, T = model[0].weight.detach().clone().numpy(), 0.1, 37
    H = X.numpy().T @ X.numpy() / 30
    best = np.linalg.lstsq(X.numpy(), Y.numpy(), rcond=None)[0].T
    history = train(model, X, Y, squared_loss, torch.optim.SGD(model.parameters(), lr=lr), T)
    shrink = np.linalg.matrix_power(np.eye(4) - lr * H, T)
    np.testing.assert_allclose(model[0].weight.detach().numpy(), best + (W0 - best) @ shrink, atol=1e-12)
    for t in (0, 20):  # losses are taken before the step
        W = best + (W0 - best) @ np.linalg.matrix_power(np.eye(4) - lr * H, t)
        expected = ((X.numpy() @ W.T - Y.numpy()) ** 2).sum() / 60
        assert history.losses[t].item() == pytest.approx(expected, rel=1e-10)


def test_minibatches_and_schedule_are_a_loop_by_hand() -> None:
    X, y = problem()
    model = mlp((5, 8, 3), rng(1)).double()
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train(model, X.double(), y, cross_entropy, optimizer, 40, 16, rng(2), schedule=cosine(40, warmup=5))

    g, velocity, order = rng(2), [torch.zeros_like(w) for w in weights], torch.empty(0, dtype=torch.int64)
    for t in range(40):
        if t % 3 == 0:  # 60 = 3 x 16 + 12
            order = torch.randperm(60, generator=g)
        i = order[16 * (t % 3) : 16 * (t % 3) + 16]
        W1, b1, W2, b2 = weights
        f = (X[i].double() @ W1.T + b1).relu() @ W2.T + b2
        gradients = torch.autograd.grad(nn.functional.cross_entropy(f, y[i]), weights)
        lr = 0.3 * ((t + 1) / 5 if t < 5 else (1 + math.cos(math.pi * (t - 5) / 35)) / 2)
        with torch.no_grad():
            for w, v, grad in zip(weights, velocity, gradients, strict=True):
                v.mul_(0.9).add_(grad)
                w.sub_(lr * v)
    for p, w in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(p.detach(), w.detach(), atol=1e-12, rtol=0)


def test_recordings_come_at_their_steps_and_cost_no_randomness() -> None:
    X, y = problem()
    seen: list[tuple[int, float]] = []
    model = mlp((5, 8, 3), rng(1))
    start, plain = copy.deepcopy(model), copy.deepcopy(model)

    def record(step: int, m: nn.Module) -> dict[str, float]:
        seen.append((step, m[0].weight[0, 0].item()))  # type: ignore[index]
        return {"error": error_rate(m, X, y)}

    before = torch.get_rng_state()
    sgd = partial(torch.optim.SGD, lr=0.1)
    history = train(
        model, X, y, cross_entropy, sgd(model.parameters()), 10, 8, rng(3), record=record, record_at=[0, 4, 10]
    )
    assert history.recorded["step"] == [0, 4, 10]
    assert history.recorded["error"][0] == error_rate(start, X, y)
    assert history.recorded["error"][-1] == error_rate(model, X, y)
    assert seen[-1][1] == model[0].weight[0, 0].item()
    train(plain, X, y, cross_entropy, sgd(plain.parameters()), 4, 8, rng(3))
    assert seen[1] == (4, plain[0].weight[0, 0].item())  # "after 4 updates"
    assert torch.equal(torch.get_rng_state(), before)


def test_divergence_names_the_step_and_the_setting() -> None:
    X, y = problem()
    model = mlp((5, 8, 3), rng(1))
    twin = copy.deepcopy(model)
    with pytest.raises(Diverged, match=r"step (\d+) \(lr 1e3\)$") as caught:
        train(model, X, y, squared_loss, torch.optim.SGD(model.parameters(), lr=1e3), 500, label="lr 1e3")
    optimizer = torch.optim.SGD(twin.parameters(), lr=1e3)
    step = 0
    while torch.isfinite(value := squared_loss(twin(X), y)):
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        step += 1
    assert f"step {step} " in str(caught.value)


def test_divergence_at_the_last_update_is_caught_too() -> None:
    model = mlp((5, 3), rng())
    X, y = problem()
    with pytest.raises(Diverged, match=r"weight.*\(lr inf\)"):
        train(model, X, y, cross_entropy, torch.optim.SGD(model.parameters(), lr=math.inf), 1, label="lr inf")


def test_error_rate() -> None:
    X, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert error_rate(nn.Identity(), X, y) == 0.25
    X[0, 0] = math.nan
    with pytest.raises(Diverged, match="not finite"):
        error_rate(nn.Identity(), X, y)


def test_cnn5_has_four_convolutions_and_a_linear_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    model = cnn5((3, 32, 32), 4, 10, generator)
    weights = [tuple(p.shape) for p in model.parameters() if p.dim() > 1]
    assert weights == [(4, 3, 3, 3), (8, 4, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (10, 32)]
    assert model(torch.rand(5, 3, 32, 32, generator=generator)).shape == (5, 10)
    again = cnn5((3, 32, 32), 4, 10, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
