"""Folders that are written completely or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


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
