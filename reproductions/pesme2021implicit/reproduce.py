"""Pesme, Pillaud-Vivien & Flammarion 2021: on a diagonal linear network, SGD's noise chooses a sparser solution."""

from typing import Any, NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor

from phenomena.diagonal_networks import Descent, Network, descend, effective_alpha, initialise, minimise_entropy
from phenomena.program import Values, main


class Setting(NamedTuple):
    """n samples in d dimensions, s ones in β*; times are γ times a number of steps."""

    n: int
    d: int
    s: int
    draws: int  # runs of SGD on a seed's data set
    many: int  # runs for the rank correlation
    time: float  # at most, until the loss is below TOL
    settle: float  # the same where less is asked for, as after moved labels
    noisy: float  # with moved labels
    lazy: float  # from α = 1
    steps: int  # after which a run counts as finite


SETTINGS = {
    "smoke": Setting(n=20, d=40, s=3, draws=2, many=4, time=6, settle=6, noisy=3, lazy=1, steps=200),
    "laptop": Setting(n=40, d=100, s=5, draws=8, many=256, time=1000, settle=300, noisy=100, lazy=60, steps=2000),
    "paper": Setting(n=40, d=100, s=5, draws=20, many=1000, time=3000, settle=1000, noisy=300, lazy=60, steps=10_000),
}
ALPHA = 0.1
EARLY = 20.0  # the time in which the loss falls
GAMMA = [0.01, 0.02, 0.04, 0.06, 0.08]  # step sizes
DELTA = [0.0, 0.5, 1.0, 2.0]  # standard deviations of the moved labels
EXPLORED = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]  # the explorer's step sizes
TRIED = [0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.5, 1.0, 1.2, 1.5, 2.0, 3.0, 10.0]  # until runs diverge
LARGE = [0.1, 0.3, 0.5, 0.7, 0.9, 1.1]  # gradient descent's step sizes up to its edge of stability and beyond
LAZY_GAMMA = [0.002, 0.004]  # α = 1 allows no more
TOL = 1e-12  # of the loss, where runs end earlier
Floats = dict[str, Any]  # numbers and curves by key


class Problem:
    """Data of one seed: X (n, d) standard normal, y = X β*, and the solution of gradient flow from α = 0.1."""

    def __init__(self, setting: Setting, beta: Tensor, generator: torch.Generator) -> None:
        self.X = torch.randn(setting.n, setting.d, generator=generator, dtype=torch.float64)
        self.beta, self.y = beta, self.X @ beta
        self.flow = minimise_entropy(self.X, self.y, ALPHA)

    def error(self, beta: Tensor) -> Tensor:
        """|β - β*|² of β (..., d); the loss on fresh samples is a quarter of it."""
        return (beta - self.beta).square().sum(-1)

    def minimisers(self, alpha: Tensor) -> Tensor:
        """Gradient flow's solutions (R, d) from the initialisations alpha (R, d)."""
        return torch.stack([minimise_entropy(self.X, self.y, a) for a in alpha])

    def left(self, beta: Tensor, alpha: Tensor) -> Tensor:
        """|β - argmin φ_α| / |β - argmin φ_0.1|, (R,): what the initialisations alpha (R, d) leave of that distance."""
        return (beta - self.minimisers(alpha)).norm(dim=1) / (beta - self.flow).norm(dim=1)

    def run(self, gamma: float, time: float, start: Network, **how: Any) -> Descent:
        """Runs at one step size for `time`; the loss is taken at each step while it falls, then at each tenth."""
        steps = round(time / gamma)
        early = min(steps, round(EARLY / gamma))
        a = descend(self.X, self.y, start, gamma, early, every=1, **how)
        b = descend(self.X, self.y, a.network, gamma, steps - early, every=10, **how)
        return b._replace(
            time=torch.cat([a.time, a.time[-1] + b.time[1:]]),
            loss=torch.cat([a.loss, b.loss[1:]]),
            log_alpha=torch.cat([a.log_alpha, b.log_alpha[1:]]),
            integral=a.integral + b.integral,
            decay=a.decay + b.decay,
        )


def name(gamma: float) -> str:
    """0.04 is written g040."""
    return f"g{round(1000 * gamma):03d}"


