"""A toy semester for the tests: two papers, three groups, what they handed in, re-runs and some scores."""

import csv
import json
import random
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from practicum_fixtures import card, claim, control, write

from practicum.cards import Card, load_card
from practicum.reading import read
from practicum.results import Results, Run, dumps, write_whole
from practicum.semester.drop import Receipt, submit
from practicum.semester.drop import latest as latest_of
from practicum.semester.drop import submissions as submissions_of
from practicum.semester.evidence import Evidence, SeedRun, table
from practicum.semester.kit import start
from practicum.semester.plan import Semester
from practicum.semester.rerun import hidden_seeds, rerun_folder, score_log

TEMPLATE = Path(__file__).parents[1] / "practicum/templates/semester.yml"
PAPERS = {"peak2020toy": "double-descent", "tail2021toy": "robustness"}
PEOPLE = {
    "g01": [("0101", "Ada Adler"), ("0102", "Ben Bär"), ("0103", "Cem Çelik")],
    "g02": [("0201", "Dana Dorn"), ("0202", "Émile Etter"), ("0203", "Fay Frost")],
    "g03": [("0301", "Gil Gans"), ("0302", "Hal Hart"), ("0303", "Ina Iser")],
}
KEYS = {"tail": "the error far out", "peak": "the error at the threshold", "clean_tail": "the first without noise",
        "clean_peak": "the second without noise", "law": "what theory has for the tail"}  # fmt: skip
PROGRAM = '''\
import argparse, json, random
p = argparse.ArgumentParser()
for name in ("--seed", "--scale", "--out"):
    p.add_argument(name)
a = p.parse_args()
r = random.Random(int(a.seed))
values = {"tail": 1 + r.gauss(0, .02), "peak": 2 + r.gauss(0, .02), "clean_tail": 1 + r.gauss(0, .02),
          "clean_peak": .5 + r.gauss(0, .02), "law": 1.0, "slow": 3 + r.gauss(0, .1)}
json.dump(values, open(a.out, "w"))
'''
REPORT = "# Report of {group}\n\nWe measured *{paper}*.\n\n![the peak](figure.png)\n"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc0000003010100"
    "18dd8db00000000049454e44ae426082"
)


def practical(**changed: Any) -> dict[str, Any]:
    fields = {"size": "small", "keys": KEYS, "start": "Begin with the tail.", "extensions": ["Take ten times."]}
    return fields | changed


def paper_card(paper: str, theme: str) -> dict[str, Any]:
    claims = [
        claim(role="core"), control(),
        claim(id="law", role="theory", kind="value", keys=["tail"], expect={"equals": "law"}),
    ]  # fmt: skip
    return card(paper, claims, theme=theme, title=f"The {paper[:4]} of toys", practical=practical())


def values(seed: int) -> dict[str, float]:
    """What PROGRAM gives."""
    r = random.Random(seed)
    return {
        "tail": 1 + r.gauss(0, 0.02), "peak": 2 + r.gauss(0, 0.02), "clean_tail": 1 + r.gauss(0, 0.02),
        "clean_peak": 0.5 + r.gauss(0, 0.02), "law": 1.0, "slow": 3 + r.gauss(0, 0.1),
    }  # fmt: skip


def empty_semester(tmp_path: Path, **changed: Any) -> tuple[Semester, Path]:
    """The toy repository, and a semester with groups and allotment but nothing handed in; `changed`: its plan."""
    root, folder = tmp_path / "repository", tmp_path / "semester"
    for paper, theme in PAPERS.items():
        write(root / f"reproductions/{paper}/paper.yml", yaml.safe_dump(paper_card(paper, theme), sort_keys=False))
    plan = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    write(folder / "semester.yml", yaml.safe_dump(plan | changed, sort_keys=False, allow_unicode=True))
    # a real semester draws its secret; with other hidden seeds at each run, one in twenty honest verdicts would flip
    write(folder / "private/secret", sha256(b"the toy semester").hexdigest() + "\n").chmod(0o600)
    (folder / "private").chmod(0o700)
    people = [(group, s, name, f"s{s}@example.org", group) for group, team in PEOPLE.items() for s, name in team]
    _csv(folder / "groups.csv", ["group", "student", "name", "email", "given"], people)
    rows = [(group, paper, theme, i, "") for group in PEOPLE for i, (paper, theme) in enumerate(PAPERS.items(), 1)]
    _csv(folder / "allotment.csv", ["group", "paper", "theme", "rank", "why"], rows)
    return Semester(folder), root


