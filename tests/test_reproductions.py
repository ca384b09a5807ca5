"""Every committed reproduction: its program at smoke scale, its results, and the README's figure of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from program_fixtures import program, tiny_cifar

from phenomena.data import Dataset
from practicum.results import load_worked
from practicum.runs import ROOT, is_stale, load_results

CARDS = load_worked(ROOT)


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


def test_the_paper_scale_networks_run_and_write_what_the_cards_read(monkeypatch):
    heckel, nakkiran = program("heckel2021early"), program("nakkiran2021deep")
    for module in (heckel, nakkiran):
        monkeypatch.setattr(module, "load", tiny_cifar)
    values = heckel.cifar10(0, epochs=1) | nakkiran.cifar10(0, widths=(1, 2, 4), steps=3)
    assert len(values["cnn"]) == len(values["cnn_scaled"]) == 1
    assert 0 <= values["cnn_best"] <= 100
    for paper in ("heckel2021early", "nakkiran2021deep"):
        needed = {key for claim in CARDS[paper].claims if claim.scale == "paper" for key in claim.keys}
        assert needed <= values.keys()


def tiny_mnist(name, n_train, n_test, seed, download):
    """What `load("mnist", download=True)` gives, in small: digits below 5 are dark."""
    assert (name, download) == ("mnist", True)
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n_train + 50) % 10
    X = 0.5 * torch.rand(n_train + 50, 784, generator=generator) + 0.4 * (y[:, None] >= 5)
    return Dataset("mnist", X[:n_train], y[:n_train], X[n_train:], y[n_train:], (1, 28, 28))


def test_the_other_paper_scale_networks_do_so_too(monkeypatch):
    zhang, dziugaite = program("zhang2017understanding"), program("dziugaite2017computing")
    monkeypatch.setattr(zhang, "load", tiny_cifar)
    monkeypatch.setattr(dziugaite, "load", tiny_mnist)
    values = zhang.cifar10(0, epochs=1, hidden=(8, 8)) | dziugaite.full_mnist(0, n=100, width=32, steps=3)
    assert 0 < values["paper_bound"] <= 1
    for paper in ("zhang2017understanding", "dziugaite2017computing"):
        needed = {key for claim in CARDS[paper].claims if claim.scale == "paper" for key in claim.keys}
        assert needed <= values.keys()


def test_the_last_layers_stepsize_is_its_own(monkeypatch):
    heckel = program("heckel2021early")
    monkeypatch.setattr(heckel, "load", tiny_cifar)
    groups = []

    def spy(model, X, y, loss, optimizer, *args, **kwargs):
        groups.append([(group["lr"], sum(p.numel() for p in group["params"])) for group in optimizer.param_groups])

    monkeypatch.setattr(heckel, "train", spy)
    list(heckel.cnn(0.001, 1, 0))
    ((rest, _), (last, weights)) = groups[0]
    assert (rest, last, weights) == (0.1, 0.001, 8 * 64 * 10 + 10)