def step_sizes(p: Problem, setting: Setting, generator: torch.Generator) -> Floats:
    """SGD, gradient descent and isotropic noise over the step sizes; the solutions that α_∞ predicts for SGD."""
    R, d = setting.draws, setting.d
    values: Floats = {"gamma": GAMMA, "error_flow": float(p.error(p.flow))}
    curves: dict[str, list[float]] = {}

    def add(**means: Tensor) -> None:
        for key, value in means.items():
            curves.setdefault(key, []).append(float(value.mean()))

    paper_alpha: list[Tensor] = []
    for gamma in GAMMA:
        sgd = p.run(gamma, setting.time, initialise(ALPHA, R, d), generator=generator, noise="sample", tol=TOL)
        gd = p.run(gamma, setting.time, initialise(ALPHA, 1, d), tol=TOL)
        beta = sgd.network.beta
        predicted = effective_alpha(p.X, ALPHA, gamma, sgd.integral)
        paper_alpha.append(predicted)
        scalar = predicted.log().mean(1, keepdim=True).exp().expand(R, d)
        order = torch.stack([torch.randperm(d, generator=generator) for _ in range(R)])
        add(
            error_sgd=p.error(beta),
            error_gd=p.error(gd.network.beta),
            error_predicted=p.error(p.minimisers(predicted)),
            integral_sgd=sgd.integral,
            integral_gd=gd.integral,
            alpha_sgd=sgd.network.alpha.log().mean(1).exp(),
            alpha_predicted=predicted.log().mean(1).exp(),
            alpha_gd=gd.network.alpha.log().mean(1).exp(),
            ratio_paper=p.left(beta, predicted),
            ratio_scalar=p.left(beta, scalar),
            ratio_permuted=p.left(beta, predicted.gather(1, order)),
            ratio_other=p.left(beta, paper_alpha[0]),
            ratio_drawn=p.left(beta, ALPHA * torch.exp(-sgd.decay)),
            ratio_own=p.left(beta, sgd.network.alpha),
            loss_left=sgd.loss[-1].max(),
        )
    values |= curves
    for g in (0.01, 0.02, 0.04, 0.06, 0.08):
        for key in ("error_sgd", "error_gd"):
            values[f"{key}_{name(g)}"] = curves[key][GAMMA.index(g)]
    for g in (0.01, 0.08):
        values[f"error_predicted_{name(g)}"] = curves["error_predicted"][GAMMA.index(g)]
    for g in (0.04, 0.08):
        for key in ("alpha_sgd", "alpha_predicted", "alpha_gd"):
            values[f"{key}_{name(g)}"] = curves[key][GAMMA.index(g)]
    for key in ("ratio_paper", "ratio_other", "ratio_drawn", "ratio_scalar", "ratio_permuted"):
        values[f"{key}_g040"] = curves[key][GAMMA.index(0.04)]
    for who in ("sgd", "gd"):
        values |= gains(who, curves[f"error_{who}"], values["error_flow"])
    # the paper's own test: gradient descent, restarted from the α_∞ of the first run at γ = 0.04
    again = p.run(0.04, setting.time, initialise(paper_alpha[2][:1], 1, d), tol=TOL)
    values["restart_off"] = float((again.network.beta - p.minimisers(paper_alpha[2][:1])).norm())
    values["restart_moved"] = float((again.network.beta - p.flow).norm())
    errors, left = [], []
    for gamma in GAMMA[1:]:
        start = initialise(ALPHA, R // 2, d)
        run = p.run(gamma, setting.settle / 3, start, generator=generator, noise="isotropic", tol=TOL)
        errors.append(float(p.error(run.network.beta).mean()))
        left.append(float(run.loss[-1].max()))
    values |= gains("isotropic", errors, values["error_flow"])
    return values | {"error_isotropic": errors, "loss_left_isotropic": left}


def gains(who: str, errors: list[float], flow: float) -> Floats:
    """The least and the largest relative fall of |β - β*|² below gradient flow's, over the step sizes."""
    fall = [1 - error / flow for error in errors]
    return {f"gain_least_{who}": min(fall), f"gain_most_{who}": max(fall)}


def speed(p: Problem, setting: Setting, generator: torch.Generator) -> Floats:
    """Many runs of SGD at one step size: those with the larger ∫ L ds end nearer to β*."""
    R = setting.many
    run = p.run(0.04, setting.settle, initialise(ALPHA, R, setting.d), generator=generator, noise="sample", tol=TOL)
    error = p.error(run.network.beta)
    shuffled = run.integral[torch.randperm(R, generator=generator)]
    return {
        "many_integral": run.integral.tolist(),
        "many_error": error.tolist(),
        "rank_correlation": -float(spearmanr(run.integral, error)[0]),
        "rank_correlation_shuffled": -float(spearmanr(shuffled, error)[0]),
    }


def other_problems(p: Problem, setting: Setting, generator: torch.Generator) -> Floats:
    """The same with a dense β* of the same length, and from α = 1, far in the kernel regime."""
    R, d = setting.draws, setting.d
    beta = torch.randn(d, generator=generator, dtype=torch.float64)
    dense = Problem(setting, beta * p.beta.norm() / beta.norm(), generator)
    errors = []
    for gamma in GAMMA:
        start = initialise(ALPHA, R, d)
        run = dense.run(gamma, setting.settle, start, generator=generator, noise="sample", tol=TOL)
        errors.append(float(dense.error(run.network.beta).mean()))
    values: Floats = {"error_dense": errors, "error_flow_dense": float(dense.error(dense.flow))}
    values |= gains("dense", errors, float(dense.error(dense.flow)))
    lazy = []
    for gamma in LAZY_GAMMA:
        run = p.run(gamma, setting.lazy, initialise(1.0, R, d), generator=generator, noise="sample", tol=TOL)
        lazy.append(float(p.error(run.network.beta).mean()))
    return values | gains("lazy", lazy, float(p.error(minimise_entropy(p.X, p.y, 1.0))))


def label_noise(p: Problem, setting: Setting, generator: torch.Generator) -> Floats:
    """Labels moved afresh at each step for a while, then not: errors and solutions over step size and δ."""
    R, d, noisy = setting.draws, setting.d, setting.noisy
    delta = torch.tensor(DELTA, dtype=torch.float64).repeat_interleave(R)
    values: Floats = {"delta": DELTA, "gamma_explored": EXPLORED}
    values |= {"beta_star": p.beta.tolist(), "beta_gd": p.flow.tolist()}
    errors: list[list[float]] = []
    left: list[list[float]] = []
    for i, gamma in enumerate(EXPLORED):
        first = p.run(gamma, noisy, initialise(ALPHA, 4 * R, d), generator=generator, noise="sample", delta=delta)
        then = p.run(gamma, setting.settle, first.network, generator=generator, noise="sample", tol=TOL)
        beta = then.network.beta
        errors.append(p.error(beta).reshape(4, R).mean(1).tolist())
        left.append(then.loss[-1].reshape(4, R).max(1).values.tolist())
        values |= {f"beta_g{i}_d{j}": beta[j * R].tolist() for j in range(4)}
        if gamma == 0.02:
            values |= moved_labels(p, setting, first, then, delta)
    for j in range(4):
        values[f"error_d{j}"] = [row[j] for row in errors]
        values[f"loss_left_d{j}"] = [row[j] for row in left]
        values[f"error_g020_d{j}"] = errors[EXPLORED.index(0.02)][j]
    return values | fixed_labels(p, setting, generator)


def moved_labels(p: Problem, setting: Setting, first: Descent, then: Descent, delta: Tensor) -> Floats:
    """At γ = 0.02: how fast log α falls after the loss, its trajectory, the solution that α_∞ predicts (δ = 1)."""
    R, noisy = setting.draws, setting.noisy
    late = int(torch.searchsorted(first.time[:, 0].contiguous(), noisy / 4))
    span = first.time[-1] - first.time[late]
    rate = -(first.log_alpha[-1] - first.log_alpha[late]) / span
    # -d/dt mean_j log α_j = γ/2 (4 L + δ²) mean_j (XᵀX/n)_jj
    seen = 4 * first.loss[late:-1].mean(0) + delta**2
    theory = 0.02 / 2 * seen * (p.X**2).mean()
    alpha = effective_alpha(p.X, ALPHA, 0.02, first.integral + then.integral, delta**2 * noisy)
    at = slice(2 * R, 3 * R)
    beta = then.network.beta[at]
    silent = effective_alpha(p.X, ALPHA, 0.02, first.integral + then.integral)
    drawn = ALPHA * torch.exp(-first.decay - then.decay)
    shown = torch.searchsorted(first.time[:, 0].contiguous(), torch.linspace(0, noisy - 0.2, 61).double())
    values: Floats = {
        "rate_d1": float(rate[at].mean()),
        "rate_theory_d1": float(theory[at].mean()),
        "rate_none": float(rate[:R].mean()),
        "ratio_paper_d1": float(p.left(beta, alpha[at]).mean()),
        "ratio_silent_d1": float(p.left(beta, silent[at]).mean()),
        "ratio_drawn_d1": float(p.left(beta, drawn[at]).mean()),
        "trajectory_time": first.time[shown, 0].tolist(),
    }
    for j in range(4):
        runs = slice(j * R, (j + 1) * R)
        values[f"trajectory_loss_d{j}"] = first.loss[shown, runs].mean(1).tolist()
        values[f"trajectory_alpha_d{j}"] = first.log_alpha[shown, runs].mean(1).exp().tolist()
    gd = p.run(0.02, noisy, initialise(ALPHA, 1, setting.d))
    values["trajectory_loss_gd"] = gd.loss[shown, 0].tolist()
    values["trajectory_alpha_gd"] = gd.log_alpha[shown, 0].exp().tolist()
    return values


def fixed_labels(p: Problem, setting: Setting, generator: torch.Generator) -> Floats:
    """Each label moved once and for all by a normal number of the same size: no longer noise, but another problem."""
    values: Floats = {}
    move = torch.randn(setting.n, generator=generator, dtype=torch.float64)
    for j, delta in enumerate(DELTA):
        start = initialise(ALPHA, setting.draws // 2, setting.d)
        steps = round(setting.settle / 0.02)
        run = descend(p.X, p.y + delta * move, start, 0.02, steps, generator, noise="sample", every=10, tol=TOL)
        values[f"error_fixed_d{j}"] = float(p.error(run.network.beta).mean())
    return values


def divergence(p: Problem, setting: Setting, generator: torch.Generator) -> Floats:
    """The share of runs that are finite after some thousand steps, and the first step size where half are not."""
    R = 2 * setting.draws
    gamma = torch.tensor(TRIED, dtype=torch.float64)
    values: Floats = {"gamma_tried": TRIED}
    start = initialise(ALPHA, R * len(TRIED), setting.d)
    how: dict[str, Any] = {"every": 100, "keep_diverged": True}
    for who, delta in (("sgd", 0.0), ("labels", 1.0)):
        run = descend(
            p.X, p.y, start, gamma.repeat_interleave(R), setting.steps, generator, noise="sample", delta=delta, **how
        )
        values[f"finite_{who}"] = run.finite.double().reshape(-1, R).mean(1).tolist()
    gd = descend(p.X, p.y, initialise(ALPHA, len(TRIED), setting.d), gamma, setting.steps, **how)
    values["finite_gd"] = gd.finite.double().tolist()
    for who in ("sgd", "labels", "gd"):
        share = values[f"finite_{who}"]
        values[f"diverges_{who}"] = next(g for g, finite in zip(TRIED, share, strict=True) if finite <= 0.5)
    large = torch.tensor(LARGE, dtype=torch.float64)
    gd = descend(p.X, p.y, initialise(ALPHA, len(LARGE), setting.d), large, setting.steps, every=100)
    values |= {"gamma_large": LARGE, "error_gd_large": p.error(gd.network.beta).tolist()}
    for i in (0, 2, 4, 5):
        values[f"error_gd_{name(LARGE[i])}"] = values["error_gd_large"][i]
    return values


def measure(seed: int, scale: str) -> Values:
    """All claims' numbers for one seed: its data set, and its draws of samples."""
    setting = SETTINGS[scale]
    generator = torch.Generator().manual_seed(seed)
    beta = torch.zeros(setting.d, dtype=torch.float64)
    beta[: setting.s] = 1.0
    p = Problem(setting, beta, generator)
    return {
        **step_sizes(p, setting, generator),
        **speed(p, setting, generator),
        **other_problems(p, setting, generator),
        **label_noise(p, setting, generator),
        **divergence(p, setting, generator),
    }


if __name__ == "__main__":
    main(measure)
