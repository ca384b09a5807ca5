"""Explorers: altair charts with sliders over precomputed grids, alive in the book and in JupyterLab.

A chart filters inline rows in the browser, so it needs no kernel and no network. Both the book and JupyterLab 4
draw Vega-Lite 5 (which altair 5.5 writes) from the mime type below. Colours are Okabe and Ito's; `currentColor`
is the page's own foreground, so axes and theory lines follow a dark theme and print by themselves.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from phenomena import plotting

MIME = "application/vnd.vegalite.v5+json"
FOREGROUND = "currentColor"
COLOURS = tuple(plotting.COLOURS.values())
THEORY: dict[str, Any] = {"stroke": FOREGROUND, "strokeDash": [6, 4], "strokeWidth": 2}  # mark_line(**THEORY)
_TEXT = {"labelColor": FOREGROUND, "titleColor": FOREGROUND, "labelFontSize": 13, "titleFontSize": 14}
CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"continuousWidth": 560, "continuousHeight": 320, "stroke": None},
    "axis": {
        **_TEXT,
        "titleFontWeight": 500,
        "domainColor": FOREGROUND,
        "tickColor": FOREGROUND,
        "gridColor": FOREGROUND,
        "gridOpacity": 0.12,
        "labelOverlap": True,
        "tickCount": 6,
    },
    "legend": {**_TEXT, "labelLimit": 0, "orient": "top", "title": None, "symbolStrokeWidth": 3, "symbolSize": 220},
    "header": _TEXT,
    "title": {"color": FOREGROUND, "fontSize": 15, "fontWeight": 600, "anchor": "start"},
    # the alt text speaks for the marks; a thousand labelled points would not
    "mark": {"aria": False, "color": COLOURS[0]},
    "line": {"strokeWidth": 2.5},
    "rule": {"color": FOREGROUND},
    "text": {"color": FOREGROUND, "fontSize": 13},
    "range": {"category": list(COLOURS)},
}


def rows(digits: int = 4, **columns: Any) -> alt.Data:
    """Equally long (or scalar) columns as inline rows, rounded to `digits` significant digits."""
    arrays = np.broadcast_arrays(*(np.asarray(column) for column in columns.values()))
    cells = [[_short(value, digits) for value in np.ravel(array).tolist()] for array in arrays]
    return alt.Data(values=[dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)])


def spreads(*curves: tuple[dict[str, Any], ArrayLike, ArrayLike]) -> alt.Data:
    """Rows of curves over seeds, each given as (labels, x (m,), runs (seeds, m)).

    Columns: the labels, x, and mean, low and high over the seeds, as `plotting.spread` draws them.
    """
    parts = []
    for labels, x, runs in curves:
        r = np.asarray(runs, float)
        parts.append(np.broadcast_arrays(*labels.values(), np.asarray(x), r.mean(0), r.min(0), r.max(0)))
    names = [*curves[0][0], "x", "mean", "low", "high"]
    columns: dict[str, Any] = {
        name: np.concatenate(part) for name, part in zip(names, zip(*parts, strict=True), strict=True)
    }
    return rows(**columns)


def picture(pixels: ArrayLike, low: float = 0.0, high: float = 1.0) -> str:
    """Numbers (height, width) as the address of a grey picture, black at `low`, for mark_image: 0.5 kB a digit."""
    grey = np.clip((np.asarray(pixels, float) - low) / (high - low), 0, 1)
    file = io.BytesIO()
    Image.fromarray((17 * np.rint(15 * grey)).astype(np.uint8)).save(file, "PNG", optimize=True)  # 16 greys: smaller
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _short(value: Any, digits: int) -> Any:
    """A number short enough to be carried by a page; what is not finite becomes a gap."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if np.isfinite(value) else None
    return value


def slider(field: str, values: Sequence[float], label: str, start: float | None = None) -> tuple[alt.Parameter, Any]:
    """A slider over the evenly spaced grid `values` of `field`, and the filter that keeps its rows."""
    grid = sorted(float(f"{value:.4g}") for value in values)
    step = float(f"{(grid[-1] - grid[0]) / (len(grid) - 1):.4g}")
    if not np.allclose(np.diff(grid), step, rtol=1e-2):
        raise ValueError(f"the values of {field!r} are not evenly spaced: use choice()")
    bind = alt.binding_range(min=grid[0], max=grid[-1], step=step, name=label)
    parameter = alt.param(name=field, value=grid[0] if start is None else start, bind=bind)
    return parameter, f"abs(datum[{field!r}] - {field}) < {step / 2:.4g}"


def choice(field: str, options: Sequence[Any], label: str, start: Any = None) -> tuple[alt.Parameter, Any]:
    """A drop-down list over `options` of `field`, and the filter that keeps its rows."""
    bind = alt.binding_select(options=list(options), name=label)
    parameter = alt.param(name=field, value=options[0] if start is None else start, bind=bind)
    return parameter, f"datum[{field!r}] == {field}"


def theory_first(field: str, names: Sequence[str], theory: str = "theory") -> dict[str, Any]:
    """Colour and dash by `field`: the dashed theory first in the legend, then `names` in colour."""
    domain, colours = [theory, *names], [FOREGROUND, *COLOURS[: len(names)]]
    dashes = [THEORY["strokeDash"], *([[1, 0]] * len(names))]
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=domain, range=colours)),
        "strokeDash": alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=domain, range=dashes)),
    }


def spec(chart: alt.TopLevelMixin, alt_text: str) -> dict[str, Any]:
    """The chart's Vega-Lite, the course's style under its own, and `alt_text` for who cannot see it."""
    with alt.theme.enable("none"):
        own = chart.to_dict()
    config = {**CONFIG, **own.pop("config", {})}
    for part in CONFIG.keys() & config.keys():
        if isinstance(CONFIG[part], dict):
            config[part] = {**CONFIG[part], **config[part]}
    # JupyterLab hands usermeta to vega-embed: svg, since a canvas would not follow the theme's foreground
    embed = {"renderer": "svg", "actions": False}
    return {**own, "config": config, "description": alt_text, "usermeta": {"embedOptions": embed}}


def show(chart: alt.TopLevelMixin, alt_text: str) -> None:
    """Display an explorer, in the book and in JupyterLab alike; `alt_text` says what is to be seen."""
    from IPython.display import display

    display({MIME: spec(chart, alt_text), "text/plain": alt_text}, raw=True)
