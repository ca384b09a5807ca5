"""Programs that attack (tests/attacks): what each reaches, what it costs us, and what we say of it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

if sys.platform == "win32":
    pytest.skip("bubblewrap is Linux's", allow_module_level=True)

from attacks.user import LIB, User

from practicum import ROOT
from practicum.semester import sandbox
from practicum.semester.sandbox import BoxLimits, Outcome, SandboxError, choose, run_in_box

ATTACKS = Path(__file__).parent / "attacks"
SEED = 900_000_000 + os.getpid()  # by which we find our own processes, whatever other workers run
MARK = f"97.{os.getpid()}"
WRITE = "\nimport json, sys\njson.dump(values, open(sys.argv[-1], 'w'))\n"
HONEST = "values = {'tail': 1.5, 'errors': [3, 2, 1]}" + WRITE
SLEEP = "import time; time.sleep(100)"
Box = Callable[..., Outcome]


def attack(name: str) -> str:
    return (ATTACKS / f"{name}.py").read_text()


def small(**changed: float) -> BoxLimits:
    fields = {"seconds": 10, "memory_mb": 200, "processes": 20, "file_mb": 10, "folder_mb": 20, **changed}
    return BoxLimits(**fields)  # type: ignore[arg-type]


def submission(folder: Path, program: str, files: dict[str, str] | None = None) -> Path:
    for name, text in {"reproduce.py": program, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def running(word: str) -> list[psutil.Process]:
    found = [p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or [])]
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def soon(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


@pytest.fixture(scope="module")
def bubblewrap() -> None:
    """Bubblewrap works here, for whoever runs the tests."""
    try:
        choose()
    except SandboxError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def user(bubblewrap: None) -> Iterator[User]:
    """An unprivileged grader."""
    if os.geteuid():
        pytest.skip("the tests run as an unprivileged user already")
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        yield User(home)
    finally:
        shutil.rmtree(home)


@pytest.fixture(params=["myself", "unprivileged"])
def grader(request: pytest.FixtureRequest, bubblewrap: None) -> User | None:
    """Whoever starts the boxes: None is whoever runs the tests (root in CI)."""
    return request.getfixturevalue("user") if request.param == "unprivileged" else None


@pytest.fixture
def box(grader: User | None, tmp_path: Path) -> Box:
    """Run a program in a box."""

    def run(
        program: str, files: dict[str, str] | None = None, packages: list[Path] | None = None, **limits: float
    ) -> Outcome:
        folder = submission(tmp_path / "drop/g01", program, files)
        if grader:
            return grader.run(folder, SEED, small(**limits), packages or [])
        return run_in_box("bubblewrap", folder, SEED, small(**limits), packages or [])

    return run


@pytest.fixture
def here(tmp_path: Path) -> Box:
    """Run a program without isolation."""

    def run(program: str, files: dict[str, str] | None = None, **limits: float) -> Outcome:
        return run_in_box("unsafe-local", submission(tmp_path / "drop/g01", program, files), SEED, small(**limits))

    return run


@pytest.fixture
def laws(tmp_path: Path) -> Path:
    """A package of ours."""
    folder = tmp_path / "laws"
    folder.mkdir()
    (folder / "__init__.py").write_text("EDGE = 2\n")
    return folder


def test_values_come_out(box: Box, laws: Path) -> None:
    program = (
        "import argparse, laws, pathlib\nparser = argparse.ArgumentParser()\n"
        "for name in ('--seed', '--scale', '--out'): parser.add_argument(name)\n"
        "args = parser.parse_args()\npathlib.Path('figure.svg').write_text('drawn')\n"
        "values = {'seed': int(args.seed), 'edge': laws.EDGE, 'read': len(open('data.csv').read()),"
        " 'laptop': float(args.scale == 'laptop'), 'drawn': float(pathlib.Path('figure.svg').exists())}"
    )
    found = box(program + WRITE, {"data.csv": "1,2,3"}, [laws])
    assert found.values == {"seed": SEED, "edge": 2, "read": 5, "laptop": 1, "drawn": 1}, found
    assert found.problem is None
    assert 0 < found.seconds < 10


@pytest.fixture
def targets(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What the grader itself can reach: files, listeners on a TCP, an abstract and a named socket, a process."""
    grader = request.getfixturevalue("grader") if "grader" in request.fixturenames else None
    monkeypatch.setenv("SECRET", "hidden")
    monkeypatch.setenv("GRADER_TOKEN", "hidden")
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    home = Path(tempfile.mkdtemp(dir=grader.home)) if grader else tmp_path
    files = [submission(place, "secret"), submission(home, "secret"), submission(home / "drop/g02", "secret")]
    addresses = [("127.0.0.1", 0), f"\0practicum-{os.getpid()}", str(place / "socket")]
    listeners = [socket.socket(socket.AF_UNIX if isinstance(at, str) else socket.AF_INET) for at in addresses]
    for listener, address in zip(listeners, addresses, strict=True):
        listener.bind(address)
        listener.listen()
    for path in (place, place / "socket"):
        path.chmod(0o777)
    if grader:
        grader.own(home)
    process = subprocess.Popen(["sleep", "60"], user=grader.uid if grader else None)
    yield {
        "read": [str(folder / "reproduce.py") for folder in files],
        "write": [str(folder) for folder in files],
        "connect": [list(listeners[0].getsockname()), *addresses[1:]],
        "pid": process.pid,
    }
    process.kill()
    process.wait()
    for listener in listeners:
        listener.close()
    shutil.rmtree(place)


