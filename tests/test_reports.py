"""The reports: peer ratings, gradebook, feedback and audit."""

import csv
import io
import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from practicum_fixtures import write
from semester_fixtures import PAPERS, PEOPLE, fake_rerun, fill, hand_in, semester, values
from typer.testing import CliRunner

import practicum.commands.reports
from practicum.cli import app
from practicum.semester.drop import submit
from practicum.semester.feedback import Frame, all_paths, page, page_path
from practicum.semester.feedback import write as write_pages
from practicum.semester.gradebook import gradebook, grades
from practicum.semester.grades import Book
from practicum.semester.log import FIRST, Event
from practicum.semester.peers import load_ratings
from practicum.semester.people import load_groups
from practicum.semester.plan import Late, Semester, SemesterError
from practicum.semester.rerun import hidden_seeds, score_log
from practicum.semester.scores import find_leaf, score
from practicum.semester.wording import kind_of, late_words, scrubber

assert practicum.commands.reports  # registers the commands


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy semester once; its tests copy it."""
    folder = tmp_path_factory.mktemp("reports")
    semester(folder)
    return folder


@pytest.fixture
def toy(made: Path, tmp_path: Path) -> tuple[Semester, Path]:
    shutil.copytree(made, tmp_path / "copy")
    return Semester(tmp_path / "copy/semester"), tmp_path / "copy/repository"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The toy semester in which g01 has everything, every leaf scored, and g02 some scores; its tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    s, root = semester(folder)
    for paper in PAPERS:
        hand_in(s, root, "g01", paper, "final")
        fake_rerun(s, root, "g01", paper, "final")
    complete(s, "g01")
    score(s, "kim", find_leaf(s, "theory"), ("g02", "peak2020toy", ""), 2, "Secret of g02.")
    return Book(s, root)


def complete(s: Semester, group: str) -> None:
    """Score every human leaf of a group; students get 4, 3 and 2 points in the talk."""
    for leaf in s.leaves:
        if leaf.check:
            continue
        if leaf.per == "paper":
            for i, paper in enumerate(PAPERS):
                score(s, "kim", leaf, (group, paper, ""), 3 + i, f"Of {paper}: <b>fine</b> & clear.")
        else:
            for i, (student, name) in enumerate(PEOPLE[group]):
                score(s, "kim", leaf, (group, "", student), 4 - i, f"Spoken by {name}.")


def run(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


# peers


def test_ratings_are_means_over_the_others(toy: tuple[Semester, Path]) -> None:
    s, _ = toy
    text = (
        "Gruppe;Von;An;Punkte\r\ng01;s0101@example.org;0102;4,5\r\ng01;0103;102;3\r\n;0102;0102;100\r\n"
        "g01;0102;0101;2\r\ng01;0103;0101; \r\ng01;0103;0102;3\r\n\r\n;0201;0202;0\r\n"
    )
    s.peers.write_bytes(text.encode("utf-16"))
    assert load_ratings(s, load_groups(s)) == {"g01": {"0102": (4.5 + 3) / 2, "0101": 2.0}, "g02": {"0202": 0.0}}


def test_no_file_no_ratings(toy: tuple[Semester, Path]) -> None:
    assert load_ratings(toy[0], load_groups(toy[0])) == {}


def test_each_wrong_rating_gets_a_line(toy: tuple[Semester, Path]) -> None:
    s, _ = toy
    rows = ["0101,9999,3", "0101,0201,3", "0101,0102,-1", "0101,0102,nan", "0101,0102,many", "0102,0101,2",
            "0102,0101,3", "0103,0101,1"]  # fmt: skip
    write(s.peers, "rater,student,points\n" + "\n".join(rows) + "\n")
    with pytest.raises(SemesterError) as error:
        load_ratings(s, load_groups(s))
    told = str(error.value).splitlines()
    assert [line.split(": ")[0] for line in told] == [f"peers.csv:{n}" for n in (2, 3, 4, 5, 6, 8)]
    assert "9999" in told[0]
    assert "0101 of g01 rates 0201 of g02" in told[1]
    assert "2 in line 7" in told[5]
    write(s.peers, "group,rater,student,points\ng02,0101,0102,3\n")
    with pytest.raises(SemesterError, match="says group 'g02'"):
        load_ratings(s, load_groups(s))


# gradebook


def table(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter))


def test_the_gradebook_has_the_plans_columns_and_no_zero_for_what_is_missing(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    code, out, err = run("gradebook", "--semester", s.folder, "--root", root)
    assert (code, err) == (0, "")
    assert "9 of 9 grades are incomplete" in out
    data = s.gradebook.read_bytes()
    assert data.startswith(b"\xef\xbb\xbfMatrikelnummer,Name,Gruppe,")
    rows = table(data.decode())
    assert list(rows[0]) == list(s.plan.gradebook)
    assert [row["Matrikelnummer"] for row in rows] == [student for team in PEOPLE.values() for student, _ in team]
    assert {cell for row in rows for name, cell in row.items() if name in ("Gesamt", "Note", "Erweiterung")} == {""}
    heads = json.loads((s.folder / "gradebook.csv.heads.json").read_text())
    assert heads["scores"] == score_log(s).head()


def test_a_complete_grade_is_the_rubrics_weighted_mean(whole: Book) -> None:
    book = whole
    rows = table(gradebook(book, grades(book), ";", ",", bom=False), ";")
    # humans gave 3/4 on one paper and 4/4 on the other; the machine's leaves are full; by the template's weights
    human, late = (3 / 4 + 4 / 4) / 2, 1
    theory, empirical, writing = 12 * human, 18 * (14 + 4 * human) / 18, 10 * human
    report = (theory + empirical + writing) * late
    extension = 14 * human + 6
    for i, row in enumerate(rows[:3]):
        total = report + extension + 40 * (4 - i) / 4
        assert float(row["Reproduzierbarkeit"].replace(",", ".")) == pytest.approx(100 * report / 40, abs=0.01)
        assert float(row["Gesamt"].replace(",", ".")) == pytest.approx(total, abs=0.01)
        least = max(bound for bound in s_grades(book).values() if bound <= total)
        assert row["Note"] == next(name for name, bound in s_grades(book).items() if bound == least).replace(".", ",")
    assert all(row["Gesamt"] == "" for row in rows[3:])


def s_grades(book: Book) -> dict[str, float]:
    return book.semester.plan.grades


def test_a_total_is_rounded_down(whole: Book) -> None:
    book = whole
    (group, student, grade), *_ = grades(book)
    for exact, shown in ((94.996, "94.99"), (95.0, "95.00"), (94.9999999999, "95.00"), (0.0, "0.00")):
        object.__setattr__(grade, "total", exact)
        assert table(gradebook(book, [(group, student, grade)]))[0]["Gesamt"] == shown


def test_unknown_fields_and_signs_are_told(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    plan = yaml.safe_load((s.folder / "semester.yml").read_text())
    plan["gradebook"] = {"Theorie": "reproducibility.teory", "Nr": "student", "X": "nonsense"}
    write(s.folder / "semester.yml", yaml.safe_dump(plan))
    code, _, err = run("gradebook", "--semester", s.folder, "--root", root)
    assert code == 1
    assert "Theorie: 'reproducibility.teory' is no field (did you mean 'reproducibility.theory'?" in err
    assert "X: 'nonsense'" in err
    assert not s.gradebook.exists()
    plan["gradebook"] = {}
    write(s.folder / "semester.yml", yaml.safe_dump(plan))
    assert run("gradebook", "--semester", s.folder, "--root", root, "--separator", "x")[0] == 1
    assert run("gradebook", "--semester", s.folder, "--root", root, "--decimal", ";")[0] == 1
    assert run("gradebook", "--semester", s.folder, "--root", root, "--no-bom")[0] == 0
    assert s.gradebook.read_text().startswith("group,student,name,reproducibility,extension,presentation,total,grade\n")


def test_a_name_is_no_formula(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    rows = ["g01,0101,=HYPERLINK(1),a@b.c,", 'g02,0102,"@x; y, ""z""",,', "g03,0103,-Ann,,"]
    write(s.groups, "group,student,name,email,given\n" + "\n".join(rows) + "\n")
    book = Book(s, root)
    names = {row["Matrikelnummer"]: row["Name"] for row in table(gradebook(book, grades(book)))}
    assert names == {"0101": "'=HYPERLINK(1)", "0102": "'@x; y, \"z\"", "0103": "'-Ann"}


