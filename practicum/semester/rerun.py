"""Re-runs of what was handed in: each snapshot in a box of its own, on seeds that the group has not seen."""

import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from pydantic import ValidationError

from practicum import ROOT
from practicum.cards import Card
from practicum.results import write_whole
from practicum.semester.claims import load_claims
from practicum.semester.drop import Submission, intact, snapshot_path
from practicum.semester.evidence import Evidence, SeedRun, in_doubt, table
from practicum.semester.log import Log
from practicum.semester.plan import RunLimits, Semester, SemesterError
from practicum.semester.sandbox import BoxLimits, How, run_in_box

PACKAGES = [ROOT / "phenomena"]  # what a program may import besides the installed libraries


def box_limits(card: Card, limits: RunLimits) -> BoxLimits:
    """Limit one seed by the card's budget and the plan."""
    return BoxLimits(
        seconds=card.budget.seconds * limits.slack, memory_mb=card.budget.memory_mb, processes=limits.processes,
        file_mb=limits.file_mb, folder_mb=limits.folder_mb, output_kb=limits.output_kb, keys=limits.keys,
    )  # fmt: skip


def secret(semester: Semester) -> bytes:
    """Read the semester's secret, made at the first call, by which the hidden seeds are drawn."""
    path = semester.private / "secret"
    semester.private.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(semester.private / ".secret.lock"):
        if not path.exists():
            if any((semester.private / "reruns").glob("*/evidence.json")):
                raise SemesterError("private/secret: is gone, and re-runs hang on it (restore it from a backup)")
            write_whole(path, secrets.token_hex(32) + "\n")
            path.chmod(0o600)
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise SemesterError("private/secret: is not what was written there (restore it from a backup)")
    return bytes.fromhex(text)


def hidden_seeds(semester: Semester, paper: str, deliverable: str) -> list[int]:
    """Draw the seeds of a paper and deliverable, the same for all groups; none of them is public."""
    found: list[int] = []
    n = 0
    while len(found) < semester.plan.seeds.hidden:
        digest = hmac.digest(secret(semester), f"{paper} {deliverable} {n}".encode(), "sha256")
        seed, n = 10**6 + int.from_bytes(digest[:8]) % (2**31 - 10**6), n + 1
        if seed not in found and seed not in semester.plan.seeds.public:
            found.append(seed)
    return found


def run_folder(
    card: Card, folder: Path, seeds: Sequence[int], limits: BoxLimits, how: How, keep: Path | None = None,
    jobs: int = 1, on_seed: Callable[[int], None] = lambda seed: None, cancel: threading.Event | None = None,
) -> Evidence:  # fmt: skip
    """Run a folder's program on each seed; what `keep` holds of an earlier call is not run again.

    Interrupted, it leaves the finished seeds in `keep`.
    """
    cancel = cancel or threading.Event()

    def one(seed: int) -> SeedRun:
        path = keep / f"seed-{seed}.json" if keep else None
        if path and (kept := _kept(path, seed)):
            return kept
        outcome = run_in_box(how, folder, seed, limits, PACKAGES, cancel)
        run = SeedRun(seed=seed, seconds=round(outcome.seconds, 2), values=outcome.values,
                      problem=outcome.problem or "", stderr=outcome.stderr)  # fmt: skip
        if path and not cancel.is_set():
            write_whole(path, run.model_dump_json() + "\n")
        return run

    found: list[SeedRun] = []
    try:
        for run in Parallel(n_jobs=jobs, return_as="generator_unordered", prefer="threads")(
            delayed(one)(seed) for seed in seeds
        ):
            found.append(run)
            on_seed(run.seed)
    except BaseException:
        cancel.set()
        raise
    order = {seed: i for i, seed in enumerate(seeds)}
    found.sort(key=lambda run: order[run.seed])
    return Evidence(paper=card.id, how=how, date=datetime.now(UTC), runs=found)


def _kept(path: Path, seed: int) -> SeedRun | None:
    with suppress(OSError, ValidationError):
        run = SeedRun.model_validate_json(path.read_bytes())
        return run if run.seed == seed else None
    return None


