"""Run a paper's program, one process a seed, and keep what it measured."""

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from joblib import Parallel, delayed
from pydantic import ValidationError

from practicum import ROOT, PracticumError
from practicum.cards import Card, load_cards
from practicum.kinds import reference, statistic
from practicum.processes import allow_children, execute, kill_children
from practicum.results import (
    Results,
    ResultsError,
    Run,
    RunScale,
    dumps,
    flat,
    is_stale,
    load_results,
    program_path,
    save,
    write_whole,
)
from practicum.sources import source_files, source_hash

__all__ = [
    "ROOT", "Interrupted", "Results", "ResultsError", "RunError", "is_fresh", "is_stale", "load_results",
    "run", "source_files", "source_hash",
]  # fmt: skip


class RunError(PracticumError):
    """A program that failed, or measured what its card cannot use: one line with the mend."""


class Interrupted(PracticumError):  # noqa: N818 - not an error but the user's wish
    """Ctrl-C: what is finished is kept."""

    exit_code = 130


def run(
    paper: str,
    scale: RunScale = "laptop",
    seeds: int | None = None,
    jobs: int = 2,
    root: Path = ROOT,
    force: bool = False,
    on_seed: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Run the seeds 0 .. `seeds` - 1 (None: the card's budget) that are not kept yet, and write the results.

    `on_seed` hears how many seeds are done, of how many. RunError if a program fails: the other seeds are
    kept and the old results stay. joblib's `parallel_config` chooses other workers than local threads.
    """
    root = Path(root).resolve()
    card = load_cards(root, [paper])[paper]
    program = program_path(root, paper)
    if not program.is_file():
        raise RunError(f"{paper}: reproduce.py is missing (write it beside paper.yml)")
    wanted = range(seeds if seeds is not None else card.budget.seeds)
    digest = source_hash(program, root)
    folder = root / "_build" / "runs" / paper / f"{scale}-{digest}"
    if force:
        for seed in wanted:
            _kept_path(folder, seed).unlink(missing_ok=True)
    todo = [seed for seed in wanted if _kept(folder, seed) is None]
    on_seed(len(wanted) - len(todo), len(wanted))
    failures = _run_seeds(program, scale, todo, folder, root, jobs, len(wanted), on_seed)
    if failures:
        raise RunError(_told(paper, failures, len(wanted) - len(failures)))
    if source_hash(program, root) != digest:
        raise RunError(f"{paper}: the program changed while it ran (run it again)")
    results = Results(
        paper=paper, scale=scale, hash=digest, date=datetime.date.today(), versions=_versions(),
        runs=[kept for seed in wanted if (kept := _kept(folder, seed))],
    )  # fmt: skip
    _check_keys(card, results)
    save(results, root)
    return results


def is_fresh(paper: str, scale: str, seeds: int, root: Path = ROOT) -> bool:
    """Say whether there are sound results of the present program over at least these seeds."""
    try:
        results = load_results(root, paper, scale)
    except ResultsError:
        return False
    return results is not None and set(range(seeds)) <= set(results.seeds) and not is_stale(results, root)


def run_seed(program: Path, scale: str, seed: int, folder: Path, root: Path) -> tuple[int, str | None]:
    """Run one seed and keep its values in `folder`; give the seed and what went wrong, if anything did."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    # Seeds run side by side: each with one thread, lest they take the cores from one another.
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        options = ["--seed", str(seed), "--scale", scale, "--out", str(out)]
        start = time.perf_counter()
        code, stderr = execute([sys.executable, str(program), *options], env, program.parent)
        seconds = round(time.perf_counter() - start, 2)
        if code:
            write_whole(folder / f"seed-{seed}.log", stderr)
            last = (stderr.strip().splitlines() or ["it said nothing"])[-1].strip()
            return seed, f"failed with exit code {code}: {last}"
        try:
            values = flat(json.loads(out.read_bytes()))
        except FileNotFoundError:
            return seed, "wrote no file (write the values to --out)"
        except (ValueError, RecursionError) as error:
            return seed, f"wrote no flat JSON of finite numbers: {error}"
    write_whole(_kept_path(folder, seed), dumps({"seed": seed, "seconds": seconds, "values": values}) + "\n")
    return seed, None


def _run_seeds(
    program: Path,
    scale: str,
    todo: list[int],
    folder: Path,
    root: Path,
    jobs: int,
    total: int,
    on_seed: Callable[[int, int], None],
) -> dict[int, str]:
    """Run the seeds in parallel; give what went wrong by seed. Ctrl-C kills the children, and Interrupted."""
    allow_children()
    failures, done = {}, total - len(todo)
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", prefer="threads")
    try:
        for seed, problem in parallel(delayed(run_seed)(program, scale, s, folder, root) for s in todo):
            if problem:
                failures[seed] = problem
            else:
                done += 1
                on_seed(done, total)
    except KeyboardInterrupt:
        kill_children()
        kept = total - len(todo) + sum(_kept(folder, seed) is not None for seed in todo)
        paper = program.parent.name
        raise Interrupted(
            f"{paper}: interrupted, {kept} of {total} seeds are kept (the same command resumes)"
        ) from None
    return failures


def _kept_path(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}.json"


def _kept(folder: Path, seed: int) -> Run | None:
    """Read a seed that an earlier run kept; None if there is none, or no sound one."""
    try:
        return Run.model_validate(json.loads(_kept_path(folder, seed).read_bytes()))
    except (OSError, ValidationError, ValueError):
        return None


def _check_keys(card: Card, results: Results) -> None:
    """Compute every statistic that the card asks of these results, so that no verdict fails later."""
    for claim in card.at(results.scale):
        for seed in results.runs:
            try:
                statistic(claim, seed.values)
                reference(claim, seed.values)
            except ValueError as error:
                raise RunError(
                    f"{card.id}: claim {claim.id}: seed {seed.seed}: {error} (mend reproduce.py or the card)"
                ) from None


def _told(paper: str, failures: dict[int, str], kept: int) -> str:
    """Tell the first failure, and which seeds failed besides."""
    first, *others = sorted(failures)
    also = f"seeds that failed too: {', '.join(map(str, others))}; " if others else ""
    return f"{paper}: seed {first} {failures[first]} ({also}mend reproduce.py; {kept} finished seeds are kept)"


def _versions() -> dict[str, str]:
    """What the numbers may depend on besides the program."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
