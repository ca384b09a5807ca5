"""One style for every figure: the measured curve with its spread over seeds, the theory line, the threshold."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

# Okabe & Ito: told apart by colour-blind readers; in this order throughout the course. Theory is always black dashes.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
}
THEORY: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.6, "zorder": 4}

STYLE: dict[str, Any] = {
    "figure.figsize": (6.4, 3.9),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",  # a white card in dark mode too: the ink stays legible
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=list(COLOURS.values())),
}


def use_style() -> None:
    """Set the course's matplotlib style for this session (a notebook's first cell calls it)."""
    plt.rcParams.update(STYLE)  # type: ignore[arg-type]


def spread(ax: Axes, x: ArrayLike, runs: ArrayLike, label: str, colour: str, **kwargs: Any) -> None:
    """Draw the mean over seeds with a band from the lowest to the highest seed; x (m,), runs (seeds, m)."""
    runs = np.asarray(runs, float)
    if runs.ndim != 2 or len(runs) < 2:
        raise ValueError(f"a spread needs runs of shape (seeds, m) with at least two seeds, not {runs.shape}")
    ax.fill_between(x, runs.min(0), runs.max(0), color=COLOURS[colour], alpha=0.2, linewidth=0)
    ax.plot(x, runs.mean(0), color=COLOURS[colour], label=f"{label} ({len(runs)} seeds)", **kwargs)


def theory(ax: Axes, x: ArrayLike, y: ArrayLike, label: str = "theory") -> None:
    """Draw a theory line: black and dashed throughout the course; infinite values leave a gap."""
    y = np.where(np.isfinite(y), y, np.nan)
    ax.plot(x, y, label=label, **THEORY)


def threshold(ax: Axes, x: float, label: str) -> None:
    """Mark a critical value of the horizontal axis by a thin grey line with its name at the top."""
    ax.axvline(x, color="#777777", linewidth=1, zorder=1)
    ax.annotate(
        label, (x, 1), xycoords=("data", "axes fraction"), xytext=(4, -2), textcoords="offset points",
        va="top", fontsize=9, color="#555555",
    )  # fmt: skip
