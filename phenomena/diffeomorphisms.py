"""Diffeomorphisms of maximum entropy in one and two dimensions (Petrini, Favero, Geiger & Wyart 2021, Section 2).

An image x(s), s in [0, 1]^D, becomes [τx](s) = x(s - τ(s)). Every component of τ is an independent sine series

    τ_u(s) = Σ C_ij sin(iπu) sin(jπv),   C_ij ~ N(0, T / (i² + j²)),   i² + j² <= c²         (their Eq. 2)

(Σ_i C_i sin(iπu), i <= c in one dimension): of all fields with a given mean of ‖∇τ‖², the one of largest entropy. T
is the temperature, c the cut-off. The sines keep the frame fixed. Pixel k of n lies at k/(n-1), so that the first
and the last lie on the frame, and all displacements are in pixels: (n-1) τ.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor


def spectrum(axes: int, cut: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Variance of C at T = 1, (cut,) or (cut, cut): 1 / (i² + j²), and 0 for i² + j² > c² (the cut-off is round)."""
    if axes not in (1, 2):
        raise ValueError(f"diffeomorphisms here have 1 or 2 axes, not {axes}: give shape (L,) or (H, W)")
    if cut < axes:  # the first mode of two axes, i = j = 1, has i² + j² = 2 > 1
        raise ValueError(f"the cut-off must be a whole number of at least {axes} for {axes} axes, not {cut}")
    k2 = torch.arange(1, cut + 1, dtype=dtype) ** 2
    r2 = k2 if axes == 1 else k2[:, None] + k2
    return torch.where(r2 <= cut**2, 1 / r2, 0)


def square_displacement(shape: Sequence[int], cut: int, *, centre: bool = False) -> float:
    """δ²/T, exact: δ² = E|(n-1) τ|², the mean over the pixels of an image of `shape` of the squared displacement.

    A squared sine averages (n-1)/2n over the n pixels, so that δ² = 2 T (n-1)² ((n-1)/2n)² Σ 1/(i² + j²). With
    `centre`, δ² is taken in the middle of the image, as the paper defines it: only odd i, j are left, with sin² = 1.
    Both tend to the paper's (π/4) n² T ln c (Eq. 3) as c and n grow; at c = 3, δ by Eq. 3 is 1.3 times the exact one.
    """
    power = spectrum(len(shape), cut)
    if cut > min(shape) - 2:
        raise ValueError(f"a side of {min(shape)} pixels carries modes up to {min(shape) - 2}, not cut = {cut}")
    if centre:
        share, power = 1.0, power[(slice(None, None, 2),) * len(shape)]
    else:
        share = math.prod((n - 1) / (2 * n) for n in shape)
    return share * float(power.sum()) * sum((n - 1) ** 2 for n in shape)


def temperature(delta: float, shape: Sequence[int], cut: int, *, centre: bool = False) -> float:
    """T at which the root mean square displacement is `delta` pixels: exact, by `square_displacement`."""
    if not delta >= 0:
        raise ValueError(f"the displacement must be 0 or more pixels, not {delta}")
    return delta**2 / square_displacement(shape, cut, centre=centre)


def temperature_range(shape: Sequence[int], cut: int) -> tuple[float, float]:
    """T from which τ is visible (δ = 1/2 pixel) to that up to which about half of the draws or more are one to one.

    The paper asks for E‖∇τ‖² << 1, that is T << 8 / (π³ c²) (Section 2.2). E‖∇τ‖² = π² T N / 2 exactly, N modes a
    component, N → π c² / 4 in two dimensions. The upper end is E‖∇τ‖² = 1 / (2 ln c), at most 1, as in the authors'
    code: the largest of about c² independent gradients grows with ln c. `is_diffeomorphism` checks a draw.
    """
    modes = int((spectrum(len(shape), cut) > 0).sum())
    return temperature(0.5, shape, cut), 2 / (math.pi**2 * modes) / max(1, 2 * math.log(cut))


