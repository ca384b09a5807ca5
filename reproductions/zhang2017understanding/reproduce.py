"""Zhang et al. 2017: networks that generalise also fit random labels, shuffled pixels and noise."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phenomena.data import Dataset, load
from phenomena.ensembles import train_ensemble
from phenomena.memorisation import (
    corrupted_labels,
    gaussian_images,
    random_pixels,
    shatter,
    shuffled_pixels,
    two_layer,
)
from phenomena.networks import mlp, n_parameters
from phenomena.program import Values, main
from phenomena.training import cross_entropy, error_rate, train

# n images, two hidden layers of `width`, `epochs` on digits and on MNIST, draws of random labels.
SETTINGS = {
    "smoke": {"n": 200, "width": 64, "epochs": 10, "mnist": 5, "draws": 1},
    "laptop": {"n": 1000, "width": 256, "epochs": 60, "mnist": 35, "draws": 3},
    "paper": {"n": 1000, "width": 256, "epochs": 200, "mnist": 200, "draws": 10},
}
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # the probability of a random label
DECAYS = (5e-4, 1e-2)  # of the weights: a usual one, and 20 times as much
RATE, MOMENTUM, BATCH = 0.05, 0.9, 100


Numbers = dict[str, float | list[float]]


class Task(NamedTuple):
    """What a network is trained on, and what it is tested on."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor


class Curve(NamedTuple):
    """Training error before training and after each epoch, test error after those of `watched`."""

    train: list[float]
    test: list[float]

    def fitted(self) -> float:
        """The smallest training error: 0 if all training samples were right after some epoch."""
        return min(self.train)


def standardised(X: Tensor) -> Tensor:
    """Each image of X (n, d) with mean 0 and variance 1."""
    return (X - X.mean(1, keepdim=True)) / X.std(1, keepdim=True, correction=0)


