"""Nudged SGD: the step along the sharpest directions of the loss made shorter or longer (Jastrzebski et al. 2019).

With e_1, ..., e_K the top eigenvectors of the Hessian of the training loss and g the gradient of a batch,

    θ ← θ - η [g - (1 - γ) Σ_k <g, e_k> e_k],

so γ = 1 is SGD, γ = 0 leaves the sharpest directions alone, and γ > 1 takes longer steps along them. The paper's probe
asks whether SGD's own step along one direction is too long: the loss at θ - a η <g, v> v against the multiple a.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from phenomena.curvature import Eigenpairs, hessian, top_eigenpairs
from phenomena.errors import Diverged
from phenomena.training import Loss, append, batches, check_weights

Record = Callable[[int, nn.Module, Eigenpairs], dict[str, float]]


class Trajectory(NamedTuple):
    """What a run leaves: losses (T,), each on its batch before its step; the top eigenvalues, values (r, K), after as
    many updates as `steps` (r,) says; and the recorded columns, with "step" among them. All float64."""

    losses: Tensor
    steps: list[int]
    values: Tensor
    recorded: dict[str, list[float]]


def nudged_step(g: Tensor, vectors: Tensor, eta: float, gamma: float) -> Tensor:
    """-η [g - (1 - γ) Σ_k <g, e_k> e_k] for a gradient g (p,) and orthonormal vectors e_k, the columns of (p, K)."""
    if g.ndim != 1 or vectors.ndim != 2 or len(vectors) != len(g):
        raise ValueError(
            f"nudged_step needs g (p,) and vectors (p, K), got {tuple(g.shape)} and {tuple(vectors.shape)}"
        )
    if not eta > 0:
        raise ValueError(f"nudged_step needs a step size eta > 0, got {eta}")
    return -eta * (g - (1 - gamma) * (vectors @ (vectors.mT @ g)))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors as one vector (p,), in their order."""
    return torch.cat([t.flatten() for t in tensors])


