"""The picture files in a folder, and what else is there: nothing is left out without a word."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .formats import READABLE


@dataclass
class Found:
    """pictures: sorted by path. left_out: how many files of each suffix, or of another kind, are none.

    closed: folders that cannot be read.
    """

    pictures: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def search(folder: str | os.PathLike[str], recursive: bool = True) -> Found:
    """Looks for pictures by their suffixes; hidden files and folders are left out, and counted.

    Linked folders are followed, each folder once, however many links lead to it: first the folder's own ones, so that
    a link never takes the place of what it leads to.
    """
    found = Found()
    links: list[Path] = []
    seen: set[tuple[int, int]] = set()
    _search(Path(folder), recursive, found, links, seen)
    while links:
        _search(links.pop(0), recursive, found, links, seen)
    found.pictures.sort()
    return found


def image_files(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The picture files in a folder by their suffix, sorted by path; hidden ones are left out."""
    return search(folder, recursive).pictures


def _search(folder: Path, recursive: bool, found: Found, links: list[Path], seen: set[tuple[int, int]]) -> None:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            found.left_out["link to a folder that is searched already"] += 1
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(folder.iterdir())
        os.stat(os.path.join(folder, os.curdir))  # of some folders names may be listed, but no file reached
    except OSError:
        found.closed.append(folder)
        return
    for path in entries:
        if path.name.startswith("."):
            found.left_out["hidden"] += 1
        elif os.path.isdir(path):
            if recursive and os.path.islink(path):
                links.append(path)
            elif recursive:
                _search(path, recursive, found, links, seen)
        elif not os.path.isfile(path):
            found.left_out["broken link" if os.path.islink(path) else "special file"] += 1
        elif path.suffix.lower() in READABLE:
            found.pictures.append(path)
        else:
            found.left_out[path.suffix.lower() or "without suffix"] += 1


def counted(left_out: Counter[str]) -> str:
    """Such as "4 files left out: 2 .dng, 1 .mp4, 1 without suffix"."""
    number = sum(left_out.values())
    kinds = ", ".join(f"{left_out[kind]} {kind}" for kind in sorted(left_out, key=lambda kind: (-left_out[kind], kind)))
    return f"{number} {'file' if number == 1 else 'files'} left out: {kinds}"
