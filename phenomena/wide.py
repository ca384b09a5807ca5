"""Networks of finite width in the NTK parametrisation: N(0, 1) weights, and the scale in the forward pass.

As their width grows they tend to the kernels of `infinite_width` and `convolutional_ntk`, under the same equations.
"""

from math import asin, pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

C_SIGMA = {"relu": 2.0, "erf": pi / (2 * asin(2 / 3))}  # 1/E[σ(z)²], z ~ N(0, 1)
SIGMA = {"relu": torch.relu, "erf": torch.erf}


class Linear(nn.Module):
    """f = W g + β b, W (d_out, d_in) and b (d_out,) all N(0, 1), without b for β = 0; (n, d_in) to (n, d_out)."""

    def __init__(self, d_in: int, d_out: int, beta: float, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = _normal(d_out, d_in, generator=generator, dtype=dtype)
        self.bias = _normal(d_out, generator=generator, dtype=dtype) if beta else None
        self.beta = beta

    def forward(self, g: Tensor) -> Tensor:
        """f = W g + β b for each row g."""
        f = functional.linear(g, self.weight)
        return f if self.bias is None else f + self.beta * self.bias


class Convolution(nn.Module):
    """x̃ = Σ_channels W * x, W (C_out, C_in, q, q) all N(0, 1), zero padding, stride 1; (n, C_in, H, W) images."""

    def __init__(self, c_in: int, c_out: int, q: int, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = _normal(c_out, c_in, q, q, generator=generator, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x̃ of each image x."""
        return functional.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)


class Activation(nn.Module):
    """g = √(c_σ/fan) σ(f), fan = the number of terms in the next layer's sums."""

    def __init__(self, activation: str, fan: int) -> None:
        super().__init__()
        if activation not in SIGMA:
            raise ValueError(f"the wide networks know the activations {', '.join(SIGMA)}, not {activation!r}")
        self.activation = activation
        self.scale = sqrt(C_SIGMA[activation] / fan)

    def forward(self, f: Tensor) -> Tensor:
        """g of each entry of f."""
        return self.scale * SIGMA[self.activation](f)


class AveragePool(nn.Module):
    """The mean over positions (global average pooling): (n, C, H, W) to (n, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(1/P) Σ_ij x_ij of each channel."""
        return x.mean(dim=(2, 3))


def ntk_mlp(
    d: int,
    width: int,
    depth: int,
    generator: torch.Generator,
    activation: str = "relu",
    beta: float = 0.0,
    outputs: int = 1,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """The fully connected network of `infinite_width`, all hidden widths equal: (n, d) to (n, outputs).

    f^h = W^h g^(h-1) + β b^h and g^h = √(c_σ/width) σ(f^h) for h = 1..depth (Arora et al. 2019, Section 3).
    Weights come from the generator and lie on its device.
    """
    _check(depth=depth, width=width, d=d, outputs=outputs)
    layers: list[nn.Module] = []
    for h in range(depth):
        layers += [Linear(width if h else d, width, beta, generator, dtype), Activation(activation, width)]
    return nn.Sequential(*layers, Linear(width, outputs, beta, generator, dtype))


def ntk_cnn(
    image_shape: tuple[int, int, int],
    channels: int,
    depth: int,
    generator: torch.Generator,
    gap: bool = False,
    outputs: int = 1,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """The ReLU network of `convolutional_ntk.cntk`, 3 x 3 filters: (n, C, H, W) to (n, outputs).

    x̃^h = W^h * x^(h-1) and x^h = √(c_σ/(channels q²)) σ(x̃^h), h = 1..depth; then weights of their own at every
    position, or (gap) the mean over positions and weights per channel (Arora et al. 2019, Section 4).
    Weights come from the generator and lie on its device.
    """
    C, H, W = image_shape
    q = 3
    _check(depth=depth, channels=channels, C=C, H=H, W=W, outputs=outputs)
    layers: list[nn.Module] = []
    for h in range(depth):
        convolution = Convolution(channels if h else C, channels, q, generator, dtype)
        layers += [convolution, Activation("relu", channels * q**2)]
    pool, features = (AveragePool(), channels) if gap else (nn.Flatten(), channels * H * W)
    return nn.Sequential(*layers, pool, Linear(features, outputs, 0.0, generator, dtype))


def _normal(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=generator, dtype=dtype, device=generator.device))


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"a wide network needs {name} >= 1, got {size}")
