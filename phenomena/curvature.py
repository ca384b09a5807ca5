"""Curvature of a training loss as a linear operator: Hessian, Gauss-Newton, gradient covariance, top eigenpairs.

With the loss L(θ) = 1/n Σ_i ℓ_i(θ) and g_i = ∇ℓ_i, g = ∇L:

    H = ∇²L        G = 1/n Σ_i J_iᵀ (∂²ℓ/∂f²) J_i, J_i = ∂f(x_i)/∂θ        C = 1/n Σ_i (g_i - g)(g_i - g)ᵀ

None of these (p, p) matrices is ever formed: a product with a vector takes about two gradients. θ stands for the
parameters that require a gradient, flat, in the order of `model.parameters()`. The trick: θ does not move between the
products, so the graph of the gradient is built once and kept, and a product is one walk back through it (Pearlmutter
1994, by reverse mode twice). A kept graph holds a handful of copies of the network's activations on all n samples;
with `chunk` the operator keeps nothing and rebuilds the graph for `chunk` samples at a time in each product: half as
fast, in the memory of one chunk.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from phenomena.convolution_products import TwiceDifferentiable
from phenomena.errors import Diverged
from phenomena.training import Loss

BATCHED = 20_000  # many columns go through the graph together below this p; above, one by one is as fast and smaller
Product = Callable[[Tensor], Tensor]  # of v (p,), or of each row of v (k, p)


class Stale(RuntimeError):  # noqa: N818
    """The parameters have moved since the operator was made."""


class NotConverged(ArithmeticError):  # noqa: N818
    """An eigensolver stopped before its residuals were small enough; what it has is no measurement."""


class Operator:
    """A symmetric matrix (p, p) known by its products: A @ v for v (p,) or (p, k), in the parameters' dtype."""

    def __init__(self, product: Product, p: int, dtype: torch.dtype, device: torch.device):
        self.shape, self.dtype, self.device, self._product = (p, p), dtype, device, product

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.dim() not in (1, 2) or len(v) != self.shape[0]:
            raise ValueError(f"an operator of shape {self.shape} needs v (p,) or (p, k), not {tuple(v.shape)}")
        v = v.detach().to(self.device, self.dtype)
        return self._product(v) if v.dim() == 1 else self._product(v.mT.contiguous()).mT

    def scipy(self) -> LinearOperator:
        """As scipy.sparse.linalg takes it: NumPy in, NumPy out."""

        def multiply(v: np.ndarray) -> np.ndarray:
            return (self @ torch.as_tensor(v)).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=multiply, rmatvec=multiply, matmat=multiply, dtype=dtype)

    def dense(self) -> Tensor:
        """The matrix (p, p) itself, by p products; for small p."""
        return self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)


def hessian(model: nn.Module, X: Tensor, y: Tensor, loss: Loss, *, chunk: int | None = None) -> Operator:
    """H of loss(model(X), y) at the model's present parameters; loss as in `phenomena.training`, a mean over samples.

    X (n, ...), y (n,) or (n, C); `chunk`: see the module. After an update of the parameters the operator raises Stale:
    make a new one. Diverged if the loss is not finite. ValueError for layers whose output depends on the batch or on
    chance (call model.eval()); only batch norm without chunks may train: its batch is then the whole set.
    """

    def graph(X: Tensor, y: Tensor, share: float) -> Product:
        g = _flat(_gradient(share * _mean(loss, model(X), y), params, create_graph=True), params)
        return lambda v: _back(g, params, v)

    params = _parameters(model)
    return _operator(model, params, X, y, chunk, graph, whole_batch=chunk is None)


def gauss_newton(model: nn.Module, X: Tensor, y: Tensor, loss: Loss, *, chunk: int | None = None) -> Operator:
    """G = 1/n Σ_i J_iᵀ (∂²ℓ_i/∂f²) J_i: H without the network's own curvature; arguments and errors as in `hessian`."""

    def graph(X: Tensor, y: Tensor, share: float) -> Product:
        f = model(X)
        at = f.detach().requires_grad_()
        slope = _gradient(share * _mean(loss, at, y), [at], create_graph=True)[0]
        return _sandwich(f, params, lambda Jv, v: _back(slope, [at], Jv).view_as(Jv))

    params = _parameters(model)
    return _operator(model, params, X, y, chunk, graph)


