"""Simsekli, Sagun & Gurbuzbalaban 2019: is the noise of stochastic gradients heavy-tailed? Their index, taken apart."""

import math
from typing import Any, NamedTuple

import torch
from scipy.special import erfc
from scipy.stats import shapiro
from torch import Tensor, nn

from phenomena.data import Dataset, load
from phenomena.gradient_noise import per_sample_gradients
from phenomena.networks import mlp
from phenomena.program import Values, main
from phenomena.tail_index import finite_variance_index, hill, pooled_gaussian_index, stable, stable_index
from phenomena.training import cross_entropy, error_rate, train

# n: images; width: of the two hidden layers; widths: for the index against the width; steps: of SGD, where the noise is
# looked at; mid: the one of them for everything against B; B: batch sizes; batches: drawn for the pooled index; k:
# directions; draws: of the noise along each; m: lengths of the sums of single samples.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": "digits", "n": 60, "width": 6, "widths": [6], "steps": [0, 10], "mid": 10, "B": [1, 16, 256],
        "batches": 24, "k": 10, "draws": 700, "m": [10, 50],
    },
    "laptop": {
        "data": "mnist5k", "n": 1000, "width": 32, "widths": [4, 8, 16, 32], "steps": [0, 10, 30, 100, 200, 1000],
        "mid": 200, "B": [1, 4, 16, 64, 256, 1024], "batches": 64, "k": 100, "draws": 5000, "m": [10, 30, 70, 200, 500],
    },
}  # fmt: skip
RATE, TRAINED_WITH = 0.1, 100  # the authors' step and batch size
LARGE = 256  # the batch size of the claims
M = 70  # length of the sums along a direction: the root of the draws
FLOOR = 2**-52  # added before the log in the authors' code
PLANTED = 1.2  # index of truly stable noise that is passed through the same measurement
SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the samples, for Hill's index: k over n
TAIL, BODY = 2, 6  # of the SHARES
# one number for each sample along each direction: its noise along random unit directions, single coordinates of it, the
# directions again with every sample's noise made equally long, and truly stable noise
KINDS = ("directions", "coordinates", "unit", "planted")
GRID = torch.logspace(-1, 1.5, 51, dtype=torch.float64)  # of the survival curves, in standard deviations
PIXELS = {  # mean and standard deviation of each channel: the authors', and those of digits
    "digits": ([0.305], [0.376]), "mnist5k": ([0.1307], [0.3081]), "mnist": ([0.1307], [0.3081]),
    "cifar10": ([0.491, 0.482, 0.447], [0.247, 0.243, 0.262]),
}  # fmt: skip


class Noise(NamedTuple):
    """What one sample adds: G (n, p) of rows g_i - g, the variances (p,) of the coordinates, G along k directions."""

    G: Tensor
    variances: Tensor
    along: Tensor


class Index(NamedTuple):
    """α̂ of noise vectors, all coordinates pooled: as the authors do, in random order, and each by its own deviation."""

    authors: float
    shuffled: float
    standardised: float


def standardised(data: Dataset) -> Tensor:
    """Training images (n, d), centred and scaled as in the authors' program."""
    mean, std = (torch.tensor(c).repeat_interleave(math.prod(data.image_shape[1:])) for c in PIXELS[data.name])
    return (data.X_train - mean) / std


def network(X: Tensor, width: int, generator: torch.Generator) -> nn.Sequential:
    """The authors' network of depth 3: two hidden layers of ReLU units, no biases."""
    return mlp((X.shape[1], width, width, 10), generator, bias=False)


def descend(model: nn.Module, X: Tensor, y: Tensor, steps: int, generator: torch.Generator) -> None:
    """Take `steps` steps of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    train(model, X, y, cross_entropy, optimizer, steps, min(TRAINED_WITH, len(X)), generator)


def look(model: nn.Module, X: Tensor, y: Tensor, k: int, generator: torch.Generator) -> Noise:
    """The noise at the model's present parameters, along k random unit directions too."""
    G = per_sample_gradients(model, X, y, cross_entropy, chunk=250).detach()
    G = G.sub_(G.mean(0))
    variances = torch.linalg.vector_norm(G, dim=0, dtype=torch.float64).square() / len(G)
    directions = torch.randn(G.shape[1], k, generator=generator)
    return Noise(G, variances, (G @ (directions / directions.norm(dim=0))).double())


