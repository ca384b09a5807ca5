"""The convolutional kernel by numba against plain batched torch: side by side, interleaved, one thread, CPU time.

python benchmarks/cntk.py [repeats]

Digits, 8 x 8. Both engines compute the kernel of n images with n others, so symmetry helps neither; "X with X" is what
an entry of a symmetric kernel costs the loops. "κ alone" is a loop that only evaluates κ0 and √(1 - c²), by the same
polynomial, as often as an entry needs them: what is above it is shifts, products and memory.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from phenomena.convolutional_ntk import cntk
from phenomena.data import load

try:
    from phenomena import cntk_loops as loops
except ImportError:
    sys.exit("benchmarks/cntk.py compares with numba, which is not installed")

POSITIONS = 64
# (kernel, depth, dtype, images, wanted µs an entry)
CASES: list[tuple[str, int, torch.dtype, int, float | None]] = [
    ("vanilla", 3, torch.float32, 480, 0.8),
    ("vanilla", 6, torch.float32, 480, None),
    ("vanilla", 3, torch.float64, 480, None),
    ("GAP", 3, torch.float32, 96, 25),
    ("GAP", 6, torch.float32, 96, None),
    ("GAP", 3, torch.float64, 96, None),
]


@loops.compiled
def alone(c: Any, even: tuple, odd: tuple, constants: tuple, κ0: Any, v: Any, rounds: int) -> None:
    for _ in range(rounds):
        for q in range(c.shape[0]):
            κ0[q], v[q] = loops.κ0_and_sine(c[q], even, odd, constants)


def time_alone(dtype: torch.dtype, evaluations: int) -> float:
    """Microseconds for so many evaluations, in arrays that stay in the nearest cache."""
    real = np.float32 if dtype == torch.float32 else np.float64
    c, rounds = np.linspace(-1, 1, 1024).astype(real), 20_000
    arguments = (c, *loops.numbers(real), np.empty_like(c), np.empty_like(c))
    alone(*arguments, 1)
    began = time.process_time()
    alone(*arguments, rounds)
    return (time.process_time() - began) / rounds / len(c) * evaluations * 1e6


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    data = load("digits", 1000)
    title = f"µs of CPU time an entry, medians of {repeats} (torch {torch.__version__}, one thread)"
    table = Table(title=title)
    for column in ("kernel", "depth", "dtype", "torch", "numba", "ratio", "min..max", "wanted", "X with X", "κ alone",
                   "numba / κ", "differ by"):  # fmt: skip
        table.add_column(column, justify="right")
    for kernel, depth, dtype, n, wanted in CASES:
        X, Z = (data.X_train[i : i + n].view(n, 1, 8, 8).to(dtype) for i in (0, n))
        runs: dict[str, Callable[[], Tensor]] = {
            "torch": lambda X=X, Z=Z, d=depth, gap=kernel == "GAP": cntk(X, Z, d, gap, engine="torch"),
            "numba": lambda X=X, Z=Z, d=depth, gap=kernel == "GAP": cntk(X, Z, d, gap, engine="numba"),
            "symmetric": lambda X=X, d=depth, gap=kernel == "GAP": cntk(X, None, d, gap, engine="numba"),
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in [*runs, "alone"]}
        K = {}
        for repeat in range(repeats + 1):
            for name in runs if repeat % 2 else reversed(runs):
                began = time.process_time()
                K[name] = runs[name]()
                if repeat:  # the first compiles
                    times[name].append((time.process_time() - began) / n**2 * 1e6)
            times["alone"].append(time_alone(dtype, depth * POSITIONS ** (2 if kernel == "GAP" else 1)))
        ratios = sorted(a / b for a, b in zip(times["torch"], times["numba"], strict=True))
        median = {name: statistics.median(ts) for name, ts in times.items()}
        met = ""
        if wanted is not None:
            met = f"<= {wanted:g} {'yes' if median['numba'] <= wanted else '[red]NO[/red]'}"
        difference = ((K["torch"] - K["numba"]) / K["torch"]).abs().max().item()
        table.add_row(
            kernel, str(depth), str(dtype)[6:], f"{median['torch']:.3g}", f"{median['numba']:.3g}",
            f"{statistics.median(ratios):.1f}", f"{ratios[0]:.1f}..{ratios[-1]:.1f}", met,
            f"{median['symmetric']:.3g}", f"{median['alone']:.2g}", f"{median['numba'] / median['alone']:.1f}",
            f"{difference:.0e}" + ("" if difference < 1e-5 else " [red]DIFFERENT[/red]"),
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
