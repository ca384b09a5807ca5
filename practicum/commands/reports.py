"""Commands at the end: the gradebook, the feedback, the audit, and near-copies."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from practicum import ROOT, PracticumError
from practicum.app import Errors, Root, SemesterOption, app, plain_table, print_table
from practicum.results import write_whole
from practicum.semester import audit as audits
from practicum.semester import feedback as pages
from practicum.semester import gradebook as books
from practicum.semester import similar as copies
from practicum.semester.grades import Book, Grade
from practicum.semester.people import Group, Student
from practicum.semester.plan import Semester


@app.command()
def gradebook(
    out: Annotated[Path | None, typer.Option(help="Where to write it.", show_default="the semester's")] = None,
    separator: Annotated[str, typer.Option(help="Between columns: , or ; or tab.")] = ",",
    decimal: Annotated[str, typer.Option(help="In numbers: . or ,")] = ".",
    no_bom: Annotated[bool, typer.Option("--no-bom", help="No byte order mark, for systems it confuses.")] = False,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Write the gradebook, a CSV file with the columns that the plan names.

    It is UTF-8 with a byte order mark, so that Excel reads umlauts. A German Excel opens it right with --separator ";"
    and --decimal ",". What is incomplete is an empty cell, never 0. Open it by "from text" to see leading zeros.

    Example: practicum gradebook --separator ";" --decimal ","
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        book = Book(s, root)
        found = books.grades(book)
        path = out or s.gradebook
        books.save(book, books.gradebook(book, found, separator, decimal, not no_bom), path)
        _print_grades(found)
        _tell_open(book, found)
        typer.echo(f"{path.name} is written: {len(found)} students, {len(books.columns(s))} columns")
    errors.exit()


def _print_grades(found: list[tuple[Group, Student, Grade]]) -> None:
    table = plain_table("group", "student", "name", "total", "grade", "missing")
    for group, student, grade in found:
        total = "" if grade.total is None else f"{books.cut(grade.total):.2f}"
        lacks = Text(_some(books.missing(grade)), style="yellow")
        table.add_row(*map(Text, (group.id, student.id, student.name, total, grade.grade)), lacks)
    print_table(table)


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _tell_open(book: Book, found: list[tuple[Group, Student, Grade]]) -> None:
    for orphan in book.orphans:
        typer.echo(orphan, err=True)
    lacking = sum(grade.total is None for _, _, grade in found)
    typer.echo(f"{lacking} of {len(found)} grades are incomplete" if lacking else "all grades are complete")


@app.command()
def feedback(
    group: Annotated[list[str] | None, typer.Option("--group", help="A group; none: all.", show_default="all")] = None,
    graders: Annotated[bool, typer.Option("--graders", help="Name who scored.")] = False,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Write the feedback: a page a group, and one a student that has the individual marks and the grade besides.

    Each page is one HTML file that needs nothing else. Give a student's page to that student alone.

    Example: practicum feedback --group g07
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        book = Book(s, root)
        written = pages.write(book, group, graders)
        old = sorted(path.name for path in s.feedback.glob("*.html") if path not in pages.all_paths(book))
        for name in old:
            typer.echo(f"feedback/{name}: is of nobody in groups.csv (remove it)", err=True)
        teams = list(book.groups) if group is None else group
        _tell_open(book, [one for one in books.grades(book) if one[0].id in teams])
        typer.echo(f"{len(written)} pages are written in {s.feedback.name}/, for {len(set(teams))} groups")
    errors.exit()


@app.command()
def audit(
    head: Annotated[
        list[str] | None, typer.Option("--head", help="A head written down earlier: it must be in a log still.")
    ] = None,
    receipts: Annotated[bool, typer.Option("--receipts", help="Verify the receipts in the kits, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    semester: SemesterOption = Path(),
) -> None:
    """Verify that nothing was changed behind the logs, and show who scored what, when and why.

    Checked are both logs' chains, the accepted snapshots, the re-runs' evidence, and the heads that the gradebook and
    the feedback pages carry. The exit code is 1 if anything is wrong.

    Example: practicum audit --head 3f2a9c81d07e
    """
    errors = Errors()
    with errors.told():
        found = audits.audit(Semester(semester), head or [], receipts)
        if as_json:
            typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
        else:
            _print_audit(found)
        if found.problems:
            listed = [] if as_json else found.problems
            raise PracticumError("\n".join([*listed, f"the audit fails: {len(found.problems)} problems"]))
    errors.exit()


def _print_audit(found: audits.Audit) -> None:
    if found.changes:
        table = plain_table("leaf", "for", "line", "when", "who", "points", "reason", "")
        last = ""
        for c in found.changes:
            target = " ".join(filter(None, (c.group, c.paper, c.student)))
            again = f"{c.leaf} {target}" == last
            last = f"{c.leaf} {target}"
            points = _points(c.new) if c.old is None and not again else f"{_points(c.old)} → {_points(c.new)}"
            flags = [name for name, on in (("override", c.override), ("older rubric", c.old_rubric)) if on]
            first = ("", "") if again else (c.leaf, target)
            cells = map(Text, (*first, str(c.line), c.time, c.who, points, c.reason))
            table.add_row(*cells, Text(", ".join(flags), style="yellow"))
        print_table(table)
    for name in found.unsafe:
        typer.echo(f"re-run without isolation (unsafe-local): {name}")
    for note in found.notes:
        typer.echo(f"note: {note}")
    overrides = len({(c.leaf, c.group, c.paper, c.student) for c in found.changes if c.override})
    older = sum(c.old_rubric for c in found.changes)
    told = f"{len(found.changes)} score events; machine leaves overridden: {overrides}; under an older rubric: {older}"
    typer.echo(told)
    for name, hash_ in found.heads.items():
        typer.echo(f"head of {name}: {hash_[:12]}")
    if not found.problems:
        typer.echo("both logs, the snapshots and the evidence are as they were written (note the heads down elsewhere)")


def _points(points: float | None) -> str:
    return "none" if points is None else f"{points:g}"


@app.command()
def similar(
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of programs.")] = 0.6,
    text_threshold: Annotated[float, typer.Option(min=0, max=1, help="Of reports.")] = 0.3,
    out: Annotated[Path | None, typer.Option(help="Where to write it.", show_default="private/similar.csv")] = None,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Look for near-copies across groups and with public solutions.

    Programs (.py and code cells of .ipynb) are compared by fingerprints that renamed variables do not change, reports
    (.md and .tex) by their words. What the starter kits contain does not count. It is a place to look, not a verdict.

    Example: practicum similar --threshold 0.5
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        pairs, notes = copies.similar(s, root, threshold, text_threshold)
        path = out or s.private / "similar.csv"
        write_whole(path, copies.table_csv(pairs))
        for kind, unit, least in (("program", "lines", threshold), ("report", "word triples", text_threshold)):
            these = [pair for pair in pairs if pair.kind == kind]
            typer.echo(f"{kind}s, pairs that are {least:g} similar or more: {len(these)}")
            if these:
                table = plain_table("this", "that", "similar", f"shared {unit}")
                for pair in these:
                    table.add_row(*map(Text, (pair.a, pair.b, f"{pair.similarity:.2f}", str(pair.shared))))
                print_table(table)
        for note in notes:
            typer.echo(f"note: {note}")
        typer.echo(f"{path.name} is written. It says where to look: read both files before you judge")
    errors.exit()
