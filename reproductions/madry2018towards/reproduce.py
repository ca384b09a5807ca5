"""Madry et al. 2018: what PGD finds, and networks that are trained against it."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.adversarial_training import adversarial_training
from phenomena.attacks import Norm, Truncated, fgsm, look, pgd, robust_accuracy, start, step
from phenomena.data import Dataset, load
from phenomena.program import Values, main
from phenomena.small_cnn import small_cnn
from phenomena.training import batches, check_weights, error_rate

# train, few: digits of the main networks and of those for capacity; images: test digits under attack; epochs: of
# standard training, at ε = 0.1, at 0.2, by FGSM, and of the networks for capacity; runs, points: of the loss landscape.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "train": 200, "few": 100, "images": 12, "epochs": (3, 3, 3, 2, 2), "channels": [2, 16], "runs": 2, "points": 2,
    },
    "laptop": {
        "train": 4000, "few": 1600, "images": 300, "epochs": (8, 6, 8, 4, 8), "channels": [2, 4, 8, 16], "runs": 20,
        "points": 10,
    },
}  # fmt: skip
EPS = [0.0, 0.05, 0.1, 0.2, 0.3]
L2 = [0.0, 1.0, 2.0]
STEPS = (40, 80, 160, 320)  # of an attack: as many as it needs
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "madry2018towards"  # outlives the run and its --out


def accuracy(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """Share of right answers in [0, 1]."""
    with torch.no_grad():
        return 1 - error_rate(model, X, y)


def constant(model: nn.Module, X: Tensor) -> float:
    """Share of X that falls into the class predicted most often: 1 if the network always says the same."""
    with torch.no_grad():
        return float(model(X).argmax(1).bincount().max()) / len(X)


def spread(model: nn.Module, X: Tensor) -> float:
    """Standard deviation over the inputs of the probabilities that the network gives: 0 if it looks at none."""
    with torch.no_grad():
        return float(model(X).softmax(1).std(0).mean())


def held(model: nn.Module, X: Tensor, y: Tensor, eps: float, norm: Norm, g: torch.Generator) -> float:
    """Robust accuracy, with twice the steps as often as the attack has not converged."""
    if eps == 0:
        return accuracy(model, X, y)
    if spread(model, X) < 0.01:  # it has learnt nothing: a flat loss, on which no attack shows that it has converged
        return float((~pgd(model, X, y, eps, norm, generator=g).success).double().mean())
    for steps in STEPS[:-1]:
        with contextlib.suppress(Truncated):
            return robust_accuracy(model, X, y, eps, norm, steps=steps, generator=g)
    return robust_accuracy(model, X, y, eps, norm, steps=STEPS[-1], generator=g)


def transferred(source: nn.Module, target: nn.Module, X: Tensor, y: Tensor, eps: float, g: torch.Generator) -> float:
    """Accuracy of `target` on what fools `source`."""
    return accuracy(target, pgd(source, X, y, eps, generator=g).X, y)


def curve(key: str, grid: Sequence[float], values: list[float]) -> dict[str, float | list[float]]:
    """A curve under its key, and its numbers at 100 times the grid's: `key`_20 for ε = 0.2."""
    return {key: values} | {f"{key}_{round(100 * x)}": v for x, v in zip(grid, values, strict=True)}


