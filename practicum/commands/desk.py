"""The desk: a grading page for the lecturer, on this machine alone."""

import asyncio
import signal
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from practicum import ROOT
from practicum.app import Errors, Root, SemesterOption, app
from practicum.commands.grading import Who
from practicum.semester.desk import Desk, serve
from practicum.semester.plan import SemesterError


@app.command("desk")
def desk_command(
    who: Who,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On which port; 0: any that is free.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    semester: SemesterOption = Path(),
    root: Root = ROOT,
) -> None:
    """Open the grading page: each group's claims, re-run, report and figures beside the rubric, scores saved at once.

    It is served to this machine alone, and only to who has the address that it prints. Ctrl-C closes it.

    Example: practicum desk --who cw
    """
    errors = Errors()
    with errors.told():
        if not who.strip():
            raise SemesterError("who scores is missing (give --who)")
        desk = Desk(semester, root, who.strip())

        def ready() -> None:
            typer.echo(f"the desk of {desk.who}: {desk.address(desk.token)}\nCtrl-C closes it")
            if not no_browser:
                webbrowser.open(desk.address(desk.once))

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            asyncio.run(serve(desk, port, ready))
        except KeyboardInterrupt:
            typer.echo("the desk is closed; what was saved is in the log")
    errors.exit()
