"""Adversarial training: the worst loss in the ball takes the loss's place (Madry et al. 2018, eq. 2.1)."""

import math

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from phenomena.attacks import Box, Norm, look, start, step
from phenomena.errors import Diverged
from phenomena.training import History, batches, check_weights, cosine, cross_entropy


def adversarial_training(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    eps: float,
    epochs: int,
    generator: torch.Generator,
    *,
    norm: Norm = "linf",
    ramp: float = 0.5,
    attack_steps: int = 5,
    lr: float = 4e-3,
    warmup: float = 0.25,
    batch_size: int = 100,
    box: Box = (0.0, 1.0),
    label: str = "",
    progress: bool = False,
) -> History:
    """Minimise E max_{‖δ‖ <= ε} cross entropy(f(x + δ), y) over the weights of `model`, in place.

    Each batch of X (n, ...), y (n,) is replaced by the last iterate of PGD with `attack_steps` steps from a random
    start. ε grows linearly from 0 over the first `ramp` share of the updates (0: the full ε at once; a large one then
    ends in a constant). eps = 0 is ordinary training on the same schedule. Adam at the learning rate lr, warmed up over
    the first `warmup` share of the updates and then half a cosine down to 0; `generator` draws the batches and starts.
    The history holds the adversarial loss of each batch before its update. Raises Diverged, by `label`, as
    `training.train` does; ValueError for a share outside [0, 1].
    """
    if not (0 <= ramp <= 1 and 0 <= warmup <= 1):
        raise ValueError(f"ramp and warmup are shares of the updates in [0, 1], not {ramp} and {warmup}")
    updates = epochs * (len(X) // batch_size)
    rate = cosine(updates, round(warmup * updates))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batch = batches(len(X), batch_size, generator)
    losses = torch.empty(updates, dtype=X.dtype)
    for t in tqdm(range(updates), desc=label or "adversarial training", disable=not progress):
        i = next(batch)
        clean, label_of = X[i], y[i]
        now = eps * min(1.0, (t + 1) / (ramp * updates)) if ramp else eps
        Z = start(clean, now, norm, box, generator) if eps > 0 else clean
        for _ in range(attack_steps if eps > 0 else 0):
            Z = step(clean, Z, look(model, Z, label_of).slope, 2.5 * now / attack_steps, now, norm, box)
        value = cross_entropy(model(Z), label_of)
        losses[t] = number = value.item()
        if not math.isfinite(number):
            raise Diverged(f"the loss is {number:g} at step {t}" + (f" ({label})" if label else ""))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(t)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    check_weights(model, updates, label)
    return History(losses, {})