def landscape(
    key: str, model: nn.Module, X: Tensor, y: Tensor, eps: float, runs: int, points: int, g: torch.Generator
) -> dict[str, float | list[float]]:
    """PGD by 40 steps of ε/4 from many random points around each of a few digits that the network knows.

    trace: loss at each step of each run around the first digit, (runs, 41) as one list. spread: sd/mean of the final
    losses around a digit, the median over digits. plateau: the mean loss after 10 steps over that after 40. cosine and
    distance: between the maxima found around one digit, the distance relative to that of two random points.
    """
    known = (model(X).argmax(1) == y).nonzero()[:points, 0]
    one = pgd(model, X[known[:1]], y[known[:1]], eps, steps=40, step_size=eps / 4, restarts=runs, generator=g)
    X, y = X[known].repeat_interleave(runs, 0), y[known].repeat_interleave(runs)
    attack = pgd(model, X, y, eps, steps=40, step_size=eps / 4, generator=g)
    short = pgd(model, X, y, eps, steps=40, step_size=eps / 100, generator=g)
    final = look(model, attack.X, y).loss.view(-1, runs)
    delta = (attack.X - X).flatten(1).view(len(final), runs, -1)
    at_random = [start(X, eps, "linf", (0.0, 1.0), g).flatten(1) for _ in range(2)]
    pairs = ~torch.eye(runs, dtype=torch.bool)
    unit = delta / delta.norm(dim=2, keepdim=True)
    return {
        f"trace_{key}": one.trace.flatten().tolist(),
        f"plateau_{key}": float(attack.trace[0, 10] / attack.trace[0, -1]),
        f"plateau_short_{key}": float(short.trace[0, 10] / short.trace[0, -1]),
        f"final_loss_{key}": float(final.mean()),
        f"spread_{key}": float((final.std(1) / final.mean(1)).median()),
        f"spread_curve_{key}": (final / final.mean(1, keepdim=True)).flatten().tolist(),
        f"cosine_{key}": float((unit @ unit.mT)[:, pairs].mean()),
        f"distance_{key}": float(
            torch.cdist(delta, delta)[:, pairs].mean() / (at_random[0] - at_random[1]).norm(dim=1).mean()
        ),
    }


def digits(seed: int, setting: dict[str, Any]) -> Values:
    """Everything on one split of the digits; a number behind a key is 100 ε."""
    data = load("mnist5k", setting["train"], 1000, seed)
    shape, g = data.image_shape, torch.Generator().manual_seed(seed)
    X_train, y_train = data.X_train.view(-1, *shape), data.y_train
    X, y = data.X_test[: setting["images"]].view(-1, *shape), data.y_test[: setting["images"]]
    standard, weak, strong, by_fgsm, small = setting["epochs"]

    def trained(
        eps: float, epochs: int, *, channels: int = 8, n: int | None = None, at: int = 0, **how: Any
    ) -> tuple[nn.Module, float]:
        """A network trained at ε on the first n digits, its weights drawn by the seed `at`; its final training loss."""
        own = torch.Generator().manual_seed(1000 * at + seed)
        model = small_cnn(shape, data.n_classes, own, channels)
        how = {"attack_steps": 3, "label": f"ε {eps}, {channels} channels"} | how
        losses = adversarial_training(model, X_train[:n], y_train[:n], eps, epochs, own, **how).losses
        return model, float(losses[-20:].mean())

    # accuracy against the budget, by one step and by many
    nets = {
        "standard": trained(0.0, standard)[0],
        "trained10": trained(0.1, weak)[0],
        "trained20": trained(0.2, strong)[0],
    }
    values: dict[str, float | list[float]] = {"eps": EPS, "l2_eps": L2}
    for key, model in nets.items():
        values |= curve(f"pgd_{key}", EPS, [held(model, X, y, eps, "linf", g) for eps in EPS])
        values |= curve(f"fgsm_{key}", EPS, [accuracy(model, fgsm(model, X, y, eps), y) for eps in EPS])
    for key in ("standard", "trained20"):
        values |= curve(f"l2_{key}", L2, [held(nets[key], X, y, eps, "l2", g) for eps in L2])
    once = pgd(nets["trained20"], X, y, 0.2, steps=40, step_size=0.2 / 30, generator=g)  # as in their Table 1
    values["pgd40_trained20"] = float((~once.success).double().mean())

    # attacks made on another network
    copy = trained(0.0, standard, at=1)[0]
    values["black_copy_standard"] = transferred(copy, nets["standard"], X, y, 0.1, g)
    values["black_natural_trained10"] = transferred(nets["standard"], nets["trained10"], X, y, 0.1, g)
    values["black_copy_trained10"] = transferred(copy, nets["trained10"], X, y, 0.1, g)
    values["black_trained20_trained10"] = transferred(nets["trained20"], nets["trained10"], X, y, 0.1, g)

    for key in ("standard", "trained10"):
        values |= landscape(key, nets[key], X, y, 0.1, setting["runs"], setting["points"], g)

    # training against one step, at a small and a large budget
    for eps in (0.1, 0.3):
        model, key = trained(eps, by_fgsm, attack_steps=1)[0], f"against_fgsm{round(100 * eps)}"
        values |= {f"clean_{key}": accuracy(model, X, y), f"fgsm_{key}": accuracy(model, fgsm(model, X, y, eps), y)}
        values[f"pgd_{key}"] = held(model, X, y, eps, "linf", g)

    # capacity, without a ramp as in the paper; the last rows are ours: a larger budget, with a ramp and without
    rows: dict[str, list[float]] = {"channels": [float(c) for c in setting["channels"]]}
    half, few = len(X) // 2, setting["few"]
    for channels in setting["channels"]:
        model, loss = trained(0.2, small, channels=channels, n=few, ramp=0.0)
        natural = trained(0.0, small, channels=channels, n=few)[0]
        row = {
            "clean": accuracy(model, X, y), "pgd": held(model, X[:half], y[:half], 0.2, "linf", g), "loss": loss,
            "constant": constant(model, X), "spread": spread(model, X), "natural": accuracy(natural, X, y),
            "spread_natural": spread(natural, X), "fgsm_natural": accuracy(natural, fgsm(natural, X, y, 0.05), y),
        }  # fmt: skip
        for key, value in row.items():
            rows.setdefault(f"capacity_{key}", []).append(value)
            values[f"capacity_{key}_{channels}"] = value
    for key, ramp in (("ramp", 0.5), ("no_ramp", 0.0)):
        model = trained(0.3, small, n=few, ramp=ramp)[0]
        values |= {f"{key}_clean": accuracy(model, X, y), f"{key}_spread": spread(model, X)}
    return values | rows


