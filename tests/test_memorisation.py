import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from phenomena.data import load, with_label_noise
from phenomena.memorisation import corrupted_labels, gaussian_images, random_pixels, shatter, shuffled_pixels, two_layer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, d, seed=0):
    draws = torch.randn(n, d + 1, generator=generator(seed), dtype=torch.float64)
    return draws[:, 1:].clone(), draws[:, 0].clone()


# --- labels


def test_at_probability_one_the_labels_are_uniform_and_independent_of_the_true_ones():
    y = torch.arange(30_000) % 3
    drawn = corrupted_labels(y, 1.0, 3, generator())
    table = np.histogram2d(y.numpy(), drawn.numpy(), bins=3)[0]
    assert stats.chi2_contingency(table).pvalue > 0.01
    assert stats.chisquare(table.sum(0)).pvalue > 0.01
    # not so for the course's other noise, which never draws the true class
    assert (with_label_noise(y, 1.0, 3, 0) != y).all()


def test_a_share_of_the_replaced_labels_stays_right_by_chance():
    y = torch.zeros(40_000, dtype=torch.int64)
    wrong = (corrupted_labels(y, 0.5, 4, generator()) != y).sum()
    assert stats.binomtest(int(wrong), len(y), 0.5 * 3 / 4).pvalue > 0.01


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_one_seed_replaces_more_labels_at_a_larger_probability_and_by_the_same_classes(p, q, seed):
    y = torch.arange(60) % 5
    small, large = (corrupted_labels(y, prob, 5, generator(seed)) for prob in (min(p, q), max(p, q)))
    assert torch.equal(small[small != y], large[small != y])


def test_no_label_changes_at_probability_zero_and_the_input_is_kept():
    y = torch.arange(50) % 10
    assert torch.equal(corrupted_labels(y, 0.0, 10, generator()), y)
    corrupted_labels(y, 1.0, 10, generator())
    assert torch.equal(y, torch.arange(50) % 10)


@pytest.mark.parametrize(("p", "classes"), [(-0.1, 3), (1.1, 3), (float("nan"), 3), (0.5, 2), (0.5, 0)])
def test_what_is_no_probability_and_labels_beyond_the_classes_are_refused(p, classes):
    with pytest.raises(ValueError, match="must be in"):
        corrupted_labels(torch.tensor([0, 2]), p, classes, generator())


# --- images


def test_shuffled_pixels_are_one_permutation_for_all_images_and_for_a_test_set():
    X = torch.arange(40.0).view(4, 10)
    shuffled, permutation = shuffled_pixels(X, generator())
    assert sorted(permutation.tolist()) == list(range(10))
    assert permutation.tolist() != list(range(10))
    for image, original in zip(shuffled.tolist(), X.tolist(), strict=True):
        assert image == [original[k] for k in permutation]


def test_random_pixels_are_a_permutation_of_each_image_and_all_of_them_are_equally_likely():
    X = torch.arange(3.0).repeat(60_000, 1) + 10 * torch.arange(60_000.0)[:, None]
    drawn = random_pixels(X, generator(1))
    assert torch.equal(drawn.sort(1).values, X)
    codes = ((drawn - X[:, :1]) @ torch.tensor([100.0, 10.0, 1.0])).int()
    counts = torch.unique(codes, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_gaussian_images_have_the_images_mean_and_variance_and_nothing_else_of_them():
    X = 3 + 2 * torch.rand(2000, 50, generator=generator(1)) * torch.linspace(0, 1, 50)  # each pixel has its own mean
    noise = gaussian_images(X, generator())
    assert (noise.shape, noise.dtype) == (X.shape, X.dtype)
    standard = ((noise - X.mean()) / X.std()).flatten()
    assert stats.kstest(standard.numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.flatten(), X.flatten())[0, 1]) < 4 / 100_000**0.5
    assert np.abs(np.corrcoef(noise.T.numpy()) - np.eye(50)).max() < 5 / 2000**0.5


