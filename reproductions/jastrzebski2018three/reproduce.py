"""Jastrzebski et al. 2018: learning rate over batch size sets the width of minima; what the rate does alone."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.curvature import hessian, top_eigenpairs
from phenomena.data import Dataset, load, with_label_noise
from phenomena.errors import Diverged
from phenomena.image_networks import cropped_and_flipped, resnet, vgg11
from phenomena.networks import mlp
from phenomena.program import Values, main
from phenomena.quadratic_sgd import run_chains
from phenomena.training import cross_entropy, error_rate, squared_loss

# data, n, test, hidden: of the networks; loss: the training loss at which a run ends; horizon: time up to which
# learning curves go; epochs: of the endpoints at equal epochs; noisy, late, level: data of the memorisation, the time
# and the accuracy on the random labels at which it is measured; pool, wrong: data of the stationary distribution and
# its fraction of wrong labels (without them digits are separable and have no minimum); chains, steps: of SGD there.
SETTINGS = {
    "smoke": {
        "data": "digits", "n": 256, "test": 200, "hidden": (16,), "loss": 2.27, "horizon": 2.0, "epochs": 1,
        "noisy": "digits", "late": 6.0, "level": 0.05, "pool": "digits", "wrong": 0.9, "chains": 2, "steps": 150,
    },
    "laptop": {
        "data": "mnist1d", "n": 1024, "test": 3000, "hidden": (100, 100), "loss": 0.25, "horizon": 100.0, "epochs": 20,
        "noisy": "mnist5k", "late": 60.0, "level": 0.9, "pool": "mnist1d", "wrong": 0.0, "chains": 8, "steps": 4500,
    },
}  # fmt: skip
ETA, BATCH = (0.05, 0.1, 0.2, 0.4, 0.8), (4, 16, 64, 256)  # the grid: all pairs of a ratio of at most 0.025
ETA_FULL = (0.07, 0.14, 0.4, 0.8)  # full-batch descent
SMALL = 0.14  # rates up to here stay below 2 / lambda_1 of small steps: no edge of stability
NOISY_ETA, NOISY_BATCH, RANDOM = 0.1, (8, 16, 64, 256), 0.25  # of the memorisation, and its fraction of random labels
PATIENCE = 4000.0  # time after which a run that has not reached its loss is given up
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "jastrzebski2018three"
Rule = Callable[[int], tuple[float, int]]  # learning rate and batch size of an epoch


class Run(NamedTuple):
    """Where the training loss was first below its target, and the loss at 31 times up to the horizon."""

    time: float  # the sum of the learning rates
    lambda_1: float
    trace: float
    accuracy: float  # on the test set, per cent
    curve: list[float]


def constant(eta: float, B: int) -> Rule:
    """The same learning rate and batch size in every epoch."""
    return lambda epoch: (eta, B)


def in_turn(first: tuple[float, int], second: tuple[float, int]) -> Rule:
    """One epoch with one learning rate and batch size, one with the other."""
    return lambda epoch: (first, second)[epoch % 2]


def descent(model: nn.Module, X: Tensor, y: Tensor, rule: Rule, generator: torch.Generator) -> Iterator[float]:
    """Run theta <- theta - eta g_B for ever; yield the time, the sum of the etas, before each step.

    An epoch is a pass in random order, without the last n mod B samples; B = n is full-batch descent.
    """
    parameters: list[Tensor] = list(model.parameters())
    time, n = 0.0, len(X)
    for epoch in count():
        eta, B = rule(epoch)
        for i in torch.randperm(n, generator=generator)[: n - n % B].split(B):
            yield time
            loss = cross_entropy(model(X), y) if n == B else cross_entropy(model(X[i]), y[i])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-eta)
            time += eta


def each_unit(times: Iterator[float], label: str) -> Iterator[float]:
    """About one of these times a unit; Diverged where they run out of PATIENCE."""
    due = 0.0
    for time in times:
        if time > PATIENCE:
            raise Diverged(f"the training loss has not come down after time {PATIENCE:g} ({label})")
        if time >= due:
            due = time + 1
            yield time


@torch.no_grad()
def loss_on(model: nn.Module, X: Tensor, y: Tensor, label: str) -> float:
    """Mean cross-entropy in nats; Diverged if it is not finite."""
    value = cross_entropy(model(X), y).item()
    if not np.isfinite(value):
        raise Diverged(f"the training loss is {value:g} ({label})")
    return value


def accuracy(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """Per cent of samples whose label is right."""
    return 100 * (1 - error_rate(model, X, y))


def widths(model: nn.Module, X: Tensor, y: Tensor, generator: torch.Generator, probes: int = 8) -> tuple[float, float]:
    """lambda_1 and the trace of H: Lanczos, and the mean of v^T H v over random signs v (Hutchinson)."""
    H = hessian(model, X, y, cross_entropy)
    signs = torch.randint(0, 2, (H.shape[0], probes), generator=generator).to(X.dtype) * 2 - 1
    trace = (signs * (H @ signs)).sum().item() / probes
    return top_eigenpairs(H, 1, generator, tol=0.01).values[0].item(), trace


def start(data: Dataset, hidden: Sequence[int], seed: int) -> tuple[nn.Sequential, torch.Generator]:
    """Fully connected ReLU network, the same weights for all runs of a seed, and the generator of its batches."""
    model = mlp((data.X_train.shape[1], *hidden, 10), torch.Generator().manual_seed(seed))
    return model, torch.Generator().manual_seed(1000 + seed)


def run(data: Dataset, setting: dict, rule: Rule, seed: int) -> Run:
    """Train until the loss is below its target, which is the endpoint, and the time over the horizon."""
    X, y = data.X_train, data.y_train
    model, generator = start(data, setting["hidden"], seed)
    label = f"learning rate {rule(0)[0]}, batch {rule(0)[1]}"
    times: list[float] = []
    losses: list[float] = []
    end: tuple[float, float, float, float] | None = None
    for time in each_unit(descent(model, X, y, rule, generator), label):
        times.append(time)
        losses.append(loss_on(model, X, y, label))
        if end is None and losses[-1] < setting["loss"]:
            end = (time, *widths(model, X, y, generator), accuracy(model, data.X_test, data.y_test))
        if end is not None and time >= setting["horizon"]:
            return Run(*end, np.interp(np.linspace(0, setting["horizon"], 31), times, losses).tolist())
    raise AssertionError("descent never ends")


def geometric(numbers: Sequence[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(numbers))))


def gap(*pairs: tuple[Run, Run]) -> float:
    """Mean distance, over the times and the pairs, of two runs' training losses."""
    return float(np.mean([np.abs(np.subtract(a.curve, b.curve)) for a, b in pairs]))


