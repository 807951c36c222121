"""A model by its name, on an engine and a device, ready to upscale; what goes wrong is one line."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from .cores import cores_are_busy
from .errors import MissingPackage, ModelError, UserError, first_line
from .images.inputs import Picture, as_photo
from .images.results import as_image
from .model import Model, find_model
from .presets import Device, EngineName
from .upscaler import Segmenter, Upscaler

TORCH_DEVICES = ("cuda", "mps", "cpu")
"""The best first."""


SAM = "facebook/sam-vit-base"
"""The hub's smallest of the first Segment Anything models; 375 MB."""
SAM_PACKAGES = ("transformers", "torchvision")
"""What it needs beside the extra `torch`; torchvision only fits the torch of its own release."""
POINTS_PER_BATCH = 16
"""Of the points that a segmenter is asked for, at once: 200 bytes of memory for each pixel that it sees."""


def upscale(image: Picture, scale: float = 4, *, segmenter: str | Segmenter | None = None,
            **options: Any) -> Image.Image:
    """Upscales one picture with the weights in this package.

    The result is upright, keeps transparency, and has the colour profile in `info["icc_profile"]`. Pillow's `save`
    takes it from there for PNG, TIFF and AVIF; for JPEG and WebP, give it as `icc_profile`. Of 16 bits it has 8, of
    several pages or frames the first, and of other metadata (EXIF, resolution, texts) nothing: the command
    `instancersr upscale` keeps all of these.

    Args:
        image, scale: as for `Upscaler`.
        segmenter: as for `Upscaler`, or a name as for `load_segmenter`.
        options: its other arguments; instead of a `seed` a torch.Generator as `generator`.

    Raises:
        ValueError, ImageError: as the upscaler.
        ModelError: the segmenter cannot be loaded.
    """
    if isinstance(segmenter, str):
        segmenter = load_segmenter(segmenter)
    if "generator" in options:
        from .lab.pipeline import seed_of

        options["seed"] = seed_of(options.pop("generator"))
    photo = as_photo(image)
    out = _builtin()(photo, scale, segmenter=segmenter, **({"instances": False} | options))
    return as_image(out.images[0], photo)


@lru_cache(maxsize=1)
def _builtin() -> Upscaler:
    return load_upscaler()


def load_upscaler(model: str = "builtin", device: Device = "auto", threads: int | None = None,
                  engine: EngineName = "auto", shared: bool = False) -> Upscaler:
    """A model on an engine and a device.

    Args:
        model: "builtin", a folder, or a hub id.
        threads: on the CPU; None leaves the engine its choice.
        shared: whether other work needs the cores too; so it is where others keep them busy already.

    Raises:
        ModelError: the model cannot be loaded, or the device is not there.
    """
    try:
        found = find_model(model)
        name = pick_engine(found, device, engine)
        return _load_torch(model, device, threads) if name == "torch" else _load_onnx(found, device, threads, shared)
    except ModelError:
        raise
    except Exception as error:  # the hub, ONNX Runtime, safetensors and JSON have their own exceptions
        raise ModelError(f"cannot load the model {model}: {first_line(error)}") from error


@lru_cache(maxsize=1)
def load_segmenter(name: str, device: Device = "auto") -> Segmenter:
    """A Segment Anything model as a segmenter for `Upscaler`. Nothing is fetched.

    Args:
        name: hub id of a SAM or SAM 2, such as facebook/sam-vit-base, or a folder in the layout of `transformers`.
        device: where it computes; one that torch does not know is the best that it does.

    Raises:
        ModelError: the weights or packages that it needs are missing.
    """
    _quiet_libraries()
    _check_is_here(name)
    try:
        from .lab.method.models.teachers import SamMasks
    except ImportError as error:
        raise MissingPackage(error, "torch", *SAM_PACKAGES) from error
    where = pick_torch_device(device if device in TORCH_DEVICES else "auto")
    return SamMasks(name, where, points_per_batch=POINTS_PER_BATCH, local_files_only=True).find_objects


def _check_is_here(name: str) -> None:
    """Raises a ModelError, before anything large is imported, where a model is no folder and not in the hub's cache."""
    if Path(name).is_dir() or find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # it is no hub id either
        found = None
    if not isinstance(found, str):
        raise ModelError(f"{name}: no such folder, and not in the hub's cache; fetch it with `hf download {name}`")


def installed_segmenter() -> str | None:
    """The name of SAM where its weights and packages are on this machine; nothing large is imported for the answer."""
    if any(find_spec(name) is None for name in ("torch", "diffusers", *SAM_PACKAGES)):
        return None
    from huggingface_hub import try_to_load_from_cache

    return SAM if isinstance(try_to_load_from_cache(SAM, "model.safetensors"), str) else None


def pick_engine(model: Model, device: Device, engine: EngineName = "auto") -> Literal["onnx", "torch"]:
    """The engine for a model and a device: onnx, unless only torch can run the model or reach the GPU.

    Raises:
        UserError: torch is needed, and not installed.
    """
    if engine == "torch" or (engine == "auto" and device == "mps"):
        return _torch_for("--engine torch" if engine == "torch" else "--device mps")
    if not model.has_graphs:
        if engine == "onnx" or find_spec("torch") is None:
            raise UserError(f"{model.folder} has no graphs for ONNX Runtime; where torch is installed, make them with: "
                            f"instancersr export {model.folder} OUT")
        return "torch"
    if engine == "auto" and device in ("auto", "cuda") and _only_torch_has_cuda():
        return "torch"
    return "onnx"


def _torch_for(what: str) -> Literal["torch"]:
    if find_spec("torch") is None:
        raise UserError(f"{what} needs torch; pip install 'instancersr[torch]'")
    return "torch"


def _only_torch_has_cuda() -> bool:
    """Torch takes seconds to import: it is asked only where there is a driver, and ONNX Runtime cannot use it."""
    if shutil.which("nvidia-smi") is None or find_spec("torch") is None:
        return False
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return False
    import torch

    return torch.cuda.is_available()


def _load_onnx(model: Model, device: Device, threads: int | None, shared: bool) -> Upscaler:
    from .engines.onnx import OnnxEngine, SessionSettings, pick_device

    engine = OnnxEngine(model, SessionSettings(pick_device(device), threads, shared or cores_are_busy()))
    return Upscaler(engine, model.schedule, model.defaults)


def _load_torch(model: str, device: Device, threads: int | None) -> Upscaler:
    _quiet_libraries()
    import torch

    from .lab.pipeline import InstanceRSRPipeline

    if threads:
        torch.set_num_threads(threads)
    pipeline: Any = InstanceRSRPipeline.from_pretrained(model)
    return pipeline.to(pick_torch_device(device)).upscaler


def _quiet_libraries() -> None:
    """Keeps what the hub's libraries log to errors; to be said before their import."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def pick_torch_device(device: Device) -> str:
    """The name torch has for it; "auto" is the best that is there.

    Raises:
        UserError: torch finds no such device.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in TORCH_DEVICES if present[name])
    if not present.get(device):
        raise UserError(f"torch finds no {device} device on this machine; try --device auto")
    return device
