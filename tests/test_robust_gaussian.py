from itertools import product

import numpy as np
import pytest
import torch
from program_fixtures import program
from scipy import optimize, stats
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from phenomena.data import Dataset
from phenomena.robust_gaussian import (
    dual_norm,
    optimal_accuracy,
    optimal_rule,
    robust_accuracy,
    sample,
    soft,
    tsipras_accuracy,
    tsipras_bound,
    tsipras_sample,
    worst_margins,
)
from practicum.cards import load_cards
from practicum.runs import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

MU = torch.tensor([1.0, -0.6, 0.3, 0.05], dtype=torch.float64)
P, ETA = 0.9, 0.4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def share(hits):
    """A frequency and five of its standard errors."""
    mean = hits.double().mean().item()
    return mean, 5 * (mean * (1 - mean) / len(hits)) ** 0.5


def random_rules(n, d=4, seed=1):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("w", random_rules(3))
def test_robust_accuracy_against_all_corners_of_the_cube(w, eps):
    X, y = sample(40_000, MU, 0.8, generator())
    corners = eps * torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    right = (y[:, None] * ((X @ w)[:, None] + corners @ w) > 0).all(1)
    mean, tolerance = share(right)
    assert float(robust_accuracy(w, MU, 0.8, eps)) == pytest.approx(mean, abs=tolerance)


def test_robust_accuracy_against_all_directions_of_the_disc():
    mu, w, eps = torch.tensor([1.0, 0.4], dtype=torch.float64), torch.tensor([0.3, 0.9], dtype=torch.float64), 0.5
    angle = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    circle = eps * torch.stack([angle.cos(), angle.sin()], 1)
    X, y = sample(20_000, mu, 1.0, generator())
    right = (y[:, None] * ((X @ w)[:, None] + circle @ w) > 0).all(1)
    mean, tolerance = share(right)
    assert float(robust_accuracy(w, mu, 1.0, eps, "l2")) == pytest.approx(mean, abs=tolerance)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_worst_margins_are_the_minimum_over_the_ball(norm):
    X, y = sample(50, MU, 1.0, generator())
    w, eps = random_rules(1)[0], 0.3
    delta = torch.randn(2000, 4, generator=generator(2), dtype=torch.float64)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    moved = y[:, None] * ((X @ w)[:, None] + (eps * delta / size[:, None]) @ w)
    worst = worst_margins(w, X, y, eps, norm)
    assert bool((worst[:, None] <= moved + 1e-12).all())
    attack = -eps * (w.sign() if norm == "linf" else w / w.norm()) * y[:, None]  # and it is attained
    assert torch.allclose(worst, y * ((X + attack) @ w))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.45])