def columns(runs: dict[float, Run], name: str) -> dict[str, list[float]]:
    """Curves over the learning rates of one batch size."""
    parts = {"lambda": "lambda_1", "trace": "trace", "accuracy": "accuracy", "time": "time"}
    curves = {f"{key}_{name}": [getattr(r, part) for r in runs.values()] for key, part in parts.items()}
    return {f"eta_{name}": list(runs), **curves}


def grid(data: Dataset, setting: dict, seed: int) -> Values:
    """Endpoints of all learning rates and batch sizes, and of full-batch descent; what explains lambda_1."""
    pairs = [(eta, B) for B in BATCH for eta in ETA if eta / B < 0.03]
    runs = {pair: run(data, setting, constant(*pair), seed) for pair in pairs}
    full = {eta: run(data, setting, constant(eta, len(data.X_train)), seed) for eta in ETA_FULL}
    values: dict[str, float | list[float]] = {**columns(full, "full")}
    for B in BATCH:
        mine = {eta: r for (eta, b), r in runs.items() if b == B}
        values |= columns(mine, f"B{B}")
        values[f"ratio_B{B}"] = [eta / B for eta in mine]

    for name, most in (("all", 1.0), ("small", SMALL)):
        chosen = {pair: r for pair, r in runs.items() if pair[0] <= most}
        eta, B = np.array(list(chosen)).T
        lambda_1 = [r.lambda_1 for r in chosen.values()]
        values |= {f"ratio_{name}": (eta / B).tolist(), f"lambda_{name}": lambda_1}
        values[f"trace_{name}"] = [r.trace for r in chosen.values()]
        for factor, x, sign in (("ratio", eta / B, -1), ("eta", eta, -1), ("batch", B, 1)):
            values[f"rank_{factor}_{name}"] = sign * float(spearmanr(x, lambda_1).statistic)
    values["ratio_fixed_eta"] = [0.05 / b for b in BATCH]
    values["lambda_fixed_eta"] = [runs[0.05, b].lambda_1 for b in BATCH]
    for name, etas in (("small", ETA_FULL[:2]), ("large", ETA_FULL[2:])):
        values[f"eta_full_{name}"] = list(etas)
        values[f"lambda_full_{name}"] = [full[eta].lambda_1 for eta in etas]
        values[f"trace_full_{name}"] = [full[eta].trace for eta in etas]
        values[f"product_full_{name}"] = float(np.mean([eta * full[eta].lambda_1 for eta in etas]))
        values[f"accuracy_full_{name}"] = float(np.mean([full[eta].accuracy for eta in etas]))
    values["accuracy_full_first"], values["accuracy_full_second"] = (full[eta].accuracy for eta in ETA_FULL[:2])
    values["product_noise"] = 0.05 * runs[0.05, 4].lambda_1

    def at(*pairs: tuple[float, int]) -> float:
        return geometric([runs[pair].lambda_1 for pair in pairs])

    values["lambda_base"], values["lambda_by_4"] = at((0.05, 4), (0.05, 16)), at((0.2, 16), (0.2, 64))
    values["lambda_base_alone"], values["lambda_eta_by_4"] = at((0.05, 16), (0.05, 64)), at((0.2, 16), (0.2, 64))
    values["lambda_base_16"], values["lambda_by_16"] = at((0.05, 16)), at((0.8, 256))
    values["product_by_16"] = 0.8 * at((0.8, 256))
    values["gap_ratio"] = gap(*((runs[0.05, B], runs[0.2, 4 * B]) for B in (16, 64)))
    values["gap_eta_alone"] = gap(*((runs[0.05, B], runs[0.2, B]) for B in (16, 64)))
    values["gap_by_16"] = gap((runs[0.05, 16], runs[0.8, 256]))
    values["times"] = np.linspace(0, setting["horizon"], 31).tolist()
    for eta, B in ((0.05, 16), (0.2, 64), (0.8, 256), (0.2, 16), (0.8, 64), (0.05, 64)):
        values[f"loss_{eta}_B{B}"] = runs[eta, B].curve
    cycles = (in_turn((0.2, 16), (0.05, 16)), in_turn((0.2, 16), (0.2, 64)))
    rates, sizes = (run(data, setting, rule, seed) for rule in cycles)
    values |= {"loss_cyclic_eta": rates.curve, "loss_cyclic_batch": sizes.curve}
    values["gap_cyclic"], values["gap_cyclic_other"] = gap((rates, sizes)), gap((rates, runs[0.05, 16]))

    for name, low, high in (("high", 0.005, 0.02), ("low", 0.0, 0.0005)):
        found = [r.accuracy for (eta, B), r in runs.items() if low < eta / B < high]
        values[f"accuracy_{name}_ratio"] = float(np.mean(found))
    return values


