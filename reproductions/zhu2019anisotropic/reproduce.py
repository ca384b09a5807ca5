"""Zhu, Wu, Yu, Wu & Ma 2019: the noise of SGD points along the loss's curvature, and so escapes from sharp minima."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from phenomena.curvature import Eigenpairs, gauss_newton, hessian, top_eigenpairs
from phenomena.data import load, with_label_noise
from phenomena.errors import Diverged
from phenomena.gradient_noise import (
    alignment,
    curvatures,
    escape_indicator,
    gaussian_noise,
    noise_covariance,
    per_sample_gradients,
)
from phenomena.networks import mlp
from phenomena.program import Values, main
from phenomena.training import Loss, cross_entropy, error_rate, squared_loss, train


class Alignments(NamedTuple):
    """C and H of a small network along SGD, both dense."""

    n: int
    width: int
    steps: list[int]  # where the matrices are taken; training ends at the last
    rate: float = 0.1
    batch: int = 20


class Escape(NamedTuple):
    """GD to a sharp region, then other dynamics from there."""

    n: int
    width: int
    rate: float
    batch: int
    gd_steps: int
    steps: int
    records: int  # of each dynamics, equally spaced
    every: int  # steps between two evaluations of the noise's covariance
    cooling: int  # steps of GD after the noise
    dynamics: tuple[str, ...] = ("gd", "sgd", "gaussian", "isotropic", "turned", "diagonal")


class Setting(NamedTuple):
    """How much one seed computes; None leaves a part out."""

    alignments: Alignments | None
    escape: Escape
    chains: int  # of the loss's first rise
    toy_runs: int
    fashion: bool = False  # the authors' images and network in place of the digits


SETTINGS = {
    "smoke": Setting(Alignments(40, 3, [0, 10]), Escape(40, 3, 0.1, 5, 20, 20, 2, 10, 5), chains=4, toy_runs=2),
    "laptop": Setting(
        Alignments(500, 10, [0, 30, 100, 300, 1000, 3000]),
        Escape(300, 12, 0.1, 5, 3000, 2000, 20, 10, 300),
        chains=64,
        toy_runs=100,
    ),
    "paper": Setting(
        None,  # H and C of 11,330 parameters are not made, nor is a rotation
        Escape(1200, 0, 0.07, 20, 3000, 12_000, 48, 10, 1000, ("gd", "sgd", "gaussian", "isotropic", "diagonal")),
        chains=0,
        toy_runs=100,
        fashion=True,
    ),
}
WRONG = 0.2  # of the labels in the escape's training set
RISE_RATE, RISE_STEPS = 0.01, (1, 2, 5, 10, 20, 50)
DELTA = 0.01  # standard deviation of the parameters' perturbation in the expected sharpness, the paper's
TOY_RATE, TOY_STEPS, TOY_TRACE, TOY_DATA = 0.005, 500, 0.01, 100  # the authors' program's


class Task(NamedTuple):
    """A network, what it learns and what it is tested on."""

    model: nn.Module
    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's."""
        return list(self.model.parameters())

    @property
    def theta(self) -> Tensor:
        """A copy of the parameters, flat (p,)."""
        return parameters_to_vector(self.parameters).detach().clone()

    def move_to(self, theta: Tensor) -> None:
        """Set the parameters to theta (p,)."""
        vector_to_parameters(theta.clone(), self.parameters)


# The alignment of C and H along training


def digits(n: int, width: int, seed: int, wrong: float = 0.0) -> Task:
    """A GELU network of one hidden layer on n digits of 8 x 8, a share `wrong` of the training labels wrong."""
    data = load("digits", n_train=n, n_test=500, seed=seed)
    model = mlp((64, width, 10), torch.Generator().manual_seed(seed), nn.GELU)
    y = with_label_noise(data.y_train, wrong, 10, seed)
    return Task(model, data.X_train, y, data.X_test, data.y_test)


