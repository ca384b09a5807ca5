"""The desk asked over loopback: who may come in, what it shows, what it saves, and what hostile files cannot do."""

import asyncio
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from semester_fixtures import PAPERS, fake_rerun, hand_in, semester
from typer.testing import CliRunner

import practicum.commands.desk  # noqa: F401
from practicum.app import app
from practicum.semester import desk_files
from practicum.semester.desk import Desk, serve
from practicum.semester.drop import latest, submissions, submit
from practicum.semester.plan import Semester
from practicum.semester.scores import find_leaf, score, scores

PAPER, OTHER = PAPERS
SHEET = f"/sheet/g01/midterm/{PAPER}"
THEORY = {"leaf": "reproducibility.theory", "group": "g01", "paper": PAPER}
ROOT = Path(__file__).parents[1]


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """The desk in a thread of its own, and its address."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(desk, 0, ready.set, stop)), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield f"http://127.0.0.1:{desk.port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()
    loop.close()


@contextmanager
def visitor(desk: Desk) -> Iterator[httpx.Client]:
    """Someone who has opened the address that was printed."""
    with served(desk) as home, httpx.Client(base_url=home, timeout=30) as client:
        assert client.get("/start", params={"token": desk.token}).status_code == 200
        yield client


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy semester, which nobody changes."""
    folder = tmp_path_factory.mktemp("made")
    semester(folder)
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> tuple[Semester, Path]:
    """A copy of the toy semester, and its repository."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Semester(tmp_path / "semester"), tmp_path / "repository"


@pytest.fixture(scope="module")
def shared(made: Path) -> Iterator[tuple[httpx.Client, Desk]]:
    """A desk on which nothing is scored."""
    desk = Desk(made / "semester", made / "repository", "cw")
    with visitor(desk) as client:
        yield client, desk


def post(client: httpx.Client, page: str = SHEET, **said: Any) -> httpx.Response:
    """Save as the page's script does, with what the page holds for that leaf."""
    text = client.get(page).text
    key = "".join(f'data-{name}="{said.get(name, "")}"\\s+' for name in ("leaf", "group", "paper", "student"))
    found = re.search(key + r'data-n="(\d+)" data-snapshot="(\w*)" data-rubric="(\w+)"', text)
    assert found, key
    held = dict(zip(("n", "snapshot", "rubric"), found.groups(), strict=True))
    xsrf = re.search(r'name="xsrf" content="([^"]+)"', text)
    assert xsrf
    return client.post("/score", headers={"X-XSRFToken": xsrf[1]}, data={**held, "action": "score", **said})


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nobody_comes_in_without_the_token(shared: tuple[httpx.Client, Desk]) -> None:
    inside, desk = shared
    snapshot = submissions(desk.book().semester.drop)[0].snapshot
    pages = ["/", SHEET, f"/file/{snapshot}/report.md", "/desk.css", "/desk.js", "/nothing", "/start", "/start?token=x"]
    with httpx.Client(base_url=inside.base_url) as outside:
        for page in pages:
            assert outside.get(page).status_code == 403, page
        assert outside.post("/score", data=THEORY).status_code == 403
        outside.cookies.set(f"desk-{desk.port}", "guessed")
        assert outside.get("/").status_code == 403
        outside.cookies.set(f"desk-{desk.port}", desk.token)  # the address's token is not the cookie
        assert outside.get("/").status_code == 403
    assert [inside.get(page).status_code for page in pages] == [200] * 5 + [404, 403, 403]


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_lack(shared: tuple[httpx.Client, Desk]) -> None:
    inside, desk = shared
    with httpx.Client(base_url=inside.base_url) as client:
        answer = client.get("/start", params={"token": desk.token})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert desk.token not in answer.headers["set-cookie"] + answer.text
        assert client.get("/").status_code == 200
    once = desk.once
    assert [httpx.get(f"{inside.base_url}/start?token={once}").status_code for _ in range(2)] == [200, 403]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}"])
