"""A snapshot's files as the desk shows them: what groups hand in is taken to be hostile."""

import posixpath
import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

from practicum.semester.drop import DropError, File, manifest, snapshot_hash, snapshot_path

FIGURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
TYPES = FIGURES | {".pdf": "application/pdf"}
TEXT = "text/plain; charset=utf-8"  # everything else, HTML and programs first of all
MOST_FILE, MOST_REPORT = 30_000_000, 100_000  # bytes
SIGNS, MOST_SIGNS = "*_[]`<$~!&\\", 500  # in a paragraph; Markdown's time grows with their square
MOST_CELLS = 20_000  # of a table: each row is filled up to the width of the header
MATHS = re.compile(r"\$\$[^$]+\$\$|\$(?!\s)[^$]+(?<!\s)\$")


class LostError(DropError):
    """A file or snapshot that is not there as it was handed in."""


@lru_cache(512)
def files_of(drop: Path, snapshot: str) -> dict[str, File]:
    """List a snapshot's files by path, proved to be what its name says; LostError if they are not."""
    folder = snapshot_path(drop, snapshot)
    try:
        files = manifest(folder)
    except (DropError, OSError) as error:
        raise LostError(f"the snapshot {snapshot[:12]} cannot be read: {error} (restore it from a backup)") from None
    if snapshot_hash(files) != snapshot:
        raise LostError(f"the snapshot {snapshot[:12]} is not what was handed in (restore it from a backup)")
    return {file.path: file for file in files}


def read_file(drop: Path, snapshot: str, path: str) -> tuple[bytes, str]:
    """Give a file's bytes, proved to be those that were handed in, and the type that they are served as."""
    file = files_of(drop, snapshot).get(path)
    if file is None:
        raise LostError(f"{path}: is no file of the snapshot {snapshot[:12]}")
    if file.bytes > MOST_FILE:
        raise LostError(f"{path}: is too large to show here (open it in drop/snapshots/{snapshot[:12]}...)")
    data = (snapshot_path(drop, snapshot) / path).read_bytes()
    if sha256(data).hexdigest() != file.sha256:
        raise LostError(f"{path}: is not what was handed in (restore the snapshot from a backup)")
    kind = TYPES.get(posixpath.splitext(path)[1].lower(), TEXT)
    return data, kind if kind != TYPES[".pdf"] or data.startswith(b"%PDF-") else TEXT


def file_url(snapshot: str, path: str) -> str:
    """Where the desk serves a file."""
    return f"/file/{snapshot}/{quote(path)}"


@lru_cache(128)
def report(drop: Path, snapshot: str, path: str) -> Markup:
    """Render a Markdown file; HTML stays text, images come from the snapshot or not at all."""
    files = files_of(drop, snapshot)
    if files[path].bytes > MOST_REPORT:
        return Markup("<p>It is too long to show here: open it as text.</p>")
    text = without_comments(read_file(drop, snapshot, path)[0].decode(errors="replace"))
    tokens = MARKDOWN.parse(text)
    for token in tokens:
        _mend(token, snapshot, files)
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


def without_comments(text: str) -> str:
    """Drop HTML comments, of which the kit's templates are full."""
    kept, at = [], 0
    while (begin := text.find("<!--", at)) >= 0 and (end := text.find("-->", begin)) >= 0:
        kept.append(text[at:begin])
        at = end + 3
    return "".join([*kept, text[at:]])


def _maths(state: StateInline, silent: bool) -> bool:
    """Keep TeX as it is written: nothing of it is Markdown."""
    found = MATHS.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("code_inline", "code", 0).content = found[0]
    state.pos = found.end()
    return True


def _inline(state: StateCore) -> None:
    """Parse each paragraph, but leave as it is what would take the desk minutes."""
    for token in state.tokens:
        if token.type == "inline":
            if sum(map(token.content.count, SIGNS)) > MOST_SIGNS:
                token.children = [Token("text", "", 0, content=token.content)]
            else:
                token.children = []
                state.md.inline.parse(token.content, state.md, state.env, token.children)


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a table unless the lines below could become too many cells."""
    columns = state.src[state.bMarks[start] : state.eMarks[start]].count("|") + 1
    return columns * (end - start) <= MOST_CELLS and table(state, start, end, silent)


MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")
MARKDOWN.core.ruler.at("inline", _inline)
MARKDOWN.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
MARKDOWN.inline.ruler.before("escape", "maths", _maths)


def _mend(token: Token, snapshot: str, files: dict[str, File]) -> None:
    """Lead images and links to the snapshot; take away what leads elsewhere on this machine, and inline styles."""
    if style := str(token.attrs.pop("style", "")):
        token.attrSet("class", style.replace("text-align:", ""))
    closing: list[bool] = []
    for child in token.children or []:
        if child.type == "image":
            path = _local(str(child.attrs["src"]), files)
            if path and posixpath.splitext(path)[1].lower() in FIGURES:
                child.attrs = {"src": file_url(snapshot, path), "alt": "", "loading": "lazy"}
            else:
                told = f"[image {child.attrs['src']}, not in the snapshot: {child.content}]"
                child.type, child.content = "text", told
        elif child.type == "link_open":
            href = str(child.attrs["href"])
            path, outside = _local(href, files), urlsplit(href).scheme in ("http", "https")
            if path or outside:
                where = file_url(snapshot, path) if path else href
                child.attrs = {"href": where, "target": "_blank", "rel": "noopener noreferrer", "title": href}
            child.hidden = not path and not outside
            closing.append(child.hidden)
        elif child.type == "link_close":
            child.hidden = closing.pop()


def _local(address: str, files: dict[str, File]) -> str | None:
    path = posixpath.normpath(unquote(address))
    return path if path in files else None
