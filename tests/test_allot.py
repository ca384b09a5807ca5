"""The allotment against brute force, the smallest mend of what is impossible, and whether its reasons are true."""

import json
import re
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import yaml
from practicum_fixtures import card, write
from test_people import run, semester

import practicum.commands.catalogue
import practicum.commands.people  # noqa: F401 - registers the commands
from practicum.cards import load_cards
from practicum.semester.allot import Allotment, Papers, allot, allotted, impossible
from practicum.semester.catalogue import assignable
from practicum.semester.explain import explain
from practicum.semester.plan import SemesterError
from practicum.semester.tables import read_table
from practicum.semester.wishes import Ranks, rank

Case = tuple[list[str], Ranks, Papers, int]


def case(seed: int) -> Case:
    """A small random case: 1 to 4 groups, 3 to 6 papers of 2 to 4 themes, partial and missing wishes among them."""
    rng = np.random.default_rng(seed)
    groups = [f"g{i}" for i in range(rng.integers(1, 5))]
    themes = rng.integers(rng.integers(2, 5), size=rng.integers(3, 7))
    papers = {f"p{i}": (f"t{theme}", int(rng.integers(1, 4))) for i, theme in enumerate(themes)}
    liking = rng.normal(size=len(papers))
    ranks: Ranks = {}
    for group in groups:
        order = np.argsort(liking + rng.normal(size=len(papers)))[: rng.integers(0, len(papers) + 1)]
        ranks[group] = {f"p{p}": i for i, p in enumerate(order, 1)}
    return groups, ranks, papers, int(rng.choice([1, 2, 2, 2, 3]))


def is_sound(held: dict[str, tuple[str, ...]], papers: Papers) -> bool:
    """Say whether all capacities are kept and no group has two papers of a theme."""
    used = [paper for mine in held.values() for paper in mine]
    fits = all(used.count(paper) <= capacity for paper, (_, capacity) in papers.items())
    return fits and all(len({papers[p][0] for p in mine}) == len(mine) for mine in held.values())


def every(groups: list[str], papers: Papers, per_group: int) -> list[dict[str, tuple[str, ...]]]:
    """All allotments that there are."""
    sets = [mine for mine in combinations(papers, per_group) if len({papers[p][0] for p in mine}) == per_group]
    dealt = (dict(zip(groups, chosen, strict=True)) for chosen in product(sets, repeat=len(groups)))
    return [held for held in dealt if is_sound(held, papers)]


def quality(held: dict[str, tuple[str, ...]], ranks: Ranks, papers: Papers) -> tuple[int, int]:
    """The worst rank, and the sum of squared ranks."""
    used = [rank(ranks, group, paper, papers) for group, mine in held.items() for paper in mine]
    return max(used), sum(r * r for r in used)


@pytest.mark.parametrize("block", range(4))
def test_best_of_all_or_impossible(block: int) -> None:
    possible = 0
    for seed in range(60 * block, 60 * block + 60):
        groups, ranks, papers, k = case(seed)
        there = every(groups, papers, k)
        told = impossible(len(groups), papers, k)
        assert bool(there) != bool(told), seed
        if not there:
            with pytest.raises(SemesterError, match=r"^impossible because .*\)$"):
                allot(groups, ranks, papers, k, seed)
            continue
        possible += 1
        found = allot(groups, ranks, papers, k, seed)
        held = {group: tuple(mine) for group, mine in found.held.items()}
        assert is_sound(held, papers)
        assert [len(mine) for mine in held.values()] == [k] * len(groups)
        best = min(quality(other, ranks, papers) for other in there)
        assert quality(held, ranks, papers) == best == (found.worst, found.squares), seed
    assert 20 < possible < 60


def test_smallest_mend() -> None:
    """No smaller raise of capacities helps, and the one that is named does."""
    mended = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n, k = int(rng.integers(2, 4)), int(rng.integers(1, 4))
        papers = {f"p{i}": (f"t{rng.integers(3)}", int(rng.integers(1, 3))) for i in range(rng.integers(1, 5))}
        groups = [f"g{i}" for i in range(n)]
        told = impossible(n, papers, k)
        if told is None:
            continue
        if "no capacity helps" in told:
            assert not every(groups, {paper: (theme, n) for paper, (theme, _) in papers.items()}, k)
            continue
        lack = int(re.search(r"raise capacities by (\d+)", told)[1])
        smaller = product(range(lack), repeat=len(papers))
        for raised in (r for r in smaller if sum(r) == lack - 1):
            more = {p: (t, c + r) for (p, (t, c)), r in zip(papers.items(), raised, strict=True)}
            assert not every(groups, more, k), (seed, told)
        named = {paper: int(to) for paper, to in re.findall(r"(p\d) to (\d)", told)}
        after = {paper: (theme, named.get(paper, c)) for paper, (theme, c) in papers.items()}
        assert sum(c for _, c in after.values()) - sum(c for _, c in papers.values()) == lack
        assert every(groups, after, k), (seed, told)
        mended += 1
    assert mended > 30


