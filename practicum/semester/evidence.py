"""What a group's program gave over some seeds, and each of the group's claims beside it."""

import re
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat
from scipy.stats import t

from practicum.cards import Card, Claim
from practicum.kinds import Values
from practicum.reading import Strict
from practicum.results import Results, Run, RunScale
from practicum.semester.claims import GroupClaims, Hypothesis, Stated, Status
from practicum.verdicts import FEWEST_SEEDS, SLACK, Verdict, VerdictError, compare, expected, statistics

FLOOR = 0.02  # of the re-run's mean: a claimed number may be rounded
LEVEL = 0.999  # a group has some ten claims on two papers: at 95 % every second honest group would lose a mark
WORSE = list(Verdict)  # reproduced, partly, not reproduced


class SeedRun(Strict):
    """One seed: its values, or the problem that it ended with."""

    seed: Annotated[int, Field(ge=0)]
    seconds: FiniteFloat
    values: Values | None = None
    problem: str = ""
    stderr: str = ""


class Evidence(Strict):
    """The runs of one program, one a seed, and how they were isolated."""

    paper: str
    how: str
    date: AwareDatetime
    runs: list[SeedRun]
    public: list[SeedRun] = []  # the public seeds, re-run too where something is in doubt

    @property
    def own(self) -> "Evidence | None":
        """What the group could see of its program, as the re-run has it."""
        return self.model_copy(update={"runs": self.public, "public": []}) if self.public else None

    @property
    def good(self) -> list[SeedRun]:
        """The seeds that gave values."""
        return [run for run in self.runs if run.values is not None]

    @property
    def problems(self) -> list[str]:
        """What the other seeds ended with, each once, with how often."""
        told = [run.problem for run in self.runs if run.values is None]
        return [f"{why} ({told.count(why)} of {len(self.runs)} seeds)" for why in dict.fromkeys(told)]

    def results(self, scale: RunScale = "laptop") -> Results | None:
        """The good runs as a reproduction's results; None if there are none."""
        runs = [Run(seed=run.seed, seconds=run.seconds, values=run.values) for run in self.good if run.values]
        if not runs:
            return None
        return Results(paper=self.paper, scale=scale, hash="", date=self.date.date(), versions={}, runs=runs)


class Row(BaseModel):
    """One claim or extension: what the paper has, what the group says, what the runs gave, and how these agree."""

    model_config = ConfigDict(frozen=True)

    claim: str
    role: str
    text: str
    expected: str
    paper_value: float | None = None
    unit: str = ""
    status: Status = "not attempted"
    value: float | None = None
    reason: str = ""
    extension: bool = False
    mean: float | None = None
    sd: float | None = None
    n: int = 0
    verdict: Verdict | None = None
    problem: str = ""  # why there is no number
    matches: bool | None = None  # None: not attempted
    match_why: str = ""
    consistent: float | None = None  # share of the marks; None: not attempted
    consistent_why: str = ""


def table(card: Card, claims: GroupClaims | None, rerun: Evidence | None, own: Evidence | None = None) -> list[Row]:
    """List the card's claims, then the group's extensions, beside the runs.

    `own` is the program's evidence over the public seeds, re-run by us: where it and the re-run lie on two sides of a
    bound, a status that agrees with the one that the group could see agrees with the evidence.
    """
    stated = {s.id: s for s in claims.claims} if claims else {}
    more = claims.extensions if claims else []
    judged = [(claim, stated.get(claim.id, Stated(id=claim.id))) for claim in card.at("laptop")]
    return [
        *(_row(card.id, claim, said, rerun, own) for claim, said in judged),
        *(_row(card.id, said.claim, said, rerun, own) for said in more),
    ]


def _row(paper: str, claim: Claim, said: Stated | Hypothesis, rerun: Evidence | None, own: Evidence | None) -> Row:
    row = Row(
        claim=claim.id, role="extension" if isinstance(said, Hypothesis) else claim.role, text=claim.text,
        expected=expected(claim), paper_value=claim.paper.value if claim.paper else None,
        unit=claim.paper.unit if claim.paper else "", status=said.status, value=said.value,
        reason=said.reason, extension=isinstance(said, Hypothesis),
    )  # fmt: skip
    if rerun is None:
        return row
    s, verdict, problem = _judged(paper, claim, rerun)
    row = row.model_copy(update={"problem": problem, "verdict": verdict, "n": len(s)})
    if len(s):
        row = row.model_copy(update={"mean": float(s.mean()), "sd": float(s.std(ddof=1)) if len(s) > 1 else 0.0})
    if said.status == "not attempted":
        return row
    matches, why = _matches(claim, said.value, s, rerun, own, problem)
    row = row.model_copy(update={"matches": matches, "match_why": why})
    if len(s) and not claim.fixed and _constant(claim, rerun):
        return row.model_copy(update={"consistent": 0.0, "consistent_why": "numbers that never vary are no evidence"})
    share, why = _consistent(said.status, verdict, _seen(claim, said.value, own) if matches else None)
    return row.model_copy(update={"consistent": share, "consistent_why": why})