def rerun_folder(semester: Semester, s: Submission) -> Path:
    """Where the re-run of a submission is kept: one a snapshot and deliverable, since the seeds are a deliverable's."""
    return semester.private / "reruns" / f"{s.snapshot[:16]}-{s.paper}-{s.deliverable}"


def load_evidence(semester: Semester, s: Submission) -> Evidence | None:
    """Read the evidence of a submission's re-run; None if it was not re-run to the end."""
    try:
        return Evidence.model_validate_json((rerun_folder(semester, s) / "evidence.json").read_bytes())
    except (OSError, ValidationError):
        return None


def rerun(
    semester: Semester, s: Submission, card: Card, how: How, who: str = "rerun", jobs: int = 1, force: bool = False,
    on_seed: Callable[[int], None] = lambda seed: None, cancel: threading.Event | None = None,
) -> Evidence | None:  # fmt: skip
    """Re-run one submission on its hidden seeds and keep the evidence; None if another grader is at it."""
    folder = rerun_folder(semester, s)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    try:
        if force:
            for old in folder.glob("seed-*.json"):  # the evidence stays until there is new one
                old.unlink(missing_ok=True)
        elif evidence := load_evidence(semester, s):
            return evidence
        seeds = hidden_seeds(semester, s.paper, s.deliverable)
        if intact(semester.drop, s.snapshot):
            limits = box_limits(card, semester.plan.limits.run)
            program = snapshot_path(semester.drop, s.snapshot)
            evidence = run_folder(card, program, seeds, limits, how, folder, jobs, on_seed, cancel)
            if _in_doubt(card, program, evidence):
                public = semester.plan.seeds.public
                seen = run_folder(card, program, public, limits, how, folder, jobs, cancel=cancel)
                evidence = evidence.model_copy(update={"public": seen.runs})
        else:
            why = "the snapshot is not what was handed in (restore it from a backup)"
            evidence = Evidence(paper=s.paper, how=how, date=datetime.now(UTC),
                                runs=[SeedRun(seed=seed, seconds=0, problem=why) for seed in seeds])  # fmt: skip
        text = evidence.model_dump_json(indent=1) + "\n"
        said = {"group": s.group, "paper": s.paper, "deliverable": s.deliverable, "snapshot": s.snapshot, "how": how,
                "evidence": sha256(text.encode()).hexdigest()}  # fmt: skip
        score_log(semester).append("rerun", who, said)  # first: evidence that nobody logged could be anyone's
        write_whole(folder / "evidence.json", text)
        return evidence
    finally:
        lock.release()


def _in_doubt(card: Card, program: Path, evidence: Evidence) -> bool:
    """Say whether the public seeds are needed too; claims that cannot be read leave nothing to doubt."""
    with suppress(Exception):
        claims = load_claims(program / "claims.yml", card, program)
        return bool(evidence.good) and in_doubt(table(card, claims, evidence))
    return False


def score_log(semester: Semester) -> Log:
    """Open the graders' log: scores and re-runs."""
    return Log(semester.private / "scores.jsonl")


def open_reruns(semester: Semester, counting: Iterable[Submission]) -> list[Submission]:
    """List the submissions that have no evidence yet."""
    return [s for s in counting if load_evidence(semester, s) is None]


def tampered(semester: Semester) -> list[str]:
    """Name the re-runs whose evidence is not what the log says: `group paper deliverable`."""
    found = []
    log = score_log(semester)
    events = [event for event in log.events() if event.kind == "rerun"]
    named = ("group", "paper", "deliverable", "snapshot")
    if broken := next((event for event in events if not {*named, "evidence"} <= event.data.keys()), None):
        raise log.odd(broken)
    logged = {json.dumps([event.data[name] for name in named]): event.data for event in events}
    for data in logged.values():
        s = Submission(data["group"], data["paper"], data["deliverable"], data["snapshot"], datetime.now(UTC), 0)
        path = rerun_folder(semester, s) / "evidence.json"
        if not path.is_file() or sha256(path.read_bytes()).hexdigest() != data["evidence"]:
            found.append(f"{s.group} {s.paper} {s.deliverable}")
    return found