def gradient_covariance(
    model: nn.Module, X: Tensor, y: Tensor, loss: Loss, *, chunk: int | None = None, centred: bool = True
) -> Operator:
    """C = 1/n Σ_i (g_i - g)(g_i - g)ᵀ of ONE sample's gradient; centred=False leaves out g, for 1/n Σ_i g_i g_iᵀ.

    C v = 1/n Σ_i g_i (g_iᵀv - gᵀv), so no (n, p) matrix is made. A batch of B has C/B with replacement. Arguments and
    errors as in `hessian`.
    """

    def graph(X: Tensor, y: Tensor, share: float) -> Product:
        losses = loss(model(X)[:, None], y[:, None])  # each sample a set of its own
        if losses.shape != (len(X),):
            raise ValueError(
                f"a loss must reduce (..., n, C) outputs to (...), and made (n, 1, C) {tuple(losses.shape)}"
            )
        return _sandwich(losses, params, lambda Jv, v: (Jv - (v @ g)[..., None]) / n)

    params, n = _parameters(model), len(X)
    operator = _operator(model, params, X, y, chunk, graph)
    g = torch.zeros(operator.shape[0], dtype=operator.dtype, device=operator.device)
    if centred:
        with torch.enable_grad():
            for part, labels in _parts(X, y, chunk):
                g += _flat(_gradient(len(part) / n * _mean(loss, model(part), labels), params), params)
    return operator


class Eigenpairs(NamedTuple):
    """Eigenvalues (k,), largest first, and unit eigenvectors (p, k)."""

    values: Tensor
    vectors: Tensor


