"""Jastrzebski et al. 2019: the sharpest directions along SGD's path, the step along them, and Nudged SGD."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phenomena.curvature import Eigenpairs
from phenomena.data import Dataset, load
from phenomena.image_networks import cropped_and_flipped, resnet
from phenomena.networks import mlp
from phenomena.nudged_sgd import batch_gradients, flat, quadratic_probe, step_probe, train_nudged
from phenomena.program import main
from phenomena.training import Loss, cross_entropy, error_rate

# eta, batch: step sizes (at the middle batch), batch sizes (at the first step size); calm: a step size and a batch
# where both hardly matter, and a larger batch; whole: the full batch's step size; steps: of these runs, of the full
# batch's, of the nudged; star: the training loss at which runs are compared; early: up to this step; draws: batches in
# a probe.
SETTINGS = {
    "smoke": {
        "data": "digits", "n": 100, "test": 100, "width": 5, "eta": [0.1, 0.2, 0.4], "batch": [5, 20, 50],
        "calm": (0.05, 50, 100), "whole": 0.4, "steps": 40, "steps_whole": 20, "steps_nudged": 40, "every": 10,
        "star": 3.0, "early": 20, "draws": 2,
    },
    "laptop": {
        "data": "mnist1d", "n": 2000, "test": 3000, "width": 100, "eta": [0.1, 0.2, 0.4], "batch": [10, 50, 250],
        "calm": (0.05, 250, 500), "whole": 0.4, "steps": 1600, "steps_whole": 500, "steps_nudged": 800, "every": 50,
        "star": 1.0, "early": 800, "draws": 10,
    },
}  # fmt: skip
GAMMAS = {"0.01": 0.01, "2": 2.0}
K = 5
MULTIPLES = (0.25, 0.5, 1.0, 2.0)  # of SGD's step along a direction
WORDS = {"half": 0.5, "whole": 1.0, "double": 2.0}
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "jastrzebski2019sharpest"  # outlives --out
Curves = dict[str, list[float]]
Measured = dict[str, Any]  # numbers and curves
Probe = Callable[[int, nn.Module, Eigenpairs], dict[str, float]]


def random_directions(p: int, generator: torch.Generator) -> Tensor:
    """K orthonormal directions (p, K)."""
    return torch.linalg.qr(torch.randn(p, K, generator=generator))[0]


def until(curve: list[float], losses: list[float], star: float) -> float:
    """Largest value of the curve until the training loss first is `star` or less."""
    reached = [i for i, value in enumerate(losses) if value <= star]
    if not reached:
        raise ValueError(f"a run ends at the training loss {losses[-1]:.3f} and never reaches {star}")
    return max(curve[: reached[0] + 1])


def steps_until(run: Curves, star: float) -> float:
    """Steps until the training loss is `star`, on the straight line between two records."""
    i = next(i for i, value in enumerate(run["loss"]) if value <= star)
    if i == 0:
        return 0.0
    (k0, k1), (l0, l1) = run["step"][i - 1 : i + 1], run["loss"][i - 1 : i + 1]
    return k0 + (k1 - k0) * (l0 - star) / (l0 - l1)


def prober(data: Dataset, eta: float, batch_size: int, draws: int, generator: torch.Generator) -> Probe:
    """A record of what multiples of SGD's step along one direction do to the training loss, in per cent of it.

    The mean over `draws` batches: "e1" along the sharpest direction, "random" along a random one; "full": the full
    batch's step along e_1; "quadratic": what the slope, the batches' <g, e_1> and λ_1 predict of "e1".
    """
    X, y = data.X_train, data.y_train
    ones, two = list(MULTIPLES), [0.5, 1.0]

    def probe(step: int, model: nn.Module, pairs: Eigenpairs) -> dict[str, float]:
        e_1 = pairs.vectors[:, 0]
        random = torch.nn.functional.normalize(torch.randn(len(e_1), generator=generator), dim=0)
        gradients = batch_gradients(model, X, y, cross_entropy, batch_size, draws, generator)
        value = cross_entropy(model(X), y)
        g = flat(torch.autograd.grad(value, list(model.parameters())))
        slope, along = float(g @ e_1), gradients @ e_1
        found = {
            "e1": (ones, step_probe(model, X, y, cross_entropy, e_1, gradients, eta, ones)),
            "random": (two, step_probe(model, X, y, cross_entropy, random, gradients, eta, two)),
            "full": (ones, step_probe(model, X, y, cross_entropy, e_1, g[None], eta, ones)),
            "quadratic": (ones, quadratic_probe(slope, along, float(pairs.values[0]), eta, ones) / value.item()),
        }
        return {
            f"{name}_{a:g}": 100 * float(c) for name, (at, cs) in found.items() for a, c in zip(at, cs, strict=True)
        }

    return probe


def descend(
    data: Dataset, seed: int, width: int, eta: float, batch_size: int | None, steps: int, every: int, *,
    gamma: float = 1.0, random: bool = False, linear: bool = False, probe: Probe | None = None,
) -> Curves:  # fmt: skip
    """Curves over "step": "lambda" (λ_1 of the training loss), "loss" and "accuracy" (test), and the probe's.

    Without a nudge one eigenvalue is enough. The seed decides the weights and the batches, whatever the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    d = data.X_train.shape[1]
    model = mlp((d, data.n_classes) if linear else (d, width, width, data.n_classes), generator)
    p = sum(w.numel() for w in model.parameters())
    fixed = random_directions(p, torch.Generator().manual_seed(seed + 1000)) if random else None

    def record(step: int, model: nn.Module, pairs: Eigenpairs) -> dict[str, float]:
        with torch.no_grad():
            value = float(cross_entropy(model(data.X_train), data.y_train))
        numbers = {"loss": value, "accuracy": 100 * (1 - error_rate(model, data.X_test, data.y_test))}
        return numbers | (probe(step, model, pairs) if probe else {})

    run = train_nudged(
        model, data.X_train, data.y_train, cross_entropy, steps, eta, gamma, generator,
        K=1 if random or gamma == 1 else K, every=every, batch_size=batch_size, record=record, tol=0.05,
        choose=None if fixed is None else lambda pairs: fixed,
        label=f"eta {eta}, batch {batch_size}, gamma {gamma}",
    )  # fmt: skip
    return {"lambda": run.values[:, 0].tolist(), **run.recorded}


