import math

import numpy as np
import pytest
import torch
from program_fixtures import program
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F  # noqa: N812

from phenomena.attacks import fgsm
from phenomena.data import Dataset
from phenomena.errors import Diverged
from phenomena.uncertainty import (
    Dropout,
    alpha_loss,
    entropy,
    expected_entropy,
    mean_prediction,
    mutual_information,
    predictive_entropy,
    sampled_logits,
    sampled_probabilities,
)
from practicum.cards import load_cards
from practicum.runs import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def probabilities(samples=7, n=5, classes=4, seed=0):
    f = 2 * torch.randn(samples, n, classes, generator=generator(seed), dtype=torch.float64)
    return f.softmax(-1)


def dropout_net(seed=0, p=0.5, stays=True):
    rng = generator(seed)
    linear = nn.Linear(6, 3)
    with torch.no_grad():
        linear.weight.normal_(generator=rng)
        linear.bias.zero_()
    return nn.Sequential(Dropout(p, rng, stays=stays), linear)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_right_share_and_the_mean(p):
    X = torch.ones(200, 500)
    out = Dropout(p, generator())(X)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    kept = (out > 0).double().mean().item()
    assert kept == pytest.approx(1 - p, abs=5 * (p * (1 - p) / X.numel()) ** 0.5)


def test_dropout_draws_from_its_generator_alone():
    X, before = torch.ones(4, 50), torch.get_rng_state()
    layer = Dropout(0.5, generator(3))
    first, second = layer(X), layer(X)
    assert torch.equal(first, Dropout(0.5, generator(3))(X))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])  # a mask for each input
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_off():
    X = torch.randn(4, 6, generator=generator())
    assert torch.equal(Dropout(0.5, generator(), stays=False).eval()(X), X)
    assert not torch.equal(Dropout(0.5, generator(), stays=False).train()(X), X)
    assert not torch.equal(Dropout(0.5, generator()).eval()(X), X)
    assert torch.equal(Dropout(0.0, generator())(X), X)
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            Dropout(p, generator())


def test_entropies_are_the_slow_loops():
    P = probabilities()
    for i in range(P.shape[1]):
        mean = [sum(float(p[i, c]) for p in P) / len(P) for c in range(P.shape[2])]
        total = -sum(q * math.log(q) for q in mean)
        within = -sum(float(q) * math.log(float(q)) for p in P for q in p[i]) / len(P)
        assert float(predictive_entropy(P)[i]) == pytest.approx(total)
        assert float(expected_entropy(P)[i]) == pytest.approx(within)
        assert float(mutual_information(P)[i]) == pytest.approx(total - within)
    np.testing.assert_allclose(entropy(P), stats.entropy(P.numpy(), axis=-1))


def test_mutual_information_is_the_jensen_shannon_divergence():
    P = probabilities(samples=2)
    mean = P.mean(0)
    for i in range(P.shape[1]):
        want = (stats.entropy(P[0, i], mean[i]) + stats.entropy(P[1, i], mean[i])) / 2
        assert float(mutual_information(P)[i]) == pytest.approx(want)


def test_mutual_information_of_known_cases():
    opposite = torch.eye(3, dtype=torch.float64)[:, None]  # three samples, each sure of another class
    assert float(mutual_information(opposite)) == pytest.approx(math.log(3))
    assert float(expected_entropy(opposite)) == 0
    doubtful = torch.full((3, 1, 4), 0.25, dtype=torch.float64)
    assert float(mutual_information(doubtful)) == 0
    assert float(predictive_entropy(doubtful)) == pytest.approx(math.log(4))


@pytest.mark.parametrize("samples", [1, 3, 10])
def test_equal_samples_have_no_mutual_information_at_all(samples):
    P = probabilities(samples=1, n=200).expand(samples, -1, -1)
    assert mutual_information(P).eq(0).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e4])
def test_mutual_information_lies_between_its_bounds(scale):
    P = (scale * torch.randn(8, 300, 10, generator=generator(), dtype=torch.float64)).softmax(-1)
    I, H = mutual_information(P), predictive_entropy(P)  # noqa: E741
    assert I.isfinite().all()
    assert (I >= 0).all()
    assert (I <= H + 1e-12).all()
    assert H.max() <= math.log(10) + 1e-12
    assert torch.allclose(I, H - expected_entropy(P), atol=1e-12)


def test_few_samples_underestimate_mutual_information():
    """Sure samples of a uniform class: the bias is (C - 1)/(2 samples) to first order."""
    classes, samples, n = 10, 40, 4000
    drawn = torch.randint(classes, (samples, n), generator=generator())
    found = mutual_information(F.one_hot(drawn, classes).double())
    assert float(math.log(classes) - found.mean()) == pytest.approx((classes - 1) / (2 * samples), rel=0.1)