def test_nothing_outside_is_reached(box: Box, targets: dict[str, Any], laws: Path, tmp_path: Path) -> None:
    targets["read"] += ["/etc/shadow", "/etc/passwd", str(ROOT / "pyproject.toml"), str(ROOT / "practicum/cards.py")]
    targets["write"] += ["/", "/dev", "/etc", "/usr/bin", "/usr/lib", "/packages", "/packages/laws", "/proc/sys"]
    targets["write"] += ["/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", f"{sys.prefix}/bin", os.__file__]
    found = box(attack("reach"), {"targets.json": json.dumps(targets)}, [laws])
    assert found.values, found
    assert {name for name, worked in found.values.items() if worked} == set()
    assert len(found.values) == sum(len(set(map(str, targets[name]))) for name in ("read", "write", "connect")) + 4
    assert not list(tmp_path.rglob("planted"))


def test_the_same_program_reaches_the_targets_without_a_box(here: Box, targets: dict[str, Any]) -> None:
    found = here(attack("reach"), {"targets.json": json.dumps(targets)})
    assert found.values, found
    assert {name for name, worked in found.values.items() if not worked} <= {"'practicum'"}  # if it is not installed


def test_no_other_file_is_there(box: Box, grader: User | None, laws: Path) -> None:
    prefixes = [grader.home / "venv", grader.home / "base"] if grader else [Path(sys.prefix), Path(sys.base_prefix)]
    known = [f"{p}/{name}" for p in [*prefixes, "/usr/local", "/usr", ""] for name in ("bin/", "lib", "pyvenv.cfg")]
    known += ["/usr/bin", "/bin", "/usr/share", "/proc", "/dev/", "/packages/laws", "/tmp/work/"]
    known += [f"/etc/{name}" for name in ("ld.so.cache", "alternatives", "localtime")]
    found = box(attack("walk"), {"targets.json": json.dumps(known)}, [laws])
    assert found.values
    assert found.values["outside"] == 0, found.stderr
    assert found.values["places"] > 5


def test_the_kernel_gives_nothing(box: Box) -> None:
    found = box(attack("kernel"))
    assert found.values, found
    assert {name for name, worked in found.values.items() if worked} == set()
    assert len(found.values) == 18


def test_the_snapshot_stays_as_it_is(box: Box, tmp_path: Path) -> None:
    program = "open('reproduce.py', 'w').write('changed')\nvalues = {'x': 1}" + WRITE
    assert box(program).values == {"x": 1}
    assert (tmp_path / "drop/g01/reproduce.py").read_text() == program
    assert os.listdir(tmp_path / "drop/g01") == ["reproduce.py"]


def test_a_fork_bomb_ends_with_the_run(box: Box) -> None:
    found = box(attack("forks"), processes=15)
    assert found.values, found
    assert 5 <= found.values["children"] <= 15  # type: ignore[operator]


LARGE = "x = bytearray(10**9)\nx[::1000] = b'1' * 10**6\n" + SLEEP


