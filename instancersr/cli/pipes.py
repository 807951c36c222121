"""A picture on stdin or stdout: files take their place while the work is done."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instancersr.errors import UserError

from .messages import naming_stdout

PIPE = Path("-")
"""Stands for stdin as an input, and for stdout as the output."""


@contextmanager
def piped(inputs: list[Path], output: Path | None, suffix: str | None,
          writes_more: bool) -> Iterator[tuple[list[Path], Path | None]]:
    """Inputs and output with files in the place of stdin and stdout; at the end the file for stdout is written there.

    Args:
        suffix: of the picture's file type; None is `.png`, or the input's own if it has several pages or frames.
        writes_more: whether there is more to write than the picture.

    Raises:
        UserError: more than a single picture would go through the pipe, or it is closed.
    """
    if PIPE not in (*inputs, output):
        yield inputs, output
        return
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        raise UserError("-: a pipe takes one picture; give nothing else")
    if output is None:
        raise UserError("-: the picture from stdin needs an --output, such as -o -")
    if output == PIPE and writes_more:
        raise UserError("-o -: stdout takes the picture alone; leave out --json and --instances")
    if inputs[0] == PIPE and sys.stdin is None:
        raise UserError("-: stdin is closed; connect a file or a program to it")
    if output == PIPE and sys.stdout is None:
        raise UserError("-o -: stdout is closed; connect a file or a program to it")
    with tempfile.TemporaryDirectory() as folder:
        source, target = inputs[0], output
        if source == PIPE:
            source = _named(Path(folder, "stdin"), sys.stdin.buffer.read())
        if output == PIPE:
            target = Path(folder, f"stdout{suffix or _own_suffix(source)}")
        yield [source], target
        if output == PIPE and target.exists():
            with naming_stdout():
                sys.stdout.buffer.write(target.read_bytes())
                sys.stdout.buffer.flush()


def _named(path: Path, data: bytes) -> Path:
    """A new file with these bytes; where it has several pages or frames, its name gets the suffix of its format."""
    from instancersr.images.formats import suffix_of
    from instancersr.images.reading import read_header

    path.write_bytes(data)
    header = read_header(path)
    return path.rename(path.with_suffix(suffix_of(header.format))) if header.frames > 1 else path


def _own_suffix(source: Path) -> str:
    from instancersr.batch.planning import own_suffix
    from instancersr.images.reading import read_header

    return own_suffix(source, read_header(source))
