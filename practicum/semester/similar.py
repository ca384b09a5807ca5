"""Near-copies: programs by copydetect's fingerprints, reports by shingles of words. A place to look, not a verdict."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from practicum import ROOT
from practicum.cards import load_cards
from practicum.semester.desk_files import without_comments
from practicum.semester.drop import Submission, latest, manifest, snapshot_path, submissions
from practicum.semester.kit import texts
from practicum.semester.plan import Semester
from practicum.semester.tables import to_csv

K = 25  # characters of a fingerprint, names and strings counted as one: copydetect's own threshold
SHINGLE = 3  # words
FEWEST = 20  # shingles that two texts share: less is a phrase
LEAST = 150  # characters of a program that are its own, names and strings counted as one: less says nothing
LARGEST = 500_000  # bytes; more is data
PUBLIC = "public"


@dataclass(frozen=True)
class Source:
    """A file of a group, or a public solution (owner "public")."""

    owner: str
    paper: str
    name: str
    text: str

    @property
    def label(self) -> str:
        """Name it as the table does."""
        return f"{self.owner} {self.paper} {self.name}"


@dataclass(frozen=True)
class Pair:
    """Two files; `similarity` is the shared part of the smaller one, `shared` its lines or shingles."""

    kind: str  # program or report
    a: str
    b: str
    similarity: float
    shared: int


def similar(
    semester: Semester, root: Path = ROOT, threshold: float = 0.6, text_threshold: float = 0.3
) -> tuple[list[Pair], list[str]]:
    """List the pairs of files across groups, and with public solutions, at or above the thresholds, and notes."""
    counting = list(latest(submissions(semester.drop)).values())
    notes: list[str] = []
    kits = _kits(semester, root, counting)
    programs = [*_sources(semester, counting, (".py", ".ipynb"), notes), *_public(root)]
    reports = list(_sources(semester, counting, (".md", ".tex"), notes))
    pairs = compare_programs(programs, [kit["reproduce.py"] for kit in kits], threshold)
    pairs += compare_texts(reports, [text for kit in kits for name, text in kit.items() if name.endswith(".md")],
                           text_threshold)  # fmt: skip
    return pairs, notes


def compare_programs(sources: Sequence[Source], boilerplate: Iterable[str], threshold: float) -> list[Pair]:
    """Compare Python programs of different owners; what they share with the boilerplate does not count."""
    # imported here since it brings matplotlib, which takes seconds
    from copydetect import CodeFingerprint, compare_files  # type: ignore[import-untyped]
    from copydetect.utils import get_token_coverage  # type: ignore[import-untyped]

    def fingerprint(text: str) -> Any:
        return CodeFingerprint("a.py", K, 1, language="python", fp=io.StringIO(text))

    given: set[int] = set().union(*(fingerprint(text).hashes for text in dict.fromkeys(boilerplate)))

    def own(source: Source) -> Any:
        made = fingerprint(source.text)
        # copydetect's own way to leave boilerplate out also drops whatever a program repeats
        made.hashes -= given
        made.hash_idx = {key: at for key, at in made.hash_idx.items() if key not in given}
        made.token_coverage = get_token_coverage(made.hash_idx, K, len(made.filtered_code))
        return made

    def compare(a: tuple[Source, Any], b: tuple[Source, Any]) -> tuple[float, int]:
        small, large = sorted((a, b), key=lambda one: (one[1].token_coverage, one[0].label))
        _, (similarity, _), (slices, _) = compare_files(small[1], large[1])
        return min(1.0, float(similarity)), _lines(small[1].raw_code, slices)

    marked = [(source, made) for source in sources if (made := own(source)).token_coverage >= LEAST]
    near = [(a, b) for a, b in combinations(marked, 2)
            if _differ(a[0], b[0]) and 4 * len(a[1].hashes & b[1].hashes) >= threshold * min(
                len(a[1].hashes), len(b[1].hashes))]  # fmt: skip
    return _best("program", ((a[0], b[0], *compare(a, b)) for a, b in near), threshold)


def compare_texts(sources: Sequence[Source], boilerplate: Iterable[str], threshold: float) -> list[Pair]:
    """Compare reports of different owners by their shingles, those of the templates left out."""
    from sklearn.feature_extraction.text import CountVectorizer

    given = [_prose(text) for text in dict.fromkeys(boilerplate)]
    texts_ = [_prose(source.text) for source in sources]
    counter = CountVectorizer(ngram_range=(SHINGLE, SHINGLE), binary=True, token_pattern=r"(?u)\w+")
    try:
        counts = counter.fit_transform([*texts_, *given]).tocsr()
    except ValueError:  # no text has a shingle
        return []
    template = counts[len(texts_) :].sum(axis=0).A1 > 0
    own = counts[: len(texts_)][:, ~template]
    sizes = own.sum(axis=1).A1
    both = (own @ own.T).tocoo()
    found = ((sources[i], sources[j], both_ / min(sizes[i], sizes[j]), int(both_))
             for i, j, both_ in zip(both.row, both.col, both.data, strict=True)
             if i < j and both_ >= FEWEST and _differ(sources[i], sources[j]))  # fmt: skip
    return _best("report", found, threshold)


def table_csv(pairs: Iterable[Pair]) -> str:
    """Write the pairs as a CSV table."""
    rows = [(pair.kind, pair.a, pair.b, f"{pair.similarity:.3f}", pair.shared) for pair in pairs]
    return to_csv(["kind", "a", "b", "similarity", "shared"], rows)


def _best(kind: str, found: Iterable[tuple[Source, Source, float, int]], threshold: float) -> list[Pair]:
    """Keep of each pair of files, which may have a version for each deliverable, the most similar versions."""
    best: dict[tuple[str, str], Pair] = {}
    for a, b, similarity, shared in found:
        first, second = sorted((a, b), key=lambda source: (source.owner == PUBLIC, source.label))
        key = first.label, second.label
        if similarity >= threshold and (key not in best or similarity > best[key].similarity):
            best[key] = Pair(kind, *key, similarity, shared)
    return sorted(best.values(), key=lambda pair: (-pair.similarity, -pair.shared, pair.a, pair.b))


def _differ(a: Source, b: Source) -> bool:
    return a.owner != b.owner


def _lines(text: str, slices: Any) -> int:
    """Count the lines that these slices of a text touch."""
    if not len(slices) or not len(slices[0]):
        return 0
    touched = {n for start, end in zip(slices[0], slices[1], strict=True)
               for n in range(text.count("\n", 0, int(start)), text.count("\n", 0, int(end)) + 1)}  # fmt: skip
    return len(touched)


def _prose(text: str) -> str:
    """Leave out comments, which hold the templates' hints."""
    return without_comments(text)


