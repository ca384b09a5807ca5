"""The paper's scale of zhu2019anisotropic, on tiny images; and the theory that its laptop runs are held against."""

import pytest
import torch
from program_fixtures import program

from phenomena.data import Dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny_fashion(name, n_train, seed, download):
    assert (name, download) == ("fashion_mnist", True)
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n_train + 20) % 10
    X = 0.3 * torch.rand(n_train + 20, 1, 28, 28, generator=generator) + 0.07 * y[:, None, None, None]
    return Dataset(name, X.flatten(1)[:n_train], y[:n_train], X.flatten(1)[n_train:], y[n_train:], (1, 28, 28))


def test_the_paper_scale_measures_what_its_claims_read(monkeypatch):
    module = program("zhu2019anisotropic")
    monkeypatch.setattr(module, "load", tiny_fashion)
    monkeypatch.setattr(module, "TOY_STEPS", 10)
    paper = module.SETTINGS["paper"]
    short = paper.escape._replace(n=20, gd_steps=5, steps=2, records=1, cooling=1)
    monkeypatch.setitem(module.SETTINGS, "paper", paper._replace(escape=short, toy_runs=2))
    values = module.measure(0, "paper")
    for kind in paper.escape.dynamics:
        assert len(values[f"sharpness_{kind}"]) == 2
        assert 0 <= values[f"test_accuracy_{kind}_end"] <= 1
    task = module.fashion(short, 0, "cpu")
    assert len(task.theta) == 11_330


def test_the_toy_starts_at_the_sharp_minimum_and_gd_stays():
    module = program("zhu2019anisotropic")
    assert module.toy("gd", 3, torch.Generator().manual_seed(0)) == [0.0] * 10


def test_turning_keeps_the_eigenvalues():
    module = program("zhu2019anisotropic")
    C = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    turned = module.turned(C, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.linalg.eigvalsh(turned), torch.tensor([0.0, 1.0, 2.0, 4.0]), atol=1e-5, rtol=1e-5)
    assert (turned - C).norm() > 1


@pytest.mark.parametrize("kind", ["gaussian", "isotropic", "diagonal", "turned"])
def test_each_noise_has_the_trace_of_a_batch(kind):
    module = program("zhu2019anisotropic")
    task = module.digits(30, 3, 0)
    setting = module.SETTINGS["smoke"].escape._replace(steps=4000, every=4000)
    noises = module.noises(kind, task, setting, torch.Generator().manual_seed(1))
    squares = torch.stack([xi.square().sum() for xi in noises])
    G = module.per_sample_gradients(task.model, task.X, task.y, module.cross_entropy)
    trace = module.noise_covariance(G, setting.batch, replacement=True).trace()
    assert abs(squares.mean() - trace) < 4 * squares.std() / len(squares) ** 0.5


def test_the_sharpness_is_half_delta_squared_times_the_trace():
    module = program("zhu2019anisotropic")
    task = module.digits(30, 3, 0)
    before = task.theta
    trace = module.hessian(task.model, task.X, task.y, module.cross_entropy).dense().trace()
    found = module.sharpness(task, torch.Generator().manual_seed(2), draws=300)
    assert found == pytest.approx(float(module.DELTA**2 / 2 * trace), rel=0.1)
    assert torch.equal(task.theta, before)
