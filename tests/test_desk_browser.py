"""The desk in a browser: by keyboard alone, against hostile files, legible on a phone and in the dark."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from semester_fixtures import PAPERS, semester
from test_desk import REPORT, SHEET, Desk, served

from practicum.semester.desk_files import file_url
from practicum.semester.drop import submit
from practicum.semester.plan import Semester
from practicum.semester.scores import find_leaf, score, scores

pytestmark = pytest.mark.browser

PAPER, OTHER = PAPERS
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
EVIL = """\
<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="alert(1)"><script>alert(1)</script>
<image href="https://example.org/x.png"/><rect width="9" height="9"/></svg>
"""
PAGE = '<script>alert(1)</script><img src="https://example.org/x.png" onerror="alert(1)">'
FAULTS = """() => {
  const faults = [], wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) faults.push(`scrolls ${wide} px sideways`);
  for (const cell of document.querySelectorAll("tbody :is(td, th)"))
    if (cell.scrollWidth > cell.clientWidth + 1) faults.push(`runs over its cell: ${cell.textContent.trim()}`);
  for (const field of document.querySelectorAll("input, textarea, select, progress"))
    if (![...field.labels].some((label) => label.textContent.trim())) faults.push(`no label: ${field.outerHTML}`);
  for (const act of document.querySelectorAll("button, a, summary"))
    if (!act.textContent.trim() && !act.querySelector("img[alt]")) faults.push(`no name: ${act.outerHTML}`);
  for (const image of document.images) if (!image.hasAttribute("alt")) faults.push(`no alt: ${image.outerHTML}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const colour = e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)";
    return channels(colour).length === 4 && channels(colour)[3] === 0 ? ground(e.parentElement) : colour;
  };
  for (const e of document.body.querySelectorAll("*")) {
    if (![...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const [dark, bright] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 80)}`);
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy semester, of which g01's submission is hostile."""
    folder = tmp_path_factory.mktemp("made")
    s, _ = semester(folder)
    kit = s.kits / "g01" / PAPER
    (kit / "report.md").write_text(REPORT)
    (kit / "evil.svg").write_text(EVIL)
    (kit / "page.txt").write_text(PAGE)
    submit(kit, "midterm", s.drop, replace=True)
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Semester:
    """A copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Semester(tmp_path / "semester")


@contextmanager
def opened(chromium: Any, desk: Desk) -> Iterator[tuple[Any, list[str]]]:
    """A page after the printed address was opened, and the list of what went wrong."""
    faults: list[str] = []
    context = chromium.new_context(viewport=DESKTOP)
    home = f"http://127.0.0.1:{desk.port}/"

    def guard(route: Any) -> None:
        if route.request.url.startswith((home, "data:")):
            route.continue_()
        else:
            faults.append(f"asks for {route.request.url}")
            route.abort()

    def watch(page: Any) -> None:
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.type}"), dialog.accept()))
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))

    context.route("**/*", guard)
    context.on("page", watch)
    page = context.new_page()
    page.goto(desk.address(desk.token))
    page.wait_for_url(home)
    yield page, faults
    context.close()


@contextmanager
def at_desk(chromium: Any, s: Semester) -> Iterator[tuple[Any, list[str]]]:
    """A page at a desk of its own."""
    desk = Desk(s.folder, s.folder.parent / "repository", "cw")
    with served(desk), opened(chromium, desk) as found:
        yield found


def visit(page: Any, path: str) -> None:
    page.goto(re.match(r"http://[^/]+", page.url)[0] + path)  # type: ignore[index]


def tab_to(page: Any, locator: Any) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(80):
        if locator.evaluate("(e) => e === document.activeElement"):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not lead to {locator}")


def test_a_score_by_keyboard_alone(chromium: Any, mine: Semester) -> None:
    with at_desk(chromium, mine) as (page, faults):
        tab_to(page, page.get_by_role("link", name=f"g01 midterm {PAPER}", exact=True))
        page.keyboard.press("Enter")
        page.wait_for_url(f"**{SHEET}")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the rubric"
        page.keyboard.press("Enter")
        theory = page.locator('form[data-leaf="reproducibility.theory"]')
        tab_to(page, theory.get_by_label("Points, 0 to 4"))
        page.keyboard.type("3")
        page.keyboard.press("Tab")
        assert "the reason is missing" in theory.locator("output").inner_text()
        assert scores(mine) == []
        page.keyboard.type("One step lacks.")
        page.keyboard.press("Tab")
        theory.get_by_text(re.compile(r"saved \d\d:\d\d by cw")).wait_for()
        assert [(x.leaf, x.target, x.points, x.reason, x.who) for x in scores(mine)] == [
            ("reproducibility.theory", ("g01", PAPER, ""), 3, "One step lacks.", "cw")
        ]
        assert "4.5 of 20.0 %" in page.locator("#totals").inner_text()  # 3 of 4 points for 6 %, the rest is open
        page.reload()
        assert theory.get_by_label("Points, 0 to 4").input_value() == "3"
        assert "scored by cw" in page.locator("main").inner_text()
        # Ctrl+Enter saves from the text, and the button withdraws
        theory.get_by_label("Reason").focus()
        page.keyboard.type("Yes. ")
        page.keyboard.press("Control+Enter")
        theory.get_by_text("saved").wait_for()
        tab_to(page, theory.get_by_role("button", name="Withdraw"))
        page.keyboard.press("Enter")
        theory.get_by_text("withdrawn").wait_for()
        assert [x.points for x in scores(mine)] == [3, 3, None]
        assert theory.get_by_label("Points, 0 to 4").input_value() == ""
        assert not faults


def test_an_override_without_a_reason_is_refused_and_nothing_is_lost(chromium: Any, mine: Semester) -> None:
    with at_desk(chromium, mine) as (page, faults):
        visit(page, f"/sheet/g01/midterm/{OTHER}")
        form = page.locator('form[data-leaf="reproducibility.empirical.runs"]')
        summary = page.locator("details.override", has=form).locator("summary")
        summary.focus()
        page.keyboard.press("Enter")
        field = form.get_by_label("Share, 0 to 1")
        tab_to(page, field)
        page.keyboard.type("0.5")
        page.keyboard.press("Enter")
        form.get_by_text("the reason is missing").wait_for()
        assert form.get_by_label("Reason").get_attribute("aria-invalid") == "true"
        assert scores(mine) == []
        visit(page, "/")  # the page warns, and the test says "leave"
        assert faults == ["dialog: beforeunload"]
        faults.clear()
        visit(page, "/sheet/g01/presentation")
        form = page.get_by_role("form", name=re.compile("own part of the talk Ben Bär"))
        form.get_by_label("Points").fill("3")
        form.get_by_label("Reason").fill("Clear.")
        page.context.set_offline(True)
        form.get_by_role("button", name="Save").click()
        form.get_by_text("the desk does not answer").wait_for()
        page.context.set_offline(False)
        form.get_by_role("button", name="Save").click()
        form.get_by_text("saved").wait_for()
        assert [(x.target, x.points) for x in scores(mine)] == [(("g01", "", "0102"), 3)]
        assert [fault for fault in faults if "ERR_INTERNET_DISCONNECTED" not in fault] == []


def test_two_pages_that_score_the_same_leaf(chromium: Any, mine: Semester) -> None:
    with at_desk(chromium, mine) as (page, faults):
        visit(page, SHEET)
        score(mine, "ab", find_leaf(mine, "theory"), ("g01", PAPER, ""), 3, "As it is.")
        form = page.locator('form[data-leaf="reproducibility.theory"]')
        form.get_by_label("Points").fill("1")
        form.get_by_label("Reason").fill("Not at all.")
        form.get_by_label("Reason").blur()
        form.get_by_text("ab scored 3 meanwhile (As it is.): look and save again").wait_for()
        assert form.get_by_label("Reason").input_value() == "Not at all."
        assert page.get_by_text("scored by ab").count() == 1
        assert [x.points for x in scores(mine)] == [3]
        form.get_by_role("button", name="Save").click()
        form.get_by_text("saved").wait_for()
        assert [x.points for x in scores(mine)] == [3, 1]
        assert [fault for fault in faults if "409" not in fault] == []


def test_hostile_files_run_nothing_and_ask_nobody(chromium: Any, mine: Semester) -> None:
    with at_desk(chromium, mine) as (page, faults):
        visit(page, SHEET)
        assert page.locator(".report").first.inner_text().startswith("A report <script>alert(1)</script>")
        page.locator(".figures img").scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('.figures img').naturalWidth > 0")
        assert not faults
        snapshot = page.locator('form[data-leaf="reproducibility.theory"]').get_attribute("data-snapshot")
        for name in ("evil.svg", "page.txt", "report.md"):
            visit(page, file_url(snapshot, name))
            page.wait_for_timeout(200)
            # the browser tells of each thing that it has kept the file from doing
            assert not [fault for fault in faults if not re.search("Content Security Policy|sandbox", fault)], faults


def test_pages_are_legible_and_labelled(chromium: Any, mine: Semester) -> None:
    paths = ("/", SHEET, f"/sheet/g01/midterm/{OTHER}", f"/sheet/g02/midterm/{PAPER}", "/sheet/g01/presentation")
    score(mine, "ab", find_leaf(mine, "matches"), ("g01", OTHER, ""), 0.5, "A typo in the control.")
    with at_desk(chromium, mine) as (page, faults):
        for path in paths:
            visit(page, path)
            page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
            for viewport in (DESKTOP, PHONE):
                for theme in ("light", "dark"):
                    page.set_viewport_size(viewport)
                    page.emulate_media(color_scheme=theme)
                    assert page.evaluate(FAULTS) == [], (path, viewport, theme)
        assert not faults
