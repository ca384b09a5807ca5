import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from phenomena import local_kernels
from phenomena.local_kernels import convolutional_kernel, laplace_kernel, local_kernel, random_field


def points(n, d, seed=0, dtype=torch.float64):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def patch(x, i, s):
    return [x[(i + k) % len(x)] for k in range(s)]


def slow(X, Z, s, sigma, pairs):
    """The kernel by its definition: the mean over the pairs (i, j) of patches."""
    X, Z = X.tolist(), Z.tolist()
    return [
        [np.mean([math.exp(-math.dist(patch(x, i, s), patch(z, j, s)) / sigma) for i, j in pairs]) for z in Z]
        for x in X
    ]


@pytest.mark.parametrize(("d", "s"), [(6, 1), (6, 3), (6, 6), (5, 4), (1, 1)])
def test_the_kernels_are_their_definitions(d, s):
    X, Z = points(4, d), points(3, d, seed=1)
    own = [(i, i) for i in range(d)]
    every = [(i, j) for i in range(d) for j in range(d)]
    np.testing.assert_allclose(local_kernel(X, Z, s, 0.7), slow(X, Z, s, 0.7, own), rtol=1e-12)
    np.testing.assert_allclose(convolutional_kernel(X, Z, s, 0.7), slow(X, Z, s, 0.7, every), rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_laplacian_is_scipys(dtype, rtol):
    X, Z = points(30, 7, dtype=dtype), points(20, 7, seed=1, dtype=dtype)
    K = laplace_kernel(X, Z, 2.5)
    assert K.dtype == dtype
    np.testing.assert_allclose(K, np.exp(-cdist(X, Z) / 2.5), rtol=rtol)


def test_the_laplacian_keeps_its_cusp_between_close_points():
    x = points(1, 9)
    z = x.clone()
    z[0, 0] += 1e-9
    assert float(1 - laplace_kernel(x, z, 1.0)) == pytest.approx(1e-9, rel=1e-5)


def test_patches_as_large_as_the_input_give_the_laplacian():
    X, Z = points(10, 5), points(8, 5, seed=1)
    assert torch.allclose(local_kernel(X, Z, 5, 1.3), laplace_kernel(X, Z, 1.3), rtol=1e-12)


def test_patches_of_one_coordinate_give_an_additive_kernel():
    X, Z = points(10, 5), points(8, 5, seed=1)
    want = sum(laplace_kernel(X[:, [i]], Z[:, [i]], 1.3) for i in range(5)) / 5
    assert torch.allclose(local_kernel(X, Z, 1, 1.3), want, rtol=1e-12)


@pytest.mark.parametrize("shift", [1, 4])
def test_only_the_convolutional_kernel_ignores_a_rotation_of_one_input(shift):
    X, Z = points(10, 6), points(8, 6, seed=1)
    turned = X.roll(shift, dims=1)
    assert torch.allclose(convolutional_kernel(turned, Z, 3, 1.0), convolutional_kernel(X, Z, 3, 1.0), rtol=1e-12)
    assert not torch.allclose(local_kernel(turned, Z, 3, 1.0), local_kernel(X, Z, 3, 1.0), rtol=1e-3)
    both = local_kernel(turned, Z.roll(shift, dims=1), 3, 1.0)  # of both inputs, either kernel
    assert torch.allclose(both, local_kernel(X, Z, 3, 1.0), rtol=1e-12)


@pytest.mark.parametrize("kernel", [local_kernel, convolutional_kernel])
def test_the_kernels_are_symmetric_and_positive(kernel):
    X = points(60, 6)
    K = kernel(X, X, 2, 2.0)
    assert torch.allclose(K, K.T, rtol=1e-12)
    assert torch.linalg.eigvalsh(K).min() > 0
    if kernel is local_kernel:
        assert torch.allclose(K.diagonal(), torch.ones(60, dtype=K.dtype))


@pytest.mark.parametrize("kernel", [local_kernel, convolutional_kernel])
def test_blocks_of_rows_change_nothing(kernel, monkeypatch):
    X, Z = points(23, 5), points(11, 5, seed=1)
    whole = kernel(X, Z, 2, 1.0)
    for entries in (1, 30, 110):
        monkeypatch.setattr(local_kernels, "ENTRIES", entries)
        assert torch.equal(kernel(X, Z, 2, 1.0), whole)


def test_no_points_give_an_empty_kernel():
    assert local_kernel(points(0, 4), points(3, 4), 2, 1.0).shape == (0, 3)
    assert convolutional_kernel(points(3, 4), points(0, 4), 2, 1.0).shape == (3, 0)


@pytest.mark.parametrize(
    ("d", "d_z", "s", "sigma", "what"),
    [(4, 4, 0, 1.0, "1..4"), (4, 4, 5, 1.0, "not 5"), (4, 4, 2, 0.0, "σ"), (4, 3, 2, 1.0, r"\(3, 3\)")],
)
@pytest.mark.parametrize("kernel", [local_kernel, convolutional_kernel])
def test_bad_input_is_refused_in_one_line(kernel, d, d_z, s, sigma, what):
    with pytest.raises(ValueError, match=what) as error:
        kernel(points(2, d), points(3, d_z), s, sigma)
    assert "\n" not in str(error.value)


def test_a_random_field_has_its_covariance():
    K = local_kernel(points(6, 4), points(6, 4), 2, 1.0)
    draws = 40_000
    Y = random_field(K, torch.Generator().manual_seed(0), draws)
    assert Y.shape == (6, draws)
    # a product of two Gaussians has variance K_ii K_jj + K_ij²
    error = ((K.diagonal()[:, None] * K.diagonal() + K**2) / draws).sqrt()
    assert ((Y @ Y.T / draws - K).abs() < 4.5 * error).all()
    assert (Y.mean(1).abs() < 4.5 * (K.diagonal() / draws).sqrt()).all()


def test_the_generator_decides_the_field_and_a_point_given_twice_has_one_value():
    X = points(20, 4)
    K = laplace_kernel(torch.cat([X, X]), torch.cat([X, X]), 1.0)
    Y, again, other = (random_field(K, torch.Generator().manual_seed(seed), 3) for seed in (0, 0, 1))
    assert torch.equal(Y, again)
    assert not torch.allclose(Y, other)
    assert torch.allclose(Y[:20], Y[20:], atol=1e-4)


@pytest.mark.parametrize(("K", "what"), [(torch.ones(2, 3), "square"), (-torch.eye(3), "positive")])
def test_what_is_no_covariance_is_refused(K, what):
    with pytest.raises(ValueError, match=what):
        random_field(K, torch.Generator().manual_seed(0))
