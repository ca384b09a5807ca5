import math
from pathlib import Path

import numpy as np
import pytest
import torch
from program_fixtures import program
from scipy import optimize
from torch import nn
from torch.nn import functional as F  # noqa: N812

from phenomena import adversarial_training as module
from phenomena.adversarial_training import adversarial_training
from phenomena.attacks import robust_accuracy
from phenomena.data import Dataset, load
from phenomena.errors import Diverged
from phenomena.small_cnn import small_cnn
from practicum.cards import load_card

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(n_train=400, seed=0):
    data = load("digits", n_train, 300, seed)
    return data.X_train.view(-1, 1, 8, 8), data.y_train, data.X_test.view(-1, 1, 8, 8), data.y_test


def test_no_budget_is_adam_on_a_one_cycle_schedule():
    X, y, *_ = digits(100)
    ours, plain = (small_cnn((1, 8, 8), 10, seeded(), channels=2) for _ in range(2))
    history = adversarial_training(ours, X, y, 0.0, 10, seeded(1), lr=0.01, warmup=0.3, batch_size=20)
    optimizer, generator, losses = torch.optim.Adam(plain.parameters(), lr=0.01), seeded(1), []
    for epoch in range(10):
        for j, i in enumerate(torch.randperm(100, generator=generator).split(20)):
            t = 5 * epoch + j
            rate = (t + 1) / 15 if t < 15 else (1 + math.cos(math.pi * (t - 15) / 35)) / 2
            optimizer.param_groups[0]["lr"] = 0.01 * rate
            loss = F.cross_entropy(plain(X[i]), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert torch.allclose(history.losses, torch.tensor(losses), rtol=1e-4)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_finds_the_minimum_of_the_robust_loss(norm, dual):
    """Its worst loss is known: log(1 + exp(-(y (w x + b) - ε |w|_dual))), which scipy minimises without an attack."""
    generator, eps = seeded(), 0.4
    y = torch.randint(2, (200,), generator=generator)
    mean = torch.tensor([1.0, 0.5, 0.2, 0.0])
    X = (2 * y - 1)[:, None] * mean + torch.randn(200, 4, generator=generator)

    def robust_loss(parameters):
        w, b = parameters[:4], parameters[4]
        margin = (2 * y.numpy() - 1) * (X.double().numpy() @ w + b) - eps * np.linalg.norm(w, dual)
        return np.logaddexp(0, -margin).mean()

    least = min(optimize.minimize(robust_loss, w0, method="Nelder-Mead", options={"maxiter": 4000}).fun
                for w0 in (np.full(5, 0.1), np.array([1.0, 0.5, 0.0, 0.0, 0.0])))  # fmt: skip
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    adversarial_training(model, X, y, eps, 300, seeded(1), norm=norm, lr=0.03, batch_size=200, box=None)
    w = (model.weight[1] - model.weight[0]).detach().double().numpy()
    b = (model.bias[1] - model.bias[0]).item()
    assert robust_loss([*w, b]) == pytest.approx(least, rel=0.002)
    assert robust_loss(np.zeros(5)) > 1.05 * least


@pytest.mark.parametrize(("ramp", "want"), [(0.0, [1.0] * 8), (0.5, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]), (1.0, None)])
def test_the_budget_grows_over_the_ramp(monkeypatch, ramp, want):
    budgets = []
    start = module.start

    def watched(X, eps, *rest):
        budgets.append(eps)
        return start(X, eps, *rest)

    monkeypatch.setattr(module, "start", watched)
    X, y, *_ = digits(80)
    adversarial_training(small_cnn((1, 8, 8), 10, seeded()), X, y, 0.2, 2, seeded(), ramp=ramp, batch_size=20)
    assert budgets == pytest.approx([0.2 * b for b in want or [k / 8 for k in range(1, 9)]])


def test_it_makes_a_network_robust_and_the_seed_decides():
    X, y, X_test, y_test = digits(1000)
    accuracy, models = {}, []
    for eps in (0.0, 0.1, 0.1):
        model = small_cnn((1, 8, 8), 10, seeded())
        history = adversarial_training(model, X, y, eps, 12, seeded(1), attack_steps=3)
        accuracy[eps] = robust_accuracy(model, X_test, y_test, 0.1, generator=seeded(), steps=40)
        models.append(model)
        assert history.losses.shape == (120,)
        assert history.losses.isfinite().all()
    assert accuracy[0.1] > accuracy[0.0] + 0.1
    assert all(torch.equal(p, q) for p, q in zip(models[1].parameters(), models[2].parameters(), strict=True))


def test_a_diverged_run_is_named():
    X, y, *_ = digits(100)
    for eps in (0.0, 0.1):
        with pytest.raises(Diverged, match=r"\(a wild one\)"):
            adversarial_training(
                small_cnn((1, 8, 8), 10, seeded()), X, y, eps, 4, seeded(), lr=1e30, label="a wild one"
            )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ramp": 1.5}, "shares of the updates"),
        ({"warmup": -0.1}, "shares of the updates"),
        ({"batch_size": 200}, "batch size"),
        ({"eps": -0.1}, "radius"),
        ({"norm": "l1"}, "'linf' or 'l2'"),
        ({"X": torch.full((100, 1, 8, 8), 3.0)}, "must lie in the box"),
        ({"attack_steps": 0}, "attack_steps"),
    ],
)
def test_bad_input_is_refused(wrong, message):
    X, y, *_ = digits(100)
    model = small_cnn((1, 8, 8), 10, seeded())
    with pytest.raises(ValueError, match=message):
        adversarial_training(
            **{"model": model, "X": X, "y": y, "eps": 0.1, "epochs": 1, "generator": seeded(), **wrong}
        )


def tiny(name, download, seed):
    """What `load` would download, in small: a class is a shade."""
    assert download
    shape = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[name]
    y = torch.arange(60) % 10
    X = 0.2 * torch.rand(60, *shape, generator=seeded(seed)) + 0.08 * y[:, None, None, None]
    return Dataset(name, X.flatten(1)[:40], y[:40], X.flatten(1)[40:], y[40:], shape)


def test_the_papers_scale_runs_on_tiny_data_and_serves_the_card(monkeypatch, tmp_path):
    madry = program("madry2018towards")
    monkeypatch.setattr(madry, "load", tiny)
    values = {}
    for name, recipe in madry.RECIPES.items():
        small = recipe | {"steps": 2, "batch": 10, "attack_steps": 1}
        small["attacks"] = {key: (1, 1, size) for key, (_, _, size) in recipe["attacks"].items()}
        if name == "cifar10":
            small["network"] = lambda: madry.resnet((4, 4, 8, 8), blocks=1)
        values |= madry.paper_table(name, 0, small, tmp_path)
    card = load_card(Path(madry.__file__).with_name("paper.yml"))
    assert {key for claim in card.at("paper") for key in claim.reads} <= values.keys()
    assert all(0 <= value <= 100 for value in values.values())


def test_the_papers_training_resumes_where_it_stopped(tmp_path):
    madry, data = program("madry2018towards"), tiny("cifar10", True, 0)
    recipe = madry.RECIPES["cifar10"] | {
        "network": lambda: madry.resnet((4, 4, 8, 8), blocks=1), "steps": 4, "batch": 10, "attack_steps": 1,
    }  # fmt: skip

    def trained(name, stop=None):
        return madry.paper_network(data, 0.03, 0, recipe, tmp_path / name, "cpu", every=2, stop=stop)

    trained("cut.pt", stop=2)
    resumed, whole = trained("cut.pt"), trained("whole.pt")
    for p, q in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(p, q)
