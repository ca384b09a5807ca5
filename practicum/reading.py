"""Read a YAML file into a pydantic model, and tell each mistake in one line with its place in the file."""

import reprlib
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from practicum import PracticumError

Loc = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)
MOST = 30  # problems that are told at once


class ReadingError(PracticumError):
    """A bad file, one line a problem: `file:line: field: what is wrong (mend)`."""


class PlacedError(ValueError):
    """What a validator found, each at its place below the model, so that each gets its own line."""

    def __init__(self, *found: tuple[Loc, str]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = found


class Strict(BaseModel):
    """A model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


def read(path: Path, model: type[Model], root: Path, aliases: bool = True, **context: Any) -> Model:
    """Read `path` as `model`, or raise a ReadingError whose paths are relative to `root`.

    `aliases=False` is for files of people whom we do not know: a few nested aliases grow without bound.
    """
    shown = path.relative_to(root).as_posix()
    try:
        text = path.read_bytes().decode()
        events = () if aliases else yaml.parse(text, yaml.SafeLoader)
        if alias := next((event for event in events if isinstance(event, yaml.AliasEvent)), None):
            line = alias.start_mark.line + 1
            raise ReadingError(f"{shown}:{line}: an alias (*{alias.anchor}) is not taken (write the value out)")
        node, raw = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except FileNotFoundError:
        raise ReadingError(f"{shown}: is missing (write the file, or remove its folder)") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ReadingError(f"{shown}{line}: is no YAML: {error.problem} (mend the line)") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ReadingError(f"{shown}: cannot be read: {reason} (mend the file)") from None
    if not isinstance(raw, dict):
        raise ReadingError(f"{shown}:1: is no mapping (write `field: value` lines)")
    problems = [(line, f"{key}: is given twice (remove one)") for line, key in _duplicates(node, set())]
    try:
        result = model.model_validate(raw, context=context)
    except ValidationError as error:
        for loc, told in (found for e in error.errors() for found in _told(e, model)):
            problems.append((_line(node, loc), f"{_dotted(loc)}: {told}" if loc else told))
    if problems:
        lines = [f"{shown}:{line}: {told}" for line, told in sorted(problems)]
        more = [f"{shown}: {len(lines) - MOST} more problems (mend these first)"] if len(lines) > MOST else []
        raise ReadingError("\n".join(lines[:MOST] + more))
    return result


def _told(error: Any, model: type[BaseModel]) -> list[tuple[Loc, str]]:
    """Put one of pydantic's errors into words with a mend, at its place (or places) in the file."""
    loc, cause = error["loc"], error.get("ctx", {}).get("error")
    if isinstance(cause, PlacedError):
        return [((*loc, *below), why) for below, why in cause.found]
    match error["type"]:
        case "missing":
            told = "is missing (add it)"
        case "extra_forbidden":
            near = get_close_matches(str(loc[-1]), _fields(model), n=1)
            told = "is no field here " + (f"(did you mean {near[0]}?)" if near else "(remove it)")
        case "literal_error":
            told = f"{shown(error['input'])} is none of {error['ctx']['expected']} (choose one)"
        case "value_error":
            told = str(cause)
        case _:
            message = error["msg"][0].lower() + error["msg"][1:]
            told = f"{message}, not {shown(error['input'])} (correct it)"
    return [(loc, told)]


def printable(text: str) -> str:
    """Give the text back; ValueError if it holds signs that cannot be printed."""
    if odd := next((c for c in text if not c.isprintable() and c not in "\n\t"), None):
        raise ValueError(f"holds the sign {odd!r}, which cannot be printed (remove it)")
    return text


def shown(value: Any) -> str:
    """Write a value short; a whole number of thousands of digits has no such form in Python."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return "a number of too many digits"


@lru_cache
def _fields(model: type[BaseModel]) -> set[str]:
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}


def _dotted(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _line(node: yaml.Node, loc: Loc) -> int:
    """Find the line (from 1) of the deepest part of `loc` that the file has."""
    line = node.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == str(part)]
            if not pairs:
                break
            line, node = pairs[-1][0].start_mark.line, pairs[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _duplicates(node: yaml.Node, seen: set[int]) -> list[tuple[int, str]]:
    """List the line and name of each key that its mapping already has: YAML would drop the first."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):  # an alias leads to a node once more
        return []
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [found for child in node.value for found in _duplicates(child, seen)]
    keys = [key for key, _ in node.value]
    names = [str(key.value) for key in keys]
    first: dict[str, int] = {}
    twice = [(k.start_mark.line + 1, name) for i, (k, name) in enumerate(zip(keys, names, strict=True))
             if first.setdefault(name, i) != i]  # fmt: skip
    return twice + [found for _, child in node.value for found in _duplicates(child, seen)]