# feedback


class Text(HTMLParser):
    """A page's text, and the tags that could fetch something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.ths = [], set(), []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag == "th":
            self.ths.append(dict(attrs).get("scope"))
        assert not {"src", "href", "srcset", "action", "data", "poster"} & dict(attrs).keys()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def html_of(book: Book, group: str, student: str | None = None, graders: bool = False) -> str:
    return page(book, Frame.of(book, graders), group, student)


def test_a_group_reads_all_that_counted(whole: Book) -> None:
    html = html_of(whole, "g01")
    text = " ".join(" ".join(Text(html).text).split())
    for told in (
        "The peak of toys", "The tail of toys", "6 of 6 hidden seeds ran", "Of peak2020toy: <b>fine</b> & clear.",
        "reproduced", "The slow error is below 4.", "3 of 4", "in time", "Due 2027-06-04 23:59",
    ):  # fmt: skip
        assert told in text
    s = whole.semester
    seeds = hidden_seeds(s, "peak2020toy", "midterm")
    tails = [values(seed)["tail"] for seed in seeds]
    assert f"{sum(tails) / len(tails):.3g} ± " in text
    assert "kim" not in html
    assert "(kim)" in html_of(whole, "g01", graders=True)


def test_the_earned_percents_sum_to_the_grade(whole: Book) -> None:
    book = whole
    html = html_of(whole, "g01", "0102")
    cells = re.findall(r'data-name="Of the grade">([\d.]+) of ([\d.]+) %', html)
    total = book.grade("g01", "0102").total
    assert total is not None
    assert sum(float(got) for got, _ in cells) == pytest.approx(total, abs=0.1)
    assert sum(float(worth) for _, worth in cells) == pytest.approx(100, abs=0.1)
    assert f'<td class="number">{total:g} %' in html


def test_individual_marks_are_on_the_own_page_alone(whole: Book) -> None:
    pages = {student: html_of(whole, "g01", student) for student, _ in PEOPLE["g01"]}
    group = html_of(whole, "g01")
    for student, name in PEOPLE["g01"]:
        said = f"Spoken by {name}."
        assert said in pages[student]
        assert said not in group
        assert not any(said in html for other, html in pages.items() if other != student)
    assert "Presentation" not in group
    assert "Total" not in group


def test_the_peer_factor_is_on_the_own_page_alone(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    write(s.peers, "rater,student,points\n0102,0101,4.1\n0101,0102,3.7\n0101,0103,4.4\n")
    book = Book(s, root)
    frame = Frame.of(book)
    own = page(book, frame, "g01", "0102")
    assert f"{3.7 / ((4.1 + 3.7 + 4.4) / 3):.2f}; it is not applied" in own
    assert "peer factor" not in page(book, frame, "g01")
    for html in (own, page(book, frame, "g01")):
        assert not any(points in html for points in ("4.1", "3.7", "4.4"))


def test_what_is_missing_is_said(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    book = Book(s, root)
    frame = Frame.of(book)
    assert "not scored yet" in page(book, frame, "g01")
    assert "Nothing was received yet." in page(book, frame, "g03")
    half = page(book, frame, "g02")
    assert "3 of 6 hidden seeds ran; of the others: it ran out of memory (3)" in half
    late = Book(s, root, now=datetime(2028, 1, 1, tzinfo=UTC))
    assert "Nothing was received." in page(late, Frame.of(late), "g03")


LEAK = 8  # a leaking program's keys, messages and sentences hold the seed in each of these ways
WAYS = [str, "{:,}".format, "{:_}".format, hex, "{:08x}".format, "seed={}.0".format, "{0}{0:x}".format, "x{}y".format]


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Semester, Path]:
    """g01's program tells its seed wherever it can, and g01 and the grader write seeds into their own texts."""
    assert len(WAYS) == LEAK
    s, root = semester(tmp_path_factory.mktemp("leaky"))
    seeds = [seed for name in s.plan.dates for seed in hidden_seeds(s, "peak2020toy", name)]

    def leak(seed: int) -> Any:
        return {"slow": 3.0, "leak": float(seed), **{way(seed): float(seed) for way in WAYS}, **values(seed)}

    kit = fill(s.kits / "g01/peak2020toy", program="# leaking\n")
    said = yaml.safe_load((kit / "claims.yml").read_text())
    told = " ".join(way(seed) for seed in seeds for way in WAYS)
    base = {"kind": "value", "status": "partly", "reason": f"Said by {told}."}
    said["extensions"] = [
        {**base, "id": "X1", "hypothesis": f"The seeds are {told}.", "keys": ["leak"], "value": float(seeds[0]),
         "expect": {"at_least": 1}},
        {**base, "id": "X2", "hypothesis": "A key is missing.", "keys": [str(seeds[1])], "value": 1.0,
         "expect": {"at_least": 1}},
    ]  # fmt: skip
    write(kit / "claims.yml", yaml.safe_dump(said))
    for name in ("midterm", "final"):
        write(kit / "report.md", f"{name}\n")
        submit(kit, name, s.drop)
        fake_rerun(s, root, "g01", "peak2020toy", name, leak)
    kit = fill(s.kits / "g01/tail2021toy", program="# failing\n")
    submit(kit, "midterm", s.drop)
    fake_rerun(s, root, "g01", "tail2021toy", measured=lambda seed: f"ended with exit code 1: {WAYS[3](seed)} {seed}")
    score(s, "kim", find_leaf(s, "theory"), ("g01", "peak2020toy", ""), 3, f"With seed {seeds[0]} it is off.")
    return s, root