def top_eigenpairs(
    operator: Operator,
    k: int,
    generator: torch.Generator,
    *,
    start: Eigenpairs | Tensor | None = None,
    tol: float = 1e-3,
    max_products: int = 1000,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues of A and their vectors, to |A v - λ v| <= tol |λ| for each of them.

    Lanczos in its plainest form: grow an orthonormal basis Q, take the best vectors Q s in it (Rayleigh-Ritz: QᵀAQ s =
    λ s), and grow it by the residual A v - λ v of the worst of them. `start` is what a call a few training steps ago
    returned, or any (p, m): fewer products suffice then; None starts from k random vectors. An eigenvalue that
    overtakes the followed ones is seen late, once A v has a part along its vector: follow one pair more than needed.
    NotConverged after max_products products; Diverged if one is not finite.
    """
    p = operator.shape[0]
    if not 1 <= k <= p:
        raise ValueError(f"k must be in 1..{p}, the number of parameters, not {k}")
    limit, kept = max(4 * k, 24), max(2 * k, 8)  # of the basis, before and after a restart from its best vectors
    new = start.vectors if isinstance(start, Eigenpairs) else start
    new = _random(p, k, operator, generator) if new is None else new.reshape(p, -1).to(operator.device, operator.dtype)
    Q, products = new[:, :0], 0
    AQ = Q
    while True:
        new = _orthonormal(new, Q)
        while new.shape[1] == 0 or Q.shape[1] + new.shape[1] < k:  # an invariant space of too few dimensions
            new = torch.cat([new, _orthonormal(_random(p, 1, operator, generator), torch.cat([Q, new], 1))], 1)
        Q, AQ, products = torch.cat([Q, new], 1), torch.cat([AQ, operator @ new], 1), products + new.shape[1]
        if not AQ[:, -1].isfinite().all():
            raise Diverged("a product with the operator is not finite")
        T = (Q.mT @ AQ).double()
        values, s = torch.linalg.eigh((T + T.mT) / 2)
        values, s = values.flip(0).to(Q.dtype), s.flip(1).to(Q.dtype)
        residuals = AQ @ s[:, :k] - Q @ s[:, :k] * values[:k]
        excess = residuals.norm(dim=0) - tol * values[:k].abs()
        if (excess <= 0).all():
            return Eigenpairs(values[:k], Q @ s[:, :k])
        if products >= max_products:
            raise NotConverged(
                f"{int((excess > 0).sum())} of {k} eigenpairs miss the tolerance {tol:g} after {products} products"
            )
        if Q.shape[1] >= limit:
            Q, AQ = Q @ s[:, :kept], AQ @ s[:, :kept]
        new = residuals[:, excess.argmax(), None]


def _random(p: int, k: int, operator: Operator, generator: torch.Generator) -> Tensor:
    return torch.randn(p, k, generator=generator, dtype=operator.dtype).to(operator.device)


def _orthonormal(new: Tensor, Q: Tensor) -> Tensor:
    """An orthonormal basis of what `new` (p, m) adds to the span of Q, without columns that are rounding errors."""
    m = Q.shape[1]
    for v in (new / new.norm(dim=0).clamp(min=torch.finfo(new.dtype).tiny)).unbind(1):
        for _ in range(2):  # Gram-Schmidt, once more for what rounding left of Q in a small rest
            v = v - Q @ (Q.mT @ v)
        size = v.norm()
        if size > 100 * torch.finfo(v.dtype).eps:
            v = v / size
            Q = torch.cat([Q, (v - Q @ (Q.mT @ v))[:, None]], 1)
    return Q[:, m:]


def _operator(
    model: nn.Module,
    params: list[Tensor],
    X: Tensor,
    y: Tensor,
    chunk: int | None,
    graph: Callable[[Tensor, Tensor, float], Product],
    whole_batch: bool = False,
) -> Operator:
    """An operator from graph(part of X, its y, its share of n), which returns that part's product."""
    _check(model, X, y, chunk, whole_batch)
    p = sum(q.numel() for q in params)
    made_at = [(q._version, q.data_ptr()) for q in params]

    def build(X: Tensor, y: Tensor, share: float) -> Product:
        with torch.enable_grad(), TwiceDifferentiable() as mode:
            one = graph(X, y, share)
        together = p <= BATCHED and not mode.used
        return lambda v: _rows(one, v, together)

    kept = build(X, y, 1.0) if chunk is None else None

    def product(v: Tensor) -> Tensor:
        if made_at != [(q._version, q.data_ptr()) for q in params]:
            raise Stale("the parameters have moved since this operator was made: make a new one")
        if kept is not None:
            return kept(v)
        total = torch.zeros_like(v)
        for part, labels in _parts(X, y, chunk):
            total += build(part, labels, len(part) / len(X))(v)
        return total

    return Operator(product, p, params[0].dtype, params[0].device)


def _sandwich(f: Tensor, params: list[Tensor], middle: Callable[[Tensor, Tensor], Tensor]) -> Product:
    """Jᵀ middle(J v, v) for the Jacobian J of f. Jᵀu is linear in u, so its own graph, walked back, gives J v."""
    u = torch.zeros_like(f, requires_grad=True)
    JTu = _flat(_gradient(f, params, u, create_graph=True), params)
    return lambda v: _back(f, params, middle(_back(JTu, [u], v).view(*v.shape[:-1], *f.shape), v))


def _rows(product: Product, v: Tensor, together: bool) -> Tensor:
    """The product with v (p,), or with each row of v (k, p)."""
    if v.dim() == 1:
        return product(v)
    parts = v.split(32) if together and len(v) > 1 else v
    return torch.cat([product(part).reshape(-1, v.shape[1]) for part in parts]) if len(v) else v


def _back(outputs: Tensor, inputs: list[Tensor], v: Tensor) -> Tensor:
    """Σ_a v_a ∂outputs_a/∂inputs, flat; v may have a leading axis of k. The graph stays."""
    batched = v.dim() > outputs.dim()
    if not outputs.requires_grad:  # linear in the inputs: their gradient is a constant
        return torch.zeros(
            *v.shape[: v.dim() - outputs.dim()], sum(q.numel() for q in inputs), dtype=v.dtype, device=v.device
        )
    found = torch.autograd.grad(outputs, inputs, v, retain_graph=True, allow_unused=True, is_grads_batched=batched)
    return _flat(found, inputs, v.shape[:1] if batched else ())


def _gradient(outputs: Tensor, inputs: list[Tensor], v: Tensor | None = None, create_graph: bool = False) -> tuple:
    return torch.autograd.grad(outputs, inputs, v, create_graph=create_graph, allow_unused=True)


def _flat(tensors: tuple[Tensor | None, ...], params: list[Tensor], batch: tuple[int, ...] = ()) -> Tensor:
    """Joined to (*batch, p); None, the gradient of a parameter that is not used, is 0."""
    pairs = zip(tensors, params, strict=True)
    return torch.cat([(q.new_zeros(*batch, q.numel()) if t is None else t.reshape(*batch, -1)) for t, q in pairs], -1)


def _mean(loss: Loss, f: Tensor, y: Tensor) -> Tensor:
    value = loss(f, y)
    if value.dim():
        raise ValueError(f"the loss must be one number, a mean over the samples, not of shape {tuple(value.shape)}")
    if not value.isfinite():
        raise Diverged(f"the loss is {value.item():g}: it has no curvature here")
    return value


def _parameters(model: nn.Module) -> list[Tensor]:
    params: list[Tensor] = [q for q in model.parameters() if q.requires_grad]
    if not params:
        raise ValueError("the model has no parameters that require a gradient")
    return params


def _parts(X: Tensor, y: Tensor, chunk: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    size = chunk or len(X)
    return zip(X.split(size), y.split(size), strict=True)


def _check(model: nn.Module, X: Tensor, y: Tensor, chunk: int | None, whole_batch: bool) -> None:
    if len(X) != len(y) or len(X) == 0:
        raise ValueError(f"X and y must hold the same samples, one or more, not {len(X)} and {len(y)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be 1 or more samples, or None for all at once, not {chunk}")
    bad = (
        (nn.modules.dropout._DropoutNd,)
        if whole_batch
        else (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    )
    found = [type(m).__name__ for m in model.modules() if m.training and isinstance(m, bad)]
    if found:
        raise ValueError(f"{found[0]} in training mode gives a sample no output of its own: call model.eval()")
