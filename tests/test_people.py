"""Students, groups and wishes: files as messy as they come, and each mistake told with its line."""

import codecs
from pathlib import Path

import pytest
import yaml
from practicum_fixtures import write
from typer.testing import CliRunner

import practicum.commands.people  # noqa: F401 - registers the commands
from practicum.app import app
from practicum.semester.people import Entry, Group, Student, form_groups, load_groups
from practicum.semester.plan import Semester, SemesterError
from practicum.semester.roster import read_students
from practicum.semester.wishes import rank, read_wishes

PLAN = {
    "title": "Toys", "dates": {"final": "2027-07-16 23:59"}, "group_size": 3,
    "rubric": [{"id": "all", "title": "All", "weight": 1, "due": "final", "grader": "human", "points": 4}],
}  # fmt: skip
EXPECTED = [("01234567", "Jörg Müller", "joerg@example.org", "Team 2"), ("12345678", "Zoë Ng", "", "")]


def semester(tmp_path: Path, **changed: object) -> Semester:
    write(tmp_path / "semester.yml", yaml.safe_dump(PLAN | changed))
    return Semester(tmp_path)


def students(tmp_path: Path, text: str | bytes) -> tuple[list[tuple[str, ...]], list[str]]:
    """What is read of an export: id, name, e-mail and group of each student; and the notes."""
    path = tmp_path / "students.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    entries, notes = read_students(path)
    return [(e.student.id, e.student.name, e.student.email, e.group) for e in entries], notes


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(SemesterError) as error:
        students(tmp_path, text)
    return str(error.value).splitlines()


def entries(*groups: str) -> list[Entry]:
    """One student for each group's name."""
    return [Entry(i, Student(id=f"{i:03}", name=f"N{i}"), group) for i, group in enumerate(groups)]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_separators_and_newlines(tmp_path: Path, codec: str, separator: str, newline: str) -> None:
    rows = [["Matrikelnummer", "Name", "E-Mail", "Gruppe"], ["01234567", "Jörg Müller", "joerg@example.org", "Team 2"],
            ["12345678", "Zoë Ng", "", ""]]  # fmt: skip
    text = newline.join(separator.join(row) for row in rows)
    assert students(tmp_path, text.encode(codec)) == (EXPECTED, [])


@pytest.mark.parametrize(
    "header",
    ["ID;FULL NAME;e-mail address;TEAM", "matriculation number ; name ; Mail ; Group name", "Matr.-Nr.;Name;mail;team"],
)
def test_header_names(tmp_path: Path, header: str) -> None:
    text = f"{header}\n01234567;Jörg Müller;joerg@example.org;Team 2\n12345678;Zoë Ng;;\n"
    assert students(tmp_path, text)[0] == EXPECTED


def test_all_that_is_messy_at_once(tmp_path: Path) -> None:
    text = (
        'sep=;\nPractical, summer term;;;;\n;;;;\n"Export of ""all"" students";;;;\n'
        "Nr;Vorname;Nachname;Matrikelnummer;E-Mail (privat);Gruppe;\n"
        '1; Jörg ;Müller\u00a0;="01234567";joerg@example.org;Team 2  ;\n'
        "\n;;;;;;\n"
        "Nr;Vorname;Nachname;Matrikelnummer;E-Mail (privat);Gruppe;\n"
        "2;Zoe\u0308;Ng;'12345678;;-\n"
        "3;Jörg;Müller;01234567;Joerg@Example.org;team 2;;;\n"
    )
    found, notes = students(tmp_path, text)
    assert found == EXPECTED  # the decomposed ë is composed
    assert notes == ["students.csv:11: repeats line 6: 01234567 is counted once"]


def test_names_with_separators_newlines_and_surname_columns(tmp_path: Path) -> None:
    text = 'Name,Vorname,id\n"Müller, von",Jörg,007\n"Ng\nLee",Zoë,008\n\nMax,Mia,009\nMax,Mia,009\n'
    found, notes = students(tmp_path, text)
    assert [row[:2] for row in found] == [("007", "Jörg Müller, von"), ("008", "Zoë Ng Lee"), ("009", "Mia Max")]
    assert notes == ["students.csv:7: repeats line 6: 009 is counted once"]  # lines of the file, not rows


