"""A convolutional network small enough to be attacked and certified on a laptop."""

from collections.abc import Sequence

import torch
from torch import nn


def small_cnn(image_shape: Sequence[int], classes: int, generator: torch.Generator, channels: int = 8) -> nn.Sequential:
    """Two convolutions 4x4 of stride 2 (c, then 2c channels), each with a ReLU, and a linear layer; float32.

    Input (n, *image_shape), sides that are multiples of 4. He initialisation from `generator`, zero biases. Strides
    in place of pooling make a forward pass about eight times cheaper, which is what smoothing and attacks are made of.
    """
    colours, height, width = image_shape
    if height % 4 or width % 4:
        raise ValueError(f"the image's sides must be multiples of 4, not {height} x {width}")
    layers = [
        nn.utils.skip_init(nn.Conv2d, colours, channels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.utils.skip_init(nn.Conv2d, channels, 2 * channels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.utils.skip_init(nn.Linear, 2 * channels * (height // 4) * (width // 4), classes),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)
