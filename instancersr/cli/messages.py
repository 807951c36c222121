"""What the commands say on stderr: one line an error, and the exit code with it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from instancersr.errors import NO_MEMORY, MissingPackage, UserError, first_line, is_out_of_memory
from instancersr.imports import without_collecting

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
TERMINATED = 143
"""Exit code after SIGTERM, likewise."""


@contextmanager
def _unwinding() -> Iterator[None]:
    """SIGTERM ends the program by an exception, so that half-written files and temporary ones are deleted."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def own_words_only() -> Iterator[None]:
    """Keeps what libraries log, warn of and print on stderr away from it: nobody can act on that."""
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what no handler takes
    with warnings.catch_warnings(), _own_stderr():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _own_stderr() -> Iterator[None]:
    """C libraries write to file descriptor 2; this program keeps another way to where that led."""
    given = sys.stderr
    if given is None or given is not sys.__stderr__:  # closed, or replaced already, as in a test
        yield
        return
    given.flush()
    descriptor = given.fileno()
    kept = os.dup(descriptor)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
    try:
        with open(os.dup(kept), "w", buffering=1, encoding=given.encoding, errors=given.errors) as own:
            sys.stderr = own
            yield
    finally:
        sys.stderr = given
        os.dup2(kept, descriptor)
        os.close(kept)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a command's work raises, and SIGTERM, become a line at most and an exit code; a bug keeps its traceback."""
    errors = Console(stderr=True)
    try:
        with _unwinding():
            yield
    except (UserError, OSError) as error:
        code = 2 if isinstance(error, UserError) else 1
        fail(errors, f"error: {NO_MEMORY if is_out_of_memory(error) else first_line(error)}", code)
    except KeyboardInterrupt as interruption:
        fail(errors, f"interrupted: {interruption}" if str(interruption) else "interrupted", INTERRUPTED)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fail(errors, f"error: {NO_MEMORY}", 1)


@contextmanager
def naming_stdout() -> Iterator[None]:
    """Around what writes to stdout: an error says so. A reader that has gone away is the caller's to know."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"stdout cannot be written ({error.strerror})") from error


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that are in an optional part of the installation.

    Raises:
        MissingPackage: it is not there.
    """
    try:
        with without_collecting():
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
