"""Cohen et al. 2021: full-batch gradient descent takes the sharpness to 2/η, and trains on at that edge."""

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from phenomena.curvature import Eigenpairs, hessian, top_eigenpairs
from phenomena.data import load
from phenomena.errors import Diverged
from phenomena.networks import mlp
from phenomena.program import Values, main
from phenomena.training import Loss, cross_entropy, squared_loss, train

# n: samples; hidden: widths; steps: of every run; every: steps between two measurements of the sharpness.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "n": 50, "hidden": (8,), "steps": 20, "every": 4},
    "laptop": {"data": "mnist1d", "n": 500, "hidden": (32, 32), "steps": 1500, "every": 20},
    "paper": {"data": "cifar10", "n": 5000, "hidden": (200, 200), "steps": 50_000, "every": 250},
}
# Step sizes; the smallest does not reach its edge in the laptop's steps.
ETA = {"mse": (0.8, 0.4, 0.2, 0.15, 0.1), "ce": (1.0, 0.5, 0.35, 0.25, 0.1)}
ETA_PAPER = {"mse": (0.05, 0.02, 0.01), "ce": (0.05, 0.02, 0.01)}
LOSS: dict[str, Loss] = {"mse": squared_loss, "ce": cross_entropy}
EDGE, BELOW, WIDE = 0.2, 0.1, 0.4  # step sizes of the square loss: of the flow's comparison, its control, momentum
BETA = (0.9, 0.5)  # of Polyak's momentum, at WIDE and at EDGE
BATCHES = (10, 50)
SOON = 12.0  # a time η·step before which no step size has reached its edge


class Run(NamedTuple):
    """Sharpness (m,), parameters (m, p), or (m, 0) if not kept, every so many steps; losses (steps,) before each."""

    sharpness: Tensor
    parameters: Tensor
    losses: Tensor


class Problem(NamedTuple):
    """Inputs X (n, d), labels y (n,), and a maker of the network, the same one at each call."""

    X: Tensor
    y: Tensor
    network: Callable[[], nn.Module]