def equal_epochs(data: Dataset, setting: dict, seed: int, B: int = 64) -> Values:
    """lambda_1 and the training loss of all learning rates after the same number of epochs, whatever the loss."""
    X, y = data.X_train, data.y_train
    rows = []
    for eta in ETA:
        model, generator = start(data, setting["hidden"], seed)
        steps = setting["epochs"] * (len(X) // B)
        for _, _ in zip(range(steps + 1), descent(model, X, y, constant(eta, B), generator), strict=False):
            pass
        rows.append((eta / B, widths(model, X, y, generator, 1)[0], loss_on(model, X, y, "equal epochs")))
    return dict(zip(("ratio_epochs", "lambda_epochs", "loss_epochs"), map(list, zip(*rows, strict=True)), strict=True))


def memorisation(setting: dict, seed: int) -> Values:
    """One learning rate, several batch sizes, a quarter of the labels random: who fits them, and when.

    Accuracies in per cent: around one time, at one training loss, and where the random labels are fitted alike.
    """
    data = load(setting["noisy"], setting["n"], setting["test"], seed=seed)
    X, y = data.X_train, with_label_noise(data.y_train, RANDOM, 10, seed)
    random, late = y != data.y_train, setting["late"]
    rows = []
    for B in NOISY_BATCH:
        model, generator = start(data, setting["hidden"], seed)
        around: list[tuple[float, float, float]] = []
        equal_loss = equal_level = None
        label = f"random labels, batch {B}"
        for time in each_unit(descent(model, X, y, constant(NOISY_ETA, B), generator), label):
            fitted = accuracy(model, X[random], y[random])
            if equal_loss is None and loss_on(model, X, y, label) < 1:
                equal_loss = fitted
            if equal_level is None and fitted >= 100 * setting["level"]:
                equal_level = accuracy(model, data.X_test, data.y_test)
            if 0.8 * late <= time <= late:
                true = accuracy(model, X[~random], y[~random])
                around.append((fitted, true, accuracy(model, data.X_test, data.y_test)))
            if time > late and equal_loss is not None and equal_level is not None:
                break
        rows.append((NOISY_ETA / B, *np.mean(around, axis=0).tolist(), equal_loss, equal_level))
    names = (
        "ratio_noisy",
        "memorised",
        "true_fitted",
        "accuracy_noisy",
        "memorised_equal_loss",
        "accuracy_equal_level",
    )
    curves = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    ends = {f"{name}_{end}": curves[name][k] for name in names[1:] for end, k in (("high", 0), ("low", -1))}
    return {**curves, **ends}


def stationary(X: Tensor, y: Tensor, loss: str, setting: dict, seed: int, eta: float, B: int = 10) -> tuple[float, ...]:
    """Mean of L - L* of SGD on a linear classifier, started in its minimum; (eta / 4B) tr H; (eta / 4B) tr C.

    With H Sigma + Sigma H = (eta / B) C, half the trace of H Sigma is (eta / 4B) tr C, whatever C: tr H if C = H.
    `loss` is "softmax", the cross-entropy, or "squared", to one-hot targets. Batches with replacement.
    """
    X, one_hot = torch.cat([X, torch.ones(len(X), 1)], 1).double(), F.one_hot(y, 10).double()
    p, softmax = X.shape[1], loss == "softmax"
    measure_loss = cross_entropy if softmax else squared_loss
    generator = torch.Generator().manual_seed(seed)

    def residual(f: Tensor, target: Tensor) -> Tensor:
        return (torch.softmax(f, -1) if softmax else f) - target

    W = minimum(X, y) if softmax else torch.linalg.lstsq(X, one_hot, driver="gelsd").solution
    f, squares = X @ W, X.square().sum(1)
    trace_C = (squares * residual(f, one_hot).square().sum(1)).mean().item()  # the mean gradient is 0
    q = torch.softmax(f, 1)
    trace_H = (squares * ((q * (1 - q)).sum(1) if softmax else 10)).mean().item()

    def gradient(theta: Tensor) -> Tensor:
        i = torch.randint(len(y), (len(theta), B), generator=generator)
        return (X[i].mT @ residual(X[i] @ theta.view(-1, p, 10), one_hot[i]) / B).flatten(1)

    chains = W.flatten().repeat(setting["chains"], 1)
    records = run_chains(gradient, chains, eta, setting["steps"], every=50)[setting["steps"] // 150 :]
    losses = [measure_loss(X @ theta.view(-1, p, 10), y.expand(len(theta), -1)).mean() for theta in records]
    excess = torch.stack(losses).mean().item() - measure_loss(f, y).item()
    return excess, eta / (4 * B) * trace_H, eta / (4 * B) * trace_C


def minimum(X: Tensor, y: Tensor, steps: int = 50) -> Tensor:
    """The weights (p, 10) of softmax regression on X (n, p), by Newton's method; Diverged if there is no minimum."""
    p = X.shape[1]
    W, one_hot = X.new_zeros(p, 10), F.one_hot(y, 10)
    for _ in range(steps):
        q = torch.softmax(X @ W, 1)
        g = X.mT @ (q - one_hot) / len(X)
        if g.abs().max() < 1e-9:
            return W
        weights = torch.diag_embed(q) - q[:, :, None] * q[:, None, :]  # (n, 10, 10)
        H = torch.stack([(X * w[:, None]).mT @ X for w in weights.flatten(1).mT]).view(10, 10, p, p) / len(X)
        H = H.permute(2, 0, 3, 1).reshape(10 * p, 10 * p)
        # H is 0 where all classes move alike: the smallest of the solutions does not
        W = W - torch.linalg.lstsq(H, g.view(-1, 1), driver="gelsd").solution.view(p, 10)
    raise Diverged("softmax regression has found no minimum; more samples are needed")


def small(seed: int, setting: dict) -> Values:
    """Everything that needs no CIFAR-10."""
    data = load(setting["data"], setting["n"], setting["test"], seed=seed)
    values = {**grid(data, setting, seed), **equal_epochs(data, setting, seed), **memorisation(setting, seed)}
    pool = load(setting["pool"], 1700, 97, seed=seed)
    X = pool.X_train[:, pool.X_train.std(0) > 0.2]  # a pixel that is hardly ever on separates what it can
    y = with_label_noise(pool.y_train, setting["wrong"], 10, seed)
    for loss, eta in (("softmax", 0.05), ("squared", 0.02)):
        excess, by_H, by_C = stationary(X, y, loss, setting, seed, eta)
        values |= {f"excess_{loss}": excess, f"excess_{loss}_H": by_H, f"excess_{loss}_C": by_C}
    return values


Build = Callable[[torch.Generator], nn.Module]
NETWORKS: dict[str, Build] = {
    "vgg11": lambda generator: vgg11((3, 32, 32), 10, generator, batch_norm=True),
    "resnet56": lambda generator: resnet((3, 32, 32), 10, 9, generator),
}
PAIRS = ((0.005, 256), (0.02, 256), (0.02, 64), (0.08, 256), (0.08, 64), (0.08, 16))  # ratios 2e-5 to 5e-3


def trained(
    build: Build, data: Dataset, rule: Rule, epochs: int, seed: int, folder: Path, device: str, name: str
) -> tuple[nn.Module, list[float]]:
    """A network after `epochs` of SGD on crops and mirror images, and its test accuracies after each of them.

    Taken up after the last epoch that stands in `folder` under `name`, written beside its place and moved there. The
    order of the samples and the crops of an epoch are drawn from the seed and the epoch alone.
    """
    path = folder / f"{name}.pt"
    model, done, accuracies = build(torch.Generator().manual_seed(seed)).to(device), 0, []
    if path.exists():
        state, accuracies = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state)
        done = len(accuracies)
    X, y = data.X_train.view(-1, *data.image_shape).to(device), data.y_train.to(device)
    X_test, y_test = data.X_test.view(-1, *data.image_shape).to(device), data.y_test.to(device)
    parameters: list[Tensor] = list(model.parameters())
    for epoch in range(done, epochs):
        eta, B = rule(epoch)
        generator = torch.Generator().manual_seed(10_000 * (1 + seed) + epoch)
        model.train()
        for i in torch.randperm(len(X), generator=generator)[: len(X) - len(X) % B].to(device).split(B):
            loss = cross_entropy(model(cropped_and_flipped(X[i], generator)), y[i])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-eta)
        if not loss.isfinite():
            raise Diverged(f"the loss is {loss.item():g} in epoch {epoch} ({name})")
        model.eval()
        batches = zip(X_test.split(500), y_test.split(500), strict=True)
        accuracies.append(sum(accuracy(model, x, labels) * len(x) for x, labels in batches) / len(X_test))
        part = path.with_suffix(".part")
        torch.save((model.state_dict(), accuracies), part)
        os.replace(part, path)
        print(f"{name}: epoch {epoch + 1} of {epochs}, {accuracies[-1]:.2f} %", file=sys.stderr, flush=True)
    return model.eval(), accuracies


