"""The NTK of a finite network, exact, for any torch module: inner products of weight gradients; and its linearisation.

    Θ(x, z)_ab = Σ_p ∂f_a(x)/∂θ_p · ∂f_b(z)/∂θ_p    over the parameters that require gradients

Three ways, one result (compare Novak, Sohl-Dickstein & Schoenholz 2022):

factorised   The gradient of a linear layer's weight is (backpropagated gradient B) ⊗ (layer's input A), so its inner
             products factorise: Θ = Σ_layers (A Aᵀ) ⊙ (B Bᵀ). No Jacobian is stored; fully connected networks only.
contraction  Jacobians J (n, C, P) of all P parameters, then J Jᵀ.
products     NTK-vector products: Θ(·, z) e_b = J (J(z)ᵀ e_b), one reverse and one forward pass, no Jacobian either.
"""

from collections.abc import Callable
from copy import deepcopy
from math import isqrt
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap
from torch.utils.flop_counter import FlopCounterMode

from phenomena import wide
from phenomena.errors import Diverged

Params = dict[str, Tensor]


class CannotFactorise(ValueError):  # noqa: N818
    """The network's gradients are not the outer products of linear layers' inputs and gradients."""


def empirical_ntk(
    model: nn.Module, X: Tensor, Z: Tensor | None = None, how: str = "auto", *, chunk: int | None = None
) -> Tensor:
    """Θ (n, n', C, C) between the C outputs at X (n, ...) and at Z (n', ...), or Z = X for None; exact, no gradients.

    `how` is "factorised", "contraction", "products" or "auto": factorised where it holds, fastest there at every width.
    Else a pair of inputs costs 2 C² P operations by contraction and about 2 C F by products, with P parameters and F
    operations a forward pass: contraction where C P <= F and the Jacobian fits (convolutions; few outputs), else
    products. `chunk` inputs are held at once; None takes what fits in a quarter of the free memory. Frozen parameters
    do not count. ValueError for a way that does not fit the network, and for layers whose output depends on the batch
    or on chance (call model.eval()); `Diverged` if Θ is not finite.
    """
    ways = {"factorised": _factorised, "contraction": _contraction, "products": _products}
    if how not in (*ways, "auto"):
        raise ValueError(f"how must be auto or one of {', '.join(ways)}, got {how!r}")
    _check_deterministic(model)
    size = _size(model, X)
    if how in ("auto", "factorised"):
        try:
            _check_factors(model, X[:1])
            how = "factorised"
        except CannotFactorise:
            if how == "factorised":
                raise
            small = size.outputs * size.parameters <= size.flops and 2 * size.jacobian <= size.budget
            how = "contraction" if small else "products"
    ntk = ways[how](model, X, Z, size, chunk)
    if Z is None:
        ntk = (ntk + ntk.transpose(0, 1).transpose(2, 3)) / 2  # exactly symmetric, not only to rounding
    if not ntk.isfinite().all():
        raise Diverged("the NTK is not finite: the network's weights or inputs are too large, or NaN")
    return ntk


def linearised(model: nn.Module) -> "Linearised":
    """f_lin(x) = f(θ₀; x) + J(x) Δ: a module whose parameters are Δ, the change of the weights, zero at first.

    Train it as the network itself, with `.parameters()` and backward(); it is a linear model with the NTK of `model` at
    θ₀ at all times (Lee et al. 2019). The model is copied, so training one does not touch the other.
    """
    _check_deterministic(model)
    return Linearised(model)


class Linearised(nn.Module):
    """See `linearised`; Δ is `change`, one parameter a trainable parameter of the network, in its order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        trainable, rest = _state(model)
        self.change = nn.ParameterList([torch.zeros_like(p) for p in trainable.values()])
        # Buffers move with .to(device), but their names may hold no dots.
        self._trainable = {name: f"trainable_{i}" for i, name in enumerate(trainable)}
        self._rest = {name: f"rest_{i}" for i, name in enumerate(rest)}
        for name, value in (trainable | rest).items():
            self.register_buffer((self._trainable | self._rest)[name], value.clone())
        # Of the model itself only the structure is needed: without memory, and in a list, out of sight of parameters().
        self._structure = [deepcopy(model).to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        """f(θ₀; x) + J(x) Δ by one Jacobian-vector product."""
        theta0 = {name: self.get_buffer(buffer) for name, buffer in self._trainable.items()}
        rest = {name: self.get_buffer(buffer) for name, buffer in self._rest.items()}
        delta = dict(zip(theta0, self.change, strict=True))
        return sum(jvp(lambda theta: functional_call(self._structure[0], (theta, rest), (x,)), (theta0,), (delta,)))


# Factorised

Linear = nn.Linear | wide.Linear


class Call(NamedTuple):
    """A linear layer's input and output in one forward pass."""

    layer: Linear
    A: Tensor
    output: Tensor


