"""One seed of a group's program, in isolation: values come out, and nothing else."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import psutil  # type: ignore[import-untyped]

from practicum.kinds import Values
from practicum.results import flat
from practicum.semester import boxed
from practicum.semester.boxed import TAIL, Drain, Left, wait
from practicum.semester.bubble import ENV, BoxLimits, SandboxError

__all__ = ["BoxLimits", "How", "Outcome", "SandboxError", "choose", "run_in_box"]

How = Literal["bubblewrap", "unsafe-local"]
PROGRAM = "reproduce.py"
LARGEST = 1e100  # beyond it sums of squares overflow
TRIAL = 'import json, sys\njson.dump({"trial": 1}, open(sys.argv[-1], "w"))\n'
NO_FILE = {
    "nothing": "wrote no out.json", "link": "its output is a symbolic link", "folder": "its output is a folder",
    "special": "its output is no regular file",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A run's values, or the problem in a short clause without the seed; the end of stderr may name the seed."""

    values: Values | None
    problem: str | None
    seconds: float
    stderr: str


def choose(unsafe_local: bool = False) -> How:
    """Choose bubblewrap if it works here, tried for real; SandboxError if not, unless isolation is waived."""
    if unsafe_local:
        return "unsafe-local"
    if obstacle := _obstacle():
        raise SandboxError(f"programs cannot be isolated here: {obstacle}; or waive isolation by --unsafe-local")
    return "bubblewrap"


@cache
def _obstacle() -> str | None:
    with TemporaryDirectory() as folder:
        (Path(folder) / PROGRAM).write_text(TRIAL, encoding="utf-8")
        try:
            return run_in_box("bubblewrap", Path(folder), 0, BoxLimits(seconds=30, memory_mb=500)).problem
        except SandboxError as error:
            return str(error)


def run_in_box(
    how: How,
    folder: Path,
    seed: int,
    limits: BoxLimits,
    packages: Sequence[Path] = (),
    cancel: threading.Event | None = None,
) -> Outcome:
    """Run one seed of the folder's reproduce.py, in a copy of the folder, and give what it wrote.

    `packages` are folders that it may import. Several threads may run boxes at once. Once `cancel` is set the run
    ends with the problem "was interrupted". Only what is wrong with the machine raises SandboxError.
    """
    if not (folder / PROGRAM).is_file():
        return Outcome(None, f"holds no {PROGRAM}", 0.0, "")
    run = boxed.run if how == "bubblewrap" else _run_here
    return outcome(run(folder, seed, limits, packages, cancel), seed, limits)


def outcome(left: Left, seed: int, limits: BoxLimits) -> Outcome:
    """Read what a run left as values, or say why there are none."""
    stderr = _printable(left.stderr.decode(errors="replace"))
    values, problem = None, left.ended
    if not problem and left.code:
        problem = _failure(left.code, _without(seed, stderr), limits)
    elif not problem and left.kind != "file":
        problem = NO_FILE.get(left.kind, "left no output")
    elif not problem:
        try:
            values = _values(left.content, limits)
        except ValueError as error:
            problem = f"wrote no flat JSON: {_without(seed, str(error))}"
    return Outcome(values, problem and " ".join(problem.split())[:200], round(left.seconds, 2), stderr)


def _without(seed: int, words: str) -> str:
    """Hide a secret seed, which is never a small number, in the words of a program."""
    return re.sub(rf"(?<!\d){seed}(?!\d)", "[seed]", words) if seed > 999 else words


def _failure(code: int, stderr: str, limits: BoxLimits) -> str:
    last = (stderr.strip().splitlines() or ["it said nothing"])[-1].strip()
    if "MemoryError" in last:
        return f"ran out of memory (limit {limits.memory_mb:g} MB)"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(code - 128).name}"
    return f"ended with exit code {code}: {last}"


def _values(content: bytes, limits: BoxLimits) -> Values:
    """Read flat JSON, each key once; ValueError says what it is instead."""
    if len(content) > limits.output:
        raise ValueError(f"it is longer than {limits.output_kb:g} kB")
    try:
        values = json.loads(content.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError("it holds a number of too many digits" if "digits" in str(error) else str(error)) from None
    if isinstance(values, dict):
        if len(values) > limits.keys:
            raise ValueError(f"it has {len(values)} keys (limit {limits.keys})")
        if any(len(key) > 100 or not key.isprintable() for key in values):
            raise ValueError("a key is longer than 100 characters, or has some that cannot be printed")
    found = flat(values)
    for key, value in found.items():
        if np.max(np.abs(value)) > LARGEST:
            raise ValueError(f"key {key!r} holds a number beyond {LARGEST:g}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _printable(text: str) -> str:
    """Blank what could steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def _run_here(
    folder: Path, seed: int, limits: BoxLimits, packages: Sequence[Path] = (), cancel: threading.Event | None = None
) -> Left:
    """Run one seed without isolation: a copy of the folder, a limit on time, and an end to its process group."""
    start = time.perf_counter()
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        work, out = Path(scratch) / "work", Path(scratch) / "out.json"
        try:
            shutil.copytree(folder, work, copy_function=shutil.copyfile, ignore=_special)
        except OSError as error:
            raise SandboxError(f"{folder}: cannot be copied: {error} (mend its rights)") from None
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env |= {name: value for name, value in ENV.items() if name.endswith("_THREADS") or name == "MPLBACKEND"}
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(str(path.resolve().parent) for path in packages))
        child = subprocess.Popen(
            [sys.executable, PROGRAM, "--seed", str(seed), "--scale", "laptop", "--out", str(out)], cwd=work, env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        err = Drain(child.stderr, TAIL, last=True)
        try:
            ended = wait(child, limits, cancel)
        finally:
            _kill(child)
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        kind, content = _read(out, limits.output + 1)
        return Left(time.perf_counter() - start, err.all(), ended, code, kind, content)


def _special(folder: str, names: list[str]) -> set[str]:
    """Name what is neither a file nor a folder, such as a link or a pipe."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return {name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))}


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child with its children, and with its process group where there are such."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(child.pid).children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def _read(path: Path, most: int) -> tuple[str, bytes]:
    """Read a regular file that may be anything, and say what it is; never follow a link or wait for a pipe."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return "nothing", b""
    if not stat.S_ISREG(mode):
        return ("link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "special"), b""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return "file", file.read(most)
    except OSError:
        pass
    return "special", b""
