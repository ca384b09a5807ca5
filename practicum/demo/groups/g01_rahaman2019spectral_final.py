"""Extension: more petals make the high frequency easier still. `midterm` is our program of the first report."""

import argparse
import json

import midterm as m  # type: ignore[import-not-found]
import numpy as np


def measure(seed: int) -> dict[str, float]:
    """Time of frequency 6 on flowers with 2, 4 and 8 petals, the same phases and first weights."""
    phases, first = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2))
    y = np.sin(2 * np.pi * np.outer(m.Z, m.LEARNED) + phases.uniform(0, 2 * np.pi, 4)) @ m.EQUAL
    weights, values = m.first_weights(first, 2), {}
    for petals in (2, 4, 8):
        X = m.curve(m.Z, petals)
        rate = 1 / np.linalg.eigvalsh(m.tangent_kernel(X, weights))[-1]
        values[f"t_6_petals_{petals}"] = m.times(m.train(X, y, weights, rate)[1])[6]
    return values


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--scale")
parser.add_argument("--out", required=True)
args = parser.parse_args()
with open(args.out, "w", encoding="utf-8") as file:
    json.dump(measure(args.seed), file)