def _judged(paper: str, claim: Claim, evidence: Evidence) -> tuple[np.ndarray, Verdict | None, str]:
    """Give each good seed's statistic, the verdict, and what prevents one."""
    results = evidence.results()
    if results is None:
        return np.array([]), None, "; ".join(evidence.problems) or "was not run"
    if len(results.runs) < FEWEST_SEEDS:
        told = "; ".join(evidence.problems)
        return np.array([]), None, f"only {len(results.runs)} seeds ran, {FEWEST_SEEDS} are needed: {told}"
    try:
        s, ref = statistics(paper, claim, results)
    except VerdictError as error:
        # without the paper, the claim and the seed, which the reader knows or must not see
        told = str(error).removeprefix(f"{paper}: claim {claim.id}: ")
        return np.array([]), None, re.sub(r"^seed \d+: ", "", told)
    verdict, _ = compare(claim.expect, s, ref, claim.kind == "order")
    if claim.role == "control":
        verdict = WORSE[len(WORSE) - 1 - WORSE.index(verdict)]
    return s, verdict, ""


def _seen(claim: Claim, value: float | None, own: Evidence | None) -> Verdict | None:
    """Give the verdict over the public seeds, if what they give is what the group claims."""
    if own is None or value is None:
        return None
    s, verdict, _ = _judged(own.paper, claim, own)
    same = len(s) and abs(float(s.mean()) - value) <= max(FLOOR * abs(value), SLACK)
    return verdict if same else None


def _matches(
    claim: Claim, value: float | None, s: np.ndarray, evidence: Evidence, own: Evidence | None, problem: str
) -> tuple[bool, str]:
    """Say whether the claimed number is the re-run's, within the spread over seeds (99.9 %) or a rounding."""
    if value is None:
        return False, "no value is claimed"
    if not len(s):
        return False, f"the re-run gave no number: {problem}"
    if not claim.fixed and _constant(claim, evidence):
        return False, "the same on every hidden seed, where the card says that it varies"
    mean = float(s.mean())
    tolerance = max(_half_width(claim, s, own), FLOOR * abs(mean), SLACK)
    told = spread(mean, float(s.std(ddof=1)))
    told = f"claimed {value:.4g}, re-run {told}, tolerance {two_digits(tolerance)}"
    return abs(value - mean) <= tolerance * (1 + SLACK), told


def _half_width(claim: Claim, s: np.ndarray, own: Evidence | None) -> float:
    """Half the interval for the difference of the group's mean and the re-run's: t sd sqrt(1/n + 1/n_own).

    The spread is pooled over hidden and public seeds, where these were re-run: one seed in ten may differ much.
    """
    theirs = _judged(own.paper, claim, own)[0] if own else np.array([])
    n, var, m = len(s), float(s.var(ddof=1)), len(theirs) or FEWEST_SEEDS
    if not len(theirs):
        return float(t.ppf((1 + LEVEL) / 2, n - 1)) * (var * (1 / n + 1 / m)) ** 0.5
    pooled = ((n - 1) * var + (m - 1) * float(theirs.var(ddof=1))) / (n + m - 2)
    return float(t.ppf((1 + LEVEL) / 2, n + m - 2)) * (pooled * (1 / n + 1 / m)) ** 0.5


def _constant(claim: Claim, evidence: Evidence) -> bool:
    """Say whether none of the keys that the claim reads varies with the seed."""
    first = evidence.good[0].values or {}
    return all(run.values and _alike(run.values.get(key), first.get(key)) for run in evidence.good
               for key in claim.reads)  # fmt: skip


def _alike(a: float | list[float] | None, b: float | list[float] | None) -> bool:
    """Say whether two values are the same but for a rounding, as of numbers that were typed in and jittered."""
    if a is None or b is None or np.shape(a) != np.shape(b):
        return a is b
    return bool(np.allclose(a, b, rtol=1e-9, atol=0))


def _consistent(status: Status, verdict: Verdict | None, seen: Verdict | None) -> tuple[float, str]:
    """Share the marks: all if the status is the evidence's verdict, half if it is one step from it.

    One step from it is all too if the public seeds, `seen`, gave that verdict.
    """
    if verdict is None:
        return 0.0, "the re-run gave no evidence"
    if status == verdict:
        return 1.0, f"the re-run says {verdict} too"
    step = abs(WORSE.index(Verdict(status)) - WORSE.index(verdict))
    if seen is not None and status == seen and step == 1:
        return 1.0, f"the re-run says {verdict}, the public seeds say {seen}"
    return (0.5 if step == 1 else 0.0), f"said {status}, the re-run says {verdict}"


def spread(mean: float, sd: float | None) -> str:
    """Write "860.4 ± 100"."""
    return f"{mean:.4g} ± {two_digits(sd)}"


def two_digits(x: float | None) -> str:
    """Write a spread to two digits, without a power of ten where it can be helped."""
    return "" if x is None else f"{float(f'{x:.2g}'):g}"


def share_run(evidence: Evidence, keys: Sequence[str]) -> float:
    """Give the share of the seeds that ran and of the keys that each of these wrote."""
    if not evidence.runs or not keys:
        return 0.0
    there = [sum(key in run.values for key in keys) / len(keys) if run.values else 0.0 for run in evidence.runs]
    return sum(there) / len(evidence.runs)


def in_doubt(rows: Sequence[Row]) -> bool:
    """Say whether a claimed number or a status disagrees with the hidden seeds alone."""
    return any(row.matches is False or (row.consistent is not None and row.consistent < 1) for row in rows)
