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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
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
    σ_x = _deviations(X, depth)
    σ_z = σ_x if Z is None else _deviations(Z, depth)
    by_engine = _by_numba if engine == "numba" or (engine == "auto" and _has_numba(X)) else _by_torch
    kernel = X.new_empty(len(X), len(X if Z is None else Z))
    for rows, columns, block in by_engine(X, Z, σ_x, σ_z, gap, chunk, progress):
        kernel[rows, columns] = block
    if gap:
        kernel /= (X.shape[2] * X.shape[3]) ** 2
    return kernel if Z is not None else kernel.triu_().add_(kernel.triu(1).mT)


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


def _deviations(X: Tensor, depth: int) -> Tensor:
    """√Λ_xx of every layer, position and image: (depth, H, W, n) for X (n, C, H, W).

    c = 1 where x meets itself, and κ1(1) = 1, so K_xx = Λ_xx / 9: a layer only averages the variance of neighbours.
    """
    Λ = [_S((X**2).sum(1).permute(1, 2, 0))]
    for _ in range(depth - 1):
        Λ.append(_S(Λ[-1] / 9))
    if not Λ[0].isfinite().all():
        raise ValueError(f"cntk squares the images, and these overflow {X.dtype}: scale them down")
    return torch.stack(Λ).sqrt()


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


