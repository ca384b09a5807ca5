"""Cohen, Rosenfeld & Kolter 2019: any classifier, smoothed by Gaussian noise, comes with a certificate."""

import os
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.attacks import pgd
from phenomena.data import Dataset, load
from phenomena.errors import Diverged
from phenomena.program import Values, main
from phenomena.small_cnn import small_cnn
from phenomena.smoothing import (
    ABSTAIN,
    Certificates,
    GaussianNoise,
    certificates,
    certified_accuracy,
    certify,
    decision,
    largest_radius,
    radius,
    votes,
)
from phenomena.training import batches, check_weights, cosine, cross_entropy, train

# train: digits to train on; images: test digits that are certified and attacked; draws: n, under the names of the keys;
# noise_draws, steps: of the attack through the noise; judges: draws that judge an attacked image.
SETTINGS = {
    "smoke": {
        "train": 1000, "epochs": 10, "images": 12, "draws": {"n100": 30, "n1000": 60, "n10000": 120},
        "noise_draws": 2, "steps": 3, "judges": 50,
    },
    "laptop": {
        "train": 4000, "epochs": 20, "images": 80, "draws": {"n100": 100, "n1000": 1000, "n10000": 10_000},
        "noise_draws": 8, "steps": 20, "judges": 500,
    },
}  # fmt: skip
SIGMAS = {"s012": 0.12, "s025": 0.25, "s050": 0.5, "s100": 1.0}
ATTACKED = ("s025", "s050")  # the classifiers that are attacked
N0, ALPHA = 100, 0.001
RADII = torch.arange(133, dtype=torch.float64) / 40  # 0 to 3.3, just past the largest cap
AT = {"r000": 0.0, "r025": 0.25, "r050": 0.5, "r075": 0.75, "r100": 1.0, "r150": 1.5}  # in the names of numbers
ATTACK_RADII = ("r000", "r025", "r050", "r100", "r150")
FACTORS = (1.0, 1.5, 2.0, 3.0)  # of an image's own certified radius, at which it is attacked
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "cohen2019certified"  # outlives the run and its --out


def trained(data: Dataset, sigma: float, epochs: int, seed: int) -> nn.Sequential:
    """The chapter's CNN, trained with N(0, σ²) added to every digit; the same initial weights at every σ."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(GaussianNoise(sigma, generator), *small_cnn(data.image_shape, 10, generator))
    steps = epochs * (len(data.X_train) // 100)
    X = data.X_train.view(-1, *data.image_shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = cosine(steps, steps // 4)
    train(
        model, X, data.y_train, cross_entropy, optimizer, steps, 100, generator,
        schedule=schedule, label=f"noise {sigma}",
    )  # fmt: skip
    return model.eval()


def counted(
    model: nn.Module, X: Tensor, sigma: float, draws: list[int], generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """The class that N0 draws choose, (images,), and the votes of the first n fresh draws for each n of `draws`."""
    label = votes(model, X, sigma, N0, generator, shared=True).argmax(1)
    more = (n - before for n, before in zip(draws, [0, *draws], strict=False))
    return label, list(accumulate(votes(model, X, sigma, n, generator, shared=True) for n in more))


def certified(label: Tensor, counts: Tensor, sigma: float, alpha: float = ALPHA) -> Certificates:
    """CERTIFY's answer from the votes (images, classes) of fresh draws."""
    return certificates(label, counts.gather(1, label[:, None])[:, 0], int(counts[0].sum()), sigma, alpha)


def curve(key: str, found: Certificates, y: Tensor) -> dict[str, float | list[float]]:
    """Certified accuracy on the grid RADII, and as numbers at the radii AT: `key` and `key`_r050."""
    numbers = certified_accuracy(found, y, torch.tensor(list(AT.values()), dtype=torch.float64))
    return named(key, numbers.tolist(), list(AT)) | {key: certified_accuracy(found, y, RADII).tolist()}


def said(model: nn.Module, X: Tensor, sigma: float, setting: dict, g: torch.Generator) -> Tensor:
    """What g says of X, by fresh draws: class or ABSTAIN, (images,)."""
    return decision(votes(model, X, sigma, setting["judges"], g, shared=True), ALPHA)


def moved(
    model: nn.Module, X: Tensor, label: Tensor, r: Tensor | float, sigma: float, setting: dict, g: torch.Generator
) -> Tensor:
    """X moved by at most r, one radius or one an image, so as to look unlike `label` through the noise.

    PGD on the expected loss as in the paper's Appendix J.3, anywhere in the ball: pixels are not clipped.
    """
    how = {"steps": setting["steps"], "draws": setting["noise_draws"], "sigma": sigma, "generator": g}
    return pgd(model, X, label, r, "l2", box=None, **how).X