@pytest.mark.parametrize("program", [LARGE, "x = bytearray(10**11)", attack("spread")], ids=["one", "mapped", "spread"])
def test_memory_is_limited_over_all_processes(box: Box, program: str) -> None:
    found = box(program)
    assert found.problem == "ran out of memory (limit 200 MB)", found
    assert found.seconds < 6


def test_memory_that_forks_share_counts_once(box: Box) -> None:
    assert box(attack("shared")).values == {"x": 1}


def test_daemons_die(box: Box) -> None:
    assert box(attack("daemon"), {"mark.txt": MARK}).values == {"x": 1}
    assert not running(MARK)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("open('big', 'wb').write(bytes(15_000_000))", "[Errno 27] File too large"),
        ("for i in range(9): open(f'/tmp/{i}', 'wb').write(bytes(5_000_000))", "[Errno 28] No space left on device"),
        ("i = 0\nwhile True: i += 1; open(f'/tmp/{i}', 'w').close()", "wrote more than 20000 files"),
        (attack("sockets"), "opened more than 500 sockets"),
    ],
    ids=["file", "folder", "many", "sockets"],
)
def test_neither_disk_nor_kernel_is_filled(box: Box, program: str, problem: str) -> None:
    assert problem in (box(program).problem or "")


def test_a_snapshot_that_does_not_fit(box: Box) -> None:
    found = box(HONEST, {"data.txt": "x" * 3_000_000}, folder_mb=2)
    assert found.problem == "does not fit into its scratch folder (limit 2 MB)"


@pytest.mark.parametrize("deaf", ["", "import signal\nfor s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\n"])
def test_time_is_limited(box: Box, deaf: str) -> None:
    found = box(deaf + SLEEP, seconds=1)
    assert found.problem == "took longer than 1 s"
    assert found.seconds < 5
    assert not running(str(SEED))


def tell(text: str, mode: str = "w") -> str:
    return f"import sys; open(sys.argv[-1], {mode!r}).write({text})"


NO_JSON = "wrote no flat JSON: "
OUTPUTS = {
    "": "wrote no out.json",
    "import os; os._exit(0)": "wrote no out.json",
    "print('{\"tail\": 1}')": "wrote no out.json",
    "open('out.json', 'w').write('{\"tail\": 1}')": "wrote no out.json",
    "import ctypes; ctypes.string_at(0)": "was ended by SIGSEGV",
    "import os; os.kill(os.getpid(), 9)": "was ended by SIGKILL",
    "import sys; raise ValueError('of seed %s\\x1b[2J' % sys.argv[2])": "1: ValueError: of seed [seed] [2J",
    "import sys; sys.exit(3)": "ended with exit code 3: it said nothing",
    "import os, sys; os.symlink('/proc/self/environ', sys.argv[-1])": "its output is a symbolic link",
    "import os, sys; os.mkfifo(sys.argv[-1])": "its output is no regular file",
    "import socket, sys; socket.socket(1).bind(sys.argv[-1])": "its output is no regular file",
    "import os, sys; os.mkdir(sys.argv[-1])": "its output is a folder",
    tell("''"): NO_JSON + "Expecting value: line 1 column 1 (char 0)",
    tell("""'{"a": NaN}'"""): NO_JSON + "key 'a' holds nan, not a finite number",
    tell("""'{"a": [1, -Infinity]}'"""): NO_JSON + "key 'a' holds -inf, not a finite number",
    tell("""'{"a": 1e999}'"""): NO_JSON + "key 'a' holds inf, not a finite number",
    tell("""'{"a": 1, "a": 2}'"""): NO_JSON + "a key is there twice",
    tell("""'{"a": {"b": 1}}'"""): NO_JSON + "key 'a' holds {'b': 1}, not a number or a list of numbers",
    tell("""'{"a": true}'"""): NO_JSON + "key 'a' holds True, not a number or a list of numbers",
    tell(r"""'{"a\\ud800": 1}'"""): NO_JSON + "a key is longer than 100 characters, or has some that cannot be printed",
    tell("'[1]'"): NO_JSON + "it is no JSON object of keys and numbers",
    tell(r"""b'{"a\xff": 1}'""", "wb"): NO_JSON + "it is no UTF-8",
    tell("""'{"a": 1' + '0' * 400 + '}'"""): "not a finite number",
    tell("""'{"a": 1' + '0' * 5000 + '}'"""): NO_JSON + "it holds a number of too many digits",
    tell("""'{"a":' + '[' * 10**5"""): NO_JSON + "it is nested too deep",
    tell("""str({str(i): i for i in range(2000)}).replace("'", '"')"""): NO_JSON + "it has 2000 keys (limit 1000)",
}
FILLED = {
    tell("'1' * 2_000_000"): NO_JSON + "it is longer than 1000 kB",
    "values = {str(i): i for i in range(10**6)}" + WRITE: "[Errno 27] File too large",
    "import os, sys; os.truncate(open(sys.argv[-1], 'w').name, 10**9)": "[Errno 27] File too large",
    "import os, sys; os.link('/dev/urandom', sys.argv[-1])": "ended with exit code 1: OSError",
}


