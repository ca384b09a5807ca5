"""Each check of a lab passes the solution and other right answers, and answers typical wrong ones with their hint.

The labs' answers are in tests/answers/<topic>.py; what an exercise lacks there is a line of its own.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from lab_fixtures import CHECKS, SOURCE, write_lab

from phenomena import checks
from phenomena.checks import Check, Wrong, check, compare, of_kind, relabelled, samples
from phenomena.lab import summary

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "solutions"))
import build  # noqa: E402

SOURCES = sorted((ROOT / "solutions").glob("[0-9]*.py"))


def exercises(source: Path) -> list[build.Exercise]:
    """The exercises of a source; none if its marks are broken, which test_labs.py says in a line."""
    try:
        return build.exercises(source)
    except build.SourceError:
        return []


EXERCISES = [
    pytest.param(source, exercise, id=f"{source.stem}-{exercise.name}")
    for source in SOURCES
    for exercise in exercises(source)
]

# What any check must answer in one line: no number, no array, no real one, nothing, or an error.
ODD = [
    *(
        "text",
        {},
        {"a": 1.0},
        [],
        [1.0, "b"],
        [[1.0], [2.0, 3.0]],
        object(),
        1j,
        np.ones(7, complex),
        torch.ones(2) * 1j,
    ),
    *(torch.ones(3, requires_grad=True), torch.ones(0), None, True, float("nan"), print, (x for x in [1.0])),
]


# What an exercise must have, as functions of its parts, so that each is tried on a defect below.


def answers(topic: str) -> Any:
    """tests/answers/<topic>.py, None if it is missing."""
    name = f"answers.{topic}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name not in ("answers", name):
            raise
        return None


def functions(source: Path, *, solved: bool) -> dict[str, Any]:
    """The functions of a solution, or of its lab, without running a cell: imports, definitions and constants alone."""
    kept: list[ast.stmt] = []
    for i, cell in enumerate(build.read(source).cells):
        if cell.cell_type == "code":
            where = f"{source.name}, cell {i + 1}"
            text = build.without_marks(cell.source) if solved else build.stripped(cell.source, where)[0]
            kept += [node for node in build.tree(text, where).body if _only_names(node)]
    names: dict[str, Any] = {"__name__": "solution"}
    exec(compile(ast.Module(kept, []), source.name, "exec"), names)
    return names


def _only_names(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(x, ast.Constant | ast.List | ast.Tuple | ast.Load) for x in ast.walk(node.value))
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


@contextmanager
def recorded(module: ModuleType) -> Iterator[tuple[set[str], set[int]]]:
    """The hints that a module's checks offer to `compare` meanwhile, and the lines at which they raise `Wrong`."""
    offered: set[str] = set()
    raised: set[int] = set()

    def spy(got: Any, want: Any, mistakes: Any = (), *rest: Any, **named: Any) -> None:
        mistakes = list(mistakes)
        offered.update(hint for _, hint in mistakes)
        compare(got, want, mistakes, *rest, **named)

    class Spied(Wrong):
        def __init__(self, hint: str) -> None:
            raised.add(sys._getframe(1).f_lineno)
            super().__init__(hint)

    with patch.object(module, "compare", spy, create=True), patch.object(module, "Wrong", Spied, create=True):
        yield offered, raised


def lines_that_raise(test: Any) -> set[int]:
    """The lines of a check's own `raise Wrong(...)`."""
    lines, start = inspect.getsourcelines(test)
    nodes = ast.walk(ast.parse(textwrap.dedent("".join(lines))))
    return {start + n.lineno - 1 for n in nodes if isinstance(n, ast.Raise) and "Wrong(" in ast.unparse(n)}


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def secrets(exercise: build.Exercise) -> set[str]:
    """The expressions that make up the solution and that the student does not see, without spaces."""

    def expressions(code: str) -> set[str]:
        nodes = ast.walk(build.tree(code, exercise.name))
        return {bare(ast.unparse(n.value)) for n in nodes if isinstance(n, ast.Assign | ast.Return) and n.value}

    return {text for text in expressions(exercise.solved) - expressions(exercise.given) if len(text) > 8}