def test_optimal_rule_is_scipys(norm, eps):
    """Scale w to the robust margin w·μ - ε‖w‖_* = 1; then the best w is the shortest, a convex problem."""
    best = optimal_accuracy(MU, 0.7, eps, norm)
    mu = MU.numpy()

    def margin(uv):  # w = u - v with u, v >= 0 makes ‖w‖₁ smooth
        u, v = np.split(uv, 2)
        return (u - v) @ mu - eps * ((u + v).sum() if norm == "linf" else np.linalg.norm(u - v)) - 1

    found = optimize.minimize(
        lambda uv: ((uv[:4] - uv[4:]) ** 2).sum(), np.r_[mu.clip(0), (-mu).clip(0)] + 0.1, method="SLSQP",
        bounds=[(0, None)] * 8, constraints={"type": "ineq", "fun": margin}, options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    w = torch.from_numpy(found.x[:4] - found.x[4:])
    assert best == pytest.approx(stats.norm.cdf(1 / (0.7 * w.norm())), abs=1e-6)
    assert best == pytest.approx(float(robust_accuracy(w, MU, 0.7, eps, norm)), abs=1e-6)
    rule = optimal_rule(MU, eps, norm)
    assert best == pytest.approx(float(robust_accuracy(rule, MU, 0.7, eps, norm)), abs=1e-12)
    assert bool((robust_accuracy(random_rules(1000), MU, 0.7, eps, norm) <= best + 1e-12).all())


def test_soft_is_the_optimal_rule_and_by_hand():
    assert torch.allclose(soft(MU, 0.2), torch.tensor([0.8, -0.4, 0.1, 0.0], dtype=torch.float64))
    assert torch.allclose(soft(MU, 0.2), optimal_rule(MU, 0.2))
    assert torch.allclose(optimal_rule(MU, 0.2, "l2"), MU * (1 - 0.2 / MU.norm()))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_budget_above_the_mean_leaves_guessing(norm):
    assert optimal_accuracy(MU, 1.0, 5.0, norm) == 0.5
    assert float(robust_accuracy(optimal_rule(MU, 5.0, norm), MU, 1.0, 5.0, norm)) == 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_classifier_does_better_against_the_adversary_of_the_proof(norm):
    """Not even one that is made for that one adversary, and need not be linear."""
    eps = 0.4
    attack = optimal_rule(MU, eps, norm) - MU
    size = attack.abs().max() if norm == "linf" else attack.norm()
    assert float(size) == pytest.approx(eps)
    (X, y), (X_test, y_test) = (sample(20_000, MU, 0.8, generator(seed)) for seed in (0, 1))
    attacked, attacked_test = X + y[:, None] * attack, X_test + y_test[:, None] * attack
    best = optimal_accuracy(MU, 0.8, eps, norm)
    for made, least in ((QuadraticDiscriminantAnalysis(), best - 0.02), (DecisionTreeClassifier(max_depth=6), 0.6)):
        right = torch.from_numpy(made.fit(attacked, y).predict(attacked_test)) == y_test
        mean, tolerance = share(right)
        assert least < mean < best + tolerance


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.0), ("linf", 0.2), ("l2", 0.5)])
def test_adversarial_training_finds_the_optimal_rule_in_the_limit_of_infinite_data(norm, eps):
    """The minimum of the exact expected logistic loss, by quadrature over the Gaussian margin."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())

    def loss(w):
        w = torch.from_numpy(w)
        margins = w @ MU - eps * dual_norm(w, norm) + w.norm() * nodes
        return float(weights @ torch.nn.functional.softplus(-margins))

    options = {"maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-14}
    w = optimize.minimize(loss, MU.numpy() + 0.1, method="Nelder-Mead", options=options).x
    want = optimal_rule(MU, eps, norm).numpy()
    np.testing.assert_allclose(w / np.linalg.norm(w), want / np.linalg.norm(want), atol=2e-3)


def test_sample_has_the_moments_of_the_model():
    X, y = sample(50_000, MU, 0.5, generator())
    assert set(y.tolist()) == {-1.0, 1.0}
    assert float(y.mean()) == pytest.approx(0, abs=5 / len(y) ** 0.5)
    noise = X - y[:, None] * MU
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 * 0.5 / len(y) ** 0.5)
    np.testing.assert_allclose(torch.cov(noise.T), 0.25 * np.eye(4), atol=5 * 0.25 * (2 / len(y)) ** 0.5)
    assert torch.equal(sample(5, MU, 0.5, generator())[0], sample(5, MU, 0.5, generator())[0])
    assert sample(5, MU.float(), 0.5, generator())[0].dtype == torch.float32


@pytest.mark.parametrize("eps", [0.0, 0.3, 2 * ETA, 1.2])
@pytest.mark.parametrize("w", random_rules(3, d=5, seed=3))
def test_tsipras_accuracy_by_simulation(w, eps):
    X, y = tsipras_sample(40_000, 4, P, ETA, generator())
    mean, tolerance = share(worst_margins(w, X, y, eps) > 0)
    assert float(tsipras_accuracy(w, P, ETA, eps)) == pytest.approx(mean, abs=tolerance)


def test_tsipras_accuracy_of_single_features():
    first, second = torch.eye(5, dtype=torch.float64)[:2]
    for eps, want in ((0.0, P), (0.99, P), (1.0, 0.5 * P), (1.01, 0.0)):  # at 1 the attack only ties
        assert float(tsipras_accuracy(first, P, ETA, eps)) == pytest.approx(want)
    assert float(tsipras_accuracy(second, P, ETA, 0.0)) == pytest.approx(stats.norm.cdf(ETA))
    assert float(tsipras_accuracy(0 * first, P, ETA, 0.0)) == 0.5


def test_tsipras_sample_has_the_moments_of_the_model():
    X, y = tsipras_sample(40_000, 4, P, ETA, generator())
    mean, tolerance = share(X[:, 0] == y)
    assert mean == pytest.approx(P, abs=tolerance)
    assert set(X[:, 0].tolist()) == {-1.0, 1.0}
    np.testing.assert_allclose((y[:, None] * X)[:, 1:].mean(0), ETA, atol=5 / len(y) ** 0.5)
    np.testing.assert_allclose((X - ETA * y[:, None])[:, 1:].std(0), 1, atol=5 / len(y) ** 0.5)


def test_the_trade_off_binds_linear_rules():
    d, eta = 256, 0.2
    w = torch.ones(2000, d + 1, dtype=torch.float64) + random_rules(2000, d + 1, seed=4) / 2
    w[:, 0] = torch.linspace(-5, 300, 2000)  # from rules that ignore x_1 to rules that rest on it
    standard = tsipras_accuracy(w, P, eta, 0.0)
    robust = tsipras_accuracy(w, P, eta, 2 * eta)
    assert bool((robust <= tsipras_bound(standard, P) + 1e-12).all())
    assert bool((robust > 0.5 * tsipras_bound(standard, P)).any())  # the test is not idle
    assert bool((tsipras_accuracy(w, P, eta, 1.5 * eta) > tsipras_bound(standard, P) + 0.01).any())  # it needs 2η
    first = torch.eye(5, dtype=torch.float64)[0]  # the robust feature alone attains it
    assert float(tsipras_bound(tsipras_accuracy(first, P, ETA, 0.0), P)) == pytest.approx(P)


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_the_trade_off_binds_trees_too(depth):
    """Under the one attack of the proof; a tree may even be made for it."""
    (X, y), (X_test, y_test) = (tsipras_sample(20_000, 4, P, ETA, generator(seed)) for seed in (0, 1))

    def attacked(X, y):
        shift = -2 * ETA * y[:, None] * torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)
        return X + shift

    for X_made in (X, attacked(X, y)):
        tree = DecisionTreeClassifier(max_depth=depth).fit(X_made, y)
        standard, slack = share(torch.from_numpy(tree.predict(X_test)) == y_test)
        robust, tolerance = share(torch.from_numpy(tree.predict(attacked(X_test, y_test))) == y_test)
        assert robust < float(tsipras_bound(torch.tensor(standard - slack), P)) + tolerance


@pytest.mark.parametrize(
    ("eps", "standard", "robust"), [(0.0, (0.99, 1.0), (0.0, 0.01)), (0.8, (0.95, 0.95), (0.95, 0.95))]
)
def test_theorem_2_2_by_the_exact_hinge_loss(eps, standard, robust):
    """Unit weights (w_1, v, ..., v), d = 100, η = 4/√d, p = 0.95: the minimum over the circle of such rules."""
    d, p, eta = 100, 0.95, 0.4
    angle = torch.linspace(-torch.pi, torch.pi, 20_001, dtype=torch.float64)[:, None]
    w = torch.cat([angle.cos(), (angle.sin() / d**0.5).expand(-1, d)], 1)
    hinge = torch.zeros(len(w), dtype=torch.float64)
    for sign, odds in ((1, p), (-1, 1 - p)):
        mean = sign * w[:, 0] + eta * w[:, 1:].sum(1) - eps * w.abs().sum(1)
        sd = w[:, 1:].norm(dim=1).clamp(min=1e-12)
        z = (1 - mean) / sd
        density = torch.from_numpy(stats.norm.pdf(z.numpy()))
        hinge += odds * ((1 - mean) * torch.special.ndtr(z) + sd * density)
    best = w[hinge.argmin()]
    for (least, most), radius in ((standard, 0.0), (robust, 2 * eta)):
        assert least - 1e-9 <= float(tsipras_accuracy(best, p, eta, radius)) <= most + 1e-9


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="sigma"):
        robust_accuracy(MU, MU, 0.0, 0.1)
    with pytest.raises(ValueError, match="1/2"):
        tsipras_bound(torch.tensor(0.9), 0.4)


def test_the_paper_scale_of_tsipras_writes_what_its_card_reads(monkeypatch):
    tsipras = program("tsipras2019robustness")

    def tiny(name, n_train, n_test, seed, download):
        assert download
        shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
        X = torch.rand(n_train + n_test, shape[0] * shape[1] * shape[2], generator=generator(seed))
        y = torch.arange(len(X)) % 10
        return Dataset(name, X[:n_train], y[:n_train], X[n_train:], y[n_train:], shape)

    monkeypatch.setattr(tsipras, "load", tiny)
    paper = {"images": {name: (20, {20: (2, 1, 10), 40: (1, 1, 20)}) for name in ("mnist", "cifar10")}, "channels": 2}
    monkeypatch.setitem(tsipras.SETTINGS, "paper", paper)
    values = tsipras.measure(0, "paper")
    card = load_cards(ROOT, ["tsipras2019robustness"])["tsipras2019robustness"]
    assert {key for claim in card.at("paper") for key in claim.keys} <= values.keys()
    assert all(0 <= values[f"{name}_full_{how}"] <= 1 for name in ("mnist", "cifar10") for how in tsipras.TRAINING)


def test_the_linear_rule_of_tsipras_is_scikit_learns():
    """At ε = 0; and at ε > 0 no rule nearby has a smaller loss."""
    tsipras = program("tsipras2019robustness")
    X, y = sample(400, MU, 1.0, generator())
    want = LogisticRegression(C=1 / (len(X) * tsipras.DECAY), fit_intercept=False, tol=1e-8).fit(X, y).coef_[0]
    np.testing.assert_allclose(tsipras.linear_rule(X, y, 0.0), want, atol=1e-3)

    def loss(w):
        margins = worst_margins(w, X, y, 0.2)
        return torch.nn.functional.softplus(-margins).mean() + tsipras.DECAY / 2 * w.square().sum()

    w = tsipras.linear_rule(X, y, 0.2)
    assert (w == 0).any()  # the weak feature is dropped, exactly
    assert all(loss(w) <= loss(w + 0.01 * direction) + 1e-9 for direction in random_rules(200))
