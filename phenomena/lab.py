"""What a lab notebook needs of Jupyter: open TODOs as one line instead of a traceback, and knobs.

`%load_ext phenomena.lab` in a notebook's first cell turns the first on.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any


def open_todo(err: NotImplementedError) -> str:
    """What to print for an exercise that still raises NotImplementedError."""
    return f"⬜ open: {str(err) or 'an exercise above'}. Fill it in, run its cell, then run this one again."


def load_ipython_extension(ipython: Any) -> None:
    """Show NotImplementedError as one line, so that an unfilled lab runs through; other errors stay errors."""

    def one_line(shell: Any, etype: type, err: NotImplementedError, tb: Any, tb_offset: Any = None) -> None:
        print(open_todo(err))

    ipython.set_custom_exc((NotImplementedError,), one_line)


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
            print(open_todo(err))

    panel = ipywidgets.interactive(guarded, **knobs)
    for widget in panel.children[:-1]:
        if hasattr(widget, "continuous_update"):
            widget.continuous_update = False  # a drawing takes longer than a mouse move
        widget.style.description_width = "12em"
        widget.layout.width = "28em"
    display(panel)
