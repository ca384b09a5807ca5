"""Spectral bias, in small: 64 hidden units and 1,000 steps instead of 256 and 4,000."""

import argparse
import json
from pathlib import Path

import numpy as np

WIDTH = 64
N_STEPS = 1000
N_POINTS = 128
FREQS = [1, 2, 4, 6]


class Net:
    """One hidden layer; the bias is the last row of the incoming weights."""

    def __init__(self, inputs: np.ndarray, generator: np.random.Generator) -> None:
        self.x = np.hstack([inputs, np.ones((len(inputs), 1))])
        self.first = generator.normal(size=(self.x.shape[1], WIDTH))
        self.second = generator.normal(size=WIDTH)

    def hidden(self) -> np.ndarray:
        """Activations at all points."""
        return (self.x @ self.first).clip(min=0)

    def output(self) -> np.ndarray:
        """Values at all points."""
        return self.hidden() @ self.second / 8.0

    def features(self) -> np.ndarray:
        """Gradient of each value by all weights, one row a point."""
        h = self.hidden()
        inner = np.where(h > 0, self.second, 0.0)[:, None, :] * self.x[:, :, None]
        return np.hstack([inner.reshape(len(h), -1), h]) / 8.0

    def fit(self, target: np.ndarray) -> np.ndarray:
        """Train and give |c_k| of the residual, one row a step."""
        jacobian = self.features()
        lr = 1.0 / np.linalg.norm(jacobian @ jacobian.T, 2)
        history = []
        for _ in range(N_STEPS):
            residual = target - self.output()
            history.append(amplitude(residual))
            h = self.hidden()
            grad_second = residual @ h
            grad_first = self.x.T @ np.where(h > 0, np.outer(residual, self.second), 0.0)
            self.second = self.second + lr / 8.0 * grad_second
            self.first = self.first + lr / 8.0 * grad_first
        return np.array(history)


def amplitude(values: np.ndarray) -> np.ndarray:
    """|c_k| at the target's frequencies."""
    return np.abs(np.fft.fft(values)[FREQS]) / len(values)


def half_times(history: np.ndarray) -> list[float]:
    """When half of each frequency is gone, or the number of steps if it never is."""
    below = history <= history[0] / 2
    return [float(np.flatnonzero(column)[0]) if column.any() else float(N_STEPS) for column in below.T]


def ring(t: np.ndarray, amount: float = 0.0) -> np.ndarray:
    """Points on the circle, or on the flower with four petals."""
    r = 1 + amount * np.sin(8 * np.pi * t)
    return np.stack([r * np.cos(2 * np.pi * t), r * np.sin(2 * np.pi * t)], axis=1)


def raw_spectrum(act: str, generator: np.random.Generator) -> list[float]:
    """Mean square amplitude of five networks that have not been trained, its root."""
    t = np.arange(1024) / 1024
    total = np.zeros(57)
    for _ in range(5):
        net = Net(ring(t), generator)
        pre = net.x @ net.first
        values = (np.tanh(pre) if act == "tanh" else pre.clip(min=0)) @ net.second / 8.0
        total += np.abs(np.fft.fft(values)[8:65] / 1024) ** 2
    return [float(v) for v in np.sqrt(total / 5)]


def experiment(seed: int) -> dict:
    """Every key of the card."""
    t = np.arange(N_POINTS) / N_POINTS
    phase = np.random.default_rng([seed, 1]).uniform(0, 2 * np.pi, 4)
    waves = [np.sin(2 * np.pi * k * t + p) for k, p in zip(FREQS, phase, strict=True)]
    equal, rising = sum(waves), sum(k / 3 * wave for k, wave in zip(FREQS, waves, strict=True))
    sixteen = np.hstack([np.stack([np.cos(2 * np.pi * j * t), np.sin(2 * np.pi * j * t)], 1) / 4 for j in range(1, 17)])
    result: dict = {}

    net = Net(ring(t), np.random.default_rng([seed, 2]))
    jacobian, residual = net.features(), equal - net.output()
    kernel = jacobian @ jacobian.T
    lr, linear = 1.0 / np.linalg.norm(kernel, 2), []
    for _ in range(N_STEPS):
        linear.append(amplitude(residual))
        residual = residual - lr * (kernel @ residual)
    _, result["t_2_kernel"], _, result["t_6_kernel"] = half_times(np.array(linear))
    result["t_1"], result["t_2"], result["t_4"], result["t_6"] = half_times(net.fit(equal))

    before, size = amplitude(net.output()), np.sqrt((net.first**2).sum() + (net.second**2).sum())
    first, second, moved = net.first, net.second, []
    shaking = np.random.default_rng([seed, 3])
    for _ in range(30):
        a, b = shaking.normal(size=first.shape), shaking.normal(size=second.shape)
        length = size / 8 / np.sqrt((a**2).sum() + (b**2).sum())
        net.first, net.second = first + length * a, second + length * b
        moved.append(amplitude(net.output()) / before)
    result["kept_1"], _, _, result["kept_6"] = (float(v) for v in np.mean(moved, axis=0))

    for name, inputs, target in (("rising", ring(t), rising), ("flower", ring(t, 0.5), equal),
                                 ("fourier", sixteen, equal)):  # fmt: skip
        other = half_times(Net(inputs, np.random.default_rng([seed, 2])).fit(target))
        result |= {f"t_{k}_{name}": value for k, value in zip(FREQS, other, strict=True)}
    result["frequencies"] = [float(k) for k in range(8, 65)]
    result["spectrum"] = raw_spectrum("relu", np.random.default_rng([seed, 4]))
    result["spectrum_tanh"] = raw_spectrum("tanh", np.random.default_rng([seed, 5]))
    return result


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    for option in ("--seed", "--scale", "--out"):
        options.add_argument(option)
    chosen = options.parse_args()
    Path(chosen.out).write_text(json.dumps(experiment(int(chosen.seed))))
