"""Heckel & Yilmaz 2021: epoch-wise double descent is two bias-variance trade-offs on two clocks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from phenomena.curves import peak_ratio, valleys
from phenomena.data import gaussian_design, linear_labels, load, with_label_noise
from phenomena.early_stopping import decoupled_risk, equalising_stepsizes, risk_path
from phenomena.networks import cnn5
from phenomena.program import Values, main
from phenomena.regression import min_norm_risk
from phenomena.training import cross_entropy, error_rate, train

# p features in each of the two blocks; n samples; draws: data sets that one seed averages over; steps of the network.
SETTINGS = {
    "smoke": {"p": 10, "n": 200, "draws": 4, "steps": 300},
    "laptop": {"p": 100, "n": 1000, "draws": 6, "steps": 4000},
    "paper": {"p": 100, "n": 1000, "draws": 50, "steps": 20000},
}
SCALES = (1.0, 0.1)  # of the two blocks of features
NORMS = (1.0, 14.0)  # of the two blocks of the true parameter: the small features carry as much signal
NOISE_TO_N = 3.2**2 / 1000  # σ²/n at p = 100, kept, so that the decoupled risk is the same at every n and p
ETA = 0.05


def iterates(last: float, count: int = 200) -> Tensor:
    """Iterates from 1 to `last`, evenly spaced on a logarithmic axis."""
    return torch.logspace(0, np.log10(last), count, dtype=torch.float64).round().unique()


def paths(n: int, p: int, draws: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Mean risks over draws at each iterate, (m,): all variants run on the same draws of features and noise.

    "one" stepsize, "scaled" stepsizes 1/s², and "same": all features of scale 1, with each block's signal kept.
    """
    k, sigma2 = iterates(1e5), NOISE_TO_N * n * 100 / p
    s = torch.tensor(SCALES, dtype=torch.float64).repeat_interleave(p)
    one = torch.ones_like(s)
    runs: dict[str, list[np.ndarray]] = {"one": [], "scaled": [], "same": []}
    for _ in range(draws):
        theta = torch.randn(2 * p, generator=generator, dtype=torch.float64)
        theta = torch.cat([norm * block / block.norm() for norm, block in zip(NORMS, theta.split(p), strict=True)])
        Z = gaussian_design(n, one, generator)
        y = linear_labels(Z * s, theta, sigma2**0.5, generator)
        variants = {"one": (s, ETA * one), "scaled": (s, equalising_stepsizes(s, ETA)), "same": (one, ETA * one)}
        for name, (scale, eta) in variants.items():
            # θ s / scale: the same labels, explained by features of another scale
            runs[name].append(risk_path(Z * scale, y, scale, theta * s / scale, eta, k).numpy())
    return {name: np.mean(run, axis=0) for name, run in runs.items()} | {
        # only the norms of the blocks matter to the theory: any draw's θ gives it
        "theory": decoupled_risk(k.numpy(), s, theta, ETA * one, sigma2, n),
        "theory_scaled": decoupled_risk(k.numpy(), s, theta, equalising_stepsizes(s, ETA), sigma2, n),
    }


def linear(p: int, n: int, draws: int, generator: torch.Generator) -> dict[str, float | list[float]]:
    """Double descent at one stepsize, none at stepsizes 1/s², none when the features have one scale."""
    found = paths(n, p, draws, generator)
    risk, theory = found["one"], found["theory"]
    first, peak, second = valleys(theory)
    sizes = [n, 2 * n, 4 * n, 8 * n]
    more = [found, *(paths(size, p, draws, generator) for size in sizes[1:])]
    return {
        "iterate": iterates(1e5).tolist(),
        "risk": risk.tolist(),
        "theory": theory.tolist(),
        "risk_scaled": found["scaled"].tolist(),
        "theory_scaled": found["theory_scaled"].tolist(),
        "risk_one_scale": found["same"].tolist(),
        "peak_ratio": peak_ratio(risk),
        "peak_ratio_theory": peak_ratio(theory),
        "peak_ratio_scaled": peak_ratio(found["scaled"]),
        "peak_ratio_one_scale": peak_ratio(found["same"]),
        "first_valley": float(risk[: peak + 1].min()),
        "first_valley_theory": float(theory[first]),
        "second_valley": float(risk[peak:].min()),
        "second_valley_theory": float(theory[second]),
        "last": float(risk[-1]),
        # at the end all coordinates are fitted: the noise of least squares, with p -> 2p features
        "last_theory": float(min_norm_risk(n, 2 * p, 0.0, NOISE_TO_N * n * 100 / p)),
        "best": float(risk.min()),
        "best_scaled": float(found["scaled"].min()),
        "best_scaled_theory": float(found["theory_scaled"].min()),
        "sizes": sizes,
        "gap": [float(np.abs(f["one"] / f["theory"] - 1).max()) for f in more],
    }


