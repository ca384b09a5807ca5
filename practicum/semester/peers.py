"""What students gave each other, `peers.csv`: the base of the peer factor."""

from collections.abc import Mapping
from math import isfinite
from statistics import fmean

from practicum import choices
from practicum.semester.people import Group, find_group, student_key
from practicum.semester.plan import Semester
from practicum.semester.tables import Row, Table, read_table

MOST = 1000  # points that one can give
FIELDS = {  # each field's header names, the best first
    "group": ["group", "Gruppe", "Team", "Group name", "Gruppenname"],
    "rater": ["rater", "From", "By", "Rated by", "Assessor", "Reviewer", "Von", "Bewertet von", "Bewertende"],
    "student": ["student", "To", "Rated", "Ratee", "Assessed", "An", "Bewertet", "Für", "Bewertete"],
    "points": ["points", "Rating", "Score", "Value", "Punkte", "Bewertung", "Wert"],
}  # fmt: skip


def load_ratings(semester: Semester, groups: Mapping[str, Group]) -> dict[str, dict[str, float]]:
    """Give each student's mean rating by the others of the group, by group; {} without the file.

    Ratings of oneself and empty cells do not count. SemesterError has a line for each rating that cannot be.
    """
    if not semester.peers.is_file():
        return {}
    table = read_table(semester.peers, FIELDS, [["rater"], ["student"], ["points"]], "put the peer ratings there")
    people = {_key(name): (group.id, student.id) for group in groups.values() for student in group.students
              for name in (student.id, student.email) if name}  # fmt: skip
    given: dict[tuple[str, str, str], tuple[float, int]] = {}
    for row in table.rows:
        pair, points = _pair(row, table, people, groups), _points(row, table)
        if pair is None or points is None:
            continue
        first, line = given.setdefault(pair, (points, row.line))
        if first != points:
            told = f"{pair[1]} gives {pair[2]} {points:g} here and {first:g} in line {line} (keep one line)"
            table.problem(row.line, told)
    table.done()
    found: dict[str, dict[str, list[float]]] = {}
    for (group, rater, student), (points, _) in given.items():
        if rater != student:
            found.setdefault(group, {}).setdefault(student, []).append(points)
    return {group: {student: fmean(all_) for student, all_ in rated.items()} for group, rated in found.items()}


def _pair(
    row: Row, table: Table, people: Mapping[str, tuple[str, str]], groups: Mapping[str, Group]
) -> tuple[str, str, str] | None:
    """Find the group, the rater and the student of a line, or tell why there are none."""
    unknown = [row[name] for name in ("rater", "student") if _key(row[name]) not in people]
    if unknown:
        known = [student.id for group in groups.values() for student in group.students]
        table.problem(row.line, f"no student {unknown[0]!r} in groups.csv ({choices(unknown[0], known, 5)})")
        return None
    (group, rater), (other, student) = people[_key(row["rater"])], people[_key(row["student"])]
    if group != other:
        table.problem(row.line, f"{rater} of {group} rates {student} of {other} (only the own group is rated)")
        return None
    if row["group"] and find_group(row["group"], dict(groups)) != group:
        table.problem(row.line, f"says group {row['group']!r}, but {rater} and {student} are in {group} (correct it)")
        return None
    return group, rater, student


def _points(row: Row, table: Table) -> float | None:
    """Read the points, with a decimal comma or point; an empty cell is no rating."""
    text = row["points"]
    if not text:
        return None
    try:
        points = float(text.replace(",", "."))
    except ValueError:
        points = float("nan")
    if not (isfinite(points) and 0 <= points <= MOST):
        table.problem(row.line, f"points {text!r} (write a number from 0 to {MOST}, or leave the cell empty)")
        return None
    return points


def _key(name: str) -> str:
    """Give what a name is looked up by; an apostrophe before it is a spreadsheet's mark of text."""
    return student_key(name.lstrip("'"))
