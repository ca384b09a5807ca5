"""Jacot, Gabriel & Hongler 2018: a wide network's tangent kernel is fixed, and stays so; it learns linearly."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from phenomena.data import load
from phenomena.empirical_ntk import empirical_ntk
from phenomena.errors import Diverged
from phenomena.infinite_width import infinite_width, kappa0, kappa1
from phenomena.kernel_regression import trained_process
from phenomena.program import Values, main
from phenomena.wide import ntk_mlp


class Setting(NamedTuple):
    """How much one seed computes."""

    first: tuple[int, ...]  # widths at initialisation
    trained: tuple[int, ...]  # widths that are trained
    draws: int  # networks of the widest; of narrower ones up to 4 times as many
    nets: int  # in an ensemble on the circle
    wide: int  # the width of the ensemble that should be Gaussian
    steps: int
    batch: int  # digits of the principal components


SETTINGS = {
    "smoke": Setting((16, 32, 64), (16, 32, 64), draws=2, nets=4, wide=64, steps=20, batch=64),
    "laptop": Setting(
        (16, 32, 64, 128, 256, 512, 1024, 2048), (32, 64, 128, 256, 512, 1024),
        draws=4, nets=64, wide=256, steps=150, batch=512,
    ),
    "paper": Setting(
        (64, 256, 1024, 4096, 10_000), (64, 256, 1024, 4096), draws=8, nets=100, wide=1000, steps=1000, batch=512
    ),
}  # fmt: skip
DEPTH = 2  # hidden layers of the networks on digits
GROWING = {16: 1, 32: 2, 64: 4, 128: 8}  # width -> depth, in proportion
BETA = 0.1  # the paper's
CIRCLE_DEPTH, NARROW, PAPERS_NARROW = 3, 4, 50  # hidden layers; widths of the control and of the paper's first network
COMPONENTS = 8


def descend(models: Sequence[nn.Module], X: Tensor, Y: Tensor, rate: float, steps: int) -> Tensor:
    """Train M scalar networks of one shape at once, in place, by gradient descent on ½ Σ (f - y)².

    X (n, d), targets Y (M, n) or (n,). Returns the outputs after 0, 1, ..., steps updates, (steps + 1, M, n).
    """
    weights = {name: W.detach().requires_grad_() for name, W in stack_module_state(list(models))[0].items()}
    skeleton = copy.deepcopy(models[0]).to("meta")
    forward = vmap(lambda W: functional_call(skeleton, W, (X,))[:, 0])
    path = []
    for step in range(steps + 1):
        f = forward(weights)
        path.append(f.detach())
        if step < steps:
            gradients = torch.autograd.grad((f - Y).square().sum() / 2, list(weights.values()))
            with torch.no_grad():
                for W, gradient in zip(weights.values(), gradients, strict=True):
                    W -= rate * gradient
    if not path[-1].isfinite().all():
        raise Diverged(f"outputs are not finite after {steps} steps at rate {rate:g}")
    with torch.no_grad():
        for m, model in enumerate(models):
            for name, W in model.named_parameters():
                W.copy_(weights[name][m])
    return torch.stack(path)


def linear_descent(Theta: Tensor, Y: Tensor, rate: float, steps: int) -> Tensor:
    """The same descent with a fixed kernel Theta (N, N) from outputs 0; targets Y (n,) of the first n; outputs (N,)."""
    f = torch.zeros(len(Theta), dtype=Theta.dtype)
    for _ in range(steps):
        f = f - rate * Theta[:, : len(Y)] @ (f[: len(Y)] - Y)
    return f


def digits(n: int, seed: int) -> Tensor:
    """n digits, pixels scaled so that each has length 1, (n, 64)."""
    return functional.normalize(load("digits", n_train=n, n_test=1, seed=seed).X_train)


def first_kernels(widths: Sequence[int], draws: int, seed: int, generator: torch.Generator) -> dict[str, list[float]]:
    """Distance |Θ_m - Θ|/|Θ| of kernels at initialisation, over width, and when depth grows with the width."""
    X = digits(40, seed)

    def distance(width: int, depth: int) -> float:
        Theta = infinite_width(X, depth=depth).ntk
        own = [empirical_ntk(ntk_mlp(64, width, depth, generator), X)[:, :, 0, 0] for _ in range(draws)]
        return sum(float((K - Theta).norm() / Theta.norm()) for K in own) / len(own)

    return {
        "width_first": [float(m) for m in widths],
        "error": [distance(m, DEPTH) for m in widths],
        "width_growing": [float(m) for m in GROWING],
        "error_growing": [distance(m, L) for m, L in GROWING.items()],
    }


@torch.no_grad()
def outputs(models: Sequence[nn.Module], X: Tensor) -> Tensor:
    """Outputs (M, N) of scalar networks."""
    return torch.stack([model(X)[:, 0] for model in models])


def mean(values: Iterable[Tensor]) -> float:
    """Mean of numbers."""
    return float(torch.stack(list(values)).mean())


def trained(
    name: str, activation: str, goal: str, widths: Sequence[int], draws: int, steps: int, seed: int,
    generator: torch.Generator,
) -> dict[str, list[float]]:  # fmt: skip
    """What training changes, over width, each a mean over networks; keys end in `name`.

    20 digits to learn, 20 to test. The target is f(0) + ½ √20 u, so that nothing depends on the first output f(0): u is
    the second principal component of the limiting kernel (goal "component", Section 6.3) or the signs of the labels
    ("labels", "rich"), of length 1. "rich": √(m/2) times as far, as if the output were divided by that (mean field).
    """
    n = 20
    data = load("digits", n_train=n, n_test=n, seed=seed)
    X = functional.normalize(torch.cat([data.X_train, data.X_test]))
    eigenvalues, V = torch.linalg.eigh(infinite_width(X[:n].double(), depth=DEPTH, activation=activation).ntk)
    rate, lam = 0.25 / float(eigenvalues[-1]), float(eigenvalues[-2])
    u = V[:, -2].float() if goal == "component" else functional.normalize(2.0 * (data.y_train >= 5) - 1, dim=0)
    columns: dict[str, list[float]] = {f"width{name}": [float(m) for m in widths]}
    for m in widths:
        models = [ntk_mlp(64, m, DEPTH, generator, activation) for _ in range(min(4, max(widths) // m) * draws)]
        start = [[W.detach().clone() for W in model.parameters()] for model in models]
        before, f_0 = [empirical_ntk(model, X)[:, :, 0, 0] for model in models], outputs(models, X)
        target = 0.5 * math.sqrt(n) * u * (math.sqrt(m / 2) if goal == "rich" else 1.0)
        path = (descend(models, X[:n], f_0[:, :n] + target, rate, steps) - f_0[:, :n]) / target.norm()
        after, f = [empirical_ntk(model, X)[:, :, 0, 0] for model in models], outputs(models, X) - f_0
        linear = [linear_descent(K.double(), target.double(), rate, steps).float() for K in before]
        along = path @ u  # (steps + 1, networks)
        kernels, weights = list(zip(before, after, strict=True)), list(zip(models, start, strict=True))
        found = {
            "kernel_change": mean((K_t - K).norm() / K.norm() for K, K_t in kernels),
            "inflation": mean(K_t.trace() / K.trace() for K, K_t in kernels),
            "gap": mean((f_m[n:] - l_m[n:]).norm() / l_m[n:].norm() for f_m, l_m in zip(f, linear, strict=True)),
            "deviation": mean((path - along.unsqueeze(2) * u).norm(dim=2).amax(0)),
            "half_life": rate * lam * mean(crossing(1 - share) for share in along.T),
        }
        for k in range(DEPTH + 1):
            changes = ((list(model.parameters())[k].detach(), W[k]) for model, W in weights)
            found[f"weights_{k + 1}"] = mean((W_t - W).norm() / W.norm() for W_t, W in changes)
        for key, value in found.items():
            columns.setdefault(f"{key}{name}", []).append(value)
    return columns


def crossing(share: Tensor) -> Tensor:
    """The step, interpolated, at which a share (steps + 1,) that starts at 1 falls to one half; the last if never."""
    k = int((share <= 0.5).long().argmax())
    return k - (0.5 - share[k]) / (share[k - 1] - share[k]) if k else torch.tensor(len(share) - 1.0)


def principal_components(width: int, draws: int, steps: int, seed: int, generator: torch.Generator) -> Values:
    """How fast wide networks learn each of the first 8 principal components of the limiting kernel on 20 digits.

    The target is f(0) + Σ v_i. From the share left of v_i after k steps, about one half, follows the eigenvalue
    (1 - share^(1/k))/rate that the network shows; likewise along 8 random orthonormal directions.
    """
    n = 20
    X = digits(n, seed)
    eigenvalues, V = torch.linalg.eigh(infinite_width(X.double(), depth=DEPTH).ntk)
    rate = 0.25 / float(eigenvalues[-1])
    V = V.flip(1)[:, :COMPONENTS].float()
    random = torch.linalg.qr(torch.randn(n, COMPONENTS, generator=generator)).Q
    values: dict[str, float | list[float]] = {"eigenvalue": eigenvalues.flip(0)[:COMPONENTS].tolist()}
    for name, U in (("", V), ("_random", random)):
        models = [ntk_mlp(64, width, DEPTH, generator) for _ in range(draws)]
        f_0 = outputs(models, X)
        path = descend(models, X, f_0 + U.sum(1), rate, steps) - f_0
        left = 1 - (path @ U).mean(1)  # (steps + 1, components)
        k = [int((share <= 0.5).long().argmax()) or steps for share in left.T]
        shown = [(1 - max(float(left[k_i, i]), 1e-6) ** (1 / k_i)) / rate for i, k_i in enumerate(k)]
        values[f"eigenvalue_shown{name}"] = shown
        values |= {f"half_life{name}_of_{i}": float(crossing(left[:, i - 1])) for i in (1, 2, 4, 8)}
    return values


def circle(nets: int, wide: int, steps: int, generator: torch.Generator) -> Values:
    """Ensembles trained on 4 points of the unit circle, against the Gaussian process of the limit (Section 6.2).

    The mean is compared along the process's principal directions, those that hold 99 % of its variance: off² is the
    mean over them of (distance/standard error)². Of the standard deviation, the root mean square over the circle. Both
    after 1/25 of the steps ("early") and after all of them.
    """
    gamma = torch.cat([torch.tensor([-2.4, -0.9, 0.4, 1.9]), torch.linspace(-math.pi, math.pi, 25)[:-1]])
    X, n = torch.stack([gamma.cos(), gamma.sin()], 1), 4
    Y = X[:n].prod(1)  # f*(x) = x₁ x₂, as in Section 6.1
    K, Theta = infinite_width(X.double(), depth=CIRCLE_DEPTH, beta=BETA)
    rate = 0.5 / float(torch.linalg.eigvalsh(Theta[:n, :n])[-1])
    values: dict[str, float | list[float]] = {"angle": gamma[n:].tolist()}
    widths = {"wide": wide, "n50": PAPERS_NARROW, "narrow": NARROW}
    models = {
        name: [ntk_mlp(2, m, CIRCLE_DEPTH, generator, beta=BETA) for _ in range(nets)] for name, m in widths.items()
    }
    done = 0
    for time, step in (("_early", max(1, steps // 25)), ("", steps)):
        law = trained_process(Theta[:n, :n], Theta[n:, :n], K[:n, :n], K[n:, :n], K[n:, n:], Y.double(), rate * step)
        variance, directions = torch.linalg.eigh(law.cov)
        variance, directions = variance.flip(0), directions.flip(1)
        r = int((variance.cumsum(0) < 0.99 * variance.sum()).sum()) + 1
        values |= {
            f"mean_limit{time}": law.mean.tolist(),
            f"sd_limit{time}": law.cov.diagonal().clamp(min=0).sqrt().tolist(),
            f"sd_circle_limit{time}": float(variance.mean().sqrt()),
        }
        for name, ensemble in models.items():
            descend(ensemble, X[:n], Y, rate, step - done)
            f = outputs(ensemble, X[n:]).double()
            off = (directions[:, :r].mT @ (f.mean(0) - law.mean)).square() / (variance[:r] / nets)
            values |= {
                f"mean_{name}{time}": f.mean(0).tolist(),
                f"sd_{name}{time}": f.std(0).tolist(),
                f"mean_off_{name}{time}": float(off.mean().sqrt()),
                f"sd_circle_{name}{time}": float(f.var(0).mean().sqrt()),
            }
        done = step
    return values


def mnist_eigenvalues(batch: int, seed: int) -> Values:
    """First eigenvalues of Π (Section 5) on a batch of MNIST, in the paper's own parametrisation, 4 hidden layers.

    The paper has no √2 at a ReLU, 1/√n₀ at the input and β at every layer: Σ¹ = x·x'/n₀ + β², Σ = E[σσ] + β².
    The text does not give the depth; it is the one of 1 to 5 hidden layers whose second eigenvalue is nearest.
    """
    X = load("mnist5k", n_train=batch, n_test=1, seed=seed).X_train.double()
    Sigma = X @ X.mT / X.shape[1] + BETA**2
    Theta = Sigma
    values: dict[str, float | list[float]] = {"hidden_layers": [1.0, 2.0, 3.0, 4.0, 5.0], "second_eigenvalue": []}
    for h in (1, 2, 3, 4, 5):
        sd = Sigma.diagonal().sqrt()
        size = sd[:, None] * sd
        c = Sigma / size
        Sigma = size * kappa1(c) / 2 + BETA**2
        Theta = Theta * kappa0(c) / 2 + Sigma
        lam = torch.linalg.eigvalsh(Theta).flip(0) / batch
        values["second_eigenvalue"].append(float(lam[1]))  # type: ignore[union-attr]
        if h == 4:
            values |= {f"mnist_eigenvalue_{i + 1}": float(lam[i]) for i in range(3)}
    return values


def measure(seed: int, scale: str) -> Values:
    """Kernels at initialisation, in training, their principal components, and ensembles on the circle."""
    setting = SETTINGS[scale]
    generator = torch.Generator().manual_seed(seed)
    curves = first_kernels(setting.first, setting.draws, seed, generator)
    for name, activation, goal in (
        ("", "relu", "labels"),
        ("_erf", "erf", "labels"),
        ("_rich", "relu", "rich"),
        ("_component", "relu", "component"),
    ):
        curves |= trained(name, activation, goal, setting.trained, setting.draws, setting.steps, seed, generator)
    ends = {
        f"{key}_{end}": curves[f"{key}_component"][i]
        for key in ("inflation", "half_life")
        for end, i in (("narrowest", 0), ("widest", -1))
    }
    return {
        **curves,
        **ends,
        **principal_components(setting.wide, 2 * setting.draws, 2 * setting.steps, seed, generator),
        **circle(setting.nets, setting.wide, setting.steps, generator),
        **mnist_eigenvalues(setting.batch, seed),
    }


if __name__ == "__main__":
    main(measure)
