"""Tsipras et al. 2019: robust classifiers cannot use what standard ones live on, and so are less accurate."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from phenomena.adversarial_training import adversarial_training
from phenomena.attacks import Norm, look, pgd
from phenomena.data import load
from phenomena.program import Values, main
from phenomena.robust_gaussian import (
    dual_norm,
    optimal_accuracy,
    optimal_rule,
    robust_accuracy,
    sample,
    tsipras_accuracy,
    tsipras_bound,
    tsipras_sample,
)
from phenomena.small_cnn import small_cnn
from phenomena.smoothing import GaussianNoise
from phenomena.training import error_rate

# n, d: samples and inputs of the Gaussian model; sizes: samples for its learning curve; dimensions: for the budget that
# halves the accuracy; n_features, d_features: of Tsipras' model. images: data sets with their numbers of test images
# and, for each number of training images, the networks, epochs and batch size. attacked: images under attack.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "n": 500, "d": 20, "sizes": [100, 500], "dimensions": [10, 40], "n_features": 1000, "d_features": 100,
        "images": {"mnist5k": (100, {50: (1, 4, 25), 200: (1, 2, 100)})}, "channels": 4, "attacked": 20,
    },
    "laptop": {
        "n": 5000, "d": 200, "sizes": [100, 300, 1000, 3000, 10_000], "dimensions": [25, 50, 100, 200, 400],
        "n_features": 10_000, "d_features": 100,
        "images": {"mnist5k": (1000, {100: (4, 60, 50), 500: (1, 20, 50), 4000: (1, 6, 100)})},
        "channels": 8, "attacked": 100,
    },
    "paper": {
        "images": {
            "mnist": (10_000, {100: (5, 200, 50), 1000: (3, 50, 50), 10_000: (1, 30, 100), 60_000: (1, 20, 100)}),
            "cifar10": (10_000, {1000: (3, 100, 50), 10_000: (1, 60, 100), 50_000: (1, 40, 100)}),
        },
        "channels": 64, "attacked": 1000,
    },
}  # fmt: skip
DECAY = 1e-4  # of the linear rules' weights, so that separable samples have a minimum too
P, ETA = 0.95, 0.4  # of Tsipras' model; η = 4/√d for d = 100
Radii = dict[str, float]  # l2, for pixels in [0, 1]
RADII: dict[str, Radii] = {
    "mnist5k": {"weak": 3.0, "strong": 4.0},
    "mnist": {"weak": 3.0, "strong": 4.0},
    "cifar10": {"weak": 0.25, "strong": 1.0},
}
TRAINING = ("standard", "weak", "strong", "noise")  # weak, strong: adversarial; noise: Gaussian, as long as weak
NORMS: tuple[Norm, Norm] = ("linf", "l2")
FAR = 6.0  # l2 radius of the attacks that the judge looks at


def linear_rule(X: Tensor, y: Tensor, eps: float) -> Tensor:
    """Minimise mean ln(1 + exp(-(y w·x - ε‖w‖₁))) + decay: logistic regression, adversarially trained without error.

    w = u - v with u, v >= 0 makes ‖w‖₁ = Σ(u + v) smooth, and leaves weights at exactly 0.
    """
    A = (y[:, None] * X).double()

    def loss(uv: NDArray) -> tuple[float, NDArray]:
        u, v = torch.from_numpy(uv).chunk(2)
        margins = A @ (u - v) - eps * (u + v).sum()
        slope = -torch.sigmoid(-margins) / len(A)
        g = A.mT @ slope + DECAY * (u - v)
        shrink = -eps * slope.sum()
        value = torch.nn.functional.softplus(-margins).mean() + DECAY / 2 * (u - v).square().sum()
        return float(value), torch.cat([shrink + g, shrink - g]).numpy()

    zero = np.zeros(2 * A.shape[1])
    found = minimize(loss, zero, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(zero),
                     options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": 1e-6})  # fmt: skip
    if not found.success:
        raise ArithmeticError(f"the logistic regression at ε = {eps} did not converge: {found.message}")
    u, v = np.split(found.x, 2)
    return torch.from_numpy(u - v)


def gaussian(seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    """The Gaussian model, μ_i = 0.8/√i: rules trained for each ε, the best one, and the learning curve at ε = 0.1."""
    rng = torch.Generator().manual_seed(seed)
    mu = 0.8 * torch.arange(1, setting["d"] + 1, dtype=torch.float64) ** -0.5
    X, y = sample(max(setting["n"], *setting["sizes"]), mu, 1.0, rng)
    budgets = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
    rules = [linear_rule(X[: setting["n"]], y[: setting["n"]], eps) for eps in budgets]
    best = [optimal_accuracy(mu, 1.0, eps) for eps in budgets]

    def accuracy(w: Tensor, eps: float) -> float:
        return float(robust_accuracy(w, mu, 1.0, eps))

    values: dict[str, Any] = {
        "toy_eps": budgets,
        "toy_robust_standard": [accuracy(rules[0], eps) for eps in budgets],
        "toy_robust_adversarial": [accuracy(w, eps) for w, eps in zip(rules, budgets, strict=True)],
        "toy_robust_optimum": best,
        "toy_clean_adversarial": [accuracy(w, 0.0) for w in rules],
        "toy_clean_optimum": [accuracy(optimal_rule(mu, eps), 0.0) for eps in budgets],
        "toy_used": [float((w != 0).double().mean()) for w in rules],
    }
    at = budgets.index(0.2)
    values["toy_gap_adversarial"] = best[at] - values["toy_robust_adversarial"][at]
    values["toy_gap_standard"] = best[at] - values["toy_robust_standard"][at]
    for name, eps in (("standard", 0.0), ("adversarial", 0.1)):
        curve = [accuracy(linear_rule(X[:n], y[:n], eps), eps) for n in setting["sizes"]]
        values[f"toy_excess_{name}"] = [optimal_accuracy(mu, 1.0, eps) - found for found in curve]
    return values | {"toy_n": [float(n) for n in setting["sizes"]]}


def dimension(seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    """Weak features only, μ_i = 2/√d: the budget at which half of the samples fool the trained rule, by dimension."""
    rng = torch.Generator().manual_seed(seed)
    keys = ("clean", "budget_linf", "budget_l2", "robust_standard", "robust_optimum")
    curves: dict[str, list[float]] = {f"dimension_{key}": [] for key in keys}
    for d in setting["dimensions"]:
        mu = torch.full((d,), 2 / d**0.5, dtype=torch.float64)
        w = linear_rule(*sample(20 * d, mu, 1.0, rng), 0.0)
        clean, robust = (float(robust_accuracy(w, mu, 1.0, eps)) for eps in (0.0, 0.1))
        budgets = [float(w @ mu / dual_norm(w, norm)) for norm in NORMS]
        found = (clean, *budgets, robust, optimal_accuracy(mu, 1.0, 0.1))
        for curve, value in zip(curves.values(), found, strict=True):
            curve.append(value)
    mean = float(np.mean(curves["dimension_clean"]))
    return curves | {"dimension_d": [float(d) for d in setting["dimensions"]], "dimension_accuracy": mean}


def features(seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    """Tsipras' model: rules trained at ε from 0 to 2η, their exact accuracies, and what Theorem 2.1 allows them."""
    rng = torch.Generator().manual_seed(seed)
    n, d = setting["n_features"], setting["d_features"]
    X, y = tsipras_sample(n, d, P, ETA, rng)
    factors = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0]
    W = torch.stack([linear_rule(X, y, factor * ETA) for factor in factors])
    standard, robust = tsipras_accuracy(W, P, ETA, 0.0), tsipras_accuracy(W, P, ETA, 2 * ETA)
    bound, share = tsipras_bound(standard, P), W[:, 1:].abs().sum(1) / W.abs().sum(1)
    # features four times as strong: the same ε no longer turns them around
    strong = linear_rule(*tsipras_sample(n, d, P, 4 * ETA, rng), 2 * ETA)
    # all rules (a, 1, ..., 1), from those that ignore x₁ to those that rest on it
    frontier = torch.ones(40, d + 1, dtype=torch.float64)
    frontier[:, 0] = ETA * d * torch.cat([torch.linspace(0, 1, 15), torch.linspace(1.2, 8, 25)])
    return {
        "features_eps": factors,
        "features_standard": standard.tolist(),
        "features_robust": robust.tolist(),
        "features_bound": bound.tolist(),
        "features_nonrobust_share": share.tolist(),
        "frontier_standard": tsipras_accuracy(frontier, P, ETA, 0.0).tolist(),
        "frontier_robust": tsipras_accuracy(frontier, P, ETA, 2 * ETA).tolist(),
        "bound_slack": float((bound - robust).min()),
        "bound_slack_weak": float((bound - tsipras_accuracy(W, P, ETA, ETA)).min()),
        "standard_of_standard": float(standard[0]),
        "robust_of_standard": float(robust[0]),
        "standard_of_adversarial": float(standard[-1]),
        "robust_of_adversarial": float(robust[-1]),
        "nonrobust_share": float(share[factors.index(1.25)]),
        "nonrobust_share_below": float(share[factors.index(0.75)]),
        "cost": float(standard[0] - standard[-1]),
        "cost_strong_features": float(1 - tsipras_accuracy(strong, P, 4 * ETA, 0.0)),  # the best is 1, to 57 digits
    }