def coarse(run: Curves) -> Curves:
    """Every other record."""
    return {key: curve[::2] for key, curve in run.items()}


def mean_between(curve: list[float], steps: list[float], first: float, last: float) -> float:
    """Mean of a curve over the records with first < step <= last."""
    return float(np.mean([value for value, step in zip(curve, steps, strict=True) if first < step <= last]))


def summary(name: str, run: Curves, star: float | None) -> Measured:
    """A run's curves and its numbers, the name at the end of each key.

    peak_: the largest λ_1; star_: the same until the training loss first is `star`; end_: mean of the last 3 records.
    """
    lam = run["lambda"]
    values: Measured = {f"{key}_{name}": run[key] for key in ("step", "lambda", "loss", "accuracy")}
    values |= {f"start_{name}": lam[0], f"peak_{name}": max(lam), f"end_{name}": float(np.mean(lam[-3:]))}
    return values | ({} if star is None else {f"star_{name}": until(lam, run["loss"], star)})


def probe_summary(run: Curves, early: int) -> Measured:
    """The probe's curves over `multiple` and over the steps, early (after the start) and late; see `prober`.

    half_, whole_, double_ are its values at half, one and two of SGD's steps; fails_ is the share of the early records
    at which SGD's own step does not decrease the loss.
    """
    values: Measured = {"multiple": list(MULTIPLES), "step_probe": run["step"]}
    for name in ("e1", "full", "quadratic", "random"):
        curves = {a: run[f"{name}_{a:g}"] for a in MULTIPLES if f"{name}_{a:g}" in run}
        for window, first, last in (("early", 0, early), ("late", early, max(run["step"]))):
            change = {a: mean_between(curve, run["step"], first, last) for a, curve in curves.items()}
            values[f"change_{name}_{window}"] = list(change.values())
            values |= {f"{word}_{name}_{window}": change[a] for word, a in WORDS.items() if a in change}
        values[f"change_{name}_over_steps"] = curves[1.0]
        values[f"fails_{name}_early"] = mean_between([float(c >= 0) for c in curves[1.0]], run["step"], 0, early)
    return values