def two_layer_path(
    noise: float, rates: tuple[float, float], steps: int, seed: int, n: int = 300, d: int = 20, width: int = 80
) -> np.ndarray:
    """Risk on fresh inputs along full-batch training of f(x) = vᵀ relu(Wx); rates (η_W, η_v), noise on y.

    The target is w·x + 2|u·x| with unit w and u; W_ij ~ N(0, 1/d), v_j ~ N(0, 1/width).
    """
    generator = torch.Generator().manual_seed(seed)
    w, u = torch.nn.functional.normalize(torch.randn(2, d, generator=generator), dim=1)
    X, X_test = torch.randn(n, d, generator=generator), torch.randn(3000, d, generator=generator)
    y = (X @ w + 2 * (X @ u).abs() + noise * torch.randn(n, generator=generator))[:, None]
    truth = (X_test @ w + 2 * (X_test @ u).abs())[:, None]
    model = nn.Sequential(nn.Linear(d, width, bias=False), nn.ReLU(), nn.Linear(width, 1, bias=False))
    with torch.no_grad():
        model[0].weight.normal_(0, d**-0.5, generator=generator)
        model[2].weight.normal_(0, width**-0.5, generator=generator)
    groups = [{"params": [model[i].weight], "lr": rate} for i, rate in zip((0, 2), rates, strict=True)]

    def record(_: int, net: nn.Module) -> dict[str, float]:
        return {"risk": float((net(X_test) - truth).square().mean())}

    history = train(
        model, X, y, half_squared_error, torch.optim.SGD(groups), steps,
        record=torch.no_grad()(record), record_at=set(iterates(steps, 60).int().tolist()),
        label=f"two layers, rates {rates}, noise {noise}",
    )  # fmt: skip
    return np.array(history.recorded["risk"])


def half_squared_error(f: Tensor, y: Tensor) -> Tensor:
    """(1/2n) Σ (f_i - y_i)², shapes (n, 1)."""
    return (f - y).square().mean() / 2


def two_layers(steps: int, seed: int) -> dict[str, float | list[float]]:
    """Early stopping with one rate for both layers, with a slower last layer, and with a slower first layer."""
    equal, slow_last, slow_first = (0.03, 0.03), (0.03, 0.001), (0.0001, 0.03)
    risk, scaled = two_layer_path(1.0, equal, steps, seed), two_layer_path(1.0, slow_last, steps, seed)
    return {
        "net_step": sorted(set(iterates(steps, 60).int().tolist())),
        "net_risk": risk.tolist(),
        "net_risk_scaled": scaled.tolist(),
        "net_best": float(risk.min()),
        "net_best_scaled": float(scaled.min()),
        "net_peak_ratio": peak_ratio(two_layer_path(1.0, slow_first, 3 * steps, seed)),
    }


def augmented(X: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), half of them mirrored, each shifted by up to 4 pixels, zeros moving in."""
    n, c, h, w = X.shape
    flip = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    X = torch.nn.functional.pad(torch.where(flip.to(X.device), X.flip(-1), X), (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, n, 1), generator=generator).to(X.device)
    rows, columns = top + torch.arange(h, device=X.device), left + torch.arange(w, device=X.device)
    i, j = torch.arange(n, device=X.device)[:, None, None, None], torch.arange(c, device=X.device)[:, None, None]
    return X[i, j, rows[:, None, :, None], columns[:, None, None, :]]


def cnn(rate_last: float, epochs: int, seed: int) -> Iterator[float]:
    """Test accuracy in % after each epoch of the five-layer CNN on CIFAR-10 with 20 % wrong labels.

    Rate 0.1 for the four convolutional layers, `rate_last` for the last layer, over √(1 + epoch); batches of 128,
    standardised channels, mirrored and shifted images.
    """
    data = load("cifar10", download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, X_test = (part.view(-1, *data.image_shape).to(device) for part in (data.X_train, data.X_test))
    mean, std = X.mean((0, 2, 3), keepdim=True), X.std((0, 2, 3), keepdim=True)
    X, X_test = (X - mean) / std, (X_test - mean) / std
    y, y_test = with_label_noise(data.y_train, 0.2, data.n_classes, seed).to(device), data.y_test.to(device)
    generator = torch.Generator().manual_seed(seed)
    model = cnn5(data.image_shape, 64, data.n_classes, generator).to(device)
    layers = ((list(model[:-1].parameters()), 0.1), (list(model[-1].parameters()), rate_last))
    for epoch in range(epochs):
        slower = (1 + epoch) ** -0.5
        optimizer = torch.optim.SGD([{"params": params, "lr": rate * slower} for params, rate in layers])
        model.train()
        images = augmented(X, generator)
        train(model, images, y, cross_entropy, optimizer, len(y) // 128, 128, generator, label=f"CNN, epoch {epoch}")
        model.eval()
        parts = zip(X_test.split(1000), y_test.split(1000), strict=True)
        yield 100 * (1 - float(np.mean([error_rate(model, *part) for part in parts])))


def cifar10(seed: int, epochs: int = 500) -> dict[str, float | list[float]]:
    """The paper's table: best test accuracy with one stepsize, and with a smaller one for the last layer."""
    one, scaled = list(cnn(0.1, epochs, seed)), list(cnn(0.001, epochs, seed))
    return {"cnn": one, "cnn_scaled": scaled, "cnn_best": max(one), "cnn_best_scaled": max(scaled)}


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed; the CNN only at the paper's scale."""
    setting = SETTINGS[scale]
    generator = torch.Generator().manual_seed(seed)
    values = linear(setting["p"], setting["n"], setting["draws"], generator)
    values |= two_layers(setting["steps"], seed)
    return values | cifar10(seed) if scale == "paper" else values


if __name__ == "__main__":
    main(measure)
