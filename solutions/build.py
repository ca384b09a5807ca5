"""Make the labs from their one source: solutions/NN_topic.py -> the executed solution and the stripped lab.

    python solutions/build.py            write solutions/*.ipynb (executed) and labs/*.ipynb (stripped)
    python solutions/build.py --check    change nothing; fail if a notebook is not what its source makes

A source is py:percent (jupytext). In an exercise cell the lines between `# SOLUTION` and `# END SOLUTION` are the
student's to write: the lab has `raise NotImplementedError("TODO ...")` there instead, named by the first mark.
README.md beside this file shows an exercise; `defects` is what it must have.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import jupytext
import nbformat
from nbformat import NotebookNode

from phenomena.checks import Check
from phenomena.checks import exercises as in_order

HERE = Path(__file__).parent
LABS = HERE.parent / "labs"
START = re.compile(r"^(\s*)# SOLUTION\b(.*)$")
TODO = re.compile(r"^TODO (\d+) \((\w+)\)$")
END = re.compile(r"^\s*# END SOLUTION$")
HEADING = re.compile(r"^### Exercise (\d+) (●{1,3}) \((\d+) min\)$")
HINT = re.compile(r"<details>\s*<summary>Hint.*?</summary>.+?</details>", re.DOTALL)
NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]
SUMMARY = "summary(check, globals())"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class SourceError(Exception):
    """A defect of a source or of a notebook made from it: one line that names the file and the mend."""


def read(source: Path) -> NotebookNode:
    """The source as a notebook without outputs, with ids that depend on the cells' text alone."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = NotebookNode({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


@dataclass(frozen=True)
class Exercise:
    """What a source says of an exercise: the cell in which the student writes, and the text above it."""

    number: int
    name: str
    text: str  # the Markdown cell above
    given: str  # the cell as the student gets it
    solved: str  # the cell as the solution shows it


def exercises(source: Path) -> list[Exercise]:
    """The exercises of a source in their order; SourceError if a mark is not as it must be."""
    found = []
    above = ""
    for i, cell in enumerate(read(source).cells):
        if cell.cell_type == "code":
            where = _where(source, i, cell)
            given, _ = stripped(cell.source, where)
            marks = [mark[2].strip() for line in cell.source.split("\n") if (mark := START.match(line))]
            if len(marks) > 1:
                raise SourceError(f"{where}: {len(marks)} SOLUTION marks; an exercise has one, in a cell of its own")
            if marks:
                todo = TODO.match(marks[0])
                assert todo  # `stripped` has refused others
                found.append(Exercise(int(todo[1]), todo[2], above, given, without_marks(cell.source)))
        above = cell.source if cell.cell_type == "markdown" else ""
    if not found:
        raise SourceError(f"{source.name}: no exercise; mark one by # SOLUTION TODO 1 (name) ... # END SOLUTION")
    return found


def _where(source: Path, i: int, cell: NotebookNode) -> str:
    return f"{source.name}, cell {i + 1} ({cell.source.splitlines()[0][:40] if cell.source else 'empty'})"


def tree(code: str, where: str) -> ast.Module:
    """A cell's syntax, its Jupyter magics (`%load_ext ...`) left out."""
    try:
        return ast.parse(re.sub(r"^[%!].*$", "", code, flags=re.MULTILINE))
    except SyntaxError as err:
        raise SourceError(f"{where}: no Python at line {err.lineno} of the cell: {err.msg}") from None


def topic(source: Path) -> str:
    """02_double_descent.py is about double_descent."""
    return source.stem.partition("_")[2]


def checks(source: Path) -> ModuleType:
    """The module of a source's checks, phenomena.checks.<topic>."""
    name = f"phenomena.checks.{topic(source)}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name != name:
            raise
        path = f"{name.replace('.', '/')}.py"
        raise SourceError(f"{source.name}: {path} is missing; write there a check for each exercise") from None


