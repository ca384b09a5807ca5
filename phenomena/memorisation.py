"""What a network is asked to memorise, and a network that memorises without any training.

Zhang et al. (2017), "Understanding deep learning requires rethinking generalization": labels and images from which
the relation between them is removed, step by step (Section 2), and a two-layer network with 2n + d weights through
any n points (Theorem 1). The letters are the paper's.
"""

import torch
from torch import Tensor


def corrupted_labels(y: Tensor, p: float, n_classes: int, generator: torch.Generator) -> Tensor:
    """Replace each label, with probability p, by a class drawn uniformly; int labels y (n,) are kept.

    The draw may be the true class, so that a fraction p (1 - 1/C) of the labels is wrong: at p = 1 they say nothing.
    (`data.with_label_noise` draws incorrect classes only: a fraction p is wrong, and p = 1 still tells what an image
    is not.) Generators in one state replace, at a smaller p, a part of what they replace at a larger one, by the
    same classes. Errors: p outside [0, 1], labels outside 0..n_classes-1. (Zhang et al. 2017, Section 2.1.)
    """
    if not 0 <= p <= 1:
        raise ValueError(f"the probability of a random label must be in [0, 1], not {p}")
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(f"labels must be in 0..{n_classes - 1}, not {int(y.min())}..{int(y.max())}")
    replaced = torch.rand(y.shape, generator=generator, dtype=torch.float64) < p
    return torch.where(replaced, torch.randint(n_classes, y.shape, generator=generator), y)


def shuffled_pixels(X: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One permutation of the d entries for all images X (n, d): the images X[:, permutation], and it, (d,).

    Give a test set the same: X_test[:, permutation]. (Zhang et al. 2017, Section 2.1.)
    """
    permutation = torch.randperm(X.shape[1], generator=generator)
    return X[:, permutation], permutation


def random_pixels(X: Tensor, generator: torch.Generator) -> Tensor:
    """An independent permutation of its d entries for each image of X (n, d). (Zhang et al. 2017, Section 2.1.)"""
    return X.gather(1, torch.rand(X.shape, generator=generator, dtype=torch.float64).argsort(1))


def gaussian_images(X: Tensor, generator: torch.Generator) -> Tensor:
    """Independent Gaussian pixels, like X (n, d) in shape, dtype and, over all of its pixels, mean and variance.

    (Zhang et al. 2017, Section 2.1.)
    """
    return X.mean() + X.std(correction=0) * torch.randn(X.shape, generator=generator, dtype=X.dtype)


def two_layer(X: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """f(x) = Σ_j w_j max(a·x - b_j, 0), (n,) float64, of X (n, d): all hidden units look in the direction a (d,)."""
    return torch.relu((X.double() @ a)[:, None] - b) @ w


def shatter(X: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """a (d,), b (n,), w (n,), float64: 2n + d weights of a `two_layer` f with f(x_i) = y_i for X (n, d), real y (n,).

    Theorem 1 of Zhang et al. (2017): a random direction a tells all samples apart, z_i = a·x_i. In ascending order of
    z, with b_1 < z_1 <= b_2 < z_2 <= ... < z_n, the matrix A_ij = max(z_i - b_j, 0) is lower triangular with a positive
    diagonal, so A w = y has one solution. What rounding leaves of f(x_i) - y_i is about eps max|z| max|w|, and |w| is
    as large as neighbouring z are close: 1e-8 for 1,500 digits. Errors: two equal samples, even if they share their
    label, as the theorem is about n distinct points; two samples whose projections differ by no more than rounding;
    a number that is not finite.
    """
    X, y = X.double(), y.double()
    n, d = X.shape
    if y.shape != (n,):
        raise ValueError(f"{n} samples need targets of shape ({n},), not {tuple(y.shape)}")
    if not (X.isfinite().all() and y.isfinite().all()):
        raise ValueError("a sample or a target is not finite")
    _check_distinct(X)
    a = torch.randn(d, generator=generator, dtype=torch.float64)
    z, order = (X @ a).sort()
    gaps = z.diff()
    # a dot product of d terms is off by at most d eps Σ_k |a_k x_k|
    rounding = 2 * d * torch.finfo(torch.float64).eps * float((X.abs() @ a.abs()).max())
    if n > 1 and gaps.min() <= rounding:
        i, j = sorted(order[int(gaps.argmin()) :][:2].tolist())
        raise ValueError(
            f"rows {i} and {j} of X are too close for the precision: their projections differ by "
            f"{float(gaps.min()):.2g}, and rounding makes up to {rounding:.2g} (try another generator)"
        )
    # b_j at z_{j-1}: f is straight from sample to sample, and w_j is a difference of neighbouring slopes. The theorem
    # allows every b_j between z_{j-1} and z_j, but a unit that starts later has less room to undo what the earlier
    # ones have added: beyond the middle of the gaps the weights grow exponentially from sample to sample.
    first = z[:1] - (gaps.mean() if n > 1 else 1.0)
    b = torch.cat([first, z[:-1]])
    A = torch.relu(z[:, None] - b)
    w = torch.linalg.solve_triangular(A, y[order, None], upper=False)[:, 0]
    return a, b, w


def _check_distinct(X: Tensor) -> None:
    """ValueError that names two equal rows of X (n, d), if there are any."""
    distinct, group, count = torch.unique(X, dim=0, return_inverse=True, return_counts=True)
    if len(distinct) < len(X):
        i, j = (group == count.argmax()).nonzero()[:2, 0].tolist()
        raise ValueError(f"rows {i} and {j} of X are equal, and the theorem is about distinct samples (drop one)")