def randomised(data: Dataset, draws: int, seed: int) -> dict[str, Task]:
    """The tasks of Figure 1 on standardised images: the levels 00, 20, ... 100 of random labels, other inputs.

    "random" labels are those of level 100, in `draws` draws of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    X, y, X_test, y_test = standardised(data.X_train), data.y_train, standardised(data.X_test), data.y_test
    state = generator.get_state()
    tasks = {}
    for p in LEVELS:
        generator.set_state(state)  # so that the labels replaced at one level are replaced at the next
        tasks[level(p)] = Task(X, corrupted_labels(y, p, data.n_classes, generator), X_test, y_test)
    for k in range(1, draws):
        tasks[f"100 again, {k}"] = Task(X, corrupted_labels(y, 1.0, data.n_classes, generator), X_test, y_test)
    shuffled, permutation = shuffled_pixels(X, generator)
    tasks["shuffled"] = Task(shuffled, y, X_test[:, permutation], y_test)
    tasks["pixels"] = Task(random_pixels(X, generator), y, random_pixels(X_test, generator), y_test)
    tasks["gaussian"] = Task(gaussian_images(X, generator), y, gaussian_images(X_test, generator), y_test)
    return tasks


def level(p: float) -> str:
    """The name of a corruption level, its percentage: 00, 20, ... 100."""
    return f"{round(100 * p):02d}"


def watched(epochs: int) -> list[int]:
    """About 30 epochs, each of the first 10 and then evenly: where the test error is taken."""
    later = np.linspace(10, epochs, 21).round().astype(int).tolist() if epochs > 10 else []
    return sorted({*range(min(epochs, 10) + 1), *later})


def curves(
    tasks: dict[str, Task], hidden: tuple[int, ...], epochs: int, seed: int, decay: float = 0.0
) -> dict[str, Curve]:
    """Train one network a task, all from the same weights and with the same batches: only the data differ."""
    first = next(iter(tasks.values()))
    sizes = (first.X.shape[1], *hidden, 10)
    models = [mlp(sizes, torch.Generator().manual_seed(seed), init="he") for _ in tasks]
    task_of: dict[nn.Module, Task] = dict(zip(models, tasks.values(), strict=True))
    steps = len(first.X) // BATCH  # of an epoch
    test_at = {epoch * steps for epoch in watched(epochs)}

    def record(step: int, model: nn.Module) -> dict[str, float]:
        X, y, X_test, y_test = task_of[model]
        errors = {"train": error_rate(model, X, y)}
        return errors | {"test": error_rate(model, X_test, y_test)} if step in test_at else errors

    histories = train_ensemble(
        models, torch.stack([task.X for task in tasks.values()]), torch.stack([task.y for task in tasks.values()]),
        cross_entropy, partial(torch.optim.SGD, lr=RATE, momentum=MOMENTUM, weight_decay=decay),
        epochs * steps, BATCH, torch.Generator().manual_seed(seed),
        record=record, record_at=range(0, epochs * steps + 1, steps), labels=list(tasks), block=5,
    )  # fmt: skip
    return {
        name: Curve(history.recorded["train"], history.recorded["test"])
        for name, history in zip(tasks, histories, strict=True)
    }


def epochs_to_fit(curve: Curve) -> int:
    """The first epoch after which no training sample is wrong; one more than there were, if that never happens."""
    return next((epoch for epoch, error in enumerate(curve.train) if error == 0), len(curve.train))


def inputs_and_labels(found: dict[str, Curve], draws: int) -> Numbers:
    """Of every kind of data: whether it is fitted, the epochs that this takes, and the test accuracy at the end."""
    random = [found["100"], *(found[f"100 again, {k}"] for k in range(1, draws))]
    kinds = {"true": [found["00"]], "random": random} | {k: [found[k]] for k in ("shuffled", "pixels", "gaussian")}
    values: Numbers = {}
    for name, runs in kinds.items():
        values[f"train_error_{name}"] = max(run.fitted() for run in runs)
        values[f"test_accuracy_{name}"] = 1 - float(np.mean([run.test[-1] for run in runs]))
        values[f"epochs_{name}"] = float(np.mean([epochs_to_fit(run) for run in runs]))
    return values | {"train_error_rearranged": max(found[name].fitted() for name in ("shuffled", "pixels"))}


def corruption(found: dict[str, Curve]) -> Numbers:
    """The sweep over the probability of a random label."""
    at = {level(p): found[level(p)] for p in LEVELS}
    fit = {name: epochs_to_fit(curve) for name, curve in at.items()}
    sweep: Numbers = {
        "corruption": list(LEVELS),
        "corruption_epochs": list(fit.values()),
        "corruption_train_error": [curve.fitted() for curve in at.values()],
        "corruption_test_error": [curve.test[-1] for curve in at.values()],
        "train_error_worst_level": max(curve.fitted() for curve in at.values()),
        "last_train_error_worst_level": max(curve.train[-1] for curve in at.values()),
        "best_test_error_40": min(at["40"].test),
        "chance": 0.1,  # a uniform label agrees with any guess of ten classes so often
    }
    sweep |= {f"epochs_{name}": epochs for name, epochs in fit.items()}
    return sweep | {f"test_error_{name}": curve.test[-1] for name, curve in at.items()}


def decays(tasks: dict[str, Task], found: dict[str, Curve], hidden: tuple[int, ...], epochs: int, seed: int) -> Numbers:
    """True and random labels with weight decay."""
    both = {name: tasks[name] for name in ("00", "100")}
    runs = [{name: found[name] for name in both}, *(curves(both, hidden, epochs, seed, c) for c in DECAYS)]
    values: Numbers = {"decay": [0.0, *DECAYS]}
    for name, key in (("00", "true"), ("100", "random")):
        values[f"decay_train_error_{key}"] = [run[name].fitted() for run in runs]
        values[f"decay_test_error_{key}"] = [run[name].test[-1] for run in runs]
        values[f"train_error_{key}_decay"] = runs[1][name].fitted()
        values[f"train_error_{key}_strong_decay"] = runs[-1][name].fitted()
    return values


def theorem(X: Tensor, seed: int) -> Numbers:
    """max_i |f(x_i) - y_i| of the construction on random labels y, and of the best f without kinks between samples."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (len(X),), generator=generator).double()
    a, b, w = shatter(X, y, generator)
    # with every b_j below all z_i, the hidden units are active on all samples: f is affine in z
    z = X.double() @ a
    below = z.min() - torch.rand(len(X), generator=generator, dtype=torch.float64)
    units = torch.relu(z[:, None] - below)
    best = torch.linalg.lstsq(units, y[:, None], driver="gelsd").solution[:, 0]
    return {
        "shatter_points": len(X),
        "shatter_weights": a.numel() + b.numel() + w.numel(),
        "shatter_residual": float((two_layer(X, a, b, w) - y).abs().max()),
        "shatter_residual_no_kinks": float((two_layer(X, a, below, best) - y).abs().max()),
    }


