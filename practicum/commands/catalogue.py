"""The command on the catalogue: what papers there are for groups, and all of one."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from practicum import ROOT, PracticumError, choices
from practicum.app import Errors, Root, app, plain_table, print_table
from practicum.cards import Card, load_cards
from practicum.semester.catalogue import assignable, capacity, has_solution, obstacle
from practicum.semester.plan import PLAN, Plan, Semester
from practicum.verdicts import expected

ROLES = ("core", "secondary", "theory", "control")


@app.command()
def papers(
    paper: Annotated[str | None, typer.Argument(help="Id of a paper, to show the whole card; none: all.")] = None,
    theme: Annotated[str | None, typer.Option(help="Papers of this theme alone.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    semester: Annotated[
        Path | None,
        typer.Option(help="The semester whose capacities count.", show_default="the current one, if it is one"),
    ] = None,
    root: Root = ROOT,
) -> None:
    """Show the catalogue: theme, size, budget, claims by role, public solution, capacity.

    Example: practicum papers --theme double-descent
    """
    errors = Errors()
    with errors.told():
        here = semester or (Path() if Path(PLAN).is_file() else None)
        plan = Semester(here).plan if here else None
        cards = load_cards(root)
        assignable(cards, plan)  # tells of capacities that name no paper
        if paper is not None and paper not in cards:
            raise PracticumError(f"no paper {paper!r} ({choices(paper, cards)})")
        themes = {card.theme for card in cards.values()}
        if theme is not None and theme not in themes:
            raise PracticumError(f"no paper of theme {theme!r} ({choices(theme, themes)})")
        shown = {name: card for name, card in cards.items() if paper in (None, name) and theme in (None, card.theme)}
        if not shown:
            raise PracticumError(f"{paper}: is of theme {cards[str(paper)].theme} (leave --theme out)")
        entries = [_entry(card, plan, root) for card in shown.values()]
        if as_json:
            whole = {**entries[0], "card": shown[paper].model_dump(mode="json")} if paper else None
            typer.echo(json.dumps(whole or entries, indent=2, ensure_ascii=False))
        elif paper:
            _show(shown[paper], plan, root)
        else:
            _list(shown, plan, root)
    errors.exit()


def _entry(card: Card, plan: Plan | None, root: Path) -> dict[str, Any]:
    roles = Counter[str](claim.role for claim in card.claims)
    return {
        "paper": card.id, "title": card.title, "theme": card.theme,
        "size": card.practical.size if card.practical else None, "budget": card.budget.model_dump(),
        "claims": {role: roles[role] for role in ROLES}, "solution": has_solution(card, root),
        "capacity": capacity(card, plan), "obstacle": obstacle(card, plan),
    }  # fmt: skip


def _list(cards: dict[str, Card], plan: Plan | None, root: Path) -> None:
    table = plain_table("paper", "title", "theme", "size", "s a seed", "MB", "claims", "solution", "capacity")
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    table.columns[1].min_width = 30
    for card in cards.values():
        e = _entry(card, plan, root)
        claims = "/".join(str(n) for n in e["claims"].values())
        places = str(e["capacity"]) if e["capacity"] else f"0: {e['obstacle']}"
        cells = (card.id, card.title, card.theme, e["size"] or "", f"{card.budget.seconds:g}",
                 f"{card.budget.memory_mb:g}", claims, "public" if e["solution"] else "", places)  # fmt: skip
        table.add_row(*map(Text, cells), style=None if e["capacity"] else "dim")
    print_table(table)
    total = assignable(cards, plan)
    typer.echo(f"{len(total)} of {len(cards)} papers are assignable, with {sum(n for _, n in total.values())} places; "
               f"claims: {'/'.join(ROLES)}")  # fmt: skip


def _show(card: Card, plan: Plan | None, root: Path) -> None:
    e = _entry(card, plan, root)
    typer.echo(f"{card.id}: {card.title}")
    facts = {
        "theme": card.theme, "authors' code": card.author_code, "setting": card.setting,
        "budget": f"{card.budget.seconds:g} s a seed, {card.budget.memory_mb:g} MB, {card.budget.seeds} seeds",
        "solution": "public" if e["solution"] else "none public",
        "capacity": f"{e['capacity']}" if e["capacity"] else f"0: {e['obstacle']}",
    }  # fmt: skip
    if card.practical:
        facts |= {"size": card.practical.size, "others' code": card.practical.code_policy}
        facts |= {"start": card.practical.start}
    for name, fact in facts.items():
        typer.echo(f"{name}: {' '.join(fact.split())}")
    table = plain_table("claim", "role", "where", "text", "kind", "keys", "expected")
    for claim in card.claims:
        where = claim.where + (" (paper's scale)" if claim.scale == "paper" else "")
        cells = (claim.id, claim.role, where, claim.text, claim.kind, ", ".join(claim.keys), expected(claim))
        table.add_row(*map(Text, cells))
    typer.echo()
    print_table(table)
    if card.practical:
        keys = plain_table("key", "what it is")
        for key, meaning in card.practical.keys.items():
            keys.add_row(Text(key), Text(meaning))
        typer.echo()
        print_table(keys)
        typer.echo("\nextensions:")
        for extension in card.practical.extensions:
            typer.echo(f"- {' '.join(extension.split())}")