def test_no_hidden_seed_is_on_any_page(leaky: tuple[Semester, Path]) -> None:
    s, root = leaky
    seeds = {seed for paper in PAPERS for name in s.plan.dates for seed in hidden_seeds(s, paper, name)}
    book = Book(s, root)
    for student in (None, "0101"):
        html = page(book, Frame.of(book), "g01", student)
        assert "Said by" in html
        assert "it ended with an error (6)" in html
        bare = re.sub(r"(?<=\d)[ _,.'](?=\d)", "", html)
        for seed in seeds:
            assert not re.search(rf"(?<!\d){seed}(?!\d)", bare)
            assert f"{seed:x}" not in html
        assert "exit code" not in html
        assert "tolerance" not in html
        mean = sum(hidden_seeds(s, "peak2020toy", "final")) / 6
        assert f"{mean:.3g}" not in html  # no mean of what a group invents: enough of them spell the seeds
        assert "measured on 6 seeds" in html


def test_nothing_of_others_is_on_a_page(whole: Book) -> None:
    book = whole
    frame = Frame.of(book)
    for group, students in PEOPLE.items():
        own = [page(book, frame, group, student) for student in [None, *(student for student, _ in students)]]
        for other, theirs in PEOPLE.items():
            if other == group:
                continue
            words = [other, "Secret of g02" if other == "g02" else other]
            words += [word for student, name in theirs for word in (student, name, f"s{student}@")]
            words += [w.submission.short for key, w in book.works.items() if key[0] == other]
            texts = [" ".join(Text(html).text) for html in own]
            assert not [w for w in words for t in texts if re.search(rf"(?<![\w.]){re.escape(w)}(?![\w.])", t)]


