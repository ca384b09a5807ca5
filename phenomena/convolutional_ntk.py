"""The exact neural tangent kernel of an infinitely wide convolutional ReLU network (Arora et al. 2019).

Depth L convolutions of 3 x 3 with zero padding. For two images x, x' and positions ij, i'j',

    K⁰ = <x_ij, x'_i'j'>,    S(A) = sum of A over the 9 shifts of ij and i'j' together,    Λ¹ = Θ⁰ = S(K⁰),
    K = (c_σ/9) E[σ(u)σ(v)] = √(Λ_xx Λ_x'x') κ1(c) / 9,    K̇ = (c_σ/9) E[σ̇(u)σ̇(v)] = κ0(c) / 9,
    Λ ← S(K),    Θ ← S(K̇ Θ + K)    with    (u, v) ~ N(0, Λ),    c = Λ / √(Λ_xx Λ_x'x'),    c_σ = 2,

and the last layer without S. Both positions shift together, so the offset (i' - i, j' - j) never changes: the recursion
falls apart into one small picture for each of the (2H - 1)(2W - 1) offsets. The kernel without pooling is the sum over
the picture of offset (0, 0) alone; the kernel with global average pooling is the mean over all of them.
"""

import math
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor
from tqdm.auto import tqdm


@torch.no_grad()
def cntk(
    X: Tensor,
    Z: Tensor | None = None,
    depth: int = 3,
    gap: bool = False,
    *,
    chunk: int | None = None,
    progress: bool = False,
    engine: str = "auto",
) -> Tensor:
    """Exact convolutional NTK (n, n') of images X (n, C, H, W) and Z (n', C, H, W), or of X with itself.

    depth counts the convolutions; gap pools their outputs by the global average before the last weights, else every
    position has its own. All weights N(0, 1), c_σ = 2, as in `phenomena.wide.ntk_cnn`. In X's dtype (float32 or
    float64) and on its device; chunk is the number of pairs at once, by default from the memory that is free.

    Raises ValueError for other shapes, dtypes or numbers. Arora et al. 2019, Section 4.
    """
    _check(X, Z, depth, chunk, engine)
    return _by_torch(X, Z, depth, gap, chunk, progress)