def turned(C: Tensor, generator: torch.Generator) -> Tensor:
    """Q C Qᵀ with a random rotation Q: the eigenvalues of C, in directions that know nothing of the loss."""
    Q = torch.linalg.qr(torch.randn(C.shape, generator=generator, dtype=C.dtype))[0]
    return Q @ C @ Q.mT


def model_second_moment(task: Task) -> Tensor:
    """1/n Σ_i E g_i g_iᵀ over labels drawn from the model's own softmax, exactly: each label with its probability."""
    probabilities = task.model(task.X).detach().softmax(1)
    total = torch.zeros(0)
    for label in range(10):
        G = per_sample_gradients(task.model, task.X, torch.full_like(task.y, label), cross_entropy)
        M = (G * probabilities[:, label, None]).mT @ G / len(G)
        total = M if label == 0 else total + M
    return total


def along_training(task: Task, loss: Loss, setting: Alignments, seed: int, name: str) -> Values:
    """The alignment of C with H, and with the Gauss-Newton part G of H, at each of setting.steps of an SGD run."""
    generator = torch.Generator().manual_seed(seed + 1)
    plain = name == ""  # cross-entropy on the true labels: with all the controls

    def record(step: int, model: nn.Module) -> dict[str, float]:
        gradients = per_sample_gradients(model, task.X, task.y, loss)
        H = hessian(model, task.X, task.y, loss).dense()
        G = gauss_newton(model, task.X, task.y, loss).dense()
        C = noise_covariance(gradients, 1, replacement=True)
        found = alignment(C, H)
        # the top eigenvectors of C by its Gram matrix: right singular vectors of the centred gradients
        noisy = torch.linalg.svd(gradients - gradients.mean(0), full_matrices=False).Vh[:5].mT
        f = model(task.X).detach()
        numbers = {
            "train_loss": float(loss(f, task.y)),
            "train_accuracy": float((f.argmax(1) == task.y).double().mean()),
            "cosine": found.cosine,
            "ratio": found.ratio,
            "leading": found.leading,
            "cosine_gauss_newton": float((C * G).sum() / (C.norm() * G.norm())),
            "network_curvature": float((H - G).norm() / H.norm()),
            # how much of the second moment 1/n Σ g_i g_iᵀ is g gᵀ, which C leaves out
            "mean_share": float(gradients.mean(0).square().sum() / gradients.square().sum(1).mean()),
            "trace_ratio": float(C.trace() / H.trace()),
            "curvature_along_noise": float(curvatures(H, noisy).mean() * len(H) / H.trace()),
        }
        if plain:
            control = alignment(turned(C, generator), H)
            M, second = model_second_moment(task), gradients.mT @ gradients / len(gradients)
            values = torch.linalg.eigvalsh(H)
            numbers |= {
                "cosine_turned": control.cosine,
                "ratio_turned": control.ratio,
                "leading_turned": control.leading,
                "fisher_gap": float((M - G).norm() / G.norm()),
                "fisher_gap_true_labels": float((second - G).norm() / G.norm()),
                # the paper's first condition: all but a few eigenvalues below λ_1 / √p
                "large_eigenvalues": float((values > values[-1] / len(H) ** 0.5).double().mean()),
            }
        return numbers

    optimizer = torch.optim.SGD(task.parameters, lr=setting.rate)
    steps = setting.steps
    columns = train(
        task.model, task.X, task.y, loss, optimizer, steps[-1], setting.batch, generator, record=record, record_at=steps
    ).recorded
    del columns["step"]
    return {f"{key}{name}": column for key, column in columns.items()}