def laptop(seed: int, setting: dict) -> Measured:
    """Runs by step size (small_eta, middle_eta, large_eta) and batch size (small_batch, ..., full_batch), see SETTINGS.

    Then the probe along the run of small_eta, and Nudged SGD at the large step size, keys ending in gamma_<γ>.
    """
    data = load(setting["data"], n_train=setting["n"], n_test=setting["test"], seed=seed)
    every, star, steps = setting["every"], setting["star"], setting["steps"]
    (eta, eta_2, eta_3), (B_1, B, B_3), (calm, B_calm, B_larger) = setting["eta"], setting["batch"], setting["calm"]
    run = partial(descend, data, seed, setting["width"])
    probe = prober(data, eta, B, setting["draws"], torch.Generator().manual_seed(seed + 2000))
    probed, large = run(eta, B, steps, every, probe=probe), run(eta_3, B, steps, every)
    runs = {
        "small_eta": coarse(probed),
        "middle_eta": run(eta_2, B, steps, 2 * every),
        "large_eta": coarse(large),
        "small_batch": run(eta, B_1, steps, 2 * every),
        "large_batch": run(eta, B_3, steps, 2 * every),
        "calm": run(calm, B_calm, steps, 2 * every),
        "larger_batch": run(eta, B_larger, steps // 2, 2 * every),
        "full_batch": run(setting["whole"], None, setting["steps_whole"], every),
        "linear": run(eta_2, B, steps // 2, 2 * every, linear=True),
    }
    values: Measured = {"eta": setting["eta"], "batch": setting["batch"]}
    for name, curves in runs.items():
        values |= summary(name, curves, None if name == "linear" else star)
    for name, rate in (("small_eta", eta), ("small_batch", eta), ("full_batch", setting["whole"])):
        values[f"edge_{name}"] = values[f"peak_{name}"] * rate / 2
    values["star_by_eta"] = [values[f"star_{name}_eta"] for name in ("small", "middle", "large")]
    values["star_by_batch"] = [values[f"star_{name}"] for name in ("small_batch", "small_eta", "large_batch")]
    values |= probe_summary(probed, setting["early"])

    last = setting["steps_nudged"]
    nudged = {"1": {key: curve[: last // every + 1] for key, curve in large.items()}}
    nudged |= {name: run(eta_3, B, last, every, gamma=gamma) for name, gamma in GAMMAS.items()}
    nudged["random"] = run(eta_3, B, last, every, gamma=0.01, random=True)
    for name, curves in nudged.items():
        values |= summary(f"gamma_{name}", curves, star)
        values[f"steps_gamma_{name}"] = steps_until(curves, star)
        values[f"accuracy_end_gamma_{name}"] = float(np.mean(curves["accuracy"][-5:]))
        values[f"gain_gamma_{name}"] = values[f"accuracy_end_gamma_{name}"] - values["accuracy_end_gamma_1"]
    return values


def image_run(
    data: tuple[Tensor, ...], model: nn.Module, eta: float, gamma: float, epochs: int, batch_size: int,
    n_curvature: int, chunk: int, seed: int, label: str,
) -> Curves:  # fmt: skip
    """Curves by the epoch of a network on images: "lambda", "loss" and test "accuracy"."""
    X, y, X_test, y_test = data
    crops = torch.Generator().manual_seed(seed + 1000)

    def mean(of: Loss, A: Tensor, labels: Tensor) -> float:
        parts = zip(A.split(500), labels.split(500), strict=True)
        return sum(float(of(model(a), b)) * len(a) for a, b in parts) / len(A)

    @torch.no_grad()
    def record(step: int, model: nn.Module, pairs: Eigenpairs) -> dict[str, float]:
        loss, error = mean(cross_entropy, X, y), mean(wrong, X_test, y_test)
        print(
            f"{label}: step {step}, lambda {float(pairs.values[0]):.3g}, loss {loss:.3g}", file=sys.stderr, flush=True
        )
        return {"loss": loss, "accuracy": 100 * (1 - error)}

    every = len(X) // batch_size
    run = train_nudged(
        model, X, y, cross_entropy, epochs * every, eta, gamma, torch.Generator().manual_seed(seed), K=K, every=every,
        batch_size=batch_size, subset=slice(n_curvature), record=record, tol=0.05, chunk=chunk,
        augment=lambda batch: cropped_and_flipped(batch, crops), label=label,
    )  # fmt: skip
    return {"lambda": run.values[:, 0].tolist(), **run.recorded}


def cifar10(
    seed: int, epochs: int = 200, blocks: int = 5, width: int = 16, batch_size: int = 128, n_curvature: int = 2560,
    chunk: int = 320, folder: Path = CHECKPOINTS,
) -> Measured:  # fmt: skip
    """ResNet-32 without batch normalisation on CIFAR-10: SGD at three step sizes, and Nudged SGD at the middle one.

    As in the authors' program: B = 128, no momentum, crops and flips, K = 5, the Hessian over 2,560 training images,
    found anew each epoch. Theirs draws those images anew, has weight decay and stops early; here they are fixed, and a
    run has `epochs`. Five runs of 78,000 steps: hours on one GPU. Each is kept in `folder` when it ends, and the next
    call takes up from there.
    """
    dataset = load("cifar10", download=True, seed=seed)
    device, centre = "cuda" if torch.cuda.is_available() else "cpu", dataset.X_train.mean()
    X, X_test = ((A - centre).view(-1, *dataset.image_shape).to(device) for A in (dataset.X_train, dataset.X_test))
    data = (X, dataset.y_train.to(device), X_test, dataset.y_test.to(device))
    values: Measured = {}
    for eta, gamma in ((0.001, 1.0), (0.01, 1.0), (0.1, 1.0), (0.01, 0.01), (0.01, 5.0)):
        name = f"eta_{eta:g}_gamma_{gamma:g}"
        path = folder / f"seed-{seed}-{name}-epochs-{epochs}-blocks-{blocks}-width-{width}.json"
        if not path.exists():
            generator = torch.Generator().manual_seed(seed)
            model = resnet(dataset.image_shape, dataset.n_classes, blocks, generator, width=width, batch_norm=False)
            run = image_run(data, model.to(device), eta, gamma, epochs, batch_size, n_curvature, chunk, seed, path.stem)
            # Written beside its place and moved there, so that whatever bears its name is whole.
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(run), encoding="utf-8")
            os.replace(part, path)
        found = json.loads(path.read_text(encoding="utf-8"))
        values |= {f"{key}_{name}": curve for key, curve in found.items()}
        values |= {f"peak_{name}": max(found["lambda"]), f"best_{name}": max(found["accuracy"])}
        values[f"early_loss_{name}"] = found["loss"][min(5, epochs)]
    return values


def wrong(f: Tensor, y: Tensor) -> Tensor:
    """Fraction of rows of f (n, C) whose largest entry is not the label's."""
    return (f.argmax(1) != y).double().mean()


def measure(seed: int, scale: str) -> Measured:
    """Small networks on mnist1d (digits at smoke scale), or at the paper's scale ResNet-32 on CIFAR-10."""
    return cifar10(seed) if scale == "paper" else laptop(seed, SETTINGS[scale])


if __name__ == "__main__":
    main(measure)