def batch_weights(n: int, B: int, draws: int, generator: torch.Generator) -> Tensor:
    """Weight of each of n samples in each of `draws` batches, drawn with replacement: (draws, n), float32."""
    drawn = torch.randint(n, (draws, B), generator=generator)
    return torch.zeros(draws, n).scatter_add_(1, drawn, torch.full(drawn.shape, 1 / B))


def drawn(values: Tensor, B: int, draws: int, generator: torch.Generator) -> Tensor:
    """Noise of batches of B along k directions in which the n samples have `values` (n, k), float64: (k, draws)."""
    if B == 1:
        return values[torch.randint(len(values), (draws,), generator=generator)].mT.contiguous()
    return (batch_weights(len(values), B, draws, generator).double() @ values).mT.contiguous()


def directions_index(x: Tensor, m: int = M) -> float:
    """α̂ of noise along directions (k, draws): 1 over the mean of 1/α̂, which is the quantity that is estimated."""
    return float(1 / (1 / stable_index(x, m)).mean())


def largest_divisor(N: int) -> int:
    """The largest divisor of N up to √N: the authors' length of the sums."""
    return next(m for m in range(math.isqrt(N), 0, -1) if N % m == 0)


def authors_index(vectors: Tensor) -> float:
    """α̂ of noise vectors (batches, p) as the authors' program reads it, coordinate after coordinate in one row."""
    return float(stable_index(vectors.flatten(), largest_divisor(vectors.numel()), floor=FLOOR))


def pooled(vectors: Tensor, variances: Tensor, generator: torch.Generator) -> Index:
    """α̂ of all coordinates of noise vectors (batches, p) as one sample, given the coordinates' variances (p,)."""
    kept, sd = vectors[:, variances > 0].double(), variances[variances > 0].sqrt()
    order = torch.randperm(kept.numel(), generator=generator).to(kept.device)
    in_order = (x.flatten()[order] for x in (kept, kept / sd))
    # a few values that float32 rounds to 0 have no log
    return Index(authors_index(vectors), *(float(stable_index(x[x != 0])) for x in in_order))


def measured_vectors(noise: Noise, B: int, batches: int, generator: torch.Generator) -> Tensor:
    """Noise of batches of B samples, (batches, p)."""
    return batch_weights(len(noise.G), B, batches, generator) @ noise.G


def gaussian_vectors(noise: Noise, batches: int, generator: torch.Generator) -> Tensor:
    """Exactly Gaussian noise of covariance C (B only scales it): Σ z_i (g_i - g) / √n with normal z, (batches, p)."""
    return torch.randn(batches, len(noise.G), generator=generator) @ noise.G / math.sqrt(len(noise.G))


