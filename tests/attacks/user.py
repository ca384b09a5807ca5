"""An unprivileged grader with a home of mode 0700, in which a Python and the practicum's modules lie."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from practicum import ROOT
from practicum.semester.boxed import Left
from practicum.semester.sandbox import BoxLimits, Outcome, outcome

LIB = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
UNNEEDED = ("site-packages", "test", "tests", "__pycache__", "config-*", "idlelib", "ensurepip", "lib2to3", "tkinter")


class User:
    """The grader; made by root, whose own mode of the box is tested without it."""

    uid = 64321

    def __init__(self, home: Path) -> None:
        self.home = home
        python = Path(sys.executable).resolve()
        home.chmod(0o755)
        if not self.can_run(python):  # it lies in another's home
            python = self._copy(python)
        made = self.call([str(python), "-m", "venv", "--without-pip", str(home / "venv")])
        if made.returncode:
            pytest.skip(f"no Python for an unprivileged user: {made.stderr[-300:]}")
        site = home / "venv" / LIB / "site-packages/practicum"
        for module in ("__init__", "semester/__init__", "semester/boxed", "semester/bubble"):
            (site / module).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / f"practicum/{module}.py", site / f"{module}.py")
        (site / "results.py").write_text("")
        shutil.copy(Path(__file__).parent / "grader.py", home)
        self.own()
        home.chmod(0o700)

    def _copy(self, python: Path) -> Path:
        base, ours = Path(sys.base_prefix), self.home / "base"
        shutil.copytree(base / LIB, ours / LIB, ignore=shutil.ignore_patterns(*UNNEEDED))
        for library in (base / "lib").glob("libpython3*.so*"):
            shutil.copy(library, ours / "lib", follow_symlinks=False)
        (ours / "bin").mkdir()
        shutil.copy(python, ours / "bin")
        self.own()
        return ours / "bin" / python.name

    def can_run(self, python: Path) -> bool:
        """Say whether this Python is within the user's reach."""
        try:
            return self.call([str(python), "-c", "import venv"]).returncode == 0
        except PermissionError:
            return False

    def own(self, place: Path | None = None) -> None:
        """Give the user a folder, or its whole home, with all that lies in it."""
        place = place or self.home
        for path in [place, *place.rglob("*")]:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def call(self, line: list[str]) -> subprocess.CompletedProcess:
        """Run a command as the user."""
        env = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        return subprocess.run(line, capture_output=True, text=True, cwd="/", env=env, user=self.uid, group=self.uid,
                              extra_groups=[])  # fmt: skip

    def run(self, folder: Path, seed: int, limits: BoxLimits, packages: list[Path]) -> Outcome:
        """Run a box as the user, and read what it left as we read our own."""
        with tempfile.TemporaryDirectory(dir=self.home) as place:
            mine = shutil.copytree(folder, Path(place) / "g01")
            shown = [str(shutil.copytree(path, Path(place) / path.name)) for path in packages]
            self.own(Path(place))
            arguments = [str(mine), str(seed), json.dumps(vars(limits)), json.dumps(shown)]
            told = self.call([str(self.home / "venv/bin/python"), str(self.home / "grader.py"), *arguments])
        assert told.returncode == 0, told.stderr
        left: dict[str, Any] = json.loads(told.stdout)
        assert "error" not in left, left
        raw = {name: left[name].encode("latin-1") for name in ("stderr", "content")}
        return outcome(Left(**{**left, **raw}), seed, limits)
