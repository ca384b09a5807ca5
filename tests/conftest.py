"""What tests share: the built book behind a loopback server, Debian's chromium, one thread for small tensors."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch: work this small only loses time waiting for a second one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    folder = ROOT / "_build/html"
    if not (folder / "book/index.html").is_file():
        pytest.fail("_build/html holds no book: run `make book` first", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def site(html: Path) -> Iterator[str]:
    """The built book's address, below a sub-path as on a class's server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(html.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/html/"
    server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser."""
    if not CHROMIUM.exists():
        reason = f"{CHROMIUM} is missing (apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _no_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables have the width of a pipe: xdist hands its own terminal's on."""
    monkeypatch.delenv("COLUMNS", raising=False)
