"""The generator of labs on one small source per defect, and what a lab needs of Jupyter."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "solutions"))
import build  # noqa: E402

GOOD = '''# %% [markdown]
# # A lab

# %%
def double(x):
    """Twice x."""
    # SOLUTION TODO 1 (double)
    twice_of_it = 2 * x
    return twice_of_it
    # END SOLUTION


print("checked")
'''


@pytest.fixture
def made(tmp_path):
    """Write a source with its solution (as if executed) and lab; returns (source, labs folder)."""

    def make(text=GOOD):
        source, labs = tmp_path / "01_topic.py", tmp_path / "labs"
        labs.mkdir(exist_ok=True)
        source.write_text(text, encoding="utf-8")
        solution, lab = build.make(source)
        for cell in solution.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text="checked\n")]
        build.write(source.with_suffix(".ipynb"), build.text_of(solution))
        build.write(labs / "01_topic.ipynb", build.text_of(lab))
        return source, labs

    return make


def edit(path, change):
    notebook = nbformat.from_dict(json.loads(path.read_text(encoding="utf-8")))
    change(notebook)
    path.write_text(json.dumps(notebook), encoding="utf-8")


def test_a_lab_is_its_solution_without_the_solved_lines(made):
    source, labs = made()
    assert build.problems(source, labs) == []
    lab = nbformat.read(labs / "01_topic.ipynb", as_version=4)
    solution = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(lab)
    nbformat.validate(solution)
    assert "twice_of_it" not in str(lab)
    assert 'raise NotImplementedError("TODO 1 (double)")' in lab.cells[1].source
    assert "SOLUTION" not in str(solution)
    assert "twice_of_it" in solution.cells[1].source


def test_made_twice_is_the_same_bytes(made):
    _, labs = made()
    first = (labs / "01_topic.ipynb").read_bytes()
    made()
    assert (labs / "01_topic.ipynb").read_bytes() == first
    assert b"\r" not in first


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("    # END SOLUTION\n", "", "not closed"),
        ("    # SOLUTION TODO 1 (double)\n", "", "END SOLUTION without"),
        ("    # END SOLUTION", "    # SOLUTION TODO 2 (x)\n    # END SOLUTION", "inside another"),
        ('print("checked")', "twice_of_it = 2 * x", "would hold the solution line"),
    ],
)
def test_a_defect_of_a_source_is_one_line_with_the_mend(made, old, new, hint):
    with pytest.raises(build.SourceError, match=hint) as caught:
        made(GOOD.replace(old, new))
    assert "01_topic.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_without_exercise_is_refused(made):
    with pytest.raises(build.SourceError, match="no exercise"):
        made("# %%\nprint(1)\n")


@pytest.mark.parametrize(
    ("which", "change", "hint"),
    [
        ("lab", lambda nb: nb.cells[1].update(source="def double(x): return 2 * x"), "is not what 01_topic.py makes"),
        ("lab", lambda nb: nb.cells[1].update(outputs=[nbformat.v4.new_output("stream", text="x")]), "holds outputs"),
        ("lab", lambda nb: nb.cells[1].update(id=nb.cells[0].id), "share an id"),
        ("solution", lambda nb: nb.cells[1].update(outputs=[]), "without outputs"),
        ("solution", lambda nb: nb.cells[0].update(source="# Other"), "is not what 01_topic.py makes"),
    ],
)
def test_a_defect_of_a_notebook_is_found(made, which, change, hint):
    source, labs = made()
    edit(labs / "01_topic.ipynb" if which == "lab" else source.with_suffix(".ipynb"), change)
    (found,) = build.problems(source, labs)
    assert hint in found
    assert "make labs" in found


def test_a_missing_lab_and_one_without_source_are_found(made):
    source, labs = made()
    (labs / "01_topic.ipynb").rename(labs / "09_stray.ipynb")
    assert "missing" in build.problems(source, labs)[0]
    assert "09_stray" in build.strays([source], labs)[0]


def test_the_committed_labs_are_what_their_sources_make():
    done = subprocess.run(
        [sys.executable, ROOT / "solutions/build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_source_is_one_line():
    done = subprocess.run(
        [sys.executable, ROOT / "solutions/build.py", "99_none"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "no source solutions/99_none.py; there are: 02_double_descent\n"


@pytest.fixture(scope="module")
def shell() -> InteractiveShell:
    shell = start_ipython() or InteractiveShell.instance()
    shell.run_line_magic("load_ext", "phenomena.lab")
    return shell


def test_an_open_todo_is_one_line_and_no_error(shell, capsys):
    result = shell.run_cell('raise NotImplementedError("TODO 1 (double)")')
    assert result.success
    assert capsys.readouterr().out.startswith("⬜ open: TODO 1 (double).")


def test_what_waits_for_an_open_todo_is_one_line_too(shell, capsys):
    shell.run_cell('def curve():\n    raise NotImplementedError("TODO 3 (curve)")\nnoisy = curve()')
    assert shell.run_cell("shown = max(noisy)").success
    assert shell.run_cell("print(shown)").success
    out = capsys.readouterr().out
    assert out.count("⬜ open: TODO 3 (curve)") == 3
    assert "needs `noisy`" in out
    assert shell.run_cell("noisy = [1, 2]").success
    assert shell.run_cell("del noisy").success
    assert not shell.run_cell("noisy").success  # it waits no more


def test_a_name_inside_a_function_does_not_wait(shell):
    shell.run_cell('def f():\n    inner = 1\nouter = f()\nraise NotImplementedError("TODO 4 (f)")')
    assert not shell.run_cell("inner").success


def test_torchs_own_not_implemented_is_an_error(shell):
    assert not shell.run_cell('raise NotImplementedError("normal_kernel_cpu for Long")').success


@pytest.mark.parametrize("cell", ["1 / 0", "never_heard_of", "x ="])
def test_another_error_stays_an_error(shell, capsys, cell):
    assert not shell.run_cell(cell).success
    assert "Error" in capsys.readouterr().out


def test_live_draws_and_says_what_is_open(capsys):
    from phenomena.lab import live

    def picture(x: float) -> None:
        if x > 1:
            raise NotImplementedError("TODO 2 (ridge)")
        print("x is", x)

    live(picture, x=(0.0, 2.0, 0.5))
    # under plain Python ipywidgets draws at once: the middle of the range is the start
    assert "x is 1.0" in capsys.readouterr().out
    live(picture, x=(1.5, 2.0, 0.5))
    assert "⬜ open: TODO 2 (ridge)." in capsys.readouterr().out
