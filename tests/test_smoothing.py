import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from phenomena.errors import Diverged
from phenomena.small_cnn import small_cnn
from phenomena.smoothing import (
    ABSTAIN,
    Certificates,
    GaussianNoise,
    certificates,
    certified_accuracy,
    certify,
    largest_radius,
    lower_bound,
    predict,
    radius,
    votes,
)
from phenomena.training import cross_entropy, train

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def half_space(x):
    """Class 1 where the first coordinate is positive: |x_1| is the distance to the hyperplane."""
    return torch.stack([torch.zeros(len(x)), x[:, 0]], 1)


def points(distance, copies, dim=16):
    X = torch.zeros(copies, dim)
    X[:, 0] = distance
    return X


@pytest.fixture
def cnn():
    """A random network, its outputs centred so that it is not of one opinion."""
    model = small_cnn((1, 28, 28), 10, seeded(7))
    with torch.no_grad():
        model[-1].bias -= model(torch.rand(200, 1, 28, 28, generator=seeded(9))).mean(0)
    return model


@pytest.fixture
def images():
    return torch.rand(4, 1, 28, 28, generator=seeded(8))


# ----------------------------------------------------------------------------------------------- the bound


@pytest.mark.parametrize("n", [1, 7, 100, 10_000])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_the_one_sided_clopper_pearson_of_scipy(n, alpha):
    k = np.unique(np.linspace(0, n, 12).astype(int))
    want = [stats.binomtest(int(i), n).proportion_ci(1 - 2 * alpha, method="exact").low for i in k]
    np.testing.assert_allclose(lower_bound(k, n, alpha), want, rtol=1e-9, atol=1e-15)
    assert lower_bound(n, n, alpha) == pytest.approx(alpha ** (1 / n))


def coverage_error(bound, n, p, alpha):
    """P(bound(k) > p) for k ~ Bin(n, p), exact."""
    k = np.arange(n + 1)
    return stats.binom.pmf(k, n, p)[bound(k, n, alpha) > p].sum()


@pytest.mark.parametrize("n", [3, 20, 200])
def test_the_bound_lies_above_the_truth_with_probability_at_most_alpha(n):
    alpha, p = 0.05, np.linspace(0.01, 0.99, 99)
    wrong = [coverage_error(lower_bound, n, q, alpha) for q in p]
    assert max(wrong) <= alpha
    assert max(coverage_error(lambda k, n, alpha: k / n, n, q, alpha) for q in p) > 0.4  # the plain frequency


@pytest.mark.parametrize(("k", "n", "alpha"), [(5, 4, 0.1), (-1, 4, 0.1), (1, 4, 0.0), (1, 4, 1.0), (0, 0, 0.1)])
def test_a_bound_of_no_experiment_is_refused(k, n, alpha):
    with pytest.raises(ValueError, match="0 <= k <= n"):
        lower_bound(k, n, alpha)


def test_radius_is_the_quantile_and_0_below_one_half():
    np.testing.assert_allclose(radius(stats.norm.cdf([0.3, 1, 4]), 0.5), [0.15, 0.5, 2])
    np.testing.assert_array_equal(radius([0.0, 0.2, 0.5], 2.0), 0)


def test_largest_radius_is_that_of_a_unanimous_vote():
    found = [largest_radius(1.0, n, 0.001) for n in (100, 1000, 10_000, 100_000)]
    np.testing.assert_allclose(found, stats.norm.ppf([0.001 ** (1 / 10**i) for i in (2, 3, 4, 5)]))
    np.testing.assert_allclose(found, [1.50, 2.46, 3.20, 3.81], atol=0.005)
    assert largest_radius(0.25, 100, 0.001) == pytest.approx(found[0] / 4)


@pytest.mark.parametrize("dim", [1, 2, 30])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.999])
def test_theorem_1_for_a_ball_whose_probabilities_are_known(dim, p):
    """A ball around x with P(x + ε in it) = p: seen from x + δ it has a noncentral χ² probability, at R still > 1/2."""
    sigma = 0.7
    R = float(radius(p, sigma))
    at = np.linspace(1e-6, R, 20)
    inside = stats.ncx2.cdf(stats.chi2.ppf(p, dim), dim, at**2 / sigma**2)
    assert (inside >= 0.5).all()
    assert (inside >= stats.norm.cdf(stats.norm.ppf(p) - at / sigma) - 1e-9).all()


