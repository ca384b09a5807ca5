"""Markets of eight trees on fewer digits, without the sequential market and without the forest."""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from sklearn.datasets import load_digits
from sklearn.tree import DecisionTreeClassifier


def prices(bets: np.ndarray, risk: float) -> np.ndarray:
    """Clearing prices of equally rich agents with utility W^(1-risk); bets (digits, agents, classes)."""
    c = bets.mean(axis=1)
    for _ in range(200):
        share = (bets / c[:, None, :]) ** (1 / risk)
        share /= (share * c[:, None, :]).sum(-1, keepdims=True)
        new = c * share.mean(axis=1) ** risk
        new /= new.sum(-1, keepdims=True)
        if np.abs(new - c).max() < 1e-9:
            break
        c = new
    return c


def log_loss(c: np.ndarray, labels: np.ndarray) -> float:
    """Natural logarithm of the price of the right class, negative mean."""
    return -float(np.mean([np.log(row[label]) for row, label in zip(c, labels, strict=True)]))


def sharpen(c: np.ndarray, power: float) -> np.ndarray:
    """Prices to a power."""
    d = c**power
    return d / d.sum(1, keepdims=True)


def fitted(c: np.ndarray, labels: np.ndarray) -> float:
    """The power with the least loss: where its derivative vanishes."""
    logs = np.log(c)

    def slope(power: float) -> float:
        return float(np.mean((sharpen(c, power) * logs).sum(1) - logs[np.arange(len(labels)), labels]))

    return float(brentq(slope, 0.2, 15))


def experiment(seed: int, risk: float = 5.0) -> dict:
    """The keys of the equal-wealth market, and of the wealth that trades once."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    shuffled = rng.permutation(1797)
    images, labels = digits.data[shuffled], digits.target[shuffled]
    train, market, test = slice(0, 600), slice(600, 800), slice(800, 1100)
    crowd = []
    for size in np.linspace(60, 300, 8).astype(int):
        pixels, rows = rng.choice(64, 20, replace=False), rng.choice(600, size, replace=False)
        tree = DecisionTreeClassifier(random_state=seed % 2**31)
        tree.fit(images[train][rows][:, pixels], labels[train][rows])
        full = np.zeros((1797, 10))
        full[:, tree.classes_] = tree.predict_proba(images[:, pixels])
        crowd.append(0.98 * full + 0.002)
    all_bets = np.stack(crowd, axis=1)  # digit, agent, class
    out: dict = {}
    for name, eta in (("log", 1.0), ("iso", risk)):
        there = prices(all_bets[market], eta)
        here = prices(all_bets[test], eta)
        out[f"loss_{name}"] = log_loss(here, labels[test])
        out[f"error_{name}"] = float(np.mean(here.argmax(1) != labels[test]))
        out[f"loss_{name}_tempered"] = log_loss(sharpen(here, fitted(there, labels[market])), labels[test])
    own = np.array([log_loss(all_bets[market][:, i], labels[market]) for i in range(8)])
    likelihood = np.array([bets[:, label] for bets, label in zip(all_bets[market], labels[market], strict=True)])
    wealth = np.full(8, 1 / 8)
    for _ in range(200):
        wealth = np.mean(likelihood * wealth / (likelihood @ wealth)[:, None], axis=0)
    out["loss_market"] = log_loss(np.tensordot(all_bets[test], wealth, axes=([1], [0])), labels[test])
    out["loss_single"] = log_loss(all_bets[test][:, own.argmin()], labels[test])
    out["loss_bayes"] = log_loss(all_bets[test][:, np.log(likelihood).sum(axis=0).argmax()], labels[test])
    return out


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    for option in ("--seed", "--scale", "--out"):
        options.add_argument(option)
    chosen = options.parse_args()
    Path(chosen.out).write_text(json.dumps(experiment(int(chosen.seed))))
