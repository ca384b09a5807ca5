"""Try what targets.json lists; write 1 for what worked: reads, writes, connections, signals, secrets."""

import json
import os
import socket
import sys
from pathlib import Path

targets = json.loads(Path("targets.json").read_text())
found = {}


def attempt(name, action):
    name = ascii(name[-90:])  # keys are short and can be printed
    try:
        action()
        found[name] = 1
    except (OSError, AssertionError, ImportError):
        found[name] = 0


def look(path):
    assert Path(path).read_bytes()


def put(path):
    if os.path.isdir(path):  # not one that it could make
        path = os.path.join(path, "planted")
        Path(path).write_bytes(b"")
    with open(path, "r+b") as file:
        file.write(b"planted")


def connect(address):
    family = socket.AF_INET if isinstance(address, list) else socket.AF_UNIX
    with socket.socket(family) as mine:
        mine.settimeout(1)
        mine.connect(tuple(address) if isinstance(address, list) else address)


def secrets():
    assert "SECRET" in os.environ or b"SECRET" in Path("/proc/1/environ").read_bytes()


for path in targets["read"]:
    attempt(f"read {path}", lambda path=path: look(path))
for path in targets["write"]:
    attempt(f"write {path}", lambda path=path: put(path))
for address in targets["connect"]:
    attempt(f"connect {address}", lambda address=address: connect(address))
attempt("signal", lambda: os.kill(targets["pid"], 0))
attempt("trace", lambda: look(f"/proc/{targets['pid']}/cmdline"))
attempt("environment", secrets)
attempt("practicum", lambda: __import__("practicum.results"))
Path(sys.argv[-1]).write_text(json.dumps(found))
