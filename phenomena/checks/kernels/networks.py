"""Checks of the kernel lab: the kernel of a network, and what it says of training."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm
from torch import Tensor, nn

from phenomena import checks
from phenomena.checks import Wrong, check, compare, of_kind, tolerance
from phenomena.checks.kernels.shared import Mistakes

# 3: the kernel of a network


def _vector(model: nn.Module) -> np.ndarray:
    return torch.cat([w.detach().flatten() for w in model.parameters()]).double().numpy()


def _derivatives(model: nn.Module, A: Tensor, names: list[str] | None = None) -> np.ndarray:
    """One row of derivatives for each input, by a loop; by the parameters of these names or by all."""
    weights = [w for name, w in model.named_parameters() if names is None or name in names]
    rows = [torch.autograd.grad(model(x[None]).squeeze(), weights) for x in A]
    return np.array([torch.cat([g.flatten() for g in row]).double().tolist() for row in rows])


def _kernel(model: nn.Module, X: Tensor, Z: Tensor, names: list[str]) -> np.ndarray:
    return _derivatives(model, X, names) @ _derivatives(model, Z, names).T


def _by_input(model: nn.Module, A: Tensor) -> np.ndarray:
    A = A.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(model(A).sum(), A)
    return slopes.flatten(1).double().numpy()


def _outputs(model: nn.Module, A: Tensor) -> np.ndarray:
    return model(A).detach().double().numpy()


def _networks() -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """Modules of one output with inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        dense = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
        single = nn.Linear(1, 1, bias=False).double()
    rng = torch.Generator().manual_seed(3)
    X, Z = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (5, 4))
    A, B = (torch.randn(n, 1, 4, 4, generator=rng) for n in (3, 2))
    return [
        ("4 and 4 inputs", dense, X[1:], Z),
        ("5 and 4 inputs", dense, X, Z),
        ("images, float32", images, A, B),
        ("one input", dense, X[:1], Z),
        ("one weight", single, X[:, :1], Z[:, :1]),
    ]


@check(3, minutes=15, praise="for any module with one output. Next: how near is it to infinite width?")
def empirical_ntk(answer: Callable[..., Tensor]) -> None:
    """The oracle calls autograd once for each input."""
    for name, model, X, Z, want, mistakes in _kernels():
        given = copy.deepcopy(model)
        got = of_kind(answer(given, X, Z), X)
        if not np.array_equal(_vector(given), _vector(model)):
            raise Wrong("the weights of the model have changed: only its derivatives are asked for.")
        compare(got, want, mistakes, name, tolerance(X))


@cache  # the kernels of the oracle are always the same
def _kernels() -> Sequence[tuple[str, nn.Module, Tensor, Tensor, np.ndarray, Mistakes]]:
    """What the exercise is given, the right kernels, and what mistakes make of them."""
    found = []
    for name, model, X, Z in _networks():
        J, J_Z = (_derivatives(model, A) for A in (X, Z))
        names = [name for name, _ in model.named_parameters()]
        weights, last, first = [name for name in names if name.endswith("weight")], names[-2:], names[:1]
        lengths = np.outer(np.linalg.norm(J, axis=1), np.linalg.norm(J_Z, axis=1))
        mistakes: Mistakes = [
            (J @ J.T, "that is the kernel of X with itself: where is Z?"),
            (J_Z @ J.T, "the rows belong to Z: they are to belong to X, and the columns to Z."),
            (_kernel(model, X, Z, weights), "the biases are parameters too."),
            (_kernel(model, X, Z, last), "only the last layer is in it: that is an estimate of Σ, not of Θ."),
            (_kernel(model, X, Z, first), "only the first parameter is in it: the sum is over all of them."),
            (_by_input(model, X) @ _by_input(model, Z).T, "these are derivatives by the inputs, not by the weights."),
            (J.cumsum(0) @ J_Z.cumsum(0).T, "each gradient still holds those of the inputs before: `.grad` adds up."),
            (J @ J_Z.T / J.shape[1], "divided by the number of parameters: it is a sum, not a mean."),
            (np.outer(J.sum(1), J_Z.sum(1)), "a product of two sums: multiply derivative by derivative, then add up."),
            (J @ J_Z.T / lengths, "divided by the lengths of both gradients: that is a cosine."),
            (_outputs(model, X) @ _outputs(model, Z).T, "these are products of the outputs: differentiate them first."),
        ]
        found.append((name, model, X, Z, J @ J_Z.T, mistakes))
    return found


# 4: gradient flow