# ----------------------------------------------------------------------------------------------- the votes


def one_by_one(model, x, sigma, n, generator, batch=400):
    """The published SAMPLEUNDERNOISE, as one would write it."""
    counts = [0] * model(x[None]).shape[1]
    while n > 0:
        m = min(batch, n)
        noisy = x.repeat(m, *[1] * x.ndim) + sigma * torch.randn(m, *x.shape, generator=generator)
        with torch.no_grad():
            for label in model(noisy).argmax(1).tolist():
                counts[label] += 1
        n -= m
    return counts


@pytest.mark.parametrize("batch", [100, 256, 5000])
def test_votes_are_those_of_the_published_procedure_on_the_same_noise(cnn, images, batch):
    generator = seeded(1)
    want = [one_by_one(cnn, x, 0.5, 500, generator) for x in images]
    assert votes(cnn, images, 0.5, 500, seeded(1), batch=batch).tolist() == want
    assert len({tuple(counts) for counts in want}) == 4


def test_shared_votes_are_those_of_the_published_procedure_with_the_generator_reset(cnn, images):
    want = [one_by_one(cnn, x, 0.5, 500, seeded(1)) for x in images]
    assert votes(cnn, images, 0.5, 500, seeded(1), shared=True).tolist() == want
    assert votes(cnn, images[2:], 0.5, 500, seeded(1), shared=True).tolist() == want[2:]  # whatever the company


@pytest.mark.parametrize("shared", [False, True])
def test_votes_have_the_law_of_the_noise(shared):
    X = torch.stack([points(d, 1)[0] for d in (-0.5, 0.0, 0.3, 1.0)])
    n, sigma = 20_000, 0.6
    p = stats.norm.cdf(X[:, 0].numpy() / sigma)
    found = votes(half_space, X, sigma, n, seeded(3), shared=shared)
    assert (found.sum(1) == n).all()
    assert (np.abs(found[:, 1].numpy() / n - p) < 4 * np.sqrt(p * (1 - p) / n)).all()


def test_draws_of_two_images_are_independent_unless_shared():
    X, n = points(0.0, 400), 100
    alone = votes(half_space, X, 1.0, n, seeded(3))[:, 1].double()
    together = votes(half_space, X, 1.0, n, seeded(3), shared=True)[:, 1].double()
    assert together.std() == 0
    assert abs(alone.var() / (n / 4) - 1) < 4 * math.sqrt(2 / 400)
    assert votes(half_space, X, 1.0, n, seeded(3)).tolist() != votes(half_space, X, 1.0, n, seeded(4)).tolist()


def test_votes_of_no_images_and_of_no_draws():
    assert votes(half_space, points(1.0, 0), 0.5, 10, seeded()).shape == (0, 2)
    assert votes(half_space, points(1.0, 3), 0.5, 0, seeded()).tolist() == [[0, 0]] * 3


def test_votes_refuse_what_would_be_no_certificate(cnn, images):
    with pytest.raises(ValueError, match="sigma >= 0"):
        votes(cnn, images, -0.1, 10, seeded())
    noisy = nn.Sequential(GaussianNoise(0.5, seeded()), *cnn)
    with pytest.raises(ValueError, match=r"eval\(\)"):
        votes(noisy, images, 0.5, 10, seeded())
    assert votes(noisy.eval(), images, 0.5, 10, seeded()).equal(votes(cnn, images, 0.5, 10, seeded()))
    with pytest.raises(Diverged, match="image 0"):
        votes(lambda x: x.flatten(1) * math.nan, images, 0.5, 10, seeded())


# ----------------------------------------------------------------------------------------------- certify


def published(model, X, sigma, n0, n, alpha, generators):
    """CERTIFY of the paper's pseudocode, one image at a time, each with its own generator."""
    found = []
    for x, generator in zip(X, generators, strict=True):
        c = int(np.argmax(one_by_one(model, x, sigma, n0, generator)))
        k = one_by_one(model, x, sigma, n, generator)[c]
        p = stats.binomtest(k, n).proportion_ci(1 - 2 * alpha, method="exact").low
        found.append((c, sigma * stats.norm.ppf(p)) if p > 0.5 else (ABSTAIN, 0.0))
    return found