def faults(source: Path, exercise: build.Exercise, given: Any) -> list[str]:
    """What is wrong with an exercise's check or missing in its answers `given`, a line each."""
    topic = build.topic(source)
    where = f"solutions/{source.name}, exercise {exercise.number} ({exercise.name})"
    file = f"tests/answers/{topic}.py"
    if given is None:
        return [f"{where}: {file} is missing; write RIGHT and WRONG there (solutions/README.md shows how)"]
    try:
        module = build.checks(source)
    except build.SourceError as err:
        return [f"{where}: {err}"]
    test: Check | None = getattr(module, exercise.name, None)
    if test is None:
        return [f"{where}: no check of that name in phenomena/checks/{topic}.py"]
    right, wrong = given.RIGHT.get(exercise.name, []), given.WRONG.get(exercise.name, [])
    lines = []
    if not right:
        lines.append(f"no right answer in {file}, at least 1 is needed, written differently from the solution")
    pointed = sum(len(hint) > 2 and hint not in "the values are off by" for _, hint in wrong)
    if pointed < 3:
        lines.append(f"{pointed} wrong answers with a hint of their own in {file}, at least 3 are needed")
    if "Next: " not in test.praise:
        lines.append("its praise does not say what to look at next: end it by `Next: ...`")

    stub = test(functions(source, solved=False)[exercise.name])
    if stub.status != "open" or f"TODO {exercise.number} " not in stub.message:
        lines.append(f"unfilled, its check does not say which TODO is open: {stub}")
    home = sys.modules[test.test.__module__]  # of a package, the module of this exercise
    with recorded(home) as (offered, raised), warnings.catch_warnings():
        warnings.simplefilter("error")  # a check warns of nothing itself
        for name, answer in [("the solution", functions(source, solved=True)[exercise.name]),
                             *((f"right answer {i}", answer) for i, answer in enumerate(right, 1))]:  # fmt: skip
            if (verdict := test(answer)).status != "right":
                lines.append(f"{name} is judged {verdict.status}: {verdict.message}")
        met = set()
        for i, (answer, hint) in enumerate(wrong, 1):
            verdict = test(answer)
            met.add(verdict.message)
            if verdict.status != "wrong" or hint not in verdict.message:
                lines.append(f"wrong answer {i} should hear `{hint}`: {verdict}")
            hint_alone = bare(re.sub(r", at `.*`\.$", "", verdict.message))  # an error quotes the student's own line
            for secret in secrets(exercise):
                if secret in hint_alone:
                    lines.append(f"the hint to wrong answer {i} holds the solution's `{secret}`")
        for value in ODD:
            verdict = test(lambda *_, value=value: value)
            if verdict.status != "wrong" or "\n" in verdict.message or "cannot read" in verdict.message:
                lines.append(f"an answer that returns {value!r} should hear a line that helps: {verdict}")
    for hint in sorted(offered - met):
        lines.append(f"no wrong answer in {file} hears `{hint}`: add one, or drop the hint")
    for line in sorted(lines_that_raise(test.test) - raised):
        lines.append(f"no wrong answer in {file} reaches line {line} of {home.__name__.replace('.', '/')}.py: add one")
    return [f"{where}: {line}" for line in lines]


@pytest.mark.parametrize(("source", "exercise"), EXERCISES)
def test_each_exercise_has_a_check_that_knows_right_from_wrong(source, exercise):
    if lines := faults(source, exercise, answers(build.topic(source))):
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_answers_belong_to_an_exercise_and_checks_never_read_the_solution(source):
    names = {exercise.name for exercise in exercises(source)}
    there = answers(build.topic(source))
    assert there is None or {*there.RIGHT, *there.WRONG} <= names
    module = build.checks(source)
    homes = {module.__name__, *(test.test.__module__ for test in checks.exercises(module))}
    assert all(home.startswith(module.__name__) for home in homes)
    imported = [
        name
        for module in map(sys.modules.__getitem__, sorted(homes))
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", ""), *(alias.name for alias in node.names)]
    ]
    assert not [name for name in imported if re.match(r"solution|importlib|pathlib|runpy|jupytext|nbformat|\W", name)]


