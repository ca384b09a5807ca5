from itertools import product
from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from phenomena.data import gaussian_design
from phenomena.regression import excess_risk, min_norm, min_norm_risk
from phenomena.surrogates import (
    benign_tail,
    classification_error,
    decomposition,
    denoised,
    equivalent_risk,
    expected_errors,
    gaussian_risk,
    hypercube,
    linear_risk,
    mean_noise_gap,
    one_step,
    twin,
)


def labels(m, generator):
    return torch.randint(0, 2, (m,), generator=generator) * 2.0 - 1


def corners(y, m, D, tau2):
    """Every X (len(y), 1 + D) that the hypercube can give to the labels y, all equally likely."""
    for bits in product((-1.0, 1.0), repeat=len(y) * D):
        noise = torch.tensor(bits, dtype=torch.float64).view(len(y), D) * (tau2 / D) ** 0.5
        yield torch.cat([y[:, None].double() / m**0.5, noise], dim=1)


def slow_errors(w, X, y):
    """How many points are not strictly on their side, one coordinate at a time."""
    margins = [float(y[i]) * sum(float(a) * float(b) for a, b in zip(w, X[i], strict=True)) for i in range(len(y))]
    return sum(margin < 1e-6 for margin in margins)


@given(*[st.floats(-1e3, 1e3)] * 4)
def test_the_four_terms_add_up_to_the_risk(R_h, RS_h, R_s, RS_s):
    terms = decomposition(R_h, RS_h, R_s, RS_s)
    assert sum(terms) == pytest.approx(R_h, abs=1e-9)
    assert (terms.empirical, terms.gap) == (RS_h, R_s - RS_s)
    assert terms.excess + R_s == pytest.approx(R_h, abs=1e-9)
    assert terms.price + RS_h == pytest.approx(RS_s, abs=1e-9)


def test_the_hypercubes_noise_has_one_length_and_its_signal_is_the_label():
    generator = torch.Generator().manual_seed(0)
    y = labels(40, generator)
    X = hypercube(y, 25, 90, 1.7, generator)
    assert X.shape == (40, 91)
    torch.testing.assert_close(X[:, 0], y.double() / 5)
    torch.testing.assert_close(X[:, 1:].square().sum(1), torch.full((40,), 1.7, dtype=torch.float64))


def test_the_hypercubes_noise_is_fair_and_independent_of_the_label():
    generator = torch.Generator().manual_seed(0)
    y = labels(20_000, generator)
    X = hypercube(y, 4, 3, 3.0, generator)  # τ/√D = 1
    below = 4 / 20_000**0.5  # four standard errors
    second = torch.cat([X[:, 1:], y[:, None].double()], dim=1)
    assert (second.mean(0).abs() < below).all()
    assert ((second.mT @ second / 20_000 - torch.eye(4)).abs() < below).all()


def test_the_twin_keeps_the_law_of_the_sample():
    y = torch.tensor([1.0, -1.0])
    every = {tuple(X.flatten().tolist()) for X in corners(y, 2, 2, 1.5)}
    turned = [tuple(twin(X).flatten().tolist()) for X in corners(y, 2, 2, 1.5)]
    assert set(turned) == every  # a permutation of equally likely samples
    assert len(turned) == len(every) == 16
    for X in corners(y, 2, 2, 1.5):
        assert torch.equal(twin(twin(X)), X)
        assert torch.equal(twin(X)[:, 0], X[:, 0])
        assert not (twin(X)[:, 1:] == X[:, 1:]).any()


def test_one_step_is_a_gradient_step_from_zero():
    generator = torch.Generator().manual_seed(1)
    y = labels(7, generator)
    X = hypercube(y, 7, 5, 2.0, generator)
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (-(y * (X @ w)).sum()).backward()
    torch.testing.assert_close(one_step(X, y), -w.grad)


def test_classification_error_is_a_slow_count_and_a_tie_is_an_error():
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        y = labels(6, generator)
        X = hypercube(y, 6, 4, 2.0, generator)
        other = hypercube(y, 6, 4, 2.0, generator)
        assert classification_error(one_step(other, y), X, y) == slow_errors(one_step(other, y), X, y) / 6
    assert classification_error(torch.zeros(5, dtype=torch.float64), X, y) == 1