def _csv(path: Path, header: list[str], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def fill(kit: Path, program: str = PROGRAM, measured: Any = values, extension: bool = True, **statuses: str) -> Path:
    """Fill a kit honestly: program, own results, claims with their verdicts (`statuses` overrides), a report."""
    write(kit / "reproduce.py", program)
    runs = [Run(seed=seed, seconds=0.1, values=measured(seed)) for seed in range(5)]
    own = read(kit / "paper.yml", Card, kit)
    results = Results(paper=own.id, scale="laptop", hash="0", date=datetime(2026, 5, 1).date(), versions={}, runs=runs)
    write_whole(kit / "results.json", dumps(results.model_dump(mode="json")) + "\n")
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    evidence = Evidence(paper=own.id, how="local", date=datetime.now(UTC),
                        runs=[SeedRun(seed=run.seed, seconds=1, values=run.values) for run in runs])  # fmt: skip
    rows = {row.claim: row for row in table(own, None, evidence)}
    for entry in said["claims"]:
        row = rows[entry["id"]]
        entry |= {"status": statuses.get(entry["id"].replace("-", "_"), str(row.verdict)), "value": row.mean}
        entry["reason"] = "" if entry["status"] == "reproduced" else "It is as the evidence has it."
    said["extensions"] = []
    if extension:
        mean = sum(measured(seed)["slow"] for seed in range(5)) / 5
        said["extensions"] = [
            {"id": "X1", "hypothesis": "The slow error is below 4.", "kind": "value", "keys": ["slow"],
             "expect": {"at_most": 4}, "status": "reproduced", "value": mean}
        ]  # fmt: skip
    write(kit / "claims.yml", yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
    write(kit / "report.md", REPORT.format(group=said["group"], paper=said["paper"]))
    (kit / "figure.png").write_bytes(PIXEL)
    return kit


def hand_in(
    semester: Semester, root: Path, group: str, paper: str, deliverable: str = "midterm", **how: Any
) -> Receipt:
    """Start, fill and submit a kit."""
    kit = semester.kits / group / paper
    if not kit.exists():
        start(semester, paper, group, [name for _, name in PEOPLE[group]], root)
    return submit(fill(kit, **how), deliverable, semester.drop, replace=True)


def fake_rerun(semester: Semester, root: Path, group: str, paper: str, deliverable: str = "midterm",
               measured: Any = values) -> None:  # fmt: skip
    """Evidence as a re-run leaves it, without a process; `measured(seed)` may give a string: the problem."""
    s = latest_of(submissions_of(semester.drop))[group, paper, deliverable]
    runs = []
    for seed in hidden_seeds(semester, paper, deliverable):
        got = measured(seed)
        told = {"problem": got, "stderr": f"seed {seed}: {got}"} if isinstance(got, str) else {"values": got}
        runs.append(SeedRun(seed=seed, seconds=0.1, **told))
    evidence = Evidence(paper=paper, how="bubblewrap", date=datetime.now(UTC), runs=runs)
    text = evidence.model_dump_json(indent=1) + "\n"
    write_whole(rerun_folder(semester, s) / "evidence.json", text)
    said = {"group": group, "paper": paper, "deliverable": deliverable, "snapshot": s.snapshot, "how": "bubblewrap",
            "evidence": sha256(text.encode()).hexdigest()}  # fmt: skip
    score_log(semester).append("rerun", "rerun", said)


def semester(tmp_path: Path, **changed: Any) -> tuple[Semester, Path]:
    """g01 honest and re-run on both papers; g02 on one, half of its seeds crashing; g03 has handed nothing in."""
    s, root = empty_semester(tmp_path, **changed)
    for paper in PAPERS:
        hand_in(s, root, "g01", paper)
        fake_rerun(s, root, "g01", paper)
    hand_in(s, root, "g02", "peak2020toy", peak="not reproduced")
    ill = hidden_seeds(s, "peak2020toy", "midterm")[::2]
    fake_rerun(s, root, "g02", "peak2020toy", measured=lambda n: "ran out of memory" if n in ill else values(n))
    return s, root


def toy_card(root: Path, paper: str = "peak2020toy") -> Card:
    return load_card(root / "reproductions" / paper / "paper.yml", root)


def as_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