def test_certify_decides_as_the_published_procedure_on_the_same_noise(cnn, images):
    found = certify(cnn, images, 0.05, 32, 500, 0.01, seeded(5), shared=True)
    want = published(cnn, images, 0.05, 32, 500, 0.01, [seeded(5) for _ in images])
    assert found.label.tolist() == [c for c, _ in want]
    np.testing.assert_allclose(found.radius, [R for _, R in want], atol=1e-12)
    assert ABSTAIN in found.label
    assert (found.radius > 0).any()


def test_certify_takes_the_choices_of_all_images_first(cnn, images):
    generator = seeded(6)
    label = [int(np.argmax(one_by_one(cnn, x, 0.2, 32, generator))) for x in images]
    count = [one_by_one(cnn, x, 0.2, 500, generator)[c] for x, c in zip(images, label, strict=True)]
    found = certify(cnn, images, 0.2, 32, 500, 0.01, seeded(6))
    assert found.count.tolist() == count
    assert found.n == 500


def is_wrong(found, X):
    """A certificate of `half_space` that claims too much: g = f, and its radius is the distance."""
    claims = found.label != ABSTAIN
    return claims & ((found.label != (X[:, 0] > 0)) | (found.radius > X[:, 0].abs()))


def too_many(wrong, alpha):
    """The p-value of so many wrong certificates if each is wrong with probability at most alpha."""
    return stats.binomtest(int(wrong.sum()), len(wrong), alpha, alternative="greater").pvalue


ALPHA, SIGMA, N = 0.05, 0.5, 100
DISTANCES = (1e-6, 0.05, 0.2, 0.5)


