"""Many small networks at once against the ordinary loop: side by side, interleaved, one thread, CPU time.

python benchmarks/ensemble.py [repeats]

The loop is what one would write: nn.Sequential, F.cross_entropy, torch.optim.SGD, one network after the other,
and none of the recording or checking that `train_ensemble` does on top. Both run the same batches from the same
weights, and their final weights are compared. At full batch, from width 512 on, the ensemble trains its members
one by one: the two then do the same, and their ratio shows the noise and what the checks cost. CPU time, because
other programs may run on the machine.
"""

import copy
import statistics
import sys
import time
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.data import load
from phenomena.ensembles import train_ensemble
from phenomena.networks import mlp
from phenomena.training import batches, cross_entropy

LR, MOMENTUM = 0.1, 0.9
FULL = 500
# (what, sizes between input and output, batch size or None for the full batch of 500, steps, wanted ratio)
CASES: list[tuple[str, list[tuple[int, ...]], int | None, int, float | None]] = [
    ("64 x width 4", [(4,)] * 64, 32, 50, 15),
    ("64 x width 16", [(16,)] * 64, 32, 50, 15),
    ("64 x width 16-16", [(16, 16)] * 64, 32, 40, 15),
    ("64 x width 64", [(64,)] * 64, 32, 40, 4),
    ("16 x width 256", [(256,)] * 16, 32, 60, 1),
    ("widths 1..64", [(h,) for h in range(1, 65)], 32, 40, None),
    (
        "5 seeds of 12 widths to 64",
        [(h,) for h in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) for _ in range(5)],
        32,
        40,
        None,
    ),
    ("64 x width 16, own batches", [(16,)] * 64, -32, 50, None),
    ("64 x width 16", [(16,)] * 64, None, 25, 1),
    ("64 x width 64", [(64,)] * 64, None, 15, 1),
    ("16 x width 256", [(256,)] * 16, None, 20, 1),
    ("8 x width 512", [(512,)] * 8, None, 15, 1),
    ("4 x width 1024", [(1024,)] * 4, None, 15, 1),
]


def loop(models: list[nn.Sequential], X: Tensor, y: Tensor, batch: int | None, steps: int, seeds: list[int]) -> None:
    for model, seed in zip(models, seeds, strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
        order = batches(len(X), batch, torch.Generator().manual_seed(seed))
        for _ in range(steps):
            i = next(order)
            loss = F.cross_entropy(model(X), y) if i is None else F.cross_entropy(model(X[i]), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def together(
    models: list[nn.Sequential], X: Tensor, y: Tensor, batch: int | None, steps: int, seeds: list[int]
) -> None:
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    train_ensemble(
        models, X, y, cross_entropy, partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM), steps, batch,
        generators if len(set(seeds)) > 1 else generators[0],
    )  # fmt: skip


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    data = load("digits", 1000)
    table = Table(title=f"CPU time of the loop / of the ensemble (torch {torch.__version__}, {repeats} repeats)")
    for column in ("networks 64-...-10", "batch", "loop ms/step", "ensemble ms/step", "min",
                   "median", "max", "wanted", "weights differ by"):  # fmt: skip
        table.add_column(column, justify="right")
    for what, hidden, batch, steps, wanted in CASES:
        own, batch = (batch or 0) < 0, abs(batch) if batch else None
        n = len(data.X_train) if batch else FULL
        X, y = data.X_train[:n], data.y_train[:n]
        seeds = [m if own else 0 for m in range(len(hidden))]
        start = [mlp((64, *h, 10), torch.Generator().manual_seed(m)) for m, h in enumerate(hidden)]
        times: dict[str, list[float]] = {"loop": [], "together": []}
        for repeat in range(repeats + 1):
            ends = {}
            for run in (loop, together) if repeat % 2 else (together, loop):
                models = copy.deepcopy(start)
                began = time.process_time()
                run(models, X, y, batch, steps, seeds)
                if repeat:  # the first warms up
                    times[run.__name__].append((time.process_time() - began) / steps * 1e3)
                ends[run.__name__] = models
        difference = max(
            (p - q).abs().max().item()
            for a, b in zip(ends["loop"], ends["together"], strict=True)
            for p, q in zip(a.parameters(), b.parameters(), strict=True)
        )
        ratios = sorted(a / b for a, b in zip(times["loop"], times["together"], strict=True))
        median = statistics.median(ratios)
        met = ""
        if wanted is not None:
            verdict = "yes" if median >= wanted else "in noise" if ratios[-1] >= wanted else "[red]NO[/red]"
            met = f">= {wanted:g} {verdict}"
        table.add_row(
            what, str(batch or f"full {FULL}"), f"{statistics.median(times['loop']):.2f}",
            f"{statistics.median(times['together']):.2f}", f"{ratios[0]:.2f}", f"{median:.2f}", f"{ratios[-1]:.2f}",
            met, f"{difference:.0e}" + ("" if difference < 1e-4 else " [red]DIFFERENT[/red]"),
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