def test_matriculation_number_goes_before_another_id(tmp_path: Path) -> None:
    assert students(tmp_path, "id,Name,Matrikelnummer\n1,Ann,0099\n")[0] == [("0099", "Ann", "", "")]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("1.23457E+06;Ann;;A", "3: a spreadsheet has spoilt the number 1.23457E+06"),
        ("1,23457E+06;Ann;;A", "3: a spreadsheet has spoilt the number 1,23457E+06"),
        ("1234567.0;Ann;;A", "3: a spreadsheet has spoilt the number 1234567.0"),
        (";Ann;;A", "3: has no matriculation number"),
        ("12;;;A", "3: 12 has no name"),
        ("12;Ann;ann at home;A", "3: 'ann at home' is no e-mail address"),
        ("12;=HYPERLINK(1);;A", "3: the name '=HYPERLINK(1)' is a formula"),
        ("12;Ng;Zoë;;A", "3: has 5 cells where the header has 4"),
        ("007;Bond;;B", "3: 007 contradicts line 2: group 'B' here and 'A' there"),
        ("007;Bond;b@example.org;", "3: 007 contradicts line 2: e-mail 'b@example.org' here and 'none' there, group"),
        ("7;Bond;;A", "3: 7 contradicts line 2: matriculation number '7' here and '007' there"),
        ('9;"Ann;;A\n10;Ben;;A', "3: unexpected end of data"),
    ],
)
def test_what_is_wrong_with_a_row(tmp_path: Path, row: str, told: str) -> None:
    (line,) = problems(tmp_path, f"id;name;email;group\n007;Bond;;A\n{row}\n")
    assert line.startswith(f"students.csv:{told}")
    assert line.endswith(")")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "id;name\n;Ann\n7;\n8;Ben\n8;Bea\n")) == 3


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "holds no row"),
        (b"\n \n", "holds no row"),
        (b"id;name\n", "lists no student"),
        (b"id;mail\n7;a@b\n", "has no header line with a column Name"),
        (b"first;second\n1;2\n", "has no header line with a column Matriculation number and a column Name"),
        (b"id;name;team;team\n7;Ann;A;B\n", "two columns say group: team and team"),
        (b"PK\x03\x04rest", "is a spreadsheet"),
        (codecs.BOM_UTF8 + b"id;name\n7;\x81\n", "is no text"),
        (b"\xff\xfe\x00", "is no text"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, data: bytes, told: str) -> None:
    (line,) = problems(tmp_path, data)
    assert line.startswith(f"students.csv: {told}")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SemesterError, match=r"^students.csv: is missing \("):
        read_students(tmp_path / "students.csv")


def test_notes_of_what_looks_wrong(tmp_path: Path) -> None:
    notes = students(tmp_path, "id;name;mail\n1;Jörg;a@b\n2;JÃ¶rg;A@B\n")[1]
    assert ["JÃ¶rg" in notes[0], "address of line 2" in notes[1], len(notes)] == [True, True, 2]


def test_named_groups_are_kept_in_natural_order() -> None:
    groups, notes = form_groups(entries("beta 10", "Alpha", "beta 9", "Beta 10", "beta 9", "beta 9"), size=3)
    assert [(g.id, g.given, len(g.students)) for g in groups] == [
        ("g01", "Alpha", 1), ("g02", "beta 9", 3), ("g03", "beta 10", 2)]  # fmt: skip
    assert notes == ["g01 has 1 students, not 3", "g03 has 2 students, not 3"]


def test_groups_of_one_number_each_keep_it() -> None:
    groups, _ = form_groups(entries("Group 11", "Group 2", "", "Group 2"), 1)
    assert [(g.id, g.given) for g in groups] == [("g02", "Group 2"), ("g11", "Group 11"), ("g12", "")]
    groups, _ = form_groups(entries("Group 11", "Group 2", "Team 2"), 1)
    assert [(g.id, g.given) for g in groups] == [("g01", "Group 2"), ("g02", "Group 11"), ("g03", "Team 2")]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_drawn_groups(size: int) -> None:
    for n in range(1, 30):
        groups, _ = form_groups(entries(*[""] * n), size)
        sizes = [len(g.students) for g in groups]
        assert sorted(s.id for g in groups for s in g.students) == [f"{i:03}" for i in range(n)]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(2, size, n)
        assert abs(len(groups) - n / size) <= 0.5 or len(groups) == 1  # as near to the size as can be


