"""The allotment of papers against what one would write first: one integer program, or all possibilities in turn.

python benchmarks/allotment.py [limit in seconds for the one program]

The one program has an integer W above every rank that is used and minimises B W + squared ranks, B above any sum of
squares: the same two aims in one. Both give the same worst rank and sum. The wishes are correlated, as
students' are; `listed` is how many papers a group ranks, and at 200 groups 400 places are needed at the least.
"""

import sys
import time
from itertools import combinations, product

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, hstack, vstack

from practicum.semester.allot import Papers, allot
from practicum.semester.wishes import Ranks, rank

Case = tuple[list[str], Ranks, Papers]
WANTED = 10.0
# (groups, papers, themes, listed, places beyond the need)
CASES = [(4, 5, 3, 5, 3), (40, 40, 8, 40, 0), (40, 40, 8, 10, 20), (200, 60, 8, 20, 40), (200, 300, 12, 10, 100),
         (200, 300, 12, 300, 100), (200, 300, 12, 300, 0)]  # fmt: skip


def case(n: int, m: int, themes: int, listed: int, spare: int) -> Case:
    rng = np.random.default_rng(n * m + listed + spare)
    places = np.bincount(rng.permutation(np.arange(2 * n + spare) % m), minlength=m)
    papers = {f"p{i:03}": (f"t{i % themes}", int(count)) for i, count in enumerate(places)}
    liking = rng.normal(size=m)
    groups = [f"g{i:03}" for i in range(n)]
    orders = {group: np.argsort(liking + rng.normal(size=m))[:listed] for group in groups}
    return groups, {group: {f"p{p:03}": i for i, p in enumerate(order, 1)} for group, order in orders.items()}, papers


def one_program(groups: list[str], ranks: Ranks, papers: Papers, limit: float) -> tuple[int, int] | None:
    ids, n, m = list(papers), len(groups), len(papers)
    r = np.array([[rank(ranks, group, paper, papers) for paper in ids] for group in groups]).ravel()
    g, p = (index.ravel() for index in np.indices((n, m)))
    theme = np.array([sorted({t for t, _ in papers.values()}).index(papers[paper][0]) for paper in ids])
    k, ones, pairs = theme.max() + 1, np.ones(n * m), np.arange(n * m)
    rows = [csr_array((ones, (index, pairs)), shape=(size, n * m))
            for index, size in ((g, n), (g * k + theme[p], n * k), (p, m))]  # fmt: skip
    below = hstack([csr_array((r, (pairs, pairs))), -csr_array(ones[:, None])])  # rank x - W <= 0
    A = vstack([hstack([vstack(rows), csr_array((n + n * k + m, 1))]), below])
    most = np.concatenate([np.full(n, 2), np.ones(n * k), [papers[paper][1] for paper in ids], np.zeros(n * m)])
    least = np.concatenate([np.full(n, 2), np.full(len(most) - n, -np.inf)])
    cost = np.append(r**2, 2 * n * m**2 + 1)
    found = milp(cost, integrality=np.ones(n * m + 1), bounds=(0, np.append(ones, m)),
                 constraints=LinearConstraint(A, least, most),
                 options={"mip_rel_gap": 0, "time_limit": limit})  # fmt: skip
    if found.status != 0:
        return None
    used = r[found.x[:-1] > 0.5]
    return int(used.max()), int((used**2).sum())


def all_in_turn(groups: list[str], ranks: Ranks, papers: Papers) -> tuple[int, int]:
    pairs = [(a, b) for a, b in combinations(papers, 2) if papers[a][0] != papers[b][0]]
    best = (len(papers) + 1, 0)
    for dealt in product(pairs, repeat=len(groups)):
        flat = [paper for pair in dealt for paper in pair]
        if all(flat.count(paper) <= capacity for paper, (_, capacity) in papers.items()):
            used = [rank(ranks, g, paper, papers) for g, pair in zip(groups, dealt, strict=True) for paper in pair]
            best = min(best, (max(used), sum(x * x for x in used)))
    return best


def main(limit: float) -> None:
    table = Table(title="Seconds to allot 2 papers a group")
    for column in ("groups", "papers", "themes", "listed", "places", "ours", f"wanted < {WANTED:g}", "one program",
                   "all in turn", "worst rank", "sum of squares", "the same"):  # fmt: skip
        table.add_column(column, justify="right")
    for sizes in CASES:
        groups, ranks, papers = case(*sizes)
        start = time.perf_counter()
        found = allot(groups, ranks, papers, 2, 0)
        ours = time.perf_counter() - start
        others, cells = [], []
        start = time.perf_counter()
        others.append(one_program(groups, ranks, papers, limit))
        cells.append(f"{time.perf_counter() - start:.2f}" if others[0] else f"none in {limit:g}")
        if len(groups) < 5:
            start = time.perf_counter()
            others.append(all_in_turn(groups, ranks, papers))
            cells.append(f"{time.perf_counter() - start:.2f}")
        same = all(other in (None, (found.worst, found.squares)) for other in others)
        told = "" if not any(others) else "yes" if same else "[red]NO[/red]"
        table.add_row(*map(str, sizes[:4]), str(sum(c for _, c in papers.values())), f"{ours:.2f}",
                      "yes" if ours < WANTED else "[red]NO[/red]", *cells, *[""] * (2 - len(cells)),
                      str(found.worst), str(found.squares), told)  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30)
