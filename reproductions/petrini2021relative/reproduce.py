"""Petrini et al. 2021: stability to smooth deformations, relative to that to noise, tracks the test error."""

import copy
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phenomena.data import Dataset, load
from phenomena.diffeomorphisms import deform, displacement, warp
from phenomena.program import Values, main
from phenomena.relative_stability import Stability, matched_noise, relative_stability
from phenomena.small_cnn import small_cnn
from phenomena.training import check_weights, cosine, cross_entropy, error_rate, train

# Training samples and steps in one dimension and in two; batch; test: images on which everything is measured.
SETTINGS = {
    "smoke": {
        "sizes": [100, 200], "steps": 12, "sizes_2d": [60, 120], "steps_2d": 4, "batch": 50, "test": 100,
    },
    "laptop": {
        "sizes": [500, 1500, 4000], "steps": 600, "sizes_2d": [250, 1000, 4000], "steps_2d": 300, "batch": 100,
        "test": 1000,
    },
}  # fmt: skip
DELTA, CUT = 1.0, 3  # root mean square displacement in pixels, and cut-off
DELTAS, CUTS = (0.25, 0.5, 1.0, 2.0, 4.0), (2, 3, 5, 10)
RATE = 4e-3  # of Adam
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "petrini2021relative"  # outlives the run and its --out
Network = Callable[[torch.Generator], nn.Module]
Curves = dict[str, list[float]]


# Networks


def initialised(layers: Iterable[nn.Module], generator: torch.Generator) -> nn.Sequential:
    """The layers as one network; He initialisation, zero biases."""
    model = nn.Sequential(*layers)
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def linear(inputs: int, outputs: int) -> nn.Module:
    """A linear layer whose weights are still to be drawn."""
    return nn.utils.skip_init(nn.Linear, inputs, outputs)


def mlp(*sizes: int) -> Network:
    """A fully connected network of sizes[0] inputs and the hidden layers that follow, for ten classes."""

    def network(generator: torch.Generator) -> nn.Module:
        hidden = [layer for pair in pairwise(sizes) for layer in (linear(*pair), nn.ReLU())]
        return initialised([nn.Flatten(), *hidden, linear(sizes[-1], 10)], generator)

    return network