@pytest.mark.parametrize("randomise", [lambda X, g: shuffled_pixels(X, g)[0], random_pixels, gaussian_images])
def test_the_generator_decides_and_the_images_are_kept(randomise):
    X = torch.rand(5, 30, generator=generator(3))
    before = X.clone()
    again = [randomise(X, generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    assert torch.equal(X, before)


# --- Theorem 1


def test_two_layer_is_a_sum_of_its_units():
    X, _ = points(6, 3)
    a, b, w = (
        torch.tensor([1.0, -2.0, 0.5]).double(),
        torch.tensor([-1.0, 0.0, 0.3, 1.0]).double(),
        torch.rand(4).double(),
    )
    slow = [sum(w_j * max(sum(a_k * x_k for a_k, x_k in zip(a, x, strict=True)) - b_j, 0.0)
                for b_j, w_j in zip(b, w, strict=True)) for x in X]  # fmt: skip
    np.testing.assert_allclose(two_layer(X, a, b, w), slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 1), (40, 1), (40, 7), (300, 50)])
def test_2n_plus_d_weights_pass_through_n_points(n, d):
    X, y = points(n, d)
    a, b, w = shatter(X, y, generator(5))
    assert a.shape == (d,)
    assert b.shape == w.shape == (n,)
    assert a.dtype == b.dtype == w.dtype == torch.float64
    np.testing.assert_allclose(two_layer(X, a, b, w), y, atol=1e-9)


def test_1500_digits_take_random_labels():
    data = load("digits", 1500, 0)
    y = torch.randint(10, (1500,), generator=generator())
    f = two_layer(data.X_train, *shatter(data.X_train, y, generator(1)))
    assert (f - y).abs().max() < 1e-7


def test_the_function_is_straight_between_neighbouring_samples():
    X, y = points(30, 4)
    a, b, w = shatter(X, y, generator(2))
    z = X @ a
    line = torch.linspace(float(z.min()), float(z.max()), 500, dtype=torch.float64)
    f = two_layer(line[:, None] * a / (a @ a), a, b, w)  # inputs along a whose projections are the line
    order = z.argsort()
    np.testing.assert_allclose(f, np.interp(line, z[order], y[order]), atol=1e-9)


def test_the_thresholds_interleave_with_the_projections():
    X, y = points(50, 3)
    a, b, _ = shatter(X, y, generator(2))
    z = (X @ a).sort().values
    assert b[0] < z[0]
    assert (b < z).all()
    assert (z[:-1] <= b[1:]).all()


def test_a_function_without_a_kink_between_the_samples_does_not_pass_through_them():
    X, y = points(50, 3)
    a, _, _ = shatter(X, y, generator(2))
    z = X @ a
    below = z.min() - 1 - torch.rand(50, generator=generator(), dtype=torch.float64)
    design = torch.relu(z[:, None] - below).numpy()
    w = torch.from_numpy(np.linalg.lstsq(design, y.numpy())[0])
    assert (two_layer(X, a, below, w) - y).abs().max() > 0.5


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_the_order_of_the_samples_and_their_unit_do_not_matter(seed, n, d, unit):
    X, y = points(n, d, seed)
    order = torch.randperm(n, generator=generator(seed))
    f = two_layer(unit * X, *shatter(unit * X[order], y[order], generator(seed)))
    scale = 1 + y.abs().max()
    assert (f - y).abs().max() < 1e-5 * scale  # as close as the closest two of the projections allow


@pytest.mark.parametrize("labels", [(0.0, 1.0), (1.0, 1.0)])
def test_equal_samples_are_refused_by_their_rows_even_with_equal_labels(labels):
    X, y = points(9, 4)
    X[7] = X[2]
    y[[2, 7]] = torch.tensor(labels, dtype=torch.float64)
    with pytest.raises(ValueError, match="rows 2 and 7 of X are equal"):
        shatter(X, y, generator())


def test_samples_that_the_projection_cannot_tell_apart_are_refused_by_their_rows():
    X, y = points(9, 4)
    X[7] = X[2] * (1 + 1e-15)
    assert not torch.equal(X[7], X[2])
    with pytest.raises(ValueError, match="rows 2 and 7 of X are too close for the precision"):
        shatter(X, y, generator())


def test_targets_of_another_shape_and_what_is_not_finite_are_refused():
    X, y = points(5, 2)
    for wrong in (y[:4], y[:, None]):
        with pytest.raises(ValueError, match=r"targets of shape \(5,\)"):
            shatter(X, wrong, generator())
    X[1, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        shatter(X, y, generator())
