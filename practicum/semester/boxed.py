"""One program in a bubblewrap box: started, watched, ended with all its children, and what it left.

The folder goes in as a tar on stdin. Out come a line once it is unpacked, a line with the exit code and what lies at
/tmp/out.json, and that file's bytes. The program runs in its own copy, in /tmp, the one place that it can write.
Nothing but the standard library is imported, so that any Python can start a box.
"""

import json
import os
import select
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from practicum.semester.bubble import ENV, MB, BoxLimits, SandboxError, command, rules

TAIL = 4000  # bytes of stderr that are kept
MOST_FILES = 20_000  # an empty file takes the kernel's memory too, and a tmpfs's size does not count it
MOST_SOCKETS = 500  # each can hold some 200 kB on their way, which no process is charged for
STARTED, FULL = b"started\n", b"full\n"  # what the box says first


@dataclass
class Left:
    """What a run left: why we ended it, or its exit code (128 + the signal's number, as in a shell) and its output."""

    seconds: float
    stderr: bytes
    ended: str | None = None
    code: int = 0
    kind: str = "nothing"  # or file, link, folder, special
    content: bytes = b""


class Drain(threading.Thread):
    """Read a pipe to its end and keep the first or the last bytes, so that no flood fills our memory."""

    def __init__(self, stream: IO[bytes] | None, most: int, last: bool = False) -> None:
        super().__init__(daemon=True)
        assert stream is not None
        self.stream, self.most, self.last, self.kept = stream, most, last, b""
        self.start()

    def run(self) -> None:
        """Read until the last writer is gone."""
        with suppress(OSError, ValueError), self.stream:
            while chunk := self.stream.read(65536):
                if self.last:
                    self.kept = (self.kept + chunk)[-self.most :]
                elif len(self.kept) < self.most:
                    self.kept = (self.kept + chunk)[: self.most]

    def begins(self, line: bytes) -> bool:
        """Say whether this came first, up to now."""
        return self.kept.startswith(line)

    def all(self) -> bytes:
        """Give what was kept, once the pipe is at its end (or soon, if someone still holds it open)."""
        self.join(2)
        return self.kept


def wait(
    child: subprocess.Popen[bytes],
    limits: BoxLimits,
    cancel: threading.Event | None,
    excess: Callable[[], str | None] = lambda: None,
) -> str | None:
    """Wait until the child ends by itself, or give the reason to end it."""
    end = time.monotonic() + limits.seconds
    while True:
        try:
            child.wait(0.05)
            return None
        except subprocess.TimeoutExpired:
            if cancel is not None and cancel.is_set():
                return "was interrupted"
            if time.monotonic() > end:
                return f"took longer than {limits.seconds:g} s"
            if why := excess():
                return why


def run(
    folder: Path, seed: int, limits: BoxLimits, packages: Sequence[Path] = (), cancel: threading.Event | None = None
) -> Left:
    """Run one seed of the folder's program; SandboxError if the box itself does not start."""
    start = time.perf_counter()
    ours, theirs = os.pipe()
    with open(ours, "rb") as info:
        with open(theirs, "wb") as told, _sealed() as snapshot, _sealed() as calls:
            _pack(folder, snapshot)
            calls.write(rules())
            _seal(snapshot)
            _seal(calls)
            child = subprocess.Popen(
                command(folder, seed, limits, packages, calls.fileno(), told.fileno()), stdin=snapshot,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, cwd="/", bufsize=0,
                pass_fds=(calls.fileno(), told.fileno()),
            )  # fmt: skip
        out, err = Drain(child.stdout, limits.output + 100), Drain(child.stderr, TAIL, last=True)
        try:
            with _first_process(info) as first:
                ended = wait(child, limits, cancel, lambda: _excess(first, limits) if out.begins(STARTED) else None)
        finally:
            with suppress(subprocess.TimeoutExpired):
                child.wait(2)
            child.kill()
            child.wait()
    return _left(ended, out.all(), Left(time.perf_counter() - start, err.all()), limits)


