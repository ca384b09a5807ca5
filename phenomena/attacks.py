"""Attacks: the largest loss within a small ball around each input, by projected gradient ascent.

Inputs x (n, ...) with labels y (n,), a model f that gives logits (n, C), and perturbations δ with ‖δ‖ <= ε in the norm
"linf" or "l2". Every attack gives a lower bound on the worst loss, so an UPPER bound on the robust accuracy: one that
was cut short, or that had no gradient to follow, makes any network look robust. `robust_accuracy` refuses both.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from phenomena.errors import Diverged

Norm = Literal["linf", "l2"]
Box = tuple[float, float] | None
Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, C), labels (n,) -> (n,)


class Truncated(ArithmeticError):  # noqa: N818
    """An attack that was still getting stronger at its end: its result is no robust accuracy."""


class Masked(ArithmeticError):  # noqa: N818
    """An attack without a gradient to follow: exactly 0, all along, at samples that it did not fool."""


class Attack(NamedTuple):
    """What an attack leaves.

    X (n, ...): of the clean input and all iterates of all restarts the one of highest loss, misclassified ones first.
    success (n,) bool: X is misclassified, clean errors included; judged anew at the end, on fresh noise where there is
    any. trace (restarts, steps + 1): the mean loss at each iterate. moved (n,) bool: the gradient was not exactly 0 at
    some iterate.
    """

    X: Tensor
    success: Tensor
    trace: Tensor
    moved: Tensor


class At(NamedTuple):
    """The model seen at n inputs: loss (n,), wrong (n,) bool, and the loss's gradient (n, ...)."""

    loss: Tensor
    wrong: Tensor
    slope: Tensor


def project(delta: Tensor, eps: float | Tensor, norm: Norm) -> Tensor:
    """Nearest point to each sample of delta (n, ...) in the ball of radius eps, a number or (n,), around 0."""
    eps = _column(eps, delta)
    if norm == "linf":
        return torch.minimum(torch.maximum(delta, -eps), eps)
    length = _column(torch.linalg.vector_norm(delta.flatten(1), dim=1), delta)
    return torch.where(length > eps, delta * (eps / length), delta)


def steepest(g: Tensor, norm: Norm) -> Tensor:
    """Return argmax <g, v> over the unit ball, for each sample of g (n, ...): sign(g), or g/‖g‖₂; 0 where g = 0."""
    if norm == "linf":
        return g.sign()
    # The largest entry first: the squares of a tiny gradient would underflow to 0.
    g = torch.nan_to_num(g / _column(g.flatten(1).abs().amax(1), g))
    length = torch.linalg.vector_norm(g.flatten(1), dim=1)
    return g / _column(length.clamp(min=1.0), g)


