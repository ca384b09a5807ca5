"""Labels that are wrong anew at every step, and which neurons of a ReLU network fire.

`phenomena.data.with_label_noise` draws wrong labels once; here a label is drawn again each time that it is used.
Source: Cornacchia, Hązła, Nachum & Yehudayoff 2021, Regularization by Misclassification in ReLU Neural Networks.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.training import Loss, cross_entropy


def redrawn(y: Tensor, p: float, n_classes: int, generator: torch.Generator) -> Tensor:
    """Each label of y (n,) replaced, with probability p, by one of all n_classes at random (its own among them)."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, in 0..1, not {p}")
    wrong = torch.rand(y.shape, generator=generator) < p
    return torch.where(wrong, torch.randint(n_classes, y.shape, generator=generator), y)


def fresh_label_loss(p: float, n_classes: int, generator: torch.Generator) -> Loss:
    """Cross entropy (nats) on labels redrawn at each call: give it to `training.train` as the loss."""
    return lambda f, y: cross_entropy(f, redrawn(y, p, n_classes, generator))


def smoothed_label_loss(p: float) -> Loss:
    """The mean of `fresh_label_loss` over the labels: (1 - p) of y and p of the uniform distribution, no noise."""
    return lambda f, y: F.cross_entropy(f, y, label_smoothing=p)


class Firing(NamedTuple):
    """Of a network's ReLUs on some inputs: the share that is active, and the units that never are."""

    active: float  # the share of pairs (unit, input) with a positive output, in [0, 1]
    dead: int  # units that no input makes fire
    units: int


@torch.no_grad()
def firing(model: nn.Sequential, X: Tensor) -> Firing:
    """Which ReLU units of `model`, all layers together, fire on the inputs X (n, d)."""
    fires = []
    for layer in model:
        X = layer(X)
        if isinstance(layer, nn.ReLU):
            fires.append(X > 0)
    if not fires:
        raise ValueError("the network has no ReLU layer (firing needs one that stands in the nn.Sequential itself)")
    on = torch.cat(fires, 1)
    return Firing(on.double().mean().item(), int((~on.any(0)).sum()), on.shape[1])
