"""The verdict on each claim: what the statistic's spread over seeds allows us to say."""

from collections.abc import Sequence
from enum import StrEnum
from math import inf, sqrt
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field
from scipy.stats import t

from practicum import ROOT, PracticumError
from practicum.cards import Card, Claim, Expect, load_cards
from practicum.kinds import reference, statistic
from practicum.results import Results, is_stale, load_results, load_worked

FEWEST_SEEDS = 5
SLACK = 1e-9  # results carry 6 digits: a tie must not hang on a float's last bit


class VerdictError(PracticumError):
    """Results on which a claim cannot be judged, in one line with the mend."""


class TooFewSeedsError(VerdictError):
    """Fewer seeds than the spread needs: no verdict."""


class Verdict(StrEnum):
    """What our runs say of a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"


class Judgement(BaseModel):
    """A claim, what we measured for it over `n` seeds, and the verdict, None where it was not run."""

    model_config = ConfigDict(frozen=True)

    paper: str
    claim: str
    role: str
    kind: str
    scale: str
    text: str
    where: str
    source: str
    expected: str
    note: str | None = None
    of: str | None = None
    paper_value: float | None = None
    unit: str = ""
    verdict: Verdict | None = None
    mean: float | None = None
    sd: float | None = None
    n: int = 0
    reference: float | None = None
    tolerance: float | None = None
    seconds: float | None = None
    stale: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def status(self) -> str:
        """The verdict in words, or "not run"."""
        return str(self.verdict or "not run")


def judge_all(root: Path = ROOT, papers: list[str] | None = None) -> list[Judgement]:
    """Judge every claim of `papers`, or of all that are worked out under `root`, in the cards' order."""
    cards = load_worked(root) if papers is None else load_cards(root, papers)
    return [found for card in cards.values() for found in judge_card(card, root)]


def judge_card(card: Card, root: Path = ROOT) -> list[Judgement]:
    """Judge every claim of one card, each on the results of its scale."""
    at = {scale: load_results(root, card.id, scale) for scale in dict.fromkeys(c.scale for c in card.claims)}
    stale = {scale: is_stale(results, root) for scale, results in at.items() if results}
    return [judge(card.id, claim, at[claim.scale], stale.get(claim.scale, False)) for claim in card.claims]


def judge(paper: str, claim: Claim, results: Results | None, stale: bool = False) -> Judgement:
    """Judge one claim on results of its scale; VerdictError if they do not serve it."""
    told = Judgement(
        paper=paper, claim=claim.id, role=claim.role, kind=claim.kind, scale=claim.scale, text=claim.text,
        where=claim.where, source=claim.source, expected=expected(claim), note=claim.note, of=claim.of,
        paper_value=claim.paper.value if claim.paper else None,
        unit=claim.paper.unit if claim.paper else "", stale=stale,
    )  # fmt: skip
    if results is None:
        return told
    s, ref = statistics(paper, claim, results)
    verdict, tolerance = compare(claim.expect, s, ref, claim.kind == "order")
    measure = {
        "verdict": inverted(verdict) if claim.role == "control" else verdict, "tolerance": tolerance,
        "mean": float(s.mean()), "sd": float(s.std(ddof=1)), "n": len(s), "reference": float(ref.mean()),
        "seconds": results.seconds,
    }  # fmt: skip
    return told.model_copy(update=measure)


def statistics(paper: str, claim: Claim, results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Compute each seed's statistic and what it should equal or pass; VerdictError names what prevents it."""
    if len(results.runs) < FEWEST_SEEDS:
        raise TooFewSeedsError(
            f"{paper}: claim {claim.id}: {len(results.runs)} seeds are too few for a verdict "
            f"(`make reproduce PAPER={paper}` with {FEWEST_SEEDS} or more)"
        )
    e = claim.expect
    bound = e.at_least if e.at_least is not None else e.at_most
    found = []
    for run in results.runs:
        try:
            ref = reference(claim, run.values) if bound is None else bound
            found.append((statistic(claim, run.values), ref))
        except ValueError as error:
            raise VerdictError(f"{paper}: claim {claim.id}: seed {run.seed}: {error}") from None
    s, refs = np.array(found).T
    if e.equals is not None and not e.absolute and refs.mean() == 0:
        raise VerdictError(f"{paper}: claim {claim.id}: the reference is 0 (add absolute: true to its expect)")
    return s, refs


def compare(expect: Expect, s: np.ndarray, ref: np.ndarray, strict: bool = False) -> tuple[Verdict, float]:
    """Compare the seeds' statistics with the expectation; give the verdict and the tolerance it used.

    Of a number the paper ran one seed, as noisy as one of ours; a key of the same seed (theory) is exact.
    """
    if expect.equals is not None:
        runs_of_reference = inf if isinstance(expect.equals, str) else 1
        scale = 1.0 if expect.absolute else abs(float(ref.mean()))
        spread = half_width(s - ref, runs_of_reference)
        tolerance = float(np.clip(spread, expect.floor * scale, expect.cap * scale))
        off = abs(float((s - ref).mean())) - SLACK * scale
        # the whole interval within the cap: noise may widen the tolerance, but not so far that anything agrees
        known = off + spread <= expect.cap * scale
        return _verdict(off <= tolerance and known, off <= expect.cap * scale), tolerance
    sign = 1 if expect.at_least is not None else -1
    margin = sign * (s - ref)
    slack = -SLACK * abs(float(ref.mean()))
    width, mean = half_width(margin), float(margin.mean())
    if strict:  # a tie is no order
        return _verdict(mean - width > 0, mean > 0), width
    return _verdict(mean - width >= slack, mean >= slack), width


def half_width(d: np.ndarray, runs_of_reference: float = inf) -> float:
    """Half of the 95 % interval of the mean of `d`: t sd sqrt(1/n + 1/n_ref) (CORE-Bench for n_ref = 1)."""
    n = len(d)
    return float(t.ppf(0.975, n - 1) * d.std(ddof=1) * sqrt(1 / n + 1 / runs_of_reference))


def _verdict(fully: bool, partly: bool) -> Verdict:
    return Verdict.REPRODUCED if fully else Verdict.PARTLY if partly else Verdict.NOT_REPRODUCED


def inverted(verdict: Verdict) -> Verdict:
    """Turn a verdict round, for a control: it holds if its claim fails once the cause is removed."""
    turned: Sequence[Verdict] = list(reversed(Verdict))
    return turned[list(Verdict).index(verdict)]


def expected(claim: Claim) -> str:
    """Put what a claim expects in a few signs: `= 4.1`, `>= 2`, `a < b`."""
    e = claim.expect
    if e.equals is not None:
        told = f"= {e.equals}" if isinstance(e.equals, str) else f"= {e.equals:g}"
    elif claim.kind == "order" and e.at_least == 0:
        told = " < ".join(claim.keys)
    else:
        told = f">= {e.at_least:g}" if e.at_least is not None else f"<= {e.at_most:g}"
    return f"not {told}" if claim.role == "control" else told


def measured(results: Results, key: str) -> tuple[float, float, int]:
    """Give a number's mean, standard deviation (nan for one seed) and how many seeds it is over."""
    values = results.values(key)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan"), len(values)