def test_pages_stand_alone_and_are_marked_up(whole: Book) -> None:
    html = html_of(whole, "g01", "0101")
    parsed = Text(html)
    assert '<html lang="en">' in html
    assert "<b>" not in html
    assert {"h1", "h2", "h3", "caption", "main"} <= parsed.tags
    assert not {"script", "link", "img", "iframe", "a", "object", "form"} & parsed.tags
    assert set(parsed.ths) == {"col", "row"}
    assert "url(" not in html
    assert "@import" not in html


def test_the_command_writes_pages_and_names_old_ones(toy: tuple[Semester, Path]) -> None:
    s, root = toy
    write(s.feedback / "g09.html", "")
    code, out, err = run("feedback", "--semester", s.folder, "--root", root)
    assert code == 0
    assert "12 pages are written in feedback/, for 3 groups" in out
    assert "g09.html: is of nobody" in err
    book = Book(s, root)
    assert {path for path in s.feedback.iterdir() if path.name != "g09.html"} == all_paths(book)
    assert run("feedback", "--group", "g7", "--semester", s.folder, "--root", root)[0] == 1
    assert page_path(book, "g01", "../a b").parent == s.feedback


def test_lateness_in_words() -> None:
    due, late = datetime(2027, 6, 4, 22, tzinfo=UTC), Late(grace_hours=2, per_day=0.1, max_days=3)
    said = {m: late_words(due, due + timedelta(minutes=m), late) for m in (-5, 0, 90, 121, 2000, 9000)}
    assert said[-5] == said[0] == "in time"
    assert said[90] == "90 minutes late, within the grace"
    assert said[121] == "2 hours late: it counts for 90 % of its marks"
    assert said[2000] == "33 hours late: it counts for 80 % of its marks"
    assert said[9000] == "6.2 days late: too late to count"


