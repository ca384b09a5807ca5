"""Checks of the robustness lab: the loss of adversarial training."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phenomena import checks
from phenomena.checks import Wrong, check, compare, tolerance
from phenomena.checks.robustness.shared import Mistakes


class _Batch(NamedTuple):
    """What the exercise is given; the attack is the check's own."""

    model: nn.Linear
    X: Tensor
    y: Tensor
    eps: float
    done: float
    ramp: float


def _attack(model: Callable[[Tensor], Tensor], X: Tensor, y: Tensor, eps: float) -> Tensor:
    """A perturbation that shows with which model, inputs, labels and budget it was made."""
    with torch.no_grad():
        return X + eps * (model(X).roll(1, 1)[:, :1] + torch.stack([y, y**2], 1)).to(X.dtype)


def _batches() -> Iterator[tuple[str, _Batch]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model, single = nn.Linear(2, 3).double(), nn.Linear(2, 3)
    X = torch.rand(6, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.tensor([0, 2, 1, 1, 0, 2])
    yield "a fifth of the steps done", _Batch(model, X, y, 0.3, 0.2, 0.5)
    yield "at the start", _Batch(model, X, y, 0.3, 0.0, 0.5)
    yield "four fifths of the steps done", _Batch(model, X, y, 0.3, 0.8, 0.5)
    yield "a longer ramp, float32", _Batch(single, X.float(), y, 0.2, 0.6, 0.8)
    yield "one input", _Batch(model, X[:1], y[:1], 0.3, 0.3, 0.4)
    yield "no ramp", _Batch(model, X, y, 0.3, 0.0, 0.0)


def _cross_entropy(p: _Batch, Z: Tensor) -> tuple[float, np.ndarray]:
    """The loss of a linear model on Z, and its derivatives by W and b, (C, d + 1), in plain numbers."""
    z, labels = Z.double().numpy(), p.y.numpy()
    W, b = (w.detach().double().numpy() for w in p.model.parameters())
    f = z @ W.T + b
    log_p = f - np.log(np.exp(f).sum(1, keepdims=True))
    residual = np.exp(log_p) - np.eye(len(b))[labels]
    value = -log_p[np.arange(len(z)), labels].mean()
    return float(value), residual.T @ np.column_stack([z, np.ones(len(z))]) / len(z)


@check(4, minutes=15, praise="train on what hurts most, but not at once. Next: what does it cost on clean digits?")
def adversarial_loss(answer: Callable[..., Tensor]) -> None:
    """The oracle is a linear model in plain numbers; its attack shows by what it was called."""
    for name, p in _batches():
        try:
            got = answer(p.model, p.X, p.y, p.eps, p.done, p.ramp, _attack)
        except checks.Wrong as err:
            if "ZeroDivision" in str(err):
                raise Wrong("it divides by a ramp of 0: that means no ramp, the full budget from the start.") from None
            raise
        rtol = tolerance(p.X)
        want, slope = _cross_entropy(p, _attack(p.model, p.X, p.y, _budget(p)))
        compare(got, want, _other_losses(p), name, rtol)
        if not (isinstance(got, Tensor) and got.requires_grad):
            raise Wrong("the number is right, but it carries no gradient by the weights: nothing can learn from it.")
        W, b = torch.autograd.grad(got, list(p.model.parameters()))
        compare(torch.cat([W, b[:, None]], 1), slope, (), f"the derivatives by the weights, {name}", rtol)


def _budget(p: _Batch) -> float:
    return p.eps * (min(1.0, p.done / p.ramp) if p.ramp else 1.0)


def _other_losses(p: _Batch) -> Mistakes:
    """What typical mistakes give in exercise 4."""

    def at(budget: float) -> float:
        return _cross_entropy(p, _attack(p.model, p.X, p.y, budget))[0]

    right, clean = at(_budget(p)), at(0.0)
    predicted = _attack(p.model, p.X, p.model(p.X).argmax(1), _budget(p))
    added = p.X + _attack(p.model, p.X, p.y, _budget(p))
    no_attack = "that is the loss on the clean inputs: those of the attack are to be learned."
    mistakes: Mistakes = [
        (
            clean,
            no_attack if p.ramp else "no attack at a ramp of 0: that means no ramp, the full budget from the start.",
        ),
        (_cross_entropy(p, added)[0], "the attack returns images, not perturbations: they are not added to X."),
        (at(p.eps), "the budget is ε from the start: it is to grow while the ramp lasts."),
        (at(p.eps * p.done), "the budget reaches ε only at the very end: the ramp ends at `done = ramp`."),
        (at(p.eps * p.ramp), "the budget does not depend on how much is done."),
        (
            at(p.eps * p.done * p.ramp),
            "done is multiplied by the ramp: the budget is the fraction of the ramp that is done.",
        ),
        (at(p.eps * (1 - _budget(p) / p.eps)), "the budget shrinks: it starts at 0 and grows."),
        ((right + clean) / 2, "half of it is the clean loss: only the attacked inputs are asked for."),
        (len(p.X) * right, "that is a sum over the inputs: it is a mean."),
        (_cross_entropy(p, predicted)[0], "the attack gets the predicted labels: it leads away from y."),
        (-right, "the sign is turned: the weights lower what the attack raises."),
    ]
    if p.ramp:
        mistakes.append((at(p.eps * p.done / p.ramp), "after the ramp the budget goes on growing: it stays ε."))
    return mistakes
