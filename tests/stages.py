"""All that CI checks, stage by stage, and where the time went (`make test`).

A failing stage does not hide the later ones; the exit code is 1 if any failed.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BOOK = shutil.which("jupyter-book", path=str(Path(PYTHON).parent)) or "jupyter-book"
PYTEST = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
NBVAL = [*PYTEST, "--nbval-current-env", "--nbval-cell-timeout=300", "-n", "2", "--dist", "loadfile"]


def notebooks(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def stages() -> list[tuple[str, list[str]]]:
    """Name and command of each stage; a function, since the book's stage makes notebooks for a later one."""
    return [
        ("debian", [PYTHON, "tests/stages.py", "--debian"]),
        ("style", [PYTHON, "-m", "ruff", "check", "."]),
        ("types", [PYTHON, "-m", "mypy"]),
        ("cards", [PYTHON, "-m", "practicum", "cards"]),
        ("labs made", [PYTHON, "solutions/build.py", "--check"]),
        ("book", [BOOK, "build", ".", "-n", "-W", "--keep-going"]),
        ("unit tests", [*PYTEST, "-n", "2", "--dist", "worksteal", "-m", "not browser", "tests"]),
        ("solutions", [*NBVAL, "--nbval", *notebooks("solutions/*.ipynb")]),
        ("labs", [*NBVAL, "--nbval-lax", *notebooks("labs/*.ipynb")]),
        ("chapters", [*NBVAL, "--nbval", *notebooks("_build/jupyter_execute/book/*.ipynb")]),
        ("browser", [*PYTEST, "-m", "browser", "tests"]),
    ]  # fmt: skip


def debian() -> int:
    """Install Debian's chromium and bubblewrap where they are missing and we may; else say which tests are skipped."""
    needed = {"chromium": ("chromium", "browser"), "bwrap": ("bubblewrap", "sandbox")}
    missing = {package: tests for program, (package, tests) in needed.items() if not shutil.which(program)}
    if not missing:
        return 0
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        for package, tests in missing.items():
            print(f"no {package} and no right to install it: {tests} tests will be skipped (apt-get install {package})")
        return int(os.environ.get("CI") == "true")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    return (
        subprocess.run(["apt-get", "update", "-qq"], env=quiet).returncode
        or subprocess.run(install, env=quiet).returncode
    )


def main() -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    spent: list[tuple[str, float, bool]] = []
    for i in range(len(stages())):
        name, command = stages()[i]
        print(f"\n== {name}: {' '.join(command[1:])[:150]}", flush=True)
        start = time.perf_counter()
        good = subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
        spent.append((name, time.perf_counter() - start, good))
    print("\n== where the time went")
    for name, seconds, good in spent:
        print(f"  {name:12} {seconds:6.0f} s  {'ok' if good else 'FAILED'}")
    print(f"  {'all':12} {sum(seconds for _, seconds, _ in spent):6.0f} s")
    return int(not all(good for _, _, good in spent))


if __name__ == "__main__":
    sys.exit(debian() if "--debian" in sys.argv else main())
