"""Read the students from a matching system's export, as such are."""

import re
from pathlib import Path

from practicum.semester.people import Entry, Student, spoilt, student_key
from practicum.semester.tables import Row, Table, read_table

FIELDS = {  # each field's header names, the best first
    "id": ["Matriculation number", "Matriculation no", "Matriculation", "Matrikelnummer", "Matrikelnr", "Matrikel-Nr",
           "Matr.-Nr.", "Matrnr", "Mtknr", "Matrikel", "Registration number", "Student number", "Student id",
           "Studierenden-ID", "id"],
    "name": ["Name", "Full name", "Student name", "Student", "Vollständiger Name", "Teilnehmer", "Teilnehmerin"],
    "first": ["First name", "Given name", "Given names", "Forename", "Vorname", "Vornamen"],
    "last": ["Last name", "Surname", "Family name", "Nachname", "Familienname"],
    "email": ["E-mail", "E-mail address", "Mail", "E-Mail-Adresse", "Mailadresse"],
    "group": ["Group", "Gruppe", "Team", "Group name", "Gruppenname", "Team name", "Teamname", "Group number",
              "Gruppennummer", "Group id", "Team id"],
}  # fmt: skip
NO_GROUP = {"", "-", "–", "—", "none", "n/a", "na", "keine", "ohne", "no group", "keine gruppe", "null", "nan"}


def read_students(path: Path) -> tuple[list[Entry], list[str]]:
    """Read a matching system's export, each student once, and notes on what was put right.

    SemesterError has a line for each problem: numbers that a spreadsheet spoilt, rows that contradict each other.
    """
    table = read_table(path, FIELDS, [["id"], ["name", "last"]], "put the matching system's export there")
    found: dict[str, Entry] = {}
    mails: dict[str, Entry] = {}
    for row in table.rows:
        entry = _entry(row, table)
        if entry is None:
            continue
        first = found.setdefault(student_key(entry.student.id), entry)
        if first is not entry:
            _compare(first, entry, table)
            continue
        mail = entry.student.email.casefold()
        other = mails.setdefault(mail, entry) if mail else entry
        if other is not entry:
            table.note(entry.line, f"has the e-mail address of line {other.line} (see that they are two students)")
    if not table.rows and not table.problems:
        table.problems.append(f"{path.name}: lists no student (export it again)")
    table.done()
    return list(found.values()), table.notes


def _entry(row: Row, table: Table) -> Entry | None:
    number, mail = row["id"].lstrip("'"), row["email"]
    if {"first", "name"} <= table.columns.keys() and "last" not in table.columns:
        name = f"{row['first']} {row['name']}".strip()  # German exports: Name, Vorname
    else:
        name = row["name"] or f"{row['first']} {row['last']}".strip()
    problem = spoilt(number)
    if not problem and not name:
        problem = f"{number} has no name (add it)"
    if not problem and name[0] in "=+-@":
        problem = f"the name {name!r} is a formula to a spreadsheet (correct it)"
    if not problem and mail and not re.fullmatch(r"[^@\s]+@[^@\s]+", mail):
        problem = f"{mail!r} is no e-mail address (correct it, or leave it out)"
    if problem:
        table.problem(row.line, problem)
        return None
    if _twice_encoded(name):
        table.note(row.line, f"{name!r} looks like UTF-8 read as Windows-1252 (export it again, as UTF-8)")
    group = "" if row["group"].casefold() in NO_GROUP else row["group"]
    return Entry(row.line, Student(id=number, name=name, email=mail), group)


def _compare(first: Entry, again: Entry, table: Table) -> None:
    """Note a row that repeats another, or tell in what it contradicts it."""
    pairs = {
        "matriculation number": (first.student.id, again.student.id), "name": (first.student.name, again.student.name),
        "e-mail": (first.student.email, again.student.email), "group": (first.group, again.group),
    }  # fmt: skip
    differ = [f"{what} {new or 'none'!r} here and {old or 'none'!r} there" for what, (old, new) in pairs.items()
              if (old != new if what == "matriculation number" else old.casefold() != new.casefold())]  # fmt: skip
    if differ:
        told = f"{again.student.id} contradicts line {first.line}: {', '.join(differ)} (keep one line)"
        table.problem(again.line, told)
    else:
        table.note(again.line, f"repeats line {first.line}: {again.student.id} is counted once")


def _twice_encoded(name: str) -> bool:
    try:
        return name.encode("cp1252").decode() != name
    except UnicodeError:
        return False