def test_impossible_says_what_and_how_much() -> None:
    flat = {f"p{i:02}": (f"t{i % 6}", 3 if i < 6 else 2) for i in range(30)}
    assert impossible(40, flat, 2) == (
        "impossible because 40 groups need 80 places and the 30 assignable papers have 66 "
        "(raise capacities by 14, e.g. p06 to 3, p07 to 3, p08 to 3, p09 to 3, p10 to 3, ...)"
    )
    lopsided = {"a": ("x", 59), "b": ("y", 20), "c": ("z", 11)}
    assert impossible(40, lopsided, 2) == (
        "impossible because 40 groups need 80 places and the 3 assignable papers have 90, of which 71 serve, as no "
        "group takes two of one theme and 59 are in x (raise capacities by 9, e.g. c to 20)"
    )
    assert impossible(4, {"a": ("x", 9), "b": ("x", 9)}, 2) == (
        "impossible because a group gets 2 papers of different themes, and the 2 assignable papers have 1: x "
        "(make papers of other themes assignable; no capacity helps)"
    )
    assert "have 0: none" in (impossible(4, {}, 2) or "")


def test_no_groups() -> None:
    with pytest.raises(SemesterError, match="practicum groups"):
        allot([], {}, {"a": ("x", 1)}, 1)


def test_worst_rank_goes_before_the_sum() -> None:
    papers: Papers = {paper: (paper, 1) for paper in "abc"}
    ranks = {"g1": {"a": 1, "b": 6, "c": 9}, "g2": {"a": 6, "b": 7, "c": 9}, "g3": {"a": 9, "b": 9, "c": 1}}
    there = every(list(ranks), papers, 1)
    by_sum = min(there, key=lambda held: quality(held, ranks, papers)[::-1])
    found = allot(ranks, ranks, papers, 1)
    assert quality(by_sum, ranks, papers) == (7, 1 + 49 + 1)
    assert (found.worst, found.squares) == (6, 36 + 36 + 1)


def test_squares_and_not_ranks_are_summed() -> None:
    papers: Papers = {paper: (paper, 1) for paper in "abcd"}
    nine = dict.fromkeys("abcd", 9)
    ranks = {"g1": nine | {"a": 1, "b": 2}, "g2": nine | {"b": 1, "c": 2}, "g3": nine | {"c": 4, "a": 3},
             "g4": nine | {"d": 4}}  # fmt: skip
    found = allot(ranks, ranks, papers, 1)
    assert found.held == {"g1": ["b"], "g2": ["c"], "g3": ["a"], "g4": ["d"]}  # 2, 2, 3, 4 and not 1, 1, 4, 4
    assert (found.worst, found.squares) == (4, 4 + 4 + 9 + 16)


def test_ties_are_the_seeds_alone() -> None:
    papers: Papers = {paper: (paper, 1) for paper in "abcd"}
    ranks = {group: dict(zip("abcd", range(1, 5), strict=True)) for group in ("g1", "g2")}
    best = min(quality(held, ranks, papers) for held in every(["g1", "g2"], papers, 2))
    equal = [held for held in every(["g1", "g2"], papers, 2) if quality(held, ranks, papers) == best]
    drawn = [allot(["g1", "g2"], ranks, papers, 2, seed).held for seed in range(40)]
    assert {tuple(map(tuple, held.values())) for held in drawn} == {tuple(held.values()) for held in equal}
    again = [allot(["g2", "g1"], ranks, dict(reversed(papers.items())), 2, seed).held for seed in range(40)]
    assert drawn == again


def test_a_group_without_wishes_costs_nobody_anything() -> None:
    papers: Papers = {paper: (paper, 1) for paper in "abcd"}
    ranks = {"g1": {"a": 1, "b": 2}}
    for seed in range(5):
        found = allot(["g1", "g2"], ranks, papers, 2, seed)
        assert (found.held["g1"], found.worst) == (["a", "b"], 2)


