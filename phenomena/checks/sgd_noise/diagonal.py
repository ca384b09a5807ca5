"""Checks of the SGD-noise lab: a step of a diagonal linear network."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import Wrong, check, compare, of_kind, samples, tolerance
from phenomena.checks.sgd_noise.shared import Mistakes, pair


def _steps() -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor, float]]:
    rng = torch.Generator().manual_seed(7)
    for name, X in samples(6, 4, rng):
        plus, minus = 0.5 + torch.rand(2, 4, generator=rng).to(X)
        yield name, plus, minus, X, torch.randn(len(X), generator=rng).to(X), 0.3
    X, y = torch.randn(3, 4, generator=rng, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    w = torch.full((4,), 0.1, dtype=torch.float64)
    yield "a weight that is negative", w, torch.tensor([0.4, -0.3, 0.2, -1.0], dtype=torch.float64), X, y, 0.7


def _slopes(plus: Tensor, minus: Tensor, X: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the loss by both weights, by autograd in float64."""
    p, m = (t.double().clone().requires_grad_() for t in (plus, minus))
    loss = (X.double() @ (p**2 - m**2) - y.double()).square().mean() / 4
    left, right = torch.autograd.grad(loss, [p, m])
    return left.numpy(), right.numpy()


@check(7, minutes=20, praise="a step that multiplies. Next: three ways of taking it, and what each of them finds.")
def diagonal_step(answer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """The oracle is autograd on the loss in the text."""
    for name, plus, minus, X, y, eta in _steps():
        got = pair(answer(plus, minus, X, y, eta), "the new w₊ and w₋")
        left, right = (of_kind(part, X) for part in got)
        if left.shape != plus.shape or right.shape != plus.shape:
            raise Wrong(f"the shapes are {tuple(left.shape)} and {tuple(right.shape)}, the weights' is {(len(plus),)}.")
        ends = _ends(plus, minus, X, y, eta)
        want = np.concatenate(ends.pop("right"))
        mistakes: Mistakes = [(np.concatenate(end), OTHER_STEPS[how]) for how, end in ends.items()]
        compare(torch.cat([left, right]), want, mistakes, f"w₊ and w₋, {name}", tolerance(X))


OTHER_STEPS = {
    "swapped": "the two are swapped: w₊ comes first.",
    "step": "that is the step alone: add it to the weights.",
    "up": "the loss rises: the step goes against the gradient, and r is the prediction less the label.",
    "same": "w₋ enters β with a minus: its step has the other sign.",
    "turn": "w₋ takes its step from the new w₊: both gradients are taken at the old weights.",
    "plain": "a weight is missing: β holds w squared, and the chain rule gives its slope.",
    "twice": "twice too long: the loss has 1/4, and two squares are differentiated.",
    "half": "half as long: the loss has 1/4, and two squares are differentiated.",
    "four": "four times too long: the loss has 1/4.",
    "sum": "a sum over the batch: the loss is a mean.",
    "linear": "the prediction has β = w₊ - w₋ in it: the weights are squared.",
    "joint": "the prediction has (w₊ - w₋)² in it: each weight is squared by itself.",
    "plus": "the prediction has w₊² + w₋² in it: β is a difference.",
    "still": "w₋ does not move: it has a gradient too.",
    "entries": "divided by the number of entries: the mean goes over the samples.",
    "flow": "an exponential: that is a flow in continuous time, and a step of descent is linear in η.",
    "first": "only the first sample of the batch is used.",
    "unit": "η is missing.",
}


def _ends(plus: Tensor, minus: Tensor, X: Tensor, y: Tensor, eta: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Where the step ends, and where mistakes end."""
    p, m = plus.double().numpy(), minus.double().numpy()
    x, t = X.double().numpy(), y.double().numpy()
    a, b = _slopes(plus, minus, X, y)

    def pulled(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pull = (x @ beta - t) @ x / len(x)
        return p - eta * pull * p, m + eta * pull * m

    pull = (x @ (p**2 - m**2) - t) @ x / len(x)
    end = p - eta * a, m - eta * b
    late = _slopes(torch.as_tensor(end[0]), minus, X, y)[1]
    first = _slopes(plus, minus, X[:1], y[:1])
    return {
        "right": end,
        "swapped": end[::-1],
        "step": (-eta * a, -eta * b),
        "up": (p + eta * a, m + eta * b),
        "same": (p - eta * a, m + eta * b),
        "turn": (end[0], m - eta * late),
        "plain": (p - eta * pull, m + eta * pull),
        "twice": (p - 2 * eta * a, m - 2 * eta * b),
        "half": (p - eta * a / 2, m - eta * b / 2),
        "four": (p - 4 * eta * a, m - 4 * eta * b),
        "sum": (p - len(x) * eta * a, m - len(x) * eta * b),
        "linear": pulled(p - m),
        "joint": pulled((p - m) ** 2),
        "plus": pulled(p**2 + m**2),
        "still": (end[0], m),
        "entries": (p - len(x) / len(p) * eta * a, m - len(x) / len(p) * eta * b),
        "flow": (p * np.exp(-eta * pull), m * np.exp(eta * pull)),
        "first": (p - eta * first[0], m - eta * first[1]),
        "unit": (p - a, m - b),
    }