def _flows() -> Iterator[tuple[str, Tensor, Tensor, Tensor, float]]:
    """Theta, Theta_test, y and t; all blocks of one positive semi-definite matrix."""
    rng = torch.Generator().manual_seed(4)

    def problem(
        n: int, k: int, t: float, rows: list[int] | None = None, size: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        A, B = (torch.randn(m, 6, generator=rng, dtype=torch.float64) for m in (n, 3))
        A = A[rows] if rows else size * A
        y = torch.randn(len(A), k, generator=rng, dtype=torch.float64)
        if rows:
            A[-1] *= size
        return A @ A.T / 6, B @ A.T / 6, y, t

    yield "3 inputs and 3 to test, t = 0.7", *problem(3, 1, 0.7)
    yield "4 inputs and 3 to test, t = 1.5", *problem(4, 2, 1.5)
    yield "t = 0", *problem(4, 2, 0.0)
    yield "t = 300", *problem(3, 2, 300.0)
    Theta, Theta_test, y, t = problem(4, 1, 2.0)
    yield "float32", Theta.float(), Theta_test.float(), y.float(), t
    yield "one test input", Theta, Theta_test[:1], y, t
    yield "a training input that appears twice", *problem(4, 2, 3.0, [0, 1, 2, 3, 0])
    yield "a training input of length 0", *problem(4, 2, 3.0, [0, 1, 2, 3], 0.0)


@check(4, minutes=15, praise="training without a single step. Next: does a real network obey it?")
def flow(answer: Callable[..., Tensor]) -> None:
    """The oracle is the exponential of the linear system for the residuals and the test outputs together."""
    for name, given, want, mistakes in _solved_flows():
        Theta = given[0]
        got = of_kind(answer(*given), Theta)
        if mistakes:
            compare(got, want, mistakes, name, 1e-3 if Theta.dtype == torch.float32 else 1e-5)
            continue
        try:
            compare(got, want)
        except checks.Wrong:
            raise Wrong(
                f"right where Θ has an inverse, but not for {name}: there an eigenvalue is 0, and what "
                "multiplies its direction has a limit."
            ) from None


@cache  # matrix exponentials are slow, and always the same
def _solved_flows() -> Sequence[tuple[str, tuple[Tensor, Tensor, Tensor, float], np.ndarray, Mistakes]]:
    """What the exercise is given, the right outputs, and what mistakes make of them (none where Θ is singular)."""
    found = []
    for name, Theta, Theta_test, y, t in _flows():
        K, K_test, targets = (A.double().numpy() for A in (Theta, Theta_test, y))
        n, inverse = len(K), np.linalg.pinv(K)
        end, left, entries = K_test @ inverse @ targets, expm(-t * K), np.exp(-t * K)
        mistakes: Mistakes = [
            (end - K_test @ inverse @ entries @ targets, "the exponential of each entry: it is that of the matrix."),
            (end, "that is the end of training, t → ∞."),
            (K_test @ inverse @ left @ targets, "that is what is still to be learned at time t, not what is learned."),
            (K_test @ (np.eye(n) - left) @ targets, "the inverse of Θ is missing."),
            ((np.eye(n) - left) @ targets, "these are the outputs at the training inputs: where is Θ_test?"),
            (_after(K, K_test, targets, t / n), "too slow by a factor n: the loss is a sum over the inputs, no mean."),
            (_after(K, K_test, targets, 2 * t), "too fast by a factor 2: the loss is half of the sum of squares."),
            (t * K_test @ targets, "that is one large step of size t: the gradient changes on the way."),
        ]
        if t < 10:
            backwards = _after(K, K_test, targets, -t)
            mistakes.append((backwards, "the residuals grow instead of shrinking: mind the sign in the exponential."))
        singular = "appears twice" in name or "length 0" in name
        found.append((name, (Theta, Theta_test, y, t), _after(K, K_test, targets, t), [] if singular else mistakes))
    return found


def _after(K: np.ndarray, K_test: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
    """Test outputs at time t: the linear system of residuals u and test outputs g, u' = -Θu, g' = -Θ_test u."""
    n, m = len(K), len(K_test)
    system = np.zeros((n + m, n + m))
    system[:n, :n], system[n:, :n] = -K, -K_test
    return -expm(t * system)[n:, :n] @ y


# 5: lazy and rich training

Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # of f and f_0, both (n, 1), y (n, 1) and α


def _right_loss(f: Tensor, f_0: Tensor, y: Tensor, alpha: float) -> Tensor:
    return (alpha * (f - f_0) - y).square().sum() / (2 * alpha**2)


def _descend(
    model: nn.Module, X: Tensor, y: Tensor, alpha: float, eta: float, steps: int, loss: Loss, kept: float = 0.0
) -> np.ndarray:
    """The weights of the model after training, by functional calls; `kept` of each gradient is added to the next."""
    weights = {name: w.detach().clone() for name, w in model.named_parameters()}
    f_0 = model(X).detach()

    def value(weights: dict[str, Tensor]) -> Tensor:
        return loss(torch.func.functional_call(model, weights, (X,)), f_0, y[:, None], alpha)

    slopes = {name: torch.zeros_like(w) for name, w in weights.items()}
    for _ in range(steps):
        slopes = {name: kept * slopes[name] + slope for name, slope in torch.func.grad(value)(weights).items()}
        weights = {name: w - eta * slopes[name] for name, w in weights.items()}
    return torch.cat([w.flatten() for w in weights.values()]).double().numpy()


OTHER_LOSSES: list[tuple[Loss, str]] = [
    (lambda f, f_0, y, a: _right_loss(f, 0 * f_0, y, a), "f_0 is not subtracted: the training starts at the output 0."),
    (lambda f, f_0, y, a: a**2 * _right_loss(f, f_0, y, a), "the loss is not divided by α²."),
    (lambda f, f_0, y, a: a * _right_loss(f, f_0, y, a), "the loss is divided by α, not by α²."),
    (lambda f, f_0, y, a: _right_loss(f, f_0, y, a) / len(f), "a mean over the inputs: the loss is a sum."),
    (lambda f, f_0, y, a: 2 * _right_loss(f, f_0, y, a), "the loss lacks a factor 1/2."),
    (lambda f, f_0, y, a: (f - f_0 - y).square().sum() / (2 * a**2), "f - f_0 is not multiplied by α."),
    (lambda f, f_0, y, a: (f - f_0 - y).square().sum() / 2, "α cancels: it multiplies f - f_0, but not y."),
    (lambda f, f_0, y, a: (a * f - f_0 - y).square().sum() / (2 * a**2), "α multiplies f only: f_0 as well."),
    (
        lambda f, f_0, y, a: _right_loss(f, f.detach(), y, a),
        "f_0 is computed anew in each step: it is the output before the first.",
    ),
    (
        lambda f, f_0, y, a: (a * (f - f_0) - y.T).square().sum() / (2 * a**2),
        "each output is compared with every y: (n, 1) minus (n,) is (n, n).",
    ),
    (lambda f, f_0, y, a: -_right_loss(f, f_0, y, a), "the loss grows: a step goes against the gradient."),
]


@check(5, minutes=15, praise="one number sets how far the weights must go. Next: what do they find when they go far?")
def train_scaled(answer: Callable[..., float]) -> None:
    """The oracle descends by functional calls, without an optimizer."""
    for name, start, given, want, mistakes in _descents():
        model = copy.deepcopy(start)
        got = answer(model, *given)
        after, (X, *_, steps) = _vector(model), given
        if steps and np.array_equal(after, _vector(start)):
            raise Wrong("the weights of the model are what they were: train the model itself, not a copy.")
        if not np.isfinite(after).all():
            raise Wrong(f"the weights are no numbers after training ({name}): the steps go uphill, or are too large.")
        compare(after, want, mistakes, f"weights after training, {name}", tolerance(X))
        _compare_change(got, start, model, name, tolerance(X))


@cache  # the networks of the oracle are always the same
def _descents() -> Sequence[tuple[str, nn.Module, tuple[Any, ...], np.ndarray, Mistakes]]:
    """Models and all else that the exercise is given, the weights after training, and what mistakes make of them."""
    rng = torch.Generator().manual_seed(5)
    found = []
    for name, n, alpha, eta, steps, dtype in (
        ("α = 3", 6, 3.0, 0.05, 8, torch.float64),
        ("α = 0.5", 5, 0.5, 0.02, 12, torch.float64),
        ("one step", 4, 2.0, 0.1, 1, torch.float64),
        ("float32", 6, 1.5, 0.05, 6, torch.float32),
        ("one input", 1, 0.7, 0.05, 5, torch.float64),
        ("no step", 4, 2.0, 0.1, 0, torch.float64),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(n)
            model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
        X, y = torch.randn(n, 3, generator=rng).to(dtype), torch.randn(n, generator=rng).to(dtype)
        problem = model, X, y, alpha, eta
        mistakes: Mistakes = [(_descend(*problem, steps, loss), hint) for loss, hint in OTHER_LOSSES]
        added_up = _descend(*problem, steps, _right_loss, kept=1.0)
        mistakes.append((added_up, "the gradients of all steps add up in `.grad`: clear them before each."))
        for other in (steps - 1, steps + 1):
            mistakes.append((_descend(*problem, other, _right_loss), "one step too many or too few."))
        found.append((name, model, (*problem[1:], steps), _descend(*problem, steps, _right_loss), mistakes))
    return found


def _compare_change(got: object, start: nn.Module, end: nn.Module, name: str, rtol: float) -> None:
    """Check the relative change of the weights that was returned."""
    w_0, w = _vector(start), _vector(end)
    change, norm = float(np.linalg.norm(w - w_0)), float(np.linalg.norm(w_0))
    pairs = zip(start.parameters(), end.parameters(), strict=True)
    ratios = [float((after - before).detach().norm() / before.detach().norm()) for before, after in pairs]
    mistakes = [
        (0.0, "it says that nothing has moved: are w_0 and w the same tensors? Training changes them in place."),
        (change, "that is the change itself: it is to be divided by the norm of w_0."),
        (change / np.linalg.norm(w), "divided by the norm after training: it is relative to w_0."),
        ((change / norm) ** 2, "the square of what is asked for: a norm has a root."),
        (float(np.mean(ratios)), "the mean of one ratio for each parameter: take all weights as one vector."),
        (sum(ratios), "the sum of one ratio for each parameter: take all weights as one vector."),
        (100 * change / norm, "in per cent: the contract says a fraction."),
        (abs(np.linalg.norm(w) - norm) / norm, "the norm's change: it is the norm of the change."),
    ]
    compare(got, change / norm, mistakes, f"the number that it returns, {name}", rtol)
