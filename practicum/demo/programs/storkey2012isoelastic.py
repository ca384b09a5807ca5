"""Storkey, Millin & Geras 2012: markets in which classifiers bet, their prices and their wealth.

python reproduce.py --seed 3 --out out.json

P holds beliefs (digits, agents, classes), W shares of wealth (agents,), c prices (digits, classes), y the true
classes.
"""

import argparse
import json
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

TRAIN, MARKET = 600, 500  # digits to train the agents and to deal out wealth; the others test
PIXELS, CLASSES, ROUNDS = 20, 10, 200
ISO = 5.0  # η of isoelastic agents
ETAS = np.array([4.0, 8, 16, 32, 64])
FEW = 100  # test digits for the closed forms


class Part(NamedTuple):
    """The agents' beliefs on some digits, and the true classes."""

    P: np.ndarray
    y: np.ndarray


def beliefs(models: list, X: list[np.ndarray]) -> np.ndarray:
    """P of models, each on its own X; a class that one has not seen has 0 before the uniform belief is mixed in."""
    P = np.zeros((len(X[0]), len(models), CLASSES))
    for i, (model, x) in enumerate(zip(models, X, strict=True)):
        P[:, i, model.classes_.astype(int)] = model.predict_proba(x)
    return 0.98 * P + 0.002


