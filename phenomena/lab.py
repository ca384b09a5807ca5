"""What a lab notebook needs of Jupyter: open TODOs as one line instead of a traceback, knobs, and a summary.

`%load_ext phenomena.lab` in a notebook's first cell turns the first on.
"""

import ast
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import Any

from phenomena.checks import Verdict, exercises, is_open_todo


def open_todo(todo: str, waits: str = "") -> str:
    """What to print for an exercise that still raises NotImplementedError(todo)."""
    return f"⬜ open: {todo or 'an exercise above'}{waits}. Fill it in, and run the cells from there to here again."


def load_ipython_extension(ipython: Any) -> None:
    """Show an open TODO, and a name that waits for one, as one line, so that an unfilled lab runs through.

    Every other error stays an error, with its traceback.
    """
    waiting: dict[str, str] = {}  # names that a cell would have set, had its TODO not been open -> that TODO

    def todo_of(err: BaseException | None) -> str | None:
        if err is not None and is_open_todo(err):
            return str(err)
        return waiting.get(err.name or "") if isinstance(err, NameError) else None

    def one_line(shell: Any, etype: type, err: Exception, tb: Any, tb_offset: int | None = None) -> None:
        todo = todo_of(err)
        if todo is None:
            shell.showtraceback((etype, err, tb), tb_offset=tb_offset)
            return
        waits = f" (this cell needs `{err.name}`)" if isinstance(err, NameError) else ""
        print(open_todo(todo, waits))
        _close_pictures()

    def after(result: Any) -> None:
        todo = todo_of(result.error_in_exec)
        names = _names_set_by(ipython.transform_cell(result.info.raw_cell)) if result.info else set()
        for name in names:  # set now, or failed for another reason, or waiting (still)
            waiting.pop(name, None)
        if todo is not None:
            waiting.update(dict.fromkeys(names, todo))
            result.error_in_exec = None  # else Jupyter counts the cell as failed, and "run all" stops there

    ipython.set_custom_exc((NotImplementedError, NameError), one_line)
    ipython.events.register("post_run_cell", after)


def _names_set_by(code: str) -> set[str]:
    """Global names that a cell assigns; those inside a def or class are its own."""
    try:
        nodes: list[ast.AST] = [ast.parse(code)]
    except SyntaxError:
        return set()
    names = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return names


def _close_pictures() -> None:
    """Drop the empty axes of a picture that waits."""
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


def live(picture: Callable[..., None], **knobs: Any) -> None:
    """Draw `picture(**values)` under ipywidgets for its arguments, anew whenever one is let go.

    A knob is a widget or what `ipywidgets.interactive` makes one of, for example (low, high, step).
    """
    import ipywidgets
    from IPython.display import display

    @wraps(picture)
    def guarded(**values: Any) -> None:
        try:
            picture(**values)
        except NotImplementedError as err:
            if not is_open_todo(err):
                raise
            print(open_todo(str(err)))
            _close_pictures()

    panel = ipywidgets.interactive(guarded, **knobs)
    for widget in panel.children[:-1]:
        if hasattr(widget, "continuous_update"):
            widget.continuous_update = False  # a drawing takes longer than a mouse move
        widget.style.description_width = "12em"
        widget.layout.width = "28em"
    display(panel)


def summary(checks: ModuleType, names: Mapping[str, Any]) -> None:
    """Print what is done, wrong and open: every check of a lab on the function of its name, `globals()` say.

    The checks run anew and in silence, so the summary holds for what the functions are now.
    """
    from IPython.utils.capture import capture_output

    lines, left, count = [], [], {"right": 0, "wrong": 0, "open": 0}
    for check in exercises(checks):
        with capture_output():
            verdict = (
                check(names[check.name])
                if check.name in names
                else Verdict(check.name, "open", "run the cell of the exercise first.")
            )
        count[verdict.status] += 1
        line = f"{verdict.mark} {check.number} {check.name}"
        if verdict.status != "right":
            left.append(check)
            line += f" ({check.minutes} min): {verdict.message}"
        lines.append(line)
    done = ", ".join(f"{number} {status}" for status, number in count.items())
    if left:
        minutes = sum(check.minutes for check in left)
        lines.append(f"{done}; about {minutes} minutes left. Next: exercise {left[0].number} ({left[0].name}).")
    else:
        lines.append(
            f"All {len(lines)} exercises are right. Next: the chapter, for the theory and the papers behind it."
        )
    print("\n".join(lines))
