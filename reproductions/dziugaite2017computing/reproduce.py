"""Dziugaite & Roy 2017: a bound that says something, for a stochastic network with more weights than samples.

One network of one hidden layer is trained, then bounded in five ways, over sample sizes, on true and on random labels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.bounds import frobenius_product, hoeffding, norm_bound, parameter_bound, path_norm, spectral_bound
from phenomena.data import load
from phenomena.margins import margins, train_to_margin
from phenomena.networks import mlp, n_parameters
from phenomena.pac_bayes import certificate, fit_posterior, gibbs_error
from phenomena.program import Values, main

# n: digits; widths: at the largest n; mnist: n, its test samples, width; steps: of the posterior's training.
SETTINGS = {
    "smoke": {"n": [50, 100], "width": 20, "widths": [10, 40], "mnist": [200, 200, 20], "steps": 100},
    "laptop": {"n": [190, 375, 750, 1500], "width": 100, "widths": [30, 200], "mnist": [4000, 1000, 100], "steps": 400},
}
DELTA, DELTA_DRAWS = 0.025, 0.01  # the posterior's bound holds with probability 1 - 0.035, the others with 1 - 0.025
DRAWS = 50  # of the stochastic network for each sample
Task = tuple[Tensor, Tensor, Tensor, Tensor]


def task(name: str, n: int, n_test: int, seed: int, pool: int = 1) -> Task:
    """X (n, d) in [0, 1], y (n,) in {-1, 1} (digits 0 to 4 or 5 to 9), and the test set; pixels averaged."""
    data = load(name, n_train=n, n_test=n_test, seed=seed, download=name == "mnist")
    X, X_test = (
        F.avg_pool2d(part.view(-1, *data.image_shape), pool).flatten(1) for part in (data.X_train, data.X_test)
    )
    y, y_test = ((2 * (part >= 5) - 1).float() for part in (data.y_train, data.y_test))
    return X, y, X_test, y_test


def random_labels(y: Tensor, seed: int) -> Tensor:
    """A fair coin for each sample, -1 or 1."""
    return 2.0 * torch.randint(0, 2, y.shape, generator=torch.Generator().manual_seed(1000 + seed)) - 1


class Trained(NamedTuple):
    """A network, its weights before training, and the data that it was trained on."""

    model: nn.Sequential
    start: list[Tensor]
    data: Task

    @property
    def weights(self) -> list[Tensor]:
        """The trained weights, detached."""
        return [p.detach() for p in self.model.parameters()]


def trained(data: Task, width: int, seed: int, batch_size: int = 50, lr: float = 0.05) -> Trained:
    """The network with 99 % of its margins above 1.

    Its initial weights, the prior's centre, come from a stream of random numbers of their own: the theorem is about a
    prior that knows nothing of the sample, and the seed also draws the sample.
    """
    X, y, *_ = data
    model = mlp((X.shape[1], width, 1), torch.Generator().manual_seed(1_000_000 + seed), bias=False)
    generator = torch.Generator().manual_seed(2_000_000 + seed)
    start = [p.detach().clone() for p in model.parameters()]
    train_to_margin(model, X, y, generator, margin=1.0, lr=lr, momentum=0.9, batch_size=batch_size)
    return Trained(model, start, data)


def classical(net: Trained) -> dict[str, float]:
    """Errors of the network and five bounds: by test points, by counting weights, by three norms; smallest of the four.

    "free" is the Frobenius bound when it may give up the training error.
    """
    X, y, X_test, y_test = net.data
    m, weights = margins(net.model, X, y), net.weights
    B = X.shape[1] ** 0.5  # pixels are in [0, 1]
    train_error, test_error = error(m), error(margins(net.model, X_test, y_test))
    bounds = {
        "parameters": parameter_bound(train_error, len(X), n_parameters(net.model), DELTA),
        "frobenius": norm_bound(m, frobenius_product(weights), X, B, 2, DELTA),
        "path": norm_bound(m, path_norm(weights), X, B, 2, DELTA),
        "spectral": spectral_bound(m, weights, B, DELTA),
    }
    return bounds | {
        "train_error": train_error,
        "test_error": test_error,
        "held_out": test_error + hoeffding(len(X_test), DELTA),
        "free": norm_bound(m, frobenius_product(weights), X, B, 2, DELTA, slack=1.0),
        "smallest": min(bounds.values()),
    }


def error(m: Tensor) -> float:
    """The fraction of margins (n,) that are not positive."""
    return float((m <= 0).double().mean())


def stochastic(net: Trained, centre: list[Tensor], steps: int, generator: torch.Generator) -> dict[str, float]:
    """Errors of the posterior started at the network, and its bound, with a prior around `centre`."""
    X, y, X_test, y_test = net.data
    Q = fit_posterior(net.weights, centre, X, y, DELTA, generator, steps=steps, batch_size=250, lr=0.05)
    found = certificate(Q, centre, X, y, DELTA, generator, draws=DRAWS, delta_draws=DELTA_DRAWS)
    middle = torch.relu(X_test @ Q.means[0].T) @ Q.means[1].T
    return {
        "moved": distance(Q.means, net.weights) / distance(net.weights, net.start),
        "mean_test_error": error(y_test * middle.squeeze(1)),
        "gibbs_train_error": found.gibbs_error,
        "gibbs_test_error": gibbs_error(Q, X_test, y_test, DRAWS, generator),
        "kl": found.divergence,
        "pac_bayes": found.bound,
    }


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Euclidean distance of two networks' weights."""
    return math.sqrt(sum(float((w - v).square().sum()) for w, v in zip(one, other, strict=True)))


