from itertools import pairwise

import numpy as np
import pytest
import torch
from program_fixtures import program, tiny_cifar
from torch import nn

from phenomena.training import squared_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def paper():
    return program("cohen2021gradient")


@pytest.fixture
def linear(paper):
    """Least squares, whose flow and descent have closed forms; H is of one output's weights, for each of two."""
    X = torch.randn(30, 4, generator=seeded(1), dtype=torch.float64)
    Y = torch.randn(30, 2, generator=seeded(2), dtype=torch.float64)

    def network():
        model = nn.Linear(4, 2, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.ones(2, 4))
        return model

    return paper.Problem(X, Y, network), X.T @ X / 30, torch.linalg.lstsq(X, Y).solution


def test_the_flow_is_the_matrix_exponential_to_fourth_order(paper, linear):
    at, H, W = linear
    errors = []
    for alpha in (0.4, 0.2, 0.1):
        run = paper.flow(at, squared_loss, 0.5, 4, alpha=alpha)
        torch.testing.assert_close(run.sharpness.double(), torch.linalg.eigvalsh(H)[-1].expand(5), rtol=1e-3, atol=0)
        way = torch.ones(4, 2, dtype=torch.float64) - W
        want = torch.stack([W + torch.linalg.matrix_exp(-0.5 * t * H) @ way for t in range(5)])
        errors.append((run.parameters.view(5, 2, 4).mT - want).abs().max())
    assert errors[2] < 1e-5
    for large, small in pairwise(errors):
        assert 10 < large / small < 26  # 2⁴


def test_descent_on_a_quadratic_follows_it_below_two_over_eta_and_diverges_above(paper, linear):
    at, H, _ = linear
    top = float(torch.linalg.eigvalsh(H)[-1])
    for eta in (1.9 / top, 2.1 / top):
        run = paper.descend(at, squared_loss, eta, 60, 30, 0, keep=True)
        losses = paper.on_quadratic(at, squared_loss, run.parameters[0], eta, 59)
        torch.testing.assert_close(run.losses, torch.tensor(losses, dtype=torch.float64), rtol=1e-6, atol=1e-9)
        assert (losses[-1] > 10 * losses[0]) == (eta > 2 / top)
    far = paper.on_quadratic(at, squared_loss, run.parameters[0], 4 / top, 99)
    assert far[-1] == pytest.approx(1e6 * far[0])
    assert len(far) == 100


def test_momentum_is_stable_up_to_two_plus_two_beta(paper, linear):
    at, H, _ = linear
    top = float(torch.linalg.eigvalsh(H)[-1])
    for factor, grows in ((0.97, False), (1.03, True)):
        run = paper.descend(at, squared_loss, factor * 3 / top, 300, 300, 0, momentum=0.5)
        assert (run.losses[-1] > run.losses[0]) == grows


def test_where_a_run_crosses_its_edge(paper):
    run = paper.Run(torch.tensor([1.0, 4.0, 6.0, 4.0]), torch.empty(4, 0), torch.empty(0))
    assert paper.crossing(run, 0.4) == 2
    assert paper.crossing(run, 0.1) == 3  # never
    assert paper.plateau(run) == 4.0
    assert paper.rises(torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0])) == 0.25


def test_smoke_has_curves_on_one_grid(paper):
    values = paper.measure(0, "smoke")
    for name, etas in paper.ETA.items():
        for eta in etas:
            assert (
                len(values[f"sharpness_{name}_{eta:g}"]) == len(values[f"loss_{name}_{eta:g}"]) == len(values["step"])
            )
    assert len(values["time"]) == len(values["sharpness_flow"])
    first = [values[f"sharpness_mse_{eta:g}"][0] for eta in paper.ETA["mse"]]
    assert all(a == b for a, b in pairwise(first))  # one network for all
    assert first[0] == values["sharpness_flow"][0]


def test_the_papers_scale_on_tiny_images(paper, monkeypatch):
    monkeypatch.setattr(paper, "load", tiny_cifar)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(
        paper.SETTINGS, "paper", paper.SETTINGS["paper"] | {"n": 40, "hidden": (5, 5), "steps": 8, "every": 2}
    )
    values = paper.measure(0, "paper")
    assert values["edge_mse_0.01"] > 0
    assert len(values["sharpness_ce_0.05"]) == 5
    assert np.isfinite([v for value in values.values() for v in np.atleast_1d(value)]).all()