def test_every_other_output_has_its_clause(box: Box) -> None:
    told = {program: problem for program, problem in OUTPUTS.items() if NO_JSON not in problem}  # those: below
    for program, problem in {**told, **FILLED}.items():
        found = box(program)
        assert found.values is None
        assert problem in (found.problem or ""), (program, found)
        assert str(SEED) not in (found.problem or "")
        assert "\x1b" not in f"{found.problem}{found.stderr}"


def test_the_same_clauses_without_a_box(here: Box) -> None:
    for program, problem in OUTPUTS.items():
        assert problem in (here(program).problem or ""), program


def test_our_pipe_and_shell_as_targets(box: Box) -> None:
    flood = "import os\nshell = f'/proc/{os.getppid()}/fd/1'\n"
    flood += "for i in range(50): open(shell, 'w').write('%s' * 100_000)\n"
    for text in ("0 file\\n{}", "rubbish", "\\n", "999999999999 file\\n"):
        found = box(flood % text)
        assert found.values is None, text
        assert "wrote" in (found.problem or "") or found.problem == "left no exit code", found
    for target in ("-1", "os.getppid()"):
        assert box(f"import os, time; os.kill({target}, 9); time.sleep(9)").problem == "left no exit code"
    assert box("import os\ntry: os.kill(1, 9)\nexcept OSError: pass\n" + HONEST).values


def test_floods_of_stderr_and_stdout(box: Box) -> None:
    program = "import sys\nfor i in range(2000): sys.stderr.write('e' * 10**5); sys.stdout.write('o' * 10**5)\n"
    before = psutil.Process().memory_info().rss
    found = box(program + "sys.stderr.write('the end')\n" + HONEST)
    assert found.values == {"tail": 1.5, "errors": [3, 2, 1]}
    assert found.stderr.endswith("the end")
    assert len(found.stderr) <= 4000
    assert psutil.Process().memory_info().rss - before < 50_000_000


def test_shadows_of_modules_mislead_their_own_program_alone(box: Box) -> None:
    fake = "def dump(values, file): file.write('{\"tail\": 3}')\n"
    files = {name: "1 / 0" for name in ("numpy.py", "sitecustomize.py", "usercustomize.py")}
    files |= {f"{name}/__init__.py": "EDGE = 3" for name in ("phenomena", "practicum")}
    program = "import phenomena, practicum\nvalues = {'edge': phenomena.EDGE}" + WRITE
    assert box(program, files).values == {"edge": 3}
    assert box(program, {**files, "json.py": fake}).values == {"tail": 3}


def test_several_at_once_with_a_user_of_their_own_each(bubblewrap: None, tmp_path: Path) -> None:
    program = "import os, sys, time\ntime.sleep(0.5)\nvalues = {'user': os.getuid(), 'seed': int(sys.argv[2])}"
    folder = submission(tmp_path, program + WRITE)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: run_in_box("bubblewrap", folder, seed, small()), range(4)))
    assert [run.values["seed"] for run in found if run.values] == [0, 1, 2, 3]
    if os.geteuid() == 0:
        users = {run.values["user"] for run in found if run.values}
        assert len(users) == 4
        assert min(users) > 65536  # type: ignore[type-var, operator]


