"""Checks of the double-descent lab."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import Wrong, check, compare, of_kind


def _problems() -> Iterator[tuple[str, Tensor, Tensor]]:
    """X and y: wide, tall, one sample, one feature, without full rank, not contiguous, float32."""
    rng = torch.Generator().manual_seed(71)

    def draw(n: int, p: int) -> Tensor:
        return torch.randn(n, p, generator=rng, dtype=torch.float64)

    low, wide, near = draw(20, 3), draw(4, 9), draw(30, 4)
    near[:, 3] = near[:, 2] + 1e-4 * near[:, 3]
    problems = {
        "more features than samples": draw(7, 30),
        "more samples than features": draw(30, 7),
        "one sample": draw(1, 5),
        "one feature": draw(6, 1),
        "two equal features": torch.cat([low, low[:, :1]], dim=1),
        "two equal features, float32": torch.cat([low, low[:, :1]], dim=1).float(),
        "two features that differ by 1e-4": near,
        "features of size 1e-9": 1e-9 * draw(12, 5),
        "a repeated sample": torch.cat([wide, wide[:1]]),
        "not contiguous": draw(9, 12).T,
        "float32": draw(8, 20).float(),
    }
    for name, X in problems.items():
        # a target that the repeated sample and the nearly equal features can carry without huge weights
        y = X.sum(1) if "repeated" in name or "differ" in name else draw(len(X), 1)[:, 0].to(X)
        yield name, X, y


def _tolerance(X: Tensor) -> float:
    return 1e-3 if X.dtype == torch.float32 else 1e-6


@check("TODO 1 (min_norm)", "the smallest of all least-squares solutions. Next: the same from ridge, with λ → 0.")
def min_norm(answer: Callable[..., Tensor]) -> None:
    """The oracle is LAPACK's gelsd through numpy; some inputs have no full rank."""
    for name, X, y in _problems():
        got = of_kind(answer(X, y), X)
        cut = 1e-6 if X.dtype == torch.float32 else 1e-12
        want = np.linalg.lstsq(X.double().numpy(), y.double().numpy(), rcond=cut)[0]
        if got.shape == want.shape and got.norm() > 1e3 * np.linalg.norm(want):
            raise Wrong(
                f"huge values where the data lack full rank ({name}): a singular value that is zero up to rounding "
                "is to be left out, not divided by."
            )
        U, s, Vh = torch.linalg.svd(X, full_matrices=False)
        c = U.T @ y
        shrunk = [Vh.T @ (s / (s**2 + lam) * c) for k in range(1, 8) for lam in (10.0**-k, len(X) * 10.0**-k)]
        cuts = (0.1, 1e-3, 1e-10, 0.05 * float(s.max()), 1e-3 * float(s.max()))
        cut_off = [Vh[s > tau].T @ (c[s > tau] / s[s > tau]) for tau in cuts]
        mistakes = [
            (Vh.T @ (s * c), "multiplied by the singular values: a pseudo-inverse divides by them."),
            (Vh.T @ c, "the singular values are missing: a pseudo-inverse divides by them."),
            *((beta, "it leaves out too much: compare s with eps times the largest s.") for beta in cut_off),
            *((beta, "a ridge solution: minimum norm has no λ, only the s that are zero go.") for beta in shrunk),
        ]
        compare(got, want, mistakes, name, _tolerance(X))


@check("TODO 2 (ridge)", "as λ → 0 it becomes your min_norm. Next: what does the best λ do to the peak?")
def ridge(answer: Callable[..., Tensor]) -> None:
    """The oracle solves the normal equations (XᵀX/n + λI) β = Xᵀy/n, in float64."""
    for name, X, y in _problems():
        n, p = X.shape
        A, b = X.double().T @ X.double(), X.double().T @ y.double()
        for lam in (3.0, 0.1, 0.003):  # the mistakes differ most where λ is large

            def solve(penalty: float, A: Tensor = A, b: Tensor = b, p: int = p) -> Tensor:
                return torch.linalg.solve(A + penalty * torch.eye(p, dtype=torch.float64), b)

            mistakes = [
                (solve(n * lam) / n, "too small by a factor n: divide Xᵀy by n exactly when XᵀX is."),
                (solve(n * lam) * n, "too large by a factor n: divide Xᵀy by n exactly when XᵀX is."),
                (solve(lam), "λ is too weak by a factor n: the contract divides XᵀX by n, but not λ."),
                (solve(n * lam**2), "λ is squared: the penalty λ‖β‖² enters the solution as λ itself."),
                (solve((n * lam) ** 2), "λ is squared: the penalty λ‖β‖² enters the solution as λ itself."),
                (torch.linalg.pinv(X.double()) @ y.double(), "no shrinkage at all: where is λ?"),
            ]
            compare(of_kind(answer(X, y, lam), X), solve(n * lam), mistakes, f"{name}, λ = {lam}", _tolerance(X))


