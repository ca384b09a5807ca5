"""Commands of the graders: the re-run in isolation, and scores."""

import threading
from getpass import getuser
from pathlib import Path
from typing import Annotated

import typer
from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from practicum import ROOT, PracticumError, choices
from practicum.app import Errors, Root, SemesterOption, app, plain_table, print_table
from practicum.cards import load_cards
from practicum.commands.groupwork import show
from practicum.runs import Interrupted
from practicum.semester.drop import Submission, latest, submissions
from practicum.semester.grades import Book, Mark
from practicum.semester.plan import Semester
from practicum.semester.rerun import load_evidence, open_reruns, rerun
from practicum.semester.sandbox import How, choose
from practicum.semester.scores import check_target, find_leaf, score

Who = Annotated[str, typer.Option("--who", help="The grader.", default_factory=getuser, show_default="the user")]
GroupOption = Annotated[str | None, typer.Option("--group", help="One group.", show_default="all")]
PaperOption = Annotated[str | None, typer.Option("--paper", help="One paper.", show_default="all")]


@app.command("rerun")
def rerun_command(
    group: GroupOption = None,
    paper: PaperOption = None,
    deliverable: Annotated[str | None, typer.Option("--for", help="One deliverable.", show_default="all")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many programs at a time.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Run again what was re-run already.")] = False,
    unsafe_local: Annotated[
        bool, typer.Option("--unsafe-local", help="Without isolation, as this user; it is recorded.")
    ] = False,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Re-run what was handed in on hidden seeds, each program in a box of its own.

    Ctrl-C keeps the finished seeds; the same command resumes.

    Example: practicum rerun --for midterm --jobs 4
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        how = choose(unsafe_local)
        chosen = [
            x for (g, p, d), x in latest(submissions(s.drop)).items()
            if group in (None, g) and paper in (None, p) and deliverable in (None, d)
        ]  # fmt: skip
        for asked, there in ((group, s.papers()), (paper, load_cards(root)), (deliverable, s.plan.dates)):
            if asked is not None and asked not in there:
                raise PracticumError(f"nothing is called {asked!r} here ({choices(asked, there)})")
        todo = chosen if force else open_reruns(s, chosen)
        typer.echo(f"{len(chosen)} submissions count, {len(todo)} to re-run, isolation: {how}")
        if how == "unsafe-local":
            typer.echo("unsafe-local: these programs can read and write whatever you can", err=True)
        _rerun_all(s, todo, how, jobs, force, root, errors)
        for x in todo:
            if evidence := load_evidence(s, x):
                told = "; ".join([f"{len(evidence.good)} of {len(evidence.runs)} seeds ran", *evidence.problems])
                typer.echo(f"{x.group} {x.paper} {x.deliverable} {x.short}: {told}")
    errors.exit()


def _rerun_all(
    s: Semester, todo: list[Submission], how: How, jobs: int, force: bool, root: Path, errors: Errors
) -> None:
    """Re-run several submissions at once; what goes wrong with one is told and touches no other."""
    cards = load_cards(root, sorted({x.paper for x in todo})) if todo else {}
    cancel, console = threading.Event(), Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("seeds", total=len(todo) * s.plan.seeds.hidden)

        def one(x: Submission) -> str:
            try:
                found = rerun(s, x, cards[x.paper], how, force=force, cancel=cancel,
                              on_seed=lambda _: progress.advance(task))  # fmt: skip
            except PracticumError as error:
                return str(error)
            except Exception as error:
                named = f"{x.group} {x.paper} {x.deliverable}"
                return f"{named}: {type(error).__name__}: {error} (run it again with --group {x.group})"
            return "" if found or cancel.is_set() else f"{x.group} {x.paper}: another grader re-runs it right now"

        try:
            parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", prefer="threads")
            for problem in parallel(delayed(one)(x) for x in todo):
                with errors.told():
                    if problem:
                        raise PracticumError(problem)
        except KeyboardInterrupt:
            cancel.set()
            raise Interrupted("interrupted: the finished seeds are kept (the same command resumes)") from None


@app.command("score")
def score_command(
    leaf: Annotated[str, typer.Argument(help="The rubric's leaf, such as theory or reproducibility.theory.")],
    points: Annotated[str, typer.Argument(help="Points; for a machine's leaf a share from 0 to 1; or: withdraw.")],
    group: Annotated[str, typer.Option("--group", help="The group.")],
    reason: Annotated[str, typer.Option("--reason", help="One sentence that the group will read.")],
    who: Who,
    paper: Annotated[str, typer.Option("--paper", help="The paper, for leaves per paper.", show_default=False)] = "",
    student: Annotated[str, typer.Option("--student", help="The student, for leaves per student.")] = "",
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Score a leaf of the rubric, override what the machine computed, or withdraw a score; the last one counts.

    Example: practicum score theory 3 --group g07 --paper bao2020regularized --reason "The proof lacks a step." --who cw
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        book = Book(s, root)
        found, target = find_leaf(s, leaf), (group, paper, student)
        check_target(found, target, book.papers, book.students)
        before, work = book.mark(found, target), book.works.get((group, paper, found.due))
        event = score(s, who, found, target, _points(points), reason, work.submission.snapshot if work else "")
        after = Book(s, root).mark(found, target)
        named = " ".join([found.path, *filter(None, target)])
        typer.echo(f"{named}: {_told(before)} -> {_told(after)} (line {event.n})")
    errors.exit()


def _points(text: str) -> float | None:
    if text == "withdraw":
        return None
    try:
        return float(text)
    except ValueError:
        raise PracticumError(f"{text!r} are no points (write a number, or: withdraw)") from None


def _told(mark: Mark) -> str:
    return "open" if mark.share is None else f"{mark.share * mark.leaf.points:.3g} of {mark.leaf.points} by {mark.by}"


@app.command()
def status(
    group: GroupOption = None,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Show who has handed in what, what is re-run, and what is still to be scored; one group: every claim of its.

    Example: practicum status --group g07
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        book = Book(s, root)
        if group and group not in book.papers:
            raise PracticumError(f"no group {group!r} has papers (see allotment.csv)")
        table = plain_table("group", "paper", "deliverable", "received (UTC)", "counts", "re-run", "open leaves")
        for g in [group] if group else book.papers:
            open_leaves = [mark for mark in book.marks(g) if mark.share is None]
            for p in book.papers[g]:
                for d in dict.fromkeys(leaf.due for leaf in s.leaves if leaf.per == "paper"):
                    work = book.works.get((g, p, d))
                    n = sum(mark.target[1] == p and mark.leaf.due == d for mark in open_leaves)
                    if work is None:
                        cells = ("", "", "")
                    else:
                        e = work.evidence
                        ran = f"{len(e.good)}/{len(e.runs)} {e.how}" if e else "not yet"
                        cells = (f"{work.submission.received:%Y-%m-%d %H:%M}", f"{work.factor:.0%}", ran)
                    table.add_row(*map(Text, (g, p, d, *cells, str(n))))
        print_table(table)
        for orphan in book.orphans:
            typer.echo(orphan, err=True)
        for key, work in book.works.items() if group else ():
            if key[0] == group:
                typer.echo(f"\n{' '.join(key)}")
                show(work.rows)
    errors.exit()