@pytest.mark.parametrize("path", sorted((ROOT / "tests/answers").glob("*.py")), ids=lambda path: path.stem)
def test_answers_belong_to_a_lab(path):
    assert path.stem in {build.topic(source) for source in SOURCES}


# The same on a small lab, sound and with one defect each.

RIGHT = {"double": [lambda x: x + x], "fourfold": [lambda x: 4 * x]}
WRONG = {
    "double": [(lambda x: x**2, "square"), (lambda x: x / 2, "half"), (lambda x: 2.0 * x, "float")],
    "fourfold": [(lambda x: x, "itself"), (lambda x: x**2, "square"), (lambda x: 2 * x, "twice")],
}


def found(tmp_path, monkeypatch, source=SOURCE, checks=CHECKS, **given):
    path = write_lab(tmp_path, monkeypatch, source, checks)
    there = SimpleNamespace(**{"RIGHT": RIGHT, "WRONG": WRONG, **given})
    return [line for exercise in build.exercises(path) for line in faults(path, exercise, there)]


def test_a_sound_lab_has_no_fault(tmp_path, monkeypatch):
    assert found(tmp_path, monkeypatch) == []


def test_a_lab_without_answers_hears_of_it(tmp_path, monkeypatch):
    path = write_lab(tmp_path, monkeypatch)
    (line,) = faults(path, build.exercises(path)[0], answers("topic"))
    assert line == (
        "solutions/01_topic.py, exercise 1 (double): tests/answers/topic.py is missing; "
        "write RIGHT and WRONG there (solutions/README.md shows how)"
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"RIGHT": {**RIGHT, "double": []}}, "no right answer in tests/answers/topic.py, at least 1 is needed"),
        ({"RIGHT": {**RIGHT, "double": [lambda x: 3 * x]}}, "right answer 1 is judged wrong"),
        ({"WRONG": {**WRONG, "double": [*WRONG["double"], (lambda x: 2 * x, "off by")]}}, "wrong answer 4 should hear"),
        ({"WRONG": {**WRONG, "double": [*WRONG["double"], (lambda x: 3 * x, "half")]}}, "wrong answer 4 should hear"),
    ],
)
def test_a_defect_of_the_answers_is_a_line(tmp_path, monkeypatch, given, line):
    (only,) = found(tmp_path, monkeypatch, **given)
    assert only.startswith("solutions/01_topic.py, exercise 1 (double): ")
    assert line in only


@pytest.mark.parametrize("instead", [[], [(lambda x: x + 1, "off by")], [(lambda x: x + 1, "")]])
def test_two_wrong_answers_with_a_hint_are_too_few(tmp_path, monkeypatch, instead):
    lines = found(tmp_path, monkeypatch, WRONG={**WRONG, "double": [*WRONG["double"][:2], *instead]})
    text = "2 wrong answers with a hint of their own in tests/answers/topic.py, at least 3 are needed"
    assert f"solutions/01_topic.py, exercise 1 (double): {text}" in lines
    assert any("reaches line 11" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("compare(answer(x), x + x", "compare(answer(x), x + x + 1e-3", "the solution is judged wrong"),
        ("compare(answer(x), x + x", "compare(answer(x), answer(x)", "wrong answer 1 should hear `square`"),
        ('"that is twice."', '"that is twice, not double(double(x))."', "holds the solution's `double(double(x))`"),
        ("Next: four times.", "", "does not say what to look at next"),
        ("    if not", '    if answer(2) == 7:\n        raise Wrong("seven?")\n    if not', "reaches line 11 of"),
        ("(x / 2,", '(x + 7, "seven?"), (x / 2,', "hears `seven?`"),
        ("        compare(", "        answer(x).real\n        compare(", "cannot read"),
        ("        compare(", "        x / np.zeros(1)\n        compare(", "judged wrong: the check cannot read"),
        ("        compare(", "        break\n        compare(", "should hear"),
        ("def double(answer):", "def twofold(answer):", "no check of that name"),
    ],
)
def test_a_defect_of_a_check_is_a_line(tmp_path, monkeypatch, old, new, line):
    assert old in CHECKS
    changed = CHECKS.replace(old, new).replace("import Wrong", "import np, Wrong")
    lines = found(tmp_path, monkeypatch, checks=changed)
    assert any(line in found for found in lines), lines


