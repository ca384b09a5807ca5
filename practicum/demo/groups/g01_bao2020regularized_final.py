"""Extension: momentum for non-uniform l2. `midterm` is our program of the first report."""

import argparse
import json

import midterm as m  # type: ignore[import-not-found]
import numpy as np


def heavy_ball(first: np.ndarray, s: np.ndarray, momentum: float, rate: float, steps: int) -> np.ndarray:
    """The decoder after descent with momentum on the l2 objective."""
    W, V = first, first
    by_W, by_V = np.zeros_like(W), np.zeros_like(V)
    for _ in range(steps):
        g_W, g_V = m.gradients(W, V, s, m.penalised(m.K))
        by_W, by_V = momentum * by_W + g_W, momentum * by_V + g_V
        W, V = W - rate * by_W, V - rate * by_V
    return V


def measure(seed: int) -> dict[str, float]:
    """Misalignment after 1,000 steps without and with momentum, and with the rotation."""
    s, U = m.spectrum()
    first = m.START * np.random.default_rng(seed).standard_normal((m.K, len(s))) @ U
    return {
        "misalign_l2": m.misalignment(heavy_ball(first, s, 0.0, m.RATE, 1000)),
        "misalign_l2_momentum": m.misalignment(heavy_ball(first, s, 0.9, m.RATE / 3, 1000)),
        "misalign_rag": m.misalignment(m.rotate(first, first, s, 1000)[1]),
    }


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--scale")
parser.add_argument("--out", required=True)
args = parser.parse_args()
with open(args.out, "w", encoding="utf-8") as file:
    json.dump(measure(args.seed), file)
