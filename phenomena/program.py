"""The command line of a reproduction: `python reproduce.py --seed 3 --scale laptop --out out.json`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from phenomena.errors import Diverged

SCALES = ("smoke", "laptop", "paper")
Values = Mapping[str, float | Sequence[float]]


def main(measure: Callable[[int, str], Values]) -> None:
    """Run `measure(seed, scale)`, a flat mapping of numbers and curves, and write it to `--out` as JSON.

    One thread, so that seeds run side by side. A number that is not finite ends the program with the key's name.
    """
    parser = argparse.ArgumentParser(description="Measure a paper's claims for one seed.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scale", choices=SCALES, default="laptop")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        values = {key: plain(key, value) for key, value in measure(args.seed, args.scale).items()}
    except (Diverged, ValueError, ArithmeticError, OSError) as err:
        sys.exit(f"seed {args.seed}, scale {args.scale}: {err}")
    # Written beside its place and moved there, so that an interrupted run leaves no half file.
    part = args.out.with_suffix(".part")
    part.write_text(json.dumps(values) + "\n", encoding="utf-8")
    os.replace(part, args.out)


def plain(key: str, value: float | Sequence[float]) -> float | list[float]:
    """One value as JSON holds it: a float, or a list of floats for a curve; ValueError unless all are finite."""
    numbers = np.asarray(value, dtype=float)
    if numbers.ndim > 1:
        raise ValueError(f"{key} has shape {numbers.shape}; a value is a number or a curve")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{key} is not finite: {numbers}; a diverged run is no measurement")
    return numbers.tolist()
