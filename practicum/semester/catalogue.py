"""Which papers a semester's groups can be given, and how often."""

from pathlib import Path

from practicum import ROOT, choices
from practicum.cards import Card
from practicum.results import program_path
from practicum.semester.plan import PLAN, Plan, SemesterError


def assignable(cards: dict[str, Card], plan: Plan | None = None) -> dict[str, tuple[str, int]]:
    """Give theme and capacity of each paper that a group can be given; the plan's capacities come first."""
    problems = []
    for paper, wanted in plan.capacity.items() if plan else ():
        if paper not in cards:
            problems.append(f"{PLAN}: capacity: no paper {paper!r} ({choices(paper, cards, 5)})")
        elif wanted and cards[paper].practical is None:
            problems.append(f"{PLAN}: capacity: {paper} has a card without a practical part (add it, or write 0)")
    if problems:
        raise SemesterError("\n".join(problems))
    return {paper: (card.theme, n) for paper, card in cards.items() if (n := capacity(card, plan))}


def capacity(card: Card, plan: Plan | None = None) -> int:
    """Give how many groups may have the paper; 0 for a card without what a group is given."""
    if card.practical is None:
        return 0
    return plan.capacity.get(card.id, card.practical.capacity) if plan else card.practical.capacity


def obstacle(card: Card, plan: Plan | None = None) -> str:
    """Say why no group can be given the paper, if so."""
    if card.practical is None:
        return "its card has no practical part"
    if capacity(card, plan):
        return ""
    return f"0 in {PLAN}" if plan and card.id in plan.capacity else "0 on its card"


def has_solution(card: Card, root: Path = ROOT) -> bool:
    """Say whether a worked solution is public: a reproduction of ours, or a program of the demonstration."""
    return program_path(root, card.id).is_file() or (root / f"practicum/demo/programs/{card.id}.py").is_file()