def alignments(setting: Alignments, seed: int) -> Values:
    """Curves over `steps` with cross-entropy, with the squared loss (_squared) and on random labels (_random)."""
    generator = torch.Generator().manual_seed(seed + 2)
    task = digits(setting.n, setting.width, seed)
    values = {"steps": [float(step) for step in setting.steps]}
    values |= along_training(task, cross_entropy, setting, seed, "")  # type: ignore[arg-type]
    task = digits(setting.n, setting.width, seed)
    values |= along_training(task, squared_loss, setting, seed, "_squared")  # type: ignore[arg-type]
    task = digits(setting.n, setting.width, seed)
    task = task._replace(y=torch.randint(10, task.y.shape, generator=generator))
    values |= along_training(task, cross_entropy, setting, seed, "_random")  # type: ignore[arg-type]
    middle = values["steps"].index(1000.0) if 1000.0 in values["steps"] else -1
    summary: dict[str, float] = {"fisher_gap_most": max(values["fisher_gap"])}
    for key in ("cosine", "cosine_gauss_newton", "cosine_squared", "cosine_random", "cosine_turned"):
        summary |= {f"{key}_start": values[key][0], f"{key}_middle": values[key][middle], f"{key}_end": values[key][-1]}
    for key in ("trace_ratio", "trace_ratio_random", "fisher_gap_true_labels"):
        summary[f"{key}_end"] = values[key][-1]
    for key in ("ratio", "ratio_turned", "leading", "leading_turned", "ratio_squared", "ratio_random"):
        summary[f"{key}_least"] = min(values[key])
    summary["large_eigenvalues_most"] = max(values["large_eigenvalues"])
    return values | summary


# Escaping from a sharp region


def fashion(setting: Escape, seed: int, device: str) -> Task:
    """The authors' task: 1,000 FashionMNIST images and 200 more with random labels; their CNN of 11,330 parameters."""
    data = load("fashion_mnist", n_train=setting.n, seed=seed, download=True)
    generator = torch.Generator().manual_seed(seed)
    y = data.y_train.clone()
    y[1000:1200] = torch.randint(10, y[1000:1200].shape, generator=generator)
    layers = [nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(10, 10, 5), nn.MaxPool2d(2), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(160, 50), nn.ReLU(), nn.Linear(50, 10)]
    model = nn.Sequential(*layers)
    for W in model.parameters():
        nn.init.trunc_normal_(W, std=0.02, a=-0.04, b=0.04, generator=generator)
    X, X_test = (A.view(-1, 1, 28, 28).to(device) for A in (data.X_train, data.X_test))
    return Task(model.to(device), X, y.to(device), X_test, data.y_test.to(device))


def noises(kind: str, task: Task, setting: Escape, generator: torch.Generator) -> Iterator[Tensor]:
    """The noise ξ_t (p,) of each step's gradient, all but "gd" with the trace of SGD's covariance C/B.

    "gaussian": covariance C/B; "isotropic": Tr(C)/(pB) I (the paper's GLD dynamic); "diagonal": that of C/B;
    "turned": C/B in random directions. C is that of the present parameters, evaluated anew every `every` steps.
    """
    p, device = len(task.theta), task.X.device
    Q = torch.linalg.qr(torch.randn(p, p, generator=generator))[0] if kind == "turned" else None
    G = torch.zeros(0)
    for step in range(setting.steps):
        if kind == "gd":
            yield torch.zeros(p, device=device)
            continue
        if step % setting.every == 0:
            G = per_sample_gradients(task.model, task.X, task.y, cross_entropy, chunk=600).cpu()
            variances = G.var(0, correction=0) / setting.batch
        if kind in ("gaussian", "turned"):
            xi = gaussian_noise(G, setting.batch, generator, replacement=True)
            xi = xi if Q is None else Q @ xi
        else:
            variance = variances.mean() if kind == "isotropic" else variances
            xi = variance.sqrt() * torch.randn(p, generator=generator)
        yield xi.to(device)


def sharpness(task: Task, generator: torch.Generator, draws: int = 20) -> float:
    """E L(θ + ν) - L(θ), ν ~ N(0, δ² I), δ = 0.01: δ²/2 Tr(H) to second order; pairs ±ν cancel the odd terms."""
    theta, rises = task.theta, []
    with torch.no_grad():
        here = cross_entropy(task.model(task.X), task.y).double()
        for _ in range(draws):
            nu = DELTA * torch.randn(len(theta), generator=generator).to(theta.device)
            for moved in (theta + nu, theta - nu):
                task.move_to(moved)
                rises.append(cross_entropy(task.model(task.X), task.y).double() - here)
    task.move_to(theta)
    return float(torch.stack(rises).mean())


