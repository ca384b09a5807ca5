"""Checks of the kernel lab, in the order of its parts: limits, networks, convolutions."""

from phenomena.checks.kernels.convolutions import cntk_layer
from phenomena.checks.kernels.limits import arc_cosine, ntk
from phenomena.checks.kernels.networks import empirical_ntk, flow, train_scaled

__all__ = ["arc_cosine", "cntk_layer", "empirical_ntk", "flow", "ntk", "train_scaled"]
