"""The generator of labs on one small source per defect, and what a lab needs of Jupyter."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython
from lab_fixtures import CHECKS, SOURCE, write_lab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "solutions"))
import build  # noqa: E402

SOURCES = sorted((ROOT / "solutions").glob("[0-9]*.py"))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Write a source with its solution (as if executed) and lab; returns (source, labs folder)."""

    def make(text=SOURCE, checks=CHECKS):
        source, labs = write_lab(tmp_path, monkeypatch, text, checks), tmp_path / "labs"
        labs.mkdir(exist_ok=True)
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
    assert 'raise NotImplementedError("TODO 1 (double)")' in lab.cells[3].source
    assert "SOLUTION" not in str(solution)
    assert "twice_of_it" in solution.cells[3].source


def test_made_twice_is_the_same_bytes(made):
    _, labs = made()
    first = (labs / "01_topic.ipynb").read_bytes()
    made()
    assert (labs / "01_topic.ipynb").read_bytes() == first
    assert b"\r" not in first


MARK = "    # SOLUTION TODO 1 (double)\n"


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("    # END SOLUTION\n\n\ncheck.double", "\n\ncheck.double", "not closed"),
        (MARK, "", "END SOLUTION without"),
        ("    twice_of_it = x * 2\n", "    # SOLUTION TODO 2 (x)\n", "inside another"),
        (MARK, "    # SOLUTION double\n", "must read `# SOLUTION TODO 1"),
        (MARK, "    # SOLUTION TODO one (double)\n", "must read `# SOLUTION TODO 1"),
        ("\n\ncheck.double", MARK + "    pass\n    # END SOLUTION\n\ncheck.double", "2 SOLUTION marks"),
        ("SIZE = 3", "twice_of_it = x * 2", "would hold the solution line"),
        ("Twice is two times.", "twice_of_it = x * 2", "would hold the solution line"),
        ("-> float:\n    \"\"\"Twice", "-> float\n    \"\"\"Twice", "no Python at line 1"),
    ],
)  # fmt: skip
def test_a_defect_of_a_mark_is_one_line_with_the_mend(made, old, new, hint):
    assert SOURCE.count(old) == 1
    with pytest.raises(build.SourceError, match=hint) as caught:
        build.problems(*made(SOURCE.replace(old, new)))
    assert "01_topic.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_without_exercise_is_refused(made):
    with pytest.raises(build.SourceError, match="no exercise"):
        build.problems(*made("# %%\nprint(1)\n"))


def test_a_source_without_a_module_of_checks_is_refused(tmp_path):
    source = tmp_path / "01_never_heard_of.py"
    source.write_text(SOURCE, encoding="utf-8")
    with pytest.raises(build.SourceError, match=r"phenomena/checks/never_heard_of\.py is missing; write there"):
        build.defects(source)


