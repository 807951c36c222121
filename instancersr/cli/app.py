"""The ``instancersr`` command: its commands are the other files of this package, one each."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from instancersr.installation import installed_version

from .messages import INTERRUPTED

app = typer.Typer(
    name="instancersr",
    help="Sharp, natural enlargements of bad photos, and the map of the objects in them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"instancersr {installed_version() or '(not installed)'}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command: Ctrl-C ends it quietly wherever it comes."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # pyiqa brings it; it misses kernels that nobody asks for
    for stream in (sys.stdout, sys.stderr):  # None where it is closed
        with contextlib.suppress(OSError):  # it was put in the place of another kind of file
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        app()
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted", style="red")
        _end(INTERRUPTED)
    except SystemExit as end:
        _end(end.code)


def _end(code: int | str | None) -> NoReturn:
    """Ends this process; as one of several, without Python's own end, in which gloo's threads may abort it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not isinstance(code, str):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)
