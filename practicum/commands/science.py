"""Commands on the papers: check the cards, run the programs, show the verdicts."""

import json
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from practicum import ROOT, PracticumError
from practicum.app import COLOURS, Errors, Root, app, plain_table, print_table
from practicum.cards import Card, load_cards
from practicum.results import RunScale, load_worked, program_path, results_path
from practicum.runs import Interrupted, is_fresh, run
from practicum.verdicts import FEWEST_SEEDS, Judgement, judge_card

Papers = Annotated[list[str] | None, typer.Argument(help="Ids of papers (folders); none: all.", metavar="[PAPER]...")]


@app.command()
def cards(root: Root = ROOT) -> None:
    """Check every paper's card, and that its program is there or groups can write one.

    Example: practicum cards
    """
    errors = Errors()
    with errors.told():
        found = load_cards(root)
        for paper in found:
            with errors.told():
                if not (program_path(root, paper).is_file() or found[paper].practical):
                    missing = f"reproductions/{paper}/reproduce.py: is missing"
                    raise PracticumError(f"{missing} (write the program, or a `practical` in the card)")
        claims = sum(len(card.claims) for card in found.values())
        typer.echo(f"{len(found)} cards, {claims} claims: the cards are well-formed")
    errors.exit()


@app.command()
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="Id of the paper (folder); none: all.")] = None,
    scale: Annotated[RunScale, typer.Option(help="How large a setting.")] = "laptop",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many (default: as the card says).", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Run even what is up to date.")] = False,
    root: Root = ROOT,
) -> None:
    """Run a paper's program, one seed after another, and write its results.

    Ctrl-C keeps the finished seeds; the same command resumes.

    Example: practicum reproduce heckel2021early --jobs 2
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's end is as Ctrl-C
    errors = Errors()
    with errors.told():
        if seeds is not None and seeds < FEWEST_SEEDS and scale != "smoke":
            raise PracticumError(f"{seeds} seeds are too few (give {FEWEST_SEEDS}, or try with --scale smoke)")
        for card in (load_worked(root) if paper is None else load_cards(root, [paper])).values():
            with errors.told():
                _reproduce(card, scale, seeds or card.budget.seeds, jobs, root, force)
            if errors.code == Interrupted.exit_code:
                break
    errors.exit()


def _reproduce(card: Card, scale: RunScale, seeds: int, jobs: int, root: Path, force: bool) -> None:
    if not force and is_fresh(card.id, scale, seeds, root):
        typer.echo(f"{card.id}: up to date (--force runs it again)")
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    start = time.perf_counter()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(card.id, total=seeds)
        run(
            card.id, scale, seeds, jobs, root, force,
            on_seed=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    written = results_path(root, card.id, scale).relative_to(root).as_posix()
    typer.echo(f"{card.id}: {seeds} seeds in {time.perf_counter() - start:.0f} s, {written} is written")


@app.command()
def verdicts(
    papers: Papers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    root: Root = ROOT,
) -> None:
    """Show the verdict on every claim.

    Example: practicum verdicts heckel2021early --json
    """
    errors = Errors()
    judged: list[Judgement] = []
    with errors.told():
        for card in (load_cards(root, papers) if papers else load_worked(root)).values():
            with errors.told():  # a paper that cannot be judged hides no other
                judged += judge_card(card, root)
        if as_json:
            typer.echo(json.dumps([j.model_dump(mode="json") for j in judged], indent=2, ensure_ascii=False))
        elif judged:
            _print(judged)
        else:
            typer.echo("no claims")
    errors.exit()


def _print(judged: list[Judgement]) -> None:
    table = plain_table("paper", "claim", "role", "paper's", "ours", "verdict")
    table.add_column("s", justify="right", no_wrap=True)
    last = ""
    for j in judged:
        if last and last != j.paper:
            table.add_section()
        last = j.paper
        verdict = Text(j.status + (", stale" if j.stale else ""), style=COLOURS[j.status])
        seconds = "" if j.seconds is None else f"{j.seconds:.3g}"
        cells = (
            j.paper,
            j.claim + ("?" if j.source == "unchecked" else ""),
            j.role,
            _paper_number(j),
            _ours(j),
        )
        table.add_row(*map(Text, cells), verdict, Text(seconds))
    print_table(table)
    if any(j.source == "unchecked" for j in judged):
        typer.echo("? the sentence is not checked against the paper")
    if any(j.stale for j in judged):
        typer.echo("stale: the program has changed since (make reproduce runs it again)")


def _paper_number(j: Judgement) -> str:
    if j.paper_value is not None:
        return f"{j.paper_value:g} {j.unit}".strip()
    return f"not {j.of}" if j.of else j.expected


def _ours(j: Judgement) -> str:
    return "" if j.mean is None else f"{j.mean:.3g} ± {j.sd:.2g} ({j.n})"
