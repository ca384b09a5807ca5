"""Running programs, keeping their seeds, and knowing when results are stale."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from practicum_fixtures import PROGRAM, WRITE, claim, invocations, line, repository, results, told, write

from practicum.results import dumps, results_path, save
from practicum.runs import (
    ROOT,
    Results,
    ResultsError,
    RunError,
    is_stale,
    load_results,
    run,
    source_files,
    source_hash,
)  # fmt: skip

LOG = 'open("../../log", "a").write(f"{seed}\\n")\n'
RESULTS = "reproductions/toy/results.json"
DATA = dict.fromkeys(("tail", "peak", "clean_tail", "clean_peak"), [1.0] * 5)


def logging(root: Path, more: str = "") -> Path:
    return repository(root, program=PROGRAM + LOG + more + WRITE)


def test_run_and_load(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    made = run("toy", root=logging(tmp_path), on_seed=lambda done, total: heard.append((done, total)))
    found = load_results(tmp_path, "toy")
    assert found is not None
    assert found == Results.model_validate(json.loads(dumps(made.model_dump(mode="json"))))
    assert found.seeds == invocations(tmp_path) == [0, 1, 2, 3, 4]
    assert heard == [(i, 5) for i in range(6)]
    assert found.values("tail").tolist() == [1, 1.01, 1.02, 1.03, 1.04]
    assert found.curve("errors").shape == (5, 3)
    assert found.versions["numpy"] == np.__version__
    assert found.versions.keys() >= {"python", "platform", "scipy", "scikit-learn"}
    assert not is_stale(found, tmp_path)
    assert load_results(tmp_path, "toy", "paper") is None


def test_the_file_diffs_cleanly(tmp_path: Path) -> None:
    root = repository(tmp_path)
    made = results(root, b=[1 / 3] * 5, a=[[1, 2.5, 1e-7 / 3]] * 5, n=[1234567] * 5)
    made.runs.reverse()
    made = Results.model_validate(made.model_dump())
    save(made, root)
    text = (root / RESULTS).read_bytes().decode()
    assert text.endswith("]\n}\n")
    assert "\r" not in text
    assert text.count('        "a": [1.0, 2.5, 3.33333e-08],\n        "n": 1234567.0\n') == 5
    assert text.count('        "b": 0.333333,\n') == 5
    assert [json.loads(text)["runs"][i]["seed"] for i in range(5)] == [0, 1, 2, 3, 4]
    again = load_results(root, "toy")
    assert again is not None
    save(again, root)
    assert (root / RESULTS).read_bytes().decode() == text


@pytest.mark.parametrize("value", [0.1, -1e-300, 1e300, 123456789.0, 2.0**60 + 1e6, -0.0, 5e-324, [1.5], [], {}])
def test_dumps_is_json(value: object) -> None:
    found = json.loads(dumps({"a": value}))["a"]
    assert found == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


GOOD = json.dumps(
    {"paper": "toy", "scale": "laptop", "hash": "0", "date": "2026-01-02", "versions": {},
     "runs": [{"seed": i, "seconds": 1.5, "values": {"a": 1, "c": [1, 2]}} for i in range(5)]}
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (GOOD, GOOD[:100], "Unterminated string"),
        (GOOD, "", "Expecting value"),
        (GOOD, "<<<<<<< HEAD\n" + GOOD, "Expecting value"),
        (GOOD, "[]", "the file: Input should be"),
        (GOOD, "[" * 100000, ""),
        ('"toy"', '"yot"', "it is of 'yot' at scale 'laptop'"),
        ('"laptop"', '"paper"', "it is of 'toy' at scale 'paper'"),
        ('"laptop"', '"desk"', "scale: Input should be"),
        ('"seed": 3', '"seed": 2', "a seed is there twice"),
        ('"seed": 3', '"seed": "x"', "runs.3.seed: Input should be"),
        ('"hash": "0", ', "", "hash: Field required"),
        ('"hash"', '"more": 1, "hash"', "more: Extra inputs"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": NaN', "seed 3: key 'a' holds nan"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": 1e999', "seed 3: key 'a' holds inf"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": "b"', "seed 3: key 'a' holds 'b'"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": true', "seed 3: key 'a' holds True"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": {}', "seed 3: key 'a' holds {}"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": []', "seed 3: key 'a' holds []"),
        ('3, "seconds": 1.5, "values": {"a": 1', '3, "seconds": 1, "values": {"a": [[1]]', "seed 3: key 'a' holds [1]"),
        ('"versions": {}', '"versions": {"torch": 2}', "versions.torch: Input should be"),
    ],
)  # fmt: skip
def test_unsound_results_are_told_in_one_line(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in GOOD
    write(tmp_path / RESULTS, GOOD.replace(old, new, 1))
    with pytest.raises(ResultsError) as error:
        load_results(tmp_path, "toy")
    assert str(error.value).startswith(f"{RESULTS}: {why}")
    assert str(error.value).endswith("(`make reproduce PAPER=toy` writes it anew)")
    assert "\n" not in str(error.value)


def test_sound_results_and_other_scales(tmp_path: Path) -> None:
    write(tmp_path / RESULTS, GOOD)
    assert load_results(tmp_path, "toy")
    write(results_path(tmp_path, "toy", "paper"), GOOD[:-1])
    with pytest.raises(ResultsError, match="PAPER=toy SCALE=paper` writes it anew"):
        load_results(tmp_path, "toy", "paper")


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda root: write(root / "phenomena/new.py", "x = 1\n"), False),
        (lambda root: write(root / "phenomena/other.py", "x = 1\n"), False),
        (lambda root: write(root / "reproductions/toy/notes.py", "x = 1\n"), False),
        (lambda root: write(root / "phenomena/base.py", "EDGE = 2\r\n"), False),
        (lambda root: write(root / "phenomena/base.py", "EDGE = 3\n"), True),
        (lambda root: write(root / "phenomena/laws.py", "x = 1\n"), True),
        (lambda root: write(root / "phenomena/__init__.py", "x = 1\n"), True),
        (lambda root: write(root / "reproductions/toy/reproduce.py", PROGRAM), True),
        (lambda root: write(root / "reproductions/toy/reproduce.py", "def ("), True),
        (lambda root: (root / "reproductions/toy/reproduce.py").unlink(), True),
    ],
)
def test_stale(tmp_path: Path, change: Callable[[Path], object], stale: bool) -> None:
    found = results(repository(tmp_path), **DATA)
    assert not is_stale(found, tmp_path)
    change(tmp_path)
    assert is_stale(found, tmp_path) == stale


def test_line_ends_do_not_count(tmp_path: Path) -> None:
    program = repository(tmp_path) / "reproductions/toy/reproduce.py"
    before = source_hash(program, tmp_path)
    for file in source_files(program, tmp_path):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert source_hash(program, tmp_path) == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("import phenomena", "__init__"),
        ("import numpy, torch.nn", ""),
        ("import phenomena.laws as l", "__init__ base laws"),
        ("from phenomena import other, laws", "__init__ base laws other"),
        ("from phenomena.other import x", "__init__ other"),
        ("from phenomena import *", "__init__"),
        ("def f():\n    from phenomena.deep import inner", "__init__ base deep/__init__ deep/inner laws other"),
        ("from phenomena import deep", "__init__ deep/__init__ other"),
        ("def (", ""),
        ("# a page\n\n```{code-cell} ipython3\n:tags: [hide-input]\n%matplotlib inline\nimport phenomena.other\n```\n"
         "import phenomena.laws\n```{code-cell}\n---\ntags: [a]\n---\nx = 1\n```\n", "__init__ other"),
    ],
)  # fmt: skip
def test_source_files_of_a_text(tmp_path: Path, text: str, wanted: str) -> None:
    repository(tmp_path)
    write(tmp_path / "phenomena/deep/__init__.py", "from .. import other\n")
    write(tmp_path / "phenomena/deep/inner.py", "from ..laws import EDGE\nfrom . import missing\n")
    files = [tmp_path / f"phenomena/{name}.py" for name in wanted.split()]
    assert source_files(text, tmp_path) == sorted(files)
    page = write(tmp_path / "book/page.md", text)
    assert source_files(page, tmp_path) == sorted([page, *files])


def test_helpers_beside_the_program_count(tmp_path: Path) -> None:
    program = repository(tmp_path, program="import helper\n") / "reproductions/toy/reproduce.py"
    helper = write(program.with_name("helper.py"), "import second, phenomena.other\n")
    second = write(program.with_name("second.py"), "")
    package = [tmp_path / "phenomena/__init__.py", tmp_path / "phenomena/other.py"]
    assert source_files(program, tmp_path) == sorted([program, helper, second, *package])


def test_source_files_of_this_repository() -> None:
    assert source_files("import phenomena", ROOT) >= [ROOT / "phenomena/__init__.py"]


def test_fresh_results_are_not_run_again(tmp_path: Path) -> None:
    logging(tmp_path)
    code, out, _ = told(tmp_path, "reproduce", "toy")
    assert (code, "5 seeds in" in out, f"{RESULTS} is written" in out) == (0, True, True)
    assert told(tmp_path, "reproduce") == (0, "toy: up to date (--force runs it again)\n", "")
    assert len(invocations(tmp_path)) == 5
    assert told(tmp_path, "reproduce", "toy", "--seeds", "6")[0] == 0
    assert invocations(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert told(tmp_path, "reproduce", "toy", "--force")[0] == 0
    assert len(invocations(tmp_path)) == 11


def test_unsound_results_and_kept_seeds_are_written_anew(tmp_path: Path) -> None:
    logging(tmp_path)
    run("toy", root=tmp_path)
    good = (tmp_path / RESULTS).read_text()
    (tmp_path / RESULTS).write_text(good[:50])
    (kept,) = tmp_path.glob("_build/runs/toy/laptop-*/seed-3.json")
    kept.write_text(kept.read_text()[:20])
    assert told(tmp_path, "reproduce", "toy")[0] == 0
    assert invocations(tmp_path) == [0, 1, 2, 3, 3, 4]
    assert load_results(tmp_path, "toy")


def test_smoke_leaves_the_results_alone(tmp_path: Path) -> None:
    code, out, _ = told(repository(tmp_path), "reproduce", "toy", "--scale", "smoke", "--seeds", "1")
    assert (code, "_build/runs/toy/results.smoke.json is written" in out) == (0, True)
    assert not (tmp_path / RESULTS).exists()
    assert load_results(tmp_path, "toy", "smoke")
    assert told(tmp_path, "reproduce", "toy", "--seeds", "1")[::2] == (
        1, "1 seeds are too few (give 5, or try with --scale smoke)\n",
    )  # fmt: skip


FAILING = 'if seed in (1, 3):\n    raise ValueError("no such thing")\n'


@pytest.mark.parametrize(
    ("program", "wanted", "kept"),
    [
        (PROGRAM + FAILING + WRITE, "toy: seed 1 failed with exit code 1: ValueError: no such thing "
         "(seeds that failed too: 3; mend reproduce.py; 3 finished seeds are kept)", 3),
        (PROGRAM, "toy: seed 0 wrote no file (write the values to --out)", 0),
        ("def (", "toy: seed 0 failed with exit code 1: SyntaxError: invalid syntax", 0),
        ("raise SystemExit(7)", "toy: seed 0 failed with exit code 7: it said nothing", 0),
        (PROGRAM + 'values["peak"] = float("nan") if seed == 2 else 1.0\n' + WRITE,
         "toy: seed 2 wrote no flat JSON of finite numbers: key 'peak' holds nan, not a finite number", 4),
        (PROGRAM + 'values["peak"] = {"a": 1}\n' + WRITE, "toy: seed 0 wrote no flat JSON of finite numbers: key", 0),
        (PROGRAM + "values = [1]\n" + WRITE, "toy: seed 0 wrote no flat JSON of finite numbers: it is no JSON", 0),
        (PROGRAM + 'open(args.out, "w").write("{1")', "toy: seed 0 wrote no flat JSON of finite numbers: Expec", 0),
        (PROGRAM + 'values["peek"] = values.pop("peak")\n' + WRITE,
         "toy: claim peak: seed 0: key 'peak' is not measured (did you mean 'peek'? there are: clean_peak,", 5),
        (PROGRAM + 'values["peak"] = [1, 2]\n' + WRITE, "toy: claim peak: seed 0: 'peak' is a curve", 5),
        (PROGRAM + 'open(__file__, "a").write("\\n")\n' + WRITE, "toy: the program changed while it ran", 5),
    ],
)  # fmt: skip
def test_failures_are_told_in_one_line(tmp_path: Path, program: str, wanted: str, kept: int) -> None:
    repository(tmp_path, program=program)
    old = write(tmp_path / RESULTS, GOOD)
    code, out, err = told(tmp_path, "reproduce", "toy")
    assert (code, out) == (1, "")
    assert err.startswith(wanted)
    assert (err.count("\n"), err[-2]) == (1, ")")
    assert old.read_text() == GOOD
    assert len(list(tmp_path.glob("_build/runs/toy/*/seed-?.json"))) == kept
    assert not list(tmp_path.rglob("*.half"))


def test_a_failing_paper_does_not_stop_the_others(tmp_path: Path) -> None:
    repository(tmp_path, paper="a", program="raise SystemExit(1)")
    repository(tmp_path, paper="b")
    code, out, err = told(tmp_path, "reproduce")
    assert (code, out.startswith("b: 5 seeds"), err.startswith("a: seed 0 failed")) == (1, True, True)


def test_only_the_claims_of_the_scale_are_checked(tmp_path: Path) -> None:
    repository(tmp_path, claims=[claim(), claim(id="large", keys=["small", "large"], scale="paper")])
    run("toy", root=tmp_path)
    with pytest.raises(RunError, match="claim large: seed 0: key 'small' is not measured"):
        run("toy", "paper", root=tmp_path)


def test_unknown_paper_and_missing_program(tmp_path: Path) -> None:
    repository(tmp_path)
    assert told(tmp_path, "reproduce", "tyo") == (1, "", "no paper 'tyo' (did you mean 'toy'? there are: toy)\n")
    (tmp_path / "reproductions/toy/reproduce.py").unlink()
    code, _, err = told(tmp_path, "reproduce", "toy")
    assert (code, err) == (1, "toy: reproduce.py is missing (write it beside paper.yml)\n")


def test_the_environment_of_a_program(tmp_path: Path) -> None:
    more = 'import os\nvalues["threads"] = int(os.environ["OMP_NUM_THREADS"]) + int(os.environ["MKL_NUM_THREADS"])\n'
    found = run("toy", root=repository(tmp_path, program=PROGRAM + more + WRITE))
    assert found.values("threads").tolist() == [2] * 5


def test_other_workers(tmp_path: Path) -> None:
    """The task goes to other processes, as it would to Dask's."""
    with parallel_config("loky", n_jobs=2):
        assert len(run("toy", root=logging(tmp_path)).runs) == 5


