"""Draw the README's figure from the committed results: `python book/readme_figure.py`."""

from pathlib import Path

import matplotlib.pyplot as plt

from phenomena.plotting import spread, threshold, use_style
from practicum.runs import ROOT, Results, load_results

TARGET = Path(__file__).parent / "_static" / "readme.png"


def results() -> Results:
    """What the figure shows."""
    found = load_results(ROOT, "nakkiran2021deep")
    if found is None:
        raise SystemExit("nakkiran2021deep has no results.json: run make reproduce PAPER=nakkiran2021deep")
    return found


def draw(deep: Results) -> None:
    """The first figure of the double-descent chapter, with the date of its results in the file's metadata."""
    use_style()
    width = deep.curve("width")[0]
    fig, ax = plt.subplots(figsize=(6.8, 3.2))
    spread(ax, width, deep.curve("net_risk"), "20 % wrong labels", "orange", marker="o")
    spread(ax, width, deep.curve("net_clean_risk"), "true labels", "blue", marker="o")
    threshold(ax, deep.values("net_threshold_width").mean(), "training\nerror ≤ 1 %")
    ax.set(xscale="log", yscale="log", ylim=(0.1, 7), xlabel="hidden units", ylabel="test risk (squared error)")
    ax.set_xticks([1, 2, 5, 10, 20, 50, 96], [1, 2, 5, 10, 20, 50, 96])
    ax.set_yticks([0.2, 0.5, 1, 2, 4], [0.2, 0.5, 1, 2, 4])
    ax.minorticks_off()
    ax.legend()
    fig.savefig(TARGET, dpi=130, metadata={"Description": f"results of {deep.date}, {deep.hash}"})


if __name__ == "__main__":
    draw(results())