def test_other_host_names_are_refused(shared: tuple[httpx.Client, Desk], host: str) -> None:
    client, desk = shared
    assert client.get("/", headers={"Host": host.format(port=desk.port)}).status_code == 421
    assert client.get("/", headers={"Host": f"localhost:{desk.port}"}).status_code == 200


def test_a_foreign_page_cannot_score(shared: tuple[httpx.Client, Desk]) -> None:
    client, desk = shared
    said = {**THEORY, "points": "3", "reason": "a", "n": "0", "action": "score"}
    assert client.post("/score", data=said).status_code == 403
    assert client.post("/score", data={**said, "_xsrf": "made up"}).status_code == 403
    assert scores(desk.book().semester) == []


def test_pages_allow_no_inline_script_and_nothing_from_elsewhere(shared: tuple[httpx.Client, Desk]) -> None:
    client, _ = shared
    for page in ("/", "/?order=open&for=midterm", SHEET, "/sheet/g01/presentation", f"/sheet/g03/final/{OTHER}"):
        answer = client.get(page)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        for tag, attributes in Tags(answer.text).found:
            assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)
            for name in {"src", "href", "action"} & attributes.keys():
                assert (attributes[name] or "").startswith(("/", "#", "data:,")), (tag, attributes)
            assert tag != "script" or attributes["src"] == "/desk.js"


