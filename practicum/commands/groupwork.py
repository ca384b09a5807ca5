"""Commands of the groups: the starter kit, the check, handing in, and the receipt; and the semester's beginning."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from practicum import ROOT, PracticumError
from practicum.app import COLOURS, Errors, Root, SemesterOption, app, plain_table, print_table
from practicum.cards import Card
from practicum.reading import read
from practicum.results import dumps, write_whole
from practicum.semester.drop import DropError, copy, kit_claims, load_public, manifest, submit, verify
from practicum.semester.evidence import Evidence, Row, spread, table, two_digits
from practicum.semester.kit import start as start_kit
from practicum.semester.people import load_groups
from practicum.semester.plan import PLAN, Semester, SemesterError
from practicum.semester.rerun import box_limits, run_folder
from practicum.semester.sandbox import BoxLimits, How, SandboxError, choose

KitArgument = Annotated[Path, typer.Argument(help="The kit's folder.", show_default="the current one", metavar="[KIT]")]
DropOption = Annotated[Path | None, typer.Option("--drop", help="The drop folder.", show_default="the semester's")]
TEMPLATE = Path(__file__).parents[1] / "templates" / PLAN


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder for the semester.")]) -> None:
    """Begin a semester: write its plan, semester.yml, with dates, limits, policies and rubric to adapt.

    Example: practicum init summer27
    """
    errors = Errors()
    with errors.told():
        if (folder / PLAN).exists():
            raise SemesterError(f"{folder / PLAN}: is there already (edit it, or choose another folder)")
        write_whole(folder / PLAN, TEMPLATE.read_text(encoding="utf-8"))
        Semester(folder)
        typer.echo(f"{folder / PLAN} is written: adapt dates, rubric and policies there, then `practicum groups`")
    errors.exit()


@app.command()
def start(
    paper: Annotated[str | None, typer.Argument(help="The paper; none: all that the group is allotted.")] = None,
    group: Annotated[str | None, typer.Option(help="The group; none: all groups.", show_default=False)] = None,
    semester: SemesterOption = Path(),
    force: Annotated[bool, typer.Option("--force", help="Write what is missing in kits that are there.")] = False,
    root: Root = ROOT,
) -> None:
    """Write the starter kit of a group on a paper: claims, program, reports, README; it runs as it is.

    Example: practicum start bao2020regularized --group g07
    """
    errors = Errors()
    with errors.told():
        s = Semester(semester)
        allotted, people = s.papers(), load_groups(s) if s.groups.is_file() else {}
        if not allotted and not (paper and group):
            raise SemesterError("no allotment yet (`practicum allot`, or name a paper and a --group)")
        pairs = [(g, p) for g in ([group] if group else allotted) for p in ([paper] if paper else allotted.get(g, []))]
        if not paper and group and not pairs:
            raise SemesterError(f"{group}: is allotted no paper (see allotment.csv)")
        for g, p in pairs:
            with errors.told():
                names = [student.name for student in people[g].students] if g in people else []
                kit = start_kit(s, p, g, names, root, force)
                typer.echo(f"{kit.relative_to(s.folder).as_posix()} is written")
    errors.exit()


@app.command()
def check(
    kit: KitArgument = Path(),
    seeds: Annotated[int | None, typer.Option(min=1, help="How many of the public seeds.", show_default="all")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 2,
    unsafe_local: Annotated[bool, typer.Option("--unsafe-local", help="Without bubblewrap.")] = False,
) -> None:
    """Run a kit's program on the public seeds as the grader will on hidden ones, and show every claim beside it.

    Example: practicum check kits/g07/bao2020regularized
    """
    errors = Errors()
    with errors.told():
        kit = kit.resolve()
        plan, card = load_public(kit / "plan.yml"), _card(kit)
        claims = kit_claims(kit)
        if not (kit / "reproduce.py").is_file():
            raise DropError(f"{kit.name}: holds no reproduce.py (`practicum start --force` writes it again)")
        how, told = _own(unsafe_local)
        todo, files = plan.seeds[:seeds], manifest(kit, plan.limits.submission)
        with TemporaryDirectory() as scratch:  # what will be handed in, and nothing else
            copy(kit, files, Path(scratch))
            evidence = _watched(card, Path(scratch), todo, box_limits(card, plan.limits.run), how, jobs)
        if (results := evidence.results()) and len(evidence.good) == len(plan.seeds):
            write_whole(kit / "results.json", dumps(results.model_dump(mode="json")) + "\n")
        typer.echo(f"{card.id}: {len(evidence.good)} of {len(todo)} public seeds ran {told}")
        slowest = max(run.seconds for run in evidence.runs)
        typer.echo(f"the slowest seed took {slowest:.1f} s of {card.budget.seconds:g} s")
        for run in evidence.runs[:1]:
            for line in run.stderr.splitlines()[-40:] if run.problem else []:
                typer.echo(f"  {line}", err=True)
        for problem in evidence.problems:
            typer.echo(f"  {problem}", err=True)
        rows = table(card, claims, evidence, evidence)
        show(rows)
        _advise(rows, evidence, len(plan.seeds))
        if len(evidence.good) < len(todo):
            raise PracticumError(f"{len(todo) - len(evidence.good)} of {len(todo)} seeds failed (mend reproduce.py)")
    errors.exit()


def _card(kit: Path) -> Card:
    return read(kit / "paper.yml", Card, kit)


def _own(unsafe_local: bool) -> tuple[How, str]:
    """Choose how a group runs its own program: as the grader does where that works here."""
    if unsafe_local:
        return "unsafe-local", "without a box"
    try:
        return choose(), "in the grader's box"
    except SandboxError:
        return choose(unsafe_local=True), "without a box (the grader's needs Linux and bubblewrap)"


def _watched(card: Card, folder: Path, seeds: list[int], limits: BoxLimits, how: How, jobs: int) -> Evidence:
    """Run the seeds with a bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(card.id, total=len(seeds))
        return run_folder(card, folder, seeds, limits, how, jobs=jobs, on_seed=lambda _: progress.advance(task))


