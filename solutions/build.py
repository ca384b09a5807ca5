"""Make the labs from their one source: solutions/NN_topic.py -> the executed solution and the stripped lab.

    python solutions/build.py            write solutions/*.ipynb (executed) and labs/*.ipynb (stripped)
    python solutions/build.py --check    change nothing; fail if a notebook is not what its source makes

A source is py:percent (jupytext). In an exercise cell the lines between `# SOLUTION` and `# END SOLUTION` are the
student's to write: the lab has `raise NotImplementedError("TODO ...")` there instead, named by the first mark.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent
LABS = HERE.parent / "labs"
START = re.compile(r"^(\s*)# SOLUTION (TODO .+)$")
END = re.compile(r"^\s*# END SOLUTION$")
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
            kept.append(f'{mark[1]}raise NotImplementedError("{mark[2]}")')
        elif END.match(line):
            if not inside:
                raise SourceError(f"{where}: # END SOLUTION without a # SOLUTION TODO n (name) before it")
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
    todos = 0
    for i, (mine, theirs) in enumerate(zip(solution.cells, lab.cells, strict=True)):
        if mine.cell_type != "code":
            continue
        where = f"{source.name}, cell {i + 1} ({mine.source.splitlines()[0][:40] if mine.source else 'empty'})"
        theirs.source, lines = stripped(theirs.source, where)
        mine.source = without_marks(mine.source)
        hidden += lines
        todos += bool(lines)
    if not todos:
        raise SourceError(f"{source.name}: no exercise; mark one by # SOLUTION TODO n (name) ... # END SOLUTION")
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
    """What is wrong with the notebooks that stand beside a source, a line each; changes nothing."""
    mend = "run `make labs`"
    solution, lab = make(source)
    found = []
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
    try:
        found = [line for source in sources for line in problems(source)] + strays(there) if args.check else []
        for source in [] if args.check else sources:
            solution, lab = make(source)
            print(f"solutions/{source.name}: running ...", flush=True)
            execute(solution)
            write(source.with_suffix(".ipynb"), text_of(solution))
            write(LABS / f"{source.stem}.ipynb", text_of(lab))
    except SourceError as err:
        found = [str(err)]
    for line in found:
        print(line, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
