"""Checks of the kernel lab."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad
from scipy.linalg import expm
from torch import Tensor, nn

from phenomena import checks
from phenomena.checks import Wrong, check, compare, of_kind, samples

Mistakes = list[tuple[object, str]]  # what a mistake gives, and its hint


def _tolerance(X: Tensor) -> float:
    return 1e-3 if X.dtype == torch.float32 else 1e-6


def _pair(got: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors, of the dtype of `like`."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Wrong(f"it returns a {type(got).__name__}, the contract says two tensors.")
    first, second = (of_kind(part, like) for part in got)
    return first, second


@contextmanager
def _mend_first(answer: Callable[..., object]) -> Iterator[None]:
    """Where a wrong answer uses the student's arc_cosine of exercise 1, and that one is wrong, say so."""
    try:
        yield
    except checks.Wrong:
        own = _used_by(answer).get("arc_cosine")
        if callable(own) and not _is_arc_cosine(own):
            raise Wrong("it rests on your arc_cosine, which is not right: first mend exercise 1.") from None
        raise


def _used_by(answer: Callable[..., object]) -> Mapping[str, object]:
    """The student's own functions, and all other global names, that an answer uses."""
    student = inspect.getclosurevars(answer).nonlocals.get("answer", answer)  # a check is given a wrapper
    return inspect.getclosurevars(student).globals if inspect.isfunction(student) else {}


def _is_arc_cosine(own: Callable[[Tensor], Any]) -> bool:
    c = torch.tensor([-1 - 4e-16, -0.6, 0.0, 0.8, 1 + 4e-16], dtype=torch.float64)
    try:
        got = np.array([part.tolist() for part in own(c.clone())])
        return np.allclose(got, _kappas(c.numpy()), atol=1e-6)
    except Exception:  # whatever a student's function may raise
        return False


# 1: the arc-cosine kernels


@cache
def _by_quadrature(c: float) -> tuple[float, float]:
    """κ0 and κ1 as integrals over the direction φ of w in the plane of the two inputs, whose angle is θ.

    u = r cos φ and v = r cos(φ - θ) with E r² = 2, and both are positive for φ from θ - π/2 to π/2.
    """
    theta = math.acos(min(1.0, max(-1.0, c)))
    ends = theta - math.pi / 2, math.pi / 2
    share = quad(lambda phi: 1 / math.pi, *ends)[0]
    return share, quad(lambda phi: 2 / math.pi * math.cos(phi) * math.cos(phi - theta), *ends)[0]


