"""A paper's card, `reproductions/<id>/paper.yml`: its claims, and what counts as agreeing with them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat, PlainValidator, ValidationInfo, model_validator

from practicum import ROOT, PracticumError, choices
from practicum.reading import Loc, PlacedError, ReadingError, Strict, printable, read, shown

Kind = Literal["value", "order", "ratio", "slope", "argmax"]
Scale = Literal["laptop", "paper"]
Text = Annotated[str, Field(min_length=1), AfterValidator(printable)]  # with no signs that steer a terminal
KEYS: dict[Kind, tuple[int, float]] = {  # the fewest and the most keys that each kind reads
    "value": (1, 1), "order": (2, float("inf")), "ratio": (2, 2), "slope": (2, 2), "argmax": (2, 2),
}  # fmt: skip
HANDED_DOWN: Any = None  # a control's kind and expectation, until its card hands its claim's down


class CardError(PracticumError):
    """Bad cards, one line a problem: `file:line: field: what is wrong (mend)`."""


def _number_or_key(value: Any) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        raise ValueError(f"should be a number or the name of a key, not {shown(value)} (correct it)")
    try:
        number = float(value)  # YAML reads 1e-3, without a point, as a string
    except OverflowError:
        raise ValueError("should be finite (correct it)") from None
    except ValueError:
        return printable(str(value))
    if not abs(number) < float("inf"):
        raise ValueError("should be finite (correct it)")
    return number


class Expect(Strict):
    """What the statistic should be: `equals` (a number or a key of the same seed), `at_least` or `at_most`.

    For `equals` the tolerance is the spread over seeds, no less than `floor` and no more than `cap`, both
    relative to the reference unless `absolute`.
    """

    equals: Annotated[float | str | None, PlainValidator(_number_or_key)] = None
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    floor: Annotated[FiniteFloat, Field(ge=0)] = 0.02
    cap: Annotated[FiniteFloat, Field(ge=0)] = 0.25
    absolute: bool = False

    @model_validator(mode="after")
    def _one_condition(self) -> "Expect":
        given = self.model_fields_set & {"equals", "at_least", "at_most"}
        if len(given) != 1:
            raise ValueError("should have exactly one of equals, at_least, at_most (keep one)")
        spare = sorted(self.model_fields_set & {"floor", "cap", "absolute"})
        if spare and self.equals is None:
            raise PlacedError(*(((name,), "belongs to equals only (remove it)") for name in spare))
        if self.cap < self.floor:
            raise PlacedError((("cap",), f"{self.cap} is below the floor {self.floor} (raise it)"))
        if self.equals == 0 and not self.absolute:
            raise PlacedError((("equals",), "0 has no relative tolerance (add absolute: true)"))
        return self


class PaperNumber(Strict):
    """The number that the paper prints, in its unit."""

    value: FiniteFloat
    unit: str = ""


class Claim(Strict):
    """One sentence of the paper, and the statistic of our runs that speaks for or against it."""

    id: Text
    role: Literal["core", "secondary", "theory", "control"]
    text: Text
    where: Text
    source: Literal["paper", "abstract", "repository", "ours", "unchecked"] = "unchecked"
    kind: Kind = HANDED_DOWN
    keys: list[Text]
    expect: Expect = HANDED_DOWN
    scale: Scale = "laptop"
    paper: PaperNumber | None = None
    note: str | None = None
    of: str | None = None
    fixed: bool = False  # the same on every seed, such as a closed form: who hard-codes it tells no lie

    @property
    def reads(self) -> set[str]:
        """The keys of a program's output that the claim needs, its reference's included."""
        equals = self.expect.equals if self.expect else None
        return {*self.keys, *([equals] if isinstance(equals, str) else [])}

    def key_problem(self) -> str | None:
        """Say what is wrong with the keys for this kind, if anything is."""
        fewest, most = KEYS[self.kind]
        if not fewest <= len(self.keys) <= most:
            wanted = f"{fewest}" if fewest == most else f"at least {fewest}"
            return f"kind {self.kind} reads {wanted}, not {len(self.keys)} (list the right ones)"
        return "a key is listed twice (remove one)" if len(set(self.keys)) < len(self.keys) else None

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        found: list[tuple[Loc, str]] = []
        if self.role == "control":
            given = self.model_fields_set & {"kind", "expect"}
            found += [((name,), "a control takes it from its claim (remove it)") for name in sorted(given)]
            if self.of is None:
                found.append((("of",), "is missing (name the claim that must fail without its cause)"))
        else:
            if self.of is not None:
                found.append((("of",), "belongs to controls only (remove it, or set role: control)"))
            if self.kind is None:
                found.append((("kind",), f"is missing (add one of {', '.join(KEYS)})"))
            elif problem := self.key_problem():
                found.append((("keys",), problem))
            if self.expect is None and self.kind == "order":
                self.expect = Expect(at_least=0)
            elif self.expect is None and self.kind is not None:
                found.append((("expect",), "is missing (add equals, at_least or at_most)"))
        if found:
            raise PlacedError(*found)
        return self


class Budget(Strict):
    """What one seed may take, seconds and megabytes, and how many seeds there are."""

    seconds: Annotated[FiniteFloat, Field(gt=0)]
    memory_mb: Annotated[FiniteFloat, Field(gt=0)]
    seeds: Annotated[int, Field(ge=5)]


class Practical(Strict):
    """What a group that takes the paper is given: what each key means, where to start, what to try beyond."""

    capacity: Annotated[int, Field(ge=0)] = 1
    size: Literal["small", "medium", "large"]
    code_policy: Literal["allowed", "cite", "forbidden"] = "cite"
    keys: Annotated[dict[Text, Text], Field(min_length=1)]
    start: Text
    extensions: Annotated[list[Text], Field(min_length=1)]


class Card(Strict):
    """A paper: where it stands, how our setting differs from its own, and what it claims."""

    id: Text
    bib: Text
    title: Text
    theme: Text
    author_code: Text
    budget: Budget
    setting: Text
    practical: Practical | None = None
    claims: Annotated[list[Claim], Field(min_length=1)]

    @model_validator(mode="after")
    def _joins(self, info: ValidationInfo) -> "Card":
        found: list[tuple[Loc, str]] = []
        folder = (info.context or {}).get("folder", self.id)
        if self.id != folder:
            found.append((("id",), f"{self.id!r} is not the folder's name (write {folder})"))
        first: dict[str, Claim] = {}
        for i, claim in enumerate(self.claims):
            if claim is not first.setdefault(claim.id, claim):
                found.append((("claims", i, "id"), f"{claim.id!r} is taken (rename it)"))
        causes = {claim.id: claim for claim in first.values() if claim.role != "control"}
        for i, claim in enumerate(self.claims):
            if claim.role == "control":
                found += [(("claims", i, *loc), why) for loc, why in _inherit(claim, causes)]
        roles = {claim.role for claim in self.claims}
        if "core" in roles and "control" not in roles:
            found.append((("claims",), "a core claim needs a control (add one: the cause removed)"))
        if self.practical:
            found += _named(self.practical.keys, self.claims)
        if found:
            raise PlacedError(*found)
        return self

    def at(self, scale: str) -> list[Claim]:
        """List the claims that runs of this scale must serve; smoke runs serve the laptop's."""
        return [claim for claim in self.claims if claim.scale == ("paper" if scale == "paper" else "laptop")]


