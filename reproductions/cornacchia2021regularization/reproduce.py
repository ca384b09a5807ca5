"""Cornacchia et al. 2021: labels redrawn at every step make few neurons fire, and wither a network at p = 1."""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812

from phenomena.data import Dataset, load, with_label_noise
from phenomena.errors import Diverged
from phenomena.label_noise import firing, fresh_label_loss, smoothed_label_loss
from phenomena.networks import mlp
from phenomena.program import Values, main
from phenomena.training import cross_entropy, error_rate, train

# p: the noise of the sweep; batches: batch sizes at noise P; inputs, neurons, h, updates: of the network that withers
# (the paper's Figure 4: 30, 120, 1/900 and 2e8); single: updates of the single neuron.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": ("mnist5k", 300, 200), "width": 32, "steps": 60, "p": (0.0, 0.2, 0.4, 0.6, 0.8), "batches": (16, 64),
        "inputs": 10, "neurons": 10, "h": 0.05, "updates": 20_000, "single": 20_000,
    },
    "laptop": {
        "data": ("mnist5k", 4000, 1000), "width": 256, "steps": 3000, "p": (0.0, 0.2, 0.4, 0.6, 0.8),
        "batches": (16, 64, 256), "inputs": 10, "neurons": 40,
        "h": 0.05, "updates": 2_000_000, "single": 1_000_000,
    },
    "paper": {
        "data": ("mnist", 60_000, 10_000), "width": 256, "steps": 100_000, "p": (0.0, 0.2, 0.4, 0.6, 0.8),
        "batches": (16, 64, 256), "inputs": 30, "neurons": 120,
        "h": 1 / 900, "updates": 200_000_000, "single": 2_000_000,
    },
}  # fmt: skip
BATCH, LR, P = 16, 0.1, 0.4
LOOKS = 20  # how often the withering network is looked at
RATES = (0.01, 0.02, 0.05, 0.1)  # h of the single neuron


def trained(
    data: Dataset, setting: dict, p: float, kind: str, batch: int, seed: int
) -> tuple[nn.Sequential, list[float]]:
    """An MLP trained at noise p of a kind (fresh, smoothed, fixed), and its active share at LOOKS times."""
    generator = torch.Generator().manual_seed(seed)
    model = mlp((data.X_train.shape[1], setting["width"], 10), generator)
    loss = {"fresh": fresh_label_loss(p, 10, generator), "smoothed": smoothed_label_loss(p), "fixed": cross_entropy}[
        kind
    ]
    y = with_label_noise(data.y_train, p, 10, seed) if kind == "fixed" else data.y_train
    steps = setting["steps"]
    history = train(
        model, data.X_train, y, loss, torch.optim.SGD(model.parameters(), lr=LR), steps, batch, generator,
        record=lambda step, _: {"active": firing(model, data.X_test).active},
        record_at=times(steps), label=f"{kind} labels, p {p}, batch {batch}",
    )  # fmt: skip
    return model, history.recorded["active"]


def times(steps: int) -> list[int]:
    """LOOKS + 1 steps, evenly spaced, from the first to the last."""
    return np.linspace(0, steps, LOOKS + 1).round().astype(int).tolist()


def sparse(setting: dict, seed: int) -> dict[str, float | list[float]]:
    """Active share, dead units, and errors against p, for labels redrawn, smoothed, and wrong once and for all."""
    name, n_train, n_test = setting["data"]
    data = load(name, n_train, n_test, seed)
    out: dict[str, float | list[float]] = {"p": list(setting["p"]), "batches": list(setting["batches"])}
    out["steps"] = [float(t) for t in times(setting["steps"])]
    clean = trained(data, setting, 0.0, "fixed", BATCH, seed)  # without noise the three kinds are one
    out["path_p00"] = clean[1]
    for kind in ("fresh", "smoothed", "fixed"):
        active, dead, error = [], [], []
        for p in setting["p"]:
            model, path = trained(data, setting, p, kind, BATCH, seed) if p else clean
            fires = firing(model, data.X_test)
            active.append(fires.active)
            dead.append(float(fires.dead))
            error.append(error_rate(model, data.X_test, data.y_test))
            if p and kind == "fresh":
                out[f"path_p{round(100 * p):02d}"] = path
        for key, curve in ((f"active_{kind}", active), (f"dead_{kind}", dead), (f"error_{kind}", error)):
            out[key] = curve
            out |= {f"{key}_p{round(100 * p):02d}": value for p, value in zip(setting["p"], curve, strict=True)}
    fires_at = [firing(trained(data, setting, P, "fresh", b, seed)[0], data.X_test).active for b in setting["batches"]]
    return out | {"active_batch": fires_at, "active_largest_batch": fires_at[-1]}