# The paper's own scale: MNIST by two convolutions, CIFAR-10 by a ResNet ten times as wide; numbers in per cent.


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation before each, around which the input is carried."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        )
        self.second = nn.Sequential(
            nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        )
        same = inputs == outputs and stride == 1
        self.carry = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, X: Tensor) -> Tensor:
        """Images (n, inputs, H, W) to (n, outputs, H/stride, W/stride)."""
        return self.second(self.first(X)) + self.carry(X)


def resnet(widths: Sequence[int] = (16, 160, 320, 640), blocks: int = 5) -> nn.Sequential:
    """Images (n, 3, 32, 32), standardised each on its own, to 10 logits."""
    layers: list[nn.Module] = [nn.LayerNorm((3, 32, 32), elementwise_affine=False), nn.Conv2d(3, widths[0], 3, 1, 1)]
    for k in range(3):
        layers += [
            Block(widths[k] if j == 0 else widths[k + 1], widths[k + 1], 2 if j == 0 and k > 0 else 1)
            for j in range(blocks)
        ]
    return nn.Sequential(
        *layers, nn.BatchNorm2d(widths[3]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[3], 10)
    )


def mnist_cnn() -> nn.Sequential:
    """Two convolutions of 32 and 64 filters 5x5, each with 2x2 pooling, and a layer of 1,024."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 1024), nn.ReLU(), nn.Linear(1024, 10),
    )  # fmt: skip


def augmented(X: Tensor, g: torch.Generator) -> Tensor:
    """Colour images moved by up to four pixels and turned over at random."""
    padded, out = F.pad(X, (4, 4, 4, 4)), torch.empty_like(X)
    corners, turned = torch.randint(9, (len(X), 2), generator=g).tolist(), torch.rand(len(X), generator=g) < 0.5
    for k, (i, j) in enumerate(corners):
        image = padded[k, :, i : i + X.shape[2], j : j + X.shape[3]]
        out[k] = image.flip(2) if turned[k] else image
    return out


def paper_network(
    data: Dataset, eps: float, seed: int, recipe: dict[str, Any], path: Path, device: str, every: int = 1000,
    stop: int | None = None,
) -> nn.Module:  # fmt: skip
    """Adversarial training by the paper's recipe, ε = 0 without an attack; resumes at the last multiple of `every`.

    stop: leave after that many of the recipe's steps.
    """
    with torch.random.fork_rng(devices=[]):  # layers that are made take their weights from the global generator
        torch.manual_seed(seed)
        model = recipe["network"]().to(device)
    parts = {"model": model, "optimizer": recipe["optimizer"](model.parameters())}
    steps, drops, done = recipe["steps"], recipe["drops"], 0
    rates = [group["lr"] for group in parts["optimizer"].param_groups]
    if path.exists():
        state = torch.load(path, map_location=device)
        done = state["steps"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    images, model = data.X_train.view(-1, *data.image_shape), model.train()
    for t in range(done, stop or steps):
        if t == done or t % every == 0:  # the draws of a stretch depend on its number alone, so that it can be resumed
            g = torch.Generator().manual_seed(10_000_000 * (seed + 1) + t)
            batch = batches(len(images), recipe["batch"], g)
        i = next(batch)
        X, y = images[i], data.y_train[i].to(device)
        X = (augmented(X, g) if recipe["augment"] else X).to(device)
        Z = start(X, eps, "linf", (0.0, 1.0), g) if eps else X
        for _ in range(recipe["attack_steps"] if eps else 0):
            Z = step(X, Z, look(model, Z, y).slope, recipe["step_size"], eps, "linf", (0.0, 1.0))
        for group, rate in zip(parts["optimizer"].param_groups, rates, strict=True):
            group["lr"] = rate * 0.1 ** sum(t >= drop * steps for drop in drops)
        parts["optimizer"].zero_grad()
        F.cross_entropy(model(Z), y).backward()
        parts["optimizer"].step()
        if (t + 1) % every == 0 or t + 1 == steps:
            check_weights(model, t + 1, path.stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            state = {"steps": t + 1} | {name: part.state_dict() for name, part in parts.items()}
            torch.save(state, path.with_suffix(".part"))  # moved to its place, so that what bears its name is whole
            os.replace(path.with_suffix(".part"), path)
    return model.eval()


RECIPES: dict[str, dict[str, Any]] = {
    "mnist": {
        "network": mnist_cnn, "optimizer": lambda p: torch.optim.Adam(p, lr=1e-4), "steps": 100_000, "drops": (),
        "batch": 50, "augment": False, "eps": 0.3, "attack_steps": 40, "step_size": 0.01,
        "attacks": {"pgd40": (40, 1, 0.01), "pgd100": (100, 20, 0.01)},
    },
    "cifar10": {
        "network": resnet, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=2e-4),
        "steps": 80_000, "drops": (0.5, 0.75), "batch": 128, "augment": True, "eps": 8 / 255, "attack_steps": 7,
        "step_size": 2 / 255, "attacks": {"pgd7": (7, 1, 2 / 255), "pgd20": (20, 1, 2 / 255)},
    },
}  # fmt: skip


def paper_table(name: str, seed: int, recipe: dict[str, Any], folder: Path = CHECKPOINTS, block: int = 500) -> Values:
    """Tables 1 and 2, in per cent: the trained network, attacked by itself and by its copy, and standard training."""
    data = load(name, download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    eps, nets = recipe["eps"], {}
    for key, budget, at in (("trained", eps, 0), ("copy", eps, 1), ("standard", 0.0, 0)):
        path = folder / f"{name}-{key}-{seed}-{recipe['steps']}.pt"
        nets[key] = paper_network(data, budget, 1000 * at + seed, recipe, path, device)
    right: dict[str, float] = {}
    g = torch.Generator().manual_seed(seed)
    for begin in range(0, len(data.X_test), block):
        X = data.X_test[begin : begin + block].view(-1, *data.image_shape).to(device)
        y = data.y_test[begin : begin + block].to(device)
        for key in ("trained", "standard"):
            found = {"natural": X, "fgsm": fgsm(nets[key], X, y, eps)}
            for attack, (steps, restarts, size) in recipe["attacks"].items():
                how = {"steps": steps, "restarts": restarts, "step_size": size, "generator": g}
                found[attack] = pgd(nets[key], X, y, eps, **how).X
                if key == "trained":
                    found[f"{attack}_copy"] = pgd(nets["copy"], X, y, eps, **how).X
            for attack, Z in found.items():
                number = f"{name}_{key}_{attack}"
                right[number] = right.get(number, 0.0) + accuracy(nets[key], Z, y) * len(X)
    return {number: 100 * value / len(data.X_test) for number, value in right.items()}


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed."""
    if scale != "paper":
        return digits(seed, SETTINGS[scale])
    return {key: value for name, recipe in RECIPES.items() for key, value in paper_table(name, seed, recipe).items()}


if __name__ == "__main__":
    main(measure)