def test_a_stub_that_returns_is_not_open(tmp_path, monkeypatch):
    given = SOURCE.replace("    # SOLUTION TODO 1", "    return 0\n    # SOLUTION TODO 1")
    assert any("does not say which TODO is open" in line for line in found(tmp_path, monkeypatch, given))


def test_the_example_that_shows_how_to_write_an_exercise_is_sound(tmp_path, monkeypatch):
    cells, tests, given = re.findall(
        r"```python\n(.*?)```", (ROOT / "solutions/README.md").read_text("utf-8"), re.DOTALL
    )
    head = "# %% [markdown]\n# # A lab\n#\n# One exercise, about 5 minutes.\n\n# %%\n# %load_ext phenomena.lab\n"
    head += (
        "from torch import Tensor\n\nfrom phenomena.checks import topic as check\nfrom phenomena.lab import summary\n"
    )
    imports = "from collections.abc import Callable\n\nimport numpy as np\nimport torch\n"
    source = f"{head}\n{cells}\n# %%\nsummary(check, globals())\n"
    path = write_lab(tmp_path, monkeypatch, source, imports + tests)
    names = {"torch": torch}
    exec(given, names)
    assert build.defects(path) == []
    assert faults(path, build.exercises(path)[0], SimpleNamespace(**{k: names[k] for k in ("RIGHT", "WRONG")})) == []


# What every check does, on one exercise.


@check(1, minutes=5, praise="the mean. Next: the variance.")
def mean(answer):
    """The mean of x, whatever its dtype."""
    for x in (torch.arange(4.0), torch.arange(4.0, dtype=torch.float64)):
        compare(of_kind(answer(x), x), x.sum() / 4)


def test_a_right_answer_hears_so_and_what_comes_next():
    assert repr(mean(torch.mean)) == "✅ mean is right: the mean. Next: the variance."


@pytest.mark.parametrize(("error", "what"), [("TODO 1 (mean)", "TODO 1 (mean)"), ("", "exercise 1")])
def test_an_unfilled_answer_is_open(error, what):
    def unfilled(x):
        raise NotImplementedError(error)

    assert repr(mean(unfilled)) == f"⬜ mean: {what} is open."


def test_an_answer_that_calls_an_unfilled_one_waits_for_it():
    def filled(x):
        raise NotImplementedError("TODO 3 (total)")

    assert repr(mean(filled)) == "⬜ mean: it waits for TODO 3 (total), which is open."


def test_warnings_are_no_failure():
    def warns(x):
        warnings.warn("mind", UserWarning, stacklevel=1)
        np.float64(1.0) / np.zeros(1)
        print("to stderr", file=sys.stderr)
        return x.mean()

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("error")
        assert mean(warns).status == "right"
    assert {UserWarning, RuntimeWarning} <= {warning.category for warning in heard}


