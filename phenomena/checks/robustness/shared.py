"""What the checks of the robustness lab share."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.checks import Wrong

OUTSIDE = "some pixels leave [0, 1]: that is no image."
Mistakes = list[tuple[object, str]]  # what a mistake gives, and its hint
Each = Callable[[Tensor], Tensor]  # inputs (n, ...) -> one number for each (n,)


def losses(model: nn.Module, y: Tensor) -> Each:
    """The cross-entropy of each input, in float64."""
    double = copy.deepcopy(model).double()
    return lambda X: F.cross_entropy(double(X.double()), y, reduction="none")


def slopes(each: Each, X: Tensor) -> Tensor:
    """Derivatives of each sample's number by its own pixels, by central differences in float64; an exact 0 stays 0."""
    X, h = X.detach().double(), 1e-5
    found = torch.zeros_like(X).flatten(1)
    for pixel in range(found.shape[1]):
        step = torch.zeros_like(found)
        step[:, pixel] = h
        with torch.no_grad():
            found[:, pixel] = (each(X + step.view_as(X)) - each(X - step.view_as(X))) / (2 * h)
    return torch.where(found.abs() > 1e-8, found, 0).view_as(X)


def lengths(A: Tensor, order: float = 2) -> Tensor:
    """The norm of each sample of A (n, ...), shaped so that it divides A."""
    return torch.as_tensor(np.linalg.norm(A.reshape(len(A), -1), order, axis=1)).view(-1, *[1] * (A.dim() - 1))


def networks() -> list[tuple[str, nn.Module, Tensor, Tensor, float]]:
    """Classifiers with inputs in [0, 1], labels (some of them not predicted) and a budget."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        dense = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        # no filter sees the last row and column of an image of 5 x 5
        convolutional = nn.Sequential(nn.Conv2d(1, 3, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()
        linear = nn.Linear(4, 3)
    rng = torch.Generator().manual_seed(1)
    X, images, A = (torch.rand(shape, generator=rng, dtype=torch.float64) for shape in ((6, 6), (5, 1, 5, 5), (4, 4)))
    y, labels, b = (torch.randint(0, k, (n,), generator=rng) for n, k in ((6, 3), (5, 4), (4, 3)))
    return [
        ("6 inputs of 6 pixels", dense, X, y, 0.1),
        ("images of 5 x 5, some pixels unused", convolutional, images, labels, 0.15),
        ("a linear model, float32", linear, A.float(), b, 0.2),
        ("one input", dense, X[:1], y[:1], 0.3),
        ("a budget of 0", dense, X, y, 0.0),
    ]


@contextmanager
def model_left_alone(model: nn.Module) -> Iterator[None]:
    """Raise `Wrong` if a call changes the model's weights, leaves gradients in them, or asks for none by the input."""
    before = [w.detach().clone() for w in model.parameters()]
    for w in model.parameters():
        w.grad = None
    try:
        yield
    except Wrong as err:
        if "NoneType" in str(err):
            hint = (
                "there is no gradient by the input: call `requires_grad_()` on a copy of it before the model sees it."
            )
            raise Wrong(hint) from None
        raise
    if not all(map(torch.equal, before, model.parameters())):
        raise Wrong("the weights of the model have changed: an attack changes the input alone.")
    if any(w.grad is not None for w in model.parameters()):
        raise Wrong(
            "it leaves gradients in the `.grad` of the weights, where a training step would find them: "
            "`torch.autograd.grad` by the input alone does not."
        )