def problem(seed: int, name: str, n: int, hidden: tuple[int, ...]) -> Problem:
    """Centred inputs, or CIFAR-10 with each pixel standardised over the whole training set; tanh networks."""
    if name == "cifar10":
        data = load(name, download=True, seed=seed)
        X = (data.X_train - data.X_train.mean(0)) / data.X_train.std(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        data, device = load(name, n, 500, seed=seed), "cpu"
        X = data.X_train - data.X_train.mean(0)

    def network() -> nn.Module:
        return mlp((X.shape[1], *hidden, data.n_classes), torch.Generator().manual_seed(seed), nn.Tanh).to(device)

    return Problem(X[:n].to(device), data.y_train[:n].to(device), network)


def follow(at: Problem, loss: Loss) -> Callable[[nn.Module], float]:
    """The Hessian's largest eigenvalue, followed along training, with the next one: it may overtake."""
    generator = torch.Generator().manual_seed(0)
    pairs: Eigenpairs | None = None

    def sharpness(model: nn.Module) -> float:
        nonlocal pairs
        pairs = top_eigenpairs(hessian(model, at.X, at.y, loss), 2, generator, start=pairs, tol=1e-2)
        return float(pairs.values[0])

    return sharpness


def descend(
    at: Problem, loss: Loss, eta: float, steps: int, every: int, seed: int,
    *, momentum: float = 0.0, batch_size: int | None = None, model: nn.Module | None = None, keep: bool = False,
) -> Run:  # fmt: skip
    """Gradient descent of step size eta, with Polyak's momentum or in batches if they are given; `keep` parameters."""
    model = model or at.network()
    sharpness, found, iterates = follow(at, loss), [], []

    def record(step: int, model: nn.Module) -> dict[str, float]:
        found.append(sharpness(model))
        iterates.append(parameters_to_vector(model.parameters()).detach().cpu() if keep else torch.empty(0))
        return {}

    history = train(
        model, at.X, at.y, loss, torch.optim.SGD(model.parameters(), eta, momentum=momentum), steps, batch_size,
        torch.Generator().manual_seed(seed), record=record, record_at=range(0, steps + 1, every),
        label=f"step size {eta:g}",
    )  # fmt: skip
    return Run(torch.tensor(found), torch.stack(iterates), history.losses)


def flow(at: Problem, loss: Loss, tick: float, ticks: int, *, alpha: float = 1.5) -> Run:
    """The gradient flow dθ/dt = -∇L by Runge-Kutta of order 4, measured at each tick; the step is alpha/sharpness.

    Runge-Kutta is stable below 2.8/sharpness; the authors' program has 1/sharpness. The losses are those at the ticks.
    """
    model, sharpness = at.network(), follow(at, loss)
    params = list(model.parameters())

    def value() -> Tensor:
        return loss(model(at.X), at.y)

    def down(theta: Tensor) -> Tensor:
        vector_to_parameters(theta, params)
        return -torch.cat([g.reshape(-1) for g in torch.autograd.grad(value(), params)])

    theta, found, iterates, losses = parameters_to_vector(params).detach(), [], [], []
    for t in range(ticks + 1):
        vector_to_parameters(theta, params)
        found.append(sharpness(model))
        iterates.append(theta.cpu())
        losses.append(value().item())
        n = max(1, ceil(tick * found[-1] / alpha))
        h = tick / n
        for _ in range(n if t < ticks else 0):
            k1 = down(theta)
            k2 = down(theta + h / 2 * k1)
            k3 = down(theta + h / 2 * k2)
            k4 = down(theta + h * k3)
            theta = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if not theta.isfinite().all():
            raise Diverged(f"the gradient flow is not finite at time {t * tick:g}")
    return Run(torch.tensor(found), torch.stack(iterates), torch.tensor(losses))


def on_quadratic(at: Problem, loss: Loss, theta: Tensor, eta: float, steps: int) -> list[float]:
    """Loss along descent on the quadratic expansion at theta, L + gᵀd + ½dᵀHd; cut off at a million times its start."""
    model = at.network()
    params = list(model.parameters())
    vector_to_parameters(theta.to(at.X.device), params)
    value = loss(model(at.X), at.y)
    g = torch.cat([part.reshape(-1) for part in torch.autograd.grad(value, params)])
    H, start = hessian(model, at.X, at.y, loss), value.item()
    d, losses = torch.zeros_like(g), []
    for _ in range(steps + 1):
        Hd = H @ d
        losses.append(min(float(start + g @ d + d @ Hd / 2), 1e6 * start))
        if losses[-1] == 1e6 * start:
            break
        d = d - eta * (g + Hd)
    return losses + losses[-1:] * (steps + 1 - len(losses))


def crossing(run: Run, eta: float) -> int:
    """The first measurement with a sharpness above 2/eta; the last one if there is none."""
    above = (run.sharpness > 2 / eta).nonzero()
    return int(above[0]) if len(above) else len(run.sharpness) - 1


def plateau(run: Run) -> float:
    """Mean sharpness over the last quarter of the measurements."""
    return float(run.sharpness[3 * len(run.sharpness) // 4 :].mean())


def rises(losses: Tensor) -> float:
    """The fraction of steps that raise the loss; 0 if there are none."""
    return float((losses.diff() > 0).double().mean()) if len(losses) > 1 else 0.0


def curves(name: str, eta: float, run: Run, every: int) -> dict[str, list[float]]:
    """Sharpness and loss at the common grid of steps, of five digits."""
    loss = torch.cat([run.losses, run.losses[-1:]])[::every]
    pairs = (("sharpness", run.sharpness), ("loss", loss))
    return {f"{what}_{name}_{eta:g}": rounded(curve) for what, curve in pairs}


def rounded(curve: Tensor) -> list[float]:
    """Five digits of each number."""
    return [float(f"{v:.5g}") for v in curve.tolist()]


def measure(seed: int, scale: str) -> Values:
    """Curves over "step" for each loss and step size, and what the claims read of them."""
    setting = SETTINGS[scale]
    at = problem(seed, setting["data"], setting["n"], setting["hidden"])
    steps, every = setting["steps"], setting["every"]
    paper = scale == "paper"
    etas = ETA_PAPER if paper else ETA
    runs = {
        name: {eta: descend(at, loss, eta, steps, every, seed, keep=not paper) for eta in etas[name]}
        for name, loss in LOSS.items()
    }
    values: dict[str, Any] = {"step": [float(t) for t in range(0, steps + 1, every)]}
    for name, by_eta in runs.items():
        for eta, run in by_eta.items():
            values |= curves(name, eta, run, every)
            values[f"edge_{name}_{eta:g}"] = plateau(run) * eta / 2
            values[f"peak_{name}_{eta:g}"] = float(run.sharpness.max()) * eta / 2
            values[f"fall_{name}_{eta:g}"] = float(run.sharpness[-1] / run.sharpness.max())
    return values if paper else values | around_the_edge(at, runs["mse"], steps, every, seed)


def around_the_edge(at: Problem, mse: dict[float, Run], steps: int, every: int, seed: int) -> dict[str, Any]:
    """What descent on the square loss does at its edge, and what the flow, momentum and batches change."""
    reached = [eta for eta in ETA["mse"] if eta != BELOW]
    values: dict[str, Any] = {
        "eta": reached,
        "plateau": [plateau(mse[eta]) for eta in reached],
        "sharpness_soon": [float(mse[eta].sharpness[: round(SOON / eta / every) + 1][-1]) for eta in reached],
        "edge_mean": float(np.mean([plateau(mse[eta]) * eta / 2 for eta in reached])),
        "sharpened": float(mse[BELOW].sharpness[-1] / mse[BELOW].sharpness[0]),
    }
    # no hidden layer: the loss is a quadratic
    linear = mlp((at.X.shape[1], int(at.y.max()) + 1), torch.Generator().manual_seed(seed))
    still = descend(at, squared_loss, BELOW, steps // 10, steps // 10, seed, model=linear)
    values["sharpened_linear"] = float(still.sharpness[-1] / still.sharpness[0])

    run, crossed = mse[EDGE], crossing(mse[EDGE], EDGE)
    values |= {
        "crossing_step": float(crossed * every),
        "rises": rises(run.losses[crossed * every :]),
        "rises_before": rises(run.losses[: crossed * every]),
        "rises_below": rises(mse[BELOW].losses),
    }
    window = steps // 15
    at_edge = run.losses[min(crossed * every, steps - 1) :][:window].mean()
    values["long_term"] = float(run.losses[-window:].mean() / at_edge)

    # the quadratic expansion where the sharpness is largest, beyond 2/η
    c = int(mse[WIDE].sharpness.argmax())
    after = mse[WIDE].losses[min(c * every, steps - 1) :][: 2 * window + 1]
    model = on_quadratic(at, squared_loss, mse[WIDE].parameters[c], WIDE, len(after) - 1)
    values |= {
        "loss_after": rounded(after / after[0]),
        "loss_after_quadratic": rounded(torch.tensor(model) / model[0]),
        "goes_on": float(after[-1] / after[0]),
        "goes_on_quadratic": model[-1] / model[0],
    }

    # the flow, measured at the times of the run at EDGE, two thirds of the way
    m = len(run.sharpness) - 1
    ticks, half = 2 * m // 3, m // 2  # `half`: the last tick that the run at BELOW, half as fast, reaches
    free, before = flow(at, squared_loss, EDGE * every, ticks), min(crossed, m // 3)
    apart = (run.parameters[: ticks + 1] - free.parameters).norm(dim=1)
    apart_below = (mse[BELOW].parameters[: 2 * half + 1 : 2] - free.parameters[: half + 1]).norm(dim=1)
    values |= {
        "time": [EDGE * every * t for t in range(ticks + 1)],
        "sharpness_flow": rounded(free.sharpness),
        "loss_flow": rounded(free.losses),
        "distance_to_flow": rounded(apart),
        "distance_to_flow_below": rounded(apart_below),
        "beyond": float(free.sharpness[-1]) * EDGE / 2,
        "beyond_descent": float(run.sharpness[ticks]) * EDGE / 2,
        "tracks": float(apart[before] / (free.parameters[before] - free.parameters[0]).norm()),
        # the error of a step size below its edge is of first order: half the step size, half the error
        "departs": float(apart[half] / apart_below[half]),
        "departs_before": float(apart[before] / apart_below[before]),
    }
    late = flow(at, cross_entropy, BELOW * every, len(run.sharpness) - 1)
    values |= {
        "time_ce": [BELOW * every * t for t in range(len(run.sharpness))],
        "sharpness_flow_ce": rounded(late.sharpness),
    }

    for beta, eta in zip(BETA, (WIDE, EDGE), strict=True):
        heavy = descend(at, squared_loss, eta, steps, every, seed, momentum=beta)
        values[f"sharpness_momentum_{beta:g}"] = rounded(heavy.sharpness)
        values[f"momentum_{beta:g}"] = plateau(heavy) * eta
        values[f"momentum_limit_{beta:g}"] = 2 + 2 * beta
        values[f"no_momentum_{beta:g}"] = plateau(mse[eta]) * eta
    for B in BATCHES:
        noisy = descend(at, squared_loss, EDGE, steps, every, seed, batch_size=B)
        values[f"sharpness_batch_{B}"] = rounded(noisy.sharpness)
        values[f"edge_batch_{B}"] = plateau(noisy) * EDGE / 2
    return values


if __name__ == "__main__":
    main(measure)
