"""The verdicts, against hand-computed numbers, scipy's intervals and numpy's fits."""

import json
import subprocess
import sys
from math import inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from practicum_fixtures import card, claim, command, control, repository, results, told, write
from scipy.stats import t, ttest_1samp

from practicum.cards import Card, Claim, Expect
from practicum.kinds import statistic
from practicum.results import Results, ResultsError, Run, save
from practicum.verdicts import (
    TooFewSeedsError,
    Verdict,
    VerdictError,
    compare,
    half_width,
    inverted,
    judge,
    judge_all,
    measured,
)  # fmt: skip

REPRODUCED, PARTLY, NOT = Verdict
FIVE = [1.0, 2.0, 3.0, 4.0, 5.0]
ONE_SEED = {"a": 1.0, "b": 3.0, "c": 4.5, "zero": 0, "x": [1.0, 2.0, 4.0], "y": [5.0, 7.0, 3.0], "z": [0, 1, 2.0],
            "one": [2.0, 2.0, 2.0]}  # fmt: skip


def a_claim(kind: str = "value", keys: str = "a", **expect: Any) -> Claim:
    return Claim.model_validate(claim(kind=kind, keys=keys.split(), expect=expect or {"at_least": 0}))


@pytest.mark.parametrize(
    ("kind", "keys", "wanted"),
    [
        ("value", "b", 3),
        ("order", "a b c", 1.5),
        ("order", "a c b", -1.5),
        ("order", "c b a", -2),
        ("ratio", "b a", 3),
        ("ratio", "a b", 1 / 3),
        ("argmax", "x y", 2),
        ("slope", "x y", np.polyfit(np.log([1, 2, 4]), np.log([5, 7, 3]), 1)[0]),
    ],
)
def test_statistics(kind: str, keys: str, wanted: float) -> None:
    assert statistic(a_claim(kind, keys), ONE_SEED) == pytest.approx(wanted, rel=1e-12)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=3, max_size=20))
def test_slope_is_least_squares(points: list[tuple[float, float]]) -> None:
    x, y = map(list, zip(*points, strict=True))
    if max(x) < 1.1 * min(x):
        return
    fitted = np.polyfit(np.log(x), np.log(y), 1)[0]
    assert statistic(a_claim("slope", "x y"), {"x": x, "y": y}) == pytest.approx(fitted, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("kind", "keys", "why"),
    [
        ("value", "bb", "key 'bb' is not measured (did you mean 'b'? there are: a, b, c, one, x, y, z, zero)"),
        ("value", "x", "'x' is a curve, where a number is read"),
        ("order", "a y", "'y' is a curve"),
        ("ratio", "a zero", "'zero' is 0, and the ratio divides by it"),
        ("slope", "x z", "'z' is not positive throughout"),
        ("slope", "z x", "'z' is not positive throughout"),
        ("slope", "one x", "'one' does not vary"),
        ("slope", "a b", "'a' and 'b' are not two curves of one length"),
        ("argmax", "x a", "'x' and 'a' are not two curves of one length"),
    ],
)
def test_statistics_that_cannot_be(kind: str, keys: str, why: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        statistic(a_claim(kind, keys), ONE_SEED)
    assert str(error.value).startswith(why)
    with pytest.raises(VerdictError) as told_error:
        judge("toy", a_claim(kind, keys), results(**{k: [v] * 5 for k, v in ONE_SEED.items()}))
    assert str(told_error.value).startswith(f"toy: claim peak: seed 0: {why}")
    assert "\n" not in str(told_error.value)


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=12))
def test_half_width_is_scipys_interval(numbers: list[float]) -> None:
    d = np.round(numbers, 3)
    if d.std() == 0:
        return
    low, high = ttest_1samp(d, 0).confidence_interval(0.95)
    assert half_width(d) == pytest.approx((high - low) / 2, rel=1e-9)
    assert half_width(d, 1) == pytest.approx(half_width(d) * sqrt(1 + len(d)), rel=1e-9)


def test_half_width_by_hand() -> None:
    # sd of 1..5 is sqrt(2.5), and t_{.975, 4} = 2.776445
    assert half_width(np.array(FIVE)) == pytest.approx(2.776445 * sqrt(2.5) / sqrt(5), rel=1e-6)
    assert half_width(np.array(FIVE), 1) == pytest.approx(2.776445 * sqrt(2.5) * sqrt(1.2), rel=1e-6)