@pytest.mark.parametrize("give_up", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_at_most_alpha_of_the_certificates_claim_too_much(distance, give_up):
    X = points(distance, 2000)
    found = certify(half_space, X, SIGMA, 10, N, ALPHA, seeded(10), give_up=give_up)
    assert too_many(is_wrong(found, X), ALPHA) > 1e-3


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_coverage_test_notices_a_plain_frequency(distance):
    X = points(distance, 2000)
    found = certify(half_space, X, SIGMA, 10, N, ALPHA, seeded(10))
    plain = found._replace(label=(X[:, 0] > 0).long(), radius=torch.tensor(radius(found.count / N, SIGMA)))
    assert too_many(is_wrong(plain, X), ALPHA) < 1e-9


def test_the_coverage_test_notices_a_class_chosen_on_the_draws_that_bound_it():
    X = points(1e-6, 2000)
    count, label = votes(half_space, X, SIGMA, N, seeded(10)).max(1)
    assert too_many(is_wrong(certificates(label, count, N, SIGMA, ALPHA), X), ALPHA) < 1e-9


def test_certificates_are_not_needlessly_short():
    """Proposition 4: for a linear classifier R is the distance, so with many draws the certificate comes close."""
    X = points(0.4, 50)
    found = certify(half_space, X, SIGMA, 200, 20_000, 0.001, seeded(11))
    assert (found.label == 1).all()
    assert 0.95 < float(found.radius.mean()) / 0.4 < 1


def test_giving_up_saves_the_draws_of_hopeless_images_only():
    """Three classes by thirds of the noise: no class has half of the votes at 0, and one has nearly all at 2."""

    def thirds(x):
        return torch.stack([x[:, 0] < -0.43, (x[:, 0] >= -0.43) & (x[:, 0] < 0.43), x[:, 0] >= 0.43], 1).float()

    X = torch.cat([points(0.0, 50), points(2.0, 50)])
    found = certify(thirds, X, 1.0, 200, 200, 0.01, seeded(12), give_up=True)
    assert (found.label[:50] == ABSTAIN).all()
    assert (found.count[:50] == 0).double().mean() > 0.5
    assert (found.label[50:] == 2).all()
    assert certify(thirds, X[50:], 1.0, 200, 200, 0.01, seeded(12), shared=True).radius.equal(
        certify(thirds, X, 1.0, 200, 200, 0.01, seeded(12), shared=True, give_up=True).radius[50:]
    )


def test_giving_up_loses_at_most_alpha_of_the_images_that_could_be_certified():
    """Exact, at p_A = 1/2: the image is lost only if its class, by its own count, has too few of 100 votes."""
    k = np.arange(101)
    upper = 1 - lower_bound(100 - k, 100, ALPHA)
    lost = stats.binom.pmf(k, 100, 0.5)[upper <= 0.5].sum()
    assert 0.5 * ALPHA < lost <= ALPHA


# ----------------------------------------------------------------------------------------------- predict


def test_predict_is_the_binomial_test_of_the_top_two(cnn, images):
    X = torch.cat([images, images / 2, images / 4])
    for alpha in (0.001, 0.3):
        counts = votes(cnn, X, 0.6, 64, seeded(14))
        want = []
        for row in counts.tolist():
            c = int(np.argmax(row))
            first, second = sorted(row)[:-3:-1]
            sure = stats.binomtest(first, first + second, 0.5).pvalue <= alpha
            want.append(c if sure else ABSTAIN)
        assert predict(cnn, X, 0.6, 64, alpha, seeded(14)).tolist() == want


def test_predict_errs_with_probability_at_most_alpha():
    X = points(0.01, 3000)
    found = predict(half_space, X, SIGMA, N, ALPHA, seeded(15))
    assert too_many(found == 0, ALPHA) > 1e-3
    assert (found == ABSTAIN).double().mean() > 0.9
    majority = votes(half_space, X, SIGMA, N, seeded(15)).argmax(1)
    assert too_many(majority == 0, ALPHA) < 1e-9  # without the test
    assert (predict(half_space, points(1.0, 50), SIGMA, N, ALPHA, seeded(15)) == 1).all()


def test_predict_abstains_from_a_tie():
    def in_turn(x):
        return nn.functional.one_hot(torch.arange(len(x)) % 2, 3).float()

    assert votes(in_turn, points(0.0, 1), 1.0, 50, seeded()).tolist() == [[25, 25, 0]]
    assert predict(in_turn, points(0.0, 1), 1.0, 50, 0.99, seeded()).tolist() == [ABSTAIN]


# ----------------------------------------------------------------------------------------------- the rest


def test_certified_accuracy_counts_right_labels_with_a_radius_of_at_least_r():
    label, R, y = [0, 1, ABSTAIN, 1, 2], [0.5, 1.0, 0.0, 0.25, 2.0], [0, 1, 0, 1, 0]
    radii = torch.tensor([0.0, 0.25, 0.3, 1.0, 1.5])
    given = Certificates(torch.tensor(label), torch.tensor(R, dtype=torch.float64), torch.zeros(5), 10)
    found = certified_accuracy(given, torch.tensor(y), radii)
    want = [np.mean([c == t and s >= r for c, s, t in zip(label, R, y, strict=True)]) for r in radii.tolist()]
    np.testing.assert_allclose(found, want)
    assert found.tolist() == [0.6, 0.6, 0.4, 0.2, 0.0]


def test_noise_is_added_in_training_only():
    layer, X = GaussianNoise(0.3, seeded(16)), torch.zeros(200, 100)
    added = layer(X)
    assert added.std() == pytest.approx(0.3, rel=0.03)
    assert not added.equal(layer(X))
    assert layer.eval()(X) is X
    assert added.equal(GaussianNoise(0.3, seeded(16))(X))


def test_a_network_trains_on_noise_with_the_ordinary_loop():
    """Two classes at ±1 in one coordinate, noise of 1 in all: the best network is linear, and its radius is 1."""
    y = torch.arange(400) % 2
    X = points(1.0, 400) * (2 * y[:, None] - 1)
    generator = seeded(17)
    model = nn.Sequential(GaussianNoise(1.0, generator), nn.Linear(16, 2))
    train(model, X, y, cross_entropy, torch.optim.Adam(model.parameters(), lr=0.05), 200, 400, generator)
    found = certify(model.eval(), X[:10], 1.0, 100, 5000, 0.001, seeded(18))
    assert found.label.equal(y[:10])
    w = model[1].weight[1] - model[1].weight[0]
    b = model[1].bias[1] - model[1].bias[0]
    distance = ((X[:10] @ w + b).abs() / w.norm()).detach().double()
    assert (distance > 0.9).all()
    error = math.sqrt(0.16 * 0.84 / 5000) / stats.norm.pdf(1)  # of the radius; the bound takes off 3.1 of them
    assert ((found.radius > distance - 7 * error) & (found.radius < distance)).all()