def trained(X: Tensor, y: Tensor, how: str, radii: Radii, net: tuple[int, int, int], seed: int) -> nn.Sequential:
    """A small CNN with (channels, epochs, batch size), trained in one of the ways of TRAINING."""
    rng, (channels, epochs, batch) = torch.Generator().manual_seed(seed), net
    model = small_cnn(tuple(X.shape[1:]), 10, rng, channels).to(X.device)
    if how == "noise":
        noise = torch.Generator(X.device).manual_seed(seed)
        model = nn.Sequential(GaussianNoise(radii["weak"] / X[0].numel() ** 0.5, noise), *model)
    adversarial_training(model, X, y, radii.get(how, 0.0), epochs, rng, norm="l2", attack_steps=3, batch_size=batch,
                         label=f"{how}, n = {len(X)}")  # fmt: skip
    return model.eval()


def images(seed: int, name: str, setting: dict[str, Any]) -> tuple[dict[str, Any], dict[str, nn.Sequential], Any]:
    """Clean accuracy by training set and way of training; the networks of the largest set; test and training images."""
    n_test, sizes = setting["images"][name]
    data = load(name, max(sizes), n_test, seed, download=name != "mnist5k")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, y, X_test, y_test = (t.to(device) for t in data[1:5])
    X, X_test = (A.view(-1, *data.image_shape) for A in (X, X_test))
    curves: dict[str, Any] = {f"accuracy_{how}": [] for how in TRAINING} | {"images_n": [float(n) for n in sizes]}
    nets = {}
    for n, (repeats, epochs, batch) in sizes.items():
        for how in TRAINING:
            accuracies = []
            for k in range(repeats):  # other images and first weights each time
                some, net = slice(k * n, (k + 1) * n), (setting["channels"], epochs, batch)
                nets[how] = trained(X[some], y[some], how, RADII[name], net, 10 * seed + k)
                accuracies.append(1 - error_rate(nets[how], X_test, y_test))
            curves[f"accuracy_{how}"].append(float(np.mean(accuracies)))
    return curves, nets, (X, y, X_test, y_test)