def compared(s: list[float], **expect: Any) -> tuple[Verdict, float]:
    """Compare with a number, or with a key `theory` that is 10 in each seed."""
    e = Expect.model_validate(expect)
    number = next(x for x in (e.equals, e.at_least, e.at_most) if x is not None)
    ref = 10.0 if isinstance(number, str) else number
    return compare(e, np.array(s), np.full(len(s), ref))


@pytest.mark.parametrize(
    ("s", "expect", "verdict", "tolerance"),
    [
        # No spread: the floor, .02 * 10, holds, and up to the cap, .25 * 10, it is partly.
        ([10.15] * 5, {"equals": 10}, REPRODUCED, 0.2),
        ([9.8] * 5, {"equals": 10}, REPRODUCED, 0.2),
        ([10.3] * 5, {"equals": 10}, PARTLY, 0.2),
        ([7.5] * 5, {"equals": 10}, PARTLY, 0.2),
        ([12.6] * 5, {"equals": 10}, NOT, 0.2),
        ([10.15] * 5, {"equals": 10, "floor": 0.01}, PARTLY, 0.1),
        ([12.6] * 5, {"equals": 10, "cap": 0.3}, PARTLY, 0.2),
        # sd = sqrt(2.5) / 10: h = .196 for a theory, h = .481 for a paper's single number.
        ([10.1, 10.2, 10.3, 10.4, 10.5], {"equals": 10}, REPRODUCED, 0.480896),
        ([10.1, 10.2, 10.3, 10.4, 10.5], {"equals": "theory"}, PARTLY, 0.2),
        ([10.1, 10.2, 10.3, 10.4, 10.5], {"equals": "theory", "floor": 0.001}, PARTLY, 0.196325),
        # A wide spread is capped: it must not make everything agree.
        ([0, 5, 10, 15, 35], {"equals": 10}, NOT, 2.5),
        ([0, 5, 10, 15, 30], {"equals": 10}, PARTLY, 2.5),  # so noisy that 2 would agree as well
        # A negative reference; an absolute tolerance about 0.
        ([-10.15] * 5, {"equals": -10}, REPRODUCED, 0.2),
        ([-13.0] * 5, {"equals": -10}, NOT, 0.2),
        ([0.01] * 5, {"equals": 0, "absolute": True}, REPRODUCED, 0.02),
        ([0.1] * 5, {"equals": 0, "absolute": True}, PARTLY, 0.02),
        ([0.3] * 5, {"equals": 0, "absolute": True}, NOT, 0.02),
        # mean 3, h = 1.963
        (FIVE, {"at_least": 1.0}, REPRODUCED, 1.963243),
        (FIVE, {"at_least": 1.1}, PARTLY, 1.963243),
        (FIVE, {"at_least": 3.0}, PARTLY, 1.963243),
        (FIVE, {"at_least": 3.1}, NOT, 1.963243),
        (FIVE, {"at_most": 5.0}, REPRODUCED, 1.963243),
        (FIVE, {"at_most": 4.9}, PARTLY, 1.963243),
        (FIVE, {"at_most": 2.9}, NOT, 1.963243),
        ([0.7] * 5, {"at_least": 0.7}, REPRODUCED, 0),
        ([0.1 + 0.2] * 5, {"at_most": 0.3}, REPRODUCED, 0),
    ],
)  # fmt: skip
def test_comparisons(s: list[float], expect: dict, verdict: Verdict, tolerance: float) -> None:
    found, used = compared(s, **expect)
    assert (found, used) == (verdict, pytest.approx(tolerance, rel=1e-5, abs=1e-12))


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=9), st.floats(-5, 5))
def test_at_least_agrees_with_scipys_interval(numbers: list[float], bound: float) -> None:
    s = np.round(numbers, 2)
    if s.std() == 0:
        return
    low = ttest_1samp(s, 0).confidence_interval(0.95).low
    if min(abs(low - bound), abs(s.mean() - bound)) < 1e-6:
        return
    wanted = REPRODUCED if low > bound else PARTLY if s.mean() > bound else NOT
    assert compared(list(s), at_least=bound)[0] == wanted
    assert compared(list(-s), at_most=-bound)[0] == wanted


@pytest.mark.parametrize(
    ("peak", "verdict"),
    [([2, 3, 4, 5, 6], REPRODUCED), ([0, 1, 2, 3, 9], PARTLY), ([0.0] * 5, NOT), ([-1.0] * 5, NOT)],
)
def test_orders_are_strict(peak: list[float], verdict: Verdict) -> None:
    measured_ = results(tail=[0.0] * 5, peak=peak)
    order = Claim.model_validate(claim())
    assert judge("toy", order, measured_).verdict == verdict


