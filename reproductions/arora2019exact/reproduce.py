"""Arora et al. 2019: the exact kernels of infinitely wide convolutional networks, against networks that are trained."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.convolutional_ntk import cntk
from phenomena.data import Dataset, load
from phenomena.empirical_ntk import empirical_ntk
from phenomena.errors import Diverged
from phenomena.infinite_width import infinite_width
from phenomena.kernel_regression import kernel_regression
from phenomena.program import Values, main
from phenomena.training import cosine, cross_entropy, error_rate, train
from phenomena.wide import ntk_cnn, ntk_mlp

# n: digits in the training sets of the kernels, and of the CNNs; test, validation: other digits; channels: of the wide
# and the narrow CNN, and of the random networks; nets: random networks at each width; steps: of a CNN's training;
# widths, trained_nets, steps_ntk: of the fully connected networks that are trained in the NTK parametrisation.
SETTINGS = {
    "smoke": {
        "n": [10, 20], "n_cnn": [10, 20], "test": 50, "validation": 20, "wide": 8, "narrow": 4, "channels": [4, 8],
        "nets": 2, "steps": 20, "widths": [16, 64], "trained_nets": 1, "steps_ntk": 40,
    },
    "laptop": {
        "n": [50, 100, 200, 500], "n_cnn": [50, 200], "test": 300, "validation": 400, "wide": 32, "narrow": 8,
        "channels": [16, 32, 64, 128], "nets": 30, "steps": 300,
        "widths": [32, 64, 128, 256, 512], "trained_nets": 3, "steps_ntk": 400,
    },
}  # fmt: skip
DEPTH = 3  # convolutions, and hidden layers of the fully connected kernel
RIDGE = 1e-6  # of the mean diagonal: only for rounding errors
RATES = (0.003, 0.01, 0.03)  # of Adam; the validation digits choose
BLOCK = 1000  # images: a tile of the kernel is BLOCK x BLOCK
Curves = tuple[list[float], list[float]]
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "arora2019exact"  # outlives the run and its --out


def targets(y: Tensor) -> Tensor:
    """0.9 for the class and -0.1 for the nine others, (n, 10), as in the authors' program."""
    return F.one_hot(y, 10).float() - 0.1


def accuracy(predicted: Tensor, y: Tensor) -> float:
    """Per cent of rows (n, 10) whose largest output is the label's."""
    return 100 * float((predicted.argmax(1) == y).double().mean())


def standardised(data: Dataset, n: int) -> tuple[Tensor, Tensor]:
    """All images, each channel centred and scaled by the first n training images, as in the authors' program."""
    X, X_test = (A.view(-1, *data.image_shape) for A in (data.X_train, data.X_test))
    mean, std = (moment(X[:n], dim=(0, 2, 3), keepdim=True) for moment in (torch.mean, torch.std))
    return (X - mean) / std, (X_test - mean) / std


def kernel(name: str, X: Tensor, Z: Tensor | None = None) -> Tensor:
    """The limit's kernel of images (n, C, H, W): "ntk" fully connected, "cntk" or "gap"."""
    if name == "ntk":
        return infinite_width(X.flatten(1), None if Z is None else Z.flatten(1), depth=DEPTH).ntk
    return cntk(X, Z, depth=DEPTH, gap=name == "gap")


def kernel_accuracies(name: str, sizes: list[int], X: Tensor, y: Tensor, X_test: Tensor, y_test: Tensor) -> list[float]:
    """Test accuracy of kernel regression on the first n digits, for each n of `sizes`."""
    K, K_test = kernel(name, X[: sizes[-1]]), kernel(name, X_test, X[: sizes[-1]])
    Y = targets(y)
    return [accuracy(kernel_regression(K[:n, :n], Y[:n], K_test[:, :n], RIDGE), y_test) for n in sizes]


