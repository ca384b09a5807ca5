"""Randomized smoothing: a classifier that provably does not change its mind (Cohen, Rosenfeld & Kolter 2019).

Any classifier f makes a smoothed one, g(x) = argmax_c P(f(x + ε) = c) with ε ~ N(0, σ²I). Theorem 1: if its class has
the probability p_A > 1/2, then g(x + δ) = g(x) for every δ with ‖δ‖₂ < R = σ Φ⁻¹(p_A), and no better R holds for all f.
Here p_A is bounded by counting votes, so a certificate is right with probability 1 - α, over the draws of the noise.
"""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from phenomena.errors import Diverged

ABSTAIN = -1

Classifier = Callable[[Tensor], Tensor]  # inputs (m, ...) -> scores (m, C)


class GaussianNoise(nn.Module):
    """Add N(0, σ²) to each input, in training mode only: the first layer of a network that is to be smoothed.

    nn.Sequential(GaussianNoise(σ, generator), *network) trains on noise of the σ that it will meet (Section 3.3).
    """

    def __init__(self, sigma: float, generator: torch.Generator) -> None:
        super().__init__()
        self.sigma, self.generator = sigma, generator

    def forward(self, X: Tensor) -> Tensor:
        """X + σ ε with fresh ε in training mode, X itself otherwise."""
        if not self.training:
            return X
        return X + self.sigma * torch.randn(X.shape, generator=self.generator, dtype=X.dtype, device=X.device)


@torch.inference_mode()
def votes(
    model: Classifier, X: Tensor, sigma: float, n: int, generator: torch.Generator,
    *, shared: bool = False, batch: int = 256, progress: bool = False,
) -> Tensor:  # fmt: skip
    """How often f(x + ε) = c in n draws of ε ~ N(0, σ²I): (images, C) int64, for X (images, ...).

    The noise is drawn image by image, draw by draw: the generator's next normals, on the CPU in the same order whatever
    the batch if the size of x is a multiple of 16. shared: all images get the same n draws, those that the first gets
    otherwise, and an image's votes do not depend on its company. It saves the time to draw (a third, for `small_cnn`);
    each image's votes keep their law, but those of two images are no longer independent. The generator lives on X's
    device. ValueError: σ < 0, a network in training mode that adds noise of its own. Diverged: scores not finite.
    """
    if sigma < 0:
        raise ValueError(f"the noise needs sigma >= 0, not {sigma}")
    if isinstance(model, nn.Module) and any(isinstance(m, GaussianNoise) and m.training for m in model.modules()):
        raise ValueError("the network adds noise of its own: call its eval() before it is smoothed")
    counts = torch.zeros(len(X), model(X[:1]).shape[-1], dtype=torch.int64, device=X.device)
    noise, noisy = (torch.empty(min(batch, n), *X.shape[1:], dtype=X.dtype, device=X.device) for _ in range(2))
    groups, starts = torch.arange(len(X)).split(len(X) if shared else 1), range(0, n, batch)
    steps = tqdm(product(groups, starts), f"sigma {sigma:g}", len(groups) * len(starts), disable=not progress)
    for group, start in steps:
        m = min(batch, n - start)
        noise[:m].normal_(0, sigma, generator=generator)
        for i in group.tolist():
            scores = model(torch.add(X[i], noise[:m], out=noisy[:m]))
            if not scores.isfinite().all():
                raise Diverged(f"the classifier's scores of image {i} are not finite")
            counts[i] += torch.bincount(scores.argmax(-1), minlength=counts.shape[1])
    return counts