@pytest.mark.parametrize(("m", "D", "tau2"), [(3, 6, 2.0), (2, 8, 1.0), (5, 7, 4.3), (1, 4, 0.5)])
def test_linear_risk_counts_every_corner(m, D, tau2):
    generator = torch.Generator().manual_seed(m)
    for _ in range(5):
        y = labels(m, generator)
        w = one_step(hypercube(y, m, D, tau2, generator), y)
        new = torch.ones(1)
        every = [slow_errors(w, X, new) for X in corners(new, m, D, tau2)]
        assert linear_risk(w, m, tau2) == pytest.approx(np.mean(every), abs=1e-12)


def test_linear_risk_by_simulation():
    generator = torch.Generator().manual_seed(3)
    m, D, tau2, new = 20, 200, 2.0, 20_000
    y = labels(m, generator)
    w = one_step(hypercube(y, m, D, tau2, generator), y)
    y_new = labels(new, generator)
    risk = linear_risk(w, m, tau2)
    found = classification_error(w, hypercube(y_new, m, D, tau2, generator), y_new)
    assert abs(found - risk) < 4 * (risk * (1 - risk) / new) ** 0.5


@pytest.mark.parametrize(("m", "D", "tau2"), [(2, 3, 2.0), (3, 2, 2.0), (2, 4, 0.5), (3, 2, 1.0), (1, 3, 3.0)])
def test_expected_errors_are_the_means_over_every_sample(m, D, tau2):
    y, new = torch.tensor([1.0, -1.0, 1.0])[:m], torch.tensor([-1.0])
    found = []
    for X in corners(y, m, D, tau2):
        w = one_step(X, y)
        fresh = np.mean([slow_errors(w, point, new) for point in corners(new, m, D, tau2)])
        found.append((slow_errors(w, X, y) / m, fresh, slow_errors(w, twin(X), y) / m))
    np.testing.assert_allclose(expected_errors(m, D, tau2), np.mean(found, axis=0), atol=1e-12)


def test_the_twin_fails_for_loud_noise_in_many_dimensions_only():
    loud, quiet, few = expected_errors(50, 40_000, 2.0), expected_errors(50, 40_000, 0.5), expected_errors(50, 50, 2.0)
    assert (loud.training, loud.risk, 1 - loud.twin) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (quiet.training, quiet.risk, quiet.twin) == pytest.approx((0, 0, 0), abs=1e-12)
    assert few.risk > 0.3


def test_the_classifier_with_its_noise_drawn_afresh_has_no_gap_on_any_sample():
    m, D, tau2 = 2, 3, 2.0
    y = torch.tensor([1.0, -1.0])
    redrawn = [one_step(X, y) for X in corners(y, m, D, tau2)]
    risk = np.mean([linear_risk(w, m, tau2) for w in redrawn])
    assert risk == pytest.approx(expected_errors(m, D, tau2).risk)
    assert 0.1 < risk < 0.9
    for S in list(corners(y, m, D, tau2))[::7]:
        assert np.mean([slow_errors(w, S, y) / m for w in redrawn]) == pytest.approx(risk)


def test_the_benign_tail_sums_to_one():
    lam = benign_tail(3, 40)
    assert lam.shape == (43,)
    assert lam[:3].tolist() == [1, 1, 1]
    assert len(lam[3:].unique()) == 1
    assert float(lam.sum()) == pytest.approx(4)


