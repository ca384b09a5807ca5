"""The recursion of `phenomena.convolutional_ntk` as loops that numba compiles; needs numba.

Sixteen images x' sit side by side in every number ("lanes"), so that the processor works on sixteen pairs at once. Per
pair of images and offset the pictures K and V = K̇ Θ + K are h x w x 16 numbers that stay in the cache, and each step is
one straight loop over them, without a branch. `maps` of an image are its C channels, then √Λ_xx / 3 and 1 / √Λ_xx of
each layer: cropped to the offset once, they serve every pair of a tile.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.polynomial import Polynomial, chebyshev
from numpy.typing import NDArray

LANES = 16
Array = NDArray[Any]


def arcsine(degree: int) -> NDArray[np.float64]:
    """Coefficients a_0.. of arcsin(y)/π ≈ y Σ a_k y^2k on 0 <= y <= √½, interpolated at Chebyshev points.

    Error 5e-9 for degree 7, 3e-16 for degree 17. No more is needed: beyond √½, arcsin y = π/2 - arcsin √(1 - y²).
    """

    def of(u: Any) -> Any:  # u = 4y² - 1 runs over [-1, 1]
        y = np.sqrt((u + 1) / 4)
        return np.arcsin(y) / (math.pi * y)

    fit = chebyshev.cheb2poly(chebyshev.chebinterpolate(of, degree))
    a = Polynomial(fit)(Polynomial([-1, 4])).coef
    return np.pad(a, (0, degree + 1 - len(a)))


def numbers(dtype: type) -> tuple[tuple[Any, ...], ...]:
    """What `tile` needs in its dtype, since a double among floats would make all of them doubles.

    The polynomial's even and odd coefficients, highest first, and the constants of the functions below.
    """
    a = arcsine(7 if dtype is np.float32 else 17)[::-1]
    near = 16 * np.finfo(dtype).eps
    return tuple(tuple(map(dtype, v)) for v in (a[1::2], a[::2], (0, 0.5, 1, 1 / math.pi, 1 / 9, near)))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call and keep it on disk, or in memory only where nothing can be written."""
    # Contraction is the fused multiply-add; no NaN (`cntk` has checked) makes minimum and square root one instruction.
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz", "nnan", "ninf"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@compiled
def expand(maps: Array, i0: int, j0: int, h: int, w: int, out: Array) -> None:
    """The crop of an image's maps (M, H, W), each number in all lanes: out (M, h w LANES)."""
    for k in range(maps.shape[0]):
        for i in range(h):
            for j in range(w):
                value = maps[k, i + i0, j + j0]
                for lane in range(LANES):
                    out[k, (i * w + j) * LANES + lane] = value


@compiled
def crop(maps: Array, i0: int, j0: int, h: int, w: int, out: Array) -> None:
    """The crop of sixteen images' maps (M, H, W, LANES): out (M, h w LANES)."""
    for k in range(maps.shape[0]):
        for i in range(h):
            for j in range(w):
                for lane in range(LANES):
                    out[k, (i * w + j) * LANES + lane] = maps[k, i + i0, j + j0, lane]


@compiled
def products(x: Array, z: Array, channels: int, K: Array) -> None:
    """K⁰ = <x_ij, x'_i'j'>, the sum over channels."""
    for q in range(K.shape[0]):
        K[q] = x[0, q] * z[0, q]
    for c in range(1, channels):
        for q in range(K.shape[0]):
            K[q] += x[c, q] * z[c, q]


@compiled
def patch_sum(K: Array, row: Array, out: Array) -> None:
    """S: K (h + 2, w LANES), its first and last row zero; row ((w + 2) LANES,), its first and last number zero."""
    h, p = out.shape
    for i in range(h):
        for q in range(p):
            row[q + LANES] = K[i, q] + K[i + 1, q] + K[i + 2, q]
        for q in range(p):
            out[i, q] = row[q] + row[q + LANES] + row[q + 2 * LANES]


@compiled
def κ0_and_sine(c: float, even: tuple, odd: tuple, constants: tuple) -> tuple[float, float]:
    """κ0 = 1 - arccos(c)/π = 1/2 + arcsin(c)/π, and v = √(1 - c²), by one square root and one polynomial."""
    zero, half, one, _, _, near = constants
    v2 = one - c * c
    v = math.sqrt(v2 if v2 > near else zero)  # κ0 is infinitely steep at c = 1: see convolutional_ntk
    y = min(abs(c), v)
    t = y * y
    u = t * t
    p_even, p_odd = even[0], odd[0]
    for i in range(1, len(even)):
        p_even = p_even * u + even[i]
        p_odd = p_odd * u + odd[i]
    a = (p_even + p_odd * t) * y
    a = a if abs(c) < v else half - a
    return half + (a if c > zero else -a), v