def _check(X: Tensor, Z: Tensor | None, depth: int, chunk: int | None, engine: str) -> None:
    for name, A in (("X", X),) if Z is None else (("X", X), ("Z", Z)):
        if A.ndim != 4 or 0 in A.shape:
            raise ValueError(f"cntk needs {name} of shape (n, C, H, W), none of them 0, got {tuple(A.shape)}")
        if A.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"cntk computes in float32 or float64, and {name} is {A.dtype}: convert it first")
        if not A.isfinite().all():
            raise ValueError(f"cntk needs finite images, and {name} holds NaN or infinity")
    if Z is not None and (X.shape[1:] != Z.shape[1:] or X.dtype != Z.dtype or X.device != Z.device):
        raise ValueError(
            "cntk needs X and Z alike, got "
            f"{tuple(X.shape[1:])}, {X.dtype}, {X.device} and {tuple(Z.shape[1:])}, {Z.dtype}, {Z.device}"
        )
    if depth < 1:
        raise ValueError(f"cntk needs depth >= 1 convolution, got {depth}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"cntk needs chunk >= 1 pair, got {chunk}")
    if engine not in ("auto", "torch", "numba"):
        raise ValueError(f'the engines of cntk are "auto", "torch" and "numba", not {engine!r}')


def variances(X: Tensor, depth: int) -> Tensor:
    """Λ_xx^(h)_{ij,ij} of every image (n, C, H, W), layer h = 1..depth and position: (depth, H, W, n).

    For a ReLU, κ1(1) = 1 and K_xx = Λ_xx/9: a layer averages the variance over each position's neighbours.
    """
    layers = [_S((X**2).sum(1).permute(1, 2, 0))]
    for _ in range(depth - 1):
        layers.append(_S(layers[-1] / 9))
    return torch.stack(layers)


def offsets(H: int, W: int, gap: bool) -> list[tuple[int, int]]:
    """The offsets (i' - i, j' - j) that the kernel needs: only (0, 0) without global average pooling."""
    return [(a, b) for a in range(1 - H, H) for b in range(1 - W, W)] if gap else [(0, 0)]


def _S(A: Tensor) -> Tensor:
    """Sum over the 9 shifts, outside zero: 3 rows, then 3 columns; A (H, W, ...)."""
    for dim in (0, 1):
        n = A.shape[dim]
        total = A.clone()
        total.narrow(dim, 1, n - 1).add_(A.narrow(dim, 0, n - 1))
        total.narrow(dim, 0, n - 1).add_(A.narrow(dim, 1, n - 1))
        A = total
    return A


def _by_torch(X: Tensor, Z: Tensor | None, depth: int, gap: bool, chunk: int | None, progress: bool) -> Tensor:
    P = X.shape[2] * X.shape[3]
    side = max(1, math.isqrt(chunk or _free_pairs(X, P)))
    kernel = X.new_empty(len(X), len(X if Z is None else Z))
    s_x = variances(X, depth).sqrt()
    s_z = s_x if Z is None else variances(Z, depth).sqrt()
    tiles = list(_tiles(len(kernel), kernel.shape[1], side, Z is None))
    for rows, columns in tqdm(tiles, desc="CNTK", disable=not progress):
        tile = _tile(X[rows], (X if Z is None else Z)[columns], s_x[..., rows], s_z[..., columns], gap)
        kernel[rows, columns] = tile / P**2 if gap else tile
    return _mirrored(kernel) if Z is None else kernel


def _tiles(n: int, m: int, side: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Squares of side x side pairs that cover the kernel, or its upper triangle."""
    for i in range(0, n, side):
        for j in range(i if symmetric else 0, m, side):
            yield slice(i, min(i + side, n)), slice(j, min(j + side, m))


def _mirrored(kernel: Tensor) -> Tensor:
    return kernel.triu() + kernel.triu(1).mT


def _tile(X: Tensor, Z: Tensor, s_x: Tensor, s_z: Tensor, gap: bool) -> Tensor:
    """Sum over positions of Θ^(L), (n, n'); s_x and s_z (L, H, W, n) are the standard deviations √Λ_xx."""
    H, W = X.shape[2:]
    total = X.new_zeros(len(X), len(Z))
    x, z = X.permute(2, 3, 0, 1), Z.permute(2, 3, 1, 0)
    for a, b in offsets(H, W, gap):
        # Where both ij and i'j' = ij + (a, b) lie in their images; outside, zero padding makes everything zero.
        here = slice(max(0, -a), H - max(0, a)), slice(max(0, -b), W - max(0, b))
        there = slice(max(0, a), H - max(0, -a)), slice(max(0, b), W - max(0, -b))
        Λ = _S(x[here] @ z[there])  # (H - |a|, W - |b|, n, n')
        Θ = Λ
        for h in range(len(s_x)):
            s = s_x[h][here][..., :, None] * s_z[h][there][..., None, :]
            # A black patch has s = 0, and then Λ = Θ = 0: any finite c will do.
            c = (Λ / s.clamp_min(torch.finfo(s.dtype).tiny)).clamp_(-1, 1)
            κ0 = 1 - c.arccos() / math.pi
            K = s * (c * κ0 + (1 - c**2).sqrt() / math.pi) / 9
            Θ = κ0 * Θ / 9 + K
            if h + 1 < len(s_x):
                Λ, Θ = _S(K), _S(Θ)
        total += Θ.sum((0, 1))
    return total


def _free_pairs(X: Tensor, P: int) -> int:
    """How many pairs to hold at once: about ten pictures of a pair are alive, in at most half of what is free."""
    on_gpu = X.device.type == "cuda"
    free = torch.cuda.mem_get_info(X.device)[0] if on_gpu else psutil.virtual_memory().available
    most = 2**30 if on_gpu else 2**21  # bytes of a picture; on a CPU larger ones only leave the cache
    return max(1, int(min(free / 20, most)) // (P * X.element_size()))