@check("TODO 3 (feature_errors)", "one number a width, all on test data. Next: where is the peak, and why there?")
def feature_errors(answer: Callable[..., object]) -> None:
    """The oracle loops over widths with numpy's lstsq on the same draws of random features.

    Two widths stand at the threshold, where anything but minimum norm shows, and some features are always 0.
    """
    rng = torch.Generator().manual_seed(5)
    centres = 2 + torch.randn(3, 6, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 3, (90,), generator=rng)
    X = centres[y] + 1.2 * torch.randn(90, 6, generator=rng, dtype=torch.float64)
    train, test, widths = slice(0, 40), slice(40, 90), [8, 40, 44, 80]

    def errors(
        fit: slice = train, count: slice = test, second_draw: bool = False, floor: float = 0.0, cut: float = 1e-12
    ) -> np.ndarray:
        generator = torch.Generator().manual_seed(11)
        out = []
        for p in widths:
            W = V = torch.randn(6, p, generator=generator, dtype=torch.float64) / 6**0.5
            if second_draw:
                V = torch.randn(6, p, generator=generator, dtype=torch.float64) / 6**0.5
            phi, phi_count = np.maximum((X[fit] @ W).numpy(), floor), np.maximum((X[count] @ V).numpy(), floor)
            B = np.linalg.lstsq(phi, np.eye(3)[y[fit].numpy()], rcond=cut)[0]
            out.append(((phi_count @ B).argmax(1) != y[count].numpy()).mean())
        return np.array(out)

    want = errors()
    mistakes = [
        (errors(count=train), "these are training errors: fit on the training set, count on the test set."),
        (errors(fit=test, count=train), "train and test are swapped: the fit must not see the test set."),
        (errors(second_draw=True), "the test features come from a second draw of W: one draw serves both sets."),
        (errors(floor=-np.inf), "the features are linear: where is the ReLU?"),
        (errors(cut=1e-3), "small singular values are left out: at the threshold they are what matters."),
        (1 - want, "these are accuracies: the error is one minus that."),
        (100 * want, "these are percents: the contract says a fraction in [0, 1]."),
        (np.trunc(want), "the errors are truncated to whole numbers: is the array one of integers?"),
        (want * len(y[test]), "these are counts: divide by the number of test samples."),
    ]
    generator = torch.Generator().manual_seed(11)
    before = generator.get_state()
    got = answer(X[train], y[train], X[test], y[test], widths, generator)
    if torch.equal(before, generator.get_state()):
        raise Wrong("it draws nothing from the generator that it is given: a seed would decide nothing.")
    compare(got, want, mistakes)


@check("TODO 4 (descent_risk)", "each feature is one bias-variance trade-off with its own clock, η s². Next: plot it.")
def descent_risk(answer: Callable[..., object]) -> None:
    """The oracle runs the recursion of every coordinate's mean and noise step by step."""
    rng = np.random.default_rng(3)
    for d, n, sigma2 in ((4, 50, 0.3), (1, 5, 1.5), (3, 7, 4.0)):
        s, theta, eta = rng.uniform(0.2, 0.9, d), rng.normal(size=d), rng.uniform(0.1, 0.9, d)
        k = np.array([0, 1, 2, 7, 40])
        bias, gain, path = theta, np.zeros(d), []
        for _ in range(k.max() + 1):
            path.append((s**2 * bias**2).sum() + sigma2 / n * (gain**2).sum())
            bias, gain = bias - eta * s**2 * bias, gain + eta * s**2 * (1 - gain)
        q, slow = (1 - eta * s**2) ** k[:, None], (1 - eta * s) ** k[:, None]
        B, V = (s**2 * theta**2 * q**2).sum(1), sigma2 / n * ((1 - q) ** 2).sum(1)
        mistakes = [
            (B, "only the bias is there: where does the noise go?"),
            ((s**2 * theta**2 * q).sum(1) + V, "the bias shrinks too slowly: risk is squared, so the power is 2k."),
            (B + sigma2 / n * (1 - q).sum(1), "the variance term is not squared."),
            ((theta**2 * q**2).sum(1) + V, "the bias lacks the feature's scale: an error of θ_i costs s_i² of it."),
            (B + n * V, "the noise is not averaged over the n samples."),
            (B + sigma2 * V, "σ is squared twice: the argument is σ² already."),
            (
                (s**2 * theta**2 * slow**2).sum(1) + sigma2 / n * ((1 - slow) ** 2).sum(1),
                "the pace is wrong: the gradient of feature i carries s_i², not s_i.",
            ),
        ]
        got = of_kind(answer(k, s, theta, eta, sigma2, n), s)
        compare(got, [path[i] for i in k], mistakes, f"{d} features, n = {n}")


@check("TODO 5 (one_clock)", "every feature is learned at the same pace. Next: one valley or two?")
def one_clock(answer: Callable[..., object]) -> None:
    """What defines the answer: every η_i s_i² is the same, and the feature of largest scale keeps the step η."""
    for scales, eta in (([1.0, 0.1], 0.3), ([0.5, 2.0, 1.0], 0.1), ([3.0], 0.05)):
        s = np.array(scales)
        top, low = s.max(), s.min()
        keeps = "the proportions are right; it is the feature of largest scale that keeps the step η."
        mistakes = [
            (np.full_like(s, eta), "all steps are equal: this is the case with two valleys."),
            (eta * s**2 / top**2, "proportional to s²: the small features need the larger steps."),
            (eta * top / s, "proportional to 1/s: the pace is η s², so one power of s is missing."),
            (eta / s**2, keeps),
            (eta * low**2 / s**2, keeps),
        ]
        compare(of_kind(answer(s, eta), s), eta * top**2 / s**2, mistakes, f"s = {scales}")
