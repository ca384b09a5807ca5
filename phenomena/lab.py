"""What a lab notebook needs of Jupyter: open TODOs as one line instead of a traceback, and knobs.

`%load_ext phenomena.lab` in a notebook's first cell turns the first on.
"""

import ast
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any


def open_todo(todo: str) -> str:
    """What to print for an exercise that still raises NotImplementedError(todo)."""
    return f"⬜ open: {todo or 'an exercise above'}. Fill it in, run its cell, then run this one again."


def load_ipython_extension(ipython: Any) -> None:
    """Show an open TODO, and a name that waits for one, as one line, so that an unfilled lab runs through.

    Every other error stays an error, with its traceback.
    """
    waiting: dict[str, str] = {}  # names that a cell would have set, had its TODO not been open -> that TODO

    def todo_of(err: BaseException | None) -> str | None:
        if isinstance(err, NotImplementedError):
            return str(err)
        return waiting.get(err.name or "") if isinstance(err, NameError) else None

    def one_line(shell: Any, etype: type, err: Exception, tb: Any, tb_offset: int | None = None) -> None:
        todo = todo_of(err)
        if todo is None:
            shell.showtraceback((etype, err, tb), tb_offset=tb_offset)
            return
        print(open_todo(todo))
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close("all")  # the empty axes of a picture that waits

    def after(result: Any) -> None:
        todo = todo_of(result.error_in_exec)
        if todo is None:
            return
        for node in ast.walk(ast.parse(ipython.transform_cell(result.info.raw_cell))):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                waiting[node.id] = todo
        result.error_in_exec = None  # else Jupyter counts the cell as failed, and "run all" stops there

    ipython.set_custom_exc((NotImplementedError, NameError), one_line)
    ipython.events.register("post_run_cell", after)


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
            print(open_todo(str(err)))

    panel = ipywidgets.interactive(guarded, **knobs)
    for widget in panel.children[:-1]:
        if hasattr(widget, "continuous_update"):
            widget.continuous_update = False  # a drawing takes longer than a mouse move
        widget.style.description_width = "12em"
        widget.layout.width = "28em"
    display(panel)
