"""A picture on stdin or stdout: files take their place while the work is done."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instancersr.errors import UserError

PIPE = Path("-")
"""Stands for stdin as an input, and for stdout as the output."""


@contextmanager
def piped(inputs: list[Path], output: Path | None, suffix: str,
          writes_more: bool) -> Iterator[tuple[list[Path], Path | None]]:
    """Inputs and output with files in the place of stdin and stdout; at the end the file for stdout is written there.

    Args:
        suffix: of the picture's file type.
        writes_more: whether there is more to write than the picture.

    Raises:
        UserError: more than a single picture would go through the pipe.
    """
    if PIPE not in (*inputs, output):
        yield inputs, output
        return
    if len(inputs) != 1 or inputs[0].is_dir():
        raise UserError("-: a pipe takes one picture; give nothing else")
    if output is None:
        raise UserError("-: the picture from stdin needs an --output, such as -o -")
    if output == PIPE and writes_more:
        raise UserError("-o -: stdout takes the picture alone; leave out --json and --instances")
    with tempfile.TemporaryDirectory() as folder:
        source, target = inputs[0], output
        if source == PIPE:
            source = Path(folder, "stdin")
            source.write_bytes(sys.stdin.buffer.read())
        if output == PIPE:
            target = Path(folder, f"stdout{suffix}")
        yield [source], target
        if output == PIPE and target.exists():
            sys.stdout.buffer.write(target.read_bytes())
            sys.stdout.buffer.flush()
