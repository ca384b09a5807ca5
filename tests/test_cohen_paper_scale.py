import numpy as np
import pytest
import torch
from program_fixtures import program, tiny_cifar
from test_reproductions import CARDS
from torch.nn import functional as F  # noqa: N812

from phenomena.smoothing import GaussianNoise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cohen(monkeypatch):
    module = program("cohen2019certified")
    monkeypatch.setattr(module, "load", tiny)
    return module


def tiny(name, download, seed):
    """`tiny_cifar` with few test images; a class is a brightness."""
    data = tiny_cifar(name, download, seed)
    return data._replace(X_test=data.X_test[:5], y_test=data.y_test[:5])


SMALL = {"depth": 8, "n": 50, "block": 2}


def test_the_table_is_measured_and_nothing_is_done_twice(cohen, tmp_path, monkeypatch, capsys):
    values = cohen.cifar10(0, epochs=1, folder=tmp_path, **SMALL)
    assert capsys.readouterr().err.count("images to") == 4 * 3
    wanted = {key for claim in CARDS["cohen2019certified"].claims if claim.scale == "paper" for key in claim.keys}
    assert wanted <= values.keys()
    assert all(np.diff(values[key]).max() <= 0 for key in values if len(np.shape(values[key])) and key != "radius")
    monkeypatch.setattr(cohen, "certify", None)
    assert cohen.cifar10(0, epochs=1, folder=tmp_path, **SMALL) == values
    assert not list(tmp_path.rglob("*.part"))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_an_interrupted_training_resumes_where_it_stopped(cohen, tmp_path, monkeypatch):
    data = tiny("cifar10", True, 0)
    X = data.X_train.view(-1, 3, 32, 32)[:60]

    def resnet(folder):
        return cohen.trained_resnet(X, data.y_train[:60], 0.25, 3, 3, 8, folder / "net.pt", "cpu")

    whole = resnet(tmp_path / "whole")
    written = cohen.saved

    def stopping(path, state):
        written(path, state)
        if state["epochs"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cohen, "saved", stopping)
        with pytest.raises(KeyboardInterrupt):
            resnet(tmp_path / "halves")
    resumed = resnet(tmp_path / "halves")
    assert weights(resumed).equal(weights(whole))
    assert not weights(whole).equal(
        weights(cohen.trained_resnet(X, data.y_train[:60], 0.25, 4, 3, 8, tmp_path / "b.pt", "cpu"))
    )


def test_the_residual_network_is_the_papers(cohen):
    X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = cohen.resnet(X, 0.5, torch.Generator(), 110)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 109  # and the linear layer
    assert 1.7e6 < sum(p.numel() for p in model.parameters()) < 1.75e6
    assert isinstance(model[0], GaussianNoise)  # before the pixels are standardised
    standard = model[1](X)
    torch.testing.assert_close(standard.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std((0, 2, 3)), torch.ones(3))
    assert model.eval()(X).shape == (4, 10)


def test_augmentation_is_a_padded_crop_mirrored_or_not(cohen):
    X = torch.rand(300, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    found = cohen.augmented(X, torch.Generator().manual_seed(1))
    kinds = set()
    for x, z in zip(F.pad(X, (4, 4, 4, 4)), found, strict=True):
        crops = {(dy, dx): x[:, dy : dy + 8, dx : dx + 6] for dy in range(9) for dx in range(9)}
        fits = [(*at, flip) for at, c in crops.items() for flip in (False, True) if z.equal(c.flip(2) if flip else c)]
        assert len(fits) == 1
        kinds.add(fits[0])
    assert len({dy for dy, _, _ in kinds}) == len({dx for _, dx, _ in kinds}) == 9
    assert len({flip for _, _, flip in kinds}) == 2


def test_the_earlier_certificate_is_shorter_and_matches_a_direct_maximum(cohen):
    from scipy.optimize import minimize_scalar

    p = np.array([0.6, 0.9, 0.999])
    found = cohen.lecuyer_radius(p, 0.5)

    for q, got in zip(p, found, strict=True):

        def minus(beta, q=q):
            over = q - np.exp(2 * beta) * (1 - q)
            return -0.5 * beta / np.sqrt(2 * np.log(1.25 * (1 + np.exp(beta)) / over)) if over > 0 else 0.0

        best = minimize_scalar(minus, bounds=(1e-4, min(1, 0.5 * np.log(q / (1 - q)))), method="bounded")
        assert got == pytest.approx(-best.fun, rel=1e-4)
        assert got < 0.6 * cohen.radius(q, 0.5)
