"""Read CSV files as they come from systems and spreadsheets, and write our own."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from practicum.results import write_whole
from practicum.semester.plan import SemesterError

SEPARATORS = ";,\t|"
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # the first bytes of .xlsx and .ods, and of .xls
SPACES = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD])  # of no width
DEEPEST = 50  # lines above which a header stands


@dataclass(frozen=True)
class Row:
    """A line's cells, those of the named fields and all of them."""

    line: int
    fields: dict[str, str]
    cells: list[str]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


@dataclass
class Table:
    """A CSV file's header and rows; `problems` and `notes` gather one line each, and `done` tells the problems."""

    path: Path
    header: list[str]
    columns: dict[str, int]
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, line: int, told: str) -> None:
        """Add what is wrong with a line, with its mend."""
        self.problems.append(f"{self.path.name}:{line}: {told}")

    def note(self, line: int, told: str) -> None:
        """Add what was done about a line."""
        self.notes.append(f"{self.path.name}:{line}: {told}")

    def done(self) -> None:
        """Raise the problems that were found, if there are any."""
        if self.problems:
            raise SemesterError("\n".join(self.problems))


def read_table(path: Path, fields: Mapping[str, Sequence[str]], wanted: Sequence[Sequence[str]], write: str) -> Table:
    """Read a CSV file of whatever encoding and separator, with or without title lines above its header.

    `fields` lists each field's header names, the best first; `wanted` lists the fields that must be there, each
    with those that may stand for it; `write` says what writes the file. SemesterError tells what is wrong.
    """
    text = _decode(path, write)
    best: Table | None = None
    for separator in SEPARATORS:
        rows, torn = _rows(text, separator)
        for i, (_, cells) in enumerate(rows[:DEEPEST]):
            columns = _columns(cells, fields)
            if not best or len(columns) > len(best.columns):
                best = Table(path, cells, columns)
                _fill(best, rows[i + 1 :])
                if torn:
                    best.problem(*torn)
    if best is None:
        raise SemesterError(f"{path.name}: holds no row (see that it is the right file)")
    lacks = ["/".join(fields[name][0] for name in names) for names in wanted if not set(names) & best.columns.keys()]
    if lacks:
        raise SemesterError(
            f"{path.name}: has no header line with a column {' and a column '.join(lacks)} "
            f"(add it; recognised: {', '.join(best.header[i] for i in best.columns.values()) or 'none'})"
        )
    for name, i in best.columns.items():
        twice = [other for other in best.header if plain(other) == plain(best.header[i])]
        if len(twice) > 1:
            best.problems.append(f"{path.name}: two columns say {name}: {' and '.join(twice)} (remove one)")
    return best


def plain(name: str) -> str:
    """Reduce a header name to its small letters and digits, what is in brackets left out."""
    name = unicodedata.normalize("NFKD", re.sub(r"\(.*?\)|\[.*?\]", "", name).casefold())
    return re.sub(r"[^a-z0-9]", "", name)


def clean(cell: str) -> str:
    """Trim a cell, its blanks made single, and unwrap a spreadsheet's ="0123"."""
    cell = " ".join(unicodedata.normalize("NFC", cell).translate(SPACES).split())
    wrapped = re.fullmatch(r'="(.*)"', cell)
    return wrapped[1].strip() if wrapped else cell


def to_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write CSV as we keep it: commas, quotes where needed, one newline a row."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def write_once(path: Path, text: str, force: bool, hangs: str) -> str:
    """Write a file unless another one stands there, which only `force` overwrites; give what was done."""
    if path.is_file():
        if path.read_bytes() == text.encode():
            return f"{path.name} is up to date"
        if not force:
            raise SemesterError(f"{path.name}: is there and differs: {hangs} (--force overwrites it)")
    write_whole(path, text)
    return f"{path.name} is written"


def _decode(path: Path, write: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SemesterError(f"{path.name}: is missing ({write})") from None
    except OSError as error:
        raise SemesterError(f"{path.name}: cannot be read: {error.strerror} (see what stands there)") from None
    if data.startswith(SPREADSHEETS):
        raise SemesterError(f"{path.name}: is a spreadsheet, no CSV file (save it as CSV UTF-8)")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        codecs = ["utf-16"]
    elif b"\0" in data:  # UTF-16 without its mark: Latin letters have their zero byte second in little-endian
        codecs = ["utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"]
    else:
        codecs = ["utf-8-sig", "cp1252"]
    for codec in codecs:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise SemesterError(f"{path.name}: is no text in UTF-8, UTF-16 or Windows-1252 (save it as CSV UTF-8)")


def _rows(text: str, separator: str) -> tuple[list[tuple[int, list[str]]], tuple[int, str] | None]:
    """Split into rows that are not blank, each with the line (from 1) that it begins on; and the row that is torn."""
    # strict: a quote that is never closed would else swallow the rest of the file in silence
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    begin = 1
    while True:
        try:
            cells = [clean(cell) for cell in next(reader)]
        except StopIteration:
            return rows, None
        except csv.Error as error:
            return rows, (begin, f"{error} (mend the quotes in this line)")
        if any(cells):
            rows.append((begin, cells))
        begin = reader.line_num + 1


def _columns(cells: list[str], fields: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Find each field's column: the one of its names that stands first in the list of them."""
    names = [plain(cell) for cell in cells]
    found = {}
    for name, aliases in fields.items():
        for alias in map(plain, aliases):
            if alias in names:
                found[name] = names.index(alias)
                break
    return found


def _fill(table: Table, rows: list[tuple[int, list[str]]]) -> None:
    width = len(table.header)
    for line, cells in rows:
        if cells == table.header:  # exports pasted one below the other
            continue
        if any(cells[width:]):
            told = f"has {len(cells)} cells where the header has {width} (quote the cell that holds a separator)"
            table.problem(line, told)
            continue
        cells = (cells + [""] * width)[:width]
        table.rows.append(Row(line, {name: cells[i] for name, i in table.columns.items()}, cells))