def test_a_checks_own_warning_is_an_error_of_the_check():
    @check(1, minutes=5, praise="")
    def careless(answer):
        warnings.warn("mind", RuntimeWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert careless(print).status == "wrong"


def test_prints_are_left_alone(capsys):
    mean(lambda x: [print("here"), x.mean()][1])
    assert capsys.readouterr().out == "here\nhere\n"


def test_an_interrupt_passes_through():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mean(interrupted)


def fails(x):
    raise AssertionError


def fails_at_length(x):
    raise ValueError("one line.\nanother line")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (fails, "it stopped with AssertionError, at `raise AssertionError`."),
        (fails_at_length, "ValueError: one line, at `raise"),
        (torch.tensor(1.5), "the check takes the function itself, check.mean(mean), not its Tensor."),
        (None, "not its NoneType."),
        (lambda x, y: x, "TypeError"),
        (lambda x: None, "is there a `return`?"),
        (lambda x: x.mean().requires_grad_(), "still requires a gradient"),
        (lambda x: x.mean().numpy(), "it returns a ndarray, the contract says Tensor."),
        (lambda x: x.mean().float(), "its dtype is torch.float32, the contract says torch.float64"),
        (lambda x: x.sort().values.sub_(0) if x.mul_(2) is None else x.mean(), "in place"),
    ],
)
def test_a_wrong_answer_hears_one_line(answer, hint):
    verdict = mean(answer)
    assert verdict.status == "wrong"
    assert hint in verdict.message
    assert "\n" not in verdict.message


def spoil(x):
    x[0] = 7
    return 1


@pytest.mark.parametrize(
    ("given", "change"),
    [
        (torch.tensor([float("nan"), 1.0]), spoil),
        (np.array([float("nan"), 1.0]), spoil),
        (torch.tensor([1, 2]), spoil),
        ([1, 2], spoil),
        ([1, 2], lambda x: x.append(3) or 1),
        ([np.zeros(2)], lambda x: spoil(x[0])),
        ({0: torch.zeros(2)}, lambda x: spoil(x[0])),
        ({0: torch.zeros(2)}, lambda x: spoil({}) and x.pop(0) is not None),
        (torch.zeros(2, 3), lambda x: x.t_() is not None),
        (torch.zeros(3), lambda x: x.resize_(1) is not None),
    ],
)
def test_a_changed_input_is_noticed_and_an_unchanged_one_is_none(given, change):
    @check(1, minutes=5, praise="")
    def any_number(answer):
        compare(answer(given), 1)

    assert "in place" in any_number(change).message
    assert any_number(lambda x: 1).status == "right"


def test_a_generator_and_a_model_are_to_be_used():
    draws, model = np.random.default_rng(0), torch.nn.Linear(1, 1)

    @check(1, minutes=5, praise="")
    def train(answer):
        compare(answer(draws, model), 1)
        if model.bias.item() != 3 or draws.random() == np.random.default_rng(0).random():
            raise Wrong("not used.")

    assert train(lambda rng, net: rng.random() * 0 + torch.nn.init.constant_(net.bias, 3).item() - 2).status == "right"


WANT = np.array([[1.0, -2.0, 4.0], [0.5, 3.0, 8.0]])


@pytest.mark.parametrize(
    ("got", "likeness"),
    [
        (WANT.T, "the axes are swapped: the shape is (3, 2), the contract says (2, 3)"),
        (WANT.ravel(), "the shape is (6,)"),
        (-WANT, "every sign is turned round"),
        (1.25 * WANT, "every value is 1.25 times the right one"),
        (0 * WANT, "every value is 0"),
        (WANT[::-1], "the right values in another order"),
        (np.add(WANT, [0.1, 0, 0]), "off by 1.5 %"),
        (np.add(WANT, [0, 0, np.inf]), "infinite or NaN"),
        (WANT * 1j, "no array of real numbers"),
        ("text", "no array of real numbers"),
    ],
)
def test_a_wrong_value_hears_what_it_is_like(got, likeness):
    with pytest.raises(Wrong, match=re.escape(likeness)):
        compare(got, WANT, where="here")


def test_a_right_value_may_come_in_any_kind_and_a_rounding_away():
    for got in (WANT, torch.tensor(WANT), WANT.tolist(), [*torch.tensor(WANT)], (WANT + 1e-6).astype(np.float32)):
        compare(got, WANT)
    compare([torch.ones(2, requires_grad=True)], [[1, 1]])
    compare(np.inf, np.inf)
    compare([1.0, np.inf], [1.0, np.inf])
    compare([], [])


