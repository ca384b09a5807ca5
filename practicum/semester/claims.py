"""What a group says of a paper, `claims.yml`: a status and a value for each claim, and its own extensions."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, ValidationError, ValidationInfo, model_validator

from practicum import choices
from practicum.cards import Card, Claim, Expect, Kind, Text
from practicum.reading import Loc, PlacedError, Strict, read

Status = Literal["reproduced", "partly", "not reproduced", "not attempted"]


class Stated(Strict):
    """A group's word on one claim of the card; `value` is the statistic's mean over the public seeds."""

    id: Text
    status: Status = "not attempted"
    value: FiniteFloat | None = None
    uncertainty: Annotated[FiniteFloat, Field(ge=0)] | None = None
    reason: str = ""
    deviations: list[str] = []

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

    id: Text
    hypothesis: Text
    kind: Kind
    keys: list[Text]
    expect: Expect | None = None
    status: Status = "not attempted"
    value: FiniteFloat | None = None
    reason: str = ""

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
        return self


class GroupClaims(Strict):
    """A group's claims on one paper, and who did what (CRediT roles by student)."""

    group: Text
    paper: Text
    claims: list[Stated]
    extensions: list[Hypothesis] = []
    contributions: dict[str, list[str]] = {}

    @model_validator(mode="after")
    def _joins(self, info: ValidationInfo) -> "GroupClaims":
        found: list[tuple[Loc, str]] = []
        card: Card | None = (info.context or {}).get("card")
        known = {claim.id for claim in card.at("laptop")} if card else None
        seen: set[str] = set()
        ids = {"claims": [stated.id for stated in self.claims], "extensions": [x.id for x in self.extensions]}
        for field, i, name in ((field, i, name) for field, names in ids.items() for i, name in enumerate(names)):
            if name in seen:
                found.append(((field, i, "id"), f"{name!r} is taken (rename it)"))
            if field == "claims" and known is not None and name not in known:
                found.append(((field, i, "id"), f"{name!r} is no claim of the card ({choices(name, known)})"))
            seen.add(name)
        if card and self.paper != card.id:
            found.append((("paper",), f"{self.paper!r} is not the kit's paper (write {card.id})"))
        if found:
            raise PlacedError(*found)
        return self


def load_claims(path: Path, card: Card, root: Path) -> GroupClaims:
    """Read a group's claims on this card; ReadingError has a line for each problem, paths relative to `root`."""
    return read(path, GroupClaims, root, card=card)