def cifar10(
    seed: int, networks: dict[str, Build] = NETWORKS, pairs: Sequence[tuple[float, int]] = PAIRS, epochs: int = 300,
    measured: int = 5000, folder: Path = CHECKPOINTS,
) -> Values:  # fmt: skip
    """The paper's VGG-11 and ResNet-56 on CIFAR-10: lambda_1 and test accuracy against the ratio; cyclic schedules.

    lambda_1 on `measured` training images, batch normalisation as in a test. Each epoch is a checkpoint in `folder`. A
    rough estimate is ten seconds an epoch on one fast GPU, so about half a day a seed. The cyclic schedules are those
    of the paper's figure 1, as a later reproduction describes them: VGG-11, 5 epochs each, 0.005 or 0.001 in batches
    of 128, against 0.005 in batches of 128 or 640.
    """
    data = load("cifar10", download=True, seed=0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    X, y = data.X_train[:measured].view(-1, *data.image_shape).to(device), data.y_train[:measured].to(device)
    values: dict[str, float | list[float]] = {}
    for name, build in networks.items():
        rows = []
        for eta, B in pairs:
            label = f"{name}-{eta}-{B}-{seed}"
            model, accuracies = trained(build, data, constant(eta, B), epochs, seed, folder, device, label)
            H = hessian(model, X, y, cross_entropy, chunk=500)
            generator = torch.Generator().manual_seed(seed)
            rows.append((eta / B, top_eigenpairs(H, 1, generator, tol=0.01).values[0].item(), accuracies[-1]))
        keys = (f"ratio_{name}", f"lambda_{name}", f"accuracy_{name}")
        values |= dict(zip(keys, map(list, zip(*rows, strict=True)), strict=True))
        values[f"accuracy_{name}_first"], values[f"accuracy_{name}_last"] = rows[0][2], rows[-1][2]
    rules: dict[str, Rule] = {
        "eta": lambda epoch: (0.001 if epoch // 5 % 2 else 0.005, 128),
        "batch": lambda epoch: (0.005, 640 if epoch // 5 % 2 else 128),
        "constant": constant(0.005, 128),
    }
    curves = {}
    for key, rule in rules.items():
        label = f"cyclic-{key}-{seed}"
        build = next(iter(networks.values()))
        _, curves[key] = trained(build, data, rule, epochs, seed, folder, device, label)
        values[f"accuracy_cyclic_{key}"] = curves[key]
    values["gap_cifar10"] = float(np.abs(np.subtract(curves["eta"], curves["batch"])).mean())
    values["gap_cifar10_other"] = float(np.abs(np.subtract(curves["eta"], curves["constant"])).mean())
    return values


def measure(seed: int, scale: str) -> Values:
    """Small data sets, or at the paper's scale CIFAR-10."""
    return cifar10(seed) if scale == "paper" else small(seed, SETTINGS[scale])


if __name__ == "__main__":
    main(measure)
