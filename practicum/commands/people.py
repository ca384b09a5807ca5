"""Commands that begin a semester: form the groups, and allot the papers."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from practicum import ROOT
from practicum.app import Errors, Root, SemesterOption, app, plain_table, print_table
from practicum.cards import load_cards
from practicum.semester.allot import Allotment, Papers, allotment_csv
from practicum.semester.allot import allot as allot_papers
from practicum.semester.catalogue import assignable
from practicum.semester.explain import explain as explain_allotment
from practicum.semester.people import Group, form_groups, groups_csv, load_groups
from practicum.semester.plan import Semester
from practicum.semester.roster import read_students
from practicum.semester.tables import write_once
from practicum.semester.wishes import Ranks, read_wishes

Seed = Annotated[int, typer.Option(min=0, help="Decides what is drawn.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there and differs.")]


@app.command()
def groups(
    students: Annotated[
        Path | None, typer.Argument(help="The matching system's export; none: the semester's students.csv.")
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    semester: SemesterOption = Path(),
) -> None:
    """Form the groups from the matching system's CSV of students, and write groups.csv.

    Encoding, separator and header names are recognised. Groups that the file names are kept; students without one
    are put into groups of the plan's size by seed.

    Example: practicum groups export.csv --semester summer27
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        entries, notes = read_students(students or s.students)
        formed, more = form_groups(entries, s.plan.group_size, seed)
        _print_groups(formed)
        _print_notes(notes + more)
        held = "papers, kits and submissions may hang on it"
        typer.echo(write_once(s.groups, groups_csv(formed), force, held))
    errors.exit()


@app.command()
def allot(
    seed: Seed = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Say for each group why.")] = False,
    force: Force = False,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Give each group its papers by the wishes in wishes.csv, and write allotment.csv.

    Papers of a group are of different themes, and no paper goes to more groups than its capacity. First the worst
    rank is made smallest, then the sum of squared ranks; the seed decides among equals. A paper that a group does not
    name counts as rank (number of papers); a group that names none is content with any.

    Example: practicum allot --semester summer27 --explain
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        cards = load_cards(root)
        papers = assignable(cards, s.plan)
        teams = load_groups(s)
        ranks, notes = read_wishes(s.wishes, teams, papers, cards.keys() - papers.keys())
        found = allot_papers(teams, ranks, papers, s.plan.papers_per_group, seed)
        why = explain_allotment(found, ranks, papers)
        _print_allotment(found, ranks, papers)
        for group, told in why.items() if explain else ():
            typer.echo(f"{group}: {told}")
        _print_notes(notes)
        text = allotment_csv(found, ranks, papers, why)
        typer.echo(write_once(s.allotment, text, force, "kits and submissions may hang on it"))
        Semester(semester)  # tells the groups' commands
    errors.exit()


def _print_groups(formed: list[Group]) -> None:
    table = plain_table("group", "given", "size", "students")
    for group in formed:
        names = ", ".join(student.name for student in group.students)
        table.add_row(*map(Text, (group.id, group.given, str(len(group.students)), names)))
    print_table(table)
    typer.echo(f"{sum(len(group.students) for group in formed)} students in {len(formed)} groups")


def _print_allotment(found: Allotment, ranks: Ranks, papers: Papers) -> None:
    table = plain_table("group", "rank", "paper", "theme")
    for group, held in found.held.items():
        stated = ranks.get(group)
        for i, paper in enumerate(held):
            place = str(stated.get(paper, "not named")) if stated else "no wishes"
            table.add_row(*map(Text, ("" if i else group, place, paper, papers[paper][0])))
    print_table(table)
    places = sum(capacity for _, capacity in papers.values())
    used = sum(map(len, found.held.values()))
    typer.echo(f"worst rank {found.worst}, sum of squared ranks {found.squares}, {used} of {places} places used, "
               f"seed {found.seed}")  # fmt: skip


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}")