def cnn(
    shape: Sequence[int], channels: Sequence[int], kernel: int = 3, *, pool: bool = True, norm: bool = False,
    gap: bool = False,
) -> Network:  # fmt: skip
    """Blocks of convolution, (batch normalisation,) ReLU and max-pooling, or strides of 2 without it; then linear.

    For images (colours, length) or (colours, side, side), ten classes; gap: averages over what is left of the pixels.
    """
    D = len(shape) - 1
    conv, bn, maximum, average = (getattr(nn, f"{n}{D}d") for n in ("Conv", "BatchNorm", "MaxPool", "AdaptiveAvgPool"))

    def network(generator: torch.Generator) -> nn.Module:
        layers: list[nn.Module] = []
        before, side = shape[0], shape[-1]
        for after in channels:
            stride = 1 if pool else 2
            layers.append(nn.utils.skip_init(conv, before, after, kernel, stride=stride, padding=kernel // 2))
            layers += [bn(after)] * norm + [nn.ReLU()] + [maximum(2)] * pool
            before, side = after, side // 2 if pool else (side + 1) // 2
        pixels = 1 if gap else side**D
        return initialised([*layers, *[average(1)] * gap, nn.Flatten(), linear(before * pixels, 10)], generator)

    return network


NETWORKS: dict[str, Network] = {  # of 40 pixels
    "mlp1": mlp(40, 200),
    "mlp3": mlp(40, 100, 100, 100),
    "stride": cnn((1, 40), (16, 16, 16), 5, pool=False),
    "pool": cnn((1, 40), (16, 16, 16)),
    "bn": cnn((1, 40), (16, 16, 16), norm=True),
    "bn_gap": cnn((1, 40), (16, 16, 16), norm=True, gap=True),
}
FULLY_CONNECTED, UNPOOLED = 2, 3  # the first two, three
NETWORKS_2D: dict[str, Network] = {  # of 28 x 28 pixels
    "mlp": mlp(784, 100, 100, 100),
    "stride": lambda generator: small_cnn((1, 28, 28), 10, generator),
    "bn": cnn((1, 28, 28), (4, 8, 16, 16), norm=True),
}
AUGMENTED = ("mlp", "stride")  # the first two
AUGMENTATIONS = ("plain", "diffeo", "noise")


class Augment(nn.Module):
    """In training, every image deformed anew ("diffeo"), or with noise of the deformation's norm ("noise")."""

    def __init__(self, kind: str, generator: torch.Generator) -> None:
        super().__init__()
        self.kind, self.generator = kind, generator

    def forward(self, X: Tensor) -> Tensor:
        """Images like X; X itself outside training."""
        if not self.training or self.kind == "plain":
            return X
        deformed = deform(X, DELTA, CUT, self.generator)
        return deformed if self.kind == "diffeo" else matched_noise(X, deformed, self.generator)


# Measurements


class Images(NamedTuple):
    """Training and test images with their axes, and labels."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor


def images(data: Dataset, order: Tensor | None = None) -> Images:
    """The images of `data`; with `order` (pixels,), with their pixels in that order."""
    X, X_test = ((A if order is None else A[:, order]).view(-1, *data.image_shape) for A in (data.X_train, data.X_test))
    return Images(X, data.y_train, X_test, data.y_test)


class Probe:
    """Test images and their deformed versions: called with a network, it gives D, G and R.

    The noise has a seed of its own: noise from the seed of the weights would be the first layer's weights again.
    """

    def __init__(self, X: Tensor, deformed: Tensor, seed: int) -> None:
        self.X, self.deformed, self.seed = X, deformed, 10_000 + seed

    def __call__(self, model: nn.Module, *, own: bool = False, median: bool = False) -> Stability:
        """With `own`, images, deformed and noisy ones are each normalised by the statistics of their own batch."""
        frozen = copy.deepcopy(model).train(own)
        noise = torch.Generator().manual_seed(self.seed)
        return relative_stability(frozen, self.X, self.deformed, noise, average="median" if median else "mean")


def deformations(X: Tensor, seed: int, delta: float = DELTA, cut: int = CUT) -> Probe:
    """The probe of one random deformation an image."""
    return Probe(X, deform(X, delta, cut, torch.Generator().manual_seed(20_000 + seed)), seed)


@torch.no_grad()
def set_statistics(model: nn.Module, X: Tensor) -> nn.Module:
    """Let a network without training normalise by the means and variances of X; in evaluation mode."""
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    model.train()(X)
    for layer in layers:
        layer.momentum = 0.1
    return model.eval()


def study(
    networks: dict[str, Network], data: Images, probe: Probe, sizes: list[int], steps: int, batch: int, seed: int,
    augmentation: str = "plain", record_at: Sequence[int] = (),
) -> tuple[Curves, list[nn.Module]]:  # fmt: skip
    """Train each network on each size: curves over both, the sizes within a network, and the trained networks.

    Those ending in _start have one entry a network; _during_NAME, over "step", is of the largest size.
    """
    curves: Curves = {}
    models = []

    def put(**numbers: float) -> None:
        for key, number in numbers.items():
            curves.setdefault(key, []).append(number)

    def during(step: int, model: nn.Module) -> dict[str, float]:
        return {"relative": probe(model).R, "test_error": error_rate(copy.deepcopy(model).eval(), *data[2:])}

    for name, network in networks.items():
        for n in sizes:
            X, y, last = data.X[:n], data.y[:n], n == sizes[-1]
            generator = torch.Generator().manual_seed(seed)
            model = set_statistics(network(generator), data.X[:500])
            if last:
                put(relative_start=probe(model).R, relative_start_own=probe(model, own=True).R)
            learner = nn.Sequential(Augment(augmentation, torch.Generator().manual_seed(30_000 + seed)), model).train()
            adam = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
            history = train(
                learner, X, y, cross_entropy, adam, steps, batch, generator, schedule=cosine(steps, steps // 20),
                record=during, record_at=record_at if last else (), label=f"{name}, {n} samples, {augmentation}",
            )  # fmt: skip
            for key, values in history.recorded.items():
                curves["step" if key == "step" else f"{key}_during_{name}"] = values
            models.append(model.eval())
            D, G, R = probe(model)
            put(relative=R, absolute=D, noise=G, relative_own=probe(model, own=True).R)
            put(relative_median=probe(model, median=True).R, absolute_median=probe(model, median=True).D)
            put(test_error=error_rate(model, *data[2:]), train_error=error_rate(model, X, y))
    return curves, models


def correlation(x: Sequence[float], error: Sequence[float]) -> float:
    """Pearson's, of the logarithms."""
    return float(np.corrcoef(np.log(x), np.log(error))[0, 1])


def mean(x: Sequence[float]) -> float:
    """The geometric one."""
    return float(np.exp(np.mean(np.log(x))))


def one_dimension(seed: int, setting: dict) -> Values:
    """mnist1d: curves over NETWORKS and, within one, over the sizes; in _permuted the largest size only.

    relative, absolute and noise are R, D and G after training, relative_start is R before it (one entry a network);
    relative_during_NAME over step, relative_delta_NAME and relative_cut_NAME are of the largest size.
    """
    sizes, steps, batch = setting["sizes"], setting["steps"], setting["batch"]
    k, data = len(sizes), load("mnist1d", sizes[-1], setting["test"], seed)
    there = images(data)
    record_at = sorted({0, *np.geomspace(5, steps, 9).round().astype(int).tolist()})
    curves, models = study(
        NETWORKS, there, deformations(there.X_test, seed), sizes, steps, batch, seed, record_at=record_at
    )
    error = curves["test_error"]
    numbers = {
        f"correlation_{key}": correlation(curves[key], error)
        for key in ("relative", "absolute", "noise", "relative_median", "absolute_median")
    }
    of_largest = curves["relative"][k - 1 :: k]
    numbers |= {"start": mean(curves["relative_start"]), "trained": mean(of_largest)}
    numbers |= {f"smallest_start{end}": min(curves[f"relative_start{end}"]) for end in ("", "_own")}
    numbers["smallest_start_unpooled"] = min(curves["relative_start"][:UNPOOLED])
    for kind, part in (("mlp", slice(0, FULLY_CONNECTED * k)), ("cnn", slice(FULLY_CONNECTED * k, None))):
        curves[f"relative_size_{kind}"] = [mean(curves["relative"][part][i::k]) for i in range(k)]
    curves["size"] = [float(n) for n in sizes]

    grids = {
        "delta": [deformations(there.X_test, seed, delta) for delta in DELTAS],
        "cut": [deformations(there.X_test, seed, cut=cut) for cut in CUTS],
    }
    curves |= {"delta": list(DELTAS), "cut": [float(c) for c in CUTS]}
    for key, probes in grids.items():
        found = [[probe(model) for model in models] for probe in probes]
        curves[f"correlation_relative_{key}"] = [correlation([s.R for s in row], error) for row in found]
        curves[f"correlation_absolute_{key}"] = [correlation([s.D for s in row], error) for row in found]
        for i, name in enumerate(NETWORKS):
            curves[f"relative_{key}_{name}"] = [row[i * k + k - 1].R for row in found]
    numbers["correlation_subpixel"] = curves["correlation_relative_delta"][0]

    # The control: one order of the pixels for all images and seeds. Neighbours mean nothing; a deformation is no more
    # natural than noise.
    order = torch.randperm(data.X_train.shape[1], generator=torch.Generator().manual_seed(0))
    there = images(data, order)
    permuted, _ = study(NETWORKS, there, deformations(there.X_test, seed), sizes[-1:], steps, batch, seed)
    numbers["correlation_permuted"] = correlation(permuted["relative"], permuted["test_error"])
    numbers |= {"start_permuted": mean(permuted["relative_start"]), "trained_permuted": mean(permuted["relative"])}
    return curves | {f"{key}_permuted": values for key, values in permuted.items()} | numbers


def two_dimensions(seed: int, setting: dict) -> Values:
    """mnist5k: the same over NETWORKS_2D, keys ending in _2d; the largest size over AUGMENTATIONS for two networks."""
    sizes, steps, batch = setting["sizes_2d"], setting["steps_2d"], setting["batch"] // 2
    there, k = images(load("mnist5k", sizes[-1], setting["test"], seed)), len(sizes)
    probe = deformations(there.X_test[:500], seed)
    curves, _ = study(NETWORKS_2D, there, probe, sizes, steps, batch, seed)
    error = curves["test_error"]
    numbers = {f"correlation_{key}_2d": correlation(curves[key], error) for key in ("relative", "absolute")}
    numbers |= {f"{name}_start_2d": R for name, R in zip(NETWORKS_2D, curves["relative_start"], strict=True)}
    numbers |= {f"{name}_2d": R for name, R in zip(NETWORKS_2D, curves["relative"][k - 1 :: k], strict=True)}
    numbers |= {"bn_start_own_2d": curves["relative_start_own"][-1], "bn_own_2d": curves["relative_own"][-1]}
    values = {f"{key}_2d": values for key, values in curves.items()} | {"size_2d": [float(n) for n in sizes]}

    few = {name: NETWORKS_2D[name] for name in AUGMENTED}
    runs = {"plain": {key: curves[key][k - 1 :: k] for key in ("relative", "test_error")}}
    runs |= {kind: study(few, there, probe, sizes[-1:], steps, batch, seed, kind)[0] for kind in AUGMENTATIONS[1:]}
    for i, name in enumerate(AUGMENTED):
        for key in ("relative", "test_error"):
            values[f"{key}_augmented_{name}"] = [run[key][i] for run in runs.values()]
        numbers |= {f"{name}_{kind}_2d": runs[kind]["relative"][i] for kind in AUGMENTATIONS[1:]}
    return {**values, **numbers}


# CIFAR-10, at the paper's scale


class Residual(nn.Module):
    """Two normalised convolutions 3x3, plus the identity, or a convolution 1x1 where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        first, second = ([conv3(a, after, s), nn.BatchNorm2d(after)] for a, s in ((before, stride), (after, 1)))
        self.path = nn.Sequential(*first, nn.ReLU(), *second)
        changes = stride > 1 or before != after
        short = [nn.utils.skip_init(nn.Conv2d, before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)]
        self.short = nn.Sequential(*short) if changes else nn.Identity()

    def forward(self, X: Tensor) -> Tensor:
        """Add the two paths."""
        return torch.relu(self.path(X) + self.short(X))


def conv3(before: int, after: int, stride: int = 1, *, bias: bool = False) -> nn.Module:
    """A convolution 3x3 that keeps the side, up to its stride."""
    return nn.utils.skip_init(nn.Conv2d, before, after, 3, stride=stride, padding=1, bias=bias)


def resnet(*blocks: int) -> Network:
    """ResNet-18 is (2, 2, 2, 2), ResNet-34 is (3, 4, 6, 3): the stages' blocks, of 64, 128, 256 and 512 channels."""

    def network(generator: torch.Generator) -> nn.Module:
        layers: list[nn.Module] = [conv3(3, 64), nn.BatchNorm2d(64), nn.ReLU()]
        before = 64
        for stage, count in enumerate(blocks):
            for block in range(count):
                after = 64 * 2**stage
                layers.append(Residual(before, after, 2 if stage and not block else 1))
                before = after
        return initialised([*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(before, 10)], generator)

    return network


def vgg(*stages: int, norm: bool) -> Network:
    """VGG-11 is (1, 1, 2, 2, 2), the convolutions before each of the five poolings; one linear layer at the end."""

    def network(generator: torch.Generator) -> nn.Module:
        layers: list[nn.Module] = []
        before = 3
        for count, after in zip(stages, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                layers += [conv3(before, after, bias=not norm), *[nn.BatchNorm2d(after)] * norm, nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        return initialised([*layers, nn.Flatten(), linear(before, 10)], generator)

    return network


CIFAR10: dict[str, Network] = {
    "fc2": mlp(3072, 1000), "fc4": mlp(3072, 1000, 1000, 1000), "fc6": mlp(3072, *[1000] * 5),
    "lenet": cnn((3, 32, 32), (6, 16), 5),
    **{f"vgg{d}": vgg(*stages, norm=False) for d, stages in ((11, (1, 1, 2, 2, 2)), (16, (2, 2, 3, 3, 3)))},
    **{f"vgg{d}_bn": vgg(*stages, norm=True)
       for d, stages in ((11, (1, 1, 2, 2, 2)), (16, (2, 2, 3, 3, 3)), (19, (2, 2, 4, 4, 4)))},
    "resnet18": resnet(2, 2, 2, 2), "resnet34": resnet(3, 4, 6, 3),
}  # fmt: skip
STATE_OF_THE_ART = ("vgg16_bn", "vgg19_bn", "resnet18", "resnet34")


def cropped_and_flipped(X: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (n, C, S, S) moved by up to 4 pixels either way, black beyond its frame, and half of them mirrored."""
    n, _, side, _ = X.shape
    corner = torch.randint(9, (2, n, 1), generator=generator)
    row, column = corner + torch.arange(side)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    column = torch.where(mirrored, column.flip(1), column)
    padded = nn.functional.pad(X, (4, 4, 4, 4))
    image = torch.arange(n)[:, None, None]
    row, column, image = (i.to(X.device) for i in (row[:, :, None], column[:, None, :], image))
    return padded[image, :, row, column].permute(0, 3, 1, 2)


def trained_on_cifar10(
    network: Network, data: Images, epochs: int, rate: float, seed: int, path: Path, label: str
) -> nn.Module:
    """SGD with momentum 0.9, weight decay 5e-4, batches of 128, a cosine; resumed from the epoch saved in `path`."""
    generator = torch.Generator().manual_seed(seed)
    model = network(generator).to(data.X.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule, first = cosine(epochs, min(5, epochs - 1)), 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(epoch)
        order = torch.randperm(len(data.X), generator=generator)
        for i in order[: len(order) - len(order) % 128].split(128):
            X = cropped_and_flipped(data.X[i.to(data.X.device)], generator)
            loss = cross_entropy(model(X), data.y[i.to(data.X.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        check_weights(model, epoch, label)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state(),
            "epoch": epoch + 1,
        }  # fmt: skip
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
        print(f"{label}: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return model.eval()


def cifar10(seed: int, epochs: int = 200, networks: dict[str, Network] = CIFAR10, folder: Path = CHECKPOINTS) -> Values:
    """R, D and test error of the networks (curves in their order), before training and after it.

    As in the authors' code: 500 test images, displacement 1 pixel by Eq. 3 and cut 3, medians, and before training
    normalisation by every batch itself. A rough estimate: an hour a seed on one fast GPU, most of it the ResNets'.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = images(load("cifar10", download=True, seed=seed))
    mean_, std = (moment(data.X, dim=(0, 2, 3), keepdim=True) for moment in (torch.mean, torch.std))
    data = Images(*(A.to(device) for A in ((data.X - mean_) / std, data.y, (data.X_test - mean_) / std, data.y_test)))
    X, side = data.X_test[:500], data.X.shape[-1]
    T = 4 / (math.pi * side**2 * math.log(CUT))
    tau = displacement(len(X), (side, side), T, CUT, torch.Generator().manual_seed(20_000 + seed)).to(device)
    probe = Probe(X, warp(X, tau), seed)
    curves: Curves = {key: [] for key in ("relative_start", "relative", "absolute", "test_error")}
    for name, network in networks.items():
        start = set_statistics(network(torch.Generator().manual_seed(seed)).to(device), data.X[:500])
        curves["relative_start"].append(probe(start, own=True, median=True).R)
        rate = 0.1 if any(isinstance(m, nn.BatchNorm2d) for m in start.modules()) else 0.01
        path = folder / f"{name}-seed{seed}-{epochs}epochs-{len(data.X)}.pt"
        model = trained_on_cifar10(network, data, epochs, rate, seed, path, f"{name}, seed {seed}")
        found = probe(model, median=True)
        parts = zip(data.X_test.split(1000), data.y_test.split(1000), strict=True)
        error = sum(len(y) * error_rate(model, A, y) for A, y in parts) / len(data.y_test)
        for key, value in (("relative", found.R), ("absolute", found.D), ("test_error", error)):
            curves[key].append(value)
    start_R, R, D, errors = curves.values()
    numbers = {
        "correlation_relative": correlation(R, errors),
        "correlation_absolute": correlation(D, errors),
        "prefactor": mean([e / math.sqrt(r) for e, r in zip(errors, R, strict=True)]),
        "start": mean(start_R),
        "fall": mean([R[i] / start_R[i] for i, name in enumerate(networks) if name in STATE_OF_THE_ART]),
    }
    values: dict[str, float | list[float]] = {**curves, **numbers}
    return {f"{key}_cifar10": value for key, value in values.items()}


def measure(seed: int, scale: str) -> Values:
    """mnist1d and mnist5k, or at the paper's scale CIFAR-10."""
    if scale == "paper":
        return cifar10(seed)
    return {**one_dimension(seed, SETTINGS[scale]), **two_dimensions(seed, SETTINGS[scale])}


if __name__ == "__main__":
    main(measure)