def cnn(channels: int, gap: bool, generator: torch.Generator) -> nn.Sequential:
    """An ordinary network for 8x8 digits, DEPTH convolutions and a linear layer; He initialisation, zero biases."""
    layers: list[nn.Module] = []
    for h in range(DEPTH):
        layers += [nn.utils.skip_init(nn.Conv2d, channels if h else 1, channels, 3, padding=1), nn.ReLU()]
    layers += [nn.AvgPool2d(8)] if gap else []
    layers += [nn.Flatten(), nn.utils.skip_init(nn.Linear, channels * (1 if gap else 64), 10)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def trained_accuracy(
    channels: int, gap: bool, train_set: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor], steps: int, seed: int,
) -> float:  # fmt: skip
    """Test accuracy of the CNN that does best on the validation digits among the RATES; a diverged one does worst."""
    found = []
    for lr in RATES:
        generator = torch.Generator().manual_seed(seed)
        model = cnn(channels, gap, generator)
        try:
            train(
                model, *train_set, cross_entropy, torch.optim.Adam(model.parameters(), lr=lr), steps,
                min(50, len(train_set[0])), generator, schedule=cosine(steps, steps // 20), label=f"CNN, rate {lr}",
            )  # fmt: skip
            found.append((error_rate(model, *validation), error_rate(model, *test)))
        except Diverged:
            continue
    if not found:
        raise Diverged(f"the CNN of {channels} channels diverged at every rate of {RATES}")
    return 100 * (1 - min(found, key=lambda pair: pair[0])[1])


def distances(gap: bool, channels: list[int], nets: int, X: Tensor, generator: torch.Generator) -> Curves:
    """Root mean square distance of random networks' empirical NTKs to their limit, by width, relative to it.

    And relative to themselves, to the kernel of the other read-out (with pooling for without), scaled to fit best.
    """
    limit, other = kernel("gap" if gap else "cntk", X), kernel("cntk" if gap else "gap", X)
    curves: Curves = ([], [])
    for m in channels:
        squares = []
        for _ in range(nets):
            K = empirical_ntk(ntk_cnn((1, 8, 8), m, DEPTH, generator, gap=gap, dtype=X.dtype), X)[..., 0, 0]
            scaled = (K * other).sum() / (other * other).sum() * other
            squares.append([squared_distance(K, limit), squared_distance(scaled, K)])
        extend(curves, squares)
    return curves


def squared_distance(A: Tensor, B: Tensor) -> float:
    """‖A - B‖²/‖B‖²."""
    return float((A - B).square().sum() / B.square().sum())


def after_training(
    widths: list[int], nets: int, X: Tensor, y: Tensor, X_test: Tensor, steps: int, generator: torch.Generator
) -> Curves:
    """Relative distance of fully connected networks' test outputs to NTK regression: after training, and stopped early.

    y (n,) are ±1, X (n, d). Full-batch gradient descent on ½ Σ (f - y)² in the NTK parametrisation; early is after a
    fortieth of the steps. The output at the start is subtracted, which stands for the paper's small multiplier κ.
    """
    K = kernel("ntk", X)
    limit = kernel_regression(K, y, kernel("ntk", X_test, X))
    rate = 0.5 / float(torch.linalg.eigvalsh(K)[-1])
    curves: Curves = ([], [])
    for m in widths:
        squares = []
        for _ in range(nets):
            model = ntk_mlp(X.shape[1], m, DEPTH, generator)
            with torch.no_grad():
                start, start_test = model(X)[:, 0], model(X_test)[:, 0]
            distance = []
            for part in (steps // 40, steps - steps // 40):
                optimizer = torch.optim.SGD(model.parameters(), lr=rate)
                train(model, X, y + start, half_square, optimizer, part, label=f"NTK parametrisation, width {m}")
                with torch.no_grad():
                    distance.append(squared_distance(model(X_test)[:, 0] - start_test, limit))
            squares.append(distance[::-1])
        extend(curves, squares)
    return curves


def extend(curves: Curves, squares: list[list[float]]) -> None:
    """Append the roots of the mean squares (nets, 2) to the two curves."""
    for curve, mean in zip(curves, np.mean(squares, axis=0), strict=True):
        curve.append(float(np.sqrt(mean)))


def half_square(f: Tensor, y: Tensor) -> Tensor:
    """½ Σ (f - y)², f (n, 1) and y (n,)."""
    return (f[:, 0] - y).square().sum() / 2


def digits(seed: int, setting: dict) -> Values:
    """Accuracies in per cent of kernels and CNNs on one split of the digits, and distances of networks to the limit.

    Keys end in _small and _large for the two sizes of `n_cnn`, _largest for the last of `n`; _mean: its first three.
    """
    sizes, sizes_cnn, v = setting["n"], setting["n_cnn"], setting["validation"]
    data = load("digits", n_train=sizes[-1] + v, n_test=setting["test"], seed=seed)
    X, X_test = standardised(data, sizes[-1])
    y, y_test = data.y_train, data.y_test
    values: dict[str, float | list[float]] = {"n": [float(n) for n in sizes], "n_cnn": [float(n) for n in sizes_cnn]}

    # One permutation for all seeds and images; a fully connected kernel does not notice it.
    order = torch.randperm(X[0].numel(), generator=torch.Generator().manual_seed(0))
    X_permuted, X_test_permuted = (A.flatten(1)[:, order].view_as(A) for A in (X, X_test))
    few = sizes[:3]
    for name in ("ntk", "cntk", "gap"):
        values[f"accuracy_{name}"] = found = kernel_accuracies(name, sizes, X, y, X_test, y_test)
        values[f"{name}_small"], values[f"{name}_large"] = (found[sizes.index(n)] for n in sizes_cnn)
        values[f"{name}_largest"] = found[-1]
        values[f"{name}_mean"] = float(np.mean(found[: len(few)]))
        found = kernel_accuracies(name, few, X_permuted, y, X_test_permuted, y_test)
        values[f"accuracy_{name}_permuted"] = found
        values[f"{name}_permuted_mean"] = float(np.mean(found))

    validation, test = (X[-v:], y[-v:]), (X_test, y_test)
    for gap, name in ((False, "cnn"), (True, "cnn_gap")):
        for channels, suffix in ((setting["wide"], ""), (setting["narrow"], "_narrow")):
            found = [
                trained_accuracy(channels, gap, (X[:n], y[:n]), validation, test, setting["steps"], seed)
                for n in sizes_cnn
            ]
            values[f"accuracy_{name}{suffix}"] = found
            values[f"{name}{suffix}_small"], values[f"{name}{suffix}_large"] = found
    values["cnn_best_small"] = max(values["cnn_small"], values["cnn_gap_small"])

    generator = torch.Generator().manual_seed(seed)
    values["channels"] = [float(m) for m in setting["channels"]]
    for gap, name in ((False, "cntk"), (True, "gap")):
        to_limit, to_other = distances(gap, setting["channels"], setting["nets"], X[:10].double(), generator)
        values |= {f"distance_{name}": to_limit, f"distance_{name}_other": to_other}
    values["width"] = [float(m) for m in setting["widths"]]
    values["distance_trained"], values["distance_stopped"] = after_training(
        setting["widths"], setting["trained_nets"], X[:20].flatten(1), 2.0 * (y[:20] >= 5) - 1, X_test.flatten(1),
        setting["steps_ntk"], generator,
    )  # fmt: skip
    return values


def kernel_by_tiles(
    X: Tensor, n: int, depth: int, gap: bool, folder: Path, block: int = BLOCK, progress: bool = True
) -> np.ndarray:
    """Kernel of all images X (N, C, H, W) against the first n, (N, n) float32, resumed from the tiles in `folder`.

    A tile is written beside its place and moved there, so that whatever bears its name is whole. Only tiles on or below
    the diagonal are computed. The images must be the same, in the same order, whenever a folder is taken up again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    K = np.empty((len(X), n), np.float32)
    rows = [slice(i, min(i + block, end)) for start, end in ((0, n), (n, len(X))) for i in range(start, end, block)]
    tiles = [(a, b) for a in rows for b in rows if b.start < n and b.start <= a.start]
    for done, (a, b) in enumerate(tiles):
        path = folder / f"{a.start}-{b.start}.npy"
        if not path.exists():
            tile = cntk(X[a], X[b], depth=depth, gap=gap).cpu().numpy()
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, tile)
            os.replace(part, path)
            if progress:
                print(f"{folder.name}: {done + 1} of {len(tiles)} tiles", file=sys.stderr, flush=True)
        K[a, b] = np.load(path)
        if a.stop <= n:
            K[b, a] = K[a, b].T
    return K


def cifar10(
    depths: tuple[int, ...] = (3, 4, 6, 11, 21), n: int | None = None, n_test: int | None = None,
    folder: Path = CHECKPOINTS, block: int = BLOCK, progress: bool = True,
) -> Values:  # fmt: skip
    """The paper's CIFAR-10 table: test accuracy, in per cent, of the CNTK without and with pooling at its depths.

    A depth of the table counts the last layer (so the authors' program says): one convolution fewer for us. Whole, that
    is 1.75e9 entries a kernel. A rough estimate from the memory traffic on one fast GPU: without pooling about two
    hours for all five, with pooling about 30 GPU hours a convolution, 1,200 for the five. The tiles of a kernel take
    7 GB in `folder`, the regression about 100 GB of memory. There is no chance in it: every seed takes the same tiles.
    The authors' program fixes the first and the last layer for the column with pooling; here all layers learn.
    """
    data = load("cifar10", n_train=n, n_test=n_test, seed=0, download=True)
    X_train, X_test = standardised(data, len(data.X_train))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, size = torch.cat([X_train, X_test]).to(device), len(X_train)
    values = {}
    for gap in (False, True):
        for depth in depths:
            name = f"{'gap' if gap else 'cntk'}_cifar10_{depth}"
            K = kernel_by_tiles(X, size, depth - 1, gap, folder / f"{name}-{size}-{len(X)}", block, progress)
            K_train, K_test = torch.from_numpy(K[:size]), torch.from_numpy(K[size:])
            predicted = kernel_regression(K_train, targets(data.y_train), K_test, RIDGE)
            values[name] = accuracy(predicted, data.y_test)
            if progress:
                print(f"{name}: {values[name]:.2f} %", file=sys.stderr, flush=True)
    return values


def measure(seed: int, scale: str) -> Values:
    """Digits, or at the paper's scale CIFAR-10."""
    return cifar10() if scale == "paper" else digits(seed, SETTINGS[scale])


if __name__ == "__main__":
    main(measure)