class Recorder:
    """What is recorded of each dynamics; it starts the eigensolver from the last eigenvector."""

    def __init__(self, task: Task, seed: int):
        self.task, self.seed = task, seed
        self.last: Eigenpairs | None = None
        self.columns: dict[str, list[float]] = {}

    def __call__(self) -> None:
        """Record the task at its present parameters."""
        model, X, y = self.task.model, self.task.X, self.task.y
        start, draws = (torch.Generator().manual_seed(self.seed + k) for k in (6, 7))  # the same draws at every record
        H = hessian(model, X, y, cross_entropy)
        self.last = top_eigenpairs(H, 2, start, start=self.last, tol=1e-2)
        with torch.no_grad():
            loss = float(cross_entropy(model(X), y))
        if not math.isfinite(loss):
            raise Diverged("the loss is not finite after the switch")
        for key, value in {
            "loss": loss,
            "top_eigenvalue": float(self.last.values[0]),
            "sharpness": sharpness(self.task, draws),
            "test_accuracy": 1 - error_rate(model, self.task.X_test, self.task.y_test),
        }.items():
            self.columns.setdefault(key, []).append(value)


def run_dynamics(kind: str, task: Task, start: Tensor, setting: Escape, seed: int) -> dict[str, list[float]]:
    """Columns over the records of one dynamics from `start`: θ ← θ - η (∇L + ξ), or SGD with replacement.

    The last entry of each is that after the cooling: some steps of GD that take the noise's own loss away.
    """
    task.move_to(start)
    generator = torch.Generator().manual_seed(seed + 3)
    record = Recorder(task, seed)
    record()
    spacing, n = setting.steps // setting.records, len(task.X)
    batch = slice(None)
    for step, xi in enumerate(noises("gd" if kind == "sgd" else kind, task, setting, generator), 1):
        if kind == "sgd":
            batch = torch.randint(n, (setting.batch,), generator=generator)  # type: ignore[assignment]
        value = cross_entropy(task.model(task.X[batch]), task.y[batch])
        g = parameters_to_vector(torch.autograd.grad(value, task.parameters))
        task.move_to(task.theta - setting.rate * (g + xi))
        if step % spacing == 0:
            record()
    optimizer = torch.optim.SGD(task.parameters, lr=setting.rate)
    train(task.model, task.X, task.y, cross_entropy, optimizer, setting.cooling, label=f"cooling after {kind}")
    record()
    return record.columns


