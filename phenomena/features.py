"""Random features: a two-layer network whose first layer is drawn once and never trained."""

import torch
from torch import Tensor


def random_relu(d: int, p: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Weights W (d, p) of p random ReLU features of a d-dimensional input, w_j ~ N(0, I_d / d)."""
    return torch.randn(d, p, generator=generator, dtype=dtype) / d**0.5


def relu_features(X: Tensor, W: Tensor) -> Tensor:
    """Φ(X) = max(XW, 0) √(2/p), (n, p): in expectation ‖Φ(x)‖² = ‖x‖²/d at every p, so λ means the same."""
    return torch.relu(X @ W) * (2 / W.shape[1]) ** 0.5