def test_scrubbing_leaves_other_numbers() -> None:
    scrub = scrubber({1234567890})
    assert scrub("1234567890, 1_234_567_890, 1234567891, 0x499602D2") == "[hidden], [hidden], 1234567891, 0x[hidden]"
    assert scrubber({57})("57, 0.57, 157, 39") == "[hidden], 0.[hidden], 157, 39"  # 39 is 57 in hexadecimal
    assert scrub(3) == 3
    assert scrubber(set())("1234567890") == "1234567890"
    assert kind_of("a secret code") == "it failed"


@pytest.mark.browser
def test_a_phone_shows_a_page_without_sideways_scrolling(whole: Book, tmp_path: Path, chromium: Any) -> None:
    path = write(tmp_path / "g01.html", html_of(whole, "g01", "0101"))
    for width in (390, 1280):
        tab = chromium.new_page(viewport={"width": width, "height": 800})
        asked = []
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert asked == [path.as_uri()]
        assert tab.get_by_role("columnheader", name="Why").count() > 0
        tab.close()


# audit


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, lines: list[dict], chain: bool = False) -> None:
    """Write a log; `chain`: as someone who computes all hashes anew."""
    before = FIRST
    for n, line in enumerate(lines, 1):
        if chain:
            line |= {"n": n, "previous": before}
            line["hash"] = before = Event.model_validate(line).digest()
    write(path, "".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def scored(toy: tuple[Semester, Path]) -> Semester:
    """The toy semester with a score that was changed, an override, and pages and a gradebook at their heads."""
    s, _ = toy
    for points, who in ((3, "kim"), (2, "lee")):
        score(s, who, find_leaf(s, "theory"), ("g01", "peak2020toy", ""), points, f"Given by {who}.")
    score(s, "kim", find_leaf(s, "matches"), ("g02", "peak2020toy", ""), 0.8, "A slip of the pen.")
    return s


def audited(s: Semester, *options: str) -> tuple[int, str, str]:
    return run("audit", "--semester", s.folder, *options)


def test_an_untouched_semester_passes(scored: Semester) -> None:
    code, out, err = audited(scored)
    assert (code, err) == (0, "")
    assert "3 → 2" in out
    assert "Given by lee." in out
    assert "override" in out
    head = score_log(scored).head()
    assert f"head of scores: {head[:12]}" in out
    assert audited(scored, "--head", head[:12])[0] == 0
    found = json.loads(audited(scored, "--json")[1])
    assert [(c["old"], c["new"], c["who"]) for c in found["changes"][:2]] == [(None, 3, "kim"), (3, 2, "lee")]
    assert found["problems"] == []


def change(lines: list[dict]) -> None:
    lines[3]["data"]["points"] = 4


def rehash(lines: list[dict]) -> None:
    change(lines)
    lines[3]["hash"] = Event.model_validate(lines[3]).digest()


def remove(lines: list[dict]) -> None:
    del lines[3]


def insert(lines: list[dict]) -> None:
    lines.insert(4, dict(lines[3]))


def reorder(lines: list[dict]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def behead(lines: list[dict]) -> None:
    del lines[0]


@pytest.mark.parametrize(
    ("tamper", "place", "whose"),
    [(change, 4, "kim"), (rehash, 5, "lee"), (remove, 4, "lee"), (insert, 5, "kim"), (reorder, 4, "lee"),
     (behead, 1, "rerun")],
)  # fmt: skip
def test_a_tampered_line_is_named(scored: Semester, tamper: Any, place: int, whose: str) -> None:
    path = score_log(scored).path
    lines = lines_of(path)
    assert [line["kind"] for line in lines] == ["rerun"] * 3 + ["score"] * 3
    tamper(lines)
    rewrite(path, lines)
    code, _, err = audited(scored)
    assert code == 1
    first = err.splitlines()[0]
    assert first.startswith(f"private/scores.jsonl:{place}: ")
    assert f"of {whose}, " in first


def test_a_line_that_is_no_event_hides_no_other(scored: Semester) -> None:
    path = score_log(scored).path
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:40]
    lines[4] = lines[4].replace("Given by lee", "Given by her")
    write(path, "\n".join(lines) + "\n")
    err = audited(scored)[2]
    assert "scores.jsonl:2: is no event" in err
    assert "scores.jsonl:5: was changed after it was written: line of lee" in err


def test_a_torn_last_line_is_told_and_passes(scored: Semester) -> None:
    with open(score_log(scored).path, "a") as file:
        file.write('{"n": 7, "ti')
    code, out, _ = audited(scored)
    assert code == 0
    assert "scores.jsonl:7: a torn line" in out


def test_a_cut_or_rewritten_tail_is_found_by_heads_elsewhere(scored: Semester, toy: tuple[Semester, Path]) -> None:
    s, root = scored, toy[1]
    head = score_log(s).head()
    book = Book(s, root)
    write_pages(book, ["g01"])
    assert audited(s, "--head", head)[0] == 0
    path = score_log(s).path
    lines = lines_of(path)
    rewrite(path, lines[:-1])
    code, _, err = audited(s, "--head", head)
    assert code == 1
    assert f"feedback/g01.html: has the head {head[:12]}, which scores.jsonl has no more" in err
    assert f"--head {head}: is no head" in err
    shutil.rmtree(s.feedback)
    assert audited(s)[0] == 0  # nobody can know
    assert audited(s, "--head", "abc")[0] == 1
    lines[3]["data"]["points"] = 4
    rewrite(path, lines, chain=True)
    score_log(s).events()  # the chain itself is sound
    assert audited(s)[0] == 0
    assert audited(s, "--head", head)[0] == 1


def test_the_logs_and_folders_vouch_for_each_other(scored: Semester) -> None:
    path = score_log(scored).path
    kept = lines_of(path)
    rewrite(path, kept[:2])  # g02's re-run is no longer logged, but its evidence is there
    assert re.search(r"private/reruns/\S+-peak2020toy-midterm: no line logs this evidence", audited(scored)[2])
    rewrite(path, kept)
    drop = scored.drop / "log.jsonl"
    rewrite(drop, lines_of(drop)[:-1])
    code, out, err = audited(scored)
    assert code == 1
    assert "no line accepts what private/scores.jsonl:3 re-ran: g02 peak2020toy midterm" in err
    assert "no line accepts it" in out


def test_changed_snapshots_and_evidence_are_found(scored: Semester) -> None:
    first, second, *_ = sorted((scored.drop / "snapshots").iterdir())
    report = first / "report.md"
    report.chmod(0o644)
    report.write_text("Better.")
    write(second / "__pycache__/helper.cpython-311.pyc", "planted")
    evidence = next((scored.private / "reruns").glob("*/evidence.json"))
    evidence.write_text(evidence.read_text().replace('"seconds":0.1', '"seconds":0.2').replace("0.1", "0.2"))
    code, _, err = audited(scored)
    assert code == 1
    assert f"drop/snapshots/{first.name[:12]} " in err
    assert "is not what was handed in" in err
    assert "holds __pycache__/helper.cpython-311.pyc, which was not handed in" in err
    assert "the re-run's evidence is not what was logged" in err
    shutil.rmtree(first)
    assert "is gone" in audited(scored)[2]


def test_older_rubrics_and_unsafe_reruns_are_told(scored: Semester) -> None:
    plan = yaml.safe_load((scored.folder / "semester.yml").read_text())
    plan["rubric"][0]["weight"] = 41
    write(scored.folder / "semester.yml", yaml.safe_dump(plan))
    log = score_log(scored)
    log.append("rerun", "kim", {**log.events()[2].data, "how": "unsafe-local"})
    code, out, _ = audited(scored)
    assert code == 0
    assert "under an older rubric: 3" in out
    assert "re-run without isolation (unsafe-local): g02 peak2020toy midterm" in out


def test_receipts_are_verified_if_asked(scored: Semester) -> None:
    receipt = next(scored.kits.glob("*/*/receipts/*.json"))
    said = json.loads(receipt.read_text())
    assert audited(scored, "--receipts")[0] == 0
    said["hash"] = sha256(b"").hexdigest()
    receipt.write_text(json.dumps(said))
    assert audited(scored)[0] == 0
    code, _, err = audited(scored, "--receipts")
    assert code == 1
    assert "the log has no such line" in err
