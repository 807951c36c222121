"""Methods that an evaluation compares, each named by a short SPEC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import MissingPackage, UserError
from .benchmarks import SHOWN, Benchmark, Item, pair_outputs, stem

Enlarge = Callable[[Item], Image.Image]

MODEL_FILES = (".pth", ".pt", ".ckpt", ".safetensors")


class Method:
    """A name and a way from an item to its output; the model is loaded when the first output is asked for.

    Args:
        name: what tables call it.
        spec: `bicubic`, `builtin`, a folder saved by save_pretrained, a folder of finished outputs, or a model file
            that spandrel reads; a JSON file of published scores, {file name: {metric: value}}.

    Raises:
        UserError: the spec is none of these.
    """

    def __init__(self, name: str, spec: str):
        path = Path(spec)
        self.published = path.is_file() and path.suffix.lower() == ".json"
        self.name, self.spec = f"{name} (published)" if self.published else name, spec
        self.finished = path.is_dir() and not (path / "model_index.json").exists()
        self._enlarge: Enlarge | None = None
        model_file = path.is_file() and path.suffix.lower() in MODEL_FILES
        if not (spec in ("bicubic", "builtin") or path.is_dir() or model_file or self.published):
            raise UserError(f"method {name}: {spec!r} is neither bicubic, builtin, a folder, scores (.json), "
                            f"nor a model file ({', '.join(MODEL_FILES)})")

    def check(self, benchmark: Benchmark) -> None:
        """Raises UserError where finished outputs or published scores do not fit the benchmark."""
        if self.published:
            self.scores(benchmark)
        if self.finished:
            pair_outputs(self.name, Path(self.spec), benchmark)

    def scores(self, benchmark: Benchmark) -> dict[str, dict[str, float]]:
        """Published scores: item name -> metric, in small letters -> value.

        Raises:
            UserError: the file cannot be read, or lacks an item of the benchmark.
        """
        try:
            table = json.loads(Path(self.spec).read_text())
            found = {stem(Path(file)): {metric.lower(): float(value) for metric, value in values.items()}
                     for file, values in table.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self.spec}: not a JSON file of {{file name: {{metric: value}}}}") from error
        lacking = [item.lr.name for item in benchmark.items if item.name not in found]
        if lacking:
            raise UserError(f"{self.spec}: no scores of {', '.join(lacking[:SHOWN])}")
        return {item.name: found[item.name] for item in benchmark.items}

    def fingerprint(self) -> str:
        """Changes when the spec or a file behind it does."""
        from ..inference.pipeline import find_model

        source = find_model("builtin") if self.spec == "builtin" else Path(self.spec)
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        return digest(self.spec, *(path for path in files if path.is_file()))

    def output(self, item: Item, benchmark: Benchmark) -> Image.Image:
        """The enlarged picture, RGB."""
        if self._enlarge is None:
            self._enlarge = self._load(benchmark)
        return self._enlarge(item)

    def _load(self, benchmark: Benchmark) -> Enlarge:
        if self.finished:
            found = pair_outputs(self.name, Path(self.spec), benchmark)
            return lambda item: rgb(found[item.name])
        if self.spec == "bicubic":
            return lambda item: _bicubic(rgb(item.lr), benchmark.scale)
        if Path(self.spec).is_file():
            return _spandrel(Path(self.spec))
        return _pipeline(self.spec, benchmark.scale)


def rgb(path: Path) -> Image.Image:
    """The pixels as the scores of published tables see them: RGB, colour profiles ignored."""
    with Image.open(path) as picture:
        return picture.convert("RGB")


def digest(text: str, *files: Path) -> str:
    """Of a text and of names, sizes and times of files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((text, stats)).encode()).hexdigest()[:16]


def _bicubic(picture: Image.Image, scale: int) -> Image.Image:
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)


def _pipeline(name: str, scale: int) -> Enlarge:
    from ..inference.pipeline import InstanceRSRPipeline

    pipe: Any = InstanceRSRPipeline.from_pretrained(name)

    def enlarge(item: Item) -> Image.Image:
        return pipe(rgb(item.lr), scale=scale, generator=torch.Generator().manual_seed(0)).images[0]

    return enlarge


def _spandrel(path: Path) -> Enlarge:
    try:
        from spandrel import ModelLoader
    except ImportError as error:
        raise MissingPackage(error, "eval") from error
    model: Any = ModelLoader().load_from_file(path).eval()

    def enlarge(item: Item) -> Image.Image:
        picture = torch.from_numpy(np.array(rgb(item.lr))).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            output = model(picture)[0].clamp(0, 1)
        return Image.fromarray((output * 255).round().byte().permute(1, 2, 0).numpy())

    return enlarge
