import math

import pytest
import torch
from program_fixtures import program, tiny_cifar
from torch import nn

from phenomena.diffeomorphisms import deform, warp
from phenomena.errors import Diverged
from phenomena.relative_stability import matched_noise, relative_stability
from practicum import ROOT
from practicum.cards import load_card

CARD = ROOT / "reproductions/petrini2021relative/paper.yml"
pytestmark = pytest.mark.usefixtures("one_thread")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n, seed=1, side=12):
    """Images with empty margins of two pixels, and their deformed versions."""
    X = torch.zeros(n, 1, side, side, dtype=torch.float64)
    X[..., 3:-3, 3:-3] = torch.rand(n, 1, side - 6, side - 6, generator=rng(seed), dtype=torch.float64)
    return X, deform(X, 0.8, 3, rng(seed + 1))


def test_noise_has_each_images_norm_and_no_direction():
    X, deformed = smooth(2000)
    eta = matched_noise(X, deformed, rng()) - X
    assert torch.allclose(eta.flatten(1).norm(dim=1), (deformed - X).flatten(1).norm(dim=1))
    u = eta.flatten(1) / eta.flatten(1).norm(dim=1, keepdim=True)
    d = u.shape[1]
    assert (u.mean(0).abs() < 5 / math.sqrt(2000 * d)).all()
    covariance = u.T @ u / 2000
    error = covariance - torch.eye(d, dtype=u.dtype) / d
    assert error.abs().max() < 6 * math.sqrt(2 / 2000) / d


@pytest.mark.parametrize("average", ["mean", "median"])
def test_identity_has_relative_stability_one(average):
    X, deformed = smooth(50)
    D, G, R = relative_stability(lambda x: x, X, deformed, rng(), average=average)
    assert pytest.approx(1) == R
    assert pytest.approx(G) == D
    scaled = relative_stability(lambda x: 7 - 3 * x.flatten(1), X, deformed, rng(), average=average)
    assert pytest.approx(D) == scaled.D  # no unit: neither scale nor offset of f matters


def test_noise_stability_of_a_linear_function_is_known():
    """E|Aη|² = |A|²|η|²/d on the sphere, and <|Ax - Az|²> = 2 tr(A Cov Aᵀ): within 4 standard errors."""
    X, deformed = smooth(3000)
    A = torch.randn(5, 144, generator=rng(3), dtype=torch.float64)
    found = relative_stability(lambda x: x.flatten(1) @ A.T, X, deformed, rng())
    scale = 2 * torch.trace(A @ torch.cov(X.flatten(1).T) @ A.T)
    norms = (deformed - X).flatten(1).square().sum(1)
    assert pytest.approx(float(A.square().sum() / 144 * norms.mean() / scale), rel=4 / math.sqrt(3000)) == found.G
    moved = ((deformed - X).flatten(1) @ A.T).square().sum(1)
    assert pytest.approx(float(moved.mean() / scale)) == found.D
    assert pytest.approx(found.D / found.G) == found.R


def test_random_linear_functions_have_relative_stability_one_on_average():
    X, deformed = smooth(300)
    found = []
    for seed in range(100):
        A = torch.randn(144, 20, generator=rng(seed), dtype=torch.float64)
        found.append(relative_stability(lambda x, A=A: x.flatten(1) @ A, X, deformed, rng(seed)))
    found = torch.tensor(found)
    ratio = found[:, 0].mean() / found[:, 1].mean()
    assert abs(ratio - 1) < 4 * found[:, 2].std() / 10


def test_functions_blind_to_translations_are_stable_to_them():
    """A move by whole pixels within the empty margin: sums and Fourier amplitudes do not see it, but see noise."""
    X, _ = smooth(40)
    moved = warp(X, torch.tensor([2.0, -1.0], dtype=X.dtype).view(1, 2, 1, 1).expand(40, 2, 12, 12))
    assert (moved - X).abs().max() > 0.1
    for f in (
        lambda x: x.flatten(1).square().sum(1, keepdim=True),
        lambda x: torch.fft.fft2(x).abs().flatten(1),
    ):
        D, G, R = relative_stability(f, X, moved, rng())
        assert D < 1e-25
        assert R < 1e-20
        assert G > 1e-3
    assert pytest.approx(1) == relative_stability(lambda x: x, X, moved, rng()).R  # which the identity does not