def defects(source: Path) -> list[str]:
    """What a source's exercises lack, a line each with the mend."""
    found = exercises(source)
    cells = read(source).cells
    there = {check.name: check for check in in_order(checks(source))}
    lines = [line for i, exercise in enumerate(found, 1) for line in _defects_of(exercise, i, source, there)]
    lines += [
        f"phenomena/checks/{topic(source)}.py: {name} checks no exercise of {source.name}; write the exercise, or drop it"
        for name in there
        if name not in {exercise.name for exercise in found}
    ]

    minutes = sum(int(heading[3]) for exercise in found if (heading := _heading(exercise)))
    load = f"{NUMBERS[len(found)]} exercise{'s' * (len(found) > 1)}, about {minutes} minutes"
    if load not in " ".join(cells[0].source.split()):
        lines.append(f"{source.name}: the first cell must say `{load}`, the sum of its exercises")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    for line in (
        "%load_ext phenomena.lab",
        f"from phenomena.checks import {topic(source)} as check",
        "from phenomena.lab import summary",
    ):
        if line not in code.split("\n"):
            lines.append(f"{source.name}: no line `{line}`; add it to the first code cell")
    if cells[-1].cell_type != "code" or cells[-1].source != SUMMARY:
        lines.append(f"{source.name}: the last cell must be `{SUMMARY}`, so that students see what is done and open")
    return lines


def _heading(exercise: Exercise) -> re.Match[str] | None:
    lines = [line for line in exercise.text.split("\n") if line.startswith("### Exercise")]
    return HEADING.match(lines[-1]) if lines else None


def _defects_of(exercise: Exercise, i: int, source: Path, there: dict[str, Check]) -> list[str]:
    """What one exercise, the i-th of its source, lacks."""
    number, name = exercise.number, exercise.name
    where = f"{source.name}, exercise {number} ({name})"
    lines = []
    if number != i:
        lines.append(f"its mark says TODO {number}, but it is exercise {i}: number them 1, 2, 3 in their order")

    heading = _heading(exercise)
    if heading is None:
        lines.append(f"the cell above lacks a heading of the form `### Exercise {number} ●● (10 min)`")
    elif int(heading[1]) != number:
        lines.append(f"its heading says Exercise {heading[1]}, its mark TODO {number}: make them one number")
    if not HINT.search(exercise.text):
        lines.append("no folded hint above: add `<details><summary>Hint</summary>...</details>`")
    if exercise.text.count("<details") != exercise.text.count("</details>"):
        lines.append("a hint is not closed: add `</details>`")

    statements = tree(exercise.given, where).body
    function = next((s for s in statements if isinstance(s, ast.FunctionDef) and s.name == name), None)
    if function is None or not any(isinstance(node, ast.Raise) for node in ast.walk(function)):
        lines.append(f"its mark names {name}: put it inside a `def {name}(...)`")
    if function is not None:
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        if bare := [argument.arg for argument in every if argument and not argument.annotation]:
            lines.append(f"no type for {', '.join(bare)}: the signature is part of the contract")
        if not function.returns:
            lines.append("no type of what it returns: add `-> ...`, the signature is part of the contract")
        if not ast.get_docstring(function):
            lines.append("no docstring: it is the contract (shapes, units, errors)")

    call = f"check.{name}({name})"
    calls = [s for s in statements if isinstance(s, ast.Expr) and ast.unparse(s).startswith("check.")]
    if [ast.unparse(s) for s in calls] != [call] or statements[-1] is not calls[0]:
        lines.append(f"the cell must end with `{call}`, after # END SOLUTION, its one check")
    check = there.get(name)
    if check is None:
        lines.append(f"no check: write {name} in phenomena/checks/{topic(source)}.py")
    elif heading and (check.number, check.minutes) != (number, int(heading[3])):
        lines.append(
            f"its check says number {check.number} and {check.minutes} minutes, its heading {heading[1]} and "
            f"{heading[3]}: make them one"
        )
    return [f"{where}: {line}" for line in lines]


def without_marks(text: str) -> str:
    """A cell as the solution shows it."""
    return "\n".join(line for line in text.split("\n") if not START.match(line) and not END.match(line))


def stripped(text: str, where: str) -> tuple[str, list[str]]:
    """A cell as the student gets it, and the solution's lines that it must not hold."""
    kept: list[str] = []
    hidden: list[str] = []
    inside = False
    for line in text.split("\n"):
        if mark := START.match(line):
            if inside:
                raise SourceError(f"{where}: a SOLUTION opens inside another; close the first by # END SOLUTION")
            inside = True
            if not TODO.match(mark[2].strip()):
                raise SourceError(f"{where}: the mark must read `# SOLUTION TODO 1 (name)`, not `{line.strip()}`")
            kept.append(f'{mark[1]}raise NotImplementedError("{mark[2].strip()}")')
        elif END.match(line):
            if not inside:
                raise SourceError(f"{where}: # END SOLUTION without a # SOLUTION TODO 1 (name) before it")
            inside = False
        else:
            (hidden if inside else kept).append(line)
    if inside:
        raise SourceError(f"{where}: a SOLUTION is not closed; add # END SOLUTION")
    return "\n".join(kept), [line.strip() for line in hidden if len(line.strip()) > 8]