def diagonal_vectors(noise: Noise, batches: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise with the same variances and independent coordinates, (batches, p), float64."""
    z = torch.randn(batches, len(noise.variances), generator=generator, dtype=torch.float64)
    return z * noise.variances.sqrt()


def pooled_theory(noise: Noise, batches: int) -> float:
    """What `shuffled` is for Gaussian noise, in closed form."""
    v = noise.variances[noise.variances > 0]
    return pooled_gaussian_index(v, math.isqrt(len(v) * batches))


def survival(x: Tensor) -> list[float]:
    """P(|x| > GRID times the root mean square), the rows of x together, each by its own root mean square."""
    scaled = (x / x.square().mean(-1, keepdim=True).sqrt()).abs().flatten().sort().values
    return (1 - torch.searchsorted(scaled, GRID, right=True).double() / scaled.numel()).tolist()


def rejected(x: Tensor, draws: int = 500) -> float:
    """Share of directions (k, draws) along which Shapiro and Wilk's test at 5 % calls the noise not Gaussian."""
    return sum(bool(shapiro(row[:draws].numpy()).pvalue < 0.05) for row in x) / len(x)


def against_batch_size(noise: Noise, s: dict[str, Any], generator: torch.Generator) -> dict[str, list[float]]:
    """Curves over B: α̂ along directions, single coordinates and two controls; pooled; Gaussian, pooled; and tails."""
    norms = torch.linalg.vector_norm(noise.G, dim=1, dtype=torch.float64)
    unit = noise.along / norms.clamp(min=1e-30)[:, None]  # every sample's gradient made equally long
    moving = torch.nonzero(noise.variances > 0).flatten()
    chosen = moving[torch.randperm(len(moving), generator=generator)[: s["k"]]]
    planted = stable(PLANTED, tuple(noise.along.shape), generator)
    values = (noise.along, noise.G[:, chosen].double(), unit - unit.mean(0), planted)
    curves: dict[str, list[float]] = {"batch_size": [float(B) for B in s["B"]]}
    for B in s["B"]:
        lines = drawn(torch.cat(values, 1), B, s["draws"], generator).split([v.shape[1] for v in values])
        found = {name: directions_index(line) for name, line in zip(KINDS, lines, strict=True)}
        found["rejected"] = rejected(lines[0])
        for kind, vectors in (
            ("", measured_vectors(noise, B, s["batches"], generator)),
            ("_gaussian", gaussian_vectors(noise, s["batches"], generator)),
        ):
            index = pooled(vectors, noise.variances, generator)
            found |= {name + kind: number for name, number in index._asdict().items()}
        for name, number in found.items():
            curves.setdefault(name, []).append(number)
        if B in (1, LARGE):
            which = "single" if B == 1 else "large"
            curves |= {f"survival_{which}": survival(lines[0]), f"survival_planted_{which}": survival(lines[3])}
    curves["survival_x"] = GRID.tolist()
    curves["survival_gaussian"] = erfc((GRID / math.sqrt(2)).numpy()).tolist()

    # a stable law would read the same at every length of the sums
    curves["m"] = [float(m) for m in s["m"]]
    single, stable_single = (drawn(v, 1, 50 * s["m"][-1], generator) for v in (noise.along, planted))
    curves["directions_by_m"] = [directions_index(single, m) for m in s["m"]]
    curves["planted_by_m"] = [directions_index(stable_single, m) for m in s["m"]]
    curves["theory_by_m"] = [float(1 / (1 / finite_variance_index(single, m)).mean()) for m in s["m"]]

    curves |= {"survival_norms": survival(norms[None]), "hill_share": list(SHARES)}
    curves["hill_norms"] = [hill(norms, max(1, round(share * len(norms)))) for share in SHARES]
    return curves


def along_training(noise: Noise, s: dict[str, Any], generator: torch.Generator) -> dict[str, float]:
    """Numbers of one point of training; the pooled index and the directions are of batches of LARGE."""
    norms = torch.linalg.vector_norm(noise.G, dim=1, dtype=torch.float64)
    return {
        "authors": authors_index(measured_vectors(noise, LARGE, s["batches"], generator)),
        "gaussian": authors_index(gaussian_vectors(noise, s["batches"], generator)),
        "directions_single": directions_index(drawn(noise.along, 1, s["draws"], generator)),
        "directions_large": directions_index(drawn(noise.along, LARGE, s["draws"], generator)),
        "hill": hill(norms, max(1, round(SHARES[TAIL] * len(norms)))),
        "median_norm": float(norms.median() / norms.square().mean().sqrt()),  # in root mean squares: small once fitted
    }


def measure(seed: int, scale: str) -> Values:
    """Curves in B and m at mid-training, along training (_training), in the width (_width); numbers for the claims."""
    if scale == "paper":
        return full_set("mnist", seed) | full_set("cifar10", seed)
    s = SETTINGS[scale]
    generator = torch.Generator().manual_seed(seed)
    data = load(s["data"], n_train=s["n"], seed=seed)
    X, y = standardised(data), data.y_train
    model = network(X, s["width"], generator)
    curves: dict[str, list[float]] = {"steps_training": [float(step) for step in s["steps"]]}
    numbers: dict[str, float] = {}
    done = 0
    for step in s["steps"]:
        descend(model, X, y, step - done, generator)
        done = step
        noise = look(model, X, y, s["k"], generator)
        found = along_training(noise, s, generator) | {"error": error_rate(model, X, y)}
        for name, number in found.items():
            curves.setdefault(f"{name}_training", []).append(number)
        if step == s["steps"][1]:
            curves["rejected_early"] = [rejected(drawn(noise.along, B, s["draws"], generator)) for B in s["B"]]
        if step == s["mid"]:
            curves |= against_batch_size(noise, s, generator)
            diagonal = pooled(diagonal_vectors(noise, s["batches"], generator), noise.variances, generator)
            numbers["pooled_theory"] = pooled_theory(noise, s["batches"])
            numbers |= {"diagonal": diagonal.authors, "diagonal_shuffled": diagonal.shuffled}

    for width in s["widths"]:
        model = network(X, width, generator)
        descend(model, X, y, s["mid"], generator)
        found = along_training(look(model, X, y, s["k"], generator), s, generator)
        for name in ("authors", "gaussian", "directions_large"):
            curves.setdefault(f"{name}_width", []).append(found[name])
    curves["width"] = [float(width) for width in s["widths"]]
    gaps = [a / g - 1 for a, g in zip(curves["authors_width"], curves["gaussian_width"], strict=True)]

    large = s["B"].index(LARGE)
    for name in (*KINDS, *Index._fields, "rejected_early"):
        for which, i in (("single", 0), ("large", large), ("largest", -1)):
            numbers[f"{name}_{which}"] = curves[name][i]
    for name in ("directions", "planted", "theory"):
        numbers |= {f"{name}_short": curves[f"{name}_by_m"][0], f"{name}_long": curves[f"{name}_by_m"][-1]}
    for name in ("authors", "gaussian"):
        numbers |= {f"{name}_start": curves[f"{name}_training"][0], f"{name}_lowest": min(curves[f"{name}_training"])}
    numbers |= {
        "authors_gaussian_large": curves["authors_gaussian"][large],
        "directions_single_start": curves["directions_single_training"][0],
        "hill_tail": curves["hill_norms"][TAIL], "hill_body": curves["hill_norms"][BODY],
        "width_gap": max(abs(gap) for gap in gaps),
    }  # fmt: skip
    return {**numbers, **curves}


def batch_noise(model: nn.Module, X: Tensor, y: Tensor, B: int) -> Tensor:
    """Gradients of the n // B batches of B consecutive samples, less their mean: (n // B, p)."""
    rows = []
    for x, labels in zip(X.split(B), y.split(B), strict=True):
        if len(x) == B:
            gradients = torch.autograd.grad(cross_entropy(model(x), labels), list(model.parameters()))
            rows.append(torch.cat([g.flatten() for g in gradients]))
    noise = torch.stack(rows)
    return noise - noise.mean(0)


def full_set(
    name: str, seed: int, *, width: int = 100, steps: int = 10_000, B: tuple[int, int] = (100, 1000)
) -> dict[str, float]:
    """The authors' experiment on the whole training set, at the end of training, with batches of either size.

    The Gaussian noise is a random mixture of the measured noise vectors: of the same covariance as they.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    data = load(name, download=True, seed=seed)
    X, y = standardised(data).to(device), data.y_train.to(device)
    model = network(X, width, generator).to(device)
    descend(model, X, y, steps, generator)
    values = {f"{name}_training_error": error_rate(model, X, y)}
    for size, label in zip(B, ("", "_largest"), strict=True):
        noise = batch_noise(model, X, y, size)
        variances = torch.linalg.vector_norm(noise, dim=0, dtype=torch.float64).square() / len(noise)
        z = torch.randn(len(noise), len(noise), generator=generator).to(device) / math.sqrt(len(noise))
        measured, gaussian = pooled(noise, variances, generator), pooled(z @ noise, variances, generator)
        for field in Index._fields:
            values[f"{name}_{field}{label}"] = getattr(measured, field)
            values[f"{name}_{field}_gaussian{label}"] = getattr(gaussian, field)
    return values


if __name__ == "__main__":
    main(measure)
