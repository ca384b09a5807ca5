"""A re-run, a claim and a seed as a group may read them: in our words, for a program chooses its own."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

from markupsafe import Markup

from practicum.semester.evidence import Evidence, Row
from practicum.semester.plan import Late
from practicum.verdicts import FEWEST_SEEDS

KINDS = {  # how a problem's text begins, or has -> what the group reads; the first that is found
    "^ran out of memory": "it ran out of memory",
    "^took longer": "it took too long",
    "^(does not fit|wrote more than)": "it wrote too much",
    "^(was ended by|ended with|left no exit code)": "it ended with an error",
    "^(wrote no out|its output is|left no output)": "it left no output file",
    "^wrote no flat JSON": "what it wrote is not flat JSON of finite numbers",
    "^the snapshot": "the snapshot is not what was handed in (ask the lecturer)",
    "not measured|is a curve|not two curves|lacks": "a key that the claim reads is missing, or of another kind",
    "divides by|takes its log|not vary|reference is 0|is (nan|-?inf)": "its statistic is not defined on these values",
}


def scrubber(seeds: set[int]) -> Callable[[object], object]:
    """Make what hides these numbers in a text, also in hexadecimal or with their digits grouped."""
    grouped = {seed: r"[ _,.'’\u00a0\u202f]?".join(str(seed)) for seed in seeds}
    ways = [f"{way}|{seed:x}" if seed > 10**5 else rf"(?<!\d){way}(?!\d)" for seed, way in grouped.items()]
    found = re.compile("|".join(ways), re.IGNORECASE) if ways else None

    def scrub(value: object) -> object:
        plain = isinstance(value, str) and not isinstance(value, Markup)  # markup is what we put together of such
        return found.sub("[hidden]", str(value)) if found and plain else value

    return scrub


def kind_of(problem: str) -> str:
    """Say what kind of problem it was, in words that no program chose."""
    return next((told for word, told in KINDS.items() if re.search(word, problem)), "it failed")


def late_words(due: datetime, received: datetime, late: Late) -> str:
    """Say how late it was and what that costs."""
    over, factor = received - due, late.factor(due, received)
    if over <= timedelta(0):
        return "in time"
    hours = over / timedelta(hours=1)
    told = f"{over / timedelta(minutes=1):.0f} minutes" if hours < 2 else f"{hours:.0f} hours"
    told = f"{hours / 24:.1f} days" if hours >= 48 else told
    if factor == 1:
        return f"{told} late, within the grace"
    return f"{told} late: " + (f"it counts for {100 * factor:.0f} % of its marks" if factor else "too late to count")


def rerun_words(evidence: Evidence | None) -> str:
    """Say how many seeds ran, and what kind of problem the others had."""
    if evidence is None:
        return "Not re-run yet."
    failed = [kind_of(run.problem) for run in evidence.runs if run.values is None]
    told = "; ".join(f"{why} ({failed.count(why)})" for why in dict.fromkeys(failed))
    ran = f"{len(evidence.good)} of {len(evidence.runs)} hidden seeds ran"
    return f"{ran}; of the others: {told}." if told else f"{ran}."


def claim_words(row: Row, evidence: Evidence | None) -> dict[str, str]:
    """Put a claim, what the group says of it, what the re-run gives and what that earns into words."""
    said = row.status + ("" if row.value is None else f", {row.value:.6g} {row.unit}".rstrip())
    paper = "" if row.paper_value is None else f"{row.paper_value:g} {row.unit}".strip()
    rerun, verdict = "", str(row.verdict or "")
    if row.extension and row.mean is not None:  # of keys that the group invents: means could spell the seeds
        rerun = f"measured on {row.n} seeds"
    elif row.mean is not None:
        rerun = f"{row.mean:.3g} ± {row.sd:.2g} ({row.n} seeds)"
    elif evidence is not None:
        rerun = f"no number: {_why_none(row.problem, evidence)}"
    none = "0: not attempted" if row.status == "not attempted" else "open"
    return {
        "id": row.claim, "role": row.role, "text": row.text, "expected": row.expected, "paper": paper, "said": said,
        "reason": row.reason, "rerun": rerun or "nothing yet", "verdict": verdict, "number": _number(row) or none,
        "status": none if row.consistent is None else f"{row.consistent:g}: {row.consistent_why}",
    }  # fmt: skip


def _why_none(problem: str, evidence: Evidence) -> str:
    if problem.startswith("only "):
        return f"too few seeds ran ({FEWEST_SEEDS} are needed)"
    return kind_of(problem or next((run.problem for run in evidence.runs if run.values is None), ""))


def _number(row: Row) -> str:
    """Say whether the claimed number is the re-run's, without the tolerance that it was compared with."""
    if row.matches is None:
        return ""
    if row.matches:
        return "1: the number is the re-run's"
    if row.value is None:
        return "0: no number is claimed"
    if row.mean is None:
        return "0: the re-run gave no number"
    constant = row.match_why if row.match_why.startswith("the same on every") else ""
    return "0: " + (constant or "the number is not the re-run's")
