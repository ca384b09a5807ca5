"""The cards: what is read, and where each mistake is found."""

from pathlib import Path

import pytest
import yaml
from practicum_fixtures import card, claim, control, repository, write

from practicum.cards import CardError, load_card, load_cards

GOOD = """\
id: toy
bib: toy2020
title: "Toys: a study"
theme: double-descent
author_code: none
budget: {seconds: 60, memory_mb: 500, seeds: 5}
setting: Smaller.
claims:
  - id: peak
    role: core
    text: The error peaks.
    where: Fig. 1
    kind: order
    keys: [tail, peak]
  - id: four
    role: theory
    text: It is four.
    where: Thm 2
    kind: value
    keys: [peak]
    expect:
      equals: theory
      cap: 0.5
  - id: no-noise
    role: control
    text: Without label noise there is no peak.
    where: Fig. 2
    of: peak
    keys: [clean_tail, clean_peak]
"""


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    """The lines told of a card, without their common start."""
    path = write(tmp_path / "reproductions/toy/paper.yml", "")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CardError) as error:
        load_card(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith("reproductions/toy/paper.yml") and line.endswith(")") for line in lines)
    return [line.removeprefix("reproductions/toy/paper.yml:") for line in lines]


def only(tmp_path: Path, text: str | bytes) -> str:
    (line,) = problems(tmp_path, text)
    return line


def test_good_card(tmp_path: Path) -> None:
    found = load_card(write(tmp_path / "reproductions/toy/paper.yml", GOOD))
    peak, four, without = found.claims
    assert peak.expect.at_least == 0
    assert (peak.source, peak.scale) == ("unchecked", "laptop")
    assert (four.expect.equals, four.expect.floor, four.expect.cap) == ("theory", 0.02, 0.5)
    assert (without.kind, without.expect) == ("order", peak.expect)
    assert [c.id for c in found.at("smoke")] == ["peak", "four", "no-noise"]
    assert found.at("paper") == []


