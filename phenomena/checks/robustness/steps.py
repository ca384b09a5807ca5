"""Checks of the robustness lab: one step uphill, and the way back into a ball."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from phenomena.checks import Wrong, check, compare, of_kind, samples, tolerance
from phenomena.checks.robustness.shared import OUTSIDE, Mistakes, lengths, losses, model_left_alone, networks, slopes

# 1: the fast gradient sign method


@check(1, minutes=10, praise="one gradient, one step. Next: look at what it did to a digit.")
def fgsm(answer: Callable[..., Tensor]) -> None:
    """The oracle takes the derivatives by differences, pixel by pixel."""
    for name, model, X, y, eps, want, mistakes in _first_steps():
        with model_left_alone(model):
            compare(of_kind(answer(model, X, y, eps), X), want, mistakes, name, tolerance(X))


@cache  # the differences are always the same
def _first_steps() -> Sequence[tuple[str, nn.Module, Tensor, Tensor, float, Tensor, Mistakes]]:
    """What the exercise is given, the right inputs, and what mistakes make of them."""
    found = []
    for name, model, X, y, eps in networks():
        x, f, double = X.double(), model(X).detach(), copy.deepcopy(model).double()
        g, likely, unlikely = (slopes(losses(model, labels), X) for labels in (y, f.argmax(1), f.argmin(1)))
        twice = slopes(losses(nn.Sequential(model, nn.Softmax(1)), y), X)
        own = -torch.stack([slopes(partial(_output, double, c), X) for c in range(f.shape[1])])[y, range(len(y))]
        up = x + eps * g.sign()
        mistakes: Mistakes = [
            ((x - eps * g.sign()).clamp(0, 1), "the loss falls: a step against the gradient helps the network."),
            *((value, OUTSIDE) for value in (up, up.clamp(min=0), up.clamp(max=1), up.clamp(-1, 1))),
            (x + (eps * g.sign()).clamp(0, 1), "the step is clipped, not the image: no pixel can become darker."),
            ((x + eps * g).clamp(0, 1), "the sign is missing: each pixel moves by ε, however small its derivative."),
            ((x + eps * g / lengths(g)).clamp(0, 1), "the whole step has length ε: here each pixel moves by ε."),
            ((x + eps * g / lengths(g, np.inf)).clamp(0, 1), "only the steepest pixel moves by ε: all of them do."),
            ((x + g.sign()).clamp(0, 1), "each pixel moves by 1: it is to be ε."),
            ((x + eps * (2.0 * (g > 0) - 1)).clamp(0, 1), "pixels that no filter sees move too: sign(0) is 0."),
            (eps * g.sign(), "that is the step alone: add it to X."),
            (
                (x + eps * own.sign()).clamp(0, 1),
                "that lowers the output of y alone: the loss has the others in it too.",
            ),
            ((x + eps * twice.sign()).clamp(0, 1), "a softmax too many: the cross-entropy has its own."),
            ((x + eps * likely.sign()).clamp(0, 1), "that is the loss at the predicted label: it is the one at y."),
            (
                (x - eps * unlikely.sign()).clamp(0, 1),
                "a step towards the least likely label: here it leads away from y.",
            ),
        ]
        found.append((name, model, X, y, eps, up.clamp(0, 1), mistakes))
    return found


def _output(model: nn.Module, c: int, X: Tensor) -> Tensor:
    return model(X)[:, c]


# 2: projection onto the l2 ball


def _perturbations() -> Iterator[tuple[str, Tensor, float]]:
    rng = torch.Generator().manual_seed(2)
    sizes = torch.tensor([0.2, 3.0, 0.7, 1.5, 5.0], dtype=torch.float64)
    images = torch.randn(5, 2, 3, 3, generator=rng, dtype=torch.float64)
    images *= (sizes / images.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    yield "images of 2 x 3 x 3", images, 1.0
    yield "images, a radius of 2.5", images, 2.5
    yield "a sample of zeros", torch.cat([images[:2], 0 * images[:1]]), 1.0
    yield "all inside", images[[0, 2]], 0.9
    for name, X in samples(6, 4, rng):
        yield name, X, 1.6


@check(2, minutes=10, praise="the nearest point of the ball. Next: which ball reaches further, and where?")
def project(answer: Callable[..., Tensor]) -> None:
    """The oracle takes one sample at a time, in plain numbers."""
    for name, delta, eps in _perturbations():
        got = of_kind(answer(delta, eps), delta)
        if got.isnan().any() and "zeros" in name:
            raise Wrong("NaN for a sample of zeros: its length is 0, and it lies in the ball.")
        want = [[v * eps / (r if (r := sum(v**2 for v in x) ** 0.5) > eps else eps) for v in x] for x in _rows(delta)]
        compare(got, np.reshape(want, delta.shape), _other_projections(delta.double(), eps), name, tolerance(delta))


def _rows(A: Tensor) -> list[list[float]]:
    return A.double().flatten(1).tolist()


def _other_projections(d: Tensor, eps: float) -> Mistakes:
    """What typical mistakes give in exercise 2; lengths of 0 count as tiny."""
    each, one, tiny = lengths(d), d.norm(), 1e-300

    def shrunk(length: Tensor) -> Tensor:
        return d * (eps / length.clamp_min(tiny)).clamp(max=1)

    return [
        (shrunk(one), "one length for the whole batch: each sample has a length of its own."),
        (shrunk(each.max()), "one factor for the whole batch: the samples inside do not move."),
        (
            d * eps / each.clamp_min(tiny),
            "samples inside the ball are moved out to its surface: they stay where they are.",
        ),
        (shrunk(each**2), "divided by the squared length: the length has a root."),
        (d.clamp(-eps, eps), "each coordinate is clipped: that is the ball of the largest entry, a cube."),
        (shrunk(each / d[0].numel() ** 0.5), "the length is a root of a mean of squares: it is one of their sum."),
        (shrunk(lengths(d, 1)), "the length is the sum of |entries|: it is the root of the sum of squares."),
        (shrunk(lengths(d, np.inf)), "the length is the largest entry: it is the root of the sum of squares."),
        (shrunk(d.norm(dim=1, keepdim=True)), "lengths along axis 1 alone: they go over all entries of a sample."),
        (
            shrunk(d.norm(dim=-1, keepdim=True)),
            "lengths along the last axis alone: they go over all entries of a sample.",
        ),
        (torch.where(each > eps, d / each.clamp_min(tiny), d), "samples outside end at length 1: it is to be ε."),
        (torch.where(each > eps, 0, d), "samples outside are dropped: they go to the nearest point of the ball."),
    ]