@compiled
def relu(
    Λ: Array, Θ: Array, x: Array, z: Array, k: int, even: tuple, odd: tuple, constants: tuple, K: Array, V: Array
) -> None:
    """K = √(Λ_xx Λ_x'x') κ1(c) / 9 and V = κ0(c) Θ / 9 + K; maps k and k + 1 are √Λ_xx / 3 and 1 / √Λ_xx."""
    _, _, _, over_pi, ninth, _ = constants
    for q in range(Λ.shape[0]):
        c = Λ[q] * (x[k + 1, q] * z[k + 1, q])
        κ0, v = κ0_and_sine(c, even, odd, constants)
        value = (x[k, q] * z[k, q]) * (c * κ0 + v * over_pi)
        K[q] = value
        V[q] = (κ0 * ninth) * Θ[q] + value


@compiled
def add(V: Array, row: Array, total: Array) -> None:
    """Sum of V (h + 2, w LANES) over positions, without the rows of zeros, added to the doubles total (LANES,)."""
    h, p = V.shape[0] - 2, V.shape[1]
    for q in range(p):
        row[q] = V[1, q]
    for i in range(1, h):
        for q in range(p):
            row[q] += V[i + 1, q]
    for j in range(p // LANES):
        for lane in range(LANES):
            total[lane] += row[j * LANES + lane]


@compiled
def tile(
    X: Array, Z: Array, depth: int, offsets: Array, even: tuple, odd: tuple, constants: tuple, total: Array
) -> None:
    """Sum over positions of Θ^(L) for the maps X (n, M, H, W) and Z (m, M, H, W, LANES): doubles total (n, m, LANES).

    offsets (O, 2) are the pairs (i' - i, j' - j).
    """
    n, M, H, W = X.shape
    channels = M - 2 * depth
    size = H * W * LANES
    x_maps, z_maps = np.empty((n, M, size), X.dtype), np.empty((Z.shape[0], M, size), X.dtype)
    Λ_all, Θ_all, sums = np.empty(size, X.dtype), np.empty(size, X.dtype), np.empty(size, X.dtype)
    row = np.empty((W + 2) * LANES, X.dtype)
    K_all, V_all = np.empty((H + 2) * W * LANES, X.dtype), np.empty((H + 2) * W * LANES, X.dtype)
    total[:] = 0
    for o in range(offsets.shape[0]):
        a, b = offsets[o]
        h, w = H - abs(a), W - abs(b)
        p = w * LANES
        i0, j0 = max(0, -a), max(0, -b)
        for i in range(n):
            expand(X[i], i0, j0, h, w, x_maps[i])
        for j in range(Z.shape[0]):
            crop(Z[j], i0 + a, j0 + b, h, w, z_maps[j])
        K, V = K_all[: (h + 2) * p].reshape(h + 2, p), V_all[: (h + 2) * p].reshape(h + 2, p)
        K[0], K[h + 1], V[0], V[h + 1] = 0, 0, 0, 0
        row[:LANES] = 0
        row[p + LANES : p + 2 * LANES] = 0
        K_flat, V_flat, Λ_flat, Θ_flat = K_all[p : (h + 1) * p], V_all[p : (h + 1) * p], Λ_all[: h * p], Θ_all[: h * p]
        Λ, Θ = Λ_flat.reshape(h, p), Θ_flat.reshape(h, p)
        for i in range(n):
            for j in range(Z.shape[0]):
                x, z = x_maps[i], z_maps[j]
                products(x, z, channels, K_flat)
                patch_sum(K, row, Λ)
                relu(Λ_flat, Λ_flat, x, z, channels, even, odd, constants, K_flat, V_flat)  # Θ⁰ = Λ¹
                for layer in range(1, depth):
                    patch_sum(K, row, Λ)
                    patch_sum(V, row, Θ)
                    relu(Λ_flat, Θ_flat, x, z, channels + 2 * layer, even, odd, constants, K_flat, V_flat)
                add(V, sums, total[i, j])