def attacks(
    key: str, model: nn.Module, X: Tensor, y: Tensor, found: Certificates, sigma: float, setting: dict,
    g: torch.Generator,
) -> dict[str, float | list[float]]:  # fmt: skip
    """Attacks on the smoothed classifier: within each image's certificate and beyond, and at fixed radii.

    flipped: per cent of the certified images whose class an attack changes for another that the draws are sure of.
    attacked: share of all images that are not so changed from the right class: an upper bound on what g can hold.
    """
    held = found.label != ABSTAIN
    X_held, label, R = X[held], found.label[held], found.radius[held].float()
    flipped = []
    for factor in FACTORS:
        within = 0.999 * factor * R  # the ball is open
        now = said(model, moved(model, X_held, label, within, sigma, setting, g), sigma, setting, g)
        flipped.append(100 * float(((now != label) & (now != ABSTAIN)).double().mean()))
    attacked = []
    for r in ATTACK_RADII:
        Z = moved(model, X, y, AT[r], sigma, setting, g) if AT[r] else X
        now = said(model, Z, sigma, setting, g)
        attacked.append(float(((now == y) | (now == ABSTAIN)).double().mean()))
    return named(f"flipped_{key}", flipped, [f"{round(10 * f)}" for f in FACTORS]) | named(
        f"attacked_{key}", attacked, ATTACK_RADII
    )


def named(key: str, values: list[float], names: Sequence[str]) -> dict[str, float | list[float]]:
    """A curve under its key, and its numbers one by one under theirs, `key`_`name`."""
    return {key: values} | {f"{key}_{name}": value for name, value in zip(names, values, strict=True)}


def lecuyer_radius(p: NDArray, sigma: float) -> NDArray:
    """The earlier certificate of Lecuyer et al. (2019) from p_A = p and p_B = 1 - p, in the paper's Appendix I.1."""
    beta = np.linspace(1e-3, 1, 2000)[:, None]
    over = p - np.exp(2 * beta) * (1 - p)
    ok = (over > 0) & (beta <= 0.5 * np.log(p / (1 - p)))
    log = np.log(1.25 * (1 + np.exp(beta)) / np.where(ok, over, 1))
    return np.where(ok, sigma * beta / np.sqrt(2 * log), 0).max(0)


def linear(data: Dataset, images: int, n: int, generator: torch.Generator) -> dict[str, float]:
    """A linear classifier of the digits below 5 against the others: its certificates against the distances.

    ratio: the median over images of σ Φ⁻¹(k/n) to the distance to the hyperplane; with the lower bound in place of
    k/n: share of certificates that exceed the distance.
    """
    X, y, sigma = data.X_train, 2.0 * (data.y_train >= 5) - 1, 0.5
    A = torch.cat([X, torch.ones(len(X), 1)], 1).double()
    w = torch.linalg.solve(A.T @ A + 10 * torch.eye(A.shape[1]), A.T @ y.double()).float()  # ridge regression on ±1

    def f(X: Tensor) -> Tensor:
        s = X @ w[:-1] + w[-1]
        return torch.stack([-s, s], 1)

    X = data.X_test[:images]
    label, counts = votes(f, X, sigma, N0, generator).argmax(1), votes(f, X, sigma, n, generator)
    distance = ((X @ w[:-1] + w[-1]).abs() / w[:-1].norm()).double().numpy()
    p = np.clip(counts.amax(1).numpy() / n, 0.5 + 1e-9, 1 - 1e-12)
    found = certified(label, counts, sigma)
    return {
        "linear_ratio": float(np.median(radius(p, sigma) / distance)),
        "linear_ratio_lecuyer": float(np.median(lecuyer_radius(p, sigma) / distance)),
        "linear_too_large": float((found.radius.numpy() > distance).mean()),
    }