@numba.njit
def wither(W, b, v, c, h, steps, every, bias, train_v, X, seed):  # type: ignore[no-untyped-def]
    """SGD, one sample an update, on f(x) = v relu(Wx + b) + c with logistic loss, x ~ N(0, I) and y = ±1 at random.

    At every `every` updates: |W|_F, mean of b, active share on the inputs X, units that fire on none of them.
    """
    np.random.seed(seed)  # numba has a generator of its own
    m, d = W.shape
    out = np.zeros((steps // every + 1, 4))
    z = np.empty(m)
    for t in range(steps + 1):
        if t % every == 0:
            for i in range(m):
                fires = (X @ W[i] + b[i] > 0).sum()
                out[t // every, 2] += fires / (m * len(X))
                out[t // every, 3] += fires == 0
            out[t // every, 0] = np.sqrt((W * W).sum())
            out[t // every, 1] = b.mean()
        x = np.random.standard_normal(d)
        y = 1.0 if np.random.random() < 0.5 else -1.0
        f = c
        for i in range(m):
            z[i] = b[i]
            for j in range(d):
                z[i] += W[i, j] * x[j]
            f += v[i] * max(z[i], 0.0)
        g = -y / (1 + np.exp(min(700.0, y * f)))  # dL/df
        for i in range(m):
            if z[i] > 0:
                slope = h * g * v[i]
                if train_v:
                    v[i] -= h * g * z[i]
                for j in range(d):
                    W[i, j] -= slope * x[j]
                if bias:
                    b[i] -= slope
        if bias:
            c -= h * g
    return out


def start(setting: dict, bias: bool, seed: int) -> tuple[NDArray, ...]:
    """W, b, v uniform in (-√3, √3), as in the paper's Figure 4 (b = 0 without biases), and 500 inputs to look at."""
    rng = np.random.default_rng(seed)
    m, d, edge = setting["neurons"], setting["inputs"], 3**0.5
    W, v = rng.uniform(-edge, edge, (m, d)), rng.uniform(-edge, edge, m)
    return W, rng.uniform(-edge, edge, m) if bias else np.zeros(m), v, rng.standard_normal((500, d))


def withering(setting: dict, seed: int) -> dict[str, float | list[float]]:
    """p = 1, Gaussian inputs: with biases neurons cease to fire, without them the weights vanish (Figure 4)."""
    every = setting["updates"] // LOOKS
    out: dict[str, float | list[float]] = {"updates": [float(every * k) for k in range(LOOKS + 1)]}
    for name, bias in (("bias", True), ("nobias", False)):
        W, b, v, X = start(setting, bias, seed)
        seen = wither(W, b, v, 0.0, setting["h"], every * LOOKS, every, bias, True, X, seed)
        if not np.isfinite(seen).all():
            raise Diverged(f"the withering network's weights are not finite ({name}, h {setting['h']:g})")
        out |= {f"norm_{name}": (seen[:, 0] / seen[0, 0]).tolist(), f"firing_{name}": seen[:, 2].tolist()}
        out |= {f"norm_{name}_end": seen[-1, 0] / seen[0, 0], f"firing_{name}_end": seen[-1, 2]}
        out |= {f"mean_bias_{name}": seen[:, 1].tolist(), f"dead_{name}_end": seen[-1, 3] / setting["neurons"]}
    return out


def single_neuron(setting: dict, seed: int) -> dict[str, float | list[float]]:
    """One neuron relu(w x) at p = 1, from norm 3: the root mean square of |w| in the second half, for each h.

    Where h is small, 0 = -2h E[g f] + h² E[g²|x|²] with E[g f] = |w|²/8 and E[g²|x|²] = d/8, so |w|² = h d/2.
    """
    d, every = setting["inputs"], setting["single"] // 1000
    norms = []
    for h in RATES:
        w = np.zeros((1, d))
        w[0, 0] = 3.0
        seen = wither(w, np.zeros(1), np.ones(1), 0.0, h, every * 1000, every, False, False, np.eye(d), seed)
        norms.append(float(np.sqrt((seen[500:, 0] ** 2).mean())))
    theory = [(h * d / 2) ** 0.5 for h in RATES]
    out: dict[str, float | list[float]] = {"single_h": list(RATES), "single_norm": norms, "single_theory": theory}
    return out | {"single_norm_smallest": norms[0], "single_theory_smallest": theory[0]}


def shrinking_steps(seed: int, samples: int = 200, h: float = 1e-4) -> dict[str, float]:
    """Theorem 1: per cent of small steps on one sample that shrink the norms of all layers of a deep ReLU network.

    No biases, logistic loss; `wrong`: on samples that the network gets wrong, `right`: on those that it gets right.
    """
    generator = torch.Generator().manual_seed(seed)
    model = mlp((10, 20, 20, 1), generator, bias=False, init="he").double()
    weights = list(model.parameters())
    shrunk: dict[bool, list[bool]] = {True: [], False: []}
    for x in torch.randn(samples, 10, generator=generator, dtype=torch.float64):
        f = model(x)[0]
        for y in (1.0, -1.0):
            slopes = torch.autograd.grad(F.softplus(-y * f), weights, retain_graph=True)
            smaller = [bool((W - h * G).norm() < W.norm()) for W, G in zip(weights, slopes, strict=True)]
            shrunk[bool(y * f < 0)].append(all(smaller))
    return {
        f"shrinks_{name}": 100 * float(np.mean(shrunk[wrong])) for name, wrong in (("wrong", True), ("right", False))
    }


def basis_points(seed: int, points: int = 50, k: int = 5, epochs: int = 2000) -> dict[str, float]:
    """2k neurons without biases, output weights fixed at ±1, hinge loss max(0, -yf), p = 1: step 1 against step 1/k.

    The inputs are the unit vectors, so that each is a network of its own. Per cent of them at which some neuron still
    fires at the end.
    """
    out: dict[str, float] = {}
    for name, h in (("large", 1.0), ("small", 1 / k)):
        rng = np.random.default_rng(seed)
        v = np.repeat([1.0, -1.0], k)
        W = rng.uniform(-1, 1, (points, 2 * k))
        for _ in range(epochs):
            y = rng.choice([-1.0, 1.0], points)
            f = np.maximum(W, 0) @ v
            W += h * ((y * f < 0) * y)[:, None] * v * (W > 0)
        out[f"alive_step_{name}"] = 100 * float((W > 0).any(1).mean())
    return out


def measure(seed: int, scale: str) -> Values:
    """All numbers and curves for one seed."""
    setting = SETTINGS[scale]
    return (
        sparse(setting, seed)
        | withering(setting, seed)
        | single_neuron(setting, seed)
        | shrinking_steps(seed)
        | basis_points(seed)
    )


if __name__ == "__main__":
    main(measure)