def test_orders_may_ask_for_a_margin() -> None:
    order = a_claim("order", "a b", at_least=2)
    assert judge("toy", order, results(a=[0.0] * 5, b=[2.1] * 5)).verdict == REPRODUCED
    assert judge("toy", order, results(a=[0.0] * 5, b=[1.9] * 5)).verdict == NOT


@pytest.mark.parametrize(
    ("peak", "verdict"),
    [([2, 3, 4, 5, 6], NOT), ([0, 1, 2, 3, 9], PARTLY), ([0.0] * 5, REPRODUCED), ([-1.0] * 5, REPRODUCED)],
)
def test_controls_are_inverted(peak: list[float], verdict: Verdict) -> None:
    whole = Card.model_validate(card())
    columns = {"clean_tail": [0.0] * 5, "clean_peak": peak}
    assert judge("toy", whole.claims[1], results(**columns)).verdict == verdict


def test_inversion_is_its_own_inverse() -> None:
    assert [inverted(v) for v in Verdict] == [NOT, PARTLY, REPRODUCED]
    assert all(inverted(inverted(v)) == v for v in Verdict)


def test_theory_of_each_seed_is_the_reference() -> None:
    noisy = [1.0, 2.0, 3.0, 4.0, 5.0]
    judged = judge("toy", a_claim(equals="theory"), results(a=noisy, theory=[x + 0.01 for x in noisy]))
    assert judged.verdict == REPRODUCED
    assert (judged.mean, judged.reference) == (pytest.approx(3), pytest.approx(3.01))
    assert judged.tolerance == pytest.approx(0.02 * 3.01)


def test_a_reference_of_zero_needs_an_absolute_tolerance() -> None:
    with pytest.raises(VerdictError, match="reference is 0"):
        judge("toy", a_claim(equals="theory"), results(a=FIVE, theory=[0.0] * 5))
    absolute = a_claim(equals="theory", absolute=True, floor=4, cap=5)
    assert judge("toy", absolute, results(a=FIVE, theory=[0.0] * 5)).verdict == REPRODUCED


def test_too_few_seeds() -> None:
    with pytest.raises(TooFewSeedsError, match=r"^toy: claim peak: 4 seeds are too few"):
        judge("toy", a_claim(), results(a=[1.0] * 4))


def test_not_finite() -> None:
    found = results(a=[1.0] * 5)
    found.runs[3].values["a"] = inf  # as nothing that reads a file lets it be
    with pytest.raises(VerdictError, match=r"^toy: claim peak: seed 3: the value of 'a' is inf$"):
        judge("toy", a_claim(), found)


def test_measured() -> None:
    assert measured(results(a=FIVE), "a") == (3, pytest.approx(sqrt(2.5)), 5)
    mean, sd, n = measured(results(a=[2.0]), "a")
    assert (mean, n) == (2, 1)
    assert np.isnan(sd)
    with pytest.raises(ResultsError, match="did you mean 'abc'"):
        measured(results(abc=FIVE), "abd")


def test_curves_and_values() -> None:
    found = results(a=FIVE, c=[[1.0, 2.0]] * 5)
    assert found.curve("c").shape == (5, 2)
    assert found.values("a").tolist() == FIVE
    for read, key in ((found.curve, "a"), (found.values, "c"), (found.curve, "z")):
        with pytest.raises(ResultsError):
            read(key)
    ragged = Results.model_validate({**found.model_dump(), "runs": [
        Run(seed=i, seconds=1, values={"c": [1.0] * (i + 1)}) for i in range(5)]})  # fmt: skip
    with pytest.raises(ResultsError, match="no curve of one length"):
        ragged.curve("c")


TOY = {"tail": FIVE, "peak": [x + 1 for x in FIVE], "clean_tail": FIVE, "clean_peak": [x - 1 for x in FIVE]}


