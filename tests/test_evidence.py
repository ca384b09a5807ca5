"""Claimed against re-run: who is honest keeps the marks, who types numbers in does not."""

from datetime import UTC, datetime

import numpy as np
import pytest
from semester_fixtures import paper_card, values

from practicum.cards import Card
from practicum.semester.claims import GroupClaims, Stated
from practicum.semester.evidence import Evidence, Row, SeedRun, share_run, table

CARD = Card.model_validate(paper_card("peak2020toy", "double-descent"))
PUBLIC, HIDDEN = range(5), range(1000, 1006)


def runs(measured, seeds=HIDDEN) -> Evidence:
    """Evidence of `measured(seed)`: values, or a string that is the problem."""
    got = [(seed, measured(seed)) for seed in seeds]
    found = [SeedRun(seed=s, seconds=1, **({"problem": v} if isinstance(v, str) else {"values": v})) for s, v in got]
    return Evidence(paper=CARD.id, how="bubblewrap", date=datetime.now(UTC), runs=found)


def claims(stated: dict[str, tuple[str, float]], extensions: list | None = None) -> GroupClaims:
    said = [Stated(id=name, status=status, value=value, reason="because") for name, (status, value) in stated.items()]
    return GroupClaims(group="g01", paper=CARD.id, claims=said, extensions=extensions or [])


def honest(measured, card: Card = CARD) -> tuple[GroupClaims, Evidence]:
    """What a group states that reads its own runs off."""
    own = runs(measured, PUBLIC)
    return claims({row.claim: (str(row.verdict), row.mean) for row in table(card, None, own)}), own


def rows(stated: GroupClaims, measured, own: Evidence | None = None, card: Card = CARD) -> dict[str, Row]:
    return {row.claim: row for row in table(card, stated, runs(measured), own)}


def test_an_honest_group_has_all() -> None:
    stated, own = honest(values)
    found = rows(stated, values, own)
    assert [(r.matches, r.consistent) for r in found.values()] == [(True, 1.0)] * 3
    assert found["peak"].mean == pytest.approx(1, abs=0.05)


def flat(seed: int) -> dict[str, float]:
    """No peak at all: an honest failure."""
    return values(seed) | {"peak": values(seed)["tail"] - 0.5}


def test_an_honest_failure_has_all_too_and_an_overclaim_has_not() -> None:
    stated, own = honest(flat)
    assert stated.claims[0].status == "not reproduced"
    assert [(r.matches, r.consistent) for r in rows(stated, flat, own).values()] == [(True, 1.0)] * 3
    over = stated.model_copy(deep=True)
    over.claims[0].status = "reproduced"
    peak = rows(over, flat, own)["peak"]
    assert (peak.matches, peak.consistent) == (True, 0.0)
    assert peak.consistent_why == "said reproduced, the re-run says not reproduced"


def test_not_attempted_has_none() -> None:
    found = table(CARD, claims({}), runs(values))
    assert {(r.status, r.matches, r.consistent) for r in found} == {("not attempted", None, None)}


def test_hard_coded_numbers_are_caught_where_the_claim_varies_with_the_seed() -> None:
    def forged(seed: int) -> dict[str, float]:
        return values(0)

    found = rows(claims({"peak": ("reproduced", 1.0), "law": ("reproduced", values(0)["tail"])}), forged)
    assert found["peak"].matches is False
    assert "the same on every hidden seed" in found["peak"].match_why
    assert found["law"].matches is False  # the law is constant, but the tail beside it should vary


def test_a_claim_that_is_fixed_may_be_the_same_on_every_seed() -> None:
    mapping = paper_card("peak2020toy", "double-descent")
    mapping["claims"][2]["fixed"] = True
    found = rows(claims({"law": ("reproduced", 1.0)}), lambda s: values(s) | {"tail": 1.0}, card=Card(**mapping))
    assert found["law"].matches is True


def test_numbers_of_public_seeds_alone_are_caught() -> None:
    def table_of_numbers(seed: int) -> dict[str, float]:
        return values(seed) if seed in PUBLIC else values(seed) | {"peak": 9.0 + seed % 7 / 100}

    stated, own = honest(table_of_numbers)
    assert rows(stated, table_of_numbers, own)["peak"].matches is False