def show(rows: list[Row]) -> None:
    """Print the claims: what the paper has, what the group says, what the runs gave."""
    made = plain_table("claim", "role", "expected", "claimed", "measured", "verdict", "agrees")
    alike = len({row.problem for row in rows}) == 1  # then it is told above, once
    for row in rows:
        claimed = row.status + ("" if row.value is None else f", {row.value:.4g}")
        measured = ("" if alike else row.problem) if row.mean is None else f"{spread(row.mean, row.sd)} ({row.n})"
        verdict = Text(str(row.verdict or ""), style=COLOURS.get(str(row.verdict), ""))
        made.add_row(*map(Text, (row.claim, row.role, row.expected, claimed, measured)), verdict, Text(_agrees(row)))
    print_table(made)


def _agrees(row: Row) -> str:
    if row.status == "not attempted":
        return "no marks"
    told = ["number" if row.matches else "number differs"]
    told.append("status" if row.consistent == 1 else "status half" if row.consistent else "status differs")
    return ", ".join(told)


def _advise(rows: list[Row], evidence: Evidence, all_seeds: int) -> None:
    """Say what is still open, and what to write."""
    counts = Counter("open" if row.status == "not attempted" else "stated" for row in rows)
    typer.echo(f"{counts['stated']} claims are stated, {counts['open']} are not attempted")
    if len(evidence.runs) < all_seeds:
        typer.echo(f"a verdict needs all {all_seeds} public seeds (leave --seeds away)")
    for row in rows:
        if row.mean is not None and row.status == "not attempted":
            number = f"value: {row.mean:.6g}, uncertainty: {two_digits(row.sd)}"
            typer.echo(f"  to state {row.claim}: status: {row.verdict}, {number}")
        elif row.matches is False and row.mean is not None:
            typer.echo(f"  {row.claim}: {row.match_why}")
        elif row.consistent is not None and row.consistent < 1 and row.mean is not None:
            typer.echo(f"  {row.claim}: {row.consistent_why}")


@app.command("submit")
def submit_command(
    kit: KitArgument = Path(),
    deliverable: Annotated[str, typer.Option("--for", help="The deliverable, as in the plan's dates.")] = ...,  # type: ignore[assignment]
    drop: DropOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Even where an earlier one counts for more.")] = False,
    group: Annotated[
        str | None, typer.Option("--group", help="Whose folder it is, if another than the group hands it in.")
    ] = None,
) -> None:
    """Hand a kit's folder in: an immutable snapshot by the drop folder's clock, and a receipt.

    Example: practicum submit kits/g07/bao2020regularized --for midterm
    """
    errors = Errors()
    with errors.told():
        receipt = submit(kit, deliverable, _drop(kit, drop), replace, group)
        megabytes = sum(file.bytes for file in receipt.files) / 1e6
        typer.echo(
            f"accepted: {receipt.group}, {receipt.paper}, {receipt.deliverable}: {len(receipt.files)} files, "
            f"{megabytes:.2f} MB, snapshot {receipt.snapshot[:12]}, at {receipt.received:%Y-%m-%d %H:%M:%S} UTC"
        )
        due = f"due {receipt.due:%Y-%m-%d %H:%M %Z}".strip()
        if receipt.factor < 1:
            typer.echo(f"late ({due}): it counts for {receipt.factor:.0%} of the marks")
        typer.echo(f"receipt: receipts/{receipt.deliverable}-{receipt.line:04d}.json ({due})")
    errors.exit()


def _drop(kit: Path, drop: Path | None) -> Path:
    """Find the drop folder: as given, or that of the semester that the kit lies in."""
    if drop:
        return drop
    for folder in kit.resolve().parents:
        if (folder / "drop" / "plan.yml").is_file():
            return folder / "drop"
    raise DropError("the kit lies in no semester's folder (give --drop, as the lecturer has told you)")


@app.command()
def receipt(
    file: Annotated[Path, typer.Argument(help="A receipt, receipts/*.json in the kit.")],
    drop: DropOption = None,
) -> None:
    """Verify a receipt: its snapshot is in the drop folder, unchanged, and the log has its line.

    Example: practicum receipt kits/g07/bao2020regularized/receipts/midterm-0012.json
    """
    errors = Errors()
    with errors.told():
        r = verify(file, _drop(file, drop))
        typer.echo(
            f"true: {r.group}, {r.paper}, {r.deliverable}: snapshot {r.snapshot[:12]} with {len(r.files)} files "
            f"was received on {r.received:%Y-%m-%d %H:%M:%S} UTC and is unchanged"
        )
    errors.exit()