def pieces(v: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    """A vector (p,) cut into the shapes of `like`."""
    shapes = [t.shape for t in like]
    return [part.view(shape) for part, shape in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]


def train_nudged(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    loss: Loss,
    steps: int,
    eta: float,
    gamma: float,
    generator: torch.Generator,
    *,
    K: int = 5,
    every: int = 50,
    batch_size: int | None = None,
    subset: slice = slice(None),
    choose: Callable[[Eigenpairs], Tensor] | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    record: Record | None = None,
    tol: float = 1e-3,
    chunk: int | None = None,
    label: str = "",
) -> Trajectory:
    """Train `model` in place on X (n, ...) and y (n,) for `steps` updates of Nudged SGD; full batch without batch_size.

    Before the first step, every `every` steps and after the last one, the top K eigenpairs of the Hessian over the
    samples of `subset` are found anew, starting from the last ones, and record(step, model, pairs) is called. (One pair
    more is followed, so that none overtakes them unseen; tol and chunk as in `phenomena.curvature`.) choose(pairs)
    gives the directions (p, K') that are nudged, by default the eigenvectors. `generator` draws the batches only, the
    same ones whatever γ and K are; augment(batch) changes a batch's inputs, not the Hessian's. Raises Diverged, with
    the step and `label`, if a loss or a weight is not finite.
    """
    weights = [w for w in model.parameters() if w.requires_grad]
    lanczos = torch.Generator().manual_seed(generator.initial_seed())
    losses, refreshed, values = torch.empty(steps, dtype=torch.float64), [], []
    recorded: dict[str, list[float]] = {}
    batch, found, directions = batches(len(X), batch_size, generator), None, torch.empty(0)
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            check_weights(model, step, label)
            H = hessian(model, X[subset], y[subset], loss, chunk=chunk)
            found = top_eigenpairs(H, min(K + 1, H.shape[0]), lanczos, start=found, tol=tol)
            pairs = Eigenpairs(found.values[:K], found.vectors[:, :K])
            directions = pairs.vectors if choose is None else choose(pairs)
            refreshed.append(step)
            values.append(pairs.values.double().cpu())
            if record:
                append(recorded, step, record(step, model, pairs))
        if step == steps:
            break
        i = next(batch)
        inputs, labels = (X, y) if i is None else (X[i], y[i])
        value = loss(model(augment(inputs) if augment else inputs), labels)
        losses[step] = number = value.item()
        if not math.isfinite(number):
            raise Diverged(f"the loss is {number:g} at step {step}" + (f" ({label})" if label else ""))
        step_taken = nudged_step(flat(torch.autograd.grad(value, weights)), directions, eta, gamma)
        with torch.no_grad():
            for w, part in zip(weights, pieces(step_taken, weights), strict=True):
                w.add_(part)
    return Trajectory(losses, refreshed, torch.stack(values), recorded)


def batch_gradients(
    model: nn.Module, X: Tensor, y: Tensor, loss: Loss, batch_size: int, M: int, generator: torch.Generator
) -> Tensor:
    """Gradients (M, p) of M batches of X (n, ...) and y (n,), each drawn without replacement, apart from the others."""
    if not 1 <= batch_size <= len(X):
        raise ValueError(f"the batch size must be in 1..{len(X)}, not {batch_size}")
    weights = [w for w in model.parameters() if w.requires_grad]
    gradients = []
    for _ in range(M):
        i = torch.randperm(len(X), generator=generator)[:batch_size]
        gradients.append(flat(torch.autograd.grad(loss(model(X[i]), y[i]), weights)))
    return torch.stack(gradients)


@torch.no_grad()
def loss_along(model: nn.Module, X: Tensor, y: Tensor, loss: Loss, v: Tensor, lengths: Tensor) -> Tensor:
    """L(θ + s v) on X (n, ...), y (n,) for each s of lengths (m,), θ the present weights, v (p,): (m,), float64."""
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    if v.shape != (sum(w.numel() for w in weights.values()),):
        raise ValueError(f"the direction has shape {tuple(v.shape)}, not that of the trained weights, one flat vector")
    parts = pieces(v, weights.values())
    found = torch.empty(len(lengths), dtype=torch.float64)
    for j, s in enumerate(lengths.tolist()):
        moved = {name: w + s * part for (name, w), part in zip(weights.items(), parts, strict=True)}
        found[j] = loss(functional_call(model, moved, (X,)), y).item()
    return found


def step_probe(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    loss: Loss,
    v: Tensor,
    gradients: Tensor,
    eta: float,
    multiples: Sequence[float],
) -> Tensor:
    """Relative change of the loss of X (n, ...), y (n,) by a times SGD's step along the unit vector v (p,), for each a.

    The mean over the gradients g (M, p) of L(θ - a η <g, v> v)/L(θ) - 1, shape (len(multiples),), as the probe of
    Jastrzebski et al. 2019 (their code: ten random batches): above 0 at a = 1 the step fails to decrease the loss.
    """
    along = gradients @ v  # (M,)
    lengths = -eta * torch.tensor(multiples, dtype=along.dtype)[:, None] * along.cpu()
    before = loss_along(model, X, y, loss, v, torch.zeros(1))
    after = loss_along(model, X, y, loss, v, lengths.flatten()).view(lengths.shape).mean(1)
    if not after.isfinite().all():
        raise Diverged(f"the loss along the direction is not finite within {max(multiples):g} steps of size {eta:g}")
    return after / before - 1


def quadratic_probe(slope: float, along: Tensor, curvature: float, eta: float, multiples: Sequence[float]) -> Tensor:
    """Change of a quadratic loss by a times SGD's step along v, a mean over batches, for each a: (len(multiples),).

    With s = <∇L, v> (slope), λ = vᵀHv (curvature) and c = <g, v> of each batch (along, (M,)),

        mean of L(θ - a η <g, v> v) - L(θ) = -a η s mean(c) + (a η)² λ mean(c²)/2,

    in expectation -a η s² + (a η)² λ (s² + σ²)/2 with the variance σ² of c: above 0 once a η λ > 2 s²/(s² + σ²). So the
    full batch's step is too long only beyond the edge of stability, η λ > 2, a noisy one earlier (ours).
    """
    length, c = eta * torch.tensor(multiples, dtype=torch.float64), along.double()
    return -length * slope * c.mean().item() + length**2 * curvature * c.square().mean().item() / 2