def make(source: Path) -> tuple[NotebookNode, NotebookNode]:
    """The solution (not yet executed) and the lab of one source."""
    solution, lab = read(source), read(source)
    hidden: list[str] = []
    for i, (mine, theirs) in enumerate(zip(solution.cells, lab.cells, strict=True)):
        if mine.cell_type != "code":
            continue
        theirs.source, lines = stripped(theirs.source, _where(source, i, mine))
        mine.source = without_marks(mine.source)
        hidden += lines
    text = "\n".join(cell.source for cell in lab.cells)
    for line in hidden:
        if line in text:
            raise SourceError(f"{source.name}: the lab would hold the solution line `{line}`; reword one of the two")
    return solution, lab


def execute(notebook: NotebookNode) -> None:
    """Run a notebook in `solutions/`; what changes from run to run is left out, so that it diffs cleanly."""
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(HERE)}}).execute()
    notebook.metadata = NotebookNode({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        if "outputs" in cell:  # warnings depend on the machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            # a widget's id is new in each run and its state is not kept: its text stays
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def text_of(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook, indent=1) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


def problems(source: Path, labs: Path = LABS) -> list[str]:
    """What is wrong with a source and the notebooks that stand beside it, a line each; changes nothing."""
    mend = "run `make labs`"
    found = defects(source)
    solution, lab = make(source)
    for path, fresh in ((source.with_suffix(".ipynb"), solution), (labs / f"{source.stem}.ipynb", lab)):
        if not path.exists():
            found.append(f"{path.name} is missing in {path.parent.name}/: {mend}")
            continue
        text = path.read_text(encoding="utf-8")
        ids = [cell.get("id") for cell in json.loads(text)["cells"]]  # nbformat would mend them silently
        there = nbformat.reads(text, as_version=4)
        if len(set(ids)) < len(ids):
            found.append(f"{path.parent.name}/{path.name}: two cells share an id; {mend}")
        if [(c.cell_type, c.source) for c in there.cells] != [(c.cell_type, c.source) for c in fresh.cells]:
            found.append(f"{path.parent.name}/{path.name} is not what {source.name} makes: {mend}")
        has_output = any(cell.get("outputs") for cell in there.cells)
        if fresh is lab and has_output:
            found.append(f"{path.parent.name}/{path.name}: a lab holds outputs; {mend}")
        if fresh is solution and not has_output:
            found.append(f"{path.parent.name}/{path.name}: a solution without outputs; {mend}")
    return found


def strays(sources: list[Path], labs: Path = LABS) -> list[str]:
    """Notebooks that no source makes."""
    names = {source.stem for source in sources}
    return [
        f"{path.parent.name}/{path.name} has no source solutions/{path.stem}.py: remove it, or write the source"
        for folder in {labs, *(source.parent for source in sources)}
        for path in sorted(folder.glob("*.ipynb"))
        if path.stem not in names
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make or check the labs.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if something is out of date")
    parser.add_argument("names", nargs="*", help="sources to take, 02_double_descent say; all if none")
    args = parser.parse_args()
    there = sorted(HERE.glob("[0-9]*.py"))
    sources = [path for path in there if not args.names or path.stem in args.names]
    if missing := set(args.names) - {path.stem for path in there}:
        names = ", ".join(path.stem for path in there)
        print(f"no source solutions/{min(missing)}.py; there are: {names}", file=sys.stderr)
        return 1
    LABS.mkdir(exist_ok=True)
    found = strays(there) if args.check else []
    for source in sources:
        try:
            if args.check:
                found += problems(source)
            elif lines := defects(source):
                found += lines
            else:
                solution, lab = make(source)
                print(f"solutions/{source.name}: running ...", flush=True)
                execute(solution)
                write(source.with_suffix(".ipynb"), text_of(solution))
                write(LABS / f"{source.stem}.ipynb", text_of(lab))
        except SourceError as err:
            found.append(str(err))
    for line in found:
        print(line, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
