"""The drop folder: what groups hand in, as immutable snapshots named by their content, and a log of what was accepted.

A snapshot is complete before its line in the log makes it accepted, so that a crash leaves neither half. The
time is the drop folder's own: that of a file written there, whatever the group's clock says.
"""

import os
import shutil
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, mkdtemp
from typing import Annotated

from filelock import FileLock
from pydantic import AwareDatetime, Field, ValidationError

from practicum import PracticumError, choices
from practicum.cards import Card, Text
from practicum.reading import Strict, read
from practicum.results import write_whole
from practicum.semester.claims import GroupClaims, load_claims
from practicum.semester.log import Event, Log
from practicum.semester.plan import Public, SubmissionLimits

LEFT_OUT = ("__pycache__", "receipts", ".ipynb_checkpoints")  # and whatever starts with a dot
NEEDED = ("claims.yml", "reproduce.py")
LOG, PLAN, SNAPSHOTS, INCOMING = "log.jsonl", "plan.yml", "snapshots", "incoming"


class DropError(PracticumError):
    """A submission that cannot be accepted, one line a problem; nothing is kept of it."""


class File(Strict):
    """A file of a snapshot: its path below the folder, bytes, SHA-256."""

    path: str
    bytes: int
    sha256: str


class Receipt(Strict):
    """What the group gets: what was accepted, when by the drop folder's clock, and the line of its log."""

    group: str
    paper: str
    deliverable: str
    snapshot: str
    received: AwareDatetime
    due: AwareDatetime
    factor: float
    files: list[File]
    line: int
    hash: str


class Accepted(Strict):
    """What a line of the log says."""

    group: Text
    paper: Text
    deliverable: Text
    snapshot: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Submission:
    """An accepted submission, line `n` of the drop folder's log."""

    group: str
    paper: str
    deliverable: str
    snapshot: str
    received: datetime
    n: int

    @property
    def short(self) -> str:
        """The snapshot's name as people read it."""
        return self.snapshot[:12]


def clock(drop: Path) -> datetime:
    """Tell the time of the file system that the drop folder is on, to the second."""
    drop.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=drop, prefix=".clock-") as file:
        file.write(b".")
        file.flush()
        return datetime.fromtimestamp(int(os.stat(file.name).st_mtime), UTC)


def manifest(folder: Path, limits: SubmissionLimits | None = None, whole: bool = False) -> list[File]:
    """List the files that a snapshot of `folder` holds; DropError has a line for each that it must not.

    `whole`: also what is left out of snapshots, which a snapshot itself must not have either.
    """
    found: list[File] = []
    problems: list[str] = []
    for path in _walk(folder, whole):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        if not name.isprintable():  # the name stands in the manifest's lines, and on terminals
            problems.append(f"{name!r}: has signs that cannot be printed (rename it)")
            continue
        if not stat.S_ISREG(status.st_mode):
            problems.append(f"{name}: is no plain file (copy what a link leads to, or remove it)")
            continue
        if limits and PurePosixPath(name).suffix.lower() not in limits.types:
            problems.append(f"{name}: files of this type are not taken (allowed: {' '.join(limits.types)})")
        if limits and status.st_size > limits.file_mb * 1e6:
            problems.append(f"{name}: has {status.st_size / 1e6:.1f} MB, more than {limits.file_mb:g} (shrink it)")
            continue
        digest = sha256(path.read_bytes()).hexdigest()
        found.append(File(path=name, bytes=status.st_size, sha256=digest))
    total = sum(file.bytes for file in found) / 1e6
    if limits and len(found) > limits.files:
        problems.append(f"{folder.name}: has {len(found)} files, more than {limits.files} (remove some)")
    if limits and total > limits.total_mb:
        problems.append(f"{folder.name}: has {total:.1f} MB, more than {limits.total_mb:g} (remove or shrink files)")
    if problems:
        raise DropError("\n".join(problems))
    return found