@pytest.mark.parametrize("average", ["mean", "median"])
def test_it_is_a_double_loop(average):
    X, deformed = smooth(21)
    f = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten()).double()
    mean = torch.mean if average == "mean" else lambda t: t.sort().values[(len(t) - 1) // 2]
    with torch.no_grad():
        noisy = matched_noise(X, deformed, rng(9))
        outputs, out_d, out_n = ([f(image[None])[0] for image in A] for A in (X, deformed, noisy))
        pairs = [(outputs[i] - outputs[j]).square().sum() for i in range(21) for j in range(i)]
        D = mean(torch.stack([(a - b).square().sum() for a, b in zip(out_d, outputs, strict=True)]))
        G = mean(torch.stack([(a - b).square().sum() for a, b in zip(out_n, outputs, strict=True)]))
        scale = mean(torch.stack(pairs))
    found = relative_stability(f, X, deformed, rng(9), average=average)
    assert found == pytest.approx((float(D / scale), float(G / scale), float(D / G)))


def test_generator_decides():
    X, deformed = smooth(20)
    f = lambda x: x.flatten(1)[:, 40:60]  # noqa: E731
    one, again, other = (relative_stability(f, X, deformed, rng(s)) for s in (0, 0, 1))
    assert one == again
    assert pytest.approx(one.D) == other.D  # noise is all that is random
    assert one.G != other.G


@pytest.mark.parametrize(
    ("f", "change", "options", "what"),
    [
        (lambda x: x, lambda X: X[:-1], {}, "must be alike"),
        (lambda x: x, lambda X: X, {}, "was X deformed at all"),
        (lambda x: torch.ones(len(x), 3), lambda X: X + 1, {}, "every image the same output"),
        (lambda x: x, lambda X: X + 1, {"average": "mode"}, "'mean' or 'median', not 'mode'"),
    ],
)
def test_bad_input_is_one_clear_line(f, change, options, what):
    X, _ = smooth(4)
    with pytest.raises(ValueError, match=what) as caught:
        relative_stability(f, X, change(X), rng(), **options)
    assert "\n" not in str(caught.value)


def test_outputs_that_are_not_finite_are_no_measurement():
    X, deformed = smooth(4)
    with pytest.raises(Diverged):
        relative_stability(lambda x: x / 0, X, deformed, rng())


@pytest.fixture
def petrini():
    return program("petrini2021relative")


def few(petrini):
    return {
        "lenet": petrini.CIFAR10["lenet"],
        "vgg16_bn": petrini.cnn((3, 32, 32), (4, 8), norm=True),
        "resnet18": petrini.cnn((3, 32, 32), (4, 4, 4), pool=False, norm=True, gap=True),
    }


def test_the_paper_scale_runs_resumes_and_writes_what_the_card_reads(petrini, monkeypatch, tmp_path):
    monkeypatch.setattr(petrini, "load", tiny_cifar)
    values = petrini.cifar10(0, epochs=2, networks=few(petrini), folder=tmp_path / "whole")
    needed = {key for claim in load_card(CARD).claims if claim.scale == "paper" for key in claim.keys}
    assert needed <= values.keys()
    assert len(values["relative_cifar10"]) == 3

    whole, calls = petrini.cropped_and_flipped, []

    def stopping(X, generator):
        calls.append(0)
        if len(calls) == 2:  # in the second epoch: 160 images are one batch
            raise KeyboardInterrupt
        return whole(X, generator)

    monkeypatch.setattr(petrini, "cropped_and_flipped", stopping)
    with pytest.raises(KeyboardInterrupt):
        petrini.cifar10(0, epochs=2, networks=few(petrini), folder=tmp_path / "part")
    monkeypatch.setattr(petrini, "cropped_and_flipped", whole)
    assert petrini.cifar10(0, epochs=2, networks=few(petrini), folder=tmp_path / "part") == values


def test_every_paper_scale_network_maps_images_to_ten_classes(petrini):
    X = torch.rand(2, 3, 32, 32, generator=rng())
    layers = {"vgg11": 9, "vgg16": 14, "vgg19_bn": 17, "resnet18": 21, "resnet34": 37, "fc4": 4, "lenet": 3}
    for name in ("vgg11", "vgg16", "vgg19_bn", "resnet18", "resnet34", "fc4", "lenet"):
        model = petrini.CIFAR10[name](rng())
        assert model(X).shape == (2, 10)
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers[name]


def test_crops_are_windows_of_the_padded_image(petrini):
    X = torch.rand(64, 2, 9, 9, generator=rng())
    moved = petrini.cropped_and_flipped(X, rng(1))
    seen = set()
    for image, new in zip(X, moved, strict=True):
        padded = nn.functional.pad(image, (4, 4, 4, 4))
        windows = {
            (i, j, flip): padded[:, i : i + 9, j : j + 9].flip(2) if flip else padded[:, i : i + 9, j : j + 9]
            for i in range(9)
            for j in range(9)
            for flip in (False, True)
        }
        (found,) = [key for key, window in windows.items() if torch.equal(window, new)]
        seen.add(found)
    assert len(seen) > 40
    assert {flip for _, _, flip in seen} == {False, True}


def test_a_network_before_training_normalises_by_the_given_images(petrini):
    X = 3 + 2 * torch.rand(200, 1, 40, generator=rng())
    model = petrini.set_statistics(petrini.NETWORKS["bn"](rng()), X)
    assert not model.training
    after = model[:2](X)  # convolution and normalisation
    assert torch.allclose(after.mean((0, 2)), torch.zeros(16), atol=1e-4)
    assert torch.allclose(after.var((0, 2), unbiased=False), torch.ones(16), atol=1e-2)
    assert model[1].momentum == 0.1
