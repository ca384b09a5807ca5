"""The play: a semester from the catalogue to the gradebook, by the commands that a real one takes."""

import shutil
from hashlib import sha256
from pathlib import Path

import typer

from practicum import PracticumError
from practicum.demo import fill
from practicum.demo.cast import HERE, WORKS, B, R, S, Work
from practicum.demo.marks import METHOD, OWN, all_scores
from practicum.demo.stage import Stage
from practicum.results import write_whole
from practicum.semester.drop import latest, submissions
from practicum.semester.people import load_groups
from practicum.semester.plan import PLAN, Semester
from practicum.semester.sandbox import SandboxError, choose
from practicum.semester.scores import find_leaf, score

MARKER = ".practicum-demo"  # a folder that holds it is ours to remove
CHANGES = {  # what the lecturer changes in the plan that `init` wrote
    "# capacity: {bao2020regularized: 3}        # how": f"capacity: {{{R}: 3, {B}: 4, {S}: 4}}   # how",
    "# extensions:    ": "extensions:    ",
    "#   - {group: g07, deliverable: midterm, until: 2027-06-08 23:59, reason: illness}":
        "  - {group: g02, deliverable: midterm, until: 2027-06-08 23:59, reason: illness}",
}  # fmt: skip


def play(folder: Path, transcript: Path | None = None, force: bool = False, unsafe_local: bool = False) -> Stage:
    """Play the whole semester in `folder`; give the stage, which knows how long each act took."""
    _empty(folder, force)
    stage = Stage(folder, transcript)
    box = _isolation(unsafe_local)
    _plan(stage)
    _groups(stage)
    _kits(stage, box)
    _midterm(stage, box)
    _similar(stage)
    _final(stage, box)
    _scores(stage)
    _end(stage)
    return stage