def test_the_start_page_lists_what_is_open(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    desk = Desk(s.folder, root, "cw")
    with visitor(desk) as client:
        text = rows(client.get("/").text)
        assert len(text) == 15  # 3 groups, 2 papers for 2 deliverables each, and a presentation each
        assert "6 of 6 seeds, isolated" in text[0]
        assert "3 to score" in text[0]
        assert "3 of 6 seeds" in text[5]
        assert "nothing yet" in text[6]
        first = rows(client.get("/?order=open").text)
        assert [("2026" in row or "presentation" in row) for row in first] == [True] * 6 + [False] * 9
        assert all("midterm" in row for row in rows(client.get("/?for=midterm").text))
        # what happens while the desk is open shows at once: a submission, a re-run, a date
        hand_in(s, root, "g02", OTHER)
        assert "not re-run" in rows(client.get("/").text)[6]
        fake_rerun(s, root, "g02", OTHER)
        assert "6 of 6 seeds" in rows(client.get("/").text)[6]
        plan = yaml.safe_load((s.folder / "semester.yml").read_text())
        received = submissions(s.drop)[0].received
        plan["late"] = {"grace_hours": 0, "per_day": 0.25, "max_days": 3}
        plan["dates"]["midterm"] = (received - timedelta(hours=12)).isoformat()
        (s.folder / "semester.yml").write_text(yaml.safe_dump(plan, sort_keys=False))
        assert "× 0.75 late" in rows(client.get("/").text)[0]
        (s.folder / "semester.yml").write_text("title: [")
        answer = client.get("/")
        assert answer.status_code == 500
        assert "semester.yml:" in answer.text


def rows(text: str) -> list[str]:
    """The table's rows as words."""
    body = re.findall(r"<tr role=\"row\".*?</tr>", text.split("<tbody", 1)[1], re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in body]


def test_a_sheet_has_paper_claim_and_re_run_beside_the_rubric(shared: tuple[httpx.Client, Desk]) -> None:
    client, desk = shared
    text = client.get(SHEET).text
    work = desk.book().works["g01", PAPER, "midterm"]
    for row in rows(text):
        assert "reproduced" in row
        assert "agrees the re-run says reproduced too" in row
    assert [f"{row.mean:.4g} ± {row.sd:.2g} (6)" in text for row in work.rows] == [True] * len(work.rows)
    assert work.submission.short in text
    figure = desk_files.file_url(work.submission.snapshot, "figure.png")
    assert text.count(f'src="{figure}"') == 1  # in the report, hence not among the other figures
    assert client.get(figure).headers["content-type"] == "image/png"
    failing = client.get(f"/sheet/g02/midterm/{PAPER}").text
    assert "ran out of memory" in failing
    assert "wrote to stderr" in failing
    assert client.get("/sheet/g01/midterm").status_code == client.get("/sheet/g99/final/x").status_code == 404


def test_scores_are_saved_at_once_and_totals_follow(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    with visitor(Desk(s.folder, root, "cw")) as client:
        answer = post(client, **THEORY, points="3", reason="  A <b>step</b> lacks. ").json()
        assert answer["error"] == ""
        assert re.fullmatch(r"saved \d\d:\d\d by cw", answer["said"])
        found = scores(s)
        assert [(x.points, x.reason, x.who, x.n) for x in found] == [(3, "A <b>step</b> lacks.", "cw", answer["n"])]
        assert found[0].snapshot == submissions(s.drop)[0].snapshot
        assert "A &lt;b&gt;step&lt;/b&gt; lacks." in answer["standing"]
        # all machine leaves 7 of 20 percent, theory 3/4 of 6
        assert "11.5 of 20.0" in answer["totals"]
        assert "2 to score" in answer["totals"]
        answer = post(client, **THEORY, points="2,5", reason="Two steps lack.").json()
        assert "11.0" not in answer["totals"]
        assert f"{7 + 6 * 2.5 / 4:.1f} of 20.0" in answer["totals"]
        assert "History (2)" in answer["standing"]
        answer = post(client, **THEORY, action="withdraw", reason="Wrong paper.").json()
        assert answer["said"].startswith("withdrawn")
        assert answer["points"] == ""
        assert "7.0 of 20.0" in answer["totals"]
        assert [x.points for x in scores(s)] == [3, 2.5, None]
        talk = {"leaf": "presentation.talk", "group": "g01", "student": "0102"}
        answer = post(client, "/sheet/g01/presentation", **talk, points="4", reason="Clear.").json()
        assert scores(s)[-1].target == ("g01", "", "0102")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"points": "3", "reason": " "}, "the reason is missing"),
        ({"points": "", "reason": "a"}, "the points are missing"),
        ({"points": "much", "reason": "a"}, "the points are missing"),
        ({"points": "5", "reason": "a"}, "not from 0 to 4"),
        ({"points": "-1", "reason": "a"}, "not from 0 to 4"),
        ({"points": "nan", "reason": "a"}, "not from 0 to 4"),
        ({"points": "inf", "reason": "a"}, "not from 0 to 4"),
        ({"points": "2.3", "reason": "a"}, "no multiple of 0.5"),
        ({"action": "withdraw", "reason": ""}, "the reason is missing"),
        ({"leaf": "reproducibility.empirical.matches", "points": "1", "reason": ""}, "the reason is missing"),
        ({"leaf": "reproducibility.empirical.matches", "points": "2", "reason": "a"}, "not from 0 to 1"),
    ],
)
def test_what_cannot_be_saved_is_told(shared: tuple[httpx.Client, Desk], said: dict[str, str], told: str) -> None:
    client, desk = shared
    answer = post(client, **{**THEORY, **said})
    assert answer.status_code == 400
    assert told in answer.json()["error"]
    assert scores(desk.book().semester) == []


def test_targets_that_are_not_there(shared: tuple[httpx.Client, Desk]) -> None:
    client, desk = shared
    page = client.get(SHEET).text
    headers = {"X-XSRFToken": re.findall(r'name="xsrf" content="([^"]+)"', page)[0]}
    for wrong in ({"leaf": "no"}, {"group": "g99"}, {"paper": "else"}, {"paper": ""}, {"student": "0101"}):
        said = {**THEORY, "points": "3", "reason": "a", "n": "0", **wrong}
        assert client.post("/score", headers=headers, data=said).status_code == 400, wrong
    assert scores(desk.book().semester) == []


