"""Child processes that end with us: each in a process group of its own, killed by `kill_children`."""

import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

_children: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()
_lock = threading.Lock()  # between the check that we may start a child and its entry above


class Stopped(Exception):  # noqa: N818 - the user's wish, not an error
    """`kill_children` came before the end."""


def allow_children() -> None:
    """Let `execute` start children again after `kill_children`."""
    _stopped.clear()


def execute(command: list[str], env: dict[str, str], folder: Path) -> tuple[int, str]:
    """Run a command in `folder`; give its exit code and what it wrote to stderr, or raise Stopped."""
    with _lock:
        if _stopped.is_set():
            raise Stopped
        child = subprocess.Popen(
            command, env=env, cwd=folder, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        _children.add(child)
    try:
        stderr = child.communicate()[1]
        if _stopped.is_set():
            raise Stopped
        return child.returncode, stderr.decode(errors="replace")
    finally:
        _kill(child)
        _children.discard(child)


def kill_children() -> None:
    """Kill every child with its own children, and let no other start."""
    with _lock:
        _stopped.set()
    for child in list(_children):
        _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:  # one that has ended is left alone: its id may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
