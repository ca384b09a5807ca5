"""The book's extensions on a tiny book, the explorers' specs, and the vendored files' sums."""

import copy
import json
import re
import sys
from base64 import b64decode
from hashlib import sha256
from io import BytesIO, StringIO
from pathlib import Path

import altair as alt
import numpy as np
import pytest
from PIL import Image
from practicum_fixtures import claim, control, repository, results, write
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from phenomena.explorers import MIME, THEORY, choice, picture, rows, show, slider, spec, spreads, theory_first
from practicum.results import save

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book/_ext"))

CONFIG = {
    "extensions": ["myst_nb", "sphinxcontrib.bibtex", "catalogue", "claims", "explorer", "freshness"],
    "master_doc": "index",
    "bibtex_bibfiles": ["toy.bib"],
    "claims_scoreboard": "board",
    "exclude_patterns": ["_build", "reproductions"],
    "myst_enable_extensions": ["dollarmath"],
    "nb_execution_mode": "cache",
    "nitpicky": True,
}
PEAK = [2.01, 2.02, 2.03, 2.04, 2.05]


def page(title: str, text: str, cells: str = "") -> str:
    front = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n  display_name: Python 3\n---\n"
    return f"{front}# {title}\n\n{text}\n\n" + (f"```{{code-cell}} ipython3\n{cells}\n```\n" if cells else "")


def build(root: Path) -> tuple[str, str]:
    """Build the tiny book; give what Sphinx said and its warnings."""
    status, warning = StringIO(), StringIO()
    with patch_docutils(), docutils_namespace():
        out = root / "_build"
        Sphinx(
            str(root), None, str(out / "html"), str(out / "trees"), "html", copy.deepcopy(CONFIG), status, warning
        ).build()
    return status.getvalue(), warning.getvalue()


