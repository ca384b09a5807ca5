"""The demonstration: a whole semester, played."""

from pathlib import Path
from typing import Annotated

import typer

from practicum.app import Errors, app


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")] = Path("practicum-demo"),
    transcript: Annotated[
        Path | None, typer.Option(help="Also write each act's commands and output there.", show_default="nowhere")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Remove an earlier demonstration in the folder.")] = False,
    unsafe_local: Annotated[bool, typer.Option("--unsafe-local", help="Without isolation.")] = False,
) -> None:
    """Play a whole semester with made-up groups on real papers, in about two minutes.

    It ends with a gradebook and feedback to look at. Its calendar is made up.

    Example: practicum demo
    """
    errors = Errors()
    with errors.told():
        from practicum.demo.play import play  # it runs the other commands, so they come first

        play(folder, transcript, force, unsafe_local)
    errors.exit()