def _named(keys: dict[str, str], claims: list[Claim]) -> list[tuple[Loc, str]]:
    """List the keys that claims read and the practical does not explain, and those that it explains in vain."""
    found: list[tuple[Loc, str]] = []
    read: set[str] = set()
    for i, claim in enumerate(claims):
        if claim.scale == "laptop":
            read |= claim.reads
            lost = sorted(claim.reads - keys.keys())
            found += [(("claims", i, "keys"), f"practical.keys does not explain {key!r} (add it)") for key in lost]
    vain = sorted(keys.keys() - read)
    return found + [(("practical", "keys", key), "no claim reads it (remove it)") for key in vain]


def _inherit(control: Claim, causes: dict[str, Claim]) -> list[tuple[Loc, str]]:
    """Hand a claim's kind, expectation and scale down to its control, or say why that cannot be."""
    claim = causes.get(control.of or "")
    if claim is None:
        return [(("of",), f"{control.of!r} is no claim here ({choices(control.of or '', causes)})")]
    control.kind, control.expect = claim.kind, claim.expect
    if "scale" not in control.model_fields_set:
        control.scale = claim.scale
    problem = control.key_problem()
    if control.keys == claim.keys:
        problem = f"are those of {claim.id} (give those measured with the cause removed)"
    return [(("keys",), problem)] if problem else []


def load_card(path: Path, root: Path | None = None) -> Card:
    """Read one card; CardError has a line for each problem, with paths relative to `root`."""
    try:
        return read(path, Card, root or path.parents[2], folder=path.parent.name)
    except ReadingError as error:
        raise CardError(str(error)) from None


def load_cards(root: Path = ROOT, papers: list[str] | None = None) -> dict[str, Card]:
    """Read the cards of `papers`, or all under `root`, by id; CardError tells the problems of them all."""
    folder = Path(root) / "reproductions"
    if not folder.is_dir():
        raise CardError(f"{folder}: is no folder (give the repository by --root)")
    # A folder that Git has emptied but for its ignored files is no paper.
    there = sorted(f.name for f in folder.iterdir() if f.is_dir() and any(c.name[0] not in "._" for c in f.iterdir()))
    cards, lines = {}, []
    for paper in there if papers is None else papers:
        try:
            if paper not in there:
                raise CardError(f"no paper {paper!r} ({choices(paper, there)})")
            cards[paper] = load_card(folder / paper / "paper.yml", Path(root))
        except CardError as error:
            lines.append(str(error))
    if lines:
        raise CardError("\n".join(lines))
    return cards