def _empty(folder: Path, force: bool) -> None:
    """Make the folder, or empty one that an earlier play has left."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / MARKER).is_file():
            raise PracticumError(f"{folder}: is there and is not the demonstration's (choose another folder)")
        if not force:
            raise PracticumError(f"{folder}: holds an earlier demonstration (--force plays it anew)")
        shutil.rmtree(folder)
    write_whole(folder / MARKER, "Written by `practicum demo`, which may remove this folder.\n")


def _isolation(unsafe_local: bool) -> list[str]:
    try:
        choose(unsafe_local)
    except SandboxError as error:
        typer.echo(f"{error}\nThe demonstration knows its programs and goes on without isolation.", err=True)
        unsafe_local = True
    return ["--unsafe-local"] if unsafe_local else []


def _plan(stage: Stage) -> None:
    with stage.act("papers", "The lecturer looks at the catalogue"):
        stage.tell("Which papers are there, and how many groups can take each?")
        stage.run("papers")
    with stage.act("init", "The lecturer begins a semester"):
        stage.tell("One file holds all that is to be decided.")
        stage.run("init", ".")
        path = stage.folder / PLAN
        text = path.read_text(encoding="utf-8")
        for old, new in CHANGES.items():
            assert old in text, f"the template of {PLAN} has no {old!r} any more"
            text = text.replace(old, new)
        write_whole(path, text)
        stage.tell("In it we set the capacities of three papers, and an extension for g02, where someone is ill.")
        # a real semester draws its secret; this one is always the same, so that the hidden seeds are
        (stage.folder / "private").mkdir(mode=0o700)
        write_whole(stage.folder / "private/secret", sha256(b"practicum demo").hexdigest() + "\n")


def _groups(stage: Stage) -> None:
    for name in ("export.csv", "wishes.csv", "peers.csv"):
        shutil.copyfile(HERE / name, stage.folder / name)
    with stage.act("groups", "Groups are formed"):
        stage.tell("The matching system's export has a title, semicolons, a byte order mark, blanks and a double row.")
        stage.run("groups", "export.csv")
    with stage.act("allot", "Papers are allotted"):
        stage.tell("The groups have ranked papers in wishes.csv. Too many want the same one.")
        stage.run("allot", "--explain")


def _kits(stage: Stage, box: list[str]) -> None:
    with stage.act("start", "Groups get their starter kits"):
        stage.tell("One kit a group and paper. It runs from the first minute and says what is open.")
        stage.run("start")
        stage.run("check", WORKS[0].kit, *box, code=1)
    with stage.act("check", "Groups work"):
        first = WORKS[0]
        stage.tell("g01 has written its program. The check runs the public seeds and says what can be stated.")
        fill.write_program(stage.folder, first)
        stage.run("check", first.kit, *box)
        stage.tell("It states each claim with its number, and checks once more.")
        fill.write_claims(stage.folder, first)
        fill.write_report(stage.folder, first)
        stage.run("check", first.kit, *box)
    with stage.act("others", "The others work, too"):
        for work in WORKS[1:]:
            fill.write_program(stage.folder, work)
            stage.quietly("check", work.kit, *box)
            fill.write_claims(stage.folder, work)
            fill.write_report(stage.folder, work)


def _midterm(stage: Stage, box: list[str]) -> None:
    in_order = sorted(WORKS, key=lambda work: work.received)
    first, late = in_order[0], next(work for work in in_order if work.group == "g03")
    with stage.act("submit", "The midterm's reports are handed in"):
        stage.tell("g01 is in time, and verifies its receipt.")
        _hand_in(stage, first, show=True)
        stage.run("receipt", f"{first.kit}/receipts/midterm-0001.json")
        for work in in_order[1:]:
            if work is late:
                stage.tell("g03 is late, by more than a day.")
            _hand_in(stage, work, show=work is late)
    with stage.act("rerun", "Everything is run again, on hidden seeds"):
        stage.tell("Each program in a box of its own. What fails touches no other.")
        with stage.at("2027-06-09 08:00"):
            stage.run("rerun", "--for", "midterm", "--jobs", "2", *box)
    with stage.act("status", "Where we stand"), stage.at("2027-06-09 09:00"):
        stage.run("status")
        stage.tell("g02 is honest about what its small setting does not show; g04 is not.")
        stage.run("status", "--group", "g02")
        stage.run("status", "--group", "g04")


def _hand_in(stage: Stage, work: Work, show: bool) -> None:
    with stage.at(work.received):
        (stage.run if show else stage.quietly)("submit", work.kit, "--for", "midterm")


def _similar(stage: Stage) -> None:
    with stage.act("similar", "Are there copies?"):
        stage.tell("g04 has renamed g02's variables. The honest groups use the worked examples, which are public.")
        stage.run("similar")


def _final(stage: Stage, box: list[str]) -> None:
    works = [work for work in WORKS if work.extension]
    with stage.act("final", "Extensions are handed in and run again"):
        stage.tell("Three groups have tested a hypothesis of their own.")
        for work in works:
            fill.write_extension(stage.folder, work)
            stage.quietly("check", work.kit, *box)
            fill.state_extension(stage.folder, work)
            with stage.at("2027-07-15 18:00"):
                (stage.run if work is works[0] else stage.quietly)("submit", work.kit, "--for", "final")
        with stage.at("2027-07-20 08:00"):
            stage.run("rerun", "--for", "final", *box)


def _scores(stage: Stage) -> None:
    with stage.act("score", "Two graders score"):
        s = Semester(stage.folder)
        counting = latest(submissions(s.drop))
        students = {group.id: [student.id for student in group.students] for group in load_groups(s).values()}
        with stage.at("2027-07-23 10:00"):
            for name, target, points, reason, who in all_scores(students):
                leaf = find_leaf(s, name)
                work = counting.get((target[0], target[1], leaf.due))
                score(s, who, leaf, target, points, reason, work.snapshot if work else "")
        stage.tell("Most scores were entered at the desk. One is changed, after g01 has answered.")
        with stage.at("2027-07-24 14:00"):
            _score(stage, "theory", "3", "g01", B, "The step that was missing is in the appendix; I had not seen it.")
        stage.tell("What the machine computed for the copy is overridden, with a reason.")
        with stage.at("2027-07-24 15:00"):
            for check in ("runs", "matches", "consistent"):
                _score(stage, check, "0", "g04", R, OWN[METHOD, "g04", R], show=check == "matches")


def _score(stage: Stage, leaf: str, points: str, group: str, paper: str, reason: str, show: bool = True) -> None:
    arguments = ["score", leaf, points, "--group", group, "--paper", paper, "--reason", reason, "--who", "amara"]
    (stage.run if show else stage.quietly)(*arguments)


def _end(stage: Stage) -> None:
    with stage.at("2027-07-26 09:00"):
        with stage.act("gradebook", "The gradebook"):
            stage.tell("One student was ill on the day of the presentation: her grade is incomplete, and not a 5.0.")
            stage.run("gradebook")
        with stage.act("feedback", "Feedback"):
            stage.run("feedback")
        with stage.act("audit", "The records are verified"):
            stage.run("audit", "--receipts")
    total = sum(stage.seconds.values())
    shown = ", ".join(f"{name} {seconds:.0f}" for name, seconds in stage.seconds.items() if seconds >= 1)
    typer.echo(f"\nThe semester took {total:.0f} s ({shown}). To look at:")
    for name in ("gradebook.csv", "feedback/g01.html", "feedback/g02.html", "feedback/g04.html"):
        typer.echo(f"  {_short(stage.folder / name)}")
    typer.echo(f"  the grading desk: practicum desk --semester {_short(stage.folder)}")


def _short(path: Path) -> str:
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()
