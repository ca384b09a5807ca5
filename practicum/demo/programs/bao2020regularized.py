"""Bao et al. 2020: which training of a linear autoencoder finds the principal components themselves, and how fast.

python reproduce.py --seed 3 --out out.json

All is computed in the coordinates in which the covariance is diagonal, C = diag(s): gradient descent does not see the
rotation, u_i is the i-th unit vector, and C costs a product by s. W is the encoder W1 and V the transposed decoder
W2', both (k, 64).
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.linalg import expm

K, RATE, START = 8, 0.3, 0.01  # units, rate of descent, standard deviation of the first weights
SURVIVES = 0.9  # nested dropout: unit i survives with probability 0.9^(i-1)
SIZES = [2, 4, 6, 8]


class Objective(NamedTuple):
    """Weights D (k, k) of the loss's terms, all 1 for the plain loss, and the units' penalties l (k, 1).

    Several objectives at once have a leading axis, as their W and V have.
    """

    D: np.ndarray
    l: np.ndarray  # noqa: E741 - the paper's letter


def spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues s of the digits' covariance, descending, and its eigenvectors as columns."""
    spec = find_spec("sklearn")
    assert spec is not None
    # the file behind load_digits: to import scikit-learn takes as long as all that follows
    X = np.loadtxt(Path(str(spec.origin)).parent / "datasets/data/digits.csv.gz", delimiter=",")[:, :64] / 16
    X = X - X.mean(axis=0)
    s, U = np.linalg.eigh(X.T @ X / len(X))
    return s[::-1].clip(0), U[:, ::-1]


def plain(k: int) -> Objective:
    """The reconstruction loss alone."""
    return Objective(np.ones((k, k)), np.zeros((k, 1)))


def penalised(k: int, uniform: bool = False) -> Objective:
    """With non-uniform l2 penalties, or with their mean for all units."""
    l = 0.1 * np.linspace(0.1, 0.9, k)[:, None] ** 2  # noqa: E741
    return Objective(np.ones((k, k)), np.full_like(l, l.mean()) if uniform else l)


def nested(k: int) -> Objective:
    """Nested dropout in expectation: D_ij is the probability that units i and j both survive."""
    i = np.arange(k)
    return Objective(SURVIVES ** np.maximum(i, i[:, None]), np.zeros((k, 1)))


