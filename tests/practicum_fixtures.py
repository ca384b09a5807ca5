"""Tiny repositories with toy programs for the tests of the practicum."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from practicum.cli import app
from practicum.results import Results, Run
from practicum.runs import ROOT, source_hash

PROGRAM = """\
import argparse, json
import phenomena.laws
parser = argparse.ArgumentParser()
for name in ("--seed", "--scale", "--out"):
    parser.add_argument(name)
args = parser.parse_args()
seed = int(args.seed)
values = {"tail": 1 + 0.01 * seed, "peak": 2 + 0.01 * seed, "clean_tail": 1.0 + 0.01 * (seed % 2),
          "clean_peak": 0.9, "theory": 4.0, "sizes": [1, 10, 100], "errors": [3.0, 1.5, 0.75]}
"""
WRITE = 'json.dump(values, open(args.out, "w"))\n'


def claim(**changed: Any) -> dict[str, Any]:
    """A claim's mapping; None removes a field."""
    fields = {
        "id": "peak", "role": "secondary", "text": "The error peaks.", "where": "Fig. 1", "kind": "order",
        "keys": ["tail", "peak"], **changed,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


def control(**changed: Any) -> dict[str, Any]:
    """A control's mapping."""
    keys = ["clean_tail", "clean_peak"]
    return claim(**{"id": "no-noise", "role": "control", "of": "peak", "kind": None, "keys": keys, **changed})


def card(paper: str = "toy", claims: list[dict[str, Any]] | None = None, **changed: Any) -> dict[str, Any]:
    """A card's mapping; None removes a field."""
    fields = {
        "id": paper, "bib": paper, "title": "Toys", "theme": "double-descent", "author_code": "none",
        "budget": {"seconds": 60, "memory_mb": 500, "seeds": 5}, "setting": "Smaller.",
        "claims": [claim(role="core"), control()] if claims is None else claims, **changed,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


def write(path: Path, text: str) -> Path:
    """Write a file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def repository(root: Path, paper: str = "toy", program: str = PROGRAM + WRITE, **changed: Any) -> Path:
    """A repository with one paper and a package of two modules, of which the toy program imports one."""
    write(root / "phenomena/__init__.py", "")
    write(root / "phenomena/laws.py", "from .base import EDGE\n")
    write(root / "phenomena/base.py", "EDGE = 2\n")
    write(root / "phenomena/other.py", "")
    write(root / f"reproductions/{paper}/reproduce.py", program)
    write(root / f"reproductions/{paper}/paper.yml", yaml.safe_dump(card(paper, **changed), sort_keys=False))
    return root


def results(root: Path | None = None, paper: str = "toy", scale: str = "laptop", **columns: list) -> Results:
    """Results with these values over the seeds."""
    n = len(next(iter(columns.values())))
    runs = [Run(seed=i, seconds=1, values={k: v[i] for k, v in columns.items()}) for i in range(n)]
    program = (root or Path()) / f"reproductions/{paper}/reproduce.py"
    fields = {"hash": source_hash(program, root) if root else "0", "date": "2026-01-02", "versions": {}}
    return Results.model_validate({"paper": paper, "scale": scale, "runs": runs, **fields})


def command(root: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        line(root, *arguments), capture_output=True, text=True, cwd=ROOT, env=environment, **options
    )


def told(root: Path, *arguments: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command, run in this process."""
    result = CliRunner().invoke(app, [*arguments, "--root", str(root)])
    return result.exit_code, result.stdout, result.stderr


def line(root: Path, *arguments: str) -> list[str]:
    """The command line's words."""
    return [sys.executable, "-m", "practicum", *arguments, "--root", str(root)]


def invocations(root: Path) -> list[int]:
    """The seeds that a logging program ran, as often as it ran them."""
    log = root / "log"
    return sorted(json.loads(line) for line in log.read_text().split()) if log.exists() else []
