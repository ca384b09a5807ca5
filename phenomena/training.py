"""The training loop, its losses, and what to do when it diverges.

A loss takes outputs f (..., n, C) and targets (..., n) or (..., n, C) and is a mean over the n samples, of
shape (...): a scalar for one network, one number a member for the ensembles of `phenomena.ensembles`.
"""

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm.auto import tqdm

from phenomena.errors import Diverged as Diverged

Loss = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[int], float]
Record = Callable[[int, nn.Module], dict[str, float]]


class History(NamedTuple):
    """What a run leaves: losses (steps,), each on its batch, before its step; recorded columns and "step"."""

    losses: Tensor
    recorded: dict[str, list[float]]


def squared_loss(f: Tensor, y: Tensor) -> Tensor:
    """1/(2n) sum_i |f(x_i) - y_i|^2: mean over samples, sum over outputs; int labels (..., n) are one-hot."""
    targets = y if y.is_floating_point() else F.one_hot(y, f.shape[-1]).to(f.dtype)
    if targets.shape[-2:] != f.shape[-2:]:  # (n, 1) - (n,) would silently broadcast to (n, n)
        raise ValueError(f"outputs {tuple(f.shape)} need targets (n, C), not {tuple(targets.shape)}")
    return (f - targets).square().sum((-1, -2)) / (2 * f.shape[-2])


def cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    """-1/n sum_i log softmax(f(x_i))_{y_i} in nats, for int labels y (..., n)."""
    if f.dim() == 2:
        return F.cross_entropy(f, y)  # one network: the same number, 5 % of a step faster
    labels = y.expand(f.shape[:-1])  # labels may be shared by all members of an ensemble
    each = F.cross_entropy(f.reshape(-1, f.shape[-1]), labels.reshape(-1), reduction="none")
    return each.view(labels.shape).mean(-1)


def batches(n: int, batch_size: int | None, generator: torch.Generator | None) -> Iterator[Tensor | None]:
    """Endless batches of indices by random reshuffling: one permutation an epoch, cut into batches.

    The last n mod batch_size samples of each permutation are left out, so that every batch has the same size.
    batch_size None is the full batch, given as None: no copy, no randomness.
    """
    if batch_size is None:
        while True:
            yield None
    if not 1 <= batch_size <= n:
        raise ValueError(f"the batch size must be in 1..{n}, not {batch_size}")
    if generator is None:
        raise ValueError("minibatches need a generator")
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % batch_size].split(batch_size)


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """Factor on the learning rate at each step: linear warm-up to 1, then half a cosine to 0 at `steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def train(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    steps: int,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    *,
    schedule: Schedule | None = None,
    record: Record | None = None,
    record_at: Collection[int] = (),
    label: str = "",
    progress: bool = False,
) -> History:
    """Train `model` in place on X (n, d) and y for `steps` updates; full batch unless batch_size is given.

    record(step, model) is called after `step` updates for each step in record_at (0: before training), and
    its numbers are kept in the history. schedule(step) multiplies each parameter group's learning rate.
    Raises Diverged, naming the step and `label` (the setting, say "width 64, lr 0.5"), when the loss or at
    the end a weight is not finite.
    """
    losses = torch.empty(steps, dtype=X.dtype)
    recorded: dict[str, list[float]] = {}
    rates = [group["lr"] for group in optimizer.param_groups]
    batch = batches(len(X), batch_size, generator)
    for step in tqdm(range(steps), desc=label or "train", disable=not progress):
        if record and step in record_at:
            append(recorded, step, record(step, model))
        i = next(batch)
        value = loss(model(X), y) if i is None else loss(model(X[i]), y[i])
        losses[step] = number = value.item()
        if not math.isfinite(number):
            raise Diverged(f"the loss is {number:g} at step {step}" + (f" ({label})" if label else ""))
        if schedule:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    check_weights(model, steps, label)
    if record and steps in record_at:
        append(recorded, steps, record(steps, model))
    return History(losses, recorded)


def append(recorded: dict[str, list[float]], step: int, numbers: dict[str, float]) -> None:
    """Add one recording's numbers to the columns of `recorded`."""
    for key, value in {"step": step, **numbers}.items():
        recorded.setdefault(key, []).append(value)


def check_weights(model: nn.Module, step: int, label: str) -> None:
    """Raise Diverged if a weight is not finite: the last step's loss was taken before its update."""
    if not all(p.isfinite().all() for p in model.parameters()):
        raise Diverged(f"a weight is not finite at step {step}" + (f" ({label})" if label else ""))


@torch.no_grad()
def error_rate(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """Fraction in [0, 1] of samples X (n, d) whose largest output is not y (n,); Diverged if not finite."""
    f = model(X)
    if not f.isfinite().all():
        raise Diverged("the network's outputs are not finite")
    return (f.argmax(-1) != y).double().mean().item()