def test_draw_is_the_seeds_and_not_the_orders() -> None:
    people = entries(*[""] * 12)
    first, again, other = form_groups(people, 3, 1), form_groups(people[::-1], 3, 1), form_groups(people, 3, 2)
    assert first == again
    assert first[0] != other[0]
    assert first[1][0] == "12 students had no group: by seed 1 they are drawn into g01, g02, g03, g04"


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_command_writes_what_is_read_again(tmp_path: Path) -> None:
    s = semester(tmp_path)
    write(s.students, "id;name;mail;team\n007;Müller, Jörg;j@example.org;Team B\n8;Ann;;Team B\n9;Ben;;\n")
    code, out, _ = run("groups", "--semester", tmp_path)
    assert code == 0
    assert "groups.csv is written" in out
    assert "note: g01 has 2 students, not 3" in out
    assert s.groups.read_text(encoding="utf-8") == (
        'group,student,name,email,given\ng01,007,"Müller, Jörg",j@example.org,Team B\ng01,8,Ann,,Team B\ng02,9,Ben,,\n'
    )
    groups = load_groups(s)
    assert [student.id for student in groups["g01"].students] == ["007", "8"]
    assert groups["g01"].students[0] == Student(id="007", name="Müller, Jörg", email="j@example.org")


def test_command_overwrites_nothing_by_itself(tmp_path: Path) -> None:
    s = semester(tmp_path)
    write(tmp_path / "export.csv", "id;name\n7;Ann\n")
    assert run("groups", tmp_path / "export.csv", "--semester", tmp_path)[0] == 0
    assert "up to date" in run("groups", tmp_path / "export.csv", "--semester", tmp_path)[1]
    write(s.groups, s.groups.read_text() + "g02,8,Ben,,\n")
    before = s.groups.read_bytes()
    code, _, err = run("groups", tmp_path / "export.csv", "--semester", tmp_path)
    assert (code, s.groups.read_bytes()) == (1, before)
    assert "--force" in err
    assert run("groups", tmp_path / "export.csv", "--semester", tmp_path, "--force")[0] == 0
    assert s.groups.read_bytes() != before
    write(tmp_path / "export.csv", "id;name\n7;\n")
    before = s.groups.read_bytes()
    code, _, err = run("groups", tmp_path / "export.csv", "--semester", tmp_path, "--force")
    assert (code, err) == (1, "export.csv:2: 7 has no name (add it)\n")
    assert s.groups.read_bytes() == before


def test_groups_as_a_spreadsheet_saves_them(tmp_path: Path) -> None:
    s = semester(tmp_path)
    s.groups.write_bytes("group;student;name;email;given\r\ng10;7;Jörg;;\r\ng2;8;Ann;;\r\n;;;;\r\n".encode("cp1252"))
    groups = load_groups(s)
    assert list(groups) == ["g2", "g10"]
    assert groups["g10"].students[0].name == "Jörg"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("G 1,7,Ann,,\n", "groups.csv:2: group 'G 1' is no id"),
        ("../x,7,Ann,,\n", "groups.csv:2: group '../x' is no id"),
        ("g01,7,Ann,,\ng02,07,Ann,,\n", "groups.csv:3: student 07 is in line 2 already, in group g01"),
        ("g01,,Ann,,\n", "groups.csv:2: has no matriculation number"),
        ("g01,7,,,\n", "groups.csv:2: has no name"),
        ("", "groups.csv: lists no student"),
    ],
)
def test_groups_that_a_hand_has_spoilt(tmp_path: Path, rows: str, told: str) -> None:
    s = semester(tmp_path)
    write(s.groups, "group,student,name,email,given\n" + rows)
    with pytest.raises(SemesterError) as error:
        load_groups(s)
    assert str(error.value).startswith(told)


def test_no_groups_yet(tmp_path: Path) -> None:
    with pytest.raises(SemesterError, match="practicum groups"):
        load_groups(semester(tmp_path))


GROUPS = {name: Group(id=name, students=[], given=given) for name, given in
          [("g01", "Alpha"), ("g02", "Group Bee"), ("g03", "")]}  # fmt: skip
