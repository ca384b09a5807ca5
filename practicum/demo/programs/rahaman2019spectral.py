"""Rahaman et al. 2019: which frequencies of a function a ReLU network learns first, and whether the kernel knows.

python reproduce.py --seed 3 --out out.json

The network f(x) = Σ_j a_j relu(w_j·(x, 1)) / √256 is trained by gradient descent on 128 points of a closed curve. In
the code H is the hidden layer (points, units), `on` says which units are active, c_k is the Fourier coefficient along
the curve and r = y - f the residual.
"""

import argparse
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

UNITS, POINTS, STEPS = 256, 128, 4000
LEARNED = np.array([1, 2, 4, 6])  # the target's frequencies k
EQUAL, RISING = np.ones(4), LEARNED / 3  # their amplitudes A_k
SPECTRUM = np.arange(8, 65)  # where the spectrum of untrained networks is fitted
NETWORKS, FINE = 20, 4096  # how many of these, on how many points
MOVES, LENGTH = 100, 1 / 8  # moves of all weights after training, and their length over that of the weights
Z = np.arange(POINTS) / POINTS
WAVES = np.exp(-2j * np.pi * np.outer(LEARNED, Z)) / POINTS  # c_k(f) = WAVES @ f


class Weights(NamedTuple):
    """Incoming weights and biases w (inputs + 1, units), outgoing weights a (units,)."""

    w: np.ndarray
    a: np.ndarray


def curve(z: np.ndarray, petals: int = 0) -> np.ndarray:
    """The points at z on the flower with so many petals, or on the circle; a last column of ones for the biases."""
    radius = 1 + 0.5 * np.sin(2 * np.pi * petals * z)
    return np.column_stack([radius * np.cos(2 * np.pi * z), radius * np.sin(2 * np.pi * z), np.ones_like(z)])


def fourier_inputs(z: np.ndarray) -> np.ndarray:
    """cos 2πjz and sin 2πjz for j = 1 to 16, over √16, and ones."""
    angles = 2 * np.pi * np.outer(z, np.arange(1, 17))
    return np.column_stack([np.cos(angles) / 4, np.sin(angles) / 4, np.ones_like(z)])


def first_weights(rng: np.random.Generator, inputs: int) -> Weights:
    """Standard Gaussian weights and biases."""
    return Weights(rng.standard_normal((inputs + 1, UNITS)), rng.standard_normal(UNITS))


def network(X: np.ndarray, weights: Weights) -> np.ndarray:
    """f at the rows of X."""
    return np.maximum(X @ weights.w, 0) @ weights.a / np.sqrt(UNITS)


def tangent_kernel(X: np.ndarray, weights: Weights) -> np.ndarray:
    """K, the inner products of the gradients of f by all weights, at each pair of points."""
    H = np.maximum(X @ weights.w, 0)
    on = (H > 0).astype(float)
    return (H @ H.T + (X @ X.T) * ((on * weights.a**2) @ on.T)) / UNITS


def train(X: np.ndarray, y: np.ndarray, first: Weights, rate: float) -> tuple[Weights, np.ndarray]:
    """Gradient descent on |y - f|^2 / 2; the last weights, and c_k(y - f) at steps 0, 1, ... (steps + 1, 4)."""
    w, a = first.w.copy(), first.a.copy()
    scale, left = np.sqrt(UNITS), []
    H = np.empty((len(X), UNITS))
    for step in range(STEPS + 1):
        np.maximum(np.matmul(X, w, out=H), 0, out=H)
        r = y - H @ a / scale
        left.append(WAVES @ r)
        if step < STEPS:
            on = (H > 0).astype(float)
            step_w = ((X * r[:, None]).T @ on) * a / scale  # minus the loss's gradient by w
            a += rate * (r @ H) / scale
            w += rate * step_w
    return Weights(w, a), np.array(left)


def linearised(K: np.ndarray, r: np.ndarray, rate: float) -> np.ndarray:
    """c_k of the residual (1 - rate K)^t r for t = 0, 1, ... STEPS."""
    eigenvalues, vectors = np.linalg.eigh(K)
    decay = (1 - rate * eigenvalues) ** np.arange(STEPS + 1)[:, None]
    return (decay * (vectors.T @ r)) @ (WAVES @ vectors).T


