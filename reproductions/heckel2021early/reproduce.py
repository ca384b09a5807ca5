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


def paths(
    n: int, p: int, scales: tuple[float, float], equalise: bool, draws: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean risk over draws at each iterate (m,), and the decoupled theory (m,)."""
    s = torch.tensor(scales, dtype=torch.float64).repeat_interleave(p)
    eta = equalising_stepsizes(s, ETA) if equalise else torch.full_like(s, ETA)
    k, sigma2 = iterates(1e5), NOISE_TO_N * n * 100 / p
    risks = []
    for _ in range(draws):
        theta = torch.randn(2 * p, generator=generator, dtype=torch.float64)
        for block, norm in ((slice(0, p), NORMS[0]), (slice(p, None), NORMS[1])):
            # the energy s²θ² of each block does not depend on its scale, so that only the clocks change
            theta[block] *= norm * (SCALES[0 if norm == NORMS[0] else 1] / s[block][0]) / theta[block].norm()
        X = gaussian_design(n, s, generator)
        y = linear_labels(X, theta, sigma2**0.5, generator)
        risks.append(risk_path(X, y, s, theta, eta, k).numpy())
        theory = decoupled_risk(k.numpy(), s, theta, eta, sigma2, n)  # only the blocks' norms matter: one for all
    return np.mean(risks, axis=0), theory


def linear(p: int, n: int, draws: int, generator: torch.Generator) -> dict[str, float | list[float]]:
    """Double descent at one stepsize, none at stepsizes 1/s², none when the features have one scale."""
    risk, theory = paths(n, p, SCALES, False, draws, generator)
    scaled, scaled_theory = paths(n, p, SCALES, True, draws, generator)
    same, _ = paths(n, p, (1.0, 1.0), False, draws, generator)
    same_scaled, _ = paths(n, p, (1.0, 1.0), True, draws, generator)
    first, peak, second = valleys(theory)
    sizes = [n // 2, n, 2 * n, 4 * n]
    gaps = []
    for size in sizes:
        r, t = paths(size, p, SCALES, False, max(2, draws // 2), generator)
        gaps.append(float(np.abs(r / t - 1).max()))
    return {
        "iterate": iterates(1e5).tolist(),
        "risk": risk.tolist(),
        "theory": theory.tolist(),
        "risk_scaled": scaled.tolist(),
        "theory_scaled": scaled_theory.tolist(),
        "risk_one_scale": same.tolist(),
        "peak_ratio": peak_ratio(risk),
        "peak_ratio_theory": peak_ratio(theory),
        "peak_ratio_scaled": peak_ratio(scaled),
        "peak_ratio_one_scale": peak_ratio(same),
        "first_valley": float(risk[: peak + 1].min()),
        "first_valley_theory": float(theory[first]),
        "second_valley": float(risk[peak:].min()),
        "second_valley_theory": float(theory[second]),
        "best": float(risk.min()),
        "best_scaled": float(scaled.min()),
        "best_scaled_theory": float(scaled_theory.min()),
        "best_one_scale": float(same.min()),
        "best_one_scale_scaled": float(same_scaled.min()),
        "sizes": sizes,
        "gap": gaps,
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
    """Early stopping with one rate for both layers, and with a slower last layer; with and without noise."""
    one, slower, slow_first = (0.03, 0.03), (0.1, 0.001), (0.0001, 0.03)
    noisy, noisy_scaled = two_layer_path(1.0, one, steps, seed), two_layer_path(1.0, slower, steps, seed)
    clean, clean_scaled = two_layer_path(0.0, one, steps, seed), two_layer_path(0.0, slower, steps, seed)
    superposed = two_layer_path(1.0, slow_first, 3 * steps, seed)
    return {
        "net_step": sorted(set(iterates(steps, 60).int().tolist())),
        "net_risk": noisy.tolist(),
        "net_risk_scaled": noisy_scaled.tolist(),
        "net_best": float(noisy.min()),
        "net_best_scaled": float(noisy_scaled.min()),
        "net_best_clean": float(clean.min()),
        "net_best_clean_scaled": float(clean_scaled.min()),
        "net_peak_ratio": peak_ratio(superposed),
    }


def cnn(rate_last: float, epochs: int, seed: int) -> Iterator[float]:
    """Test accuracy in % after each epoch of the five-layer CNN on CIFAR-10 with 20 % wrong labels.

    Rate 0.1 for the four convolutional layers, `rate_last` for the last layer; batches of 128, no decay.
    """
    data = load("cifar10", download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X = data.X_train.view(-1, *data.image_shape).to(device)
    y = with_label_noise(data.y_train, 0.2, data.n_classes, seed).to(device)
    X_test, y_test = data.X_test.view(-1, *data.image_shape).to(device), data.y_test.to(device)
    generator = torch.Generator().manual_seed(seed)
    model = cnn5(data.image_shape, 64, data.n_classes, generator).to(device)
    optimizer = torch.optim.SGD(
        [{"params": model[:-1].parameters(), "lr": 0.1}, {"params": model[-1].parameters(), "lr": rate_last}]
    )
    for epoch in range(epochs):
        model.train()
        train(model, X, y, cross_entropy, optimizer, len(y) // 128, 128, generator, label=f"CNN, epoch {epoch}")
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
