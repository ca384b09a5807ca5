"""Checks of the SGD-noise lab, in its order: a parabola, gradients, curvature, nudging, sparse solutions."""

from phenomena.checks.sgd_noise.curvature import hessian_product, top_eigenvalue
from phenomena.checks.sgd_noise.diagonal import diagonal_step
from phenomena.checks.sgd_noise.gradients import batch_covariance, sample_gradients
from phenomena.checks.sgd_noise.nudging import nudged_step
from phenomena.checks.sgd_noise.quadratic import stationary_covariance

__all__ = [
    "batch_covariance",
    "diagonal_step",
    "hessian_product",
    "nudged_step",
    "sample_gradients",
    "stationary_covariance",
    "top_eigenvalue",
]