SLOW = """\
import os, subprocess
if seed > 1 and os.path.exists("../../slow"):
    child = subprocess.Popen(["sleep", "60"])
    open("../../pids", "a").write(f"{child.pid}\\n")
    child.wait()
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_resume(tmp_path: Path, ending: signal.Signals) -> None:
    logging(tmp_path, SLOW)
    slow, pids, old = write(tmp_path / "slow", ""), write(tmp_path / "pids", ""), write(tmp_path / RESULTS, GOOD)
    process = subprocess.Popen(
        line(tmp_path, "reproduce", "toy"), stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while len(pids.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(ending)
    err = process.communicate(timeout=60)[1]
    assert (process.returncode, err) == (
        130, "toy: interrupted, 2 of 5 seeds are kept (the same command resumes)\n"
    )  # fmt: skip
    assert len(list(tmp_path.glob("_build/runs/toy/*/seed-?.json"))) == 2
    assert old.read_text() == GOOD
    assert not list(tmp_path.rglob("*.half"))
    assert not [pid for pid in pids.read_text().split() if alive(pid)]
    ran = len(invocations(tmp_path))
    slow.unlink()
    assert told(tmp_path, "reproduce", "toy")[0] == 0
    assert len(invocations(tmp_path)) - ran == 3
    found = load_results(tmp_path, "toy")
    assert found is not None
    assert found.seeds == [0, 1, 2, 3, 4]


def alive(pid: str) -> bool:
    """Whether a process still runs a moment after it was to be killed."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(50):
        try:
            if state.read_text().split()[2] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True
