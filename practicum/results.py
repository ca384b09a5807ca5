"""What a program measured, `results.json`: every seed's numbers, with their origin."""

import datetime
import json
import os
import reprlib
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError, ValidationInfo, field_validator, model_validator

from practicum import ROOT, PracticumError, choices
from practicum.cards import Card, load_cards
from practicum.kinds import Values
from practicum.reading import Strict
from practicum.sources import source_hash

RunScale = Literal["smoke", "laptop", "paper"]


class ResultsError(PracticumError):
    """Results that cannot be read, in one line with the mend."""


def flat(values: Any) -> Values:
    """Check that `values` is flat: finite numbers, and curves (lists of them); ValueError names the key."""
    if not isinstance(values, dict) or not values:
        raise ValueError("it is no JSON object of keys and numbers")
    return {key: _number_or_curve(key, value) for key, value in values.items()}


def _number_or_curve(key: str, value: Any) -> float | list[float]:
    if isinstance(value, list) and value:
        return [_number(key, x) for x in value]
    return _number(key, value)


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"key {key!r} holds {reprlib.repr(value)}, not a number or a list of numbers")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"key {key!r} holds {reprlib.repr(value)}, not a finite number")
    return float(value)


class Run(Strict):
    """One seed's values, and how many seconds its program took."""

    seed: Annotated[int, Field(ge=0)]
    seconds: FiniteFloat
    values: Values

    @field_validator("values", mode="plain")
    @classmethod
    def _flat(cls, values: Any, info: ValidationInfo) -> Values:
        try:
            return flat(values)
        except ValueError as error:
            raise ValueError(f"seed {info.data.get('seed', '?')}: {error}") from None


class Results(Strict):
    """The runs of one paper's program at one scale, one a seed, in the order of the seeds."""

    paper: str
    scale: RunScale
    hash: str
    date: datetime.date
    versions: dict[str, str]
    runs: Annotated[list[Run], Field(min_length=1)]

    @model_validator(mode="after")
    def _sorted(self) -> "Results":
        self.runs.sort(key=lambda run: run.seed)
        if len(set(self.seeds)) < len(self.runs):
            raise ValueError("a seed is there twice")
        return self

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [run.seed for run in self.runs]

    @property
    def seconds(self) -> float:
        """The median time of one seed's program, in seconds."""
        return float(np.median([run.seconds for run in self.runs]))

    def values(self, key: str) -> np.ndarray:
        """Give a number over the seeds, (n_seeds,); ResultsError if the key is missing or a curve."""
        found = self._column(key)
        if any(isinstance(value, list) for value in found):
            raise ResultsError(f"{self.paper}: {key!r} is a curve (read it by Results.curve)")
        return np.array(found)

    def curve(self, key: str) -> np.ndarray:
        """Give a curve over the seeds, (n_seeds, length); ResultsError if the key is missing or no curve."""
        found = self._column(key)
        lengths = {len(value) if isinstance(value, list) else 0 for value in found}
        if 0 in lengths or len(lengths) > 1:
            raise ResultsError(f"{self.paper}: {key!r} is no curve of one length (see reproduce.py)")
        return np.array(found)

    def _column(self, key: str) -> list[float | list[float]]:
        for run in self.runs:
            if key not in run.values:
                raise ResultsError(f"{self.paper}: seed {run.seed} lacks the key {key!r} ({choices(key, run.values)})")
        return [run.values[key] for run in self.runs]


def program_path(root: Path, paper: str) -> Path:
    """Where the paper's program stands."""
    return Path(root) / "reproductions" / paper / "reproduce.py"


def load_worked(root: Path = ROOT) -> dict[str, Card]:
    """Read the cards of the papers that the course works out itself; the others are for groups alone."""
    return {paper: card for paper, card in load_cards(root).items() if program_path(root, paper).is_file()}


def results_path(root: Path, paper: str, scale: str = "laptop") -> Path:
    """Where the results of a scale stand; those of a smoke run, which prove nothing, are not kept in Git."""
    if scale == "smoke":
        return Path(root) / "_build" / "runs" / paper / "results.smoke.json"
    name = "results.json" if scale == "laptop" else f"results.{scale}.json"
    return Path(root) / "reproductions" / paper / name


def load_results(root: Path, paper: str, scale: str = "laptop") -> Results | None:
    """Read a paper's results, None where there are none; ResultsError if the file is not sound."""
    path = results_path(root, paper, scale)
    try:
        results = Results.model_validate(json.loads(path.read_bytes()))
        if (results.paper, results.scale) != (paper, scale):
            raise ValueError(f"it is of {results.paper!r} at scale {results.scale!r}")
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise _unsound(path, root, paper, scale, _first(error)) from None
    except (ValueError, RecursionError, OSError) as error:
        raise _unsound(path, root, paper, scale, str(error)) from None
    return results


def _unsound(path: Path, root: Path, paper: str, scale: str, why: str) -> ResultsError:
    shown = path.relative_to(root).as_posix()
    more = "" if scale == "laptop" else f" SCALE={scale}"
    reason = " ".join(why.split())
    return ResultsError(f"{shown}: {reason} (`make reproduce PAPER={paper}{more}` writes it anew)")


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def is_stale(results: Results, root: Path = ROOT) -> bool:
    """Say whether the program, or a module of ours that it imports, has changed since the results."""
    program = program_path(root, results.paper)
    return not program.is_file() or results.hash != source_hash(program, root)


def save(results: Results, root: Path) -> Path:
    """Write the results where `load_results` finds them, whole or not at all."""
    path = results_path(root, results.paper, results.scale)
    write_whole(path, dumps(results.model_dump(mode="json")) + "\n")
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads sees the old one or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{secrets.token_hex(8)}.half")
    try:
        with open(half, "x", encoding="utf-8", newline="\n") as file:  # new: a link that was laid there is not followed
            file.write(text)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def dumps(value: Any, indent: str = "") -> str:
    """Write JSON for Git: one key a line, a curve on one line, floats to 6 digits, whole numbers whole."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{deeper}{json.dumps(key)}: {dumps(child, deeper)}" for key, child in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(child, dict) for child in value):
        return "[\n" + ",\n".join(deeper + dumps(child, deeper) for child in value) + f"\n{indent}]"
    if isinstance(value, list):
        return "[" + ", ".join(dumps(child) for child in value) + "]"
    broken = isinstance(value, float) and (value % 1 != 0 or abs(value) > 2**53)
    return json.dumps(float(f"{value:.6g}") if broken else value)