@pytest.mark.parametrize("block", range(2))
def test_reasons_are_true(block: int) -> None:
    """Each reason is read again and checked against the allotment, and no better choice is left out."""
    kinds = {"went": 0, "theme": 0, "rank": 0, "seed": 0, "nothing": 0, "later": 0}
    for seed in range(300 * block, 300 * block + 300):
        groups, ranks, papers, k = case(seed)
        if impossible(len(groups), papers, k):
            continue
        found = allot(groups, ranks, papers, k, seed)
        for group, told in explain(found, ranks, papers).items():
            _check(group, told, found, ranks, papers, kinds)
    assert all(kinds.values()), kinds


HOLDER = r"(g\d) \((?:its \d+\w\w|not named|no wishes)(.*?)\)"


def _check(group: str, told: str, found: Allotment, ranks: Ranks, papers: Papers,
           kinds: dict[str, int]) -> None:  # fmt: skip
    mine, stated = found.held[group], ranks[group]
    if not stated:
        assert told.startswith("named no wishes")
        return
    worst = max(rank(ranks, group, paper, papers) for paper in mine)
    head, *reasons = told.split("; ")
    got = [stated[paper] for paper in mine if paper in stated]
    unnamed = re.search(r"(\d+) papers? that it did not name \(each counts as rank (\d+)\)", head)
    assert (int(unnamed[1]) if unnamed else 0) == len(mine) - len(got)
    assert [int(n) for n in re.findall(r"\d+", head.replace(unnamed[0], "") if unnamed else head)] == sorted(got)
    better = {paper for paper, place in stated.items() if place < worst and paper not in mine}
    assert {re.search(r"choice (p\d)", reason)[1] for reason in reasons if "choice p" in reason} <= better
    assert len(reasons) == min(len(better), 4)
    kinds["later"] += len(reasons) > 3
    for reason in reasons[:3]:
        paper = re.search(r"choice (p\d)", reason)[1]
        assert int(re.search(r"its (\d+)", reason)[1]) == stated[paper]
        holders = {other for other, held in found.held.items() if paper in held}
        if "is of the theme" in reason:
            place = int(re.search(r"theme of its (\d+)", reason)[1])
            same = [own for own in mine if papers[own][0] == papers[paper][0]]
            assert [rank(ranks, group, own, papers) for own in same] == [place]
            assert place <= stated[paper]
            kinds["theme"] += 1
            continue
        assert set(re.findall(r"g\d", reason)) == holders
        assert len(holders) == papers[paper][1]
        kinds["went"] += 1
        for other, place in re.findall(r"(g\d) \(its (\d+)", reason):
            assert ranks[other][paper] == int(place)
        for other, told in re.findall(HOLDER, reason):
            there = exchanges(group, other, paper, found, ranks, papers)
            if "rank" in told:
                assert int(re.search(r", in exchange rank (\d+)", told)[1]) in {place for place, _ in there}
                assert all(bound > (found.worst, found.squares) for _, bound in there)
                kinds["rank"] += 1
            elif "nothing" in told:
                assert not there
                kinds["nothing"] += 1
            elif "seed" in told:
                assert any(bound == (found.worst, found.squares) for _, bound in there)
                kinds["seed"] += 1
            else:
                assert ranks[other][paper] < stated[paper]


def exchanges(group: str, other: str, paper: str, found: Allotment, ranks: Ranks,
              papers: Papers) -> list[tuple[int, tuple[int, int]]]:  # fmt: skip
    """All sound allotments in which `group` has `paper` for one it likes less, and `other` another one for it.

    Each is given by the rank of what the other gets, and its worst rank and sum of squares.
    """
    there = []
    for own, new in product(found.held[group], papers):
        mine = {*found.held[group], paper} - {own}
        theirs = {*found.held[other], new} - {paper}
        held = {name: tuple(mine) for name, mine in (found.held | {group: mine, other: theirs}).items()}
        fits = len(held[group]) == len(held[other]) == len(found.held[group])
        likes = rank(ranks, group, own, papers) > rank(ranks, group, paper, papers)
        if fits and likes and is_sound(held, papers):
            there.append((rank(ranks, other, new, papers), quality(held, ranks, papers)))
    return there


