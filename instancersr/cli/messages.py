"""What the commands say on stderr: one line an error, and the exit code with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from instancersr.errors import MissingPackage, UserError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a command's work raises becomes one line and an exit code; a bug keeps its traceback."""
    errors = Console(stderr=True)
    try:
        yield
    except UserError as error:
        fail(errors, f"error: {first_line(error)}", 2)
    except OSError as error:
        fail(errors, f"error: {first_line(error)}", 1)
    except KeyboardInterrupt as interruption:
        fail(errors, f"interrupted: {interruption}" if str(interruption) else "interrupted", INTERRUPTED)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that are in an optional part of the installation.

    Raises:
        MissingPackage: it is not there.
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackage(error, extra) from error


def fail(console: Console, message: str, code: int) -> None:
    console.print(as_line(message), style="red", soft_wrap=True)
    raise typer.Exit(code)


def as_line(text: str) -> Text:
    return Text(printable(text))


def printable(text: str) -> str:
    """One line, whatever a file name holds: line breaks, escape codes, undecodable bytes are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException | str) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
