"""Benchmarks: pictures to enlarge and, where there is one, the truth of each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import Field, model_validator

from instancersr.errors import UserError
from instancersr.files import whole_file
from instancersr.images.folders import image_files
from instancersr.images.reading import read_image

from ..method.degradation import PRESETS, degrade
from ..training.config import Section

SHOWN = 5
"""Files that an error names."""


class BenchmarkConfig(Section):
    """Where the pictures of a benchmark are. One of:

    - `folder`: a benchmark in the layout of its release, see benchmarks.yaml;
    - `lr` and perhaps `hr`: folders of inputs and truths; without truths, metrics that need them are left out;
    - `hr` and `preset`: photos, whose inputs are made on the fly, the same for the same seed.
    """

    folder: Path | None = None
    lr: Path | None = None
    hr: Path | None = None
    scale: int = Field(4, ge=1)
    preset: str | None = None
    """Of `instancersr.lab.method.degradation`."""
    seed: int = 0
    crop: int = Field(512, ge=64)
    """Largest side of a photo's middle that is used with `preset`, in pixels."""

    @model_validator(mode="after")
    def _one_source(self) -> BenchmarkConfig:
        given = tuple(key for key in ("folder", "lr", "hr", "preset") if getattr(self, key) is not None)
        if given not in (("folder",), ("lr",), ("lr", "hr"), ("hr", "preset")):
            raise ValueError("give folder, or lr, or lr and hr, or hr and preset")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown; use {', '.join(PRESETS)}")
        return self


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


def open_benchmark(name: str, config: BenchmarkConfig, work: Path) -> Benchmark:
    """The benchmark that a configuration names; nothing but headers is read, unless inputs have to be made.

    Args:
        work: a folder for inputs that are made.

    Raises:
        UserError: data is missing, with where to get it, or does not fit together; names the files.
    """
    lr: Path
    hr: Path | None
    if config.preset is not None and config.hr is not None:
        lr, hr = make_inputs(config.hr, work / name, config.preset, config.seed, config.scale, config.crop)
    elif config.folder is not None:
        lr, hr = _released(name, config.folder)
    else:
        assert config.lr is not None  # BenchmarkConfig sees to it
        lr, hr = config.lr, config.hr
    absent = [str(folder) for folder in (lr, hr) if folder and not folder.is_dir()]
    if absent:
        raise UserError(f"{name}: no folder {', '.join(absent)}{_where(name)}")
    return pair_folders(name, lr, hr, config.scale)


def _released(name: str, folder: Path) -> tuple[Path, Path | None]:
    """Folders of inputs and truths of a release: test_LR and test_HR, or pictures without truth."""
    if (folder / "test_LR").is_dir() or (folder / "test_HR").is_dir():
        blind = not (folder / "test_HR").is_dir() and not _releases().get(name, {}).get("truth", False)
        return folder / "test_LR", None if blind else folder / "test_HR"
    if _releases().get(name, {}).get("truth"):
        return folder / "test_LR", folder / "test_HR"
    return folder, None


def _releases() -> dict[str, dict]:
    return yaml.safe_load((Path(__file__).parent / "benchmarks.yaml").read_text())


def _where(name: str) -> str:
    known = _releases().get(name)
    return f"; get {known['pictures']} pictures from {known['source']} (licence: {known['licence']})" if known else ""


def make_inputs(photos: Path, work: Path, preset: str, seed: int, scale: int, crop: int) -> tuple[Path, Path]:
    """Truths, the middles of photos, and inputs degraded from them, as PNGs; those that are there are kept.

    What is drawn for a photo depends on its name and the seed alone, not on the other photos.

    Args:
        photos: folder of photos.
        work: where they go, in a folder for each choice of settings and photos.
        preset: of `instancersr.lab.method.degradation`. seed: any. scale: of the enlargement.
        crop: largest side of a truth in pixels; its sides are whole multiples of `scale`.

    Returns:
        The folders of inputs and truths.

    Raises:
        UserError: there is no folder or photo; ImageError: a photo cannot be read.
    """
    found = pictures(photos)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found.values()]
    version = hashlib.sha256(repr((preset, seed, scale, crop, stats)).encode()).hexdigest()[:16]
    lr, hr = work / version / "LR", work / version / "HR"
    for folder in (lr, hr):
        folder.mkdir(parents=True, exist_ok=True)
    for key, path in found.items():
        if (lr / f"{key}.png").exists():
            continue
        truth = _middle(read_image(path).rgb, crop, scale)
        drawn = int(hashlib.sha256(f"{seed} {key}".encode()).hexdigest()[:15], 16)
        batch = torch.from_numpy(truth).permute(2, 0, 1)[None] / 255
        bad = degrade(batch, preset, seeds=[drawn], scale=scale)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        _save(truth, hr / f"{key}.png")
        _save(bad, lr / f"{key}.png")  # last: its presence says that both are there
    return lr, hr


def _middle(photo: np.ndarray, crop: int, scale: int) -> np.ndarray:
    height, width = (min(side, crop) // scale * scale for side in photo.shape[:2])
    top, left = ((whole - part) // 2 for whole, part in zip(photo.shape[:2], (height, width), strict=True))
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _save(picture: np.ndarray, path: Path) -> None:
    with whole_file(path) as file:
        Image.fromarray(picture).save(file, "PNG")


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
    sizes = {item.name: _enlarged(item, scale) for item in items}  # of all: a file that is no picture is named now
    _complain(f"{name}: the truth is not {scale} times the size of the input for",
              [item.lr.name for item in items if item.hr and _size(item.hr) != sizes[item.name]])
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