def escapes(task: Task, setting: Escape, seed: int) -> Values:
    """Curves over `escape_steps` after the switch, by dynamics, means of the last third (_end), and after cooling."""
    record, at = Recorder(task, seed), [setting.gd_steps * i // 5 for i in range(6)]

    def recorded(step: int, model: nn.Module) -> dict[str, float]:
        record()
        return {}

    optimizer = torch.optim.SGD(task.parameters, lr=setting.rate)
    train(task.model, task.X, task.y, cross_entropy, optimizer, setting.gd_steps, record=recorded, record_at=at)
    start = task.theta
    values: dict[str, float | list[float]] = {f"{key}_before": column for key, column in record.columns.items()}
    values["before_steps"] = [float(step - setting.gd_steps) for step in at]
    spacing = setting.steps // setting.records
    values["escape_steps"] = [float(spacing * i) for i in range(setting.records + 1)]
    G = per_sample_gradients(task.model, task.X, task.y, cross_entropy, chunk=600)
    values["indicator_start"] = float(escape_indicator(hessian(task.model, task.X, task.y, cross_entropy), G))
    for kind in setting.dynamics:
        columns = run_dynamics(kind, task, start, setting, seed)
        values |= {f"{key}_{kind}_cooled": column.pop() for key, column in columns.items()}
        values |= {f"{key}_{kind}": column for key, column in columns.items()}
        last = max(1, setting.records // 3)
        values |= {f"{key}_{kind}_end": sum(column[-last:]) / last for key, column in columns.items()}
    task.move_to(start)
    return values


# The loss's first rise at the start of the escape


def rises(task: Task, setting: Escape, chains: int, seed: int) -> Values:
    """E L_k - L_k of GD after k steps of rate 0.01 from the end of GD, over `chains`, against its theory.

    To second order in the noise, with H and Σ = C/B fixed: ½ Tr(H S_k), S_k = Σ_{j<k} (I - ηH)^j η²Σ (I - ηH)^j. In
    continuous time, t = ηk, it is η/4 Tr((I - e^(-2Ht)) Σ); for small t the paper's escaping efficiency, t/2 Tr(H ηΣ).
    """
    generator, eta, B, n = torch.Generator().manual_seed(seed + 4), RISE_RATE, setting.batch, len(task.X)
    X, y, start = task.X, task.y, task.theta
    shapes = {name: W.shape for name, W in task.model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def loss_at(theta: Tensor, X: Tensor, y: Tensor) -> Tensor:
        weights = {name: w.view(shapes[name]) for name, w in zip(shapes, theta.split(sizes), strict=True)}
        return cross_entropy(functional_call(task.model, weights, (X,)), y)

    losses = vmap(loss_at, in_dims=(0, None, None))
    gradients = vmap(grad(loss_at), in_dims=(0, None, None))
    batch_gradients = vmap(grad(loss_at))
    G = per_sample_gradients(task.model, X, y, cross_entropy)
    H, C = hessian(task.model, X, y, cross_entropy).dense().double(), noise_covariance(G, B, replacement=True).double()
    isotropic = C.trace() / len(C)
    centred = (G - G.mean(0)) / (n * B) ** 0.5

    def step_sgd(theta: Tensor) -> Tensor:
        i = torch.randint(n, (chains, B), generator=generator)
        return batch_gradients(theta, X[i], y[i])

    def step_gaussian(theta: Tensor) -> Tensor:
        return gradients(theta, X, y) + torch.randn(chains, n, generator=generator) @ centred

    def step_isotropic(theta: Tensor) -> Tensor:
        return gradients(theta, X, y) + isotropic.sqrt().float() * torch.randn(theta.shape, generator=generator)

    Q = torch.linalg.qr(torch.randn(len(start), len(start), generator=generator))[0]

    def step_turned(theta: Tensor) -> Tensor:
        return gradients(theta, X, y) + torch.randn(chains, n, generator=generator) @ centred @ Q

    eigenvalues, V = torch.linalg.eigh(H)
    along = {"": (V * (C @ V)).sum(0), "_isotropic": isotropic.expand(len(C))}  # vᵀΣv of H's eigenvectors v
    k = torch.tensor([float(step) for step in RISE_STEPS], dtype=torch.float64)[:, None]
    values: dict[str, float | list[float]] = {"rise_steps": [float(step) for step in RISE_STEPS]}
    for name, s in along.items():
        S, theory = torch.zeros_like(eigenvalues), []
        for _ in range(RISE_STEPS[-1]):
            S = (1 - eta * eigenvalues) ** 2 * S + eta**2 * s
            theory.append(float((eigenvalues * S).sum() / 2))
        values[f"rise_theory{name}"] = [theory[step - 1] for step in RISE_STEPS]
        values[f"rise_continuous{name}"] = (-eta / 4 * torch.expm1(-2 * eta * k * eigenvalues) * s).sum(1).tolist()
        values[f"rise_first_order{name}"] = (eta**2 / 2 * k[:, 0] * (eigenvalues * s).sum()).tolist()
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "sgd": step_sgd, "gaussian": step_gaussian, "isotropic": step_isotropic, "turned": step_turned,
    }  # fmt: skip
    for name, gradient in steps.items():
        theta, quiet = start.repeat(chains, 1), start[None]
        curve = []
        for step in range(1, RISE_STEPS[-1] + 1):
            theta, quiet = theta - eta * gradient(theta), quiet - eta * gradients(quiet, X, y)
            if step in RISE_STEPS:
                curve.append(float((losses(theta, X, y) - losses(quiet, X, y)).double().mean()))
        values[f"rise_{name}"] = curve
    for name in ("sgd", "gaussian", "isotropic", "turned", "theory", "theory_isotropic", "first_order"):
        for step in (1, 20):
            values[f"rise_{name}_{step}"] = values[f"rise_{name}"][RISE_STEPS.index(step)]  # type: ignore[index]
    return values


# The toy: a sharp and a flat basin in the plane


def toy(kind: str, runs: int, generator: torch.Generator) -> list[float]:
    """Share of `runs` that are in the flat basin after each tenth of the steps; loss a mean over shifted copies.

    A sample x moves the basins min{100 (a - √2)² + 10 b², (a + √2)² + b²} by x; a runs from the sharp minimum (√2, 0)
    to the flat one (-√2, 0). (The authors' coordinates are turned by 45 degrees.) Each step adds noise of trace 0.01.
    """
    stiff, flat = torch.tensor([200.0, 20.0]).double(), torch.tensor([2.0, 2.0]).double()
    minimum = torch.tensor([2**0.5, 0.0]).double()
    x = torch.randn(runs, TOY_DATA, 2, generator=generator).double() * torch.tensor([0.01, 0.01 * 10**0.5])
    theta, shares = minimum.repeat(runs, 1), []
    for step in range(1, TOY_STEPS + 1):
        to_sharp, to_flat = theta[:, None] - x - minimum, theta[:, None] - x + minimum
        sharp = ((stiff * to_sharp**2).sum(-1) < (flat * to_flat**2).sum(-1))[..., None]
        G = torch.where(sharp, stiff * to_sharp, flat * to_flat)
        g, share = G.mean(1), sharp.double().mean(1)
        z = torch.randn(runs, 2, generator=generator).double()
        if kind == "gaussian":  # the covariance of the samples' gradients
            centred = G - g[:, None]
            xi = (torch.randn(runs, TOY_DATA, 1, generator=generator) * centred).sum(1)
            xi = xi / centred.square().sum((1, 2))[:, None].sqrt()
        elif kind == "hessian":  # diagonal here
            H = share * stiff + (1 - share) * flat
            xi = (H / H.sum(1, keepdim=True)).sqrt() * z
        elif kind == "isotropic":
            xi = z / 2**0.5
        else:
            xi = 0 * z
        theta = theta - TOY_RATE * g + TOY_TRACE**0.5 * xi
        if step % (TOY_STEPS // 10) == 0:
            shares.append(float((theta[:, 0] + theta[:, 1].abs() < -(0.5**0.5)).double().mean()))
    return shares


def toys(runs: int, seed: int) -> Values:
    """Curves of success over `toy_steps`, and the shares at the end."""
    values: dict[str, float | list[float]] = {"toy_steps": [TOY_STEPS / 10 * i for i in range(1, 11)]}
    for kind in ("gd", "gaussian", "hessian", "isotropic"):
        curve = toy(kind, runs, torch.Generator().manual_seed(seed + 5))
        values |= {f"toy_{kind}": curve, f"toy_{kind}_end": curve[-1]}
    return values


def measure(seed: int, scale: str) -> Values:
    """Alignment along training, escaping, the loss's first rise, the toy; at the paper's scale escaping and the toy."""
    setting = SETTINGS[scale]
    values = dict(toys(setting.toy_runs, seed))
    if setting.alignments:
        values |= alignments(setting.alignments, seed)
    if setting.fashion:
        task = fashion(setting.escape, seed, "cuda" if torch.cuda.is_available() else "cpu")
    else:
        task = digits(setting.escape.n, setting.escape.width, seed, WRONG)
    values |= escapes(task, setting.escape, seed)
    if setting.chains:
        values |= rises(task, setting.escape, setting.chains, seed)
    return values


if __name__ == "__main__":
    main(measure)