def test_a_reason_as_it_reads() -> None:
    papers: Papers = {"bao": ("x", 1), "rahaman": ("y", 1), "cohen": ("y", 2), "zhang": ("z", 1), "hu": ("x", 2)}
    ranks = {"g02": {"rahaman": 1, "hu": 2}, "g07": {"bao": 1, "hu": 2, "rahaman": 3, "zhang": 4}}
    found = allot(ranks, ranks, papers, 2)
    assert explain(found, ranks, papers) == {
        "g02": "choices 1 and 2",
        "g07": "choices 1 and 4; its 2nd choice hu is of the theme of its 1st (x); its 3rd choice rahaman (capacity 1) "
               "went to g02 (its 1st)",
    }  # fmt: skip


def test_many_groups_keep_all_constraints() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{i:03}" for i in range(60)]
    papers = {f"p{i}": (f"t{i % 7}", int(1 + i % 3)) for i in range(70)}
    ranks = {group: {f"p{p}": i for i, p in enumerate(rng.permutation(70)[:10], 1)} for group in groups}
    found = allot(groups, ranks, papers, 2, 3)
    held = {group: tuple(mine) for group, mine in found.held.items()}
    assert is_sound(held, papers)
    assert quality(held, ranks, papers) == (found.worst, found.squares)


PRACTICAL = {"size": "small", "start": "Begin.", "extensions": ["More."],
             "keys": {key: f"the {key}" for key in ("tail", "peak", "clean_tail", "clean_peak")}}  # fmt: skip


def repository(root: Path) -> Path:
    """Four papers of three themes with two places each, one closed, one without a practical part."""
    themes = {"apple": "fruit", "pear": "fruit", "oak": "trees", "rose": "flowers", "closed": "fruit", "bare": "trees"}
    for paper, theme in themes.items():
        practical = None if paper == "bare" else {**PRACTICAL, "capacity": 0 if paper == "closed" else 2}
        text = yaml.safe_dump(card(paper, theme=theme, title=f"On {paper}", practical=practical))
        write(root / f"reproductions/{paper}/paper.yml", text)
    write(root / "reproductions/apple/reproduce.py", "")
    write(root / "practicum/demo/programs/oak.py", "")
    return root


def test_assignable(tmp_path: Path) -> None:
    cards = load_cards(repository(tmp_path))
    places = {"apple": ("fruit", 2), "oak": ("trees", 2), "pear": ("fruit", 2), "rose": ("flowers", 2)}
    assert assignable(cards) == places
    plan = semester(tmp_path / "s", capacity={"apple": 5, "oak": 0, "closed": 1, "bare": 0}).plan
    found = assignable(cards, plan)
    assert found == {"apple": ("fruit", 5), "pear": ("fruit", 2), "rose": ("flowers", 2), "closed": ("fruit", 1)}
    plan = semester(tmp_path / "s", capacity={"aple": 5, "bare": 1}).plan
    with pytest.raises(SemesterError) as error:
        assignable(cards, plan)
    first, second = str(error.value).splitlines()
    assert first.startswith("semester.yml: capacity: no paper 'aple' (did you mean 'apple'?")
    assert second.startswith("semester.yml: capacity: bare has a card without a practical part")


def ready(tmp_path: Path) -> tuple[Path, Path]:
    """A repository, and a semester of three groups with wishes."""
    root, folder = repository(tmp_path / "r"), tmp_path / "s"
    s = semester(folder)
    write(s.groups, "group,student,name,email,given\n" + "".join(f"g0{i},{i},N{i},,\n" for i in (1, 2, 3)))
    write(s.wishes, "group,choice 1,choice 2,choice 3\ng01,apple,oak,\ng02,apple,oak,rose\ng03,apple,oak,\n")
    return root, folder


def test_command_allots(tmp_path: Path) -> None:
    root, folder = ready(tmp_path)
    arguments = ("allot", "--semester", folder, "--root", root)
    code, out, err = run(*arguments, "--explain")
    assert (code, err) == (0, "")
    assert "allotment.csv is written" in out
    fields = {name: [name] for name in ("group", "paper", "theme", "rank", "why")}
    rows = read_table(folder / "allotment.csv", fields, [[name] for name in fields], "").rows
    assert len(rows) == 6
    themes = {"apple": "fruit", "pear": "fruit", "oak": "trees", "rose": "flowers"}
    assert all(row["theme"] == themes[row["paper"]] for row in rows)
    assert all(f"{row['group']}: {row['why']}" in out for row in rows)
    held = allotted(semester(folder), root)
    assert {group: sorted(mine) for group, mine in held.items()}.keys() == {"g01", "g02", "g03"}
    assert "rose" in held["g02"]
    assert yaml.safe_load((folder / "drop/plan.yml").read_text())["groups"] == held  # the groups' commands know
    assert "up to date" in run(*arguments)[1]
    assert "its 1st choice" not in run(*arguments)[1]


