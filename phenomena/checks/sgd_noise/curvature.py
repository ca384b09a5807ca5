"""Checks of the SGD-noise lab: products with the Hessian, and its top eigenvalue."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from phenomena import checks
from phenomena.checks import Wrong, check, compare, of_kind, tolerance
from phenomena.checks.sgd_noise.shared import Mistakes, pair, rotation

# 4: a product with the Hessian

Loss = Callable[[Tensor], Tensor]
Hessian = Callable[[np.ndarray], np.ndarray]


def _losses() -> Iterator[tuple[str, Loss, Hessian, Loss, Tensor, Tensor]]:
    """Losses with their Hessians and gradients by hand, a point and a vector."""
    rng = torch.Generator().manual_seed(4)
    Q = rotation(5, rng)
    A = Q * torch.tensor([1.5, 1.0, 0.5, -0.5, 0.2], dtype=torch.float64) @ Q.mT
    a = A.numpy()

    def wavy(theta: Tensor) -> Tensor:
        return (theta @ A.to(theta) @ theta) ** 2 / 4 + theta.cos().sum()

    def wavy_hessian(t: np.ndarray) -> np.ndarray:
        return (t @ a @ t) * a + 2 * np.outer(a @ t, a @ t) - np.diag(np.cos(t))

    def wavy_gradient(theta: Tensor) -> Tensor:
        return (theta @ A @ theta) * (A @ theta) - theta.sin()

    def soft(theta: Tensor) -> Tensor:  # the last parameter is not used
        return theta[:-1].logsumexp(0)

    def soft_hessian(t: np.ndarray) -> np.ndarray:
        p = np.exp(t) / np.exp(t[:-1]).sum()
        p[-1] = 0
        return np.diag(p) - np.outer(p, p)

    def soft_gradient(theta: Tensor) -> Tensor:
        return torch.cat([theta[:-1].softmax(0), theta[-1:] * 0])

    theta, v = torch.randn(2, 5, generator=rng, dtype=torch.float64)
    yield "a wavy loss of 5 parameters", wavy, wavy_hessian, wavy_gradient, theta, v
    yield "a longer vector", wavy, wavy_hessian, wavy_gradient, v, 30 * theta
    yield "a parameter that is not used", soft, soft_hessian, soft_gradient, theta, v
    yield "float32", wavy, wavy_hessian, wavy_gradient, theta.float(), v.float()

    def far(theta: Tensor) -> Tensor:
        return wavy(theta - 100)

    away = 100 + theta.float()  # where float32 has few digits left for a difference
    yield "float32, far from 0", far, lambda t: wavy_hessian(t - 100), lambda t: wavy_gradient(t - 100), away, v.float()


@check(4, minutes=10, praise="two walks back through the graph, and no matrix. Next: which direction is steepest?")
def hessian_product(answer: Callable[..., Tensor]) -> None:
    """The oracle has the Hessian by hand."""
    for name, loss, hessian, gradient, theta, v in _losses():
        try:
            got = of_kind(answer(loss, theta, v), theta)
        except checks.Wrong as err:
            if "does not require grad" in str(err):
                raise Wrong(
                    "there is no graph to walk back: does θ require a gradient, and is the gradient made with "
                    "`create_graph=True`?"
                ) from None
            raise
        t, x = theta.double(), v.double().numpy()
        H, g = hessian(t.numpy()), gradient(t).numpy()
        if got.dim() == 0:
            raise Wrong("one number: H v is a vector, the gradient of the number <g, v>.")
        if got.shape == H.shape:
            raise Wrong("a matrix: the contract asks for one product, which needs no p numbers squared.")
        if theta.dtype == torch.float32 and not np.allclose(got, H @ x, rtol=0.01, atol=0.01 * np.abs(H @ x).max()):
            raise Wrong("right in float64, but not in float32: a difference of two gradients loses too many digits.")
        ahead = [(gradient(t + h * v.double()).numpy() - g) / h for h in (0.1, 1e-2, 1e-3, 1e-4, 1e-5)]
        mistakes: Mistakes = [
            (g, "that is the gradient: differentiate once more, along v."),
            ((g @ x) * np.ones_like(x), "that is <g, v>: take its gradient by θ."),
            (H.sum(1), "H times a vector of ones: where is v?"),
            (np.diag(H) * x, "only the diagonal of H: each parameter bends the slope of the others."),
            (H @ x / np.linalg.norm(x), "v was made a unit vector: a product is linear in v."),
            (H @ x + g, "the gradient is in it too: `.grad` adds up what two calls of `backward` find."),
            (g * (g @ x), "that is g times <g, v>: an outer product of gradients is no second derivative."),
            (H @ H @ x, "H was applied twice."),
            (hessian(0 * t.numpy()) @ x, "that is the Hessian at 0: it is to be the one at θ."),
            (g * x, "that is g times v, entry by entry: no second derivative is in it."),
            *((value, "a difference of two gradients: near, but the exact product costs no more.") for value in ahead),
        ]
        compare(got, H @ x, mistakes, name, tolerance(theta))


# 5: the top eigenvalue

STEPS = 600  # 5^600 is more than a float64 can hold


def _spectra() -> Iterator[tuple[str, list[float], torch.dtype]]:
    yield "the largest is positive and dominates", [5.0, 3.5, 1.0, 0.1, -2.0, -3.0], torch.float64
    yield "the most negative dominates", [3.0, 2.0, 0.5, -1.0, -4.0, -7.0], torch.float64
    yield "all negative", [-1.0, -2.0, -2.5, -6.0], torch.float64
    yield "large values", [4e6, 3e6, 1e6, -1e6], torch.float64
    yield "float32", [0.5, 0.3, 0.1, -0.9], torch.float32


@check(5, minutes=15, praise="the largest, whatever its sign. Next: watch it while a network learns.")
def top_eigenvalue(answer: Callable[..., tuple[float, Tensor]]) -> None:
    """The oracle makes matrices from eigenvalues of its own choice."""
    rng = torch.Generator().manual_seed(5)
    for name, values, dtype in _spectra():
        p = len(values)
        Q = rotation(p, rng)
        A = (Q * torch.tensor(values, dtype=torch.float64) @ Q.mT).to(dtype)
        start = 7 * torch.randn(p, generator=rng, dtype=torch.float64).to(dtype)
        lam, v = pair(answer(partial(torch.mv, A), start, STEPS), "the eigenvalue and its vector")
        if isinstance(lam, Tensor) and lam.shape == start.shape:
            raise Wrong("the two are swapped: the eigenvalue comes first.")
        v = of_kind(v, start)
        if v.shape == start.shape and not v.isfinite().all():
            raise Wrong(
                f"v is infinite or NaN ({name}): is it made a unit vector after every product, and does every round "
                "begin at `start`?"
            )
        largest, lowest = values[0], values[-1]
        loudest, second = sorted(values, key=abs, reverse=True)[:2]
        mistakes: Mistakes = [
            (
                loudest,
                "that is the largest in magnitude, and it is negative: look again, on A - μI.",
            ),
            (abs(loudest), "that is |λ|, the length of A v: the sign is lost."),
            (largest - lowest, "that is an eigenvalue of the shifted matrix: undo the shift."),
            (lowest, "that is the smallest eigenvalue: the other end is asked for."),
            (-largest, "the sign is turned round."),
            (second, "that is the second largest in magnitude: to take one away orders nothing, a shift orders all."),
            (largest**2, "that is λ²: is A applied twice?"),
            (largest - 2 * lowest, "the shift was undone in the wrong direction."),
        ]
        rtol = tolerance(start)
        compare(lam, largest, mistakes, f"the eigenvalue, {name}", rtol)
        right = Q[:, 0] if float(v.double() @ Q[:, 0] if v.shape == start.shape else 1) > 0 else -Q[:, 0]
        on_vector: Mistakes = [
            (s * largest * right, "v is not of length 1: it is A times the unit vector.") for s in (1, -1)
        ]
        on_vector += [(s * Q[:, -1], "the vector belongs to the most negative eigenvalue.") for s in (1, -1)]
        compare(v, right, on_vector, f"the vector, {name}", 3 * rtol)
    ridge = torch.diag(torch.tensor([0.3, -1.0], dtype=torch.float64))
    lam, v = pair(
        answer(partial(torch.mv, ridge), torch.ones(2, dtype=torch.float64), 400), "the eigenvalue and its vector"
    )
    if not np.isfinite(float(lam)):
        raise Wrong("NaN on a ridge (0.3 and -1): does the second round begin at `start` again?")
    compare(lam, 0.3, [], "a ridge, 0.3 and -1")
    A = torch.diag(torch.tensor([2.0, 1.9, -1.0], dtype=torch.float64))
    top = A[0] / 2
    warm, _ = pair(answer(partial(torch.mv, A), top, 1), "the eigenvalue and its vector")
    compare(warm, 2.0, [], "one step from the eigenvector itself: it is to begin at `start`")
