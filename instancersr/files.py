"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

LONGEST_NAME = 255
"""Bytes of a file's name: the limit of nearly all file systems."""
PART = ".part"
"""Suffix of files that are being written; their names begin with a dot."""


class _WithoutDescriptor(io.BufferedRandom):
    def fileno(self) -> int:
        raise io.UnsupportedOperation("this file is written through Python alone")


@contextmanager
def whole_file(path: Path, descriptor: bool = True) -> Iterator[BinaryIO]:
    """A new file to write into; at the end of the block it takes the place of `path`, after an error it is gone.

    Args:
        path: where to.
        descriptor: whether the file tells its descriptor. Pillow's encoders write into one by themselves, and do not
            see that a full disk took only a part of it; what passes Python raises then.

    Raises:
        OSError: it cannot be written.
    """
    # Short and hidden: a long name would not fit beside a prefix, and a folder listing must not pick it up.
    part = path.with_name(f".{uuid.uuid4().hex[:12]}{PART}")
    try:
        with open(part, "x+b") if descriptor else _WithoutDescriptor(io.FileIO(part, "x+")) as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """A text file, as UTF-8, completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as file:
        file.write(text.encode())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into; at the end of the block it becomes `path`, after an error it is gone.

    Raises:
        UserError: `path` exists already.
    """
    if path.exists():
        raise UserError(f"{path}: exists already; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        part = Path(folder, "new")
        part.mkdir()
        yield part
        part.rename(path)


def replace_folder(part: Path, path: Path) -> None:
    """A folder that is complete takes the place of another, which need not be there."""
    shutil.rmtree(path, ignore_errors=True)
    os.replace(part, path)