PAPERS = ["bao2020", "heckel2021", "zhang2017", "nagarajan2019"]


def wishes(tmp_path: Path, text: str) -> tuple[dict[str, dict[str, int]], list[str]]:
    return read_wishes(write(tmp_path / "wishes.csv", text), GROUPS, PAPERS)


@pytest.mark.parametrize(
    "text",
    [
        "group,choice 1,choice 2,choice 3\ng01,zhang2017,bao2020,\ng02,heckel2021,,\n",
        "\ufeffTeam;Zweite Wahl;Erste Wahl\nALPHA;BAO2020;Zhang2017\ngroup  bee;;heckel2021\n",
        "Timestamp\tGroup\t1st\t2nd\n1.5.\tg01\tzhang2017\tbao2020\n1.6.\tG02\t\theckel2021\n",
        "group;rank;paper\ng01;2;bao2020\ng01;1;zhang2017\nGroup Bee;7;heckel2021\ng01;2.0;bao2020\n",
    ],
)
def test_wishes_wide_and_long(tmp_path: Path, text: str) -> None:
    ranks, notes = wishes(tmp_path, text)
    assert ranks == {"g01": {"zhang2017": 1, "bao2020": 2}, "g02": {"heckel2021": 1}}
    assert notes[-2:] == [
        "name fewer papers than others (2), so that theirs weigh more: g02 (1)",
        "without wishes, every paper as good as another: g03",
    ]


def test_closed_papers_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "wishes.csv", "group,1,2\ng01,hu2021,zhang2017\ng02,zhang2017,\ng03,bao2020,\n")
    ranks, notes = read_wishes(path, GROUPS, PAPERS, ["hu2021"])
    assert ranks["g01"] == {"zhang2017": 1}
    assert notes == ["wishes.csv:2: hu2021 cannot be allotted, so it is left out"]


def test_what_ranks_count(tmp_path: Path) -> None:
    ranks, _ = wishes(tmp_path, "group,1\ng01,zhang2017\n")
    assert [rank(ranks, "g01", paper, PAPERS) for paper in PAPERS] == [4, 4, 1, 4]
    assert [rank(ranks, "g03", paper, PAPERS) for paper in PAPERS] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("group,1,2\ng01,zang2017,\n", "wishes.csv:2: 'zang2017' is no assignable paper (did you mean 'zhang2017'?"),
        ("group,1,2\ng01,bao2020,bao2020\n", "wishes.csv:2: bao2020 is chosen twice"),
        ("group,1,2\ng1,bao2020,\n", "wishes.csv:2: 'g1' is no group (did you mean 'g0"),
        ("group,1,2\n,bao2020,\n", "wishes.csv:2: '' is no group"),
        ("group,1\ng01,bao2020\nAlpha,zhang2017\n", "wishes.csv:3: g01 has other choices in line 2"),
        ("group,1,first\ng01,bao2020,\n", "wishes.csv: two columns are the same choice: 1, first"),
        ("group,best\ng01,bao2020\n", "wishes.csv: has no columns of choices"),
        ("1,2\nbao2020,zhang2017\n", "wishes.csv: has no header line with a column Group"),
        ("group,rank,paper\ng01,1,bao2020\ng01,1,zhang2017\n", "wishes.csv:3: g01 has this rank in line 2"),
        ("group,rank,paper\ng01,1,bao2020\ng01,2,bao2020\n", "wishes.csv:3: g01 has this paper in line 2"),
        ("group,rank,paper\ng01,0,bao2020\n", "wishes.csv:2: '0' is no rank"),
        ("group,rank,paper\ng01,1,\n", "wishes.csv:2: '' is no assignable paper"),
    ],
)
def test_what_is_wrong_with_wishes(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SemesterError) as error:
        wishes(tmp_path, text)
    assert str(error.value).startswith(told)
    assert str(error.value).endswith(")")


def test_a_name_that_means_two_groups(tmp_path: Path) -> None:
    groups = {"g01": Group(id="g01", students=[], given="g02"), "g02": Group(id="g02", students=[], given="Alpha")}
    with pytest.raises(SemesterError, match="'g02' is g01 and g02"):
        read_wishes(write(tmp_path / "wishes.csv", "group,1\ng02,bao2020\n"), groups, PAPERS)
