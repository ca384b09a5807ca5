"""Students and their groups: formed, written to `groups.csv`, and read back from there."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from practicum.cards import Text
from practicum.reading import Strict
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.tables import Row, read_table, to_csv

OURS = {"group": ["group"], "student": ["student"], "name": ["name"], "email": ["email"], "given": ["given"]}
ID = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Student(Strict):
    """A student, by matriculation number."""

    id: Text
    name: Text
    email: str = ""


class Group(Strict):
    """A group; `given` is what the matching system calls it."""

    id: Text
    students: list[Student]
    given: str = ""


@dataclass(frozen=True)
class Entry:
    """A student as the export has them, the name of their group included ("" for none)."""

    line: int
    student: Student
    group: str


def form_groups(entries: Iterable[Entry], size: int, seed: int = 0) -> tuple[list[Group], list[str]]:
    """Keep the groups that are named, in the natural order of their names, and draw groups of the other students.

    Ids are g01, g02, ...; where each name has one number, all different, the ids keep these numbers. Sizes of drawn
    groups differ by one at most. The notes tell of groups that are not of this size, and of the draw.
    """
    named: dict[str, Group] = {}
    alone: list[Student] = []
    for entry in entries:
        if entry.group:
            group = named.setdefault(entry.group.casefold(), Group(id="-", students=[], given=entry.group))
            group.students.append(entry.student)
        else:
            alone.append(entry.student)
    groups = sorted(named.values(), key=lambda group: _natural(group.given))
    drawn = [Group(id="-", students=students) for students in _draw(alone, size, seed)]
    numbers = _numbers([group.given for group in groups])
    numbers += [max(numbers, default=0) + 1 + i for i in range(len(drawn))]
    digits = max(2, *(len(str(number)) for number in numbers)) if numbers else 2
    for group, number in zip(groups + drawn, numbers, strict=True):
        group.id = f"g{number:0{digits}}"
        group.students.sort(key=lambda student: student.id)
    notes = [f"{group.id} has {len(group.students)} students, not {size}" for group in groups + drawn
             if len(group.students) != size]  # fmt: skip
    if drawn:
        told = ", ".join(group.id for group in drawn)
        notes.insert(0, f"{len(alone)} students had no group: by seed {seed} they are drawn into {told}")
    return groups + drawn, notes


def groups_csv(groups: Iterable[Group]) -> str:
    """Write `groups.csv`: one row a student."""
    rows = [(group.id, student.id, student.name, student.email, group.given)
            for group in groups for student in group.students]  # fmt: skip
    return to_csv(list(OURS), rows)


def load_groups(semester: Semester) -> dict[str, Group]:
    """Read `groups.csv`, which a hand may have edited, by id; SemesterError has a line for each problem."""
    path = semester.groups
    table = read_table(path, OURS, [["group"], ["student"], ["name"]], "`practicum groups` writes it")
    groups: dict[str, Group] = {}
    lines: dict[str, Row] = {}
    for row in table.rows:
        name, student = row["group"], row["student"]
        if not ID.fullmatch(name):
            table.problem(row.line, f"group {name!r} is no id (write one such as g07: small letters, digits, - and _)")
        elif problem := spoilt(student) or ("" if row["name"] else "has no name (add it)"):
            table.problem(row.line, problem)
        elif (first := lines.setdefault(student_key(student), row)) is not row:
            told = f"student {student} is in line {first.line} already, in group {first['group']} (remove one line)"
            table.problem(row.line, told)
        else:
            group = groups.setdefault(name, Group(id=name, students=[], given=row["given"]))
            group.students.append(Student(id=student, name=row["name"], email=row["email"]))
    if not table.rows and not table.problems:
        table.problems.append(f"{path.name}: lists no student (`practicum groups --force` writes it anew)")
    table.done()
    return dict(sorted(groups.items(), key=lambda item: _natural(item[0])))


def find_group(name: str, groups: dict[str, Group]) -> str | None:
    """Give the id of the group of this id or given name; None if there is none, SemesterError if there are two."""
    word = name.casefold()
    found = {key for key, group in groups.items() if word and word in (key, group.given.casefold())}
    if len(found) > 1:
        raise SemesterError(f"{name!r} is {' and '.join(sorted(found))}, by id and by given name (rename one)")
    return found.pop() if found else None


def spoilt(number: str) -> str:
    """Say what is wrong with a matriculation number, if anything is."""
    if not number:
        return "has no matriculation number (add it, or remove the line)"
    if re.fullmatch(r"\d+([.,]\d*)?[eE][+-]\d+|\d+[.,]0*", number):
        return f"a spreadsheet has spoilt the number {number} (export it again, that column as text)"
    if number[0] in "=+-@" or " " in number:
        return f"{number!r} is no matriculation number (correct it)"
    return ""


def student_key(number: str) -> str:
    """Give what tells students apart: a spreadsheet may have dropped leading zeros in one of two rows."""
    return number.lstrip("0").casefold()


def _draw(students: list[Student], size: int, seed: int) -> list[list[Student]]:
    """Draw groups of about this size, which differ by one at most; nobody is left alone if that can be."""
    if not students:
        return []
    students = sorted(students, key=lambda student: student.id)  # so that the file's order does not matter
    count = max(1, min(int(len(students) / size + 0.5), len(students) // min(size, 2)))
    order = np.random.default_rng(seed).permutation(len(students))
    return [[students[i] for i in part] for part in np.array_split(order, count)]


def _numbers(names: list[str]) -> list[int]:
    """Number the groups: by their own numbers if they have one each, all different; else 1, 2, ..."""
    found = [re.findall(r"\d+", name) for name in names]
    own = [int(digits[0]) for digits in found if len(digits) == 1]
    unique = len(set(own)) == len(names) and 0 not in own
    return own if unique and len(own) == len(names) else list(range(1, len(names) + 1))


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], name
