"""Ask the kernel for new namespaces, mounts, other processes' memory and memory that belongs to no process."""

import ctypes
import json
import mmap
import os
import platform
import socket
import sys
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]
UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]
NEWUSER, NEWNS, SIGCHLD = 0x10000000, 0x00020000, 17
found = {}


def attempt(name, action):
    try:
        found[name] = int(action() not in (-1, None))
    except (OSError, AttributeError):
        found[name] = 0


def clone():
    pid = libc.syscall(CLONE, NEWUSER | SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid


attempt("clone", clone)
attempt("unshare user", lambda: libc.syscall(UNSHARE, NEWUSER))
attempt("unshare mount", lambda: libc.syscall(UNSHARE, NEWNS))
attempt("mount", lambda: libc.mount(b"none", b"/tmp/work", b"tmpfs", 0, None))
attempt("remount", lambda: libc.mount(b"none", b"/usr/bin", None, 32 | 4096, None))
attempt("memfd", lambda: os.memfd_create("hidden"))
attempt("shmget", lambda: libc.shmget(0, 2**20, 0o1600))
attempt("msgget", lambda: libc.msgget(0, 0o1600))
attempt("shared pages", lambda: mmap.mmap(-1, 2**20))
attempt("zero pages", lambda: mmap.mmap(os.open("/dev/zero", os.O_RDWR), 2**20))
attempt("ptrace", lambda: libc.ptrace(16, 1, 0, 0))
attempt("root", lambda: os.setuid(0) or 1)
attempt("groups", lambda: os.setgroups([0]) or 1)
attempt("device", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(254, 0)) or 1)
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("vsock, high bits", lambda: libc.syscall({"x86_64": 41, "aarch64": 198}[platform.machine()],
                                                 ctypes.c_long(40 | 1 << 32), 1, 0))  # fmt: skip
status = Path("/proc/self/status").read_text()
attempt("capabilities", lambda: int(status.split("CapEff:")[1].split()[0], 16) or None)
Path(sys.argv[-1]).write_text(json.dumps(found))