def html(root: Path, name: str) -> str:
    return (root / f"_build/html/{name}.html").read_text()


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A start page and a scoreboard over one paper with fresh results."""
    paper_scale = claim(id="large", scale="paper", text="Also when large.")
    text = claim(role="core", text="The error peaks at $p = n$.", paper={"value": 3, "unit": "%"}, source="paper")
    repository(tmp_path, claims=[text, control(), paper_scale])
    columns = {"tail": [1.0] * 5, "peak": PEAK, "clean_tail": [1.0] * 5, "clean_peak": [0.9] * 5}
    save(results(tmp_path, **columns), tmp_path)
    write(tmp_path / "toy.bib", "@misc{toy, author={Toy, T.}, title={Toys}, year={2020}}\n")
    write(tmp_path / "board.md", "# Board\n\n```{scoreboard}\n```\n\n```{bibliography}\n```\n")
    write(tmp_path / "index.md", "# Start\n\n```{toctree}\nboard\n```\n\n{claim}`toy:peak`, {measured}`toy:peak`\n")
    return tmp_path


def test_a_picture_carries_its_pixels_in_sixteen_greys():
    pixels = np.linspace(-1, 1, 32).reshape(4, 8)
    head, _, data = picture(pixels, low=-1).partition(",")
    assert head == "data:image/png;base64"
    shown = np.asarray(Image.open(BytesIO(b64decode(data))), float) / 255
    assert shown.shape == (4, 8)
    np.testing.assert_allclose(shown, (pixels + 1) / 2, atol=1 / 30)


def test_spreads_are_the_rows_of_each_curve_with_mean_and_extremes():
    data = spreads(
        ({"q": 0.1, "curve": "test"}, [1, 2], [[1.0, 5.0], [3.0, 6.0]]), ({"q": 0.2, "curve": "train"}, [1], [[2], [4]])
    )
    assert data.values == [
        {"q": 0.1, "curve": "test", "x": 1, "mean": 2.0, "low": 1.0, "high": 3.0},
        {"q": 0.1, "curve": "test", "x": 2, "mean": 5.5, "low": 5.0, "high": 6.0},
        {"q": 0.2, "curve": "train", "x": 1, "mean": 3.0, "low": 2.0, "high": 4.0},
    ]


def test_roles_and_scoreboard(book: Path) -> None:
    assert not build(book)[1]
    start, board = html(book, "index"), html(book, "board")
    assert "✓ reproduced · 1.030 ± 0.016 % (5 seeds)" in start
    assert 'href="board.html#claim-toy-peak"' in start
    assert 'title="The error peaks at $p = n$."' in start
    assert ">2.030 ± 0.016</abbr>" in start
    assert "stale" not in start
    assert re.search(r'<tr[^>]*id="claim-toy-peak"', board)
    for count in ("✓ 2 reproduced", "✗ 0 not reproduced", "○ 1 not run", "Double descent", "smallest step"):
        assert count in board
    assert board.count("unchecked against the paper") == 2
    assert "Smaller." in board
    assert "0 added, 0 changed, 0 removed" in build(book)[0]


def test_the_catalogue_shows_what_groups_can_take_and_follows_the_cards(book: Path) -> None:
    keys = {key: f"The {key} *of* a_seed." for key in ("tail", "peak", "clean_tail", "clean_peak")}
    practical = {"size": "small", "keys": keys, "start": "Begin here.", "extensions": ["Go on."]}
    repository(book, "open", practical=practical, bib="toy", title="An open paper", theme="sgd-noise")
    (book / "reproductions/open/reproduce.py").unlink()
    write(book / "index.md", "# Start\n\n```{toctree}\nboard\n```\n\n```{catalogue}\n```\n")
    assert not build(book)[1]
    start = html(book, "index")
    for told in ("SGD noise", "An open paper", "For 1 group.", "Begin here.", "Go on.", "The tail *of* a_seed."):
        assert told in start
    assert start.count("Claims, setting and keys") == 1  # the other paper has no practical part
    assert "An open paper" not in html(book, "board")  # and groups' papers are not on the scoreboard
    card = book / "reproductions/open/paper.yml"
    write(card, card.read_text().replace("Begin here.", "Begin there."))
    build(book)
    assert "Begin there." in html(book, "index")


def test_table_on_the_page_itself(book: Path) -> None:
    text = "{claim}`toy:no-noise` {measured}`toy:peak:%` {measured}`toy:peak:.1f`\n\n```{claims} toy\n```"
    write(book / "index.md", f"# Start\n\n```{{toctree}}\nboard\n```\n\n{text}\n")
    assert not build(book)[1]
    start = html(book, "index")
    assert 'href="#claim-toy-no-noise"' in start
    assert "203.0 ± 1.6 %" in start
    assert ">2.0</abbr>" in start


def test_what_is_not_there_is_a_warning(book: Path) -> None:
    lines = ["{claim}`toy:peek`", "", "{claim}`toi:peak`", "", "{measured}`toy:peek`", "", "```{claims} toi", "```"]
    write(book / "index.md", "\n".join(["# Start", "```{toctree}", "board", "```", *lines]))
    warnings = build(book)[1]
    for warning in (
        "index.md:5: WARNING: toy:peek: toy: no claim 'peek' (did you mean 'peak'?",
        "index.md:7: WARNING: toi:peak: no paper 'toi' (did you mean 'toy'?",
        "index.md:9: WARNING: toy:peek: toy: seed 0 lacks the key 'peek'",
        "index.md:11: WARNING: no paper 'toi'",
    ):
        assert warning in warnings


def test_new_results_and_new_programs_show(book: Path) -> None:
    build(book)
    write(book / "phenomena/other.py", "CHANGED = 1\n")  # which the program does not import
    assert "0 added, 0 changed" in build(book)[0]
    write(book / "phenomena/base.py", "EDGE = 3\n")
    status, warnings = build(book)
    assert "0 added, 2 changed" in status
    assert not warnings
    assert ">stale</abbr>" in html(book, "index")
    assert "2 stale" in html(book, "board")
    assert "2.030 ± 0.016 (stale)" in html(book, "index")
    (book / "reproductions/toy/results.json").unlink()
    write(book / "index.md", "# Start\n\n```{toctree}\nboard\n```\n\n{claim}`toy:peak`\n")
    assert not build(book)[1]
    assert "○ not run" in html(book, "index")
    assert "0 added, 0 changed" in build(book)[0]


def test_an_edit_reruns_only_the_pages_that_import_it(book: Path) -> None:
    write(book / "index.md", "# Start\n\n```{toctree}\nboard\nuser\nother\nplain\n```\n")
    write(book / "user.md", page("User", "Text.", "import phenomena.laws\nprint('edge', phenomena.laws.EDGE)"))
    write(book / "other.md", page("Other", "Text.", "print('hello')"))
    write(book / "plain.md", "# Plain\n\nNo cells.\n")
    status, warnings = build(book)
    assert not warnings
    assert status.count("Executed notebook") == 2
    assert "edge 2" in html(book, "user")
    write(book / "phenomena/base.py", "EDGE = 30\n")
    status, warnings = build(book)
    assert not warnings
    assert status.count("Executed notebook") == 1
    assert "edge 30" in html(book, "user")
    write(book / "phenomena/base.py", "EDGE = 2\n")  # back again: the cache still has it
    assert "Executed notebook" not in build(book)[0]
    assert "edge 2" in html(book, "user")


def test_a_failed_page_is_run_again(book: Path) -> None:
    write(book / "index.md", "# Start\n\n```{toctree}\nboard\nbad\n```\n")
    write(book / "bad.md", page("Bad", "Text.", "1 / 0"))
    assert "Executing notebook failed" in build(book)[1]
    assert "Executing notebook failed" in build(book)[1]


def test_a_page_without_a_display_name_is_a_warning(book: Path) -> None:
    text = page("User", "Text.", "pass").replace("  display_name: Python 3\n", "")
    write(book / "index.md", text + "\n```{toctree}\nboard\n```\n")
    assert "no kernelspec display_name to carry the hash" in build(book)[1]


def test_an_explorer_in_a_page(book: Path) -> None:
    cell = (
        "import altair as alt\nfrom phenomena.explorers import rows, show\n"
        "chart = alt.Chart(rows(x=[1.0, 2.0])).mark_point().encode(x='x:Q')\nshow(chart, 'Two </script> points.')"
    )
    # the tiny package stands first on the kernel's path, and lends it the real module
    write(book / "phenomena/explorers.py", (ROOT / "phenomena/explorers.py").read_text())
    write(book / "index.md", page("Start", "```{toctree}\nboard\n```", cell))
    assert not build(book)[1]
    start = html(book, "index")
    figure = re.search(r'<figure class="explorer">.*?<script type="application/json">(.*?)</script></figure>', start)
    assert figure
    assert json.loads(figure[1])["description"] == "Two </script> points."
    assert "<noscript><p>Two &lt;/script&gt; points.</p></noscript>" in start
    assert "explorers.js" in start
    assert "explorers.js" not in html(book, "board")


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (8.123, 0.61, "8.1 ± 0.6"),
        (8.123, 0.0123, "8.123 ± 0.012"),
        (81.94, 0.96, "81.9 ± 1.0"),
        (12345.0, 678.0, "12300 ± 700"),
        (-7.04, 0.52, "−7.0 ± 0.5"),
        (5e-10, 2.6e-10, "(5 ± 3)·10⁻¹⁰"),
        (3.0, 0.0, "3 ± 0"),
        (0.0, 0.0, "0 ± 0"),
        (1234.5, 0.0, "1234 ± 0"),
        (2.0, float("nan"), "2"),
        (0.001, 4.0, "0 ± 4"),
    ],
)
def test_plus_minus(mean: float, sd: float, text: str) -> None:
    from claims import plus_minus

    assert plus_minus(mean, sd) == text


def test_a_spec_carries_short_numbers_the_style_and_the_alt_text() -> None:
    noise, at = slider("noise", np.arange(0, 1.05, 0.1), "Noise")
    data = rows(noise=[0.1 + 0.2, 1 / 3, np.nan], n=[1, 2, 3], kind="a")
    chart = alt.Chart(data).transform_filter(at).mark_line(**THEORY).encode(x="n:Q", y="noise:Q").add_params(noise)
    made = spec(chart.configure_axis(tickCount=3), "A line.")
    assert made["$schema"].endswith(f"/{alt.SCHEMA_VERSION}.json")
    (values,) = made.get("datasets", {}).values() or [made["data"]["values"]]
    assert values[0] == {"noise": 0.3, "n": 1, "kind": "a"}
    assert [row["noise"] for row in values] == [0.3, 0.3333, None]
    assert made["description"] == "A line."
    assert made["config"]["axis"]["tickCount"] == 3
    assert made["config"]["axis"]["labelColor"] == "currentColor"
    assert made["params"][0]["bind"] == {"input": "range", "min": 0.0, "max": 1.0, "step": 0.1, "name": "Noise"}
    assert theory_first("k", ["b"])["color"].to_dict()["scale"]["domain"] == ["theory", "b"]


def test_an_uneven_grid_wants_a_choice() -> None:
    with pytest.raises(ValueError, match="choice"):
        slider("n", [10, 100, 1000], "Samples")
    assert choice("n", [10, 100, 1000], "Samples")[1] == "datum['n'] == n"


def test_show_displays_nothing_but_the_chart_and_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    show(alt.Chart(rows(x=[1])).mark_point().encode(x="x:Q"), "A point.")
    assert set(shown[0]) == {MIME, "text/plain"}
    assert shown[0]["text/plain"] == "A point."


def test_vendored_files_are_what_the_list_says() -> None:
    vendor = ROOT / "book/_static/vendor"
    listed = re.findall(r"^([0-9a-f]{64})  (\S+)$", (vendor / "README.md").read_text(), re.M)
    there = {file.relative_to(vendor).as_posix(): file for file in vendor.rglob("*") if file.is_file()}
    assert {name for _, name in listed} == there.keys() - {"README.md"}
    for digest, name in listed:
        assert sha256(there[name].read_bytes()).hexdigest() == digest, name
        assert there[name].stat().st_size < 2_000_000
    folders = {file.parent.name for file in vendor.glob("*/LICENSE")}
    assert folders == {path.name for path in vendor.iterdir() if path.is_dir()}
    script = (ROOT / "book/_static/explorers.js").read_text() + (ROOT / "_config.yml").read_text()
    assert all(folder in script for folder in folders)
    assert alt.SCHEMA_VERSION.removeprefix("v") in {folder.removeprefix("vega-lite-") for folder in folders}