def digits(seed: int, setting: dict) -> Values:
    """Everything on one split of the digits; s025 in a key is σ = 0.25, r050 a radius of 0.5."""
    data = load("mnist5k", setting["train"], 1000, seed)
    X, y = data.X_test[: setting["images"]].view(-1, *data.image_shape), data.y_test[: setting["images"]]
    g = torch.Generator().manual_seed(seed)
    names, draws = list(setting["draws"]), list(setting["draws"].values())
    values: dict[str, float | list[float]] = {"radius": RADII.tolist(), "draws": [float(n) for n in draws]}
    values |= {"attack_radius": [AT[r] for r in ATTACK_RADII], "factor": list(FACTORS)}
    clean = trained(data, 0.0, setting["epochs"], seed)
    models = {key: trained(data, sigma, setting["epochs"], seed) for key, sigma in SIGMAS.items()}

    abstained, past = np.zeros(len(draws)), []
    for key, sigma in SIGMAS.items():
        label, counts = counted(models[key], X, sigma, draws, g)
        for name, n, c in zip(names, draws, counts, strict=True):
            found = certified(label, c, sigma)
            values |= curve(f"certified_{key}_{name}", found, y)
            cap = largest_radius(sigma, n, ALPHA)
            values[f"cap_{key}_{name}"] = cap
            past.append(float(certified_accuracy(found, y, torch.tensor([cap * (1 + 1e-9)], dtype=torch.float64))))
        values[f"largest_{key}"] = float(found.radius.max())
        abstained += [float((decision(c, ALPHA) == ABSTAIN).double().mean()) / len(SIGMAS) for c in counts]
        if key in ATTACKED:
            values |= attacks(key, models[key], X, y, found, sigma, setting, g)
        if key == "s025":
            values |= alphas(label, counts[-1], sigma, y)
        # without noise in training
        label, counts = counted(clean, X, sigma, draws[:2], g)
        values |= curve(f"clean_{key}_{names[1]}", certified(label, counts[-1], sigma), y)
    values["past_cap"] = max(past)
    values |= named("abstained", abstained.tolist(), names)

    for key in ("s012", "s025", "s100"):  # the noise of training is not that of the prediction, σ = 0.5
        label, counts = counted(models[key], X, SIGMAS["s050"], draws[:2], g)
        values |= curve(f"mismatch_{key}_{names[1]}", certified(label, counts[-1], SIGMAS["s050"]), y)
    values |= gains(values)
    values |= undefended(clean, X, y, g)
    return values | linear(data, setting["images"], draws[-1], g)


def alphas(label: Tensor, counts: Tensor, sigma: float, y: Tensor) -> dict[str, float | list[float]]:
    """Curves at other error probabilities α, from the same votes; alpha2 is α = 0.01. The gap: at r = 0.6."""
    curves = {k: certified_accuracy(certified(label, counts, sigma, 10.0**-k), y, RADII) for k in (2, 3, 4, 5)}
    return {f"alpha{k}": c.tolist() for k, c in curves.items()} | {"alpha_gap": float((curves[2] - curves[5])[24])}


def gains(values: Values) -> dict[str, float]:
    """What training on noise, and what more draws add to the certified accuracy."""

    def gain(more: str, less: str) -> float:
        return float(values[more]) - float(values[less])  # type: ignore[arg-type]

    radii = {"s012": "r025", "s025": "r025", "s050": "r050", "s100": "r050"}
    found = {f"noise_gain_{s}": gain(f"certified_{s}_n1000_{r}", f"clean_{s}_n1000_{r}") for s, r in radii.items()}
    return found | {
        f"draws_gain_{r}": gain(f"certified_s050_n10000_{r}", f"certified_s050_n100_{r}") for r in ("r025", "r100")
    }


def undefended(model: nn.Module, X: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, float | list[float]]:
    """Accuracy of the network itself, trained without noise, under PGD at the same radii: an upper bound."""
    shares = []
    for r in ATTACK_RADII:
        attack = pgd(model, X, y, AT[r], "l2", steps=40, restarts=2, generator=generator, box=None)
        shares.append(1 - float(attack.success.double().mean()))
    return named("undefended", shares, ATTACK_RADII)


