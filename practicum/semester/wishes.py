"""What papers the groups wish for, `wishes.csv`: one row a group, or one row a wish."""

import re
from collections.abc import Collection
from pathlib import Path

from practicum import choices
from practicum.semester.people import Group, find_group
from practicum.semester.plan import SemesterError
from practicum.semester.tables import Row, Table, plain, read_table

FIELDS = {
    "group": ["Group", "Gruppe", "Team", "Group id", "Group name", "Gruppenname", "Team name", "Teamname"],
    "rank": ["Rank", "Rang", "Priority", "Priorität", "Choice", "Preference", "Wunsch", "Wahl"],
    "paper": ["Paper", "Paper id", "Topic", "Thema", "Arbeit"],
}
WORDS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
         "erst", "zweit", "dritt", "viert", "funft", "sechst", "siebt", "acht", "neunt", "zehnt"]  # fmt: skip
Ranks = dict[str, dict[str, int]]


def rank(ranks: Ranks, group: str, paper: str, papers: Collection[str]) -> int:
    """Give the rank that counts: as stated; the number of papers if the group names others; 1 if it names none."""
    stated = ranks.get(group)
    return stated.get(paper, len(papers)) if stated else 1


def read_wishes(
    path: Path, groups: dict[str, Group], papers: Collection[str], closed: Collection[str] = ()
) -> tuple[Ranks, list[str]]:
    """Read the rank (from 1) of each paper that each group names, and notes.

    Ranks are places in the group's order: a gap counts for nothing, and `closed` papers, which exist but cannot be
    allotted, are left out with a note. SemesterError has a line for each problem.
    """
    write = "write a line `group,choice 1,choice 2,...` and below it a row a group; that line alone: no wishes"
    table = read_table(path, FIELDS, [["group"]], write)
    known = {paper.casefold(): "" for paper in closed} | {paper.casefold(): paper for paper in papers}
    form = _long if {"rank", "paper"} <= table.columns.keys() else _wide
    orders = form(table, groups, known)
    table.done()
    ranks = {group: {paper: i for i, paper in enumerate(orders[group], 1)} for group in groups if orders.get(group)}
    most = max(map(len, ranks.values()), default=0)
    fewer = [f"{group} ({len(ranks[group])})" for group in ranks if len(ranks[group]) < most]
    if fewer:  # all that they do not name counts as the last rank, which the allotment avoids
        table.notes.append(f"name fewer papers than others ({most}), so that theirs weigh more: {', '.join(fewer)}")
    silent = [group for group in groups if group not in ranks]
    if silent:
        table.notes.append(f"without wishes, every paper as good as another: {', '.join(silent)}")
    return ranks, table.notes


def _wide(table: Table, groups: dict[str, Group], papers: dict[str, str]) -> dict[str, list[str]]:
    """Read rows of a group and its choices, whose columns are ordered by the number in their names."""
    numbers = {i: _number(name) for i, name in enumerate(table.header) if i != table.columns["group"]}
    chosen = sorted((number, i) for i, number in numbers.items() if number)
    if not chosen:
        raise SemesterError(f"{table.path.name}: has no columns of choices (name them choice 1, choice 2, ...)")
    if len({number for number, _ in chosen}) < len(chosen):
        told = ", ".join(table.header[i] for _, i in chosen)
        raise SemesterError(f"{table.path.name}: two columns are the same choice: {told} (number them 1, 2, ...)")
    spare = [table.header[i] for i, number in numbers.items() if not number and table.header[i]]
    if spare:
        table.notes.append(f"{table.path.name}: no choices, so not read: the columns {', '.join(spare)}")
    found: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for row in table.rows:
        group = _group(row, table, groups)
        names = [_paper(row.cells[i], row, table, papers) for _, i in chosen if row.cells[i]]
        order = [paper for paper in names if paper]
        for paper in sorted({paper for paper in order if order.count(paper) > 1}):
            table.problem(row.line, f"{paper} is chosen twice (remove one)")
        if group in found and found[group] != order:
            told = f"{group} has other choices in line {lines[group]} (keep one line)"
            table.problem(row.line, told)
        elif group in found:
            table.note(row.line, f"repeats line {lines[group]}: {group} is counted once")
        elif group:
            found[group], lines[group] = order, row.line
    return found


def _long(table: Table, groups: dict[str, Group], papers: dict[str, str]) -> dict[str, list[str]]:
    """Read rows of a group, a rank and a paper."""
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for row in table.rows:
        group, paper = _group(row, table, groups), _paper(row["paper"], row, table, papers)
        number = _number(row["rank"])
        if not number:
            table.problem(row.line, f"{row['rank']!r} is no rank (write 1, 2, ...)")
        if not group or not paper or not number:
            continue
        mine = found.setdefault(group, {})
        same = [line for n, (other, line) in mine.items() if (other == paper) != (n == number)]
        if mine.get(number, ("",))[0] == paper:
            table.note(row.line, f"repeats line {mine[number][1]} (counted once)")
        elif same:
            told = f"{group} has this {'rank' if number in mine else 'paper'} in line {same[0]} already (keep one)"
            table.problem(row.line, told)
        else:
            mine[number] = paper, row.line
    return {group: [mine[number][0] for number in sorted(mine)] for group, mine in found.items()}


def _group(row: Row, table: Table, groups: dict[str, Group]) -> str | None:
    try:
        found = find_group(row["group"], groups)
    except SemesterError as error:
        table.problem(row.line, str(error))
        return None
    if found is None:
        known = [*groups, *(group.given for group in groups.values() if group.given)]
        table.problem(row.line, f"{row['group']!r} is no group ({choices(row['group'], known, 5)})")
    return found


def _paper(cell: str, row: Row, table: Table, papers: dict[str, str]) -> str | None:
    """Give the paper's id; None, with a note or a problem, for one that is closed or unknown."""
    found = papers.get(cell.casefold())
    if found == "":
        table.note(row.line, f"{cell} cannot be allotted, so it is left out")
    elif found is None:
        told = choices(cell.casefold(), filter(None, papers.values()), 5)
        table.problem(row.line, f"{cell!r} is no assignable paper ({told})")
    return found or None


def _number(name: str) -> int | None:
    """Read the one number in `2`, `2.0`, `choice 2`, `2nd` or `second choice`; None if there is none, or it is 0."""
    digits = re.findall(r"\d+", re.sub(r"\(.*?\)|(?<=\d)\.0+$", "", name))
    if digits:
        return int(digits[0]) or None if len(digits) == 1 else None
    return next((i % 10 + 1 for i, word in enumerate(WORDS) if plain(name).startswith(word)), None)
