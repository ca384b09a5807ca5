"""The built book in a browser: alive, legible on a phone and in the dark, and asking nobody else for anything."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import altair as alt
import nbformat
import numpy as np
import pytest

from phenomena.explorers import MIME, rows, slider, spec

pytestmark = pytest.mark.browser

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NOISE: tuple[str, ...] = ()  # console errors that we know and bear; there are none
CHAPTER = "book/double_descent.html"
READY = """async () => {
  if (document.querySelector('script[src*="mathjax"]')) {
    while (!window.MathJax?.startup?.promise) await new Promise((go) => setTimeout(go, 20));
    await MathJax.startup.promise;
  }
  const figures = [...document.querySelectorAll("figure.explorer")];
  for (let i = 0; i < 400 && figures.some((figure) => !figure.querySelector("svg path, svg text")); i++)
    await new Promise((go) => setTimeout(go, 20));
}"""
FAULTS = """() => {
  const faults = [];
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) {
    const scrolls = (e) => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const out = [...document.body.querySelectorAll("*")].filter(
      (e) => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement));
    faults.push(`scrolls ${wide} px sideways because of ${out.slice(0, 3).map((e) => e.outerHTML.slice(0, 80))}`);
  }
  for (const image of document.images) {
    // without one of ours, Sphinx writes the file's name
    if (!image.alt.trim() || /[.](png|svg|jpe?g)$/.test(image.alt)) faults.push(`no alt text: ${image.src}`);
    if (image.complete && !image.naturalWidth) faults.push(`broken image: ${image.src}`);
  }
  for (const figure of document.querySelectorAll("figure.explorer")) {
    if (!figure.querySelector("svg")) faults.push("an explorer is not drawn");
    else if (!figure.querySelector("[role=graphics-document]").getAttribute("aria-label"))
      faults.push("an explorer has no alt text");
    for (const control of figure.querySelectorAll("input, select"))
      if (!control.getAttribute("aria-label")) faults.push("a control has no name");
  }
  for (const error of document.querySelectorAll("mjx-merror")) faults.push(`bad formula: ${error.textContent}`);
  return faults;
}"""


@contextmanager
def opened(chromium: Any, home: str, viewport: dict[str, int], theme: str = "light") -> Iterator[tuple[Any, list[str]]]:
    """A page that may ask only `home`, and the list of what went wrong on it."""
    faults: list[str] = []
    context = chromium.new_context(viewport=viewport)
    context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")

    def guard(route: Any) -> None:
        url = route.request.url
        if url.startswith((home, "data:", "blob:")):
            route.continue_()
        else:
            faults.append(f"asks for {url}")
            route.abort()

    context.route("**/*", guard)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    page.on("response", lambda answer: answer.status >= 400 and faults.append(f"{answer.status}: {answer.url}"))

    def told(message: Any) -> None:
        if message.type == "error" and not any(noise in message.text for noise in NOISE):
            faults.append(f"console: {message.text}")

    page.on("console", told)
    yield page, faults
    context.close()


def visit(page: Any, url: str) -> None:
    page.goto(url)
    page.evaluate(READY)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_is_sound(chromium: Any, site: str, html: Path, viewport: dict[str, int]) -> None:
    files = [file for file in html.rglob("*.html") if "_static" not in file.parts]
    redirects = [file for file in files if 'http-equiv="Refresh"' in file.read_text(encoding="utf8")]
    assert redirects == [html / "index.html"]  # to the start page, which is among the others
    pages = sorted(file.relative_to(html).as_posix() for file in files if file not in redirects)
    assert CHAPTER in pages
    found = {}
    with opened(chromium, site.removesuffix("html/"), viewport) as (page, faults):
        for name in pages:
            faults.clear()
            visit(page, site + name)
            if here := [*faults, *page.evaluate(FAULTS)]:
                found[name] = here
    assert not found, json.dumps(found, indent=1)


@pytest.mark.parametrize("chapter", ["double_descent", "generalization", "ntk", "robustness", "sgd_noise"])
def test_a_slider_redraws_the_figure(chromium: Any, site: str, chapter: str) -> None:
    with opened(chromium, site, DESKTOP) as (page, faults):
        visit(page, f"{site}book/{chapter}.html")
        figure = page.locator("figure.explorer", has=page.locator("input[type=range]")).first
        # a rule is a line, all other marks are paths
        marks = "(svg) => [...svg.querySelectorAll('path, line')].map((mark) => mark.outerHTML).join()"
        before = figure.locator("svg").first.evaluate(marks)
        control = figure.get_by_role("slider").first
        control.focus()
        value = control.input_value()
        page.keyboard.press("ArrowRight" if value != control.get_attribute("max") else "ArrowLeft")
        assert control.input_value() != value
        page.wait_for_timeout(300)
        assert figure.locator("svg").first.evaluate(marks) != before
        assert not faults


def test_a_choice_redraws_the_figure(chromium: Any, site: str) -> None:
    with opened(chromium, site, PHONE) as (page, faults):
        visit(page, site + "book/generalization.html")
        figure = page.locator("figure.explorer", has=page.locator("select")).first
        paths = "(svg) => [...svg.querySelectorAll('path')].map((path) => path.getAttribute('d')).join()"
        before = figure.locator("svg").first.evaluate(paths)
        figure.locator("select").select_option("random labels")
        page.wait_for_timeout(300)
        assert figure.locator("svg").first.evaluate(paths) != before
        assert not faults


def test_the_maths_is_typeset(chromium: Any, site: str) -> None:
    with opened(chromium, site, PHONE) as (page, _):
        visit(page, site + CHAPTER)
        assert page.locator("mjx-container").count() > 0
        assert page.locator("mjx-assistive-mml").count() > 0


def test_axis_labels_keep_their_contrast_in_the_dark(chromium: Any, site: str) -> None:
    colours = {}
    for theme in ("light", "dark"):
        with opened(chromium, site, DESKTOP, theme) as (page, _):
            visit(page, site + CHAPTER)
            label = page.locator("figure.explorer svg .role-axis-label text").first
            ink = label.evaluate("(text) => getComputedStyle(text).fill")
            paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            colours[theme] = ink
            assert contrast(ink, paper) > 4.5, (theme, ink, paper)
            page.evaluate("dispatchEvent(new Event('beforeprint'))")
            assert contrast(label.evaluate("(text) => getComputedStyle(text).fill"), "rgb(255, 255, 255)") > 4.5
    assert colours["light"] != colours["dark"]


def contrast(one: str, other: str) -> float:
    """The WCAG contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        rgb = np.array([float(x) for x in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_a_page_works_from_a_file(chromium: Any, html: Path) -> None:
    with opened(chromium, html.as_uri(), DESKTOP) as (page, faults):
        visit(page, (html / CHAPTER).as_uri())
        assert page.locator("figure.explorer svg").count() == page.locator("figure.explorer").count() > 0
        assert page.locator("mjx-container").count() > 0
        assert not faults


def test_jupyterlab_draws_the_same_explorer(chromium: Any, tmp_path: Path) -> None:
    noise, at = slider("noise", [0, 1, 2], "Label noise")
    data = rows(noise=[0, 0, 1, 1, 2, 2], x=[0, 1] * 3, y=[0, 1, 0, 2, 0, 3])
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, 3]))
    chart = alt.Chart(data).transform_filter(at).mark_line().encode(x="x:Q", y=y).add_params(noise)
    output = nbformat.v4.new_output("display_data", {MIME: spec(chart, "A line."), "text/plain": "A line."})
    cell = nbformat.v4.new_code_cell("show(chart, 'A line.')", outputs=[output])
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "lab.ipynb")
    with jupyterlab(tmp_path) as home, opened(chromium, home, DESKTOP) as (page, faults):
        page.goto(f"{home}lab/tree/lab.ipynb")
        page.wait_for_selector(".jp-OutputArea svg .role-axis-label", timeout=30_000)
        line = page.locator(".jp-OutputArea svg .mark-line path").first
        before = line.get_attribute("d")
        page.locator(".jp-OutputArea input[type=range]").fill("2")  # Lab keeps the arrow keys to itself
        page.wait_for_timeout(300)
        assert line.get_attribute("d") != before
        assert not [fault for fault in faults if fault.startswith("asks for")]


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A JupyterLab on `folder`, and its address."""
    runtime = folder / "runtime"
    names = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = {**os.environ, **{name: str(runtime) for name in names}}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--IdentityProvider.token=", "--ServerApp.port=0"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={folder}"]
    log = (folder / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(300):
            if found := re.search(r"http://127\.0\.0\.1:[1-9]\d*/", (folder / "log").read_text()):
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text())
        yield found[0]
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # a polite end waits for a kernel that may be half started
        server.wait()
        log.close()
