"""The starter kit: a folder that a group fills, and that runs from the first minute."""

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from jinja2 import Environment, PackageLoader, StrictUndefined

from practicum import ROOT
from practicum.cards import Card, Practical, load_cards
from practicum.results import write_whole
from practicum.semester.plan import Public, Semester, SemesterError, dump
from practicum.verdicts import expected

FILES = ("README.md", "claims.yml", "reproduce.py", "report.md", "extension.md")
POLICIES = {
    "allowed": "You may use it.",
    "cite": "You may read and use it where its licence allows; say in the report which parts are not yours.",
    "forbidden": "You may read it, but write your own.",
}


def environment() -> Environment:
    """Set up the kit's templates; filters write text where YAML and Python need it quoted."""
    made = Environment(loader=PackageLoader("practicum", "templates/kit"), undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)  # fmt: skip
    made.filters["yaml"] = lambda text: json.dumps(text, ensure_ascii=False)
    made.filters["py"] = lambda text: json.dumps(text, ensure_ascii=False)
    made.filters["pywrapped"] = _python
    made.filters["wrapped"] = lambda text: "\n  #   ".join(wrap(" ".join(text.split()), 105))
    return made


def _python(text: str, key: str) -> str:
    """Write a text as a Python string behind its key, on lines of its own in parentheses where it is long."""
    whole = json.dumps(" ".join(text.split()), ensure_ascii=False)
    if len(whole) + len(key) < 110:
        return whole
    lines = wrap(" ".join(text.split()), 100)
    quoted = [json.dumps(line + " ", ensure_ascii=False) for line in lines[:-1]]
    quoted.append(json.dumps(lines[-1], ensure_ascii=False))
    return "(\n        " + "\n        ".join(quoted) + "\n    )"


def start(
    semester: Semester, paper: str, group: str, names: Sequence[str] = (), root: Path = ROOT, force: bool = False
) -> Path:
    """Write a group's kit on a paper and give its folder; SemesterError if it is there or not assignable.

    `force` writes missing files again; what is there stays as it is.
    """
    card = load_cards(root, [paper])[paper]
    if card.practical is None:
        raise SemesterError(f"{paper}: is no paper for groups (its card has no `practical` part)")
    allotted = semester.papers()
    if allotted and paper not in allotted.get(group, []):
        papers = ", ".join(allotted.get(group, [])) or "no paper"
        raise SemesterError(f"{group}: is allotted {papers}, not {paper} (see allotment.csv)")
    kit = semester.kits / group / paper
    if kit.exists() and not force:
        raise SemesterError(f"{kit}: is there already (--force writes what is missing in it)")
    for name, text in texts(semester, card, card.practical, group, names).items():
        if not (kit / name).exists():
            write_whole(kit / name, text)
    source = root / "reproductions" / paper / "paper.yml"
    write_whole(kit / "paper.yml", source.read_text(encoding="utf-8"))
    write_whole(kit / "plan.yml", dump(own_part(semester.public(), group).model_dump(mode="json")))
    return kit


def own_part(plan: Public, group: str) -> Public:
    """Leave out of the public plan what is of other groups."""
    later = {name: {group: dates[group]} for name, dates in plan.later.items() if group in dates}
    return plan.model_copy(update={"later": later, "groups": {group: plan.groups.get(group, [])}})


def texts(
    semester: Semester, card: Card, practical: Practical, group: str, names: Sequence[str]
) -> dict[str, str]:
    """Write the kit's files, by their names."""
    plan = semester.plan
    due = [(name, f"{plan.due(name, group):%Y-%m-%d %H:%M} ({plan.timezone})") for name in plan.dates]
    late = (
        f"{plan.late.grace_hours:g} hours of grace, then {plan.late.per_day:.0%} of the marks a day, "
        f"for {plan.late.max_days} days"
    )
    have = {
        "card": card, "practical": practical, "group": group, "names": list(names), "claims": card.at("laptop"),
        "expected": expected, "dates": due, "late": late, "seeds": plan.seeds.public, "rubric": semester.leaves,
        "policy": POLICIES[practical.code_policy],
    }  # fmt: skip
    made = environment()
    return {name: made.get_template(f"{name}.j2").render(have) for name in FILES}
