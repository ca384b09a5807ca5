"""What makes a curve a double descent: two valleys and a peak between them."""

import numpy as np
from numpy.typing import ArrayLike


def peak_ratio(risk: ArrayLike) -> float:
    """How many times higher the peak stands than the higher of the valleys at its two sides; 1 without a peak.

    max_j risk_j / max(min_{i<j} risk_i, min_{l>j} risk_l), at least 1. Takes a finite positive curve (m,).
    """
    risk = _curve(risk)
    before = np.minimum.accumulate(risk)
    after = np.minimum.accumulate(risk[::-1])[::-1]
    return float((risk / np.maximum(before, after)).max())


def valleys(risk: ArrayLike) -> tuple[int, int, int]:
    """Indices (first valley, peak, second valley) of the highest peak by `peak_ratio`; ValueError without one."""
    risk = _curve(risk)
    before = np.minimum.accumulate(risk)
    after = np.minimum.accumulate(risk[::-1])[::-1]
    peak = int((risk / np.maximum(before, after)).argmax())
    if peak in (0, len(risk) - 1) or risk[peak] <= max(before[peak], after[peak]):
        raise ValueError("the curve has no peak between two valleys")
    return int(risk[:peak].argmin()), peak, peak + 1 + int(risk[peak + 1 :].argmin())


def _curve(risk: ArrayLike) -> np.ndarray:
    risk = np.asarray(risk, float)
    if risk.ndim != 1 or len(risk) < 3 or not np.isfinite(risk).all() or (risk <= 0).any():
        raise ValueError("a risk curve is at least three finite positive numbers")
    return risk