def displacement(
    images: int,
    shape: Sequence[int],
    T: float,
    cut: int,
    generator: torch.Generator,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw `images` independent displacements of temperature T, in pixels: (images, 1, L) or (images, 2, H, W).

    Component 0 is along the first axis of `shape` (rows), component 1 along the second. Zero on the frame.
    """
    square_displacement(shape, cut)  # its errors
    if not T >= 0:
        raise ValueError(f"the temperature must be 0 or more, not {T}")
    axes = len(shape)
    std = (T * spectrum(axes, cut, dtype)).sqrt().to(generator.device)
    field = std * torch.randn(images, axes, *std.shape, generator=generator, dtype=dtype, device=generator.device)
    for n in shape:  # the sum over i, then over j: mode axis 2 becomes a pixel axis, the last
        position = torch.arange(n, dtype=dtype, device=field.device)[:, None] / (n - 1)
        sines = torch.sin(math.pi * position * torch.arange(1, cut + 1, device=field.device))
        sines[-1] = 0  # sin(kπ), without its rounding error
        field = torch.tensordot(field, sines, dims=([2], [1]))
    sides = torch.tensor([n - 1 for n in shape], dtype=dtype, device=field.device)
    return field * sides.view(axes, *[1] * axes)


def rescale(tau: Tensor, delta: float) -> Tensor:
    """Every draw (images, D, ...) scaled to a root mean square displacement over its pixels of exactly `delta`."""
    own = tau.square().sum(1).flatten(1).mean(1).sqrt()
    if not own.all():
        raise ValueError("a draw without displacement cannot be rescaled: draw at a temperature above 0")
    return tau * (delta / own).view(-1, *[1] * (tau.dim() - 1))


def warp(X: Tensor, tau: Tensor) -> Tensor:
    """[τX](s) = X(s - τ(s)) by linear or bilinear interpolation, in the dtype of X (n, C, L) or (n, C, H, W).

    tau (n, D, ...) is in pixels. Points outside the frame are moved onto it. Interpolation blurs: a shift by half
    a pixel averages two neighbours. |τx - x| has the blur in it, and so has the noise that is matched to it.
    """
    shape = X.shape[2:]
    if tau.shape != (len(X), len(shape), *shape):
        need = (len(X), len(shape), *shape)
        raise ValueError(f"X {tuple(X.shape)} needs displacements {need}, not {tuple(tau.shape)}")
    if min(shape) < 2:
        raise ValueError(f"every side must have at least 2 pixels to interpolate between, not {tuple(shape)}")
    if not X.is_floating_point() or X.dtype != tau.dtype:
        raise ValueError(f"X and its displacements must be of one floating type, not {X.dtype} and {tau.dtype}")
    low, part = [], []
    for axis, n in enumerate(shape):
        pixel = torch.arange(n, dtype=X.dtype, device=X.device).view(-1, *[1] * (len(shape) - 1 - axis))
        s = (pixel - tau[:, axis]).clamp(0, n - 1)
        low.append(s.long().clamp(max=n - 2))
        part.append(s - low[-1])
    pixels = X.flatten(2)
    out = torch.zeros_like(pixels)
    for corner in product((0, 1), repeat=len(shape)):
        index, weight = torch.zeros_like(low[0]), torch.ones_like(part[0])
        for axis, (n, upper) in enumerate(zip(shape, corner, strict=True)):
            index = index * n + low[axis] + upper
            weight = weight * (part[axis] if upper else 1 - part[axis])
        values = pixels.gather(2, index.flatten(1)[:, None].expand_as(pixels))
        out = out + weight.flatten(1)[:, None] * values
    return out.view_as(X)


def deform(X: Tensor, delta: float, cut: int, generator: torch.Generator, *, each: bool = False) -> Tensor:
    """Every image of X (n, C, L) or (n, C, H, W) under its own diffeomorphism, `delta` pixels in the root mean square.

    The mean is over pixels and draws (`temperature`), or over the pixels of each draw alone with `each`.
    """
    shape = X.shape[2:]
    tau = displacement(len(X), shape, temperature(delta, shape, cut), cut, generator, dtype=X.dtype).to(X.device)
    return warp(X, rescale(tau, delta) if each and delta else tau)


def is_diffeomorphism(tau: Tensor) -> Tensor:
    """(images,) bool: is s -> s - τ(s), τ (images, D, ...) in pixels, one to one? Exact for (bi)linear interpolation.

    One dimension: steps stay positive. Two: within a cell of four pixels the determinant of the Jacobian is linear
    in the coordinates, so positive if it is so in the corners; with the frame fixed this makes the map bijective.
    """
    if tau.dim() == 3:
        return (1 - tau[:, 0].diff() > 0).all(1)
    if tau.dim() != 4 or tau.shape[1] != 2:
        raise ValueError(f"displacements must be (images, 1, L) or (images, 2, H, W), not {tuple(tau.shape)}")
    d_row, d_col = -tau.diff(dim=2), -tau.diff(dim=3)  # of -τ, along the edges of the cells
    positive = torch.ones(len(tau), dtype=torch.bool, device=tau.device)
    for right, down in product((0, 1), repeat=2):  # a corner: the vertical and the horizontal edge that meet there
        v = d_row[:, :, :, 1:] if right else d_row[:, :, :, :-1]
        h = d_col[:, :, 1:] if down else d_col[:, :, :-1]
        determinant = (1 + v[:, 0]) * (1 + h[:, 1]) - v[:, 1] * h[:, 0]
        positive &= (determinant > 0).flatten(1).all(1)
    return positive
