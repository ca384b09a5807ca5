"""What a made-up group does with its kit: program, claims, report, figure; and the extension in place of these."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from practicum.cards import Card
from practicum.demo.cast import HERE, SEMESTER, Work
from practicum.kinds import Values
from practicum.reading import read
from practicum.results import Results, write_whole
from practicum.semester.claims import GroupClaims
from practicum.semester.evidence import Evidence, Row, SeedRun, table
from practicum.semester.plan import dump

ROLES = (["software", "methodology"], ["formal analysis", "writing"], ["validation", "visualization"])


def write_program(folder: Path, work: Work) -> None:
    """Put the group's program into its kit."""
    write_whole(folder / work.kit / "reproduce.py", work.program().replace(SEMESTER, folder.as_posix()))


def write_claims(folder: Path, work: Work) -> None:
    """State each claim as the own results have it, or as the group says against them; what has no number is open."""
    kit, results = folder / work.kit, _results(folder, work)
    card = read(kit / "paper.yml", Card, kit)
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    rows = {row.claim: row for row in table(card, None, _evidence(results))}
    for entry in said["claims"]:
        row, own = rows[entry["id"]], work.statuses.get(entry["id"])
        if own:
            entry |= own
        elif row.mean is not None:
            entry |= _found(row, work)
            entry["uncertainty"] = float(f"{row.sd:.2g}")
            entry["deviations"] = list(work.deviations)
    for i, name in enumerate(said["contributions"]):
        said["contributions"][name] = ROLES[i % 3]
    write_whole(kit / "claims.yml", dump(said))


def write_report(folder: Path, work: Work) -> None:
    """Put report and figure into the kit."""
    kit = folder / work.kit
    title = read(kit / "paper.yml", Card, kit).title
    write_whole(kit / "report.md", f"# Report on reproducibility: {title}\n\n{work.report()}")
    if work.figure:
        draw(kit / "figure.png", [run.values for run in _results(folder, work).runs], work.figure)


def write_extension(folder: Path, work: Work) -> None:
    """Turn the kit into that of the final report: another program, which may import the first, and a hypothesis."""
    assert work.extension is not None
    kit = folder / work.kit
    (kit / "reproduce.py").replace(kit / "midterm.py")
    program = HERE / f"groups/{work.group}_{work.paper}_final.py"
    write_whole(kit / "reproduce.py", program.read_text(encoding="utf-8"))
    title = read(kit / "paper.yml", Card, kit).title
    hypothesis = work.extension.claim["hypothesis"]
    write_whole(kit / "extension.md", f"# Extension: {title}\n\n## Hypothesis\n\n{hypothesis}\n\n## Results\n\n"
                                      f"{work.extension.text}\n")  # fmt: skip
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    said["extensions"] = [{**work.extension.claim, "status": "not attempted", "value": None, "reason": ""}]
    write_whole(kit / "claims.yml", dump(said))


def state_extension(folder: Path, work: Work) -> None:
    """Say of the hypothesis what its own results say."""
    kit = folder / work.kit
    card = read(kit / "paper.yml", Card, kit)
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    rows = table(card, GroupClaims.model_validate(said), _evidence(_results(folder, work)))
    row = next(row for row in rows if row.extension)
    said["extensions"][0] |= _found(row, work, "It is as the five public seeds have it; see extension.md.")
    write_whole(kit / "claims.yml", dump(said))


def draw(path: Path, runs: Sequence[Values], keys: Sequence[str]) -> None:
    """Draw each seed's numbers, one column a key, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for values in runs:
        axes.plot(range(len(keys)), [values[key] for key in keys], "o", color="#175a8c", alpha=0.6)
    axes.set_xticks(range(len(keys)), [key.replace("_", " ") for key in keys], rotation=20, ha="right", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel("measured, a dot a seed")
    figure.savefig(path, metadata={"Software": None})


def _found(row: Row, work: Work, otherwise: str = "It is as our five seeds have it.") -> dict:
    reason = "" if row.verdict == "reproduced" else work.reasons.get(row.claim, otherwise)
    assert row.mean is not None
    return {"status": str(row.verdict), "value": float(f"{row.mean:.4g}"), "reason": reason}


def _results(folder: Path, work: Work) -> Results:
    return Results.model_validate_json((folder / work.kit / "results.json").read_bytes())  # `practicum check` left it


def _evidence(results: Results) -> Evidence:
    runs = [SeedRun(seed=run.seed, seconds=run.seconds, values=run.values) for run in results.runs]
    date = datetime.combine(results.date, datetime.min.time(), UTC)
    return Evidence(paper=results.paper, how="their own", date=date, runs=runs)