def test_control_takes_the_scale_of_its_claim(tmp_path: Path) -> None:
    root = repository(tmp_path, claims=[claim(role="core", scale="paper"), control()])
    assert [c.scale for c in load_cards(root)["toy"].claims] == ["paper", "paper"]


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    claims = [claim(kind="value", keys=["a"], expect={"equals": "1e-3"})]
    assert load_cards(repository(tmp_path, claims=claims))["toy"].claims[0].expect.equals == 0.001


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    text: It is four.\n", "", "15: claims[1].text: is missing (add it)"),
        ("bib: toy2020\n", "", "1: bib: is missing (add it)"),
        ("kind: value", "kind: valeu", "19: claims[1].kind: 'valeu' is none of"),
        ("kind: value", "kind: [value]", "19: claims[1].kind: ['value'] is none of"),
        ("    where: Thm 2", "    whre: Thm 2", "18: claims[1].whre: is no field here (did you mean where?)"),
        ("setting: Smaller.", "setting: Smaller.\nxyzzy: 1", "8: xyzzy: is no field here (remove it)"),
        ("    of: peak\n", "", "24: claims[2].of: is missing"),
        ("    of: peak\n", "    of: four\n", "29: claims[2].keys: kind value reads 1, not 2"),
        ("    of: peak\n", "    of: peek\n", "28: claims[2].of: 'peek' is no claim here (did you mean 'peak'"),
        ("    of: peak\n", "    of: no-noise\n", "28: claims[2].of: 'no-noise' is no claim here"),
        ("    of: peak\n", "    of: peak\n    kind: order\n", "29: claims[2].kind: a control takes it from"),
        ("    of: peak\n", "    of: peak\n    expect: {at_least: 0}\n", "29: claims[2].expect: a control"),
        ("[clean_tail, clean_peak]", "[tail, peak]", "29: claims[2].keys: are those of peak"),
        ("    kind: order\n", "    kind: order\n    of: four\n", "14: claims[0].of: belongs to controls"),
        ("    kind: order\n", "", "9: claims[0].kind: is missing"),
        ("[tail, peak]", "[tail]", "14: claims[0].keys: kind order reads at least 2, not 1"),
        ("[tail, peak]", "[tail, tail]", "14: claims[0].keys: a key is listed twice"),
        ("id: four", "id: peak", "15: claims[1].id: 'peak' is taken"),
        ("id: toy", "id: toys", "1: id: 'toys' is not the folder's name (write toy)"),
        ("seeds: 5", "seeds: 4", "6: budget.seeds: input should be greater than or equal to 5, not 4"),
        ("      equals: theory\n", "", "21: claims[1].expect: should have exactly one of"),
        ("equals: theory", "at_least: 3", "23: claims[1].expect.cap: belongs to equals only"),
        ("cap: 0.5", "at_most: 0.5", "21: claims[1].expect: should have exactly one of"),
        ("cap: 0.5", "cap: 0.01", "23: claims[1].expect.cap: 0.01 is below the floor 0.02"),
        ("equals: theory", "equals: 0", "22: claims[1].expect.equals: 0 has no relative tolerance"),
        ("equals: theory", "equals: .nan", "22: claims[1].expect.equals: should be finite"),
        ("equals: theory", "equals: [1]", "22: claims[1].expect.equals: should be a number or the name"),
        ("    expect:\n      equals: theory\n      cap: 0.5\n", "", "15: claims[1].expect: is missing"),
        ("theme: double", "bib: again\ntheme: double", "4: bib: is given twice (remove one)"),
        ("    kind: value", "    kind: value\n    role: core", "20: role: is given twice (remove one)"),
        ("title: \"Toys: a study\"", "title: Toys: a study", "3: is no YAML: mapping values are not allowed"),
        ("theme: double", "\ttheme: double", "4: is no YAML: "),
        ("claims:", "claims: {", "9: is no YAML: "),
        ("theme: double-descent", "theme: no", "4: theme: input should be a valid string, not False"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert GOOD.count(old) == 1
    found = problems(tmp_path, GOOD.replace(old, new))
    assert any(line.startswith(told) for line in found)
    assert len(found) == (2 if "whre" in new else 1)  # a misspelt field is also a missing one


def test_core_claim_needs_a_control(tmp_path: Path) -> None:
    told = only(tmp_path, GOOD[: GOOD.index("  - id: no-noise")])
    assert told.startswith("8: claims: a core claim needs a control")


def test_every_problem_has_its_line_in_order(tmp_path: Path) -> None:
    bad = GOOD.replace("bib", "bb").replace("kind: order", "kind: odrer").replace("where: Thm 2", "role: core")
    assert [line.split(":")[0] for line in problems(tmp_path, bad)] == ["1", "2", "13", "15", "18"]


@pytest.mark.parametrize(
    "text",
    ["", "- a\n", "a: &x [*x]\n", "a: 1\n---\nb: 2\n", "? [a]\n: 1\n", "\0", b"\xff", "d: 2020-13-45\n", "[" * 500,
     "!!python/object:os.system {}\n"],
)  # fmt: skip
def test_what_is_no_card_is_told_in_lines(tmp_path: Path, text: str | bytes) -> None:
    assert problems(tmp_path, text)


def test_missing_card_and_empty_folders(tmp_path: Path) -> None:
    root = repository(tmp_path)
    write(root / "reproductions/left/__pycache__/x.pyc", "")
    assert list(load_cards(root)) == ["toy"]
    write(root / "reproductions/new/reproduce.py", "")
    with pytest.raises(CardError, match=r"^reproductions/new/paper.yml: is missing \(write"):
        load_cards(root)


def test_unknown_paper_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"is no folder \(give the repository by --root\)$"):
        load_cards(tmp_path)
    with pytest.raises(CardError, match=r"^no paper 'tyo' \(did you mean 'toy'\? there are: toy\)$"):
        load_cards(repository(tmp_path), ["tyo"])


def test_problems_of_all_cards_are_told(tmp_path: Path) -> None:
    repository(tmp_path, paper="a", bib=None)
    repository(tmp_path, paper="b", theme=None)
    with pytest.raises(CardError) as error:
        load_cards(tmp_path)
    assert str(error.value).splitlines() == [
        "reproductions/a/paper.yml:1: bib: is missing (add it)",
        "reproductions/b/paper.yml:1: theme: is missing (add it)",
    ]


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    text = GOOD.replace("[tail, peak]", "&k [tail, peak]").replace("[clean_tail, clean_peak]", "*k")
    assert only(tmp_path, text).startswith("29: claims[2].keys: are those of peak")


def test_round_trip(tmp_path: Path) -> None:
    text = yaml.safe_dump(card(claims=[claim(paper={"value": 4.1, "unit": "%"}, note="n", source="paper")]))
    found = load_card(write(tmp_path / "reproductions/toy/paper.yml", text)).claims[0]
    assert (found.paper and found.paper.value, found.note, found.source) == (4.1, "n", "paper")
