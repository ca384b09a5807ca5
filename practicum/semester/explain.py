"""Say for each group why it got its papers: what became of the choices that it had put higher."""

from collections.abc import Iterable, Iterator

from practicum.semester.allot import Allotment, Papers
from practicum.semester.wishes import Ranks, rank

MOST = 3  # choices, and groups for each, that are told one by one


def explain(found: Allotment, ranks: Ranks, papers: Papers) -> dict[str, str]:
    """Give one sentence a group."""
    holders = {paper: [group for group, held in found.held.items() if paper in held] for paper in papers}
    return {group: _Reasons(found, ranks, papers, holders, group).told() for group in found.held}


class _Reasons:
    """What can be said to one group.

    In a best allotment, a choice that a group prefers to one of its papers is either full or of the theme of a
    paper that the group likes as much: else exchanging the two would be better.
    """

    def __init__(
        self, found: Allotment, ranks: Ranks, papers: Papers, holders: dict[str, list[str]], group: str
    ) -> None:
        self.found, self.ranks, self.papers, self.holders, self.group = found, ranks, papers, holders, group
        self.mine = found.held[group]

    def told(self) -> str:
        """Tell the group's choices, and what became of those before."""
        stated = self.ranks.get(self.group)
        if not stated:
            return "named no wishes, so any papers of different themes were as good"
        got = sorted(stated[paper] for paper in self.mine if paper in stated)
        rest = len(self.mine) - len(got)
        parts = [("choice " if len(got) == 1 else "choices ") + _and(map(str, got))] if got else []
        if rest:
            what = "paper" if rest == 1 else "papers"
            parts.append(f"{rest} {what} that it did not name (each counts as rank {len(self.papers)})")
        worst = max(self._rank(paper) for paper in self.mine)
        missed = [paper for paper in sorted(stated, key=self._rank)
                  if paper not in self.mine and self._rank(paper) < worst]  # fmt: skip
        sentences = [self._missed(paper) for paper in missed[:MOST]]
        if len(missed) > MOST:
            more = "1 more choice was" if len(missed) == MOST + 1 else f"{len(missed) - MOST} more choices were"
            sentences.append(f"{more} full or of the theme of a better one")
        return "; ".join([" and ".join(parts), *sentences])

    def _missed(self, paper: str) -> str:
        theme, capacity = self.papers[paper]
        start = f"its {_nth(self._rank(paper))} choice {paper}"
        for other in self.mine:
            if self.papers[other][0] == theme and self._rank(other) <= self._rank(paper):
                return f"{start} is of the theme of its {_nth(self._rank(other))} ({theme})"
        holders = sorted(self.holders[paper], key=lambda group: (rank(self.ranks, group, paper, self.papers), group))
        told = [self._holder(group, paper) for group in holders[:MOST]]
        more = [f"{len(holders) - MOST} more"] if len(holders) > MOST else []
        return f"{start} (capacity {capacity}) went to {_and(told + more)}"

    def _holder(self, other: str, paper: str) -> str:
        """Say how the holder ranks the paper and, unless it put it higher, what an exchange would do."""
        theirs = rank(self.ranks, other, paper, self.papers)
        stated = self.ranks.get(other, {})
        how = f"its {_nth(theirs)}" if paper in stated else "not named" if stated else "no wishes"
        told = f"{other} ({how}"
        if theirs < self._rank(paper):
            return f"{told})"
        exchanges = sorted(self._exchanges(other, paper))
        if not exchanges:
            return f"{told}, and nothing else was left for it)"
        change, instead = exchanges[0]
        if change == 0 and instead <= self.found.worst:
            return f"{told}: an exchange would be as good, the seed decided)"
        return f"{told}, in exchange rank {instead})"

    def _exchanges(self, other: str, paper: str) -> Iterator[tuple[int, int]]:
        """Yield what the holder could take for the paper: the change of the sum of squares, and its new rank."""
        keeps = [held for held in self.found.held[other] if held != paper]
        themes = {self.papers[held][0] for held in keeps}
        theirs, wanted = rank(self.ranks, other, paper, self.papers), self._rank(paper)
        same = [own for own in self.mine if self.papers[own][0] == self.papers[paper][0]]
        for own in same or [own for own in self.mine if self._rank(own) > wanted]:
            for new, (theme, capacity) in self.papers.items():
                room = new == own or len(self.holders[new]) < capacity
                if room and new != paper and theme not in themes:
                    instead = rank(self.ranks, other, new, self.papers)
                    yield wanted**2 - self._rank(own) ** 2 + instead**2 - theirs**2, instead

    def _rank(self, paper: str) -> int:
        return rank(self.ranks, self.group, paper, self.papers)


def _and(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _nth(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