def lower_bound(k: ArrayLike, n: ArrayLike, alpha: float) -> NDArray:
    """Clopper-Pearson: the p for which P(Bin(n, p) >= k) = α, the α-quantile of Beta(k, n - k + 1); 0 for k = 0.

    float64, shaped as k and n together. One-sided: the true p lies below it with probability at most α, whatever it is.
    """
    k, n = np.broadcast_arrays(np.asarray(k, float), np.asarray(n, float))
    if not 0 < alpha < 1 or (k < 0).any() or (k > n).any() or (n < 1).any():
        raise ValueError(f"a bound needs 0 < alpha < 1 and 0 <= k <= n, n >= 1; got alpha = {alpha}, k = {k}, n = {n}")
    return np.where(k > 0, stats.beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def radius(p: ArrayLike, sigma: float) -> NDArray:
    """R = σ Φ⁻¹(p) in the units of x, 0 for p <= 1/2 (Theorem 1, with p̲_A = p and p̄_B = 1 - p)."""
    return sigma * stats.norm.ppf(np.maximum(np.asarray(p, float), 0.5))


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """σ Φ⁻¹(α^(1/n)): what n votes out of n certify. No n draws can certify more (Section 3.2.2)."""
    return float(radius(lower_bound(n, n, alpha), sigma))


def decision(counts: Tensor, alpha: float) -> Tensor:
    """The class of most votes in counts (images, C), or ABSTAIN: (images,) int64.

    Abstains unless a two-sided binomial test at level α tells the top two classes apart. A class that is not the most
    probable one comes out with probability at most α (Cohen et al. 2019, Proposition 1; the test is Hung & Fithian's).
    """
    top, label = counts.topk(2)
    k_A, both = top[:, 0].cpu().numpy(), top.sum(1).cpu().numpy()
    p_value = 2 * stats.binom.sf(k_A - 1, both, 0.5)  # by symmetry; k_A is the larger of the two
    return torch.where(torch.from_numpy(p_value).to(label.device) <= alpha, label[:, 0], ABSTAIN)


def predict(
    model: Classifier, X: Tensor, sigma: float, n: int, alpha: float, generator: torch.Generator,
    *, shared: bool = False, batch: int = 256, progress: bool = False,
) -> Tensor:  # fmt: skip
    """g(x) or ABSTAIN for each image of X (images, ...), (images,) int64: PREDICT of Cohen et al. 2019, Section 3.2.1.

    n draws as in `votes`, decided as in `decision`: another class than g(x) comes out with probability at most α.
    """
    return decision(votes(model, X, sigma, n, generator, shared=shared, batch=batch, progress=progress), alpha)


class Certificates(NamedTuple):
    """For each image: g(x) = label in the open ball of the radius; `count` votes of n. Abstained: ABSTAIN, radius 0."""

    label: Tensor  # (images,) int64
    radius: Tensor  # (images,) float64, in units of x
    count: Tensor  # type: ignore[assignment]  # (images,) int64, 0 where it gave up
    n: int


def certificates(label: Tensor, count: Tensor, n: int, sigma: float, alpha: float) -> Certificates:
    """Certificates of labels (images,) chosen WITHOUT a look at the n draws that gave them `count` (images,) votes."""
    R = torch.from_numpy(radius(lower_bound(count.cpu().numpy(), n, alpha), sigma)).to(label.device)
    return Certificates(torch.where(R > 0, label, ABSTAIN), R, count, n)


def certify(
    model: Classifier, X: Tensor, sigma: float, n0: int, n: int, alpha: float, generator: torch.Generator,
    *, give_up: bool = False, shared: bool = False, batch: int = 256, progress: bool = False,
) -> Certificates:  # fmt: skip
    """Label and radius of each image: CERTIFY of Cohen et al. 2019, Section 3.2.2 (their Proposition 2).

    n0 draws choose the class of each image, then n fresh draws bound its probability. For each image, the probability
    of a label other than g(x) or of a radius too large is at most α. `shared` as in `votes`: then the errors of
    different images are not independent, which the paper's Theorem 6 on their number asks for.

    give_up: abstain without the n draws where the n0 draws already refute p_A >= 1/2 at level α. Abstaining is never
    wrong, so α stands; at most a fraction α of the images that could be certified is lost.
    """
    k0, label = votes(model, X, sigma, n0, generator, shared=shared, batch=batch).max(1)
    hopeful = torch.ones(len(X), dtype=torch.bool, device=X.device)
    if give_up:
        upper = 1 - lower_bound(n0 - k0.cpu().numpy(), n0, alpha)
        hopeful = torch.from_numpy(upper > 0.5).to(X.device)
    fresh = votes(model, X[hopeful], sigma, n, generator, shared=shared, batch=batch, progress=progress)
    count = torch.zeros_like(k0)
    count[hopeful] = fresh.gather(1, label[hopeful, None])[:, 0]
    return certificates(label, count, n, sigma, alpha)


def certified_accuracy(found: Certificates, y: Tensor, radii: Tensor) -> Tensor:
    """Share of images with the right label y (images,) and a radius of at least r, for each r of radii (m,): (m,)."""
    held = (found.label == y)[:, None] & (found.radius[:, None] >= radii.to(found.radius))
    return held.double().mean(0)
