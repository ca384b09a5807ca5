"""Athalye, Carlini & Wagner 2018: ways to hide a gradient, ways to find it, and five signs that it is hidden."""

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.adversarial_training import adversarial_training
from phenomena.attacks import Loss, Masked, Model, Truncated, fgsm, margin_loss, pgd, robust_accuracy
from phenomena.data import load
from phenomena.networks import cnn5
from phenomena.program import Values, main
from phenomena.small_cnn import small_cnn
from phenomena.training import cosine, cross_entropy, train

# images: test digits under attack, half of them behind random transforms; epochs: of standard training, of adversarial
# training, and with random transforms; draws, judged: of the transform, in a step of the strong attack and for a
# verdict; samples: of the random search.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "train": 200, "images": 10, "epochs": (4, 2, 3), "draws": 4, "judged": 3, "samples": 5,
    },
    "laptop": {
        "train": 4000, "images": 200, "epochs": (8, 8, 12), "draws": 16, "judged": 20, "samples": 100,
    },
}  # fmt: skip
EPS = [0.0, 0.05, 0.1, 0.2, 0.3]  # linf
AT = 0.2  # ε of adversarial training, and of the first two signs
STEPS = (40, 80, 160, 320)  # of a strong attack: as many as it needs
WEAK = {"steps": 40, "step_size": 0.01}  # PGD on cross entropy, as in Madry et al. 2018 on MNIST


def rounded(X: Tensor) -> Tensor:
    """Pixels to the nearest of five levels: a derivative of 0 almost everywhere."""
    return torch.round(4 * X) / 4


def rippled(X: Tensor) -> Tensor:
    """Pixels moved by up to 0.02, in 50 ripples from black to white: a derivative between -5.3 and 7.3."""
    return X + 0.02 * torch.sin(100 * math.pi * X)


