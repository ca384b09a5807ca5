"""A drifting stream: wealth that is dealt out anew, by a share after each payoff, against wealth that is kept."""

import argparse
import json

import midterm as m  # type: ignore[import-not-found]
import numpy as np
from sklearn.datasets import load_digits


def stream_loss(part: m.Part, share: float) -> float:
    """Log loss of log agents, each digit predicted before it pays."""
    true, n = m.true_class(part), part.P.shape[1]
    W, losses = np.full(n, 1 / n), []
    for P in true:
        losses.append(-np.log(P @ W))
        W = (1 - share) * W * P / (P @ W) + share / n
    return float(np.mean(losses))


def measure(seed: int) -> dict[str, float]:
    """Losses on the digits, whose images are rolled by a column after each 200."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    order = rng.permutation(len(X))
    X, y = X[order] / 16, y[order]
    models, pixels = m.train_agents(X[: m.TRAIN], y[: m.TRAIN], rng)
    images = X[m.TRAIN :].reshape(-1, 8, 8)
    drifted = np.stack([np.roll(image, i // 200, axis=1) for i, image in enumerate(images)]).reshape(-1, 64)
    part = m.Part(m.beliefs(models, [drifted[:, seen] for seen in pixels]), y[m.TRAIN :])
    return {"loss_kept": stream_loss(part, 0.0), "loss_shared": stream_loss(part, 0.05)}


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--scale")
parser.add_argument("--out", required=True)
args = parser.parse_args()
with open(args.out, "w", encoding="utf-8") as file:
    json.dump(measure(args.seed), file)
