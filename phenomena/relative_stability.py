"""Is a function stable to diffeomorphisms, or merely to everything? (Petrini, Favero, Geiger & Wyart 2021, Section 3)

    D_f = <|f(τx) - f(x)|²> / <|f(x) - f(z)|²>        stability to diffeomorphisms τ, x and z two images of the test set
    G_f = <|f(x + η) - f(x)|²> / <|f(x) - f(z)|²>     stability to isotropic noise η of the same norm
    R_f = D_f / G_f                                   relative stability: below 1, f has learned the diffeomorphisms

Small is stable. The identity has R_f = 1, and so has, on average over random weights, a linear f.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from phenomena.errors import Diverged


class Stability(NamedTuple):
    """D_f, G_f and R_f = D_f / G_f, without unit."""

    D: float
    G: float
    R: float


def matched_noise(X: Tensor, deformed: Tensor, generator: torch.Generator) -> Tensor:
    """x + η with η uniform on the sphere of radius |τx - x|, for each image x of X (n, ...) and its τx.

    The paper matches the mean norm; the authors' code matches it per image, as here. Interpolation error in τx is
    part of the norm. Take a generator of its own: with the seed that drew a network's weights, the noise repeats the
    weights of the first layer, and G_f comes out several times too large.
    """
    eta = torch.randn(X.shape, generator=generator, dtype=X.dtype, device=generator.device).to(X.device)
    radius = (deformed - X).flatten(1).norm(dim=1) / eta.flatten(1).norm(dim=1)
    return X + radius.view(-1, *[1] * (X.dim() - 1)) * eta


@torch.no_grad()
def relative_stability(
    f: Callable[[Tensor], Tensor],
    X: Tensor,
    deformed: Tensor,
    generator: torch.Generator,
    *,
    average: Literal["mean", "median"] = "mean",
) -> Stability:
    """D_f, G_f and R_f over the images X (n, ...) and `deformed`, the same images under a diffeomorphism each.

    f maps (n, ...) to (n, ...), a network in its evaluation mode. <·> over images, and over pairs x ≠ z, is the mean or
    the median; the paper allows both. (The authors' code takes the median of each output, then sums over outputs.)
    ValueError where there is nothing to divide by, Diverged where f is not finite.
    """
    if X.shape != deformed.shape or len(X) < 2:
        raise ValueError(f"X {tuple(X.shape)} and deformed {tuple(deformed.shape)} must be alike, of 2 or more images")
    if average not in ("mean", "median"):
        raise ValueError(f"average must be 'mean' or 'median', not {average!r}")
    here = f(X).flatten(1)
    to_deformed = (f(deformed).flatten(1) - here).square().sum(1)
    to_noisy = (f(matched_noise(X, deformed, generator)).flatten(1) - here).square().sum(1)
    if average == "mean":  # over pairs, the mean is twice the variance: no need of n² distances
        D, G, pairs = to_deformed.mean(), to_noisy.mean(), 2 * here.var(0).sum()
    else:
        D, G, pairs = to_deformed.median(), to_noisy.median(), torch.nn.functional.pdist(here).square().median()
    if not (D.isfinite() and G.isfinite() and pairs.isfinite()):
        raise Diverged("the function's outputs are not finite")
    if pairs == 0 or G == 0:
        what = "gives every image the same output" if pairs == 0 else "does not see the noise: was X deformed at all?"
        raise ValueError(f"relative stability is 0/0: the function {what}")
    return Stability(float(D / pairs), float(G / pairs), float(D / G))