def through(h: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """h(X), exactly, with the identity for its derivative (BPDA: backward pass differentiable approximation)."""
    return h(X).detach() + (X - X.detach())


def shaken(X: Tensor, g: torch.Generator) -> Tensor:
    """Each image shrunk to between 60 and 100 per cent and moved by up to 4 pixels, at random."""
    scale = 0.6 + 0.4 * torch.rand(len(X), generator=g)
    theta = torch.zeros(len(X), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = (4 / 14) * (2 * torch.rand(len(X), 2, generator=g) - 1) / scale[:, None]
    return F.grid_sample(X, F.affine_grid(theta, list(X.shape), align_corners=False), align_corners=False)


class Shaking(nn.Module):
    """A network behind `shaken`, with fresh draws of `generator` for every image of every call."""

    def __init__(self, network: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.network, self.generator = network, generator

    def forward(self, X: Tensor) -> Tensor:
        """Images (n, C, H, W) to logits (n, 10)."""
        return self.network(shaken(X, self.generator))


def wrong(model: Model, X: Tensor, y: Tensor) -> Tensor:
    """Which of X (n, ...) the model misclassifies, (n,) bool."""
    with torch.no_grad():
        return model(X).argmax(1) != y


def share(fooled: Tensor) -> float:
    """Share of True."""
    return float(fooled.double().mean())


def held(model: Model, X: Tensor, y: Tensor, eps: float, g: torch.Generator, loss: Loss | None) -> float:
    """Robust accuracy, with twice the steps as often as the attack has not converged."""
    if eps == 0:
        return 1 - share(wrong(model, X, y))
    for steps in STEPS[:-1]:
        with contextlib.suppress(Truncated):
            return robust_accuracy(model, X, y, eps, steps=steps, generator=g, loss=loss)
    return robust_accuracy(model, X, y, eps, steps=STEPS[-1], generator=g, loss=loss)


def curve(key: str, values: list[float]) -> dict[str, float | list[float]]:
    """A curve over the first of EPS under its key, and its numbers: `key`_20 at ε = 0.2."""
    return {key: values} | {f"{key}_{round(100 * eps)}": v for eps, v in zip(EPS, values, strict=False)}


def refused(model: Model, X: Tensor, y: Tensor, g: torch.Generator) -> float:
    """1 if `robust_accuracy` refuses to take the weak attack at its word, else 0."""
    try:
        robust_accuracy(model, X, y, AT, generator=g, **WEAK)  # type: ignore[arg-type]
    except (Masked, Truncated):
        return 1.0
    return 0.0


def signs(
    model: Model,
    iterative: dict[float, float],
    black_box: Tensor,
    X: Tensor,
    y: Tensor,
    samples: int,
    g: torch.Generator,
) -> dict[str, float]:
    """Shares of fooled digits by which Section 3.1 tells a hidden gradient; `iterative`, by ε, is the weak attack's.

    one_step and black_box (inputs made on another network) at ε = 0.2; sampled, the best of many random points, at 0.3;
    unbounded, 100 steps anywhere in the box from x; rise, the weak attack's from ε = 0.05 to 0.3. signs: how many show.
    """
    found = wrong(model, X, y)
    for _ in range(samples):
        found = found | wrong(model, (X + 0.3 * (2 * torch.rand(X.shape, generator=g) - 1)).clamp(0, 1), y)
    seen = {
        "one_step": share(wrong(model, fgsm(model, X, y, AT), y)), "iterative": iterative[AT],
        "black_box": share(wrong(model, black_box, y)),
        "unbounded": share(pgd(model, X, y, 1.0, steps=100, step_size=0.01).success),
        "sampled": share(found), "iterative30": iterative[0.3], "rise": iterative[0.3] - iterative[0.05],
    }  # fmt: skip
    shown = (
        seen["one_step"] > seen["iterative"], seen["black_box"] > seen["iterative"], seen["unbounded"] < 0.99,
        seen["sampled"] > seen["iterative30"], seen["rise"] < 0.2,
    )  # fmt: skip
    return seen | {"signs": float(sum(shown))}


def randomised(
    network: nn.Module, X: Tensor, y: Tensor, setting: dict[str, Any], seed: int, g: torch.Generator
) -> dict[str, float | list[float]]:
    """Accuracy of a randomised classifier, a draw a verdict, under attacks that know it by one draw or by many.

    weak: PGD on one draw that is kept; single: a fresh draw a step; strong: the mean over `draws` a step (EoT).
    half: the strong attack with half of the steps, to show that it has converged. Over all of EPS but the last.
    """
    fresh = Shaking(network, torch.Generator().manual_seed(seed))

    def kept(Z: Tensor) -> Tensor:
        return network(shaken(Z, torch.Generator().manual_seed(seed)))

    def accuracy(Z: Tensor) -> float:
        return 1 - sum(share(wrong(fresh, Z, y)) for _ in range(setting["judged"])) / setting["judged"]

    attacks: dict[str, Callable[[float], Tensor]] = {
        "weak": lambda eps: pgd(kept, X, y, eps, steps=40, generator=g).X,
        "single": lambda eps: pgd(fresh, X, y, eps, steps=20, generator=g).X,
        "strong": lambda eps: pgd(fresh, X, y, eps, steps=20, draws=setting["draws"], generator=g).X,
    }
    values: dict[str, float | list[float]] = {}
    for key, attack in attacks.items():
        values |= curve(f"random_{key}", [accuracy(attack(eps) if eps else X) for eps in EPS[:-1]])
    half = pgd(fresh, X, y, 0.1, steps=10, draws=setting["draws"], generator=g).X
    return values | {"random_half_10": accuracy(half)}


def digits(seed: int, setting: dict[str, Any]) -> Values:
    """All masks on one split of the digits, before one and the same network; a number behind a key is 100 ε."""
    data = load("mnist5k", setting["train"], 1000, seed)
    shape, g = data.image_shape, torch.Generator().manual_seed(seed)
    X_train = data.X_train.view(-1, *shape)
    X, y = data.X_test[: setting["images"]].view(-1, *shape), data.y_test[: setting["images"]]
    clean, robust, random = setting["epochs"]

    def trained(
        eps: float, epochs: int, at: int = 0, wrap: Callable[[nn.Module], nn.Module] | None = None
    ) -> nn.Module:
        own = torch.Generator().manual_seed(1000 * at + seed)
        network = small_cnn(shape, data.n_classes, own)
        adversarial_training(
            wrap(network) if wrap else network,
            X_train,
            data.y_train,
            eps,
            epochs,
            own,
            attack_steps=3,
            label=f"ε {eps}",
        )
        return network

    standard, other, adversarial = trained(0.0, clean), trained(0.0, clean, at=1), trained(AT, robust)
    # what is attacked, and the strong attack on it: the model that it follows and the loss
    masked: dict[str, tuple[Model, Model, Loss | None]] = {
        "standard": (standard, standard, None),
        "adversarial": (adversarial, adversarial, None),
        "saturated": (lambda Z: 1000 * standard(Z), lambda Z: 1000 * standard(Z), margin_loss),
        "rounded": (lambda Z: standard(rounded(Z)), lambda Z: standard(through(rounded, Z)), None),
        "rippled": (lambda Z: standard(rippled(Z)), lambda Z: standard(through(rippled, Z)), None),
    }
    values: dict[str, float | list[float]] = {"eps": EPS, "random_eps": EPS[:-1]}
    elsewhere = pgd(other, X, y, AT, generator=g).X
    for key, (model, follow, loss) in masked.items():
        weak = {0.0: share(wrong(model, X, y))}
        weak |= {eps: share(pgd(model, X, y, eps, generator=g, **WEAK).success) for eps in EPS[1:]}  # type: ignore[arg-type]
        values |= curve(f"{key}_weak", [1 - weak[eps] for eps in EPS])
        values |= curve(f"{key}_strong", [held(follow, X, y, eps, g, loss) for eps in EPS])
        seen = signs(model, weak, elsewhere, X, y, setting["samples"], g) | {"refused": refused(model, X, y, g)}
        values |= {f"{name}_{key}": value for name, value in seen.items()}
    values["signs_fewest"] = min(values[f"signs_{key}"] for key in ("saturated", "rounded", "rippled"))  # type: ignore[type-var]

    shaking = trained(0.0, random, wrap=partial(Shaking, generator=torch.Generator().manual_seed(seed)))
    half = len(X) // 2
    return values | randomised(shaking, X[:half], y[:half], setting, seed, g)


# The paper's own scale: thermometer encoding (Buckman et al. 2018) on CIFAR-10, one of the nine defences.


def thermometer(X: Tensor, levels: int = 16) -> Tensor:
    """Each colour (n, C, H, W) as `levels` zeros and ones, 1 for each level below it: (n, C levels, H, W)."""
    steps = torch.arange(levels, device=X.device, dtype=X.dtype)[:, None, None] / levels
    return (X[:, :, None] > steps).to(X.dtype).flatten(1, 2)


def smooth_thermometer(X: Tensor, levels: int = 16) -> Tensor:
    """Its differentiable stand-in: each level rises from 0 to 1 while the colour crosses it."""
    steps = torch.arange(levels, device=X.device, dtype=X.dtype)[:, None, None] / levels
    return (levels * (X[:, :, None] - steps)).clamp(0, 1).flatten(1, 2)


def cifar10(seed: int, epochs: int = 60, width: int = 64, block: int = 500) -> Values:
    """Accuracy in per cent behind thermometer encoding at linf ε = 0.031, clean and under BPDA; 10,000 images."""
    data = load("cifar10", download=True, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    body = cnn5((48, 32, 32), width, 10, generator).to(device)
    X_train, y_train = data.X_train.view(-1, *data.image_shape).to(device), data.y_train.to(device)

    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, X: Tensor) -> Tensor:
            return self.body(thermometer(X))

    def follow(X: Tensor) -> Tensor:
        smooth = smooth_thermometer(X)
        return body(thermometer(X) + (smooth - smooth.detach()))

    model = Encoded()
    steps = epochs * (len(X_train) // 128)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, X_train, y_train, cross_entropy, optimizer, steps, 128, generator, schedule=cosine(steps, steps // 10))
    model.eval()
    right = {"clean": 0.0, "bpda": 0.0}
    for begin in range(0, len(data.X_test), block):
        X = data.X_test[begin : begin + block].view(-1, *data.image_shape).to(device)
        y = data.y_test[begin : begin + block].to(device)
        right["clean"] += float((~wrong(model, X, y)).sum())
        right["bpda"] += float((~pgd(follow, X, y, 0.031, steps=100, generator=generator).success).sum())
    return {f"cifar10_{key}": 100 * n / len(data.X_test) for key, n in right.items()}


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed."""
    return cifar10(seed) if scale == "paper" else digits(seed, SETTINGS[scale])


if __name__ == "__main__":
    main(measure)