def test_honest_numbers_are_hardly_ever_refused_and_false_ones_are() -> None:
    """The level is what it says, and a value ten spreads off is told from noise."""
    rng, refused, caught, n = np.random.default_rng(0), 0, 0, 1500
    card = Card.model_validate(
        paper_card("peak2020toy", "x") | {"claims": [paper_card("peak2020toy", "x")["claims"][2]]}
        | {"practical": None}
    )  # fmt: skip

    def noisy(seed: int) -> dict[str, float]:
        return {"tail": 1 + rng.normal(0, 0.3), "law": 1.0}

    for _ in range(n):
        own = runs(noisy, PUBLIC)
        mean = np.mean([run.values["tail"] for run in own.runs if run.values])
        evidence = runs(noisy)
        refused += not table(card, claims({"law": ("partly", mean)}), evidence, own)[0].matches
        caught += not table(card, claims({"law": ("partly", 1 + 3.0)}), evidence, own)[0].matches
    assert refused <= 6  # 1.5 are expected at a level of 99.9 %
    assert caught > 0.999 * n


def test_a_statistic_that_sits_at_its_bound_but_for_one_seed_is_no_lie() -> None:
    """Five of six seeds give 1, one gives 0.9: the public seeds had such a one, the hidden ones had none."""
    saturated = lambda seed: values(seed) | {"tail": 0.9 if seed == 3 else 1 + seed % 7 * 1e-8}  # noqa: E731
    stated, own = honest(saturated)
    assert rows(stated, saturated, own)["law"].matches
    assert rows(claims({"law": ("reproduced", 1.3)}), saturated, own)["law"].matches is False


def test_numbers_that_were_typed_in_are_no_evidence_either_when_jittered() -> None:
    def jittered(seed: int) -> dict[str, float]:
        return {key: value * (1 + seed % 7 * 1e-15) for key, value in values(0).items()}

    row = rows(claims({"peak": ("reproduced", values(0)["peak"] - values(0)["tail"])}), jittered)["peak"]
    assert (row.matches, row.consistent) == (False, 0.0)


def borderline(seed: int) -> dict[str, float]:
    return values(seed) | {"peak": values(seed)["tail"] + (0.1 if seed in PUBLIC else 0.01) + (seed % 3 - 1) * 0.05}


def test_a_status_one_step_off_has_half_and_what_the_public_seeds_showed_has_all() -> None:
    stated, own = honest(borderline)
    assert stated.claims[0].status == "reproduced"
    half = rows(stated, borderline)["peak"]
    assert (str(half.verdict), half.consistent) == ("partly", 0.5)
    full = rows(stated, borderline, own)["peak"]
    assert full.matches
    assert full.consistent == 1.0
    assert full.consistent_why == "the re-run says partly, the public seeds say reproduced"


def test_crashed_seeds_and_missing_keys_are_named_and_no_number() -> None:
    stated, own = honest(values)
    one = rows(stated, lambda s: "ran out of memory" if s == 1000 else values(s), own)
    assert one["peak"].matches  # six are run, five are enough
    three = rows(stated, lambda s: "ran out of memory" if s < 1003 else values(s), own)
    assert (three["peak"].mean, three["peak"].matches, three["peak"].consistent) == (None, False, 0.0)
    assert three["peak"].problem == "only 3 seeds ran, 5 are needed: ran out of memory (3 of 6 seeds)"
    lost = rows(stated, lambda s: {k: v for k, v in values(s).items() if k != "clean_peak"}, own)
    assert lost["peak"].matches
    assert lost["no-noise"].problem.startswith("key 'clean_peak' is not measured")
    none = rows(stated, lambda s: "took longer than 60 s", own)
    assert none["law"].problem == "took longer than 60 s (6 of 6 seeds)"


def test_nothing_told_names_a_hidden_seed() -> None:
    stated, own = honest(values)
    for measured in (values, lambda s: "crashed" if s % 2 else values(s), lambda s: {"tail": 1.0}):
        for row in rows(stated, measured, own).values():
            assert not any(str(seed) in row.model_dump_json() for seed in HIDDEN)


def test_the_share_of_seeds_and_keys() -> None:
    evidence = runs(lambda s: "no" if s == 1000 else {"tail": 1.0, "other": 2.0})
    assert share_run(evidence, ["tail", "peak"]) == pytest.approx(5 / 6 * 1 / 2)
    assert share_run(evidence, ["tail"]) == pytest.approx(5 / 6)
    assert share_run(evidence, []) == 0


def test_an_extension_is_judged_as_a_claim() -> None:
    told = {"id": "X1", "hypothesis": "Slow is slow.", "kind": "ratio", "keys": ["slow", "tail"], "value": 3.0,
            "expect": {"at_least": 2}, "status": "reproduced"}  # fmt: skip
    stated = GroupClaims.model_validate({"group": "g01", "paper": CARD.id, "claims": [], "extensions": [told]})
    [row] = [row for row in table(CARD, stated, runs(values)) if row.extension]
    assert (row.role, row.matches, row.consistent, row.expected) == ("extension", True, 1.0, ">= 2")
