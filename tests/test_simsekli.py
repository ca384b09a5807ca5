"""The pieces of Simsekli et al.'s program that measure, against slow ones, and its paper scale on tiny sets."""

import math

import pytest
import torch
from program_fixtures import program, tiny_cifar

from phenomena.data import Dataset
from phenomena.training import cross_entropy
from practicum.cards import load_cards

pytestmark = pytest.mark.usefixtures("one_thread")
simsekli = program("simsekli2019tail")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def setting(n=12):
    X, y = torch.randn(n, 5, generator=rng(1)), torch.arange(n) % 10
    return simsekli.network(X, 4, rng(2)), X, y


def slow_gradients(model, X, y):
    rows = []
    for x, label in zip(X, y, strict=True):
        g = torch.autograd.grad(cross_entropy(model(x[None]), label[None]), list(model.parameters()))
        rows.append(torch.cat([a.flatten() for a in g]))
    return torch.stack(rows)


def test_the_noise_is_each_samples_gradient_less_the_mean():
    model, X, y = setting()
    noise, G = simsekli.look(model, X, y, 3, rng()), slow_gradients(model, X, y)
    assert torch.allclose(noise.G, G - G.mean(0), atol=1e-6)
    assert torch.allclose(noise.variances, G.double().var(0, correction=0), rtol=1e-4, atol=1e-12)
    assert noise.along.shape == (12, 3)
    assert (noise.along.abs() <= noise.G.double().norm(dim=1, keepdim=True) + 1e-9).all()  # of unit length


def test_batches_have_the_samples_covariance_over_b():
    values = torch.randn(20, 2, generator=rng(3), dtype=torch.float64)
    values -= values.mean(0)
    C = values.mT @ values / 20
    for B in (1, 6):
        z = simsekli.drawn(values, B, 40_000, rng(4))
        assert z.shape == (2, 40_000)
        assert torch.allclose(B * z @ z.mT / 40_000, C, atol=0.05)
        assert z.mean(1).abs().max() < 4 * math.sqrt(float(C.max()) / B / 40_000)


def test_batch_noise_is_the_mean_of_its_samples():
    model, X, y = setting(13)  # the last sample fills no batch
    G = slow_gradients(model, X, y)[:12].view(3, 4, -1).mean(1)
    assert torch.allclose(simsekli.batch_noise(model, X, y, 4), G - G.mean(0), atol=1e-6)


def test_the_gaussian_noise_has_the_covariance_of_a_sample():
    model, X, y = setting()
    noise = simsekli.look(model, X, y, 3, rng())
    z = simsekli.gaussian_vectors(noise, 60_000, rng(5))
    C = noise.G.mT @ noise.G / 12
    assert torch.allclose(z.mT @ z / 60_000, C, atol=0.03 * float(C.max()))
    z = simsekli.diagonal_vectors(noise, 60_000, rng(5))
    assert torch.allclose(z.mT @ z / 60_000, torch.diag(noise.variances), atol=0.03 * float(C.max()))


@pytest.mark.parametrize(("N", "m"), [(12, 3), (36, 6), (49, 7), (30, 5), (7, 1)])
def test_largest_divisor_up_to_the_root(N, m):
    assert simsekli.largest_divisor(N) == m


def test_the_pooled_index_takes_unequal_variances_for_a_tail_and_the_standardised_one_does_not():
    variances = torch.logspace(-3, 3, 200, dtype=torch.float64)
    noise = torch.randn(400, 200, generator=rng(6), dtype=torch.float64) * variances.sqrt()
    index = simsekli.pooled(noise, variances, rng(7))
    want = simsekli.pooled_theory(simsekli.Noise(noise, variances, noise), 400)
    assert index.shuffled == pytest.approx(want, abs=0.08)
    assert index.shuffled < 1.6
    assert index.standardised == pytest.approx(2, abs=0.12)


def test_survival_is_the_share_above():
    x = torch.randn(2, 500, generator=rng(8), dtype=torch.float64) * torch.tensor([[1.0], [9.0]])
    scaled = x / x.square().mean(1, keepdim=True).sqrt()
    want = [float((scaled.abs() > level).double().mean()) for level in simsekli.GRID]
    assert simsekli.survival(x) == pytest.approx(want, abs=1e-12)


def test_the_normality_test_rejects_its_share():
    share = simsekli.rejected(torch.randn(200, 500, generator=rng(9), dtype=torch.float64))
    assert share < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
    assert simsekli.rejected(simsekli.stable(1.5, (20, 500), rng(10))) == 1


def tiny(name, download, seed):
    """What `load(name, download=True)` gives, in small."""
    if name == "cifar10":
        return tiny_cifar(name, download, seed)
    assert (name, download) == ("mnist", True)
    X, y = torch.rand(160, 784, generator=rng(seed)), torch.arange(160) % 10
    return Dataset(name, X, y, X[:20], y[:20], (1, 28, 28))


def test_the_paper_scale_writes_what_the_card_reads(monkeypatch):
    monkeypatch.setattr(simsekli, "load", tiny)
    values = {}
    for name in ("mnist", "cifar10"):
        values |= simsekli.full_set(name, 0, width=4, steps=3, B=(8, 20))
    card = load_cards(papers=["simsekli2019tail"])["simsekli2019tail"]
    assert {key for claim in card.at("paper") for key in claim.reads} <= values.keys()
    assert all(math.isfinite(value) for value in values.values())