def _kits(semester: Semester, root: Path, counting: Sequence[Submission]) -> list[dict[str, str]]:
    """Write the starter kits' texts for all papers that were handed in."""
    cards = load_cards(root, sorted({s.paper for s in counting}))
    return [texts(semester, card, card.practical, "g00", []) for card in cards.values() if card.practical]


def _sources(
    semester: Semester, counting: Iterable[Submission], types: tuple[str, ...], notes: list[str]
) -> Iterator[Source]:
    """Read the files of these types in the snapshots that count, each content of a group once."""
    seen: set[tuple[str, str]] = set()
    for s in counting:
        folder = snapshot_path(semester.drop, s.snapshot)
        for file in manifest(folder) if folder.is_dir() else []:
            path = folder / file.path
            if path.suffix.lower() not in types or path.name == "README.md" or (s.group, file.sha256) in seen:
                continue
            seen.add((s.group, file.sha256))
            if file.bytes > LARGEST:
                notes.append(f"{s.group} {s.paper} {file.path}: {file.bytes / 1e6:.1f} MB are too much to compare")
                continue
            text = path.read_bytes().decode(errors="replace")
            if path.suffix.lower() == ".ipynb":
                text = _cells(text)
            yield Source(s.group, s.paper, file.path, text)


def _cells(notebook: str) -> str:
    """Give a notebook's code, without the lines that only IPython reads; nothing if it is no notebook."""
    try:
        cells = json.loads(notebook)["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return "\n".join(line for cell in code for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))


def _public(root: Path) -> Iterator[Source]:
    """Read the public solutions: the reproductions' programs, and the demo's."""
    found = [*root.glob("reproductions/*/reproduce.py"), *root.glob("practicum/demo/programs/*.py")]
    for path in sorted(found):
        paper = path.parent.name if path.name == "reproduce.py" else path.stem
        text = path.read_text(encoding="utf-8", errors="replace")
        yield Source(PUBLIC, paper, path.relative_to(root).as_posix(), text)