def train_agents(X: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[list, np.ndarray]:
    """Ten logistic regressions and ten trees on samples of growing size; the models, and the pixels of each."""
    models, pixels = [], []
    for i in range(20):
        n = round(30 * 10 ** (i % 10 / 9))
        sample, seen = rng.permutation(TRAIN)[:n], rng.choice(X.shape[1], PIXELS, replace=False)
        tree = DecisionTreeClassifier(random_state=int(rng.integers(2**31)))
        model = LogisticRegression(C=10, max_iter=1000) if i < 10 else tree
        models.append(model.fit(X[sample][:, seen], y[sample]))
        pixels.append(seen)
    return models, np.array(pixels)


class Agents(NamedTuple):
    """Agents of one utility: their beliefs, wealth and η."""

    P: np.ndarray
    W: np.ndarray
    eta: float


def payoffs(agents: Agents, c: np.ndarray) -> np.ndarray:
    """What each agent has in each event, W (P/c)^(1/η) / Z, (digits, agents, classes)."""
    bought = (agents.P / c[:, None]) ** (1 / agents.eta)
    return agents.W[:, None] * bought / (bought * c[:, None]).sum(axis=2, keepdims=True)


def clear(*market: Agents, tolerance: float = 1e-8) -> np.ndarray:
    """The prices at which the payoffs sum to the whole wealth 1 in every event: multiply them by a power of that sum.

    Payoffs fall as c^(-1/η), so the right power is η, or between the smallest and the largest where they differ.
    """
    beliefs = [agents.P ** (1 / agents.eta) for agents in market]
    power = 1 / np.mean([1 / agents.eta for agents in market])
    c = np.full(market[0].P[:, 0].shape, 1 / CLASSES)
    for _ in range(1000):
        total = np.zeros_like(c)
        for B, (_, W, eta) in zip(beliefs, market, strict=True):
            Z = B @ (c ** (1 - 1 / eta))[:, :, None]
            total += c ** (-1 / eta) * ((W[:, None] / Z).mT @ B)[:, 0]
        if np.abs(total - 1).max() < tolerance:
            return c
        c = c * total**power
        c /= c.sum(axis=1, keepdims=True)
    raise ArithmeticError("the market does not clear")


def pool(P: np.ndarray, W: np.ndarray) -> np.ndarray:
    """The linear pool, prices of agents with log utility, (digits, classes)."""
    return np.einsum("nik,i->nk", P, W)


def variation(p: np.ndarray, q: np.ndarray) -> float:
    """Total variation, averaged over the digits where there are several."""
    return float(np.abs(p - q).sum(axis=-1).mean() / 2)


def sequential(part: Part, eta: float, digits: int) -> np.ndarray:
    """Shares of wealth when each digit pays in turn and the payoffs are carried over."""
    W = np.full(part.P.shape[1], 1 / part.P.shape[1])
    for P, y in zip(part.P[:digits, None], part.y, strict=False):
        agents = Agents(P, W, eta)
        W = payoffs(agents, clear(agents))[0, :, y]
    return W


def log_wealth(part: Part, y: np.ndarray) -> np.ndarray:
    """Logarithm of log agents' wealth when the market pays on y: prices are a linear pool, P(y)/c(y) multiplies W."""
    logs = np.full(part.P.shape[1], -np.log(part.P.shape[1]))
    for P, k in zip(part.P, y, strict=True):
        logs = logs + np.log(P[:, k]) - np.log(np.exp(logs) @ P[:, k])
    return logs


def split_stakes(part: Part) -> np.ndarray:
    """Wealth of log agents after rounds in which each digit has a market of its own: W_i <- mean of W_i P_i(y)/c(y)."""
    true = true_class(part)
    W = np.full(true.shape[1], 1 / true.shape[1])
    for _ in range(ROUNDS):
        W = W * (true / (true @ W)[:, None]).mean(axis=0)
    return W


def true_class(part: Part) -> np.ndarray:
    """P_i(y), (digits, agents)."""
    return part.P[np.arange(len(part.y)), :, part.y]


def best_mixture(part: Part) -> float:
    """The least log loss over all shares of wealth, by a general optimiser."""
    true = true_class(part)
    n = true.shape[1]
    found = minimize(
        lambda W: -np.log(true @ W).mean(), np.full(n, 1 / n), jac=lambda W: -(true / (true @ W)[:, None]).mean(axis=0),
        bounds=[(0, 1)] * n, constraints={"type": "eq", "fun": lambda W: W.sum() - 1, "jac": np.ones_like},
        method="SLSQP", options={"ftol": 1e-10, "maxiter": 500},
    )  # fmt: skip
    return float(found.fun)


def loss(c: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log price of the true class."""
    return float(-np.log(c[np.arange(len(y)), y]).mean())


def error(c: np.ndarray, y: np.ndarray) -> float:
    """How often the dearest class is not the true one."""
    return float((c.argmax(axis=1) != y).mean())


def tempered(c: np.ndarray, b: float) -> np.ndarray:
    """Prices to the power b, over their sum."""
    sharp = np.exp(b * np.log(c))
    return sharp / sharp.sum(axis=1, keepdims=True)


def closed_forms(P: np.ndarray, W: np.ndarray) -> dict[str, float | list[float]]:
    """How far market prices are from the linear pool (η = 1) and, for growing η, from the geometric one."""
    geometric = np.exp(pool(np.log(P), W))
    geometric /= geometric.sum(axis=1, keepdims=True)
    gaps = [variation(clear(Agents(P, W, eta)), geometric) for eta in ETAS]
    linear = variation(clear(Agents(P, W, 1.0)), pool(P, W))
    return {"log_gap": linear, "etas": ETAS.tolist(), "geometric_gap": gaps}


def wealth(market: Part, test: Part, rng: np.random.Generator) -> dict[str, float]:
    """What the two ways to pay do to the wealth, and how the richer market then predicts."""
    posterior = np.exp(np.log(true_class(market)[:20]).sum(axis=0))
    posterior /= posterior.sum()
    logs, skill = log_wealth(market, market.y), np.log(true_class(test)).mean(axis=0)
    split, own = split_stakes(market), -np.log(true_class(market)).mean(axis=0)

    def rank(log_shares: np.ndarray) -> float:
        return float(spearmanr(log_shares, skill).statistic)

    return {
        "bayes_gap": variation(sequential(market, 1.0, 20), posterior),
        "bayes_gap_iso": variation(sequential(market, 3.0, 20), posterior),
        "loss_split": float(-np.log(true_class(market) @ split).mean()), "loss_best_mixture": best_mixture(market),
        "rank": rank(logs), "rank_shuffled": rank(log_wealth(market, rng.permutation(market.y))),
        "loss_market": loss(pool(test.P, split), test.y),
        "loss_single": loss(test.P[:, own.argmin()], test.y),
        "loss_bayes": loss(pool(test.P, np.exp(logs)), test.y),
    }  # fmt: skip


def utilities(market: Part, test: Part) -> dict[str, float]:
    """Logarithmic against isoelastic agents of equal wealth, as they are and with prices sharpened."""
    values: dict[str, float] = {}
    for name, eta in (("log", 1.0), ("iso", ISO)):
        W = np.full(test.P.shape[1], 1 / test.P.shape[1])
        c, c_market = clear(Agents(test.P, W, eta)), clear(Agents(market.P, W, eta))
        b = minimize_scalar(lambda b, c=c_market: loss(tempered(c, b), market.y), bounds=(0.1, 20), method="bounded").x
        values |= {f"loss_{name}": loss(c, test.y), f"error_{name}": error(c, test.y)}
        values[f"loss_{name}_tempered"] = loss(tempered(c, b), test.y)
    return values


def forest(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, seed: int) -> dict[str, float]:
    """A forest's vote against a market in which half of its trees are isoelastic."""
    trees = RandomForestClassifier(50, random_state=seed).fit(X, y).estimators_
    P = beliefs(trees, [X_test] * 50)
    W = np.full(50, 1 / 50)
    mixed = clear(Agents(P[:, :25], W[:25], 1.0), Agents(P[:, 25:], W[25:], ISO))
    return {"error_forest": error(pool(P, W), y_test), "error_forest_mixed": error(mixed, y_test)}


def measure(seed: int) -> dict[str, float | list[float]]:
    """All keys of the card for one seed."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    order = rng.permutation(len(X))
    X, y = X[order] / 16, y[order]
    models, pixels = train_agents(X[:TRAIN], y[:TRAIN], rng)
    held = TRAIN + MARKET
    market, test = (
        Part(beliefs(models, [X[part][:, seen] for seen in pixels]), y[part])
        for part in (slice(TRAIN, held), slice(held, None))
    )
    values = closed_forms(test.P[:FEW], rng.dirichlet(np.ones(20)))
    values |= wealth(market, test, rng) | utilities(market, test)
    return values | forest(X[:held], y[:held], X[held:], y[held:], int(rng.integers(2**31)))


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
