"""Checks of the double-descent lab."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from phenomena.checks import Wrong, check, compare, of_kind, samples, tolerance


def _problems() -> Iterator[tuple[str, Tensor, Tensor]]:
    """X and y: wide and tall, plain and awkward, and some without full rank."""
    rng = torch.Generator().manual_seed(71)

    def draw(n: int, p: int) -> Tensor:
        return torch.randn(n, p, generator=rng, dtype=torch.float64)

    low, wide, near = draw(20, 3), draw(4, 9), draw(30, 4)
    near[:, 3] = near[:, 2] + 1e-4 * near[:, 3]
    problems = [
        *samples(7, 30, rng),
        *samples(30, 7, rng),
        ("one feature", draw(6, 1)),
        ("two equal features", torch.cat([low, low[:, :1]], dim=1)),
        ("two equal features, float32", torch.cat([low, low[:, :1]], dim=1).float()),
        ("two features that differ by 1e-4", near),
        ("features of size 1e-9", 1e-9 * draw(12, 5)),
        ("a repeated sample", torch.cat([wide, wide[:1]])),
    ]
    for name, X in problems:
        # a target that the repeated sample and the nearly equal features can carry without huge weights
        y = X.sum(1) if "repeated" in name or "differ" in name else draw(len(X), 1)[:, 0].to(X)
        yield name, X, y


@check(1, minutes=10, praise="the smallest of all least-squares solutions. Next: the same from ridge, with λ → 0.")
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
        compare(got, want, mistakes, name, tolerance(X))


@check(2, minutes=10, praise="as λ → 0 it becomes your min_norm. Next: what does the best λ do to the peak?")
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
            compare(of_kind(answer(X, y, lam), X), solve(n * lam), mistakes, f"{name}, λ = {lam}", tolerance(X))


@check(3, minutes=30, praise="one number a width, all on test data. Next: where is the peak, and why there?")
def feature_errors(answer: Callable[..., object]) -> None:
    """The oracle loops over widths with numpy's lstsq on the same draws of random features.

    Two widths stand at the threshold, where anything but minimum norm shows, and some features are always 0.
    """
    rng = torch.Generator().manual_seed(5)
    centres = 2 + torch.randn(3, 6, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 3, (90,), generator=rng)
    X = centres[y] + 1.2 * torch.randn(90, 6, generator=rng, dtype=torch.float64)
    train, test = (X[:40], y[:40]), (X[40:], y[40:])

    def errors(
        fit: tuple[Tensor, Tensor] = train,
        count: tuple[Tensor, Tensor] = test,
        second_draw: bool = False,
        floor: float = 0.0,
        cut: float = 1e-12,
    ) -> np.ndarray:
        generator = torch.Generator().manual_seed(11)
        out = []
        for p in widths:
            W = V = torch.randn(6, p, generator=generator, dtype=fit[0].dtype) / 6**0.5
            if second_draw:
                V = torch.randn(6, p, generator=generator, dtype=fit[0].dtype) / 6**0.5
            phi, phi_count = np.maximum((fit[0] @ W).numpy(), floor), np.maximum((count[0] @ V).numpy(), floor)
            B = np.linalg.lstsq(phi.astype(float), np.eye(3)[fit[1].numpy()], rcond=cut)[0]
            out.append(((phi_count @ B).argmax(1) != count[1].numpy()).mean())
        return np.array(out)

    widths = [8, 40, 44, 80]
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
        (want * len(test[1]), "these are counts: divide by the number of test samples."),
    ]
    generator = torch.Generator().manual_seed(11)
    before = generator.get_state()
    got = answer(*train, *test, widths, generator)
    if torch.equal(before, generator.get_state()):
        raise Wrong("it draws nothing from the generator that it is given: a seed would decide nothing.")
    compare(got, want, mistakes)

    two = y[40:] < 2
    awkward = {
        "a class that only the training set has": (train, (X[40:][two], y[40:][two])),
        "one test sample": (train, (X[40:41], y[40:41])),
        "float32, not contiguous": tuple((Z.float().T.contiguous().T, labels) for Z, labels in (train, test)),
    }
    for name, (fit, count) in awkward.items():
        widths = [5, 12]  # far from the threshold, where float32 would do
        compare(answer(*fit, *count, widths, torch.Generator().manual_seed(11)), errors(fit, count), where=name)


@check(4, minutes=10, praise="each feature is one bias-variance trade-off with its own clock, η s². Next: plot it.")
def descent_risk(answer: Callable[..., object]) -> None:
    """The oracle runs the recursion of every coordinate's mean and noise step by step."""
    rng = np.random.default_rng(3)
    steps = [0, 1, 2, 7, 40]
    problems = (
        (4, 50, 0.3, steps, float),
        (1, 5, 1.5, steps, float),
        (3, 7, 4.0, [6], float),
        (5, 20, 0.7, steps[::-1], np.float32),
    )
    for d, n, sigma2, at, dtype in problems:
        draws = rng.uniform(0.2, 0.9, d), rng.normal(size=d), rng.uniform(0.1, 0.9, d)
        s, theta, eta = (x.astype(dtype) for x in draws)
        k = np.array(at)
        bias, gain, path = theta.astype(float), np.zeros(d), []
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
        got = of_kind(answer(k, s, theta, eta, sigma2, n), s, dtype=False)
        where = f"{np.dtype(dtype)}, k = {at}, {d} features, n = {n}"
        compare(got, [path[i] for i in k], mistakes, where, rtol=1e-5 if dtype is float else 1e-3)


@check(5, minutes=10, praise="every feature is learned at the same pace. Next: one valley or two?")
def one_clock(answer: Callable[..., object]) -> None:
    """What defines the answer: every η_i s_i² is the same, and the feature of largest scale keeps the step η."""
    problems = (([1.0, 0.1], 0.3, "float64"), ([0.5, 2.0, 1.0], 0.1, "float32"), ([3.0], 0.05, "float64"))
    for scales, eta, dtype in problems:
        s = np.array(scales, dtype)
        top, low = s.max(), s.min()
        keeps = "the proportions are right; it is the feature of largest scale that keeps the step η."
        mistakes = [
            (np.full_like(s, eta), "all steps are equal: this is the case with two valleys."),
            (eta * s**2 / top**2, "proportional to s²: the small features need the larger steps."),
            (eta * top / s, "proportional to 1/s: the pace is η s², so one power of s is missing."),
            (eta / s**2, keeps),
            (eta * low**2 / s**2, keeps),
        ]
        compare(of_kind(answer(s, eta), s), eta * top**2 / s**2, mistakes, f"{dtype}, s = {scales}")