def _walk(folder: Path, whole: bool) -> list[Path]:
    """List what is not a folder, without entering links, in an order that no system changes."""
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [n for n in folders if n not in links and (whole or not (n in LEFT_OUT or n.startswith(".")))]
        found += [here / name for name in [*files, *links] if whole or not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def snapshot_hash(files: list[File]) -> str:
    """Name a snapshot: SHA-256 over the lines "sha256 bytes path" in the order of the paths."""
    ordered = sorted(files, key=lambda file: file.path)
    return sha256("".join(f"{f.sha256} {f.bytes} {f.path}\n" for f in ordered).encode()).hexdigest()


def snapshot_path(drop: Path, snapshot: str) -> Path:
    """Where a snapshot's files stand."""
    return drop / SNAPSHOTS / snapshot


def load_public(path: Path) -> Public:
    """Read the public part of the plan, `plan.yml` of a drop folder or a kit."""
    if not path.is_file():
        raise DropError(f"{path.parent}: holds no {PLAN} (is it the right folder?)")
    return read(path, Public, path.parent)


def kit_claims(kit: Path) -> GroupClaims:
    """Read a kit's claims beside its card; ReadingError tells what is wrong with either."""
    return load_claims(kit / "claims.yml", read(kit / "paper.yml", Card, kit), kit)


def submit(kit: Path, deliverable: str, drop: Path, replace: bool = False, group: str | None = None) -> Receipt:
    """Hand a kit's folder in: keep a snapshot, log it, write and give the receipt.

    DropError if it is over a limit, of a paper that the group was not allotted, of another group than `group` (whose
    folder it is, as the receiving side knows it), or (unless `replace`) if it is late and an earlier submission
    would count for more.
    """
    kit, drop = kit.resolve(), drop.resolve()
    plan = load_public(drop / PLAN)
    if deliverable not in plan.dates:
        raise DropError(f"no deliverable {deliverable!r} ({choices(deliverable, plan.dates)})")
    if missing := [name for name in NEEDED if not (kit / name).is_file()]:
        raise DropError(f"{kit.name}: holds no {' and no '.join(missing)} (submit the folder of the starter kit)")
    files = manifest(kit, plan.limits.submission)  # before anything is read through a link
    claims = kit_claims(kit)
    if group not in (None, claims.group):
        raise DropError(f"claims.yml: is of {claims.group!r}, and handed in by {group!r} (correct the group)")
    if claims.paper not in plan.groups.get(claims.group, []):
        papers = ", ".join(plan.groups.get(claims.group, [])) or "no paper"
        raise DropError(f"claims.yml: {claims.group!r} is allotted {papers}, not {claims.paper!r} (correct the group)")
    name = snapshot_hash(files)
    with FileLock(drop / f".{claims.group}.lock"):
        now, due = clock(drop), plan.due(deliverable, claims.group)
        factor = plan.late.factor(due, now)
        _may_replace(drop, claims, deliverable, name, plan, factor, replace)
        _keep(kit, files, drop, name)
        said = {"group": claims.group, "paper": claims.paper, "deliverable": deliverable, "snapshot": name}
        event = Log(drop / LOG).append("submit", claims.group, said, now)
    receipt = Receipt(**said, received=now, due=due, factor=factor, files=files, line=event.n, hash=event.hash)
    write_whole(kit / "receipts" / f"{deliverable}-{event.n:04d}.json", receipt.model_dump_json(indent=1) + "\n")
    return receipt


def _may_replace(
    drop: Path, claims: GroupClaims, deliverable: str, name: str, plan: Public, factor: float, replace: bool
) -> None:
    """Refuse what would only harm the group, unless it says that it knows."""
    earlier = latest(submissions(drop)).get((claims.group, claims.paper, deliverable))
    if earlier and earlier.snapshot == name:
        raise DropError(f"this very folder was handed in already, on {earlier.received:%Y-%m-%d %H:%M} UTC: it counts")
    if earlier and not replace:
        before = plan.late.factor(plan.due(deliverable, claims.group), earlier.received)
        if before > factor:
            raise DropError(
                f"it is late and would count for {factor:.0%}, where the one of {earlier.received:%Y-%m-%d %H:%M} UTC "
                f"counts for {before:.0%} (leave it, or say --replace)"
            )


def _keep(kit: Path, files: list[File], drop: Path, name: str) -> None:
    """Copy the files to where the snapshot stands: all, in one step, as the manifest has them."""
    target = snapshot_path(drop, name)
    if target.exists():
        return
    (drop / INCOMING).mkdir(exist_ok=True)
    target.parent.mkdir(exist_ok=True)
    half = Path(mkdtemp(dir=drop / INCOMING, prefix=f"{name[:12]}-"))
    try:
        copy(kit, files, half)
        if snapshot_hash(manifest(half)) != name:
            raise DropError(f"{kit.name}: a file changed while it was copied (submit again)")
        half.chmod(0o755)
        os.replace(half, target)
    finally:
        if half.exists():
            shutil.rmtree(half, ignore_errors=True)


def copy(kit: Path, files: list[File], target: Path) -> None:
    """Copy a snapshot's files into an empty folder; they are on the disk, read-only, when this returns."""
    for file in files:
        there = target / file.path
        there.parent.mkdir(parents=True, exist_ok=True)
        with open(kit / file.path, "rb") as source, open(there, "wb") as sink:
            shutil.copyfileobj(source, sink)
            sink.flush()
            os.fsync(sink.fileno())
        there.chmod(0o444)


def submissions(drop: Path) -> list[Submission]:
    """List what was accepted, in order; LogError if the log's chain is broken."""
    log = Log(drop / LOG)
    return [_submission(log, event) for event in log.events() if event.kind == "submit"]


def _submission(log: Log, event: Event) -> Submission:
    try:
        said = Accepted.model_validate(event.data)
    except ValidationError:
        raise log.odd(event) from None
    return Submission(**said.model_dump(), received=event.time, n=event.n)


def latest(accepted: list[Submission]) -> dict[tuple[str, str, str], Submission]:
    """Choose the submissions that count: the last by group, paper and deliverable."""
    return {(s.group, s.paper, s.deliverable): s for s in accepted}


def intact(drop: Path, snapshot: str) -> bool:
    """Say whether a snapshot is there and is what its name says."""
    folder = snapshot_path(drop, snapshot)
    try:
        return folder.is_dir() and snapshot_hash(manifest(folder, whole=True)) == snapshot
    except (DropError, OSError):
        return False


def verify(receipt_file: Path, drop: Path) -> Receipt:
    """Show that what a receipt says was accepted, and that the drop folder still holds it; DropError if not."""
    try:
        receipt = Receipt.model_validate_json(receipt_file.read_bytes())
    except (ValidationError, OSError) as error:
        raise DropError(f"{receipt_file.name}: is no receipt: {str(error).splitlines()[0]}") from None
    if snapshot_hash(receipt.files) != receipt.snapshot:
        raise DropError(f"{receipt_file.name}: its files do not make the snapshot {receipt.snapshot[:12]} (changed?)")
    events = Log(drop / LOG).events()
    event = events[receipt.line - 1] if 0 < receipt.line <= len(events) else None
    said = {name: getattr(receipt, name) for name in Accepted.model_fields}
    if event is None or (event.hash, event.data, event.time) != (receipt.hash, said, receipt.received):
        raise DropError(f"{receipt_file.name}: the log has no such line {receipt.line} (tell the lecturer)")
    if not intact(drop, receipt.snapshot):
        short = receipt.snapshot[:12]
        raise DropError(f"{receipt_file.name}: the snapshot {short} is not what it was (tell the lecturer)")
    return receipt
