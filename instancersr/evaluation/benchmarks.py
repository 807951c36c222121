"""Benchmarks: pictures to enlarge and, where there is one, the truth of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..inference.images import image_files

SHOWN = 5
"""Files that an error names."""


@dataclass(frozen=True)
class Item:
    """One picture of a benchmark: its name without suffixes, its files; hr is None where the truth is unknown."""

    name: str
    lr: Path
    hr: Path | None


@dataclass(frozen=True)
class Benchmark:
    """Items in the order of their names, and how many times larger than its input an output is."""

    name: str
    items: tuple[Item, ...]
    scale: int


def stem(path: Path) -> str:
    """The name that input, truth and output of a picture share: `a_LR4.png`, `a_HR.png`, `a_x4.png` are `a`."""
    return re.sub(r"_(LR\d?|HR\d?|x\d)$", "", re.sub(r"_x\d$", "", path.stem))


def pair_folders(name: str, lr: Path, hr: Path | None, scale: int = 4) -> Benchmark:
    """A benchmark of a folder of inputs and, with `hr`, a folder of truths; nothing but headers is read.

    Raises:
        UserError: a folder is missing or empty, names do not match, or a truth is not `scale` times its input; names
            the first files.
    """
    inputs = pictures(lr)
    truths = pictures(hr) if hr else {}
    if hr:
        _complain(f"{name}: no truth in {hr} for", [inputs[key].name for key in inputs if key not in truths])
        _complain(f"{name}: no input in {lr} for", [truths[key].name for key in truths if key not in inputs])
    items = tuple(Item(key, inputs[key], truths.get(key)) for key in sorted(inputs))
    _complain(f"{name}: the truth is not {scale} times the size of the input for",
              [item.lr.name for item in items if item.hr and _size(item.hr) != _enlarged(item, scale)])
    return Benchmark(name, items, scale)


def pair_outputs(method: str, folder: Path, benchmark: Benchmark) -> dict[str, Path]:
    """Finished outputs of a benchmark by item name.

    Raises:
        UserError: an output is missing or has the wrong size; names the first files.
    """
    found = pictures(folder)
    _complain(f"{method}: no output in {folder} for",
              [item.lr.name for item in benchmark.items if item.name not in found])
    _complain(f"{method}: not {benchmark.scale} times the size of its input",
              [str(found[item.name]) for item in benchmark.items
               if _size(found[item.name]) != _enlarged(item, benchmark.scale)])
    return {item.name: found[item.name] for item in benchmark.items}


def pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by `stem`.

    Raises:
        UserError: it is no folder, has no picture, or two of its pictures have one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in image_files(folder, recursive=False):
        if stem(path) in found:
            raise UserError(f"{folder}: {found[stem(path)].name} and {path.name} are the same picture by name")
        found[stem(path)] = path
    if not found:
        raise UserError(f"{folder}: has no pictures")
    return found


def _enlarged(item: Item, scale: int) -> tuple[int, int]:
    width, height = _size(item.lr)
    return width * scale, height * scale


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as error:
        raise UserError(f"{path}: not a picture that can be read") from error


def _complain(what: str, files: list[str]) -> None:
    if files:
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        raise UserError(f"{what} {', '.join(files[:SHOWN])}{more}")
