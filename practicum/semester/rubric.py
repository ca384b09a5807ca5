"""The rubric: a tree of weights whose leaves are scored, by a human or by the machine."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from practicum.cards import Text
from practicum.reading import Loc, Strict

Per = Literal["group", "paper", "student"]
MachineCheck = Literal["runs", "matches", "consistent", "extension"]


class Node(Strict):
    """A part of the grade; `due` and `per` hold for what is below, weights are relative among siblings."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    title: Text
    weight: Annotated[FiniteFloat, Field(gt=0)]
    due: str | None = None
    per: Per | None = None
    grader: Literal["human", "machine"] | None = None
    check: MachineCheck | None = None
    points: Annotated[int, Field(gt=0)] | None = None
    guide: str = ""
    children: list["Node"] = []

    def problems(
        self, dates: Container[str], due: str | None = None, per: Per = "group"
    ) -> Iterator[tuple[Loc, str]]:
        """Yield what is wrong with the tree, each at its place; `due` and `per` as they hold above it."""
        due, per = self.due or due, self.per or per
        if self.due is not None and self.due not in dates:
            yield ("due",), f"{self.due!r} has no date (add it to dates)"
        if self.children:
            for field in ("grader", "check", "points"):
                if getattr(self, field) is not None:
                    yield (field,), "belongs to leaves only (remove it, or the children)"
            ids = [child.id for child in self.children]
            for i, child in enumerate(self.children):
                if child.id in ids[:i]:
                    yield ("children", i, "id"), f"{child.id!r} is taken (rename it)"
                yield from ((("children", i, *loc), why) for loc, why in child.problems(dates, due, per))
        else:
            if due is None:
                yield ("due",), "is missing here and above (say when it is due)"
            if self.grader is None:
                yield ("grader",), "is missing (human or machine)"
            if (self.grader == "machine") != (self.check is not None):
                yield ("check",), "belongs to machine leaves, and each needs one (runs, matches, consistent, extension)"
            if self.check and per != "paper":
                yield ("per",), "is paper for machine leaves, since programs are handed in per paper (write per: paper)"
            if (self.grader == "human") != (self.points is not None):
                yield ("points",), "belongs to human leaves, and each needs it (the most that it can get)"


@dataclass(frozen=True)
class Leaf:
    """A leaf by its path such as `reproducibility.theory`; `share` is its part of the whole grade."""

    path: str
    title: str
    share: float
    due: str
    per: Per
    check: MachineCheck | None  # None: a human scores it
    points: int  # the most that a human can give; 1 for machine leaves, whose marks are shares
    guide: str


def leaves(nodes: list[Node], above: str = "", share: float = 1.0, due: str = "", per: Per = "group") -> list[Leaf]:
    """List the leaves in their order; their shares sum to 1."""
    total, found = sum(node.weight for node in nodes), []
    for node in nodes:
        path, part = f"{above}{node.id}", share * node.weight / total
        if node.children:
            found += leaves(node.children, f"{path}.", part, node.due or due, node.per or per)
        else:
            found.append(Leaf(path, node.title, part, node.due or due, node.per or per, node.check, node.points or 1,
                              node.guide))  # fmt: skip
    return found
