"""The command line of a bubblewrap box: what a program is shown, which calls it may make, what it may take.

Nothing but the standard library is imported, so that any Python can start a box.
"""

import ctypes
import math
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

from practicum import PracticumError

MB = 10**6
LIBRARIES_MB = 2048  # address space that libraries map and never touch; the memory in use is watched instead
SHARED_MB = 64  # /dev/shm, as Docker has it
ENV = {
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "USER": "group", "LANG": "C.UTF-8",
    "PYTHONPATH": "/packages", "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
# When this shell ends so does bubblewrap's process 1, and with it the kernel ends all others in the box.
WRAPPER = """
mkdir /tmp/work && tar -xf - -C /tmp/work 2>/dev/null || { echo full; exit; }
cd /tmp/work
echo started
most=$1; shift
"$@" </dev/null >/dev/null
code=$?
if [ -L /tmp/out.json ]; then left=link
elif [ ! -e /tmp/out.json ]; then left=nothing
elif [ -f /tmp/out.json ]; then left=file
elif [ -d /tmp/out.json ]; then left=folder
else left=special; fi
echo "$code $left"
[ $left != file ] || head -c "$most" /tmp/out.json
"""
# Calls that would take memory which no process is charged for, gain rights in a new namespace, or reach into another
# process. bubblewrap's own --disable-userns needs a user namespace, which a box that root starts has not.
DENIED = """
unshare setns mount umount2 pivot_root chroot fsopen fsmount move_mount open_tree mount_setattr open_by_handle_at
memfd_create memfd_secret shmget msgget mq_open io_uring_setup ptrace process_vm_readv process_vm_writev
keyctl add_key request_key bpf perf_event_open userfaultfd vmsplice
"""
EPERM, ENOSYS = 1, 38
CLONE_NEWUSER = 0x10000000
SHARED_ANONYMOUS = 0x21  # of mmap: pages that outlive the process that wrote them; /dev/shm serves as well
FAMILIES = {1, 2, 10, 16}  # UNIX, INET, INET6, NETLINK: those that a network namespace isolates


class SandboxError(PracticumError):
    """Programs cannot be isolated here: the reason, with the mend."""


@dataclass(frozen=True)
class BoxLimits:
    """What one run may take; `folder_mb` bounds all that it writes, `file_mb` one file."""

    seconds: float
    memory_mb: float
    processes: int = 64
    file_mb: float = 100
    folder_mb: float = 200
    output_kb: float = 1000
    keys: int = 1000

    @property
    def output(self) -> int:
        """The most bytes that out.json may hold."""
        return int(self.output_kb * 1000)


def command(folder: Path, seed: int, limits: BoxLimits, packages: Sequence[Path], rules: int, info: int) -> list[str]:
    """Build the command line of a box; `rules` and `info` are descriptors that bubblewrap gets."""
    bwrap = shutil.which("bwrap")
    if not bwrap:
        raise SandboxError("bubblewrap is missing (Linux only: apt-get install bubblewrap)")
    root = os.geteuid() == 0
    names = ["ipc", "pid", "net", "uts", *([] if root else ["user"])]
    line = [bwrap, *(f"--unshare-{name}" for name in names), "--unshare-cgroup-try", "--die-with-parent"]
    line += ["--new-session", "--hostname", "box", "--cap-drop", "ALL"]
    line += ["--info-fd", str(info), "--seccomp", str(rules)]
    line += _tmpfs("/tmp", limits.folder_mb)
    shown = {path: path for path in _shown()}
    if inside := [path for path in shown if folder.resolve().is_relative_to(path)]:
        raise SandboxError(f"{folder} lies in {inside[0]}, which every program is shown (move the semester elsewhere)")
    here = next(python for python in (sys.executable, os.path.realpath(sys.executable)) if Path(python).parent in shown)
    shown |= {path.resolve(): Path("/packages") / path.name for path in packages}
    mine = Path(__file__).resolve().parents[1]
    for path, place in shown.items():
        line += ["--perms", "0755", "--dir", str(place.parent), "--ro-bind", str(path), str(place)]
        if mine.is_relative_to(path.resolve()):  # installed beside the libraries: nothing of it is shown
            line += ["--perms", "0000", "--tmpfs", str(place / mine.relative_to(path.resolve()))]
    line += ["--proc", "/proc", *_dev(), "--remount-ro", "/", "--chdir", "/tmp"]
    drop = []
    if root:  # the mounts need root, as the Python may lie in its home; the program gets a user of its own
        line += [word for cap in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{cap}")]
        user = str(_user())
        drop = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]
        drop += ["--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all"]
    line += ["--", *drop, "sh", "-c", WRAPPER, "sh", str(limits.output + 1), *_prlimit(limits)]
    return [*line, here, "reproduce.py", "--seed", str(seed), "--scale", "laptop", "--out", "/tmp/out.json"]


def _tmpfs(place: str, mb: float) -> list[str]:
    return ["--perms", "1777", "--size", str(int(mb * MB)), "--tmpfs", place]


def _dev() -> list[str]:
    """Make a smaller /dev than bubblewrap's: by mapping /dev/zero one gets shared pages as by mmap's flags."""
    line = ["--perms", "0755", "--tmpfs", "/dev"]
    line += [word for name in ("null", "random", "urandom") for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    for i, name in enumerate(("stdin", "stdout", "stderr")):
        line += ["--symlink", f"/proc/self/fd/{i}", f"/dev/{name}"]
    return [*line, "--symlink", "/proc/self/fd", "/dev/fd", *_tmpfs("/dev/shm", SHARED_MB), "--remount-ro", "/dev"]


def _shown() -> list[Path]:
    """List what a Python needs of the system and of its own folders, and nothing else that lies there."""
    system = [*Path("/usr").glob("lib*"), *Path("/").glob("lib*"), Path("/usr/local/lib")]
    system += [Path("/usr") / name for name in ("bin", "share")] + [Path("/bin")]
    system += [Path("/etc") / name for name in ("ld.so.cache", "alternatives", "localtime")]
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parents[1]]
    prefixes += [prefix.resolve() for prefix in prefixes]
    parts = [p / name for p in prefixes for name in ("bin", "lib", "lib32", "lib64", "pyvenv.cfg")]
    return [path for path in dict.fromkeys([*system, *parts]) if path.exists()]


def _user() -> int:
    """Give this run a user id of its own, which no account has, as the limit on processes counts by user."""
    own = threading.get_native_id()  # a thread runs one box at a time
    ids = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    top = max(int(first) + int(count) for first, _, count in ids)
    return 0x70000000 + own if top >= 2**31 else max(1, top - 1 - own % (top // 2))  # a container has fewer ids


def _prlimit(limits: BoxLimits) -> list[str]:
    import resource  # not on Windows

    wanted = {
        "as": (limits.memory_mb + LIBRARIES_MB) * MB, "nproc": limits.processes + 2, "fsize": limits.file_mb * MB,
        "cpu": limits.seconds * (os.cpu_count() or 1) + 5, "core": 0, "nofile": 256,
    }  # fmt: skip
    line = ["prlimit"]
    for name, value in wanted.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        most = math.ceil(value) if hard == resource.RLIM_INFINITY else min(math.ceil(value), hard)
        line.append(f"--{name}={most}")
    return [*line, "--"]


class _Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64)]


@cache
def rules() -> bytes:
    """Compile the seccomp filter that denies the calls above; the same on every kernel and processor."""
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise SandboxError("libseccomp is missing (apt-get install libseccomp2)") from None
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(0x7FFF0000)))  # allow what no rule names

    def deny(name: str, errno: int, *compare: int) -> None:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # newer than the library, or not on this processor
            return
        argument, *masked = compare or (0, 0, 0)
        match = (_Compare * 1)(_Compare(argument, 7, *masked))  # 7: argument & mask == value
        if lib.seccomp_rule_add_array(context, ctypes.c_uint32(0x00050000 | errno), number, len(match), match):
            raise SandboxError(f"libseccomp refuses a rule on {name} (update it)")

    for name in DENIED.split():
        deny(name, EPERM)
    deny("clone3", ENOSYS)  # its flags lie in memory, where no filter sees them; the C library then takes clone
    deny("clone", EPERM, 0, CLONE_NEWUSER, CLONE_NEWUSER)
    deny("mmap", EPERM, 3, SHARED_ANONYMOUS, SHARED_ANONYMOUS)
    for family in set(range(64)) - FAMILIES:
        deny("socket", EPERM, 0, 0xFFFFFFFF, family)
    with TemporaryFile() as file:
        if lib.seccomp_export_bpf(context, file.fileno()):
            raise SandboxError("libseccomp cannot export its filter (update it)")
        lib.seccomp_release(context)
        file.seek(0)
        return file.read()
