"""Give each group its papers: the worst rank smallest, then the sum of squared ranks, ties by seed."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from practicum import ROOT, choices
from practicum.semester.people import load_groups
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.tables import read_table, to_csv
from practicum.semester.wishes import Ranks, rank

Papers = dict[str, tuple[str, int]]  # id -> theme, capacity


@dataclass(frozen=True)
class Allotment:
    """The papers of each group, its better ones first; the worst rank and the sum of squared ranks."""

    held: dict[str, list[str]]
    worst: int
    squares: int
    seed: int


def allot(groups: Iterable[str], ranks: Ranks, papers: Papers, per_group: int = 2, seed: int = 0) -> Allotment:
    """Give each group `per_group` papers of different themes within the capacities, or say why that cannot be.

    Of all such allotments one whose worst rank is smallest; of these one whose sum of squared ranks is smallest;
    of these the seed's. `wishes.rank` says which rank counts. Neither the order of groups nor of papers matters.
    """
    names, ids = sorted(groups), sorted(papers)
    if not names:
        raise SemesterError("no group is there to be given papers (`practicum groups` forms them)")
    if told := impossible(len(names), papers, per_group):
        raise SemesterError(told)
    themes = np.unique([papers[paper][0] for paper in ids], return_inverse=True)[1]
    capacity = np.array([papers[paper][1] for paper in ids])
    r = np.array([[rank(ranks, group, paper, papers) for paper in ids] for group in names])
    levels, need = np.unique(r), len(names) * per_group
    served = bisect_left(levels, need, key=lambda worst: _served(r <= worst, themes, capacity, per_group))
    worst = levels[served]
    # Squares are whole numbers and the noise sums to less than 1/2, so it decides among equal sums alone.
    noise = np.random.default_rng(seed).random(r.shape) / (2 * need)
    x = _cheapest(r**2 + noise, r <= worst, themes, capacity, per_group)
    held = {
        group: [ids[p] for p in sorted(np.flatnonzero(x[g]), key=lambda p: r[g, p])] for g, group in enumerate(names)
    }
    return Allotment(held, int(r[x].max()), int((r[x] ** 2).sum()), seed)


def impossible(n: int, papers: Papers, per_group: int) -> str | None:
    """Say why `n` groups cannot have `per_group` papers of different themes each, and the smallest mend, if so.

    A theme serves each group once, so it serves min(n, its places) at most; and dealing the places out theme by
    theme, round the groups, serves as many. So the extra places needed are what the sum of these lacks.
    """
    places = Counter({theme: 0 for theme, _ in papers.values()})
    for theme, capacity in papers.values():
        places[theme] += capacity
    need, there = n * per_group, sum(places.values())
    lack = need - sum(min(n, count) for count in places.values())
    if lack <= 0:
        return None
    if len(places) < per_group:
        return (f"impossible because a group gets {per_group} papers of different themes, and the {len(papers)} "
                f"assignable papers have {len(places)}: {', '.join(sorted(places)) or 'none'} (make papers of "
                "other themes assignable; no capacity helps)")  # fmt: skip
    raised: Counter[str] = Counter()
    for _ in range(lack):
        open_ = [paper for paper, (theme, _) in papers.items() if places[theme] < n]
        paper = min(open_, key=lambda paper: (papers[paper][1] + raised[paper], paper))
        raised[paper] += 1
        places[papers[paper][0]] += 1
    mend = ", ".join(f"{paper} to {papers[paper][1] + more}" for paper, more in sorted(raised.items())[:5])
    mend = f"raise capacities by {lack}, e.g. {mend}" + (", ..." if len(raised) > 5 else "")
    told = f"impossible because {n} groups need {need} places and the {len(papers)} assignable papers have {there}"
    full = [f"{count} are in {theme}" for theme, count in sorted(places.items()) if count > n]
    if lack > need - there:
        told += f", of which {need - lack} serve, as no group takes two of one theme and {', '.join(full)}"
    return f"{told} ({mend})"


def allotment_csv(found: Allotment, ranks: Ranks, papers: Papers, why: dict[str, str]) -> str:
    """Write `allotment.csv`: one row a paper of a group; a group without wishes has no ranks."""
    rows = [
        (group, paper, papers[paper][0], rank(ranks, group, paper, papers) if ranks.get(group) else "", why[group])
        for group, held in found.held.items() for paper in held
    ]  # fmt: skip
    return to_csv(["group", "paper", "theme", "rank", "why"], rows)


def allotted(semester: Semester, root: Path = ROOT) -> dict[str, list[str]]:
    """Read `allotment.csv`, which a hand may have edited; SemesterError has a line for each problem."""
    fields = {"group": ["group"], "paper": ["paper"]}
    table = read_table(semester.allotment, fields, [["group"], ["paper"]], "`practicum allot` writes it")
    groups = load_groups(semester)
    known = sorted(path.parent.name for path in (root / "reproductions").glob("*/paper.yml"))
    found: dict[str, list[str]] = {}
    for row in table.rows:
        group, paper = row["group"], row["paper"]
        if group not in groups:
            table.problem(row.line, f"{group!r} is no group of groups.csv ({choices(group, groups, 5)})")
        elif paper not in known:
            table.problem(row.line, f"{paper!r} has no card ({choices(paper, known, 5)})")
        elif paper in found.setdefault(group, []):
            table.problem(row.line, f"{group} has {paper} already (remove one line)")
        else:
            found[group].append(paper)
    table.done()
    return found


def _served(allowed: np.ndarray, themes: np.ndarray, capacity: np.ndarray, per_group: int) -> int:
    """Count the places that allowed pairs can fill: a largest flow from groups by their themes into papers."""
    (n, m), k = allowed.shape, themes.max() + 1
    g, p = np.nonzero(allowed)
    split = np.unique(g * k + themes[p])  # a group's use of a theme, one unit
    group, theme, paper = 2, 2 + n, 2 + n + n * k  # where each kind of node begins
    tails = [np.zeros(n, int), group + split // k, theme + g * k + themes[p], paper + np.arange(m)]
    heads = [group + np.arange(n), theme + split, paper + p, np.ones(m, int)]
    limits = [np.full(n, per_group), np.ones_like(split), np.ones_like(g), capacity]
    arcs = (np.concatenate(limits).astype(np.int32), (np.concatenate(tails), np.concatenate(heads)))
    return maximum_flow(csr_array(arcs, shape=(paper + m, paper + m)), 0, 1).flow_value


def _cheapest(
    cost: np.ndarray, allowed: np.ndarray, themes: np.ndarray, capacity: np.ndarray, per_group: int
) -> np.ndarray:
    """Find allowed pairs (groups, papers) of least total cost, to less than 1/2, by integer programming.

    The constraints are those of a flow, so the relaxation's corners are integral and no branching is needed.
    """
    (n, m), k = allowed.shape, themes.max() + 1
    g, p = np.nonzero(allowed)
    rows = np.concatenate([g, n + g * k + themes[p], n + n * k + p])
    columns = np.tile(np.arange(len(g)), 3)
    A = csr_array((np.ones(3 * len(g)), (rows, columns)), shape=(n + n * k + m, len(g)))
    least = np.concatenate([np.full(n, per_group), np.zeros(n * k + m)])
    most = np.concatenate([np.full(n, per_group), np.ones(n * k), capacity])
    found = milp(cost[g, p], integrality=np.ones(len(g)), bounds=Bounds(0, 1), options={"mip_rel_gap": 0},
                 constraints=LinearConstraint(A, least, most))  # fmt: skip
    x = np.zeros(allowed.shape, bool)
    if found.x is not None:
        x[g, p] = found.x > 0.5
    used = A @ x[g, p]
    if not ((least <= used) & (used <= most)).all() or cost[x].sum() - found.mip_dual_bound >= 0.5:
        raise SemesterError(f"the solver did not prove an allotment best: {found.message} (try another --seed)")
    return x
