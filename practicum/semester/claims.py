"""What a group says of a paper, `claims.yml`: a status and a value for each claim, and its own extensions."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError, ValidationInfo, model_validator

from practicum import choices
from practicum.cards import Card, Claim, Expect, Kind, Text
from practicum.reading import Loc, PlacedError, ReadingError, Strict, printable, read

Status = Literal["reproduced", "partly", "not reproduced", "not attempted"]


Key = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(printable)]
MOST_KB, MOST_EXTENSIONS = 200, 10
Id = Annotated[str, Field(pattern=r"^[\w.-]{1,40}$")]
Sentence = Annotated[str, Field(max_length=3000), AfterValidator(printable)]


class Stated(Strict):
    """A group's word on one claim of the card; `value` is the statistic's mean over the public seeds."""

    id: Id
    status: Status = "not attempted"
    value: FiniteFloat | None = None
    uncertainty: Annotated[FiniteFloat, Field(ge=0)] | None = None
    reason: Sentence = ""
    deviations: Annotated[list[Sentence], Field(max_length=50)] = []

    @model_validator(mode="after")
    def _whole(self) -> "Stated":
        found: list[tuple[Loc, str]] = []
        if self.status != "not attempted" and self.value is None:
            found.append((("value",), "is missing (write what `practicum check` measured, or: not attempted)"))
        if self.status in ("partly", "not reproduced") and not self.reason.strip():
            found.append((("reason",), f"is missing (a {self.status!r} needs one sentence on why)"))
        if found:
            raise PlacedError(*found)
        return self


class Hypothesis(Strict):
    """An extension: a sentence of the group's own and the statistic that speaks for or against it."""

    id: Id
    hypothesis: Annotated[str, Field(min_length=1, max_length=3000), AfterValidator(printable)]
    kind: Kind
    keys: Annotated[list[Key], Field(max_length=20)]
    expect: Expect | None = None
    status: Status = "not attempted"
    value: FiniteFloat | None = None
    reason: Sentence = ""

    @property
    def claim(self) -> Claim:
        """The claim that the grader's code judges; ValidationError if the keys do not suit the kind."""
        given = self.model_dump(include={"id", "kind", "keys", "expect"}, exclude_none=True, exclude_unset=True)
        mine = {"role": "secondary", "text": self.hypothesis, "where": "an extension", "source": "ours"}
        return Claim.model_validate({**given, **mine})

    @model_validator(mode="after")
    def _sound(self) -> "Hypothesis":
        try:
            _ = self.claim
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            raise cause if isinstance(cause, PlacedError) else ValueError(error.errors()[0]["msg"]) from None
        if self.expect and self.expect.equals in self.keys:
            raise PlacedError((("expect",), "compares a key with itself (name another)"))
        return self


class GroupClaims(Strict):
    """A group's claims on one paper, and who did what (CRediT roles by student)."""

    group: Text
    paper: Text
    claims: list[Stated]
    extensions: Annotated[list[Hypothesis], Field(max_length=MOST_EXTENSIONS)] = []
    contributions: dict[Sentence, list[Sentence]] = {}

    @model_validator(mode="after")
    def _joins(self, info: ValidationInfo) -> "GroupClaims":
        found: list[tuple[Loc, str]] = []
        card: Card | None = (info.context or {}).get("card")
        known = {claim.id for claim in card.at("laptop")} if card else None
        seen: set[str] = set()
        ids = {"claims": [stated.id for stated in self.claims], "extensions": [x.id for x in self.extensions]}
        for field, i, name in ((field, i, name) for field, names in ids.items() for i, name in enumerate(names)):
            if name in seen or (field == "extensions" and name in (known or ())):
                found.append(((field, i, "id"), f"{name!r} is taken (rename it)"))
            if field == "claims" and known is not None and name not in known:
                found.append(((field, i, "id"), f"{name!r} is no claim of the card ({choices(name, known)})"))
            seen.add(name)
        read_already = {key for claim in card.at("laptop") for key in claim.reads} if card else set()
        for i, x in enumerate(self.extensions):
            if x.claim.reads <= read_already:
                told = "are all read by claims of the card (an extension measures a key of its own)"
                found.append((("extensions", i, "keys"), told))
        if card and self.paper != card.id:
            found.append((("paper",), f"{self.paper!r} is not the kit's paper (write {card.id})"))
        if found:
            raise PlacedError(*found)
        return self


def load_claims(path: Path, card: Card, root: Path) -> GroupClaims:
    """Read a group's claims on this card; ReadingError has a line for each problem, paths relative to `root`."""
    if path.is_file() and (kb := path.stat().st_size / 1000) > MOST_KB:
        raise ReadingError(f"{path.relative_to(root).as_posix()}: has {kb:.0f} kB, more than {MOST_KB} (shorten it)")
    return read(path, GroupClaims, root, aliases=False, card=card)