def test_an_override_needs_a_reason_and_shows_both(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    with visitor(Desk(s.folder, root, "cw")) as client:
        machine = {**THEORY, "leaf": "reproducibility.empirical.runs"}
        answer = post(client, **machine, points="0.25", reason="It reads the clock.").json()
        assert "25 %" in answer["standing"]
        assert "100 %" in answer["standing"]  # what the machine has
        assert scores(s)[-1].points == 0.25
        answer = post(client, **machine, action="withdraw", reason="It does not.").json()
        assert "set by" not in answer["standing"]


def test_two_graders_do_not_overwrite_each_other_unseen(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    with visitor(Desk(s.folder, root, "cw")) as ours, visitor(Desk(s.folder, root, "ab")) as theirs:
        assert post(theirs, **THEORY, points="3", reason="Theirs.").status_code == 200
        late = post(ours, **THEORY, points="1", reason="Mine.", n="0")
        assert late.status_code == 409
        assert "ab scored 3 meanwhile (Theirs.): look and save again" in late.json()["error"]
        assert "Theirs." in late.json()["standing"]
        assert [x.points for x in scores(s)] == [3]
        again = post(ours, **THEORY, points="1", reason="Mine.", n=str(late.json()["n"]))
        assert again.status_code == 200
        assert [(x.who, x.points) for x in scores(s)] == [("ab", 3), ("cw", 1)]
        # a script that lost the answer sends again: nothing is added
        assert post(ours, **THEORY, points="1", reason="Mine.", n="0").status_code == 200
        assert len(scores(s)) == 2
        # the command line counts, too; so does a withdrawal
        shown = str(scores(s)[-1].n)
        score(s, "de", find_leaf(s, "theory"), ("g01", PAPER, ""), None, "Not mine.")
        told = post(ours, **THEORY, points="2", reason="Again.", n=shown)
        assert "de withdrew the score meanwhile" in told.json()["error"]


def test_many_saves_at_once_lose_none(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    desks = [Desk(s.folder, root, who) for who in ("ab", "cw")]
    with visitor(desks[0]) as one, visitor(desks[1]) as other:
        codes: list[int] = []

        def work(client: httpx.Client) -> None:
            codes.extend(post(client, **THEORY, points=str(i % 5), reason=f"{i}", n="0").status_code for i in range(3))

        threads = [threading.Thread(target=work, args=[client]) for client in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(codes) == [200] + [409] * 5
    assert len(scores(s)) == 1


def test_a_new_submission_or_rubric_is_told_before_a_score(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    with visitor(Desk(s.folder, root, "cw")) as client:
        post(client, **THEORY, points="3", reason="Good.")
        old = latest(submissions(s.drop))["g01", PAPER, "midterm"].snapshot
        kit = s.kits / "g01" / PAPER
        (kit / "report.md").write_text("# New\n")
        submit(kit, "midterm", s.drop, replace=True)
        answer = post(client, **THEORY, points="2", reason="Worse.", snapshot=old)
        assert answer.status_code == 409
        assert "handed in anew" in answer.json()["error"]
        text = client.get(SHEET).text
        assert "earlier submission" in text
        assert "Earlier submissions (1)" in text
        assert desk_files.file_url(old, "report.md") in text
        answer = post(client, **THEORY, points="2", reason="Worse.", rubric="0" * 16)
        assert "rubric was changed" in answer.json()["error"]
        assert [x.points for x in scores(s)] == [3]


def hostile(s: Semester, files: dict[str, str]) -> str:
    """The snapshot after g01 has handed these files in."""
    kit = s.kits / "g01" / PAPER
    for name, text in files.items():
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text(text)
    return submit(kit, "midterm", s.drop, replace=True).snapshot


def test_files_are_served_without_rights_and_from_the_manifest_alone(
    mine: tuple[Semester, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, root = mine
    page, drawing = "<script>alert(1)</script>", '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    files = {"sub/a b.txt": page, "drawing.svg": drawing, "fake.pdf": page}
    snapshot = hostile(s, files)
    folder = s.drop / "snapshots" / snapshot
    with visitor(Desk(s.folder, root, "cw")) as client:
        kinds = {"sub/a b.txt": "text/plain", "drawing.svg": "image/svg+xml", "fake.pdf": "text/plain",
                 "reproduce.py": "text/plain"}  # fmt: skip
        for name, kind in kinds.items():
            answer = client.get(desk_files.file_url(snapshot, name))
            assert answer.status_code == 200, name
            assert answer.content == (folder / name).read_bytes()
            assert answer.headers["content-type"].split(";")[0] == kind
            assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
            assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("../../../groups.csv", "..%2f..%2f..%2fgroups.csv", "%2e%2e/%2e%2e/log.jsonl", "/etc/passwd",
                     "%2fetc%2fpasswd", "sub", "sub/../claims.yml", "a%00b", "..%5c..%5cgroups.csv"):  # fmt: skip
            assert raw_status(client, f"/file/{snapshot}/{path}") == 404, path
        assert raw_status(client, f"/file/{snapshot}/claims.yml") == 200
        assert client.get(f"/file/{'0' * 64}/report.md").status_code == 404
        monkeypatch.setattr(desk_files, "MOST_FILE", 10)
        assert client.get(f"/file/{snapshot}/report.md").status_code == 404
        monkeypatch.undo()
        # whoever can write to the drop folder cannot lead the desk elsewhere
        secret = tmp_path / "secret.txt"
        secret.write_text("secret")
        (folder / "drawing.svg").unlink()
        (folder / "drawing.svg").symlink_to(secret)
        (folder / "more.txt").symlink_to(secret)
        for name in ("drawing.svg", "more.txt"):
            answer = client.get(f"/file/{snapshot}/{name}")
            assert answer.status_code == 404
            assert "secret" not in answer.text.replace("secret.txt", "")
        desk_files.files_of.cache_clear()
        assert client.get(desk_files.file_url(snapshot, "reproduce.py")).status_code == 404
        assert "is no plain file" in client.get(SHEET).text


def raw_status(client: httpx.Client, path: str) -> int:
    """Ask for a path as it is: httpx would resolve its dots first."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 0)
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    connection.request("GET", path, headers={"Cookie": cookies})
    status = connection.getresponse().status
    connection.close()
    return status


REPORT = """\
# A report <script>alert(1)</script>

<img src=x onerror=alert(1)> <iframe src="https://example.org"></iframe>

![out](https://example.org/a.png) ![up](../../../groups.csv) ![prog](reproduce.py) ![ok](./figure.png "t")
![d](data:image/svg+xml;base64,PHN2Zz4=) ![q](x"onerror="alert(1))

[js](javascript:alert(1)) [JS](JaVaScRiPt:alert(1)) [own](/start?token=x) [web](https://example.org/) [file](claims.yml)
[score](../score) [e](&#106;avascript:alert(1)) <https://example.org/auto> [d](data:text/html,x) [s](//example.org)

| a | b |
|--:|---|
| <b onclick=alert(1)>1</b> | 2 |

$\\frac{a}{b} <script>$ and $a*b*c$ <!-- left <script> out -->
"""


def test_a_report_is_shown_without_its_html(mine: tuple[Semester, Path]) -> None:
    s, _ = mine
    snapshot = hostile(s, {"report.md": REPORT})
    text = str(desk_files.report(s.drop, snapshot, "report.md"))
    allowed = {"h1", "p", "img", "a", "table", "thead", "tbody", "tr", "th", "td", "code", "em", "strong", "b", "br"}
    for tag, attributes in Tags(text).found:
        assert tag in allowed - {"b"}, tag
        assert attributes.keys() <= {"src", "alt", "loading", "href", "target", "rel", "title", "class"}
        if "src" in attributes:
            assert attributes["src"] == f"/file/{snapshot}/figure.png"
        if "href" in attributes:
            where = attributes["href"] or ""
            assert where.startswith("https://example.org/") or where == f"/file/{snapshot}/claims.yml", where
            assert attributes["rel"] == "noopener noreferrer"
    assert text.count("<img") == 1
    assert r"<code>$\frac{a}{b} &lt;script&gt;$</code> and <code>$a*b*c$</code>" in text
    assert "left" not in text
    assert 'class="right"' in text


@pytest.mark.parametrize(
    "pattern",
    ["*a_ ", "*a* ", "![", "[a]: b\n", "<!--", "|x" * 500 + "|\n" + "|-" * 500 + "|\n" + "a\n" * 50000],
    ids=["open", "emphasis", "images", "references", "comments", "cells"],
)
def test_a_report_cannot_hold_the_desk_up(pattern: str) -> None:
    text = (pattern * (desk_files.MOST_REPORT // len(pattern) + 1))[: desk_files.MOST_REPORT]
    start = time.perf_counter()
    shown = desk_files.MARKDOWN.render(desk_files.without_comments(text))
    assert time.perf_counter() - start < 10
    assert not {"em", "img", "table", "a"} & {tag for tag, _ in Tags(shown[:100_000]).found}  # it was left as it is


def test_the_maths_and_html_of_claims_stay_text(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    kit = s.kits / "g01" / PAPER
    said = yaml.safe_load((kit / "claims.yml").read_text())
    said["claims"][0]["reason"] = "<script>alert(1)</script>"
    said["contributions"] = {"<img src=x>": ["<b>"]}
    (kit / "claims.yml").write_text(yaml.safe_dump(said))
    submit(kit, "midterm", s.drop, replace=True)
    fake_rerun(s, root, "g01", PAPER, measured=lambda seed: "<script>x</script>")
    with visitor(Desk(s.folder, root, "cw")) as client:
        text = client.get(SHEET).text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert [a for tag, a in Tags(text).found if tag == "script"] == [{"src": "/desk.js", "defer": None}]
        assert not [a for tag, a in Tags(text).found if tag == "img" and not (a["src"] or "").startswith("/file/")]


def desk_command(folder: Path, root: Path, *more: str) -> list[str]:
    program = "import practicum.commands.desk; from practicum.cli import main; main()"
    line = [sys.executable, "-c", program, "desk", "--semester", str(folder), "--root", str(root), "--no-browser"]
    return [*line, "--who", "cw", *more]


def test_the_command_serves_until_it_is_interrupted(mine: tuple[Semester, Path]) -> None:
    s, root = mine
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    # a shell's background job would ignore Ctrl-C: restore it in the child
    child = subprocess.Popen(desk_command(s.folder, root), env=environment, **pipes,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    assert child.stdout
    first = child.stdout.readline()
    found = re.fullmatch(r"the desk of cw: (http://127\.0\.0\.1:(\d+)/start\?token=(\S+))\n", first)
    assert found, first
    with httpx.Client() as client:
        assert client.get(found[1]).status_code == 200
        assert client.get(f"http://127.0.0.1:{found[2]}/").status_code == 200
        assert client.get(f"http://127.0.0.1:{found[2]}/start?token=no").status_code == 403
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=10)
    assert child.returncode == 0
    assert "the desk is closed" in out
    assert err == ""
    assert found[3] not in out


def test_a_port_in_use_is_told_in_one_line(shared: tuple[httpx.Client, Desk]) -> None:
    _, desk = shared
    folder, root = desk.folder, desk.root
    result = CliRunner().invoke(app, desk_command(folder, root, "--port", str(desk.port))[3:])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"port {desk.port} cannot be had: Address already in use (choose another" in result.stderr
    result = CliRunner().invoke(app, desk_command(folder / "none", root)[3:])
    assert result.exit_code == 1
    assert "holds no semester.yml" in result.stderr


def test_the_desk_listens_to_this_machine_alone(shared: tuple[httpx.Client, Desk]) -> None:
    _, desk = shared
    with socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.2", desk.port)) != 0  # another address of the same machine
