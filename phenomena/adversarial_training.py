"""Adversarial training: the worst loss in the ball takes the loss's place (Madry et al. 2018, equation 2.1)."""

import math

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from phenomena.attacks import Box, Norm, check, look, start, step
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

    Each batch of X (n, ...), y (n,) is replaced by the last iterate of PGD, `attack_steps` steps of 2.5 ε/steps from a
    random start. ε grows linearly from 0 over the first `ramp` share of the updates (0: all at once, and a large ε may
    end in a constant). eps = 0 is ordinary training on the same schedule: Adam at the rate lr, warmed up over the first
    `warmup` share of the updates and then half a cosine down to 0; `generator` draws the batches and the starts.
    The history holds the adversarial loss of each batch before its update. Raises Diverged, by `label`, as
    `training.train` does; ValueError as in `attacks.pgd`, or for a share outside [0, 1].
    """
    check(X, y, eps, norm, box)
    if not (0 <= ramp <= 1 and 0 <= warmup <= 1):
        raise ValueError(f"ramp and warmup are shares of the updates in [0, 1], not {ramp} and {warmup}")
    if attack_steps < 1:
        raise ValueError(f"attack_steps must be at least 1, not {attack_steps} (eps=0 is training without an attack)")
    if not 1 <= batch_size <= len(X):
        raise ValueError(f"the batch size must be in 1..{len(X)}, not {batch_size}")
    named = f" ({label})" if label else ""
    updates = epochs * (len(X) // batch_size)
    rate = cosine(updates, round(warmup * updates))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batch = batches(len(X), batch_size, generator)
    losses = torch.empty(updates, dtype=X.dtype)
    for t in tqdm(range(updates), desc=label or "adversarial training", disable=not progress):
        i = next(batch)
        Z, target = X[i], y[i]
        if eps > 0:
            now = eps * min(1.0, (t + 1) / (ramp * updates)) if ramp else eps
            try:
                Z = _worst(model, Z, target, now, norm, attack_steps, box, generator)
            except Diverged as error:
                raise Diverged(f"{error}, at step {t}{named}") from None
        value = cross_entropy(model(Z), target)
        losses[t] = number = value.item()
        if not math.isfinite(number):
            raise Diverged(f"the loss is {number:g} at step {t}{named}")
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(t)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    check_weights(model, updates, label)
    return History(losses, {})


def _worst(
    model: nn.Module, X: Tensor, y: Tensor, eps: float, norm: Norm, steps: int, box: Box, generator: torch.Generator
) -> Tensor:
    """Last iterate of PGD, without the bookkeeping of `attacks.pgd`: one pass through the network a step."""
    Z = start(X, eps, norm, box, generator)
    for _ in range(steps):
        Z = step(X, Z, look(model, Z, y).slope, 2.5 * eps / steps, eps, norm, box)
    return Z
