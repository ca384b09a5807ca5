"""The convolutional networks of the papers' own experiments, residual and VGG-11, and their augmentation of images.

For the programs' paper scale: a laptop trains `phenomena.small_cnn` or a fully connected network instead.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def convolution(
    fan_in: int, fan_out: int, generator: torch.Generator, *, size: int = 3, stride: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution that keeps the image's sides (divided by the stride), He initialisation, zero biases."""
    conv = nn.utils.skip_init(
        nn.Conv2d, fan_in, fan_out, size, stride=stride, padding=size // 2, bias=bias, dtype=torch.float32
    )
    with torch.no_grad():
        conv.weight.normal_(0, math.sqrt(2 / (fan_in * size**2)), generator=generator)
        if conv.bias is not None:
            conv.bias.zero_()
    return conv


def linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """The last layer, its weights and biases uniform on (-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float32)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return layer


class ResidualBlock(nn.Module):
    """x -> relu(shortcut(x) + convolutions(x)), He et al. 2016, eq. 1 and figure 2.

    Where the channels grow, the shortcut takes every `stride`-th pixel and pads the new channels with zeros: option A
    of the paper, which has no parameters. Without batch normalisation the convolutions have biases, and the second
    starts at zero: each block is then the identity, and many blocks do not blow up (Zhang et al. 2019, Fixup).
    """

    def __init__(
        self, fan_in: int, fan_out: int, generator: torch.Generator, *, stride: int = 1, batch_norm: bool = True
    ):
        super().__init__()
        first = convolution(fan_in, fan_out, generator, stride=stride, bias=not batch_norm)
        second = convolution(fan_out, fan_out, generator, bias=not batch_norm)
        if batch_norm:
            self.branch = nn.Sequential(first, nn.BatchNorm2d(fan_out), nn.ReLU(), second, nn.BatchNorm2d(fan_out))
        else:
            nn.init.zeros_(second.weight)
            self.branch = nn.Sequential(first, nn.ReLU(), second)
        self.stride, self.new_channels = stride, fan_out - fan_in

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, fan_in, H, W) to (n, fan_out, H / stride, W / stride)."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return torch.relu(shortcut + self.branch(x))


def resnet(
    image_shape: Sequence[int],
    classes: int,
    blocks: int,
    generator: torch.Generator,
    *,
    width: int = 16,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Residual network of 6 `blocks` + 2 layers for small images (He et al. 2016, section 4.2), float32.

    Input (n, *image_shape). Three stages of `blocks` residual blocks with width, 2 width and 4 width channels, the
    second and third of which halve the image's sides; the mean over pixels; a linear layer. ResNet-20: blocks=3; 32: 5;
    56: 9; 110: 18. See ResidualBlock for the network without batch normalisation.
    """
    if blocks < 1 or width < 1:
        raise ValueError(f"a residual network needs at least 1 block a stage and 1 channel, not {blocks} and {width}")
    layers: list[nn.Module] = [convolution(image_shape[0], width, generator, bias=not batch_norm)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
    channels = width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            out = width * 2**stage
            layers.append(ResidualBlock(channels, out, generator, stride=stride, batch_norm=batch_norm))
            channels = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, classes, generator)]
    return nn.Sequential(*layers)


def vgg11(
    image_shape: Sequence[int],
    classes: int,
    generator: torch.Generator,
    *,
    batch_norm: bool = False,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """The eight convolutions of VGG-11 (Simonyan and Zisserman 2015, table 1, column A) and one linear layer, float32.

    Input (n, *image_shape) with sides that are multiples of 32; each of the five poolings halves them. The paper's
    three fully connected layers are for 224x224 images; with one in their place, 9.2 million parameters are left.
    """
    channels, height, width = image_shape
    if height % 32 or width % 32:
        raise ValueError(f"VGG-11 halves an image five times: its sides must be multiples of 32, not {height}x{width}")
    layers: list[nn.Module] = []
    for layer in VGG11:
        if isinstance(layer, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(convolution(channels, layer, generator, bias=not batch_norm))
        layers += [nn.BatchNorm2d(layer), activation()] if batch_norm else [activation()]
        channels = layer
    layers += [nn.Flatten(), linear(channels * (height // 32) * (width // 32), classes, generator)]
    return nn.Sequential(*layers)


def cropped_and_flipped(X: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Each image of X (n, C, H, W) padded with zeros, cropped to H x W at random, and mirrored with probability 1/2.

    He et al. 2016, section 4.2, with padding 4. Draws from `generator`, on its device; X may be on another.
    """
    n, _, height, width = X.shape
    device = generator.device
    top, left = (
        torch.randint(2 * padding + 1, (2, n), generator=generator, device=device).to(X.device).unsqueeze(-1)
    )  # (n, 1) each
    mirrored = (torch.rand(n, generator=generator, device=device) < 0.5).to(X.device).unsqueeze(-1)
    rows = top + torch.arange(height, device=X.device)
    columns = torch.arange(width, device=X.device).expand(n, width)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    padded = F.pad(X, (padding,) * 4)
    image = torch.arange(n, device=X.device)
    # Indices on both sides of the slice put the channels last.
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
