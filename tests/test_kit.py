"""The starter kit: it runs as it is, says what is open, and `check` is the grader's own code."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from practicum_fixtures import write
from semester_fixtures import PROGRAM, empty_semester, fill, values
from typer.testing import CliRunner

from practicum.cards import Card, load_cards
from practicum.cli import app
from practicum.reading import read
from practicum.results import ROOT, Results
from practicum.semester.drop import kit_claims
from practicum.semester.kit import start, texts
from practicum.semester.plan import Semester, SemesterError

PAPER = "peak2020toy"


def told(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    semester, root = empty_semester(tmp_path)
    return start(semester, PAPER, "g01", ["Ada Adler", "Ben Bär"], root)


def test_the_kit_runs_as_it_is_and_says_what_is_open(kit: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(kit / "reproduce.py"), "--seed", "1", "--out", str(tmp_path / "o.json")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "open: tail: the error far out"
    assert done.stderr.splitlines()[-1] == "all 5 keys are open: fill measure() in reproduce.py"
    assert {s.status for s in kit_claims(kit).claims} == {"not attempted"}
    code, out, err = told("check", str(kit), "--jobs", "1")
    assert code == 1
    assert "0 of 5 public seeds ran" in out
    assert "0 claims are stated, 3 are not attempted" in out
    assert "open: tail: the error far out" in err
    assert err.count("fill measure() in reproduce.py") == 2  # the program's words, and as the seeds' problem
    assert not (kit / "results.json").exists()


def test_a_filled_kit_is_checked_and_told_what_to_write(kit: Path) -> None:
    write(kit / "reproduce.py", PROGRAM)
    code, out, _ = told("check", str(kit))
    assert code == 0, out
    assert "5 of 5 public seeds ran" in out
    mean = sum(values(seed)["tail"] for seed in range(5)) / 5
    assert f"to state law: status: reproduced, value: {mean:.6g}, uncertainty: " in out
    results = Results.model_validate_json((kit / "results.json").read_bytes())
    assert results.seeds == [0, 1, 2, 3, 4]
    assert results.values("tail").mean() == pytest.approx(mean, rel=1e-5)


def test_a_wrong_statement_is_told_before_the_grader_sees_it(kit: Path) -> None:
    fill(kit, peak="not reproduced")
    said = yaml.safe_load((kit / "claims.yml").read_text(encoding="utf-8"))
    said["claims"][2]["value"] = 1.5
    write(kit / "claims.yml", yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
    _, out, _ = told("check", str(kit))
    assert "peak: said not reproduced, the re-run says reproduced" in out
    assert "law: claimed 1.5, re-run 1.0" in out


def test_a_key_that_is_open_is_named_at_its_claim(kit: Path) -> None:
    write(kit / "reproduce.py", PROGRAM.replace('"clean_peak"', '"clean_pek"'))
    code, out, _ = told("check", str(kit))
    assert code == 0
    assert "key 'clean_peak' is not measured (did you mean 'clean_pek'?" in " ".join(out.split())


def test_few_seeds_give_no_verdict_and_no_results(kit: Path) -> None:
    fill(kit)
    (kit / "results.json").unlink()
    _, out, _ = told("check", str(kit), "--seeds", "2")
    assert "a verdict needs all 5 public seeds" in out
    assert not (kit / "results.json").exists()


def test_a_kit_is_for_its_group(tmp_path: Path) -> None:
    later = [{"group": g, "deliverable": "midterm", "until": "2027-06-08 12:00", "reason": "x"} for g in ("g01", "g02")]
    semester, root = empty_semester(tmp_path, extensions=later)
    text = (start(semester, PAPER, "g01", ["Ada"], root) / "plan.yml").read_text(encoding="utf-8")
    assert "g01" in text
    assert "g02" not in text
    assert "2027-06-08 12:00" in (semester.kits / "g01" / PAPER / "README.md").read_text(encoding="utf-8")


def test_what_is_in_a_kit_is_never_overwritten(kit: Path) -> None:
    semester, root = Semester(kit.parents[2]), kit.parents[3] / "repository"
    write(kit / "report.md", "my work")
    with pytest.raises(SemesterError, match="is there already"):
        start(semester, PAPER, "g01", [], root)
    (kit / "reproduce.py").unlink()
    start(semester, PAPER, "g01", [], root, force=True)
    assert (kit / "report.md").read_text() == "my work"
    assert (kit / "reproduce.py").is_file()


def test_what_cannot_be_started(tmp_path: Path) -> None:
    semester, root = empty_semester(tmp_path)
    with pytest.raises(SemesterError, match="g09: is allotted no paper, not peak2020toy"):
        start(semester, PAPER, "g09", [], root)
    mapping = yaml.safe_load((root / f"reproductions/{PAPER}/paper.yml").read_text())
    write(root / f"reproductions/{PAPER}/paper.yml", yaml.safe_dump(mapping | {"practical": None}))
    with pytest.raises(SemesterError, match="is no paper for groups"):
        start(semester, PAPER, "g01", [], root)
    code, _, err = told("start", "nonsense", "--group", "g01", "--semester", str(semester.folder), "--root", str(root))
    assert code == 1
    assert "nonsense" in err
    assert err.count("\n") == 1


def test_all_kits_at_once(tmp_path: Path) -> None:
    semester, root = empty_semester(tmp_path)
    code, out, _ = told("start", "--semester", str(semester.folder), "--root", str(root))
    assert (code, out.count("is written")) == (0, 6)
    assert "Dana Dorn" in (semester.kits / "g02/tail2021toy/claims.yml").read_text(encoding="utf-8")


OPEN = {name: card for name, card in load_cards(ROOT).items() if card.practical}


@pytest.mark.parametrize("paper", OPEN)
def test_every_cards_kit_is_sound(paper: str, tmp_path: Path) -> None:
    """Its Python compiles, its YAML is read back, and it names every key and claim."""
    semester, _ = empty_semester(tmp_path)
    card = OPEN[paper]
    assert card.practical is not None
    made = texts(semester, card, card.practical, "g01", ["Zoë O'Neill", 'A "quoted" name'])
    for name, text in made.items():
        write(tmp_path / name, text)
        assert "{{" not in text
        assert "{%" not in text
    scope: dict = {"__name__": "kit"}
    exec(compile(made["reproduce.py"], "reproduce.py", "exec"), scope)
    want = {key: " ".join(meaning.split()) for key, meaning in card.practical.keys.items()}
    assert scope["OPEN"] == want
    write(tmp_path / "paper.yml", (ROOT / f"reproductions/{paper}/paper.yml").read_text(encoding="utf-8"))
    assert read(tmp_path / "paper.yml", Card, tmp_path) == card
    claims = kit_claims(tmp_path)
    assert [s.id for s in claims.claims] == [c.id for c in card.at("laptop")]
    assert list(claims.contributions) == ["Zoë O'Neill", 'A "quoted" name']
    assert max(map(len, made["reproduce.py"].splitlines())) <= 120
