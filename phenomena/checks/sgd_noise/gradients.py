"""Checks of the SGD-noise lab: the gradient of each sample, and the covariance of a batch's."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations, product

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import Wrong, check, compare, of_kind, samples, tolerance
from phenomena.checks.sgd_noise.shared import Mistakes

# 2: one gradient for each sample


def _loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of two hidden units on ONE sample x (3,), y (); theta (8,)."""
    if x.shape != (3,) or y.shape != () or theta.shape != (8,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (theta, x, y))
        raise ValueError(f"the loss takes theta (p,) and ONE sample, x (d,) and y (), but the shapes are {shapes}")
    return (theta[6:] @ torch.tanh(theta[:6].view(2, 3) @ x) - y) ** 2 / 2


def _differences(theta: Tensor, X: Tensor, y: Tensor, by_inputs: bool = False) -> np.ndarray:
    """Central differences of each sample's loss by theta (n, p), or by its inputs (n, d), in float64."""
    rows = []
    for x, target in zip(X.double(), y.double(), strict=True):
        at = x if by_inputs else theta.double()
        steps = 1e-5 * torch.eye(len(at), dtype=torch.float64)
        ends = [
            [_loss(theta.double(), end, target) if by_inputs else _loss(end, x, target) for end in (at + s, at - s)]
            for s in steps
        ]
        rows.append([float(up - down) / 2e-5 for up, down in ends])
    return np.array(rows)


@check(2, minutes=10, praise="a gradient for each sample at once. Next: how much do they disagree?")
def sample_gradients(answer: Callable[..., Tensor]) -> None:
    """The oracle takes differences, sample by sample and parameter by parameter."""
    for name, theta, X, y, want, by_inputs in _samples():
        got = of_kind(answer(_loss, theta, X, y), X)
        if got.shape == theta.shape:
            raise Wrong("that is one gradient for all samples: the contract says one for each, a row a sample.")
        if got.shape == by_inputs.shape:
            raise Wrong("these have the shape of X: the gradients are by theta, not by the inputs.")
        if got.shape == y.shape:
            raise Wrong("one number for each sample, as the losses are: a gradient has p.")
        n = len(X)
        mistakes: Mistakes = [
            (want.mean(0) + 0 * want, "every row is the mean gradient: each sample has one of its own."),
            (want.sum(0) + 0 * want, "every row is the sum of all gradients: each sample has one of its own."),
            (want / n, "too small by 1/n: a row is the gradient of one sample's loss, not its part of the mean."),
            (want.cumsum(0), "each row holds those before it too: `.grad` adds up what `backward` finds."),
            (want - want.mean(0), "the mean is subtracted: the contract says the gradients themselves."),
            (want[:1] + 0 * want, "every row is the gradient of the first sample."),
            (want[-1:] + 0 * want, "every row is the gradient of the last sample."),
        ]
        compare(got, want, mistakes, name, tolerance(X))


@cache  # the differences are always the same
def _samples() -> list[tuple[str, Tensor, Tensor, Tensor, np.ndarray, np.ndarray]]:
    rng = torch.Generator().manual_seed(2)
    found = []
    for name, X in samples(5, 3, rng):
        theta, y = torch.randn(8, generator=rng).to(X), torch.randn(len(X), generator=rng).to(X)
        found.append((name, theta, X, y, _differences(theta, X, y), _differences(theta, X, y, by_inputs=True)))
    return found


# 3: the covariance of a batch's gradient


def _batches() -> Iterator[tuple[str, Tensor, int, bool]]:
    rng = torch.Generator().manual_seed(3)
    G = torch.randn(5, 3, generator=rng, dtype=torch.float64) + torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    yield "batches of 2 out of 5, with replacement", G, 2, True
    yield "batches of 2 out of 5, without replacement", G, 2, False
    yield "batches of 4 out of 5, without replacement", G, 4, False
    yield "batches of 4 out of 5, with replacement", G, 4, True
    yield "batches of 3 out of 4, float32", G[:4].float(), 3, False
    yield "batches of 6 out of 4, with replacement", G[:4], 6, True
    yield "batches of 1, without replacement", G, 1, False
    yield "batches of 5 out of 5, with replacement", G, 5, True


def _enumerated(G: np.ndarray, B: int, replacement: bool) -> np.ndarray:
    """The covariance over all batches that there are, each as likely as the others."""
    drawn = product(range(len(G)), repeat=B) if replacement else permutations(range(len(G)), B)
    means = np.array([G[list(batch)].mean(0) for batch in drawn])
    return np.cov(means.T, bias=True)


@check(3, minutes=10, praise="exact for every batch size. Next: how fast does the noise fall with B?")
def batch_covariance(answer: Callable[..., Tensor]) -> None:
    """The oracle forms every batch that there is."""
    for name, G, B, replacement in _batches():
        got = of_kind(answer(G, B, replacement), G)
        g = G.double().numpy()
        n, one, second = len(g), np.cov(g.T, bias=True), g.T @ g / len(g)
        if got.shape == (n, n):
            raise Wrong("samples by samples: the contract says parameters by parameters.")
        want = _enumerated(g, B, replacement)
        factor = want[0, 0] / one[0, 0]  # of the batch's to one sample's
        mistakes: Mistakes = [
            (factor * second, "not centred: the mean gradient is no noise."),
            (one, "that is one sample's: the mean of B is less noisy."),
            (B**2 * want, "that is the noise of the sum over a batch: its gradient is the mean."),
            (want / B, "divided by B once too often: variances of independent draws add up."),
            (factor * (g - g.mean()).T @ (g - g.mean()) / n, "one mean for all parameters: each has its own."),
            (want * n / (n - 1), "1/(n - 1): the n samples are not a sample, they are all there is."),
            (
                one / B * (1 - B / n),
                "a factor of (n - 1)/n is off: a batch of 1 must have the noise of one sample.",
            ),
            (np.diag(np.diag(want)), "only the variances: the parameters' noises are correlated."),
            (np.sqrt(np.abs(want)), "these are roots: a covariance has the square of the gradient's unit."),
        ]
        if n >= B:
            other = f"that is the noise of a draw with{'out' * replacement} replacement."
            mistakes.append((_enumerated(g, B, not replacement), other))
        else:
            mistakes.append((one / n, f"with replacement a batch of {B} out of {n} is another than one of {n}."))
        compare(got, want, mistakes, name, tolerance(G))
    full = of_kind(answer(G, len(G), False), G)
    if full.shape != (G.shape[1],) * 2 or not float(full.abs().max()) < 1e-9:
        raise Wrong("noise in the full batch: drawn without replacement it is always the same.")
