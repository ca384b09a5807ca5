"""The Gaussian posterior against torch's own divergence, brute-force draws of all weights, and exact margins."""

import math

import pytest
import torch

from phenomena import pac_bayes
from phenomena.errors import Diverged
from phenomena.margins import logistic_loss, margins, train_to_margin
from phenomena.networks import mlp


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def posterior(std=0.5, d=5, H=7, seed=0):
    means = [p.detach() for p in mlp((d, H, 1), rng(seed), bias=False).parameters()]
    return pac_bayes.Posterior(means, [torch.full_like(p, std) for p in means], 100)


def problem(n=60, d=5, seed=0):
    X = torch.rand(n, d, generator=rng(seed))
    return X, torch.sign(X[:, 0] - X[:, 1])


def test_the_divergence_is_torchs():
    Q, centre, variance = posterior(0.3), posterior(seed=1).means, 0.2
    want = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Normal(w, s), torch.distributions.Normal(c, variance**0.5)
        ).sum()
        for w, s, c in zip(Q.means, Q.stds, centre, strict=True)
    )
    assert pac_bayes.divergence(Q.means, Q.stds, centre, variance).item() == pytest.approx(want.item(), rel=1e-5)
    same = pac_bayes.divergence(Q.means, Q.stds, Q.means, 0.3**2)
    assert same.item() == pytest.approx(0, abs=1e-5)


def test_the_gibbs_error_is_that_of_networks_whose_weights_are_drawn():
    Q, (X, y) = posterior(), problem()
    got = pac_bayes.gibbs_error(Q, X, y, 2000, rng(1))
    generator, wrong, draws = rng(2), 0.0, 4000
    for _ in range(draws):
        W, v = (w + s * torch.randn(w.shape, generator=generator) for w, s in zip(Q.means, Q.stds, strict=True))
        wrong += (y * (torch.relu(X @ W.T) @ v.T).squeeze(1) <= 0).double().mean().item()
    # the draws share their weights over the samples, so the spread is at most that of `draws` coins
    assert got == pytest.approx(wrong / draws, abs=4 * 0.5 / math.sqrt(draws))
    assert got != pytest.approx(pac_bayes.gibbs_error(posterior(0.01), X, y, 100, rng(1)), abs=0.02)


def test_without_noise_it_is_the_networks_own_error():
    Q, (X, y) = posterior(), problem()
    still = Q._replace(stds=[torch.zeros_like(s) for s in Q.stds])
    f = (torch.relu(X @ Q.means[0].T) @ Q.means[1].T).squeeze(1)
    assert pac_bayes.gibbs_error(still, X, y, 1, rng()) == pytest.approx((y * f <= 0).double().mean().item())
    # an image of zeros has output 0 under every draw: an error whatever its label
    assert pac_bayes.gibbs_error(Q, torch.zeros(3, 5), torch.tensor([1.0, -1.0, 1.0]), 5, rng()) == 1.0


def test_the_grid_of_prior_variances_spends_no_more_than_delta():
    j = torch.arange(1, 10**6, dtype=torch.float64)
    assert (-pac_bayes.grid_price(j)).exp().sum() == pytest.approx(1, abs=1e-5)
    assert pac_bayes.prior_variance(100) == pytest.approx(1 / math.e)


def test_the_certificate_is_the_theorem():
    Q, (X, y), centre = posterior(0.4), problem(), posterior(seed=3).means
    got = pac_bayes.certificate(Q, centre, X, y, 0.05, rng(4), draws=50)
    assert got.gibbs_error == pac_bayes.gibbs_error(Q, X, y, 50, rng(4))
    KL = pac_bayes.divergence(Q.means, Q.stds, centre, math.exp(-1)).item()
    assert got.divergence == pytest.approx(KL, rel=1e-5)
    c = (KL + math.log(2 * math.sqrt(60) * math.pi**2 * 100**2 / 6 / 0.05)) / 60

    def kl(q, p):
        return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))

    assert kl(got.gibbs_error_upper, got.bound) == pytest.approx(c, rel=1e-6)
    assert kl(got.gibbs_error, got.gibbs_error_upper) == pytest.approx(math.log(100) / (50 * 60), rel=1e-6)


def test_training_the_posterior_lowers_the_bound_and_random_labels_keep_it_above_a_coin():
    X, y = problem(400)
    X, y = X[(X[:, 0] - X[:, 1]).abs() > 0.1], y[(X[:, 0] - X[:, 1]).abs() > 0.1]  # a gap, so that it is quickly fitted
    model = mlp((5, 7, 1), rng(), bias=False)
    start = [p.detach().clone() for p in model.parameters()]
    train_to_margin(model, X, y, rng(), margin=0.0, lr=0.1, momentum=0.9, batch_size=50)
    weights = [p.detach() for p in model.parameters()]

    def bound(y, steps):
        Q = pac_bayes.fit_posterior(weights, start, X, y, 0.05, rng(1), steps=steps, batch_size=100)
        return pac_bayes.certificate(Q, start, X, y, 0.05, rng(2)).bound

    assert bound(y, 300) < min(bound(y, 1), 0.5)
    coins = 2.0 * torch.randint(0, 2, y.shape, generator=rng(5)) - 1
    assert bound(coins, 300) > 0.5


def test_the_same_seed_gives_the_same_posterior_and_leaves_the_weights_alone():
    Q, (X, y) = posterior(), problem()
    before = [w.clone() for w in Q.means]
    runs = [pac_bayes.fit_posterior(Q.means, Q.means, X, y, 0.05, rng(7), steps=5, batch_size=20) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(runs[0].means, runs[1].means, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, Q.means, strict=True))


def test_a_diverged_posterior_has_a_name():
    Q, (X, y) = posterior(), problem()
    broken = [Q.means[0] * float("nan"), Q.means[1]]
    with pytest.raises(Diverged, match="PAC-Bayes objective"):
        pac_bayes.fit_posterior(broken, Q.means, X, y, 0.05, rng(), steps=2, batch_size=20)


def test_the_logistic_loss_lies_above_the_error_and_is_one_at_zero():
    f, y = torch.tensor([[0.0], [2.0], [-3.0]]), torch.tensor([1.0, -1.0, -1.0])
    want = (1 + math.log2(1 + math.exp(2)) + math.log2(1 + math.exp(-3))) / 3
    assert logistic_loss(f, y).item() == pytest.approx(want)
    assert logistic_loss(f, y) >= (y * f.squeeze(1) <= 0).double().mean()


def test_training_stops_when_the_margins_are_large_and_says_so_when_they_are_not():
    X, y = problem(100)
    model = mlp((5, 20, 1), rng(), bias=False)
    epochs = train_to_margin(model, X, y, rng(), margin=0.5, lr=0.3, momentum=0.9, batch_size=20, most_epochs=3000)
    assert (margins(model, X, y) > 0.5).double().mean() >= 0.99
    assert epochs % 5 == 0
    with pytest.raises(ArithmeticError, match="after 5 epochs, n = 100"):
        train_to_margin(model, X, -y, rng(), margin=5, lr=0.01, momentum=0, batch_size=20, most_epochs=5)