def test_sampled_probabilities_of_dropout_and_of_ensembles():
    X = torch.randn(5, 6, generator=generator(9))
    net = dropout_net(2)
    P = sampled_probabilities(net, X, 20)
    assert P.shape == (20, 5, 3)
    assert P.dtype == torch.float64
    assert not P.requires_grad
    assert torch.allclose(P.sum(-1), torch.ones(20, 5, dtype=torch.float64))
    assert not torch.equal(P[0], P[1])
    again = dropout_net(2)
    assert torch.equal(P, torch.stack([again(X).detach().double().softmax(-1) for _ in range(20)]))
    ensemble = [dropout_net(k, stays=False).eval() for k in range(3)]
    P = sampled_probabilities(ensemble, X)
    assert torch.equal(P, torch.stack([f(X).detach().double().softmax(-1) for f in ensemble]))
    # one network without dropout has nothing to disagree about
    I = mutual_information(sampled_probabilities(ensemble[0], X, 10))  # noqa: E741
    assert I.eq(0).all()
    assert roc_auc_score([0, 0, 1, 1, 1], I) == 0.5


def test_mean_prediction_is_the_mean_and_has_its_gradient():
    X = torch.randn(4, 6, generator=generator(9)).double().requires_grad_()
    log_p = mean_prediction(dropout_net(2).double(), 5)(X)
    P = sampled_probabilities(dropout_net(2).double(), X, 5)
    assert torch.allclose(log_p.softmax(-1), P.mean(0))
    assert torch.allclose(log_p.exp(), P.mean(0))
    (slope,) = torch.autograd.grad(log_p[:, 0].sum(), X)
    step = torch.zeros_like(X)
    step[:, 1] = 1e-6
    ends = [mean_prediction(dropout_net(2).double(), 5)((X + s * step).detach())[:, 0] for s in (1, -1)]
    np.testing.assert_allclose(slope[:, 1], (ends[0] - ends[1]).detach() / 2e-6, rtol=1e-4, atol=1e-7)


def test_an_attack_goes_through_the_mean():
    X, y = torch.rand(30, 6, generator=generator(9)), torch.zeros(30, dtype=torch.int64)
    net = dropout_net(2, p=0.2)
    moved = fgsm(mean_prediction(net, 50), X, y, 0.3)
    before, after = (sampled_probabilities(net, Z, 400).mean(0)[:, 0] for Z in (X, moved))
    assert (after < before).double().mean() > 0.9


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_alpha_loss_is_the_slow_loop(alpha):
    f = torch.randn(6, 5, 4, generator=generator(), dtype=torch.float64)
    y = torch.tensor([0, 3, 1, 1, 2])
    total = 0.0
    for i in range(5):
        inside = sum(float(f[k, i].softmax(-1)[y[i]]) ** alpha for k in range(6)) / 6
        total -= math.log(inside) / alpha / 5
    assert float(alpha_loss(f, y, alpha)) == pytest.approx(total)


def test_alpha_loss_in_its_limits():
    f = 3 * torch.randn(6, 5, 4, generator=generator(), dtype=torch.float64)
    y = torch.tensor([0, 3, 1, 1, 2])
    variational = torch.stack([F.cross_entropy(each, y) for each in f]).mean()
    assert float(alpha_loss(f, y, 0.0)) == pytest.approx(float(variational))
    assert float(alpha_loss(f, y, 1e-6)) == pytest.approx(float(variational), rel=1e-4)
    of_the_mean = F.nll_loss(f.softmax(-1).mean(0).log(), y)
    assert float(alpha_loss(f, y, 1.0)) == pytest.approx(float(of_the_mean))
    falling = [float(alpha_loss(f, y, a)) for a in (0.0, 0.3, 0.6, 1.0)]
    assert falling == sorted(falling, reverse=True)  # Jensen
    one = [float(alpha_loss(f[:1], y, a)) for a in (0.0, 0.5, 1.0)]
    assert one == pytest.approx([one[0]] * 3)  # one sample: every α is the cross entropy
    assert math.isfinite(float(alpha_loss(1e4 * f, y, 0.5)))


def test_outputs_that_are_not_finite_are_no_prediction():
    with pytest.raises(Diverged, match="not finite"):
        sampled_logits(lambda X: X / 0, torch.ones(2, 3))


def test_the_paper_scale_of_li_and_gal_resumes_and_writes_what_its_card_reads(monkeypatch, tmp_path):
    li = program("li2017dropout")

    def tiny(name, n_train, n_test, seed, download):
        assert (name, download) == ("mnist", True)
        X, y = torch.rand(n_train + n_test, 784, generator=generator(seed)), torch.arange(n_train + n_test) % 10
        return Dataset(name, X[:n_train], y[:n_train], X[n_train:], y[n_train:], (1, 28, 28))

    paper = {"data": ("mnist", 100), "width": 8, "K": 2, "epochs": (1, 1), "test": 20, "attacked": 20, "targeted": 5}
    monkeypatch.setattr(li, "load", tiny)
    monkeypatch.setattr(li, "CHECKPOINTS", tmp_path / "kept")
    monkeypatch.setattr(li, "EPS", [0.3])
    monkeypatch.setitem(li.SETTINGS, "paper", paper)
    values = li.measure(0, "paper")
    card = load_cards(ROOT, ["li2017dropout"])["li2017dropout"]
    assert {key for claim in card.at("paper") for key in claim.keys} <= values.keys()
    monkeypatch.setattr(li, "train", None)  # the second run finds every network trained
    assert li.measure(0, "paper") == values
