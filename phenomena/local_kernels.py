"""Kernels that see an input patch by patch, and Gaussian random fields to learn with them.

After Favero, Cagnetta & Wyart (2021): an input x has d coordinates on a ring, and its patch i is the s coordinates
from the i-th on, with indices modulo d; s is the filter size. Patches are compared by the Laplacian of width σ.
"""

import torch
from torch import Tensor

ENTRIES = 2**24  # of the largest temporary matrix, 128 MiB in float64


def laplace_kernel(X: Tensor, Z: Tensor, sigma: float) -> Tensor:
    """exp(-‖x - z‖/σ), (n, n') for X (n, d) and Z (n', d): the fully connected kernel; ValueError unless σ > 0."""
    _check(X, Z, sigma)
    # By differences: ‖x‖² + ‖z‖² - 2 xᵀz cancels where x is close to z, just where this kernel has its cusp.
    return torch.cdist(X, Z, compute_mode="donot_use_mm_for_euclid_dist").neg_().div_(sigma).exp_()


def local_kernel(X: Tensor, Z: Tensor, s: int, sigma: float) -> Tensor:
    """K_loc = (1/d) Σ_i exp(-‖x_i - z_i‖/σ) over the d patches of size s, (n, n') (Favero et al. 2021, Section 2).

    X (n, d), Z (n', d), both float. A locally connected network has such a kernel: every patch has weights of its own.
    s = d gives the Laplacian, s = 1 an additive kernel. Memory beside the result: a block of its rows.
    ValueError: s outside 1..d, σ not positive.
    """
    _check(X, Z, sigma)
    patches_x, patches_z = _patches(X, s), _patches(Z, s)
    K = X.new_zeros(len(X), len(Z))
    for rows in torch.arange(len(X)).split(max(1, ENTRIES // max(1, len(Z)))):
        for x_i, z_i in zip(patches_x[:, rows], patches_z, strict=True):
            K[rows] += laplace_kernel(x_i, z_i, sigma)
    return K.div_(X.shape[1])


def convolutional_kernel(X: Tensor, Z: Tensor, s: int, sigma: float) -> Tensor:
    """K_conv = (1/d²) Σ_{i,j} exp(-‖x_i - z_j‖/σ): each patch of x against each patch of z, (n, n'), as `local_kernel`.

    A convolutional network with average pooling has such a kernel: the patches share their weights. It does not change
    if x is rotated round the ring, since it is the mean of K_loc(x, z') over all d rotations z' of z.
    """
    d = Z.shape[1]
    K = local_kernel(X, Z, s, sigma)
    for shift in range(1, d):
        K += local_kernel(X, Z.roll(shift, dims=1), s, sigma)
    return K.div_(d)


def random_field(K: Tensor, generator: torch.Generator, draws: int = 1) -> Tensor:
    """Values (n, draws) of independent Gaussian random fields, N(0, K), at n points with covariance K (n, n).

    Samples by Cholesky in K's dtype; use float64. 1e-10 of the mean variance is added to the diagonal (noise of 1e-5
    standard deviations), for two points that are close. ValueError if K is not positive semi-definite to that accuracy.
    """
    n = len(K)
    if K.shape != (n, n):
        raise ValueError(f"a covariance is a square matrix, not {tuple(K.shape)}")
    jitter = 1e-10 * K.diagonal().mean()
    L, failed = torch.linalg.cholesky_ex(K + jitter * torch.eye(n, dtype=K.dtype, device=K.device))
    if failed:
        raise ValueError(f"the covariance in {K.dtype} is not positive definite (is it a kernel's matrix, in float64?)")
    return L @ torch.randn(n, draws, generator=generator, dtype=K.dtype, device=generator.device).to(K.device)


def _patches(X: Tensor, s: int) -> Tensor:
    """The d patches of size s of each row of X (n, d), as (d, n, s)."""
    d = X.shape[1]
    if not 1 <= s <= d:
        raise ValueError(f"the filter size must be in 1..{d}, the number of coordinates, not {s}")
    i = torch.arange(d, device=X.device)
    return X[:, (i[:, None] + i[:s]) % d].movedim(1, 0)


def _check(X: Tensor, Z: Tensor, sigma: float) -> None:
    if X.ndim != 2 or Z.ndim != 2 or X.shape[1] != Z.shape[1]:
        raise ValueError(f"inputs are (n, d) and (n', d), not {tuple(X.shape)} and {tuple(Z.shape)}")
    if not sigma > 0:
        raise ValueError(f"the width σ must be positive, not {sigma}")
