"""Convolutions whose second derivatives are as fast as their first ones.

A convolution's part in a loss is trilinear: T(x, w, δ) = ⟨conv(x, w), δ⟩. Its three partial gradients are `_Output`
(in δ), `_Input` (in x) and `_Weight` (in w), each bilinear in the other two, so the derivative of each is made of the
other two. PyTorch's own second derivative of a convolution takes a slower road with the samples for channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


class _Output(torch.autograd.Function):
    """conv(x, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = stride, padding, dilation, groups = how
        return aten.convolution(x, w, None, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        x, w = ctx.saved_tensors
        for_x, for_w, _ = ctx.needs_input_grad
        return (
            _Input.apply(u, w, x, ctx.how) if for_x else None,
            _Weight.apply(u, x, w, ctx.how) if for_w else None,
            None,
        )


class _Input(torch.autograd.Function):
    """The gradient of T in x, from δ and w; x gives its shape only."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, w: Tensor, x: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(delta, w)
        ctx.how = how
        return _backward(delta, x, w, how, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        delta, w = ctx.saved_tensors
        for_delta, for_w, *_ = ctx.needs_input_grad
        first = _Output.apply(u, w, ctx.how) if for_delta else None
        return first, _Weight.apply(delta, u, w, ctx.how) if for_w else None, None, None


class _Weight(torch.autograd.Function):
    """The gradient of T in w, from δ and x; w gives its shape only."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, x: Tensor, w: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(delta, x)
        ctx.how = how
        return _backward(delta, x, w, how, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        delta, x = ctx.saved_tensors
        for_delta, for_x, *_ = ctx.needs_input_grad
        first = _Output.apply(x, u, ctx.how) if for_delta else None
        return first, _Input.apply(delta, u, x, ctx.how) if for_x else None, None, None


def _backward(delta: Tensor, x: Tensor, w: Tensor, how: tuple, which: list[bool]) -> Any:
    stride, padding, dilation, groups = how
    return aten.convolution_backward(
        delta, x, w, None, stride, padding, dilation, False, [0] * len(stride), groups, which
    )


class TwiceDifferentiable(TorchFunctionMode):
    """Within `with TwiceDifferentiable():` a network's convolutions over one or two axes are those of this module.

    Outputs and derivatives are the same but for rounding. `used` tells whether there was such a convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.conv1d, torch.conv2d):
            return func(*args, **kwargs)
        given = (
            dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False))
            | kwargs
        )
        x, w, axes = given["input"], given["weight"], given["weight"].dim() - 2
        if x.dim() != w.dim() or isinstance(given.get("padding"), str):  # no batch axis, "same": PyTorch's own
            return func(*args, **kwargs)
        self.used = True
        how = [given.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
        how = [[h] * axes if isinstance(h, int) else list(h) * (axes // len(h)) for h in how]
        f = _Output.apply(x, w, (*how, given.get("groups", 1)))
        bias = given.get("bias")
        return f if bias is None else f + bias.view(-1, *[1] * axes)