def gradients(W: np.ndarray, V: np.ndarray, s: np.ndarray, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
    """The gradients, by W and by V, of tr C - 2 Σ_i D_ii (W C V')_ii + Σ_ij D_ij (V V')_ij (W C W')_ij + penalty."""
    D, l = objective  # noqa: E741
    alone, Ws = np.diagonal(D, axis1=-2, axis2=-1)[..., None], W * s
    by_W = (D * (V @ V.mT)) @ Ws - alone * (V * s) + l * W
    by_V = (D * (Ws @ W.mT)) @ V - alone * Ws + l * V
    return 2 * by_W, 2 * by_V


def descend(W: np.ndarray, V: np.ndarray, s: np.ndarray, objective: Objective, steps: int) -> tuple[np.ndarray, ...]:
    """W and V after so many steps of gradient descent."""
    for _ in range(steps):
        by_W, by_V = gradients(W, V, s, objective)
        W, V = W - RATE * by_W, V - RATE * by_V
    return W, V


def rotate(W: np.ndarray, V: np.ndarray, s: np.ndarray, steps: int) -> tuple[np.ndarray, ...]:
    """W and V after so many steps of the rotation augmented gradient (RAG) on the plain loss."""
    objective = plain(len(W))
    for _ in range(steps):
        by_W, by_V = gradients(W, V, s, objective)
        U = np.triu((W * s) @ W.T, 1)
        G = (U - U.T) / 2
        W, V = W + RATE * (G @ W - by_W), V + RATE * (G @ V - by_V)
    return W, V


def descents(first: np.ndarray, s: np.ndarray) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """W and V by objective and number of steps. All run at once, which saves most of the time.

    The pairs have two units, and six more whose weights are 0: these have no gradient, and stay so.
    """
    objectives = {"plain": plain(K), "l2": penalised(K), "nested": nested(K), "uniform": penalised(K, uniform=True),
                  "l2_pair": penalised(2), "uniform_pair": penalised(2, uniform=True)}  # fmt: skip
    units = [len(objective.l) for objective in objectives.values()]
    W = np.stack([np.where(np.arange(K)[:, None] < k, first, 0) for k in units])
    D = np.stack([np.pad(o.D, (0, K - len(o.l))) for o in objectives.values()])
    l = np.stack([np.pad(o.l, ((0, K - len(o.l)), (0, 0))) for o in objectives.values()])  # noqa: E741
    found: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    V, names, done = W, list(objectives), 0
    for steps, over in ((1000, "plain"), (10_000, "l2"), (30_000, "")):
        W, V = descend(W, V, s, Objective(D, l), steps - done)
        found |= {(name, steps): (W[i, : units[i]], V[i, : units[i]]) for i, name in enumerate(names)}
        go_on = [i for i, name in enumerate(names) if name != over]  # the others are needed for longer
        W, V, D, l = W[go_on], V[go_on], D[go_on], l[go_on]  # noqa: E741
        names, units, done = [names[i] for i in go_on], [units[i] for i in go_on], steps
    return found


def cosines(V: np.ndarray) -> np.ndarray:
    """cos^2(u_i, column j of W2), (k, k) by i and j."""
    return (V[:, : len(V)] ** 2 / (V**2).sum(axis=1, keepdims=True)).T


def misalignment(V: np.ndarray) -> float:
    """0 if each principal component is some unit's direction, at most 1."""
    return float(1 - cosines(V).max(axis=1).mean())


def subspace_distance(V: np.ndarray) -> float:
    """0 if the decoder spans the first k principal components, at most 1."""
    return float(max(0.0, 1 - (np.linalg.qr(V.T)[0][: len(V)] ** 2).sum() / len(V)))


def condition(k: int, s: np.ndarray) -> float:
    """Condition number of the Hessian of the l2 objective at its global minimum, by differences of gradients."""
    objective = penalised(k)
    W = np.zeros((k, len(s)))
    W[:, :k] = np.diag(np.sqrt(1 - objective.l[:, 0] / s[:k]))
    at, h = np.concatenate([W.ravel(), W.ravel()]), 1e-4

    def gradient(x: np.ndarray) -> np.ndarray:
        W, V = x.reshape(2, k, -1)
        return np.concatenate([part.ravel() for part in gradients(W, V, s, objective)])

    assert np.abs(gradient(at)).max() < 1e-12, "this is no stationary point"
    hessian = np.array([gradient(at + h * e) - gradient(at - h * e) for e in np.eye(at.size)]) / (2 * h)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    return float(eigenvalues[-1] / eigenvalues[0])


def forgetting(s: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Rate at which RAG forgets a small rotation of the two neighbours of closest eigenvalues: measured, in theory."""
    i = int(np.argmin(s[: K - 1] - s[1:K]))
    Z = rng.standard_normal((K, K))
    W = np.eye(K, len(s))
    W[:, :K] = expm(0.003 * (Z - Z.T))
    V, error = W.copy(), []
    for _ in range(600):
        W, V = rotate(W, V, s, 1)
        error.append(abs(float((W * s)[i] @ W[i + 1])))
    slope = np.polyfit(np.arange(101, 601), np.log(error[100:]), 1)[0]
    return float(-slope), float(RATE * (s[i] - s[i + 1]) / 2)


def measure(seed: int) -> dict[str, float | list[float]]:
    """All keys of the card for one seed."""
    rng = np.random.default_rng(seed)
    s, U = spectrum()
    first = START * rng.standard_normal((K, len(s))) @ U  # drawn as weights of pixels, then turned
    values: dict[str, float | list[float]] = {}

    W, V = rotate(first, first, s, 1000)
    values |= {"misalign_rag_1000": misalignment(V), "subspace_rag_1000": subspace_distance(V)}
    _, V = rotate(W, V, s, 2000)
    values["ordered_rag_3000"] = float(np.diag(cosines(V)).mean())

    found = descents(first, s)
    for name, steps in (("plain", 1000), ("nested", 1000), ("nested", 30_000), ("l2", 1000), ("l2", 10_000),
                        ("uniform", 30_000)):  # fmt: skip
        values[f"misalign_{name}_{steps}"] = misalignment(found[name, steps][1])
    values["subspace_l2_1000"] = subspace_distance(found["l2", 1000][1])
    for name in ("l2_pair", "uniform_pair"):
        values[f"misalign_{name}"] = misalignment(found[name, 30_000][1])
    W, _ = found["l2_pair", 30_000]
    values |= {"encoder_norm": float((W[1] ** 2).sum()), "encoder_norm_theory": float(1 - penalised(2).l[1, 0] / s[1])}

    values |= {"sizes": [float(k) for k in SIZES], "condition": [condition(k, s) for k in SIZES]}
    values["rag_rate"], values["rag_rate_theory"] = forgetting(s, rng)
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
