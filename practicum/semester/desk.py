"""The desk: a grading page for the lecturer, served to this machine alone.

Whoever has the address with its token may score: it becomes a cookie that every request needs. What groups handed
in is served without rights of its own, and no page loads anything from elsewhere.
"""

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from practicum import PracticumError
from practicum.semester import desk_pages as pages
from practicum.semester.desk_views import templates
from practicum.semester.grades import Book
from practicum.semester.plan import PLAN, Semester


class Desk:
    """A semester at one grader's desk, and who may come to it."""

    def __init__(self, folder: Path, root: Path, who: str) -> None:
        self.folder, self.root, self.who = folder, root, who
        self.token, self.once, self.key = (secrets.token_urlsafe(32) for _ in range(3))
        self.port = 0
        self.templates = templates()
        self._book: Book | None = None
        self._seen: Any = None
        self.book()

    def book(self) -> Book:
        """Give all marks as they are now; what groups handed in is read again only if something changed."""
        seen = self._state()
        if self._book is None or seen != self._seen:
            self._book, self._seen = Book(Semester(self.folder), self.root), seen
        vars(self._book).pop("standing", None)
        self._book.now = datetime.now(UTC)
        return self._book

    def _state(self) -> list[tuple[Path, int, int]]:
        names = (PLAN, "groups.csv", "allotment.csv", "peers.csv", "drop/log.jsonl")
        paths = [self.folder / name for name in names]
        paths += [*self.folder.glob("private/reruns/*/evidence.json"), *self.root.glob("reproductions/*/paper.yml")]
        found = [(path, path.stat()) for path in sorted(paths) if path.exists()]
        return [(path, status.st_mtime_ns, status.st_size) for path, status in found]

    def address(self, token: str) -> str:
        """The page to open first."""
        return f"http://127.0.0.1:{self.port}/start?token={token}"


def application(desk: Desk) -> Application:
    """Put the pages together; nothing is logged, for addresses hold the token."""
    have = {"desk": desk}
    routes: list[Any] = [
        (r"/start", pages.Start, have), (r"/", pages.StartPage, have), (r"/score", pages.ScorePage, have),
        (r"/sheet/([^/]+)/([^/]+)(?:/([^/]+))?", pages.SheetPage, have),
        (r"/file/([0-9a-f]{64})/(.+)", pages.FilePage, have), (r"/(desk\.css|desk\.js)", pages.StaticPage, have),
    ]  # fmt: skip
    return Application(
        routes, default_handler_class=pages.Missing, default_handler_args=have, log_function=lambda handler: None,
        xsrf_cookies=True, xsrf_cookie_name=f"xsrf-{desk.port}",
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Strict"},
    )  # fmt: skip


async def serve(desk: Desk, port: int, ready: Callable[[], None], stop: asyncio.Event | None = None) -> None:
    """Serve the desk on loopback until stopped; `ready` is called once it can be asked."""
    try:
        sockets = bind_sockets(port, "127.0.0.1")
    except OSError as error:
        raise PracticumError(f"port {port} cannot be had: {error.strerror} (choose another, or --port 0)") from None
    desk.port = sockets[0].getsockname()[1]
    server = HTTPServer(application(desk), max_body_size=100_000, max_header_size=20_000)
    server.add_sockets(sockets)
    try:
        ready()
        await (stop or asyncio.Event()).wait()
    finally:
        server.stop()
        await server.close_all_connections()