def _left(ended: str | None, out: bytes, left: Left, limits: BoxLimits) -> Left:
    if out.startswith(FULL):
        ended = f"does not fit into its scratch folder (limit {limits.folder_mb:g} MB)"
    elif not ended and not out.startswith(STARTED):
        told = left.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise SandboxError(f"bubblewrap cannot start a box: {told[-1][:200]} (run as a user whom it works for)")
    left.ended = ended
    if not ended:
        status, _, left.content = out.removeprefix(STARTED).partition(b"\n")
        code, _, left.kind = status.decode(errors="replace").partition(" ")
        if not code.isdecimal() or len(code) > 3:
            left.ended = "left no exit code"  # it wrote into our pipe, or killed our shell
        else:
            left.code = int(code)
    return left


def _sealed() -> IO[bytes]:
    """Open a file in memory that `_seal` makes unchangeable: its descriptor is within the program's reach."""
    return open(os.memfd_create("box", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC), "w+b", buffering=0)


def _seal(file: IO[bytes]) -> None:
    import fcntl  # Windows has none, and no boxes

    file.seek(0)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)


def _pack(folder: Path, file: IO[bytes]) -> None:
    """Write the folder as a tar: its files and folders, whatever their rights here are."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.mode = 0o755
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info if info.isreg() or info.isdir() else None

    try:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(folder, arcname=".", filter=plain)
    except OSError as error:
        raise SandboxError(f"{folder}: cannot be read: {error.strerror} (mend its rights)") from None
    file.seek(0)


@dataclass
class _First:
    """The box's process 1 as we see it; the descriptor keeps its number from meaning another process."""

    pid: int
    handle: int

    def kill(self) -> None:
        """Kill the box, and wait until the kernel has ended every process in it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        self.ends(within=10)

    def ends(self, within: float = 0) -> bool:
        """Say whether the box is gone by then."""
        return bool(select.select([self.handle], [], [], within)[0])


@contextmanager
def _first_process(info: IO[bytes]) -> Iterator[_First | None]:
    """Give the process that bubblewrap has started, None if it has not; it does not outlive the block."""
    try:
        pid = json.loads(info.read())["child-pid"]
        handle = os.pidfd_open(pid)
    except (ValueError, OSError):
        yield None
        return
    first = _First(pid, handle)
    try:
        yield first
    finally:
        first.kill()
        os.close(handle)


def _excess(first: _First | None, limits: BoxLimits) -> str | None:
    """Say what the box has taken too much of, if anything."""
    if first is None:
        return "could not be watched"
    inside = Path(f"/proc/{first.pid}/root")
    why, patience = None, 0
    try:
        if _over(inside / "proc", limits.memory_mb * MB):
            why = f"ran out of memory (limit {limits.memory_mb:g} MB)"
        elif any((use := os.statvfs(inside / name)).f_files - use.f_ffree > MOST_FILES for name in ("tmp", "dev/shm")):
            why = f"wrote more than {MOST_FILES} files"
        elif int((inside / "proc/1/net/sockstat").read_text().split()[2]) > MOST_SOCKETS:
            why = f"opened more than {MOST_SOCKETS} sockets"
    except OSError as error:
        why, patience = f"could not be watched: {error.strerror}", 2  # unless it is just ending
    return None if first.ends(patience) else why  # its number would be free for a process with other folders


def _over(proc: Path, most: float) -> bool:
    """Say whether the box's processes hold more memory; none can leave its own /proc by leaving its parent."""
    page = os.sysconf("SC_PAGESIZE")
    resident: dict[str, float] = {}
    for name in os.listdir(proc):
        with suppress(OSError, IndexError, ValueError):  # no process, or one that has just ended
            resident[name] = int((proc / name / "statm").read_text().split()[1]) * page
    if sum(resident.values()) <= most:
        return False
    for name in resident:  # a fork shares its pages: count each page once, which takes longer
        try:
            lines = (proc / name / "smaps_rollup").read_text().splitlines()
            shares = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
        except (FileNotFoundError, ProcessLookupError):
            shares = []  # it has just ended
        except OSError:
            continue
        resident[name] = sum(shares)
    return sum(resident.values()) > most
