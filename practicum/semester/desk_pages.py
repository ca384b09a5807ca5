"""The desk's pages: who may ask for them, what browsers may do with them, and how a score is saved."""

import hmac
import secrets
import traceback
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from tornado.web import Finish, HTTPError, RequestHandler

from practicum import PracticumError
from practicum.semester.desk_files import LostError, read_file
from practicum.semester.desk_views import by_target, entry, sheet_view, sheets, start_view, totals, when
from practicum.semester.drop import submissions
from practicum.semester.grades import Book
from practicum.semester.plan import SemesterError
from practicum.semester.rubric import Leaf
from practicum.semester.scores import Score, Target, check_target, find_leaf, score, scores

if TYPE_CHECKING:
    from practicum.semester.desk import Desk

HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}  # fmt: skip
OURS = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")  # fmt: skip
THEIRS = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PDF = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"  # browsers show no PDF in a sandbox
STATIC = {"desk.css": "text/css; charset=utf-8", "desk.js": "text/javascript; charset=utf-8"}
MOST_REASON = 4000


def same(given: str, secret: str) -> bool:
    """Compare without telling by the time taken."""
    return hmac.compare_digest(given.encode(), secret.encode())


class Handler(RequestHandler):
    """What all answers share: who may ask, what browsers may do with the answer, and how mistakes are told."""

    def initialize(self, desk: "Desk") -> None:
        """Take the desk."""
        self.desk = desk

    def set_default_headers(self) -> None:
        """Forbid whatever is not needed."""
        self.clear_header("Server")
        for name, value in {**HEADERS, "Content-Security-Policy": OURS}.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse other host names (a foreign page's name may be led here) and whoever lacks the cookie."""
        port, path = self.desk.port, self.request.path
        if self.request.host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            raise HTTPError(421)
        if path != "/start" and not same(self.get_cookie(f"desk-{port}") or "", self.desk.key):
            raise HTTPError(403)

    def page(self, name: str, **have: Any) -> None:
        """Answer with a page."""
        self.finish(self.part(name, who=self.desk.who, xsrf=self.xsrf_token.decode(), **have))

    def part(self, name: str, **have: Any) -> str:
        """Render a template."""
        return self.desk.templates.get_template(name).render(have)

    def write_error(self, status_code: int, **more: Any) -> None:
        """Tell a mistake in words, as a page or to the script."""
        error = more.get("exc_info", (None, None))[1]
        told = str(error) if isinstance(error, PracticumError) else ""
        if isinstance(error, PracticumError | Timeout):
            self.set_status(404 if isinstance(error, LostError) else 400 if self.request.method == "POST" else 500)
            told = told or "another grader is writing to the log (save again)"
        if status_code == 403:
            told = "Open the address that `practicum desk` printed."
        told = told or HTTPStatus(status_code).phrase
        self.finish({"error": told} if self.request.method == "POST" else self.part("error.html.j2", told=told))

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Print what we did not foresee, without the address, which may hold the token."""
        if not isinstance(error, HTTPError | PracticumError | Timeout | Finish):
            traceback.print_exception(kind, error, trace)


class Start(Handler):
    """Turn the address's token into the cookie."""

    def get(self) -> None:
        """Let in whoever has the token; the browser's own goes once, since a list of processes shows it."""
        token = self.get_query_argument("token", "")
        browser = same(token, self.desk.once)
        if not browser and not same(token, self.desk.token):
            raise HTTPError(403)
        if browser:
            self.desk.once = secrets.token_urlsafe(32)
        self.set_cookie(f"desk-{self.desk.port}", self.desk.key, httponly=True, samesite="Strict", path="/")
        # no redirect: a strict cookie would not follow one that began on another site
        refresh = '<meta http-equiv="refresh" content="0; url=/">'
        self.finish(f'<!doctype html><link rel="icon" href="data:,">{refresh}<a href="/">To the desk</a>')


class StartPage(Handler):
    """The table of all groups."""

    def get(self) -> None:
        """Show it, filtered and sorted as asked."""
        order, name = self.get_query_argument("order", ""), self.get_query_argument("for", "")
        self.page("start.html.j2", **start_view(self.desk.book(), order == "open", name))


class SheetPage(Handler):
    """A group's work on a paper for a deliverable, beside the rubric."""

    def get(self, group: str, deliverable: str, paper: str | None) -> None:
        """Show it."""
        book = self.desk.book()
        key = (group, deliverable, paper or "")
        found = [s for s in sheets(book) if (s.group, s.deliverable, s.paper) == key]
        if not found:
            raise HTTPError(404)
        self.page("sheet.html.j2", **sheet_view(book, found[0], by_target(scores(book.semester))))


class FilePage(Handler):
    """A file of a snapshot, as it was handed in."""

    def get(self, snapshot: str, path: str) -> None:
        """Serve it so that it can do nothing."""
        drop = self.desk.book().semester.drop
        if all(s.snapshot != snapshot for s in submissions(drop)):
            raise HTTPError(404)
        data, kind = read_file(drop, snapshot, path)
        self.set_header("Content-Type", kind)
        self.set_header("Content-Security-Policy", PDF if kind == "application/pdf" else THEIRS)
        self.finish(data)


class StaticPage(Handler):
    """Our own style and script."""

    def get(self, name: str) -> None:
        """Serve it."""
        self.set_header("Content-Type", STATIC[name])
        self.finish((Path(__file__).parents[1] / "templates/desk" / name).read_bytes())


class ScorePage(Handler):
    """Scores, saved one by one."""

    def post(self) -> None:
        """Append a score or a withdrawal, unless someone has scored since the page was shown."""
        told, status = "", 200
        with FileLock(self.desk.folder / "private" / ".desk.lock", timeout=5):  # of all desks of the semester
            book = self.desk.book()
            leaf = find_leaf(book.semester, self.said("leaf"))
            target = (self.said("group"), self.said("paper"), self.said("student"))
            check_target(leaf, target, book.papers, book.students)
            points, reason = self._points(leaf), self.said("reason").strip()[:MOST_REASON]
            before = entry(book, by_target(scores(book.semester)), leaf, target)
            last = before.history[-1] if before.history else None
            again = last is not None and (last.who, last.points, last.reason) == (self.desk.who, points, reason)
            if not again:
                told = self._conflict(book, before.n, last, before.snapshot)
                status = 409 if told else 200
                if not told:
                    score(book.semester, self.desk.who, leaf, target, points, reason, before.snapshot)
        self.set_status(status)
        self.finish(self._answer(leaf, target, told))

    def said(self, name: str) -> str:
        """Give what the page sent under this name."""
        return self.get_body_argument(name, "", strip=False)

    def _points(self, leaf: Leaf) -> float | None:
        if self.said("action") == "withdraw":
            return None
        try:
            points = float(self.said("points").replace(",", "."))
        except ValueError:
            raise SemesterError(f"{leaf.title}: the points are missing (write a number)") from None
        if leaf.check is None and 0 <= points <= leaf.points and points * 2 % 1:
            raise SemesterError(f"{leaf.title}: {points:g} is no multiple of 0.5 (correct the points)")
        return points

    def _conflict(self, book: Book, n: int, last: Score | None, snapshot: str) -> str:
        """Say what has changed since the page was shown, if anything has."""
        if self.said("rubric") != book.semester.plan.rubric_hash:
            return "The rubric was changed meanwhile: copy your text, reload the page and save again."
        if last and self.said("n") != str(n):
            did = "withdrew the score" if last.points is None else f"scored {last.points:g}"
            return f"{last.who} {did} meanwhile ({last.reason}): look and save again."
        if self.said("snapshot") != snapshot:
            return "The group has handed in anew meanwhile: look at it in another tab and save again."
        return ""

    def _answer(self, leaf: Leaf, target: Target, told: str) -> dict[str, Any]:
        """Give the script the leaf's and the totals' new state."""
        book = self.desk.book()
        now = entry(book, by_target(scores(book.semester)), leaf, target)
        sheet = next(s for s in sheets(book) if (s.group, s.deliverable, s.paper) == (target[0], leaf.due, target[1]))
        standing = now.score
        saved = now.history[-1] if now.history and not told else None
        did = "withdrawn" if saved and saved.points is None else "saved"
        return {
            "error": told, "n": now.n, "snapshot": now.snapshot,
            "points": "" if standing is None else f"{standing.points:g}", "reason": standing.reason if standing else "",
            "said": f"{did} {when(book, saved.time, '%H:%M')} by {saved.who}" if saved else "",
            "standing": self.part("standing.html.j2", book=book, entry=now),
            "totals": self.part("totals.html.j2", **totals(book, sheet)),
        }  # fmt: skip


class Missing(Handler):
    """Whatever has no page."""

    def prepare(self) -> None:
        """Answer 404, to those who may ask."""
        super().prepare()
        raise HTTPError(404)