def spiked(n=12, tail=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lam = benign_tail(2, tail)
    theta = torch.randn(len(lam), generator=generator, dtype=torch.float64)
    return gaussian_design(n, lam.sqrt(), generator), theta, lam, generator


def test_the_denoised_fit_is_lapacks_without_the_noise():
    X, theta, _, _ = spiked()
    want = np.linalg.lstsq(X.numpy(), X.numpy() @ theta.numpy(), rcond=None)[0]
    np.testing.assert_allclose(denoised(X, theta), want, atol=1e-10)


def test_the_denoised_fit_is_the_mean_of_the_interpolator_over_the_noise():
    X, theta, _, generator = spiked()
    eps = torch.randn(12, 20_000, generator=generator, dtype=torch.float64)
    fits = min_norm(X, (X @ theta)[:, None] + eps)
    assert ((fits.mean(1) - denoised(X, theta)).abs() < 5 * fits.std(1) / 20_000**0.5).all()


def test_gaussian_risk_by_simulation():
    X, theta, lam, generator = spiked()
    fit = denoised(X, theta)
    X_new = gaussian_design(100_000, lam.sqrt(), generator)
    loss = (X_new @ (fit - theta) + 0.5 * torch.randn(100_000, generator=generator, dtype=torch.float64)).square()
    assert abs(float(loss.mean() - gaussian_risk(fit, theta, lam, 0.25))) < 4 * float(loss.std()) / 100_000**0.5


def test_gaussian_risk_of_many_is_that_of_each():
    _, theta, lam, generator = spiked()
    fits = torch.randn(len(lam), 3, generator=generator, dtype=torch.float64)
    together = gaussian_risk(fits, theta, lam, 2.0)
    assert together.shape == (3,)
    for k in range(3):
        assert float(gaussian_risk(fits[:, k], theta, lam, 2.0)) == pytest.approx(float(together[k]))
        isotropic = gaussian_risk(fits[:, k], theta, torch.ones_like(lam), 2.0)
        assert float(isotropic) == pytest.approx(2 + excess_risk(fits[:, k], theta))


def test_on_its_twin_the_interpolator_has_four_times_the_noise():
    X, theta, _, generator = spiked()
    eps = torch.randn(12, generator=generator, dtype=torch.float64)
    h = min_norm(X, X @ theta + eps)
    assert float((X @ h - (X @ theta - eps)).square().mean()) == pytest.approx(4 * float(eps.square().mean()))


@pytest.mark.parametrize("gamma", [1.5, 4.0])
def test_equivalent_risk_of_isotropic_features_is_the_known_limit(gamma):
    n, p = 4000, round(4000 * gamma)
    theta = torch.zeros(p, dtype=torch.float64)
    theta[7] = 3**0.5
    found = equivalent_risk(torch.ones(p, dtype=torch.float64), theta, 0.5, n)
    assert found == pytest.approx(0.5 + 3 * (1 - 1 / gamma) + 0.5 / (gamma - 1))
    assert found == pytest.approx(0.5 + float(min_norm_risk(n, p, 3.0, 0.5)), rel=1e-3)


@pytest.mark.parametrize("sigma2", [0.0, 1.0])
def test_equivalent_risk_by_simulation(sigma2):
    n, generator = 100, torch.Generator().manual_seed(5)
    lam = torch.linspace(0.2, 3, 260, dtype=torch.float64) ** 2
    theta = torch.linspace(0.2, 0.0, 260, dtype=torch.float64)
    risks = []
    for _ in range(60):
        X = gaussian_design(n, lam.sqrt(), generator)
        eps = sigma2**0.5 * torch.randn(n, 50, generator=generator, dtype=torch.float64)
        risks.append(float(gaussian_risk(min_norm(X, (X @ theta)[:, None] + eps), theta, lam, sigma2).mean()))
    assert np.mean(risks) == pytest.approx(equivalent_risk(lam, theta, sigma2, n), rel=0.02)


@pytest.mark.parametrize(("n", "smallest"), [(4, 1.0), (5, 1.0), (0, 1.0), (2, 0.0)])
def test_equivalent_risk_refuses_what_has_none(n, smallest):
    lam = torch.tensor([2.0, 1.0, 1.0, smallest], dtype=torch.float64)
    with pytest.raises(ValueError, match="more features than samples"):
        equivalent_risk(lam, torch.ones(4, dtype=torch.float64), 1.0, n)


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_mean_noise_gap_is_the_mean_deviation_of_a_chi_square(n):
    want = stats.chi2(n).expect(lambda x: abs(x / n - 1), lb=0, ub=n) + stats.chi2(n).expect(
        lambda x: abs(x / n - 1), lb=n, ub=np.inf
    )
    assert mean_noise_gap(n, 3.0) == pytest.approx(3 * want, rel=1e-6)


def test_mean_noise_gap_falls_with_the_root_of_n():
    n = 1_000_000
    assert mean_noise_gap(n, 2.0) == pytest.approx(4 / (pi * n) ** 0.5, rel=1e-5)
