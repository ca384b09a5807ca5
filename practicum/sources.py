"""Which files a program depends on, and the hash by which we know that its results are stale."""

import ast
import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from practicum import ROOT

PACKAGES = ("phenomena",)  # the repository's own; a library's version stands beside the results instead
CELL = re.compile(r"^(`{3,}|~{3,})\{code-cell\}[^\n]*\n(?:---\n.*?\n---\n)?(.*?)^\1[ \t]*$", re.M | re.S)


def source_files(program: Path | str, root: Path = ROOT) -> list[Path]:
    """List the program's file and every module of the repository's packages that it imports, transitively.

    `program` is a Python file, a MyST notebook page, or the text of either. Modules that lie beside a
    program (its own helpers) count too.
    """
    root = Path(root).resolve()
    start = [Path(program).resolve()] if isinstance(program, Path) else []
    text = start[0].read_bytes() if start else str(program).encode()
    found, todo = set(start), _modules(_code(text), "", root, start[0].parent if start else None)
    while todo:
        file = todo.pop()
        if file not in found:
            found.add(file)
            package = _package(file, root)
            todo += _modules(file.read_bytes(), package, root, None if package else file.parent)
    return sorted(found)


def source_hash(program: Path, root: Path = ROOT) -> str:
    """Hash the names and bytes of the program's source files, line ends as LF; 16 hexadecimal digits."""
    digest = sha256()
    for file in source_files(Path(program), root):
        name = file.relative_to(Path(root).resolve()).as_posix()
        digest.update(name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


def _code(text: bytes) -> bytes:
    """Keep a page's code cells, without their options and magics; a Python file stays as it is."""
    page = text.decode(errors="replace").replace("\r\n", "\n")
    cells = [match[2] for match in CELL.finditer(page)]
    if not cells:
        return text
    return "\n".join(re.sub(r"^\s*[:%!].*$", "", cell, flags=re.M) for cell in cells).encode()


def _package(file: Path, root: Path) -> str:
    """Name the package that a module lies in, for its relative imports; none for a helper of a program."""
    parts = file.relative_to(root).parts[:-1]
    return ".".join(parts) if parts and parts[0] in PACKAGES else ""


def _modules(source: bytes, package: str, root: Path, beside: Path | None) -> list[Path]:
    """Find the files of the modules that a source imports, each with its packages' `__init__.py`."""
    files = []
    for name in _imports(source, package):
        parts = name.split(".")
        folder = root if parts[0] in PACKAGES else beside
        stems = [folder.joinpath(*parts[: i + 1]) for i in range(len(parts))] if folder else []
        for stem in stems:
            files += [file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()]
    return files


@lru_cache(maxsize=1024)
def _imports(source: bytes, package: str) -> tuple[str, ...]:
    """List every dotted name that a source may import; what does not parse imports nothing."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(name for name in names if name))