ONE, TWO = "01_topic.py, exercise 1 (double): ", "01_topic.py, exercise 2 (fourfold): "


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("TODO 1 (double)", "TODO 3 (double)", "01_topic.py, exercise 3 (double): its mark says TODO 3, but it"),
        ("### Exercise 1 ● (5 min)", "### Exercise 1 (5 min)", ONE + "the cell above lacks a heading of the form"),
        ("### Exercise 1 ● (5 min)", "### Exercise 1 ● (5 minutes)", ONE + "the cell above lacks a heading"),
        ("### Exercise 1 ●", "### Exercise 2 ●", ONE + "its heading says Exercise 2, its mark TODO 1"),
        ("# ### Exercise 1 ● (5 min)\n", "", ONE + "the cell above lacks a heading"),
        ("times.</details>\n\n", "times.</details>\n\n# %%\n1 + 1\n\n", ONE + "the cell above lacks a heading"),
        ("(5 min)", "(6 min)", ONE + "its check says number 1 and 5 minutes, its heading 1 and 6"),
        ("<details><summary>Hint</summary>Twice is two times.</details>", "Try.", ONE + "no folded hint above"),
        ("<details><summary>Hint</summary>", "<details open><summary>Hint</summary>", ONE + "no folded hint above"),
        ("code>.</details>", "code>.<details></details>", TWO + "a hint is not closed"),
        ("double(x: float)", "double(x)", ONE + "no type for x: the signature"),
        ("fourfold(x: float)", "fourfold(x: float, *more)", TWO + "no type for more"),
        ("double(x: float) -> float:", "double(x: float):", ONE + "no type of what it returns"),
        ('    """Twice x, a whole number if x is one."""\n', "", ONE + "no docstring"),
        ("def double(", "def twice(", ONE + "its mark names double: put it inside a `def double(...)`"),
        ("\n\ncheck.double(double)\n", "", ONE + "the cell must end with `check.double(double)`"),
        ("check.double(double)\n", "check.double(fourfold)\n", ONE + "the cell must end with"),
        ("check.double(double)\n", "check.double(double)\nprint(1)\n", ONE + "the cell must end with"),
        ("check.double(double)\n", "check.double(double)\ncheck.double(double)\n", ONE + "the cell must end with"),
        ("    # END SOLUTION\n\n\ncheck.fourfold(fourfold)", "\n\ncheck.fourfold(fourfold)\n    # END SOLUTION",
         TWO + "the cell must end with `check.fourfold(fourfold)`, after # END SOLUTION"),
        ("about 15\n", "about 20\n", "01_topic.py: the first cell must say `Two exercises, about 15 minutes`"),
        ("Two exercises", "Three exercises", "01_topic.py: the first cell must say `Two exercises, about 15 minutes`"),
        ("# %load_ext phenomena.lab\n", "", "01_topic.py: no line `%load_ext phenomena.lab`"),
        ("topic as check", "topic as checks", "01_topic.py: no line `from phenomena.checks import topic as check`"),
        ("from phenomena.lab import summary\n", "", "01_topic.py: no line `from phenomena.lab import summary`"),
        ("summary(check, globals())\n", "print(1)\n", "01_topic.py: the last cell must be `summary(check, globals())`"),
        ("globals())\n", "globals())\n\n# %% [markdown]\n# The end.\n", "01_topic.py: the last cell must be `summary"),
    ],
)  # fmt: skip
def test_a_defect_of_an_exercise_is_a_line_that_names_it_and_the_mend(made, old, new, line):
    assert SOURCE.count(old) == 1
    source, labs = made(SOURCE.replace(old, new))
    assert [found for found in build.problems(source, labs) if found.startswith(line)]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("def fourfold", "def threefold", TWO + "no check: write fourfold in phenomena/checks/topic.py"),
        ("def fourfold", "def threefold", "phenomena/checks/topic.py: threefold checks no exercise of 01_topic.py"),
        ("@check(2, minutes=10", "@check(3, minutes=10", TWO + "its check says number 3 and 10 minutes, its heading 2"),
        ("@check(2, minutes=10", "@check(2, minutes=20", TWO + "its check says number 2 and 20 minutes, its heading 2"),
    ],
)
def test_a_check_that_does_not_fit_its_exercise_is_a_line(made, old, new, line):
    source, labs = made(checks=CHECKS.replace(old, new))
    assert [found for found in build.problems(source, labs) if found.startswith(line)]


@pytest.mark.parametrize(
    ("which", "change", "hint"),
    [
        ("lab", lambda nb: nb.cells[3].update(source="def double(x): return 2 * x"), "is not what 01_topic.py makes"),
        ("lab", lambda nb: nb.cells[1].update(outputs=[nbformat.v4.new_output("stream", text="x")]), "holds outputs"),
        ("lab", lambda nb: nb.cells[1].update(id=nb.cells[0].id), "share an id"),
        ("solution", lambda nb: [c.update(outputs=[]) for c in nb.cells], "without outputs"),
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


def test_a_warning_on_stderr_is_no_failure_of_a_solution_and_another_value_is(tmp_path):
    warns = 'import sys\nprint("mind", file=sys.stderr)\nprint({})'
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(warns.format(value)) for value in (1, 2)])
    for cell in notebook.cells:
        cell.update(execution_count=1, outputs=[nbformat.v4.new_output("stream", text="1\n")])
    nbformat.write(notebook, tmp_path / "01_topic.ipynb")
    shutil.copy(ROOT / "solutions/conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-current-env", "--nbval", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout


def test_an_unknown_source_is_one_line():
    done = subprocess.run(
        [sys.executable, ROOT / "solutions/build.py", "99_none"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    names = ", ".join(source.stem for source in SOURCES)
    assert done.stderr == f"no source solutions/99_none.py; there are: {names}\n"


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
