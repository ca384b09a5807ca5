"""Li & Gal 2017: dropout trained with alpha-divergences, and what its uncertainty says of adversarial images."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.attacks import fgsm, look, pgd, step
from phenomena.data import load
from phenomena.networks import mlp
from phenomena.program import Values, main
from phenomena.training import cosine, cross_entropy, train
from phenomena.uncertainty import (
    Dropout,
    alpha_loss,
    mean_prediction,
    mutual_information,
    predictive_entropy,
    sampled_probabilities,
)

# data: name, training images; width of the 3 hidden layers; K: samples a training step; epochs, with and without
# dropout; test: images whose likelihood is measured; attacked, targeted: images under attack.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": ("mnist5k", 300), "width": 30, "K": 2, "epochs": (2, 2), "test": 50, "attacked": 20, "targeted": 10,
    },
    "laptop": {
        "data": ("mnist5k", 4000), "width": 200, "K": 5, "epochs": (12, 10), "test": 1000, "attacked": 250,
        "targeted": 100,
    },
    "paper": {
        "data": ("mnist", 60_000), "width": 1000, "K": 10, "epochs": (500, 100), "test": 10_000, "attacked": 1000,
        "targeted": 1000,
    },
}  # fmt: skip
ALPHAS = {"alpha0": 0.0, "alpha05": 0.5, "alpha1": 1.0}
SAMPLES = 10  # dropout masks of a prediction, under attack and in tests
ETA = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]  # steps of FGSM, as in Figure 6
EPS = [0.05, 0.1, 0.15, 0.2, 0.3]  # linf budgets of PGD
TARGET_STEPS = [0, 5, 10, 20, 30, 40]  # of length 0.01, towards class 0, as in Figure 7
SCORES = {"entropy": predictive_entropy, "information": mutual_information}
CHECKPOINTS = Path(__file__).resolve().parents[2] / "_build" / "li2017dropout"  # of the paper's scale


class Repeated(nn.Module):
    """K samples of a dropout network in one pass: (n, d) -> (K, n, C)."""

    def __init__(self, net: nn.Module, K: int) -> None:
        super().__init__()
        self.net, self.K = net, K

    def forward(self, X: Tensor) -> Tensor:
        """Logits (K, n, C), each sample with masks of its own."""
        return self.net(X.repeat(self.K, 1)).view(self.K, len(X), -1)


def network(width: int, p: float, seed: int, device: str) -> nn.Sequential:
    """784-width-width-width-10 with dropout of rate p before every linear layer, the first included."""
    masks, layers = torch.Generator(device).manual_seed(seed), []
    for layer in mlp((784, width, width, width, 10), torch.Generator().manual_seed(seed), init="he"):
        layers += [Dropout(p, masks), layer] if p and isinstance(layer, nn.Linear) else [layer]
    return nn.Sequential(*layers).to(device)


def trained(X: Tensor, y: Tensor, alpha: float | None, setting: dict[str, Any], seed: int, scale: str) -> nn.Sequential:
    """A dropout network trained for `alpha`, or (None) one without dropout by cross entropy; Adam, one cosine."""
    net = network(setting["width"], 0.0 if alpha is None else 0.5, seed, str(X.device))
    kept = CHECKPOINTS / f"{seed}-{alpha}.pt"
    if scale == "paper" and kept.exists():
        net.load_state_dict(torch.load(kept))
    else:
        steps = setting["epochs"][alpha is None] * (len(X) // 100)
        model = net if alpha is None else Repeated(net, setting["K"])
        loss = cross_entropy if alpha is None else partial(alpha_loss, alpha=alpha)
        optimizer, batches = torch.optim.Adam(net.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
        schedule = cosine(steps, steps // 10)
        train(model, X, y, loss, optimizer, steps, 100, batches, schedule=schedule, label=f"alpha = {alpha}")
    if scale == "paper":
        CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), kept)
    if isinstance(net[0], Dropout):
        net[0].generator.manual_seed(seed)  # a resumed run tests with the same masks
    return net


def confidence(f: Tensor, y: Tensor) -> Tensor:
    """max_{c != y} log p_c (n,): who maximises it wants a sure error, and both scores are 0 at one."""
    return f.log_softmax(-1).scatter(1, y[:, None], -torch.inf).amax(1)


def wrong_class(f: Tensor, y: Tensor) -> Tensor:
    """log p_y (n,), which an attack towards class y maximises."""
    return -F.cross_entropy(f, y, reduction="none")


class Judged:
    """A model (networks, samples a prediction) and its scores on clean images (X, y)."""

    def __init__(self, nets: list[nn.Sequential], samples: int, X: Tensor, y: Tensor) -> None:
        self.nets, self.samples, self.X, self.y = nets, samples, X, y
        self.mean = mean_prediction(nets, samples)
        with torch.no_grad():
            self.own = self.mean(X).argmax(1)
        P = sampled_probabilities(nets, X, samples)
        self.clean = {name: score(P) for name, score in SCORES.items()}

    def on(self, Z: Tensor) -> dict[str, float]:
        """Accuracy, mean scores in nats, and the AUROC of each score as a detector of Z among the clean images."""
        P = sampled_probabilities(self.nets, Z, self.samples)
        found = {"accuracy": float((P.mean(0).argmax(1) == self.y).double().mean())}
        truth = [0] * len(self.X) + [1] * len(Z)
        for name, score in SCORES.items():
            values = score(P)
            found[name] = float(values.mean())
            found[f"auroc_{name}"] = float(roc_auc_score(truth, torch.cat([self.clean[name], values]).cpu()))
        return found


def curves(judged: Judged, sets: dict[str, list[Tensor]], model: str) -> dict[str, list[float]]:
    """Curves kind_quantity_model for each kind of moved images, a list over the steps or budgets."""
    values: dict[str, list[float]] = {}
    for kind, moved in sets.items():
        found = [judged.on(Z) for Z in moved]
        values |= {f"{kind}_{key}_{model}": [each[key] for each in found] for key in found[0]}
    return values


def targeted(judged: Judged) -> dict[str, list[float]]:
    """The iterated attack towards class 0 on digits of other classes: accuracy and entropy after TARGET_STEPS."""
    values: dict[str, list[float]] = {"accuracy": [], "entropy": []}
    X, zero = judged.X, torch.zeros_like(judged.y)
    Z = X
    for t in range(TARGET_STEPS[-1] + 1):
        if t in TARGET_STEPS:
            found = judged.on(Z)
            values = {key: [*curve, found[key]] for key, curve in values.items()}
        slope = look(judged.mean, Z, zero, wrong_class).slope
        Z = step(X, Z, slope, 0.01, 1.0, "linf", (0.0, 1.0))
    return values


def measure(seed: int, scale: str) -> Values:
    """Curves kind_quantity_model; nn has no dropout, ensemble is five nn, off is alpha0 without its masks.

    Kinds of images: fgsm and random (the same steps with random signs) over eta, pgd and sure (PGD for confidence) over
    eps, noise (uniform, Gaussian), target over target_steps. Quantities: accuracy, entropy and information in nats,
    auroc_entropy and auroc_information against the clean images.
    """
    setting = SETTINGS[scale]
    name, n_train = setting["data"]
    data = load(name, n_train, setting["test"], seed, download=name == "mnist")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, y, X_test, y_test = (t.to(device) for t in data[1:5])
    values: dict[str, Any] = {"eta": ETA, "eps": EPS, "target_steps": [float(t) for t in TARGET_STEPS]}

    plain = [trained(X, y, None, setting, 100 * seed + k, scale) for k in range(5)]
    dropout = {key: trained(X, y, alpha, setting, 100 * seed, scale) for key, alpha in ALPHAS.items()}
    Z, z = X_test[: setting["attacked"]], y_test[: setting["attacked"]]
    models = {"nn": Judged(plain[:1], 1, Z, z), "ensemble": Judged(plain, 1, Z, z)}
    models |= {key: Judged([net], SAMPLES, Z, z) for key, net in dropout.items()}
    off = nn.Sequential(*(layer for layer in dropout["alpha0"] if not isinstance(layer, Dropout)))  # the same weights
    models["off"] = Judged([off], 1, Z, z)

    rng = torch.Generator().manual_seed(seed)
    signs = torch.randn(Z.shape, generator=rng).sign().to(device)
    uniform = torch.rand(Z.shape, generator=rng).to(device)
    gaussian = torch.randn(Z.shape, generator=rng).abs().to(device)
    gaussian = (gaussian * (Z.norm(dim=1) / gaussian.norm(dim=1))[:, None]).clamp(0, 1)  # as long as the digits
    for key, judged in models.items():
        sets = {"fgsm": [fgsm(judged.mean, Z, judged.own, eta) for eta in ETA]}
        if key in ("nn", "ensemble", "alpha0"):
            sets["random"] = [(Z + eta * signs).clamp(0, 1) for eta in ETA]
            sets["noise"] = [uniform, gaussian]
            sets["pgd"] = [pgd(judged.mean, Z, z, eps, steps=20).X for eps in EPS]
            sets["sure"] = [pgd(judged.mean, Z, z, eps, steps=20, loss=confidence).X for eps in EPS]
        values |= curves(judged, sets, key)
        if key in ("nn", *ALPHAS):
            chosen = z.nonzero()[: setting["targeted"], 0]  # the digits that are not 0
            found = targeted(Judged(judged.nets, judged.samples, Z[chosen], z[chosen]))
            values |= {f"target_{quantity}_{key}": curve for quantity, curve in found.items()}
    for key, net in dropout.items():
        P = sampled_probabilities(net, X_test, 5 * SAMPLES).mean(0)
        values[f"test_accuracy_{key}"] = float((P.argmax(1) == y_test).double().mean())
        values[f"log_likelihood_{key}"] = float(P.gather(1, y_test[:, None]).log().mean())
    return values | singled_out(values)


def singled_out(values: dict[str, Any]) -> dict[str, float]:
    """The points of the curves that the card's claims are about."""
    point: dict[str, float] = {}
    at = {eta: i for i, eta in enumerate(ETA)}
    for model in ("nn", "ensemble", "off", *ALPHAS):
        accuracies = [values[f"fgsm_accuracy_{model}"][at[eta]] for eta in (0.1, 0.2, 0.3, 0.4, 0.5)]
        point[f"attacked_accuracy_{model}"] = sum(accuracies) / len(accuracies)
        for score in SCORES:
            point[f"told_{score}_{model}"] = values[f"fgsm_auroc_{score}_{model}"][at[0.2]]
            point |= {
                f"{score}_{model}_{eta}": values[f"fgsm_{score}_{model}"][at[eta]] for eta in (0.0, 0.1, 0.2, 0.3, 0.5)
            }
    for model in ("nn", "ensemble", "alpha0"):
        for score in SCORES:
            point[f"told_random_{score}_{model}"] = values[f"random_auroc_{score}_{model}"][at[0.2]]
            point[f"told_uniform_{score}_{model}"] = values[f"noise_auroc_{score}_{model}"][0]
            point[f"told_sure_{score}_{model}"] = values[f"sure_auroc_{score}_{model}"][EPS.index(0.3)]
            point[f"told_far_{score}_{model}"] = values[f"fgsm_auroc_{score}_{model}"][at[0.3]]
    for model in ("nn", *ALPHAS):
        point[f"target_accuracy_20_{model}"] = values[f"target_accuracy_{model}"][TARGET_STEPS.index(20)]
        point[f"target_entropy_40_{model}"] = values[f"target_entropy_{model}"][TARGET_STEPS.index(40)]
    return point


if __name__ == "__main__":
    main(measure)