def _by_torch(
    X: Tensor, Z: Tensor | None, σ_x: Tensor, σ_z: Tensor, gap: bool, chunk: int | None, progress: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    side = max(1, math.isqrt(chunk or _pairs_that_fit(X)))
    columns_of = X if Z is None else Z
    n, m = len(X), len(columns_of)
    tall, wide = (math.ceil(k / math.ceil(k / side)) for k in (n, m))  # no thin tiles at the edges: they cost as much
    tiles = list(_tiles(n, m, tall, wide, Z is None))
    for rows, columns in tqdm(tiles, desc="CNTK", disable=not progress):
        yield rows, columns, _tile(X[rows], columns_of[columns], σ_x[..., rows], σ_z[..., columns], gap)


def _tiles(n: int, m: int, tall: int, wide: int, symmetric: bool, step: int = 1) -> Iterator[tuple[slice, slice]]:
    """Rectangles that cover the kernel, or at least its upper triangle; columns start at multiples of step."""
    for i in range(0, n, tall):
        for j in range(i // step * step if symmetric else 0, m, wide):
            yield slice(i, min(i + tall, n)), slice(j, min(j + wide, m))


def _tile(X: Tensor, Z: Tensor, σ_x: Tensor, σ_z: Tensor, gap: bool) -> Tensor:
    """Sum over positions of Θ^(L), for all pairs of a tile (n, n')."""
    H, W = X.shape[2:]
    depth, ε = len(σ_x), torch.finfo(X.dtype).eps
    total = X.new_zeros(len(X), len(Z))
    x, z = X.permute(2, 3, 0, 1), Z.permute(2, 3, 1, 0)
    for a, b in offsets(H, W, gap):
        # Where both ij and i'j' = ij + (a, b) lie in their images; outside, zero padding makes everything zero.
        here = slice(max(0, -a), H - max(0, a)), slice(max(0, -b), W - max(0, b))
        there = slice(max(0, a), H - max(0, -a)), slice(max(0, b), W - max(0, -b))
        Λ = _S(x[here] @ z[there])  # (H - |a|, W - |b|, n, n')
        Θ = Λ
        for h in range(depth):
            s = σ_x[h][here][..., :, None] * σ_z[h][there][..., None, :]
            # A black patch has s = 0, and then Λ = Θ = 0: any finite c will do.
            c = Λ / s.clamp_min(torch.finfo(s.dtype).tiny)
            # κ0 is infinitely steep at c = 1, where a rounding error of ε would cost √ε; 5ε were seen at depth 21.
            c = torch.where(c.abs() < 1 - 8 * ε, c, c.sign())
            κ0 = 1 - c.arccos() / math.pi
            κ1 = c * κ0 + (1 - c**2).sqrt() / math.pi
            K = s * κ1 / 9
            Θ = κ0 * Θ / 9 + K
            if h + 1 < depth:
                Λ, Θ = _S(K), _S(Θ)
        total += Θ.sum((0, 1))
    return total


def _pairs_that_fit(X: Tensor) -> int:
    """How many pairs to hold at once: about ten pictures of a pair are alive, in at most half of what is free."""
    on_gpu = X.device.type == "cuda"
    free = torch.cuda.mem_get_info(X.device)[0] if on_gpu else psutil.virtual_memory().available
    most = 2**30 if on_gpu else 2**21  # bytes of a picture; on a CPU larger ones only leave the cache
    return max(1, int(min(free / 20, most)) // (X.shape[2] * X.shape[3] * X.element_size()))


def _has_numba(X: Tensor) -> bool:
    try:
        from phenomena import cntk_loops  # noqa: F401
    except ImportError:
        return False
    return X.device.type == "cpu"


def _by_numba(
    X: Tensor, Z: Tensor | None, σ_x: Tensor, σ_z: Tensor, gap: bool, chunk: int | None, progress: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    if X.device.type != "cpu":
        raise ValueError(f'the numba engine computes on the CPU, and X is on {X.device}: say engine="torch"')
    try:
        from phenomena import cntk_loops as loops
    except ImportError as error:
        raise ValueError(
            f'engine="numba" needs numba ({error}): pip install "phenomena[fast]", or say engine="torch"'
        ) from error
    depth, H, W, n = σ_x.shape
    dtype = np.float32 if X.dtype == torch.float32 else np.float64
    even, odd, constants = loops.numbers(dtype)
    offset = np.array(offsets(H, W, gap))
    x_maps = _maps(X, σ_x).permute(3, 0, 1, 2).contiguous().numpy()
    m = len(X if Z is None else Z)
    z_maps = F.pad(_maps(X if Z is None else Z, σ_z), (0, -m % loops.LANES)).unflatten(-1, (-1, loops.LANES))
    z_maps = z_maps.permute(3, 0, 1, 2, 4).contiguous().numpy()
    threads = torch.get_num_threads()
    # A tile of 2b images and b times sixteen images, whose maps fit in half of the free memory for all threads.
    image = x_maps[0].size * loops.LANES * x_maps.itemsize
    fit = int(psutil.virtual_memory().available / 2 / threads / image)
    b = math.isqrt(chunk // (2 * loops.LANES)) if chunk else min(8, fit // 3)
    tall, wide = (2 * b, b * loops.LANES) if b else (1, loops.LANES)

    def compute(where: tuple[slice, slice]) -> tuple[slice, slice, Tensor]:
        rows, columns = where
        blocks = slice(columns.start // loops.LANES, -(-columns.stop // loops.LANES))
        total = np.empty((rows.stop - rows.start, blocks.stop - blocks.start, loops.LANES))
        loops.tile(x_maps[rows], z_maps[blocks], depth, offset, even, odd, constants, total)
        return rows, columns, torch.from_numpy(total).flatten(1)[:, : columns.stop - columns.start]

    tiles = list(_tiles(n, m, tall, wide, Z is None, loops.LANES))
    with tqdm(total=len(tiles), desc="CNTK", disable=not progress) as bar:
        for result in map(compute, tiles) if threads == 1 else _threaded(compute, tiles, threads):
            bar.update()
            yield result


def _maps(X: Tensor, σ: Tensor) -> Tensor:
    """C channels, then σ / 3 and 1 / σ of each layer (0 for a black patch): (C + 2 depth, H, W, n)."""
    pairs = torch.stack([σ / 3, torch.where(σ > 0, 1 / σ, 0)], 1).flatten(0, 1)
    return torch.cat([X.permute(1, 2, 3, 0), pairs])


def _threaded(function: Callable[[Any], Any], arguments: list[Any], threads: int) -> Iterator[Any]:
    """Results in order; the loops let go of Python's lock, so plain threads fill the cores."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(function, arguments)
    finally:
        pool.shutdown(cancel_futures=True)