@pytest.mark.parametrize(("got", "hint"), [([1, 5], "finite where"), ([2, np.inf], "100 %"), ([1, -np.inf], "off by")])
def test_an_infinite_value_of_the_oracle_hides_nothing(got, hint):
    with pytest.raises(Wrong, match=hint):
        compare(got, [1, np.inf])


def test_a_gradient_may_come_back_where_one_went_in():
    x = torch.ones(2, requires_grad=True)
    assert of_kind(2 * x, x).requires_grad
    with pytest.raises(Wrong, match="gradient"):
        of_kind(2 * x, torch.ones(2))


def test_a_mistake_that_the_right_value_would_make_too_is_none():
    compare(1.0, 1.0, [(1.0, "a hint")])
    with pytest.raises(Wrong, match="a hint"):
        compare(2.0, 1.0, [(3.0, "another"), ([2.0], "of another shape"), (2.0, "a hint")])


def test_samples_and_labels_are_awkward():
    drawn = dict(samples(6, 4, torch.Generator().manual_seed(0)))
    assert {X.dtype for X in drawn.values()} == {torch.float32, torch.float64}
    assert {X.shape for X in drawn.values()} == {(6, 4), (1, 4)}
    assert sum(not X.is_contiguous() for X in drawn.values()) == 1
    y = torch.tensor([0, 2, 1, 2])
    for _, labels in relabelled(y):
        assert torch.equal(torch.unique(labels, return_inverse=True)[1], y)
    assert len({int(labels.min()) for _, labels in relabelled(y)}) == 3


# The summary at a lab's end.


@pytest.fixture
def two(tmp_path, monkeypatch) -> ModuleType:
    write_lab(tmp_path, monkeypatch)
    return sys.modules["phenomena.checks.topic"]


def unfilled(x):
    raise NotImplementedError("TODO 2 (fourfold)")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({}, "⬜ 1 double (5 min): run the cell of the exercise first.\n"
             "⬜ 2 fourfold (10 min): run the cell of the exercise first.\n"
             "0 right, 0 wrong, 2 open; about 15 minutes left. Next: exercise 1 (double).\n"),
        ({"double": lambda x: 2 * x, "fourfold": unfilled},
             "✅ 1 double\n⬜ 2 fourfold (10 min): TODO 2 (fourfold) is open.\n"
             "1 right, 0 wrong, 1 open; about 10 minutes left. Next: exercise 2 (fourfold).\n"),
        ({"double": lambda x: x * x, "fourfold": lambda x: 4 * x},
             "❌ 1 double (5 min): that is the square.\n✅ 2 fourfold\n"
             "1 right, 1 wrong, 0 open; about 5 minutes left. Next: exercise 1 (double).\n"),
        ({"double": 6.0, "fourfold": lambda x: 4 * x},
             "❌ 1 double (5 min): the check takes the function itself, check.double(double), not its float.\n"
             "✅ 2 fourfold\n1 right, 1 wrong, 0 open; about 5 minutes left. Next: exercise 1 (double).\n"),
        ({"double": lambda x: 2 * x, "fourfold": lambda x: 4 * x},
             "✅ 1 double\n✅ 2 fourfold\n"
             "All 2 exercises are right. Next: the chapter, for the theory and the papers behind it.\n"),
    ],
)  # fmt: skip
def test_a_summary_says_what_is_done_wrong_and_open(two, capsys, names, text):
    summary(two, names)
    assert capsys.readouterr().out == text


def test_a_summary_is_silent_about_prints_and_warnings(two, capsys):
    def noisy(x):
        print("noise")
        warnings.warn("noise", UserWarning, stacklevel=1)
        return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        summary(two, {"double": noisy})
    out, err = capsys.readouterr()
    assert "noise" not in out + err
    assert out.startswith("✅ 1 double\n")


def test_checks_are_in_the_order_of_their_exercises(two):
    assert [test.name for test in checks.exercises(two)] == ["double", "fourfold"]