class Factors(NamedTuple):
    """What one linear layer contributes: its inputs A (n, d_in) and the gradients B (n, C, d_out) of its outputs."""

    A: Tensor
    B: Tensor
    weight: bool  # does the weight learn?
    bias: float  # the bias's factor β, 0 for none or a frozen one


def _factorised(model: nn.Module, X: Tensor, Z: Tensor | None, size: "Size", chunk: int | None) -> Tensor:
    pairs = isqrt(max(1, size.budget // (8 * size.itemsize * size.outputs**2)))
    chunk = chunk or max(1, min(pairs, size.budget // (4 * size.outputs * size.activations * size.itemsize)))
    return _pairwise(lambda rows: _factors(model, rows), _factorised_product, X, Z, chunk)


def _factorised_product(left: list[Factors], right: list[Factors]) -> Tensor:
    """Σ_layers (A Aᵀ [+ β²]) ⊙ (B Bᵀ)."""
    ntk: Tensor | float = 0.0
    for one, other in zip(left, right, strict=True):
        AA = (one.A @ other.A.mT if one.weight else 0.0) + one.bias**2 * one.A.new_ones(len(one.A), len(other.A))
        BB = torch.tensordot(one.B, other.B, dims=([2], [2]))  # (n, C, n', C)
        ntk = ntk + AA[:, None, :, None] * BB
    assert isinstance(ntk, Tensor)
    return ntk.transpose(1, 2)


@torch.enable_grad()
def _factors(model: nn.Module, X: Tensor) -> list[Factors]:
    """A and B of each layer that learns, from one forward pass and one backward pass an output."""
    f, calls = _record(model, X, _linear_layers(model))
    outputs = [call.output for call in calls]
    gradients = [
        torch.autograd.grad(f[:, a].sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for a in range(f.shape[1])
    ]
    return [
        Factors(call.A, torch.stack(B, dim=1), call.layer.weight.requires_grad, _bias(call.layer))
        for call, B in zip(calls, zip(*gradients, strict=True), strict=True)
    ]


def _linear_layers(model: nn.Module) -> list[Linear]:
    """The linear layers that learn, if every parameter that learns is in one of them."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | wide.Linear)]
    layers = [m for m in layers if any(p.requires_grad for p in m.parameters(recurse=False))]
    owned = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in owned:
            raise CannotFactorise(f"parameter {name} is in no linear layer; how='contraction' takes any layer")
    return layers


def _record(model: nn.Module, X: Tensor, layers: list[Linear]) -> tuple[Tensor, list[Call]]:
    """The outputs f (n, C), and what each layer took in and gave out on the way."""
    calls: list[Call] = []

    def record(layer: Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append(Call(layer, inputs[0].detach(), output))
        return output.clone()  # so that an in-place activation leaves the recorded output alone

    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        f = model(X).reshape(len(X), -1)
    finally:
        for hook in hooks:
            hook.remove()
    if len({call.layer for call in calls}) < len(calls):
        raise CannotFactorise("a linear layer is used more than once; how='contraction' handles shared weights")
    for call in calls:
        if call.A.ndim != 2 or len(call.A) != len(X):
            raise CannotFactorise(
                f"layer {call.layer} sees inputs of shape {tuple(call.A.shape)}, not one vector an example; "
                "how='contraction' takes any layer"
            )
    return f, calls


def _bias(layer: Linear) -> float:
    """The factor of the bias, 0 if there is none or it is frozen."""
    learns = layer.bias is not None and layer.bias.requires_grad
    return layer.beta if learns and isinstance(layer, wide.Linear) else float(learns)


@torch.enable_grad()
def _check_factors(model: nn.Module, x: Tensor) -> None:
    """The gradient at x (1, ...) must be as long as its outer products say; else weights act outside their layers."""
    learning = [p for p in model.parameters() if p.requires_grad]
    f = model(x).sum()
    if not f.requires_grad:
        raise CannotFactorise("the outputs depend on no parameter that requires gradients")
    want = torch.autograd.grad(f, learning, allow_unused=True, materialize_grads=True)
    parts = _factors(model, x)
    total = sum(float((g**2).sum()) for g in want)
    have = sum(float((p.A[0] @ p.A[0] * p.weight + p.bias**2) * (p.B[0].sum(0) @ p.B[0].sum(0))) for p in parts)
    if abs(total - have) > 1e-3 * total:
        raise CannotFactorise(
            "the network's gradients are not those of its linear layers (a weight is used outside of its layer?); "
            "how='contraction' takes any network"
        )


# Contraction


def _contraction(model: nn.Module, X: Tensor, Z: Tensor | None, size: "Size", chunk: int | None) -> Tensor:
    trainable, rest = _state(model)

    def f(theta: Params, x: Tensor) -> Tensor:
        return functional_call(model, (theta, rest), (x[None],)).reshape(-1)

    def jacobians(rows: Tensor) -> list[Tensor]:
        J = vmap(jacrev(f), in_dims=(None, 0))(trainable, rows)
        return [part.flatten(start_dim=2) for part in J.values()]  # (n, C, P_part) each

    def product(left: list[Tensor], right: list[Tensor]) -> Tensor:
        parts = (torch.tensordot(a, b, dims=([2], [2])) for a, b in zip(left, right, strict=True))
        return sum(parts, start=left[0].new_zeros(())).transpose(1, 2)

    return _pairwise(jacobians, product, X, Z, chunk or max(1, size.budget // (2 * size.jacobian)))


def _pairwise(features: Callable, product: Callable, X: Tensor, Z: Tensor | None, chunk: int) -> Tensor:
    """Θ by blocks: `product` of the features of some rows of X and some of Z; half of the blocks if Z = X."""
    K: Tensor | None = None
    right_rows = X if Z is None else Z
    for i in range(0, len(X), chunk):
        left = features(X[i : i + chunk])
        for j in range(0, i + 1 if Z is None else len(right_rows), chunk):
            right = left if Z is None and i == j else features(right_rows[j : j + chunk])
            block = product(left, right)
            if K is None:
                K = block.new_empty(len(X), len(right_rows), *block.shape[2:])
            K[i : i + chunk, j : j + chunk] = block
            if Z is None:
                K[j : j + chunk, i : i + chunk] = block.transpose(0, 1).transpose(2, 3)
    assert K is not None
    return K


# Products


def _products(model: nn.Module, X: Tensor, Z: Tensor | None, size: "Size", chunk: int | None) -> Tensor:
    trainable, rest = _state(model)
    right = X if Z is None else Z

    def f(theta: Params, x: Tensor) -> Tensor:
        return functional_call(model, (theta, rest), (x,)).reshape(len(x), -1)

    def column(z: Tensor, e: Tensor, rows: Tensor) -> Tensor:  # Θ(rows, z) e, (n, C)
        transposed = vjp(lambda theta: f(theta, z[None])[0], trainable)[1]
        return jvp(lambda theta: f(theta, rows), (trainable,), transposed(e))[1]

    columns = vmap(column, in_dims=(0, 0, None))
    C = size.outputs
    held = chunk or max(1, min(len(X), size.parameters // max(1, size.activations)))
    at_once = max(1, size.budget // (4 * (size.parameters + 2 * held * size.activations) * size.itemsize))
    which = torch.arange(len(right) * C, device=X.device)  # pairs (z, b)
    blocks = []
    for rows in X.split(held):
        parts = [
            columns(right[part // C], torch.eye(C, dtype=size.dtype, device=X.device)[part % C], rows)
            for part in which.split(at_once)
        ]
        blocks.append(torch.cat(parts).reshape(len(right), C, len(rows), C).permute(2, 0, 3, 1))
    return torch.cat(blocks)


# What the ways share


class Size(NamedTuple):
    """What decides time and memory: numbers for a single input, and the bytes to spend."""

    outputs: int
    parameters: int
    activations: int
    flops: int  # of one forward pass
    itemsize: int
    dtype: torch.dtype
    budget: int

    @property
    def jacobian(self) -> int:
        """Bytes that the Jacobian of one input takes, with the activations of its backward passes."""
        return self.outputs * (self.parameters + 3 * self.activations) * self.itemsize


def _size(model: nn.Module, X: Tensor) -> Size:
    activations = 0

    def count(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, Tensor) else 0

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            f = model(X[:1])
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(f, Tensor) or len(f) != 1:
        raise ValueError("empirical_ntk needs a model from (n, ...) inputs to one (n, ...) tensor of outputs")
    if not f.isfinite().all():
        raise Diverged("the network's outputs are not finite: its weights or inputs are too large, or NaN")
    with torch.no_grad():
        batch = model(X[:16])  # one output may be near 0: the scale of rounding errors is that of several
    if not torch.allclose(f, batch[:1], rtol=1e-3, atol=1e-3 * float(batch.abs().max())):
        raise ValueError("an output depends on the other inputs of its batch, or on chance, so the model has no NTK")
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not parameters:
        raise ValueError("no parameter of the model requires gradients, so it has no NTK")
    free = torch.cuda.mem_get_info(X.device)[0] if X.is_cuda else psutil.virtual_memory().available
    flops = counter.get_total_flops()
    return Size(f.numel(), parameters, max(1, activations), flops, f.element_size(), f.dtype, free // 4)


def _state(model: nn.Module) -> tuple[Params, Params]:
    """The parameters that learn, and everything else that the output depends on: frozen parameters and buffers."""
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    return trainable, frozen | {name: b.detach() for name, b in model.named_buffers()}


def _check_deterministic(model: nn.Module) -> None:
    for name, m in model.named_modules():
        batch = isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or m.running_mean is None)
        chance = isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0
        if batch or chance:
            why = "depends on the rest of the batch" if batch else "is random"
            raise ValueError(f"the output of layer {name} ({type(m).__name__}) {why}; call model.eval() for an NTK")
