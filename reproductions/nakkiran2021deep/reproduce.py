"""Nakkiran et al. 2020/2021: test error peaks where a model can just fit its training labels, then falls again."""

from functools import partial
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.curves import peak_ratio
from phenomena.data import Dataset, load, with_label_noise
from phenomena.ensembles import train_ensemble
from phenomena.features import random_relu, relu_features
from phenomena.networks import cnn5, mlp
from phenomena.program import Values, main
from phenomena.regression import min_norm, ridge
from phenomena.training import Loss, cosine, cross_entropy, error_rate, squared_loss, train

# n samples and draws of the random features; n samples, steps and widths of the trained networks.
SETTINGS = {
    "smoke": {"n": 60, "draws": 2, "n_net": 60, "steps": 400, "widths": (1, 2, 4, 16, 48, 96)},
    "laptop": {
        "n": 300, "draws": 5, "n_net": 300, "steps": 2000,
        "widths": (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64, 96),
    },
    "paper": {
        "n": 1000, "draws": 20, "n_net": 1000, "steps": 4000,
        "widths": (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 32, 48, 64, 128, 256, 512),
    },
}  # fmt: skip
INITS = 5
NOISE = 0.2
RATIOS = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)  # p/n and, sample-wise, n/p
TEST, VALIDATION = 597, 200  # digits kept for testing, and for choosing the ridge; the other 1000 are there to train on
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)


def feature_errors(data: Dataset, n: int, p: int, seed: int, generator: torch.Generator) -> tuple[float, float, float]:
    """Test errors on p random ReLU features of the first n digits: minimum norm with noisy and true labels, and ridge.

    The ridge penalty for the noisy labels is the best of LAMBDAS on VALIDATION digits that no fit sees.
    """
    X, y = data.X_train[:n].double(), data.y_train[:n]
    W = random_relu(X.shape[1], p, generator)
    noisy = with_label_noise(y, NOISE, data.n_classes, seed)
    Y, Y_true = (F.one_hot(labels, data.n_classes).double() for labels in (noisy, y))
    Phi, Phi_test = relu_features(X, W), relu_features(data.X_test.double(), W)
    Phi_valid = relu_features(data.X_train[-VALIDATION:].double(), W)

    def error(features: Tensor, B: Tensor, labels: Tensor) -> float:
        return float(((features @ B).argmax(1) != labels).double().mean())

    B, B_true = min_norm(Phi, torch.cat([Y, Y_true], dim=1)).split(data.n_classes, dim=1)
    ridged = [ridge(Phi, Y, lam) for lam in LAMBDAS]
    tuned = min(ridged, key=lambda B: error(Phi_valid, B, data.y_train[-VALIDATION:]))
    return error(Phi_test, B, data.y_test), error(Phi_test, B_true, data.y_test), error(Phi_test, tuned, data.y_test)


