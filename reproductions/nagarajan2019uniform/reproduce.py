"""Nagarajan & Kolter 2019: the norms of trained networks, and so the bounds made of them, can grow with the sample."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phenomena.bounds import frobenius_product, norm_bound, spectral_bound
from phenomena.data import load
from phenomena.margins import margins, train_to_margin
from phenomena.networks import mlp
from phenomena.program import Values, main

# n: digits, by batch size; width of each of the hidden layers.
SETTINGS = {
    "smoke": {"n": {32: [100, 200], 1: [50, 100]}, "width": 30},
    "laptop": {"n": {32: [100, 200, 400, 800, 1500], 1: [100, 200, 400, 800]}, "width": 100},
    "paper": {"n": {64: [128, 512, 2048, 8192], 1: [128, 512, 2048, 8192]}, "width": 1024},
}
RATE = {1: 0.01, 32: 0.1, 64: 0.1}  # of SGD, without momentum, for each batch size
HIDDEN_LAYERS, MARGIN, DELTA = 4, 2.0, 0.025
INPUT_LENGTH = {"digits": 8.0, "mnist": 28.0}  # B: of pixels in [0, 1], at most the root of their number


class Trained(NamedTuple):
    """Margins (n,) and weights of a trained network."""

    margins: Tensor
    weights: list[Tensor]


def measured(name: str, n: int, width: int, batch_size: int, seed: int) -> tuple[Trained, dict[str, float]]:
    """A network of five layers trained until 99 % of the margins exceed 2: its norms, its bounds, its test error."""
    generator = torch.Generator().manual_seed(seed)
    data = load(name, n_train=n, n_test=297 if name == "digits" else 10_000, seed=seed, download=name == "mnist")
    y, y_test = ((2 * (labels >= 5) - 1).float() for labels in (data.y_train, data.y_test))
    model = mlp((data.X_train.shape[1], *[width] * HIDDEN_LAYERS, 1), generator, bias=False, init="he")
    start = [W.detach().clone() for W in model.parameters()]
    train_to_margin(
        model, data.X_train, y, generator, margin=MARGIN, lr=RATE[batch_size], momentum=0.0, batch_size=batch_size
    )
    weights, m = [W.detach() for W in model.parameters()], margins(model, data.X_train, y)
    B, L = INPUT_LENGTH[name], len(weights)
    return Trained(m, weights), {
        "test_error": float((margins(model, data.X_test, y_test) <= 0).double().mean()),
        "distance": math.sqrt(sum(float((W - W_0).square().sum()) for W, W_0 in zip(weights, start, strict=True))),
        "spectral_product": math.prod(float(torch.linalg.matrix_norm(W, 2)) for W in weights),
        "frobenius_product": frobenius_product(weights),
        "frobenius_bound": norm_bound(m, frobenius_product(weights), data.X_train, B, L, DELTA),
        "spectral_bound": spectral_bound(m, weights, B, DELTA),
    }


def measure(seed: int, scale: str) -> Values:
    """Curves over the sample size by batch size; keys end in _batch (the larger one) or _single (batch size 1)."""
    setting = SETTINGS[scale]
    values: dict[str, float | list[float]] = {}
    for batch_size, sizes in setting["n"].items():  # type: ignore[attr-defined]
        name = "single" if batch_size == 1 else "batch"
        data = "mnist" if scale == "paper" else "digits"
        nets, runs = zip(*(measured(data, n, setting["width"], batch_size, seed) for n in sizes), strict=True)  # type: ignore[arg-type]
        values[f"n_{name}"] = [float(n) for n in sizes]
        values |= {f"{key}_{name}": [run[key] for run in runs] for key in runs[0]}
        # the smallest sample, repeated: n grows, norms and margins do not
        first, B = nets[0], INPUT_LENGTH[data]
        repeated = [first.margins.repeat(n // sizes[0]) for n in sizes]
        values[f"spectral_bound_frozen_{name}"] = [spectral_bound(m, first.weights, B, DELTA) for m in repeated]
    return values


if __name__ == "__main__":
    main(measure)