class Standardise(nn.Module):
    """Channels less their mean, by their standard deviation: after the noise, so that radii are in pixels of [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, X: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", X.mean((0, 2, 3), keepdim=True))
        self.register_buffer("std", X.std((0, 2, 3), keepdim=True))

    def forward(self, X: Tensor) -> Tensor:
        """Images (n, C, H, W) in, the same shape out."""
        return (X - self.mean) / self.std


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut that is a 1x1 convolution where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, X: Tensor) -> Tensor:
        """(n, inputs, H, W) in, (n, outputs, H / stride, W / stride) out."""
        return F.relu(self.body(X) + self.shortcut(X))


def resnet(X: Tensor, sigma: float, noise: torch.Generator, depth: int) -> nn.Sequential:
    """Residual network of `depth` = 6k + 2 layers for images like X (n, 3, 32, 32): first noise, then standardising."""
    layers: list[nn.Module] = [GaussianNoise(sigma, noise), Standardise(X), nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    layers += [nn.BatchNorm2d(16), nn.ReLU()]
    for stage, width in enumerate((16, 32, 64)):
        for k in range((depth - 2) // 6):
            layers.append(Block(width // 2 if stage and not k else width, width, 2 if stage and not k else 1))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def augmented(X: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of X (n, C, H, W) shifted by up to 4 pixels, with zeros beyond its edge, and mirrored or not."""
    n, _, height, width = X.shape
    dy, dx = torch.randint(0, 9, (2, n), generator=generator)
    columns = dx[:, None] + torch.arange(width)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows = dy[:, None] + torch.arange(height)
    padded = F.pad(X, (4, 4, 4, 4))
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def saved(path: Path, state: dict) -> None:
    """Write a checkpoint beside its place and move it there, so that whatever bears its name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def trained_resnet(
    X: Tensor, y: Tensor, sigma: float, seed: int, epochs: int, depth: int, path: Path, device: str
) -> nn.Sequential:
    """The authors' recipe: SGD at 0.1, a tenth of it after each third of the epochs, batches of 400; resumes."""
    with torch.random.fork_rng():  # layers that are made take their weights from the global generator
        torch.manual_seed(seed)
        noise = torch.Generator(device).manual_seed(seed)
        model = resnet(X, sigma, noise, depth).to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, epochs // 3))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    done = 0
    if path.exists():
        state = torch.load(path, map_location=device)
        done = state["epochs"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        generator.set_state(state["generator"].cpu())
        noise.set_state(state["noise"].cpu())
    size = min(400, len(X))
    order = batches(len(X), size, generator)
    for epoch in range(done, epochs):
        for _ in range(len(X) // size):
            i = next(order)
            loss = cross_entropy(model(augmented(X[i], generator).to(device)), y[i].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        if not np.isfinite(loss.item()):
            raise Diverged(f"the loss is {loss.item():g} in epoch {epoch} (ResNet, noise {sigma})")
        check_weights(model, epoch, f"ResNet, noise {sigma}")
        saved(path, {name: part.state_dict() for name, part in parts.items()} | {
            "epochs": epoch + 1, "generator": generator.get_state(), "noise": noise.get_state(),
        })  # fmt: skip
        print(f"{path.stem}: {epoch + 1} of {epochs} epochs", file=sys.stderr, flush=True)
    return model.eval()


def cifar10(
    seed: int, epochs: int = 90, depth: int = 110, n: int = 100_000, block: int = 100, folder: Path = CHECKPOINTS
) -> Values:
    """The paper's Table 3: certified accuracy on CIFAR-10's whole test set at each σ; curves and numbers as on digits.

    On the paper's graphics card an image took 15 seconds: 170 hours for the four σ, training not counted. Training
    resumes at the last whole epoch, certifying at the last whole block of images. `certify` gives up where the N0 draws
    leave no hope, which costs at most a share α of the images.
    """
    data = load("cifar10", download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, X_test = (A.view(-1, *data.image_shape) for A in (data.X_train, data.X_test))
    values: dict[str, float | list[float]] = {"radius": RADII.tolist()}
    for key, sigma in SIGMAS.items():
        name = f"seed-{seed}-{key}-{depth}-{epochs}"
        model = trained_resnet(X, data.y_train, sigma, seed, epochs, depth, folder / f"{name}.pt", device)
        found = []
        for start in range(0, len(X_test), block):
            path = folder / name / f"{n}-{start}-{block}.pt"
            if not path.exists():
                g = torch.Generator(device).manual_seed(1_000_000 * (seed + 1) + start)
                images = X_test[start : start + block].to(device)
                done = certify(model, images, sigma, N0, n, ALPHA, g, give_up=True, batch=1000)
                saved(path, {"label": done.label.cpu(), "radius": done.radius.cpu(), "count": done.count.cpu()})
                print(f"{name}: images to {start + len(images)}", file=sys.stderr, flush=True)
            found.append(torch.load(path))
        whole = {part: torch.cat([f[part] for f in found]) for part in ("label", "radius", "count")}
        values |= curve(f"cifar10_{key}", Certificates(**whole, n=n), data.y_test)
    return values


def measure(seed: int, scale: str) -> Values:
    """Digits, or at the paper's scale CIFAR-10."""
    return cifar10(seed) if scale == "paper" else digits(seed, SETTINGS[scale])


if __name__ == "__main__":
    main(measure)