def features(n: int, draws: int, seed: int) -> dict[str, float | list[float]]:
    """Model-wise (p sweeps through n) and sample-wise (n sweeps through p) curves of random features."""
    data = load("digits", n_test=TEST, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def mean(n_: int, p: int) -> tuple[float, ...]:
        runs = [feature_errors(data, n_, p, 1000 * seed + draw, generator) for draw in range(draws)]
        return tuple(fmean(column) for column in zip(*runs, strict=True))

    widths = dict(zip(RATIOS, (mean(n, round(r * n)) for r in RATIOS), strict=True))
    few_ratios = [r for r in RATIOS if r * n <= len(data.y_train) - VALIDATION]
    samples = dict(zip(few_ratios, (mean(round(r * n), n) for r in few_ratios), strict=True))
    values: dict[str, float | list[float]] = {"ratio": list(RATIOS), "sample_ratio": few_ratios}
    for i, kind in enumerate(("", "_clean", "_ridge")):
        values |= {
            f"feature_error{kind}": [errors[i] for errors in widths.values()],
            f"feature_peak{kind}": widths[1.0][i],
            f"feature_wide{kind}": widths[10.0][i],
            f"sample_error{kind}": [errors[i] for errors in samples.values()],
            f"sample_few{kind}": samples[0.4][i],
            f"sample_as_many{kind}": samples[1.0][i],
            f"sample_peak_ratio{kind}": peak_ratio([errors[i] for errors in samples.values()]),
        }
    return values | {"sample_many": samples[few_ratios[-1]][0]}


def network_curves(
    data: Dataset, labels: Tensor, widths: tuple[int, ...], steps: int, loss: Loss, seed: int
) -> dict[str, list[float]]:
    """Risk (test loss) and test and training error of two-layer ReLU nets of each width, on the parity of a digit.

    Targets are -1 and 1 for squared loss, the two classes for cross-entropy. Full batch, Adam 0.01 with half a cosine;
    the median over INITS initialisations, since a single narrow net can be stuck.
    """
    mean, std = data.X_train.mean(0), data.X_train.std()
    X, X_test = (data.X_train - mean) / std, (data.X_test - mean) / std
    squared = loss is squared_loss

    def targets(parity: Tensor) -> Tensor:
        return 2.0 * parity[:, None] - 1 if squared else parity

    sizes = [(X.shape[1], width, 1 if squared else 2) for width in widths for _ in range(INITS)]
    models = [mlp(size, torch.Generator().manual_seed(INITS * seed + i % INITS)) for i, size in enumerate(sizes)]
    train_ensemble(
        models, X, targets(labels), loss, partial(torch.optim.Adam, lr=0.01), steps,
        schedule=cosine(steps), labels=[f"width {size[1]}, {loss.__name__}, seed {seed}" for size in sizes],
    )  # fmt: skip

    @torch.no_grad()
    def numbers(model: nn.Module) -> list[float]:
        row = []
        for f, y in ((model(X_test), data.y_test % 2), (model(X), labels)):
            wrong = ((f[:, 0] > 0).long() if squared else f.argmax(1)) != y
            risk = 2 * loss(f, targets(y)) if squared else loss(f, y)  # (f - y)² without the loss's 1/2, or nats
            row += [float(risk), float(wrong.double().mean())]
        return row

    table = np.array([numbers(model) for model in models]).reshape(len(widths), INITS, 4)
    return dict(zip(("risk", "error", "train_risk", "train_error"), np.median(table, axis=1).T.tolist(), strict=True))


def networks(n: int, widths: tuple[int, ...], steps: int, seed: int) -> dict[str, float | list[float]]:
    """Model-wise curves of trained networks: squared loss with and without label noise, and cross-entropy."""
    data = load("digits", n_train=n, n_test=TEST, seed=seed)
    parity = data.y_train % 2
    noisy = with_label_noise(parity, NOISE, 2, seed)
    net = network_curves(data, noisy, widths, steps, squared_loss, seed)
    clean = network_curves(data, parity, widths, steps, squared_loss, seed)
    entropy = network_curves(data, noisy, widths, steps, cross_entropy, seed)
    # the highest point and the lowest ones at its sides: a curve without a peak has them too, and a peak ratio of 1
    peak = int(np.argmax(net["risk"]))
    first, second = int(np.argmin(net["risk"][: peak + 1])), peak + int(np.argmin(net["risk"][peak:]))

    def smallest(fit: list[float]) -> int:
        return next(w for w, e in zip(widths, fit, strict=True) if e <= 0.01)

    values: dict[str, float | list[float]] = {
        f"net{name}_{key}": curve
        for name, curves in (("", net), ("_clean", clean), ("_entropy", entropy))
        for key, curve in curves.items()
    }
    return values | {
        "width": list(widths),
        "net_peak_ratio": peak_ratio(net["risk"]),
        "net_peak_ratio_clean": peak_ratio(clean["risk"]),
        "net_error_ratio": peak_ratio(net["error"]),
        "net_error_ratio_clean": peak_ratio(clean["error"]),
        "net_error_ratio_entropy": peak_ratio(entropy["error"]),
        "net_peak_ratio_entropy": peak_ratio(entropy["risk"]),
        "net_peak_width_entropy": widths[int(np.argmax(entropy["risk"]))],
        "net_threshold_width_entropy": smallest(entropy["train_error"]),
        "net_constant_risk": float(((2.0 * noisy - 1).mean() - (2.0 * (data.y_test % 2) - 1)).square().mean()),
        "net_risk_first": net["risk"][0],
        "net_risk_peak": net["risk"][peak],
        "net_risk_last": net["risk"][-1],
        "net_error_first": net["error"][first],
        "net_error_peak": net["error"][peak],
        "net_error_second": net["error"][second],
        "net_peak_width": widths[peak],
        "net_threshold_width": smallest(net["train_error"]),
        "net_fit_width": smallest(net["train_risk"]),
        # n equations for width (d + 2) weights
        "net_equations_width": n / (data.X_train.shape[1] + 2),
    }


CNN_WIDTHS = (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 64)


def cifar10(
    seed: int, widths: tuple[int, ...] = CNN_WIDTHS, steps: int = 500_000
) -> dict[str, float | list[float]]:
    """Five-layer CNNs of channels k to 8k on CIFAR-10 with 20 % wrong labels: SGD 0.1/√(1 + step/512), batch 128."""
    data = load("cifar10", download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, X_test = (part.view(-1, *data.image_shape).to(device) for part in (data.X_train, data.X_test))
    y = with_label_noise(data.y_train, NOISE, data.n_classes, seed).to(device)
    errors = []
    for k in widths:
        generator = torch.Generator().manual_seed(seed)
        model = cnn5(data.image_shape, k, data.n_classes, generator).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(
            model, X, y, cross_entropy, optimizer, steps, 128, generator,
            schedule=lambda step: (1 + step // 512) ** -0.5, label=f"CNN, k = {k}", progress=True,
        )  # fmt: skip
        model.eval()
        parts = zip(X_test.split(1000), data.y_test.to(device).split(1000), strict=True)
        errors.append(float(np.mean([error_rate(model, *part) for part in parts])))
    return {"cnn_width": list(widths), "cnn_error": errors, "cnn_peak_ratio": peak_ratio(errors)}


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed; the CNN only at the paper's scale."""
    s = SETTINGS[scale]
    values = features(s["n"], s["draws"], seed)  # type: ignore[arg-type]
    values |= networks(s["n_net"], s["widths"], s["steps"], seed)  # type: ignore[arg-type]
    return values | cifar10(seed) if scale == "paper" else values


if __name__ == "__main__":
    main(measure)