def test_cancelling_ends_every_run_at_once(bubblewrap: None, tmp_path: Path) -> None:
    folder, cancel = submission(tmp_path, SLEEP), threading.Event()
    threading.Timer(0.5, cancel.set).start()
    start = time.monotonic()
    hows: list[sandbox.How] = ["bubblewrap", "bubblewrap", "unsafe-local"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda how: run_in_box(how, folder, SEED, small(), (), cancel), hows))
    assert [run.problem for run in found] == ["was interrupted"] * 3
    assert time.monotonic() - start < 4
    assert not running(str(SEED))


@pytest.mark.parametrize("signal", [9, 2])
def test_no_program_survives_its_grader(grader: User | None, tmp_path: Path, signal: int) -> None:
    place = Path(tempfile.mkdtemp(dir=grader.home)) if grader else tmp_path
    folder = submission(place / "g01", attack("daemon"), {"mark.txt": MARK, "sleep.txt": ""})
    line = [sys.executable, str(ATTACKS / "grader.py")]
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    if grader:
        grader.own(place)
        line = [str(grader.home / "venv/bin/python"), str(grader.home / "grader.py")]
        options = {"user": grader.uid, "group": grader.uid, "extra_groups": [], "cwd": "/"}
    line += [str(folder), "1", '{"seconds": 60, "memory_mb": 100}', "[]"]
    killed = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    assert soon(lambda: bool(running(MARK)))
    killed.send_signal(signal)
    killed.wait(5)
    assert soon(lambda: not running(MARK))


def test_a_desktop_user_with_many_threads_can_run(user: User, tmp_path: Path) -> None:
    threads = (
        "import threading, time\nfor i in range(150): threading.Thread(target=time.sleep, args=(30,)).start()\n"
        "print(1, flush=True)"
    )
    line = [str(user.home / "venv/bin/python"), "-c", threads]
    with subprocess.Popen(line, user=user.uid, cwd="/", stdout=subprocess.PIPE) as desktop:
        try:
            assert desktop.stdout
            assert desktop.stdout.read(1) == b"1"
            assert user.run(submission(tmp_path, HONEST), SEED, small(processes=10), []).values
        finally:
            desktop.kill()


def test_practicum_beside_the_libraries_is_hidden(user: User, tmp_path: Path) -> None:
    beside = user.home / "venv" / LIB / "site-packages/practicum/results.py"
    assert user.call(["cat", str(beside)]).returncode == 0
    found = user.run(submission(tmp_path, f"open({str(beside)!r})"), SEED, small(), [])
    assert "PermissionError" in (found.problem or "")


def test_the_libraries_work_in_a_box(bubblewrap: None, tmp_path: Path) -> None:
    limits = BoxLimits(seconds=60, memory_mb=2048)
    found = run_in_box("bubblewrap", submission(tmp_path, attack("libraries")), 0, limits, [ROOT / "phenomena"])
    assert found.values == {"torch": 2500, "scipy": 2, "sklearn": 2, "pool": 6, "joblib": 3, "shared": 7}, found


def test_without_a_box_time_and_children_end_too(here: Box) -> None:
    found = here(f"import os, time\nif os.fork() == 0: os.execlp('sleep', 'sleep', '{MARK}')\n" + SLEEP, seconds=1)
    assert found.problem == "took longer than 1 s"
    assert soon(lambda: not running(MARK))
    assert here(HONEST).values == {"tail": 1.5, "errors": [3, 2, 1]}


def test_a_folder_without_a_program(tmp_path: Path) -> None:
    assert run_in_box("bubblewrap", tmp_path, 0, small()).problem == "holds no reproduce.py"


@pytest.fixture
def _anew() -> Iterator[None]:
    sandbox._obstacle.cache_clear()
    yield
    sandbox._obstacle.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_a_machine_without_bubblewrap_is_told_the_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=r"bubblewrap is missing .*apt-get install bubblewrap.*--unsafe-local"):
        choose()
    assert choose(unsafe_local=True) == "unsafe-local"


@pytest.mark.usefixtures("_anew")
def test_a_bubblewrap_that_may_not_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="cannot start a box: bwrap: setting up uid map: Permission denied"):
        choose()


def test_a_snapshot_among_what_every_program_sees_is_refused(bubblewrap: None) -> None:
    with pytest.raises(SandboxError, match="move the semester elsewhere"):
        sandbox.boxed.run(Path(os.__file__).parent / "json", 0, small())
