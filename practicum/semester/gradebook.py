"""The gradebook as the university's system wants it: a CSV file, its columns as the plan names them."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from math import floor
from pathlib import Path
from unicodedata import normalize

from practicum import choices
from practicum.reading import Strict
from practicum.results import write_whole
from practicum.semester.drop import LOG
from practicum.semester.grades import Book, Grade
from practicum.semester.log import Log
from practicum.semester.people import Group, Student
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.rerun import score_log

PLAIN = ("group", "student", "name", "email", "papers", "total", "grade", "peer")
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet would compute at the beginning of a cell
SEPARATORS = {",": ",", ";": ";", "tab": "\t", "\t": "\t"}


class Heads(Strict):
    """The last lines of both logs when a file was written: `audit` finds them again, or tells that lines are gone."""

    date: datetime
    scores: str
    drop: str
    rubric: str


def heads(semester: Semester) -> Heads:
    """Read both logs' heads; LogError if a chain is broken."""
    drop = Log(semester.drop / LOG).head()
    scores = score_log(semester).head()
    return Heads(date=datetime.now(UTC), scores=scores, drop=drop, rubric=semester.plan.rubric_hash)


def heads_path(csv_file: Path) -> Path:
    """Where a gradebook's heads stand."""
    return csv_file.with_name(f"{csv_file.name}.heads.json")


def parts(semester: Semester) -> list[str]:
    """List the rubric's paths, of inner nodes and leaves, in its order."""
    steps = [leaf.path.split(".") for leaf in semester.leaves]
    return list(dict.fromkeys(".".join(path[: i + 1]) for path in steps for i in range(len(path))))


def columns(semester: Semester) -> dict[str, str]:
    """Give the plan's columns and what stands in each; SemesterError names the nearest field for an unknown one."""
    known = [*PLAIN, *parts(semester)]
    first = [path for path in known[len(PLAIN):] if "." not in path]  # fmt: skip
    chosen = semester.plan.gradebook or {name: name for name in ("group", "student", "name", *first, "total", "grade")}
    wrong = [f"semester.yml: gradebook: {column}: {field!r} is no field ({choices(field, known)})"
             for column, field in chosen.items() if field not in known]  # fmt: skip
    if wrong:
        raise SemesterError("\n".join(wrong))
    return chosen


def grades(book: Book) -> list[tuple[Group, Student, Grade]]:
    """Give every student's grade, by group and name."""
    return [
        (group, student, book.grade(group.id, student.id))
        for group in book.groups.values()
        for student in sorted(group.students, key=_by_name)
    ]


def _by_name(student: Student) -> tuple[str, str]:
    return normalize("NFKD", student.name).casefold(), student.id  # so that É stands with E


def gradebook(
    book: Book, found: Sequence[tuple[Group, Student, Grade]], separator: str = ",", decimal: str = ".",
    bom: bool = True,
) -> str:  # fmt: skip
    """Write the CSV text; what is incomplete is an empty cell.

    It begins with a byte order mark, without which Excel takes UTF-8 for Windows-1252. A German Excel also wants
    `separator=";"` and `decimal=","`.
    """
    if separator not in SEPARATORS:
        raise SemesterError(f"separator {separator!r} (give , or ; or tab)")
    if decimal not in (".", ","):
        raise SemesterError(f"decimal {decimal!r} (give . or ,)")
    chosen = columns(book.semester)
    out = io.StringIO()
    writer = csv.writer(out, delimiter=SEPARATORS[separator], lineterminator="\r\n")  # RFC 4180, and what Excel writes
    writer.writerow(chosen)
    for group, student, grade in found:
        writer.writerow(_cell(book, field, group, student, grade, decimal) for field in chosen.values())
    return ("\ufeff" if bom else "") + out.getvalue()


def save(book: Book, text: str, out: Path) -> None:
    """Write the gradebook and, beside it, the heads of the logs that it was folded from."""
    write_whole(out, text)
    write_whole(heads_path(out), heads(book.semester).model_dump_json(indent=1) + "\n")


def missing(grade: Grade) -> list[str]:
    """Name the leaves that a grade lacks by their ids, each once, with how often where it is more than once."""
    leaves = [name.split(" ")[0].split(".")[-1] for name in grade.open]
    return [leaf + (f" ({leaves.count(leaf)})" if leaves.count(leaf) > 1 else "") for leaf in dict.fromkeys(leaves)]


def _cell(book: Book, field: str, group: Group, student: Student, grade: Grade, decimal: str) -> str:
    match field:
        case "total":
            return _number(grade.total, decimal)
        case "peer":
            return _number(grade.peer, decimal)
        case "grade":
            return _decimal(grade.grade, decimal)
        case "group":
            return _text(group.id)
        case "student":
            return _text(student.id)
        case "name":
            return _text(student.name)
        case "email":
            return _text(student.email)
        case "papers":
            return _text(" ".join(book.papers.get(group.id, [])))
    return _number(grade.parts[field], decimal)


def cut(percent: float) -> float:
    """Round down to two decimals: a total must not show a bound of a grade that it does not reach."""
    return floor(100 * percent + 1e-6) / 100


def _number(value: float | None, decimal: str) -> str:
    return "" if value is None else f"{cut(value):.2f}".replace(".", decimal)


def _decimal(grade: str, decimal: str) -> str:
    """Write a grade such as 1.3 with the decimal sign; one such as "passed" stays."""
    return grade.replace(".", decimal) if grade.replace(".", "", 1).isdigit() else _text(grade)


def _text(cell: str) -> str:
    """Keep a spreadsheet from computing a cell: an apostrophe makes it text."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