def test_judge_all(tmp_path: Path) -> None:
    repository(tmp_path, paper="a")
    repository(tmp_path, paper="b", claims=[claim(scale="paper"), claim(id="p2", paper={"value": 2, "unit": "%"})])
    save(results(tmp_path, "a", **TOY), tmp_path)
    save(results(tmp_path, "b", **TOY), tmp_path)
    judged = judge_all(tmp_path)
    assert [(j.paper, j.claim, j.status) for j in judged] == [
        ("a", "peak", "reproduced"), ("a", "no-noise", "reproduced"), ("b", "peak", "not run"),
        ("b", "p2", "reproduced"),
    ]  # fmt: skip
    assert [j.expected for j in judged[:2]] == ["tail < peak", "not clean_tail < clean_peak"]
    last = judged[3]
    assert (last.paper_value, last.unit, last.mean, last.n, last.stale) == (2, "%", 1, 5, False)
    assert [j.paper for j in judge_all(tmp_path, ["b"])] == ["b", "b"]
    save(results(tmp_path, "b", scale="paper", **TOY), tmp_path)
    assert judge_all(tmp_path, ["b"])[0].status == "reproduced"
    write(tmp_path / "phenomena/base.py", "EDGE = 3\n")
    assert [j.stale for j in judge_all(tmp_path)] == [True] * 4


def test_command_line(tmp_path: Path) -> None:
    title = "[bold]peaks[/] [1] :smile: and a long sentence"
    repository(tmp_path, paper="a-paper-of-2021", claims=[
        claim(role="core", text=title, id="the-[red]peak[/]"), control(of="the-[red]peak[/]"),
        claim(id="far", scale="paper"), claim(id="checked", source="paper", paper={"value": 4.12, "unit": "[%]"}),
    ])  # fmt: skip
    save(results(tmp_path, "a-paper-of-2021", **TOY), tmp_path)
    piped = command(tmp_path, "verdicts")
    assert (piped.returncode, piped.stderr) == (0, "")
    rows = [line.split() for line in piped.stdout.splitlines() if line.startswith("a-paper-of-2021 ")]
    assert len(rows) == 4
    assert rows[0] == ["a-paper-of-2021", "the-[red]peak[/]?", "core", "tail", "<", "peak", "1", "±", "0", "(5)",
                       "reproduced", "1"]  # fmt: skip
    assert rows[2][-2:] == ["not", "run"]
    assert rows[3][1:5] == ["checked", "secondary", "4.12", "[%]"]
    assert "? the sentence is not checked" in piped.stdout
    assert "stale" not in piped.stdout
    judged = json.loads(told(tmp_path, "verdicts", "a-paper-of-2021", "--json")[1])
    assert [j["status"] for j in judged] == ["reproduced", "reproduced", "not run", "reproduced"]
    assert (judged[0]["text"], judged[2]["verdict"]) == (title, None)


def test_command_line_at_80_columns_and_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path, claims=[claim(role="core", id="a-long-name-of-a-claim"),
                                 control(of="a-long-name-of-a-claim", id="without-label-noise")])  # fmt: skip
    save(results(tmp_path, **TOY), tmp_path)
    write(tmp_path / "phenomena/laws.py", "")
    monkeypatch.setenv("COLUMNS", "80")
    narrow = told(tmp_path, "verdicts")[1]
    assert max(map(len, narrow.splitlines())) <= 80
    assert [line.split()[0] for line in narrow.splitlines() if line.rstrip().endswith(" 1")] == ["toy", "toy"]
    assert narrow.count("stale") == 3
    assert "stale: the program has changed" in narrow


def test_known_errors_are_single_lines(tmp_path: Path) -> None:
    repository(tmp_path, paper="good")
    save(results(tmp_path, "good", **TOY), tmp_path)
    repository(tmp_path, paper="lacks")
    save(results(tmp_path, "lacks", **{"tail": FIVE}), tmp_path)
    code, out, err = told(tmp_path, "verdicts", "--json")
    assert code == 1
    assert [j["paper"] for j in json.loads(out)] == ["good", "good"]
    assert err == "lacks: claim peak: seed 0: key 'peak' is not measured (there are: tail)\n"
    unknown = "no paper 'godo' (did you mean 'good'? there are: good, lacks)\n"
    assert told(tmp_path, "verdicts", "godo") == (1, "", unknown)


def test_check(tmp_path: Path) -> None:
    repository(tmp_path)
    assert told(tmp_path, "cards") == (0, "1 cards, 2 claims: the cards are well-formed\n", "")
    (tmp_path / "reproductions/toy/reproduce.py").unlink()
    code, out, err = told(tmp_path, "cards")
    assert (code, out, err.count("\n")) == (1, "1 cards, 2 claims: the cards are well-formed\n", 1)
    assert err.startswith("reproductions/toy/reproduce.py: is missing")


def test_no_torch() -> None:
    code = "import practicum.cli, sys; assert 'torch' not in sys.modules and 'phenomena' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_t_quantile_by_hand() -> None:
    assert t.ppf(0.975, 4) == pytest.approx(2.776445, abs=1e-6)