def times(left: np.ndarray) -> dict[int, float]:
    """The first step at which half of c_k or less is left, by frequency k; STEPS if there is none."""
    half = np.abs(left) <= np.abs(left[0]) / 2
    first = np.where(half.any(axis=0), half.argmax(axis=0), STEPS)
    return {int(k): float(step) for k, step in zip(LEARNED, first, strict=True)}


def kept(X: np.ndarray, weights: Weights, rng: np.random.Generator) -> np.ndarray:
    """Mean over random moves of all weights of |c_k(f)| after the move over before, (4,)."""
    flat = np.concatenate([weights.w.ravel(), weights.a])
    shares = []
    for _ in range(MOVES):
        move = rng.standard_normal(flat.size)
        moved = flat + LENGTH * np.linalg.norm(flat) * move / np.linalg.norm(move)
        there = Weights(moved[:-UNITS].reshape(weights.w.shape), moved[-UNITS:])
        shares.append(np.abs(WAVES @ network(X, there)))
    return np.mean(shares, axis=0) / np.abs(WAVES @ network(X, weights))


def untrained_spectrum(activation: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Root mean square of |c_k| over untrained networks on the circle, for k in SPECTRUM."""
    X = curve(np.arange(FINE) / FINE)
    squares = []
    for _ in range(NETWORKS):
        w, a = first_weights(rng, 2)
        f = activation(X @ w) @ a / np.sqrt(UNITS)
        squares.append(np.abs(np.fft.rfft(f)[SPECTRUM] / FINE) ** 2)
    return np.sqrt(np.mean(squares, axis=0))


def measure(seed: int) -> dict[str, float | list[float]]:
    """All keys of the card for one seed."""
    streams = np.random.SeedSequence(seed).spawn(5)  # so that no part depends on how much another one drew
    phases, first, first_fourier, moves, spectra = (np.random.default_rng(stream) for stream in streams)
    sines = np.sin(2 * np.pi * np.outer(Z, LEARNED) + phases.uniform(0, 2 * np.pi, 4))
    circle, flower, fourier = curve(Z), curve(Z, petals=4), fourier_inputs(Z)
    weights, weights_fourier = first_weights(first, 2), first_weights(first_fourier, 32)
    K = tangent_kernel(circle, weights)
    rate = 1 / np.linalg.eigvalsh(K)[-1]

    trained, left = train(circle, sines @ EQUAL, weights, rate)
    _, left_rising = train(circle, sines @ RISING, weights, rate)
    rate_flower = 1 / np.linalg.eigvalsh(tangent_kernel(flower, weights))[-1]
    _, left_flower = train(flower, sines @ EQUAL, weights, rate_flower)
    rate_fourier = 1 / np.linalg.eigvalsh(tangent_kernel(fourier, weights_fourier))[-1]
    _, left_fourier = train(fourier, sines @ EQUAL, weights_fourier, rate_fourier)
    left_kernel = linearised(K, sines @ EQUAL - network(circle, weights), rate)

    t, t_rising, t_kernel = times(left), times(left_rising), times(left_kernel)
    t_flower, t_fourier = times(left_flower), times(left_fourier)
    values: dict[str, float | list[float]] = {f"t_{k}": step for k, step in t.items()}
    values |= {f"t_{k}_rising": step for k, step in t_rising.items()}
    values |= {"t_2_fourier": t_fourier[2], "t_6_fourier": t_fourier[6], "t_6_flower": t_flower[6]}
    values |= {"t_2_kernel": t_kernel[2], "t_6_kernel": t_kernel[6]}
    kept_1, _, _, kept_6 = kept(circle, trained, moves)
    values |= {"kept_1": float(kept_1), "kept_6": float(kept_6), "frequencies": SPECTRUM.astype(float).tolist()}
    values["spectrum"] = untrained_spectrum(lambda u: np.maximum(u, 0), spectra).tolist()
    values["spectrum_tanh"] = untrained_spectrum(np.tanh, spectra).tolist()
    return values


def main() -> None:
    """Measure one seed and write the keys as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scale", default="laptop", help="There is one scale.")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    values = measure(args.seed)
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(values, file)


if __name__ == "__main__":
    main()
