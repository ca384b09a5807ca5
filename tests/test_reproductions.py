"""Every committed reproduction: its program at smoke scale, its results, and the README's figure of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from practicum.cards import load_cards
from practicum.runs import ROOT, is_stale, load_results

CARDS = load_cards(ROOT)


def smoke(paper: str, seed: int, out: Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "reproductions" / paper / "reproduce.py"
    command = [sys.executable, str(program), "--seed", str(seed), "--scale", "smoke", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("paper", CARDS)
def test_the_program_writes_what_the_card_reads_and_the_seed_decides(paper, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        done = smoke(paper, seed, tmp_path / name)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads((tmp_path / name).read_text()))
    needed = {key for claim in CARDS[paper].at("smoke") for key in claim.keys}
    assert needed <= runs[0].keys()
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("paper", CARDS)
def test_the_committed_results_are_of_this_program_and_within_the_budget(paper):
    results = load_results(ROOT, paper)
    assert results is not None, f"make reproduce PAPER={paper}"
    assert not is_stale(results, ROOT), f"the program or phenomena has changed: make reproduce PAPER={paper}"
    assert len(results.seeds) >= 5
    assert results.seconds <= CARDS[paper].budget.seconds


def test_the_readme_figure_is_drawn_from_the_committed_results():
    from PIL import Image

    results = load_results(ROOT, "nakkiran2021deep")
    assert results is not None
    with Image.open(ROOT / "book/_static/readme.png") as image:
        assert image.info["Description"] == f"results of {results.date}, {results.hash}", "python book/readme_figure.py"