@check(1, minutes=10, praise="one angle gives both. Next: is κ1(1) = 1, and why must it be?")
def arc_cosine(answer: Callable[..., object]) -> None:
    """The oracle integrates over the directions of the weights; some cosines lie outside [-1, 1] by rounding."""
    rng = torch.Generator().manual_seed(1)
    for name, c in (
        ("c from -1 to 1", torch.linspace(-1, 1, 9, dtype=torch.float64)),
        ("a matrix, not contiguous", 2 * torch.rand(4, 3, generator=rng, dtype=torch.float64).T - 1),
        ("float32", torch.linspace(-0.9, 0.95, 6)),
        ("one number", torch.tensor(0.3, dtype=torch.float64)),
        ("c = 1 and -1 up to rounding", torch.tensor([1 + 4e-16, 1 - 2e-16, -1 - 4e-16], dtype=torch.float64)),
        ("c = 1 and -1 up to rounding, float32", torch.tensor([1.0000001, -1.0000001, 0.5])),
    ):
        got = _pair(answer(c), c)
        if any(part.isnan().any() for part in got) and (c.abs() > 1).any():
            raise Wrong(f"NaN ({name}): rounding leaves cosines a little outside [-1, 1], where no arccos is defined.")
        k0, k1 = np.array([_by_quadrature(x) for x in c.double().flatten().tolist()]).T.reshape(2, *c.shape)
        c64 = c.double().clamp(-1, 1).numpy()
        root = np.sqrt(1 - c64**2)
        mistakes = [
            (k1, "the two are swapped: κ0 comes first."),
            (k0 / 2, "κ0 is half of what it should be: it is twice the probability."),
            (1 - k0, "κ0 grows with the angle: of equal inputs it must be 1."),
            ((1 + c64) / 2, "κ0 is a straight line in c: it is one in the angle, whose cosine is c."),
            (np.pi * k0, "κ0 is still an angle: which part of the half circle is it?"),
            (1 - np.rad2deg(np.arccos(c64)) / np.pi, "the angle is in degrees, and π in radians."),
            (2 * k0, "κ0 is twice what it should be: of equal inputs it must be 1."),
        ]
        compare(got[0], k0, mistakes, f"κ0, {name}", _tolerance(c))
        mistakes = [
            (c64 * k0, "κ1 lacks the root: for inputs at a right angle it is not 0."),
            (np.pi * k1, "κ1 is too large by π: of equal inputs it must be 1."),
            (k1 / 2, "κ1 is half of what it should be: it is twice the mean."),
            (2 * k1, "κ1 is twice what it should be: of equal inputs it must be 1."),
            (c64 * k0 + root, "the root in κ1 is not divided by π, as the rest is."),
            (c64 * k0 + root**2 / np.pi, "in κ1 stands a root of 1 - c²."),
            (c64 * k0 - root / np.pi, "κ1 becomes negative: the root has the wrong sign."),
            (c64 * (1 - k0) + root / np.pi, "in κ1 is the angle itself, where κ0 has π minus the angle."),
            ((root - c64 * np.arccos(c64)) / np.pi, "κ1 lacks a term: its derivative is not κ0, but κ0 - 1."),
        ]
        compare(got[1], k1, mistakes, f"κ1, {name}", _tolerance(c))


# 2: the kernel of an infinitely wide network


def _pair_kernel(x: np.ndarray, z: np.ndarray, depth: int) -> float:
    """Θ of two inputs from their three covariances, layer by layer, in plain numbers."""
    xx, xz, zz = float(x @ x), float(x @ z), float(z @ z)
    theta = xz
    for _ in range(depth):
        if xx == 0 or zz == 0:
            return 0.0
        angle = math.acos(min(1.0, max(-1.0, xz / math.sqrt(xx * zz))))
        xz = math.sqrt(xx * zz) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi
        theta = theta * (1 - angle / math.pi) + xz
    return theta


