"""What the checks of the SGD-noise lab share."""

from typing import Any

import torch
from torch import Tensor

from phenomena.checks import Wrong

Mistakes = list[tuple[object, str]]  # what a mistake gives, and its hint


def rotation(p: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (p, p), float64."""
    return torch.linalg.qr(torch.randn(p, p, generator=generator, dtype=torch.float64)).Q


def pair(got: Any, what: str) -> tuple[Any, Any]:
    """The two parts of an answer; `what` says what the contract asks for."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Wrong(f"it returns a {type(got).__name__}, the contract says {what}.")
    return got[0], got[1]
