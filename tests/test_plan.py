"""The plan and its rubric: what a lecturer may write, and what each mistake is told."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from semester_fixtures import TEMPLATE

from practicum.reading import ReadingError
from practicum.semester.plan import Late, Semester, SemesterError

PLAN = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
LEAF = {"id": "a", "title": "A", "weight": 1, "due": "midterm", "grader": "human", "points": 4}


def semester(tmp_path: Path, **changed: object) -> Semester:
    text = yaml.safe_dump(PLAN | changed, sort_keys=False)
    (tmp_path / "semester.yml").write_text(text, encoding="utf-8")
    return Semester(tmp_path)


def test_the_template_has_the_practicals_weights(tmp_path: Path) -> None:
    leaves = semester(tmp_path).leaves
    share = {top: sum(leaf.share for leaf in leaves if leaf.path.startswith(top))
             for top in ("reproducibility", "extension", "presentation")}  # fmt: skip
    assert share == pytest.approx({"reproducibility": 0.4, "extension": 0.2, "presentation": 0.4})
    assert {leaf.path: leaf.per for leaf in leaves if leaf.due == "presentation"} == {
        "presentation.talk": "student", "presentation.questions": "student",
    }  # fmt: skip


def test_dates_are_of_the_plans_time_zone_and_extensions_move_one_groups(tmp_path: Path) -> None:
    later = [{"group": "g07", "deliverable": "midterm", "until": "2027-06-08 12:00", "reason": "illness"}]
    s = semester(tmp_path, extensions=later)
    assert s.plan.due("midterm", "g01").astimezone(UTC) == datetime(2027, 6, 4, 21, 59, tzinfo=UTC)
    assert s.plan.due("midterm", "g07").astimezone(UTC) == datetime(2027, 6, 8, 10, 0, tzinfo=UTC)
    public = (s.drop / "plan.yml").read_text(encoding="utf-8")
    assert "illness" not in public
    assert "2027-06-08" in public


@pytest.mark.parametrize(
    ("hours", "factor"),
    [(-1, 1), (0, 1), (2, 1), (2.01, 0.9), (26, 0.9), (26.01, 0.8), (74, 0.7), (74.01, 0), (1000, 0)],
)
def test_late(hours: float, factor: float) -> None:
    due = datetime(2027, 6, 4, tzinfo=UTC)
    late = Late(grace_hours=2, per_day=0.1, max_days=3)
    assert late.factor(due, due + timedelta(hours=hours)) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"timezone": "Berlin"}, "timezone: 'Berlin' is no time zone"),
        ({"dates": {}}, "dates: "),
        ({"seeds": {"public": [0, 1], "hidden": 5}}, "seeds.public: "),
        ({"rubric": []}, "rubric: "),
        ({"rubric": [LEAF, LEAF]}, "rubric[1].id: 'a' is taken"),
        ({"rubric": [LEAF | {"due": "xmas"}]}, "rubric[0].due: 'xmas' has no date"),
        ({"rubric": [LEAF | {"due": None}]}, "rubric[0].due: is missing here and above"),
        ({"rubric": [LEAF | {"grader": "machine"}]}, "rubric[0].check: belongs to machine leaves"),
        ({"rubric": [LEAF | {"grader": "machine", "check": "runs", "points": None}]}, "rubric[0].per: is paper for"),
        ({"rubric": [LEAF | {"points": None}]}, "rubric[0].points: belongs to human leaves"),
        ({"rubric": [LEAF | {"weight": -1}]}, "rubric[0].weight: "),
        ({"rubric": [LEAF | {"children": [LEAF]}]}, "rubric[0].grader: belongs to leaves only"),
        ({"extensions": [{"group": "g1", "deliverable": "mid", "until": "2027-01-01 00:00", "reason": "x"}]},
         "extensions[0].deliverable: 'mid' has no date (did you mean 'midterm'?"),
        ({"papers_per_group": 0}, "papers_per_group: "),
        ({"lat": {}}, "lat: is no field here (did you mean late?)"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_plan_is_told_at_its_line(tmp_path: Path, changed: dict, line: str) -> None:
    with pytest.raises(ReadingError) as told:
        semester(tmp_path, **changed)
    first = str(told.value).splitlines()[0]
    assert first.startswith("semester.yml:")
    assert line in str(told.value)
    assert first.endswith(")")


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(SemesterError, match=r"holds no semester\.yml"):
        Semester(tmp_path)
