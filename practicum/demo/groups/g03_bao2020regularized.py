#!/usr/bin/env python3
"""Linear autoencoders on the digits' covariance. The runs of 30,000 iterations are left out: no time."""

import gzip
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

where = find_spec("sklearn").origin.replace("__init__.py", "datasets/data/digits.csv.gz")  # type: ignore[union-attr]
with gzip.open(where, "rt") as lines:
    pixels = np.array([line.split(",")[:64] for line in lines], float) / 16
cov = np.cov(pixels.T, bias=True)
values, vectors = np.linalg.eigh(cov)
order = np.argsort(-values)
values, vectors = values[order], vectors[:, order]
Pair = tuple[np.ndarray, np.ndarray]


def reconstruction(enc: np.ndarray, dec: np.ndarray) -> Pair:
    """Gradients of tr((I - dec enc) C (I - dec enc)')."""
    rest = (np.eye(64) - dec @ enc) @ cov
    return -2 * dec.T @ rest, -2 * rest @ enc.T


def dropout(enc: np.ndarray, dec: np.ndarray, keep: float = 0.9) -> Pair:
    """The same in expectation, when the first b units survive with probability keep^(b-1) (1 - keep)."""
    grad_enc, grad_dec = np.zeros_like(enc), np.zeros_like(dec)
    for b in range(1, 9):
        p = keep ** (b - 1) * (1 - keep if b < 8 else 1)
        one, two = reconstruction(enc[:b], dec[:, :b])
        grad_enc[:b] += p * one
        grad_dec[:, :b] += p * two
    return grad_enc, grad_dec


def ridge(enc: np.ndarray, dec: np.ndarray) -> Pair:
    """With a penalty for each unit."""
    weight = 0.1 * np.linspace(0.1, 0.9, len(enc)) ** 2
    one, two = reconstruction(enc, dec)
    return one + 2 * weight[:, None] * enc, two + 2 * dec * weight


def turned(enc: np.ndarray, dec: np.ndarray) -> Pair:
    """Reconstruction and a rotation by the upper triangle of the code's covariance."""
    upper = np.triu(enc @ cov @ enc.T, k=1)
    skew = 0.5 * (upper - upper.T)
    one, two = reconstruction(enc, dec)
    return one - skew @ enc, two - dec @ skew.T


def after(rule: Callable[..., Pair], start: np.ndarray, iterations: int) -> np.ndarray:
    """The decoder's columns, normalised."""
    enc, dec = start.copy(), start.T.copy()
    for _ in range(iterations):
        d_enc, d_dec = rule(enc, dec)
        enc -= 0.3 * d_enc
        dec -= 0.3 * d_dec
    return dec


def away(dec: np.ndarray) -> float:
    """1 minus the best squared cosine of each component with a column."""
    columns = dec / np.linalg.norm(dec, axis=0)
    return 1 - float(np.square(vectors[:, :8].T @ columns).max(1).mean())


def outside(dec: np.ndarray) -> float:
    """Share of the principal subspace that the decoder misses."""
    basis, _ = np.linalg.qr(dec)
    return max(0.0, 1 - float(np.square(vectors[:, :8].T @ basis).sum()) / 8)


def main(seed: int, out: str) -> None:
    """Measure what fits into our time."""
    begin = np.random.default_rng(seed).normal(0, 0.01, (8, 64))
    rag, l2 = after(turned, begin, 1000), after(ridge, begin, 1000)
    later = after(turned, begin, 3000)
    later = later / np.linalg.norm(later, axis=0)
    numbers = {
        "misalign_rag_1000": away(rag), "subspace_rag_1000": outside(rag),
        "misalign_l2_1000": away(l2), "subspace_l2_1000": outside(l2),
        "misalign_nested_1000": away(after(dropout, begin, 1000)),
        "misalign_plain_1000": away(after(reconstruction, begin, 1000)),
        "ordered_rag_3000": float(np.mean(np.square((vectors[:, :8] * later).sum(0)))),
    }  # fmt: skip
    with open(out, "w") as file:
        json.dump(numbers, file)


if __name__ == "__main__":
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    main(int(arguments["--seed"]), arguments["--out"])