def with_random_labels(data: Task, seed: int) -> Task:
    """The same images, all labels drawn anew, in the test set too."""
    X, y, X_test, y_test = data
    return X, random_labels(y, seed), X_test, random_labels(y_test, seed + 500)


def digits(n: list[int], width: int, widths: list[int], steps: int, seed: int) -> dict[str, float | list[float]]:
    """All bounds over sample sizes, on true and random labels; at the largest size other widths and priors."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, float | list[float]] = {"n": [float(size) for size in n], "weights": 64.0 * width + width}
    last: dict[str, Trained] = {}
    for labels in ("true", "random"):
        runs = []
        for size in n:
            data = task("digits", size, 297, seed)
            last[labels] = net = trained(data if labels == "true" else with_random_labels(data, seed), width, seed)
            runs.append(classical(net) | stochastic(net, net.start, steps, generator))
        for key in runs[0]:
            values[f"{key}_{labels}_curve"] = [run[key] for run in runs]
            values[f"{key}_{labels}"] = runs[-1][key]
    true, random = last["true"], last["random"]
    cheat = stochastic(random, random.weights, steps, generator)
    values |= {"pac_bayes_cheat": cheat["pac_bayes"], "gibbs_test_error_cheat": cheat["gibbs_test_error"]}
    zero = [torch.zeros_like(w) for w in true.weights]
    values["pac_bayes_zero"] = stochastic(true, zero, steps, generator)["pac_bayes"]
    for name, other in zip(("narrow", "wide"), widths, strict=True):
        net = trained(true.data, other, seed)
        values[f"pac_bayes_{name}"] = stochastic(net, net.start, steps, generator)["pac_bayes"]
    for name, weights in (("start", true.start), ("end", true.weights)):
        values[f"path_over_frobenius_{name}"] = path_norm(weights) / frobenius_product(weights)
    return values


def mnist(n: int, n_test: int, width: int, steps: int, seed: int) -> dict[str, float]:
    """All bounds on MNIST averaged to 14x14, true and random labels, keys beginning with mnist_."""
    generator, data = torch.Generator().manual_seed(seed), task("mnist5k", n, n_test, seed, pool=2)
    values = {}
    for labels, shown in (("true", data), ("random", with_random_labels(data, seed))):
        net = trained(shown, width, seed, batch_size=200, lr=0.2)
        found = classical(net) | stochastic(net, net.start, steps, generator)
        values |= {f"mnist_{key}_{labels}": value for key, value in found.items()}
    return values


def full_mnist(seed: int, n: int = 55_000, width: int = 600, steps: int = 100_000) -> dict[str, float]:
    """The paper's T-600 without biases: 28x28 images, 55,000 samples, 600 hidden units."""
    generator = torch.Generator().manual_seed(seed)
    net = trained(task("mnist", n, 10_000, seed), width, seed, batch_size=100)
    return {"paper_bound": stochastic(net, net.start, steps, generator)["pac_bayes"]}


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed; the full MNIST only at the paper's scale."""
    s = SETTINGS.get(scale, SETTINGS["laptop"])
    values = digits(s["n"], s["width"], s["widths"], s["steps"], seed)  # type: ignore[arg-type]
    values |= mnist(*s["mnist"], s["steps"], seed)  # type: ignore[misc]
    numbers = {key: value for key, value in values.items() if isinstance(value, float)}
    values["smallest_classical"] = min(numbers[f"{data}smallest_true"] for data in ("", "mnist_"))
    values["largest_held_out"] = max(numbers[f"{data}held_out_true"] for data in ("", "mnist_"))
    norms = [f"{data}{norm}" for data in ("", "mnist_") for norm in ("frobenius", "path", "spectral")]
    values["least_norm_ratio"] = min(numbers[f"{norm}_random"] / numbers[f"{norm}_true"] for norm in norms)
    return values | full_mnist(seed) if scale == "paper" else values


if __name__ == "__main__":
    main(measure)