def test_command_overwrites_nothing_by_itself(tmp_path: Path) -> None:
    root, folder = ready(tmp_path)
    arguments = ("allot", "--semester", folder, "--root", root)
    path = write(folder / "allotment.csv", "group,paper,theme,rank,why\ng01,apple,fruit,1,so\n")
    before = path.read_bytes()
    code, _, err = run(*arguments)
    assert (code, path.read_bytes()) == (1, before)
    assert err.startswith("allotment.csv: is there and differs")
    assert run(*arguments, "--force")[0] == 0
    assert path.read_bytes() != before


def test_command_says_what_is_impossible(tmp_path: Path) -> None:
    root, folder = ready(tmp_path)
    semester(folder, capacity={"oak": 0, "rose": 1})
    code, out, err = run("allot", "--semester", folder, "--root", root)
    assert (code, out) == (1, "")
    assert err == (
        "impossible because 3 groups need 6 places and the 3 assignable papers have 5, of which 4 serve, as no group "
        "takes two of one theme and 4 are in fruit (raise capacities by 2, e.g. rose to 3)\n"
    )
    assert not (folder / "allotment.csv").exists()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("g01,aple\n", "allotment.csv:2: 'aple' has no card (did you mean 'apple'?"),
        ("g09,apple\n", "allotment.csv:2: 'g09' is no group of groups.csv (did you mean 'g0"),
        ("g01,apple\ng01,oak\ng01,apple\n", "allotment.csv:4: g01 has apple already"),
    ],
)
def test_allotment_that_a_hand_has_spoilt(tmp_path: Path, rows: str, told: str) -> None:
    root, folder = ready(tmp_path)
    write(folder / "allotment.csv", "group,paper\n" + rows)
    with pytest.raises(SemesterError) as error:
        allotted(semester(folder), root)
    assert str(error.value).startswith(told)


def test_no_allotment_yet(tmp_path: Path) -> None:
    root, folder = ready(tmp_path)
    with pytest.raises(SemesterError, match="practicum allot"):
        allotted(semester(folder), root)


def test_catalogue(tmp_path: Path) -> None:
    root, folder = ready(tmp_path)
    semester(folder, capacity={"pear": 0, "rose": 7})
    code, out, _ = run("papers", "--json", "--semester", folder, "--root", root)
    found = {entry["paper"]: entry for entry in json.loads(out)}
    assert code == 0
    assert {paper: entry["capacity"] for paper, entry in found.items()} == {
        "apple": 2, "bare": 0, "closed": 0, "oak": 2, "pear": 0, "rose": 7}  # fmt: skip
    assert {paper for paper, entry in found.items() if entry["solution"]} == {"apple", "oak"}
    assert {paper: entry["obstacle"] for paper, entry in found.items() if entry["obstacle"]} == {
        "bare": "its card has no practical part", "closed": "0 on its card", "pear": "0 in semester.yml"}  # fmt: skip
    assert found["oak"]["claims"] == {"core": 1, "secondary": 0, "theory": 0, "control": 1}
    table = run("papers", "--semester", folder, "--root", root)[1]
    assert re.search(r"rose +On rose +flowers +small +60 +500 +1/0/0/1 +7", table)
    assert "3 of 6 papers are assignable, with 11 places" in table
    trees = run("papers", "--theme", "trees", "--json", "--root", root)[1]
    assert [entry["paper"] for entry in json.loads(trees)] == ["bare", "oak"]


def test_one_card(tmp_path: Path) -> None:
    root = repository(tmp_path)
    code, out, _ = run("papers", "oak", "--root", root)
    assert code == 0
    named = ("On oak", "The error peaks.", "tail < peak", "not clean_tail < clean_peak", "the clean_tail", "- More.")
    for told in named:
        assert told in out
    whole = json.loads(run("papers", "oak", "--json", "--root", root)[1])
    assert whole["card"]["practical"]["keys"] == PRACTICAL["keys"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("aple",), "no paper 'aple' (did you mean 'apple'?"),
        (("--theme", "tree"), "no paper of theme 'tree' (did you mean 'trees'?"),
        (("oak", "--theme", "fruit"), "oak: is of theme trees (leave --theme out)"),
        (("--semester", "nowhere"), "nowhere: holds no semester.yml"),
    ],
)
def test_what_is_wrong_with_a_question(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = run("papers", *arguments, "--root", repository(tmp_path))
    assert (code, out) == (1, "")
    assert told in err