def _kappas(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c = np.clip(c, -1, 1)
    k0 = 1 - np.arccos(c) / np.pi
    return k0, c * k0 + np.sqrt(1 - c**2) / np.pi


# Of κ0, κ1, Θ below, and Σ of this layer and of the one below: the new Θ.
Step = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
RIGHT_STEP: Step = lambda k0, k1, theta, new, old: k0 * theta + new  # noqa: E731
OTHER_STEPS: list[tuple[Step, str]] = [
    (lambda k0, k1, theta, new, old: new, "that is Σ, what the last weights add: Θ also has the rest."),
    (
        lambda k0, k1, theta, new, old: _kappas(k1)[0] * theta + new,
        "κ0 is taken at the correlation of the new Σ: both κ belong to the layer below.",
    ),
    (lambda k0, k1, theta, new, old: k0 * theta + old, "Θ gets the Σ of the layer below: add the new one."),
    (lambda k0, k1, theta, new, old: k0 * theta, "nothing is added to Θ: the weights of a layer count too."),
    (lambda k0, k1, theta, new, old: k0 * (theta + new), "κ0 multiplies the old Θ alone, not the Σ that is added."),
    (
        lambda k0, k1, theta, new, old: theta + new,
        "κ0 is not in it: the old Θ passes through the units that are active for both inputs.",
    ),
    (lambda k0, k1, theta, new, old: k1 * theta + new, "Θ is multiplied by κ1: the slope of max(u, 0) belongs to κ0."),
]


def _recursion(
    X: Tensor, Z: Tensor, depth: int, step: Step = RIGHT_STEP, *,
    start: float = 1.0, power: float = 1.0, factor: float = 1.0, rows: bool = True,
) -> np.ndarray:  # fmt: skip
    """Θ after `depth` layers, or what other mistakes make of it: another start, other lengths, a factor on both κ."""
    A, B = X.double().numpy(), Z.double().numpy()
    lengths = np.outer(*((A**2).sum(1) ** 0.5 if rows else np.full(len(A), (A**2).sum() ** 0.5) for A in (A, B)))
    sigma = A @ B.T
    theta = start * sigma
    for _ in range(depth):
        k0, k1 = _kappas(np.divide(sigma, lengths**power, out=np.zeros_like(sigma), where=lengths > 0))
        below, sigma = sigma, factor * lengths * k1
        theta = step(factor * k0, k1, theta, sigma, below)
    return theta


def _other_kernels(X: Tensor, Z: Tensor, depth: int) -> Mistakes:
    """What typical mistakes give in exercise 2."""
    right = _recursion(X, Z, depth)
    sizes = [A.double().norm(dim=1).clamp_min(1e-300) for A in (X, Z)]
    return [
        *((_recursion(X, Z, depth, step), hint) for step, hint in OTHER_STEPS),
        (_recursion(X, Z, depth - 1), "a layer is missing: depth counts the hidden layers."),
        (_recursion(X, Z, depth + 1), "there is a layer too many: depth counts the hidden layers."),
        (right / torch.outer(*sizes).numpy(), "the inputs are taken to have length 1: Θ grows with both lengths."),
        (_recursion(X, Z, depth, power=0), "Σ is no correlation: it is divided by both lengths, in every layer."),
        (_recursion(X, Z, depth, power=2), "c is divided by the squared lengths: a correlation is Σ/(‖x‖‖z‖)."),
        (_recursion(X, Z, depth, rows=False), "one norm for the whole matrix: each input has a length of its own."),
        (_recursion(X, Z, depth, factor=0.5), "everything is halved in each layer: the 2 is in both κ already."),
        (_recursion(X, Z, depth, start=0), "Θ starts at 0: without a hidden layer it is xᵀz."),
    ]


@check(2, minutes=15, praise="exact, for a network without end. Next: what does depth do to the curve?")
def ntk(answer: Callable[..., Tensor]) -> None:
    """The oracle is a double loop over pairs that carries their three covariances."""
    rng = torch.Generator().manual_seed(2)
    Z = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    repeated = torch.cat([Z, Z[:2], -Z[:1]])
    problems = [(f"{name}, depth {L}", X, Z.to(X), L) for L in (2, 1, 5) for name, X in samples(4, 3, rng)]
    problems += [
        ("equal and opposite inputs, c = ±1", repeated, repeated, 3),
        ("equal and opposite inputs, c = ±1, float32", repeated.float(), repeated.float(), 3),
        ("one feature, c = ±1", Z[:, :1], Z[:2, :1], 2),
        ("an input of length 0", torch.cat([Z[:2].flip(1), 0 * Z[:1]]), Z, 2),
    ]
    with _mend_first(answer):
        for name, X, Z, depth in problems:
            got = of_kind(answer(X, Z, depth), X)
            if got.isnan().any() and "length 0" in name:
                raise Wrong("NaN for an input of length 0: there c is 0/0, and Σ and Θ are 0.")
            want = np.array([[_pair_kernel(x, z, depth) for z in Z.double().numpy()] for x in X.double().numpy()])
            # next to c = 1, κ0 makes 1e-4 of a harmless 1e-8 under a division
            rtol = 1e-3 if "c = ±1" in name else _tolerance(X)
            compare(got, want, _other_kernels(X, Z, depth), name, rtol)


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
        compare(got, want, mistakes, name, _tolerance(X))


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
        compare(after, want, mistakes, f"weights after training, {name}", _tolerance(X))
        _compare_change(got, start, model, name, _tolerance(X))


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


# 6: one layer of the convolutional kernel

Shift = Callable[[Tensor], Tensor]


def _shifted(A: Tensor, a: int, b: int, a_: int, b_: int) -> Tensor:
    """A at (i + a, j + b, i' + a_, j' + b_), zero outside."""
    for axis, by in enumerate((a, b, a_, b_)):
        A = torch.roll(A, -by, axis)
        if by:
            A = A.clone()
            A.narrow(axis, A.shape[axis] - 1 if by > 0 else 0, 1).zero_()
    return A


def _total(shifts: list[tuple[int, int, int, int]]) -> Shift:
    return lambda A: torch.stack([_shifted(A, *by) for by in shifts]).sum(0)


NEAR = list(product((-1, 0, 1), repeat=2))
TOGETHER: Shift = _total([(a, b, a, b) for a, b in NEAR])
OTHER_SHIFTS: list[tuple[Shift, str]] = [
    (lambda A: A, "there is no sum over shifts."),
    (
        lambda A: torch.stack([A.roll((a, b, a, b), (0, 1, 2, 3)) for a, b in NEAR]).sum(0),
        "the shifts wrap around the border: outside the images there are zeros.",
    ),
    (
        _total([(a, b, c, d) for (a, b), (c, d) in product(NEAR, NEAR)]),
        "81 terms, with shifts of their own for both positions: one weight acts on both, so they shift together.",
    ),
    (_total([(a, b, 0, 0) for a, b in NEAR]), "only the position in x is shifted: both shift together."),
    (_total([(0, 0, a, b) for a, b in NEAR]), "only the position in z is shifted: both shift together."),
    (_total([(a, b, -a, -b) for a, b in NEAR]), "the positions shift in opposite directions: both go the same way."),
    (_total([(a, a, b, b) for a, b in NEAR]), "the axes are mixed: 0 and 2 are the rows, 1 and 3 the columns."),
    (lambda A: TOGETHER(A) / 9, "S is a mean of nine terms: it is their sum."),
    (_total([(a, b, a, b) for a, b in NEAR if a * b == 0]), "five shifts: the corners of 3 x 3 belong to it."),
]


def _layer(
    K: Tensor, T: Tensor, v_x: Tensor, v_z: Tensor, S: Shift = TOGETHER, S_T: Shift | None = None, **change: Any
) -> tuple[Tensor, Tensor]:
    """A layer, or what mistakes make of it."""
    variance = v_x.double()[:, :, None, None] * v_z.double()[None, None]
    scale = variance ** change.get("root", 0.5)
    c = torch.where(scale > 0, S(K.double()) / torch.where(scale > 0, scale, 1), 0)
    k0, k1 = (torch.as_tensor(k) for k in _kappas(c.numpy()))
    if change.get("swapped"):
        k0, k1 = k1, k0
    T_below = (S_T or S)(T.double())
    K_new = scale * k1 / change.get("ninth", 9)
    added = {"new": K_new, "old": K.double(), "none": 0 * K_new}[change.get("add", "new")]
    return K_new, k0 * T_below / change.get("ninth_T", change.get("ninth", 9)) + added


def _slow_layer(K: Tensor, T: Tensor, v_x: Tensor, v_z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The layer in plain numbers, position by position."""
    H, W = v_x.shape
    K_new, T_new = np.zeros((2, H, W, H, W))
    for i, j, k, m in product(range(H), range(W), range(H), range(W)):
        at = [(i + a, j + b, k + a, m + b) for a, b in NEAR]
        inside = [p for p in at if all(0 <= x < n for x, n in zip(p, (H, W, H, W), strict=True))]
        below_K, below_T = (sum(float(A[p]) for p in inside) for A in (K, T))
        s = math.sqrt(float(v_x[i, j]) * float(v_z[k, m]))
        if s > 0:
            angle = math.acos(min(1.0, max(-1.0, below_K / s)))
            K_new[i, j, k, m] = s * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi / 9
            T_new[i, j, k, m] = (1 - angle / math.pi) / 9 * below_T + K_new[i, j, k, m]
    return K_new, T_new


def _images() -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """K, T, v_x and v_z of a second layer, from images of three channels."""
    rng = torch.Generator().manual_seed(6)
    for name, H, W, dtype in (
        ("images of 4 x 4", 4, 4, torch.float64),
        ("images of 3 x 5", 3, 5, torch.float64),
        ("one row of pixels", 1, 4, torch.float64),
        ("an image with itself, float32", 4, 3, torch.float32),
        ("a black corner", 6, 5, torch.float64),
    ):
        x, z = (torch.randn(3, H, W, generator=rng, dtype=torch.float64) for _ in range(2))
        if "itself" in name:
            z = x
        if "black" in name:
            x[:, :4, :4] = 0
        pairs = [torch.einsum("cij,ckl->ijkl", *pair) for pair in ((x, z), (x, x), (z, z))]
        v_x, v_z = (_diagonal(TOGETHER(K)) for K in pairs[1:])
        K, T = _layer(pairs[0], pairs[0], v_x, v_z)
        v_x, v_z = (_diagonal(TOGETHER(_layer(K, K, v, v)[0])) for K, v in zip(pairs[1:], (v_x, v_z), strict=True))
        yield name, (K.to(dtype), T.to(dtype), v_x.to(dtype), v_z.to(dtype))


def _diagonal(A: Tensor) -> Tensor:
    """A_{ij,ij}, (H, W)."""
    return torch.einsum("ijij->ij", A).clone()


@check(6, minutes=20, praise="a layer of infinitely many channels. Next: three of them, and an average over positions.")
def cntk_layer(answer: Callable[..., object]) -> None:
    """The oracle is a loop over pairs of positions; one image has a corner where everything is 0."""
    with _mend_first(answer):
        for name, given, want, for_K, for_T in _layers():
            got = _pair(answer(*given), given[0])
            if any(part.isnan().any() for part in got) and "black" in name:
                raise Wrong("NaN where a variance is 0 (a black corner): there c is 0/0, and K and T are 0.")
            compare(got[0], want[0], for_K, f"K, {name}", _tolerance(given[0]))
            compare(got[1], want[1], for_T, f"T, {name}", _tolerance(given[0]))


@cache  # the loops of the oracle are slow, and always the same
def _layers() -> Sequence[tuple[str, tuple[Tensor, ...], tuple[np.ndarray, np.ndarray], Mistakes, Mistakes]]:
    """What the exercise is given, the right K and T, and what mistakes make of both."""
    found = []
    for name, given in _images():
        K, T, v_x, v_z = given
        want_K, want_T = _slow_layer(*given)
        for_K: Mistakes = [
            *((_layer(*given, S=S)[0], hint) for S, hint in OTHER_SHIFTS),
            (want_T, "the two are swapped: K comes first."),
            (9 * want_K, "K is too large by 9: the mean is over nine terms."),
            (_layer(*given, root=1.0)[0], "the root of the product of the variances is missing."),
            (_layer(*given, root=0.25)[0], "v_x and v_z are variances already: one root of their product."),
            (_layer(*given, swapped=True)[0], "κ0 and κ1 are swapped."),
            (TOGETHER(torch.as_tensor(want_K)), "S comes before κ, on the K that is given, not after it."),
        ]
        if v_x.shape[0] == v_x.shape[1]:
            for_K.append((_layer(K, T, v_z, v_x)[0], "v_x and v_z are swapped: x has the first two axes."))
        for_T: Mistakes = [
            *((_layer(*given, S_T=S)[1], f"in T: {hint}") for S, hint in OTHER_SHIFTS[:2]),
            (_layer(*given, ninth_T=1)[1], "κ0 is to be divided by 9, as κ1 is."),
            (want_K, "that is K twice: T also has a part from below."),
            (_layer(*given, add="old")[1], "the K that is added to T is the new one."),
            (_layer(*given, add="none")[1], "nothing is added to T: the new K is."),
            (_layer(K, K, v_x, v_z)[1], "T comes from K: S is to be applied to T."),
        ]
        found.append((name, given, (want_K, want_T), for_K, for_T))
    return found
