"""Re-reads a page when the code or results that it shows change, and re-runs it when its own code's do.

The execution cache keys on a page's cells and kernelspec alone, so an edit to `phenomena` would go unseen. The
hash of what the cells import and load therefore goes into the kernelspec's display name, on its line, so that
line numbers stay. Sphinx's own dependencies go by time stamps, and a missing file counts as ever new.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from practicum.sources import CELL, source_files

LOGGER = logging.getLogger(__name__)
DISPLAY_NAME = re.compile(r"\A(---\n(?:(?!---).*\n)*? +display_name:.*?)([\"']?) *$", re.M)
OURS = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:12]


def _hash(root: Path, files: Iterable[Path]) -> str:
    digest = sha256()
    for file in sorted(set(files)):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def digests(text: str, root: Path) -> tuple[str, str]:
    """Hash what a page's cells run on ("" without cells), and that with all else that the page quotes."""
    cells = "\n".join(match[2] for match in CELL.finditer(text))
    papers = sorted(path.parent for path in root.glob("reproductions/*/paper.yml"))
    run = source_files(text, root) if cells else []
    run += [file for paper in papers if paper.name in cells for file in paper.glob("results*.json")]
    whole = "{scoreboard}" in text or "{catalogue}" in text
    quoted = papers if whole else [p for p in papers if p.name in text]
    shown: list[Path] = []
    for paper in quoted:  # the program too: it makes a result stale
        shown += [paper / "paper.yml", *paper.glob("results*.json")]
        shown += source_files(paper / "reproduce.py", root) if (paper / "reproduce.py").is_file() else []
    if quoted:
        shown += root.glob("practicum/*.py")
    return _hash(root, run) if cells else "", _hash(root, [*run, *shown]) + OURS


def outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """List the pages whose hash has changed, or whose last run failed (which Sphinx would pass over)."""
    root, before = Path(app.srcdir).resolve(), getattr(env, "freshness", {})
    texts = {page: Path(env.doc2path(page)).read_text(encoding="utf8") for page in env.found_docs}
    env.freshness = {page: digests(text, root) for page, text in texts.items()}
    runs = {page: data.get("exec_data") or {} for page, data in getattr(env, "nb_metadata", {}).items()}
    failed = {page for page, run in runs.items() if run.get("succeeded") is False}
    return [page for page, now in env.freshness.items() if now != before.get(page) or page in failed]


def mark(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the hash of what a page runs on into the key under which its run is cached."""
    digest, _ = getattr(app.env, "freshness", {}).get(page, ("", ""))
    if not digest:
        return
    source[0], found = DISPLAY_NAME.subn(rf"\1 ({digest})\2", source[0], count=1)
    if not found:
        LOGGER.warning("the front matter has no kernelspec display_name to carry the hash", location=page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the two events."""
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