def margin_loss(f: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} f_j - f_y (n,): positive where misclassified; it cannot saturate as cross entropy does."""
    own = f.gather(1, y[:, None])[:, 0]
    return f.scatter(1, y[:, None], -math.inf).amax(1) - own


@torch.enable_grad()  # an attack inside no_grad is an attack all the same
def look(
    model: Model,
    Z: Tensor,
    y: Tensor,
    loss: Loss | None = None,
    sigma: float = 0.0,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> At:
    """Loss, decision and input gradient at Z (n, ...), averaged over draws as in `pgd`; Diverged if not finite."""
    Z = Z.detach().requires_grad_()
    noisy = Z.repeat(draws, *[1] * (Z.dim() - 1))  # (draws n, ...): the samples one after the other, `draws` times
    if sigma > 0:
        noisy = noisy + sigma * torch.randn(noisy.shape, generator=generator, dtype=Z.dtype).to(Z.device)
    f = model(noisy)
    log_p = f.log_softmax(-1).view(draws, len(Z), -1).logsumexp(0) - math.log(draws)  # log mean_j softmax
    each = F.nll_loss(log_p, y, reduction="none") if loss is None else loss(f, y.repeat(draws)).view(draws, -1).mean(0)
    (slope,) = torch.autograd.grad(each.sum(), Z)
    if not (f.isfinite().all() and slope.isfinite().all()):
        raise Diverged("the network's outputs, or their gradients, are not finite under attack")
    return At(each.detach(), log_p.argmax(-1) != y, slope)


def step(X: Tensor, Z: Tensor, slope: Tensor, a: float | Tensor, eps: float | Tensor, norm: Norm, box: Box) -> Tensor:
    """From Z a step of length a along the steepest ascent, back into the ball around X, then into the box."""
    return _clip(X + project(Z - X + _column(a, X) * steepest(slope, norm), eps, norm), box)


def start(X: Tensor, eps: float | Tensor, norm: Norm, box: Box, generator: torch.Generator) -> Tensor:
    """Uniform draws from the balls around the samples of X (n, ...), clipped to the box."""
    u = torch.rand(X.shape, generator=generator, dtype=X.dtype).to(X.device)
    if norm == "linf":
        return _clip(X + _column(eps, X) * (2 * u - 1), box)
    direction = steepest(torch.randn(X.shape, generator=generator, dtype=X.dtype).to(X.device), norm)
    length = eps * u.flatten(1)[:, 0] ** (1 / X[0].numel())
    return _clip(X + _column(length, X) * direction, box)


def fgsm(
    model: Model,
    X: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: Norm = "linf",
    *,
    loss: Loss | None = None,
    box: Box = (0.0, 1.0),
) -> Tensor:
    """x + ε steepest(∇ loss), kept in the box: one step of the full length (Goodfellow et al. 2015)."""
    check(X, y, eps, norm, box)
    return step(X, X, look(model, X, y, loss).slope, eps, eps, norm, box)


def pgd(
    model: Model,
    X: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: Norm = "linf",
    *,
    steps: int = 40,
    step_size: float | Tensor | None = None,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    loss: Loss | None = None,
    box: Box = (0.0, 1.0),
    sigma: float = 0.0,
    draws: int = 1,
) -> Attack:
    """Projected gradient ascent from random starts in the ball (Madry et al. 2018, Section 2.1).

    x_{t+1} = Π(x_t + a_t steepest(∇ loss(f(x_t), y))), a_t = `step_size`, or falling from 2ε to 0 along half a cosine:
    large steps find better maxima, small ones climb them. Π projects onto the ball, then clips to the box: X lies in
    the box, so clipping brings each pixel closer to x and the result is in both. For linf that is the exact projection
    onto both, for l2 it becomes so as a -> 0. Without a generator the one start is x itself; steps = 0 is the starts.
    `loss` gives each sample's (n,), cross entropy by default. sigma > 0 attacks f through Gaussian noise, with `draws`
    fresh draws a step (expectation over transformation, Athalye et al. 2018), by the gradient of the mean of `loss`, or
    of -log mean_j softmax(f(x + σ e_j))_y (Salman et al. 2019); draws > 1 does so for a model that is itself random.
    ValueError: bad shapes, X outside the box, restarts or noise without a generator. Diverged: outputs not finite.
    """
    check(X, y, eps, norm, box)
    if steps < 0 or min(restarts, draws) < 1:
        raise ValueError(f"steps must be at least 0, restarts and draws 1, not {steps}, {restarts} and {draws}")
    if generator is None and (restarts > 1 or sigma > 0):
        raise ValueError("restarts and noise need a generator (give generator=torch.Generator().manual_seed(0))")
    see = partial(look, model, y=y, loss=loss, sigma=sigma, draws=draws, generator=generator)
    trace = torch.empty(restarts, steps + 1, dtype=torch.float64)
    best, found = X, see(X)
    highest, wrong, moved = found.loss, found.wrong, found.slope.flatten(1).any(1)
    for r in range(restarts):
        Z = X if generator is None else start(X, eps, norm, box, generator)
        for t in range(steps + 1):
            at = see(Z)
            trace[r, t] = at.loss.double().mean()
            moved = moved | at.slope.flatten(1).any(1)
            better = (at.wrong & ~wrong) | ((at.wrong == wrong) & (at.loss > highest))
            best, highest = torch.where(_column(better, X), Z, best), torch.where(better, at.loss, highest)
            wrong = wrong | at.wrong
            if t < steps:
                a = eps * (1 + math.cos(math.pi * t / steps)) if step_size is None else step_size
                Z = step(X, Z, at.slope, a, eps, norm, box)
    return Attack(best, see(best).wrong, trace, moved)


def robust_accuracy(
    model: Model, X: Tensor, y: Tensor, eps: float | Tensor, norm: Norm = "linf", *, steps: int = 40, **how: Any
) -> float:
    """Share in [0, 1] of the samples that PGD does not fool; the other keywords as in `pgd`.

    Two errors say that the attack may have failed, not the network held. Truncated, by a second attack with half of the
    steps: all steps fool more samples, by more than 1 % of them and more than one; or half of the steps raise the
    mean loss, from start to its maximum, by less than 9/10 of what all steps do. Masked: the gradient was exactly 0 at
    every iterate of more than 1 % of the samples, none of them fooled.
    """
    attack = pgd(model, X, y, eps, norm, steps=steps, **how)
    stuck, few = int((~attack.moved & ~attack.success).sum()), len(X) / 100
    if stuck > few:
        raise Masked(
            f"the gradient is exactly 0 at {stuck} of {len(X)} samples, none of them fooled: the attack never moved "
            "(try loss=margin_loss or a differentiable stand-in for the model; or the model is constant)"
        )
    half = pgd(model, X, y, eps, norm, steps=steps // 2, **how)
    more = int(attack.success.sum() - half.success.sum())
    rise, in_half = ((a.trace.max() - a.trace[:, 0].mean()).item() for a in (attack, half))
    if more > max(1, few) or in_half < 0.9 * rise:
        raise Truncated(
            f"{steps} steps fool {more} of {len(X)} samples more than {steps // 2}, and raise the loss by {rise:.3g} "
            f"against {in_half:.3g}: the attack has not converged (give it more steps, or larger ones)"
        )
    return (~attack.success).double().mean().item()


def _clip(Z: Tensor, box: Box) -> Tensor:
    return Z if box is None else Z.clamp(*box)


def _column(a: float | Tensor, X: Tensor) -> Tensor:
    """A number, or one number a sample (n,), shaped so that it multiplies X (n, ...)."""
    a = a if isinstance(a, Tensor) else torch.tensor(a, dtype=X.dtype, device=X.device)
    return a if a.dim() == 0 else a.view(-1, *[1] * (X.dim() - 1))


def check(X: Tensor, y: Tensor, eps: float | Tensor, norm: str, box: Box) -> None:
    """Raise a ValueError, one line, if an attack cannot start from these."""
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', not {norm!r}")
    if y.shape != X.shape[:1]:
        raise ValueError(f"X (n, ...) needs labels y (n,): got {tuple(X.shape)} and {tuple(y.shape)}")
    radii = torch.as_tensor(eps)
    if radii.shape not in ((), y.shape) or not bool(((radii >= 0) & radii.isfinite()).all()):
        raise ValueError(f"eps must be a radius >= 0, one number or one a sample (n,), not {eps}")
    if box is not None and not (box[0] <= X.min() and X.max() <= box[1]):
        raise ValueError(f"X must lie in the box {box}, not {X.min():g} to {X.max():g}: give its own box, or box=None")
