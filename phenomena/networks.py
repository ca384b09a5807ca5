"""Fully connected networks, f(x) = W_L a(... a(W_1 x + b_1) ...) + b_L, drawn from an explicit generator."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn


def mlp(
    sizes: Sequence[int],
    generator: torch.Generator,
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    bias: bool = True,
    init: Literal["torch", "he"] = "torch",
) -> nn.Sequential:
    """Network of layer sizes (d, h_1, ..., C), float32; `activation` makes one module a hidden layer.

    init "torch" is PyTorch's default, which most papers use without a word: W_ij and b_i uniform on
    (-1/sqrt(fan_in), 1/sqrt(fan_in)), variance 1/(3 fan_in). "he" (He et al. 2015): W_ij ~ N(0, 2/fan_in),
    b = 0, which keeps the size of ReLU activations from layer to layer. Linear: activation=nn.Identity.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"a network needs at least two layer sizes, each 1 or more, not {list(sizes)}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        # skip_init: nn.Linear's own initialisation would draw from torch's global generator
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias, dtype=torch.float32)
        with torch.no_grad():
            if init == "torch":
                for parameter in linear.parameters():
                    parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            elif init == "he":
                linear.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                if bias:
                    linear.bias.zero_()
            else:
                raise ValueError(f"init is 'torch' or 'he', not {init!r}")
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def n_parameters(model: nn.Module) -> int:
    """Count the trainable numbers of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def cnn5(image_shape: Sequence[int], k: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    """Four Conv3x3-BatchNorm-ReLU-MaxPool blocks of k, 2k, 4k, 8k channels and a linear layer (Nakkiran et al. 2020).

    Input (n, *image_shape) with sides that are multiples of 32; He initialisation from `generator`, zero biases.
    """
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for out, pool in zip((k, 2 * k, 4 * k, 8 * k), (1, 2, 2, 8), strict=True):
        conv = nn.utils.skip_init(nn.Conv2d, channels, out, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(pool)]
        channels = out
    layers += [nn.Flatten(), nn.utils.skip_init(nn.Linear, 8 * k * (height // 32) * (width // 32), classes)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)
