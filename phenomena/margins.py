"""Two classes, y in {-1, 1}: the logistic loss, margins y f(x), and training until the margins are large."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.training import train


def logistic_loss(f: Tensor, y: Tensor) -> Tensor:
    """Mean of log2(1 + exp(-y f)), which lies above the 0-1 loss; f (n, 1), y (n,) in {-1, 1}."""
    return F.softplus(-y * f.squeeze(-1)).mean() / math.log(2)


@torch.no_grad()
def margins(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    """y_i f(x_i), (n,); the sample is misclassified where this is not positive."""
    return y * model(X).squeeze(-1)


def train_to_margin(
    model: nn.Module, X: Tensor, y: Tensor, generator: torch.Generator,
    *, margin: float, lr: float, momentum: float, batch_size: int, most_epochs: int = 1000,
) -> int:  # fmt: skip
    """Train in place by SGD on the logistic loss until 99 % of the margins exceed `margin`; the epochs that it took.

    The margin is looked at every fifth epoch. ArithmeticError if it is not reached in `most_epochs`; Diverged.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    steps = 5 * max(1, len(X) // batch_size)
    for epoch in range(5, most_epochs + 1, 5):
        train(model, X, y, logistic_loss, optimizer, steps, min(batch_size, len(X)), generator)
        if float((margins(model, X, y) > margin).double().mean()) >= 0.99:
            return epoch
    raise ArithmeticError(f"99 % of the margins are not above {margin} after {most_epochs} epochs, n = {len(X)}")
