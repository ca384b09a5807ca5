"""The command line that every reproduction has."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
from phenomena.errors import Diverged
from phenomena.program import main

def measure(seed, scale):
    {body}

main(measure)
"""


def run(tmp_path, body, *extra):
    (tmp_path / "reproduce.py").write_text(PROGRAM.format(body=body))
    command = [sys.executable, "reproduce.py", "--seed", "3", "--out", "out.json", *extra]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_numbers_and_curves_become_flat_json(tmp_path):
    done = run(tmp_path, "import torch; return {'a': torch.tensor(seed), 'c': torch.ones(2), 's': len(scale)}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": 3.0, "c": [1.0, 1.0], "s": 6.0}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return {'loss': float('nan')}", "loss is not finite"),
        ("return {'curve': [1.0, float('inf')]}", "curve is not finite"),
        ("raise Diverged('the loss is nan at step 7 (width 64)')", "width 64"),
        ("raise OSError('no data')", "no data"),
    ],
)
def test_what_is_no_measurement_ends_in_one_line_and_writes_nothing(tmp_path, body, words):
    done = run(tmp_path, body)
    assert done.returncode == 1
    assert words in done.stderr
    assert "seed 3, scale laptop" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_a_mistake_in_the_program_keeps_its_traceback(tmp_path):
    assert "Traceback" in run(tmp_path, "return {}['missing']").stderr


def test_an_unknown_scale_is_refused(tmp_path):
    assert "smoke" in run(tmp_path, "return {}", "--scale", "huge").stderr