def mnist(n: int, hidden: tuple[int, ...], epochs: int, seed: int) -> Numbers:
    """True labels, random labels and Gaussian images of MNIST's size."""
    tasks = randomised(load("mnist5k", n, 1000, seed=seed), 1, seed)
    found = curves({name: tasks[name] for name in ("00", "100", "gaussian")}, hidden, epochs, seed)
    values: Numbers = {}
    for name, key in (("00", "true"), ("100", "random"), ("gaussian", "gaussian")):
        values[f"mnist_train_error_{key}"] = found[name].fitted()
        values[f"mnist_test_accuracy_{key}"] = 1 - found[name].test[-1]
        values[f"mnist_epochs_{key}"] = epochs_to_fit(found[name])
    return values


def cropped(X: Tensor, shape: tuple[int, ...], side: int = 28) -> Tensor:
    """The central side x side pixels of flattened images X (n, d), standardised, (n, channels side²)."""
    _, height, width = shape
    top, left = (height - side) // 2, (width - side) // 2
    return standardised(X.view(-1, *shape)[..., top : top + side, left : left + side].flatten(1))


def cifar10(seed: int, epochs: int = 200, hidden: tuple[int, ...] = (512, 512, 512)) -> Numbers:
    """The paper's MLP 3x512 on CIFAR-10: accuracies in % on true and on random labels, without regularisation.

    The central 28x28 pixels, each image standardised; SGD with momentum 0.9, rate 0.01 times 0.95 an epoch. Batches
    of 128 and the number of epochs are ours.
    """
    data = load("cifar10", download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, X_test = (cropped(part, data.image_shape).to(device) for part in (data.X_train, data.X_test))
    random = corrupted_labels(data.y_train, 1.0, data.n_classes, torch.Generator().manual_seed(seed))
    steps = len(X) // min(128, len(X))  # of an epoch
    values: Numbers = {}
    for name, labels in (("true", data.y_train), ("random", random)):
        y = labels.to(device)
        model = mlp((X.shape[1], *hidden, data.n_classes), torch.Generator().manual_seed(seed)).to(device)
        train(
            model, X, y, cross_entropy, torch.optim.SGD(model.parameters(), lr=0.01, momentum=MOMENTUM),
            epochs * steps, min(128, len(X)), torch.Generator().manual_seed(seed),
            schedule=lambda step: 0.95 ** (step // steps), label=f"MLP, {name} labels",
        )  # fmt: skip
        values[f"cifar_train_{name}"] = 100 * (1 - error_rate(model, X, y))
        values[f"cifar_test_{name}"] = 100 * (1 - error_rate(model, X_test, data.y_test.to(device)))
    return values | {"cifar_parameters": n_parameters(model)}


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed; CIFAR-10 only at the paper's scale."""
    setting = SETTINGS[scale]
    hidden, epochs = (setting["width"], setting["width"]), setting["epochs"]
    data = load("digits", setting["n"], 797, seed=seed)
    tasks = randomised(data, setting["draws"], seed)
    found = curves(tasks, hidden, epochs, seed)
    names = [name for name in tasks if "again" not in name]
    values: Numbers = {"curve_epoch": [*map(float, watched(epochs))]}
    values |= {"parameters": n_parameters(mlp((64, *hidden, 10), torch.Generator()))}
    values |= {f"curve_train_{name}": [found[name].train[epoch] for epoch in watched(epochs)] for name in names}
    values |= {f"curve_test_{name}": found[name].test for name in names}
    values |= inputs_and_labels(found, setting["draws"]) | corruption(found)
    values |= decays(tasks, found, hidden, epochs, seed)
    linear = curves({"100": tasks["100"]}, (), epochs, seed)["100"]
    values |= {"chance": 1 / data.n_classes, "train_error_random_linear": linear.fitted()}
    values |= theorem(data.X_train, seed) | mnist(setting["n"], hidden, setting["mnist"], seed)
    return values | cifar10(seed) if scale == "paper" else values


if __name__ == "__main__":
    main(measure)