def seen_by(net: nn.Sequential, judge: KNeighborsClassifier, X: Tensor, y: Tensor, attacked: int) -> dict[str, Any]:
    """Input gradients of the loss at X (n, ...): alignment with the image and spread; and far attacks, as judged.

    alignment: mean |x·g|/(‖x‖‖g‖) (after Etmann et al. 2019); spread: mean ‖g‖₁²/(d‖g‖₂²), 1 if all pixels count
    alike; judged: of the attacks within FAR that fool the net, the share which the judge calls as the net does.
    """
    g, x = look(net, X, y).slope.flatten(1).double(), X.flatten(1).double()
    length = g.norm(dim=1).clamp(min=1e-300)  # a gradient can vanish, in digits that the net is sure of
    alignment = (x * g).sum(1).abs() / (length * x.norm(dim=1))
    spread = g.abs().sum(1) ** 2 / length**2 / g.shape[1]
    attack = pgd(net, X[:attacked], y[:attacked], FAR, "l2")
    fooled = attack.X[attack.success]
    agrees = torch.from_numpy(judge.predict(fooled.flatten(1).cpu().numpy())) == net(fooled).argmax(1).cpu()
    centre = (slice(4, 24), slice(4, 24))  # where the digits are
    return {
        "alignment": float(alignment.mean()),
        "spread": float(spread.mean()),
        "judged": float(agrees.double().mean()),
        "picture_gradient": (g[0] / g[0].abs().max()).view(28, 28)[centre].flatten().numpy().round(2),
        "picture_attack": attack.X[0, 0][centre].flatten().numpy().round(2),
    }


def measure(seed: int, scale: str) -> Values:
    """Numbers and curves, by part: toy, dimension, features, and networks on images; paper scale: images only."""
    setting = SETTINGS[scale]
    values: dict[str, Any] = {}
    if scale == "paper":
        for name in setting["images"]:
            curves, _, _ = images(seed, name, setting)
            values |= {f"{name}_{key}": curve for key, curve in curves.items()}
            values |= {f"{name}_full_{how}": curves[f"accuracy_{how}"][-1] for how in TRAINING}
        return values
    for part in (gaussian, dimension, features):
        values |= part(seed, setting)
    curves, nets, (X, y, X_test, y_test) = images(seed, "mnist5k", setting)
    few, many = ({how: curves[f"accuracy_{how}"][i] for how in TRAINING} for i in (0, -1))
    values |= curves | {
        "gain_few": few["weak"] - few["standard"],
        "gain_few_noise": few["noise"] - few["standard"],
        "cost_many": many["standard"] - many["strong"],
        "cost_few": few["standard"] - few["strong"],
        **{f"accuracy_many_{how}": many[how] for how in TRAINING},
    }
    judge = KNeighborsClassifier(5).fit(X.flatten(1), y)
    for how, net in nets.items():
        seen = seen_by(net, judge, X_test, y_test, setting["attacked"])
        drawn = [key for key in seen if how in ("standard", "strong") or not key.startswith("picture")]
        values |= {f"{key}_{how}": seen[key] for key in drawn}
    return values | {"picture": X_test[0, 0, 4:24, 4:24].flatten().numpy().round(2)}


if __name__ == "__main__":
    main(measure)
