"""Near-copies: what a copy with new names, a stranger's program and a shared template come to."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from practicum_fixtures import write
from semester_fixtures import PEOPLE, REPORT, empty_semester, fill, semester
from typer.testing import CliRunner

import practicum.commands.reports
from practicum.cli import app
from practicum.semester.drop import submit
from practicum.semester.kit import start
from practicum.semester.plan import Semester
from practicum.semester.similar import Source, compare_programs, compare_texts, similar

assert practicum.commands.reports  # registers the commands

HEAD = "import argparse, json\nimport numpy as np\n\n"
TAIL = """
p = argparse.ArgumentParser()
for name in ("--seed", "--scale", "--out"):
    p.add_argument(name)
a = p.parse_args()
json.dump(measure(int(a.seed)), open(a.out, "w"))
"""
RIDGE = '''
def solve(X, y, strength):
    """Ridge regression by its normal equations."""
    gram = X.T @ X + strength * np.eye(X.shape[1])
    return np.linalg.solve(gram, X.T @ y)

def error(X, y, w):
    residual = y - X @ w
    return float((residual ** 2).mean())

def measure(seed):
    rng = np.random.default_rng(seed)
    beta = rng.normal(size=40) / np.sqrt(40)
    X, Z = rng.normal(size=(30, 40)), rng.normal(size=(500, 40))
    y = X @ beta + 0.5 * rng.normal(size=30)
    values = {}
    values["peak"] = error(Z, Z @ beta, solve(X, y, 1e-8))
    values["tail"] = error(Z, Z @ beta, solve(X, y, 30.0))
    values["clean_peak"] = error(Z, Z @ beta, solve(X, X @ beta, 1e-8))
    values["clean_tail"] = error(Z, Z @ beta, solve(X, X @ beta, 30.0))
    return values
'''
RENAMED = {"solve": "fit", "gram": "kernel_matrix", "strength": "lam", "error": "risk", "residual": "diff",
           "beta": "theta_true", "values": "results", "rng": "generator", "seed": "s", "X": "train_inputs",
           "Z": "test_inputs", "Ridge regression by its normal equations.": "Our own idea."}  # fmt: skip
DESCENT = '''
class Walker:
    def __init__(self, width, seed):
        self.state = np.random.RandomState(seed)
        self.weights = [self.state.randn(width, width) for _ in range(3)]

    def forward(self, inputs):
        for matrix in self.weights:
            inputs = np.maximum(inputs @ matrix, 0)
        return inputs.sum(axis=-1)

    def step(self, batch, target, rate):
        while (loss := abs(self.forward(batch) - target).max()) > 1e3:
            self.weights = [matrix * (1 - rate) for matrix in self.weights]
        return loss

def measure(seed):
    out = dict.fromkeys(("peak", "tail", "clean_peak", "clean_tail"), 0.0)
    for i, key in enumerate(out):
        walker = Walker(8 * (i + 1), seed + i)
        batch = walker.state.rand(16, 8 * (i + 1))
        for epoch in range(10):
            out[key] += walker.step(batch, target=epoch, rate=0.01) / 10
    return out
'''
PROSE = """
We trained the ridge estimator on thirty samples with forty features and found that the error at the threshold is four
times that of the tail. Without label noise this peak disappears, which agrees with the second claim of the paper. The
spread over our five seeds is about a tenth of the mean, so that we are confident in the order but not in the size of
the gap. What surprised us is how little regularisation it takes to flatten the curve entirely.
"""
OTHER = """
Our network has two hidden layers and learns by full batch descent for ten thousand steps. Early in training it fits
the low frequencies, late the high ones, and we measure both by projecting the residual on sines. The first claim holds
for every seed, the third only if the step size is small. Larger steps make the second harmonic oscillate, and then our
statistic has no meaning, as we explain below with a figure of the loss over time.
"""


def renamed(text: str) -> str:
    for old, new in RENAMED.items():
        text = re.sub(rf"(?<![\w\"]){re.escape(old)}(?![\w\"])", new, text)
    return "# all ours\n" + text.replace("    return values", "    # done\n    return values")


def programs(*pairs: tuple[str, str]) -> list[Source]:
    return [Source(owner, "peak2020toy", "reproduce.py", text) for owner, text in pairs]


def test_new_names_and_comments_hide_nothing() -> None:
    copy = renamed(RIDGE)
    assert "kernel_matrix" in copy
    assert "rng =" not in copy
    (pair,) = compare_programs(programs(("g01", HEAD + RIDGE + TAIL), ("g02", HEAD + copy + TAIL)), [], 0.6)
    assert (pair.a, pair.b) == ("g01 peak2020toy reproduce.py", "g02 peak2020toy reproduce.py")
    assert pair.similarity > 0.9
    assert pair.shared > 20


def test_a_copy_within_a_longer_program_is_found() -> None:
    (pair,) = compare_programs(programs(("g01", HEAD + RIDGE), ("g02", HEAD + DESCENT + RIDGE + TAIL)), [], 0.6)
    assert pair.similarity > 0.9


def test_strangers_that_share_only_keys_and_a_frame_are_not_near() -> None:
    ours = programs(("g01", HEAD + RIDGE + TAIL), ("g02", HEAD + DESCENT + TAIL))
    assert compare_programs(ours, [], 0.6) == []
    (pair,) = compare_programs(ours, [], 0.01)  # the frame is shared: a pair that is there, and far below
    assert pair.similarity < 0.5
    assert compare_programs(ours, [HEAD + TAIL], 0.2) == []


def test_boilerplate_does_not_count_but_what_repeats_does() -> None:
    frame = HEAD + TAIL
    assert compare_programs(programs(("g01", frame), ("g02", frame)), [frame], 0.1) == []
    repeats = HEAD + RIDGE.replace("measure", "again") + RIDGE + TAIL
    (pair,) = compare_programs(programs(("g01", repeats), ("g02", repeats)), [frame], 0.6)
    assert pair.similarity == pytest.approx(1)
    assert pair.shared > 40


def test_one_group_is_not_compared_with_itself() -> None:
    assert compare_programs(programs(("g01", RIDGE), ("g01", RIDGE)), [], 0.1) == []


def triples(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def test_reports_are_compared_by_words_without_the_template() -> None:
    template = "# Report\n\n" + PROSE[:200]
    reports = [
        Source("g01", "p", "report.md", template + "\n\n" + PROSE),
        Source("g02", "p", "report.md", template + "\n\n" + PROSE.replace("thirty", "30").replace("four", "five")),
        Source("g03", "p", "report.md", template + "\n\n" + OTHER),
        Source("g04", "p", "report.md", template),
    ]
    (pair,) = compare_texts(reports, [template], 0.3)
    assert (pair.a[:3], pair.b[:3]) == ("g01", "g02")
    given = triples(template)
    one, two = (triples(report.text) - given for report in reports[:2])
    assert pair.shared == len(one & two)
    assert pair.similarity == pytest.approx(len(one & two) / min(len(one), len(two)))
    assert compare_texts([], [], 0.3) == compare_texts([Source("g01", "p", "r.md", "a b")], [], 0.3) == []


# in a semester


def hand(s: Semester, root: Path, group: str, program: str, report: str = REPORT, **files: str) -> Path:
    kit = start(s, "peak2020toy", group, [name for _, name in PEOPLE[group]], root)
    fill(kit, program=program)
    write(kit / "report.md", report)
    for name, text in files.items():
        write(kit / name.replace("__", "."), text)
    submit(kit, "midterm", s.drop)
    return kit


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Semester, Path]:
    return empty_semester(tmp_path)


def test_untouched_kits_are_no_copies(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    for group in PEOPLE:
        kit = start(s, "peak2020toy", group, [name for _, name in PEOPLE[group]], root)
        submit(kit, "midterm", s.drop)
    assert similar(s, root, 0.05, 0.05) == ([], [])


def test_copies_across_groups_and_of_public_solutions_are_found(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    write(root / "reproductions/peak2020toy/reproduce.py", HEAD + DESCENT + TAIL)
    code = ["%pip install x\n", *renamed(RIDGE).splitlines(True)]
    notebook = {"cells": [{"cell_type": "markdown", "source": "Ours"}, {"cell_type": "code", "source": code}]}
    first = hand(s, root, "g01", HEAD + RIDGE + TAIL, PROSE)
    hand(s, root, "g02", HEAD + TAIL, "# Report\n" + PROSE, work__ipynb=json.dumps(notebook), broken__ipynb="{]",
         bad__py="def (:\n\tx = '", empty__py="", big__py="x = 1\n" * 100_000)  # fmt: skip
    hand(s, root, "g03", HEAD + renamed(DESCENT) + TAIL, OTHER)
    write(first / "extension.md", "More of it.")
    submit(first, "final", s.drop)  # the same program once more: one pair still
    pairs, notes = similar(s, root)
    assert sorted((pair.kind, pair.a, pair.b) for pair in pairs) == [
        ("program", "g01 peak2020toy reproduce.py", "g02 peak2020toy work.ipynb"),
        ("program", "g03 peak2020toy reproduce.py", "public peak2020toy reproductions/peak2020toy/reproduce.py"),
        ("report", "g01 peak2020toy report.md", "g02 peak2020toy report.md"),
    ]
    assert notes == ["g02 peak2020toy big.py: 0.6 MB are too much to compare"]


def test_the_command_writes_a_table_and_judges_nobody(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    told = CliRunner().invoke(app, ["similar", "--semester", str(s.folder), "--root", str(root)])
    assert told.exit_code == 0
    assert "read both files before you judge" in told.stdout
    assert told.stderr == ""
    (row,) = csv.DictReader((s.private / "similar.csv").read_text().splitlines())
    assert (row["a"], row["b"]) == ("g01 peak2020toy reproduce.py", "g02 peak2020toy reproduce.py")
    assert float(row["similarity"]) == 1
    assert not any(Path().glob("report.html"))


def test_a_missing_snapshot_is_passed_over(tmp_path: Path) -> None:
    s, root = semester(tmp_path)
    shutil.rmtree(s.drop / "snapshots")
    assert similar(s, root)[0] == []
