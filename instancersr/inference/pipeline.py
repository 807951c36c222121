"""An upscale, from pixels to pixels: restoration, latents, joint sampling, and the way back, tile by tile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from .. import models
from ..diffusion import Denoiser, decode, encode, sample, split
from ..instances import decode_id_map
from ..models import ControlNet, JointDiT, MapDecoder, RestorationNetwork
from ..models.restoration import enlarge
from ..segmentation import segment
from .color import COLOR_FIXES, match_color
from .images import read_image
from .tiling import IdCanvas, Tile, TileCanvas, plan_tiles

Picture = Image.Image | np.ndarray | str | os.PathLike

BUILTIN = Path(__file__).parent.parent / "weights"
NATIVE_SCALE = 4
SMALLEST = 16
"""Least side of an input, in pixels."""
TILE, SMALLEST_TILE = 128, 32
"""Side of a tile in LR pixels, and how small it may become when memory runs out."""
OVERLAP = 16
"""Least overlap of neighbouring tiles in LR pixels."""
LR_TOKEN = 4
"""LR pixels along a token's side: f8 latents in 2x2 patches at four times the size."""
NOISE_BAND = 16
"""Rows of latents whose noise is drawn at once."""


@dataclass
class InstanceRSROutput(BaseOutput):
    """images: PIL pictures. instances: (H, W) int32 instance ids at their size, 0 = none. One each."""

    images: list[Image.Image]
    instances: list[np.ndarray]


class InstanceRSRPipeline(DiffusionPipeline):
    """Photo in; sharp photo and instance map out.

    Args:
        autoencoder: `BlockAutoencoder` or `diffusers.AutoencoderKL`.
        restoration: y -> y-hat, or None for the bicubic enlargement (the paper's configuration).
        transformer, controlnet: the denoiser.
        scheduler: a `DDIMScheduler` with explicit `timestep_spacing`.
        default_steps: sampling steps where the call does not say.
        default_fidelity: fidelity where the call does not say.
        map_decoder: merges regions of y-hat into instances, or None to read the instance map's colours alone.
    """

    _optional_components = ["restoration", "map_decoder"]

    def __init__(self, autoencoder: Any, restoration: RestorationNetwork | None, transformer: JointDiT,
                 controlnet: ControlNet, scheduler: Any, default_steps: int = 4, default_fidelity: float = 0.0,
                 map_decoder: MapDecoder | None = None):
        super().__init__()
        self.register_modules(autoencoder=autoencoder, restoration=restoration, transformer=transformer,
                              controlnet=controlnet, scheduler=scheduler, map_decoder=map_decoder)
        self.register_to_config(default_steps=default_steps, default_fidelity=default_fidelity)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, torch_dtype: torch.dtype = torch.float32,
                        **overrides: Any) -> InstanceRSRPipeline:
        """Loads "builtin" (the weights in this package), a folder of `save_pretrained`, or a hub id.

        Args:
            overrides: components or settings of the constructor that replace the saved ones.

        Raises:
            OSError: there is no such model, or a part of it is missing.
        """
        folder = find_model(str(name))
        index = json.loads((folder / "model_index.json").read_text())
        parts: dict[str, Any] = {}
        for key, value in index.items():
            if key in overrides or key.startswith("_"):
                continue
            parts[key] = _load_part(folder / key, value[0], value[1], torch_dtype) if isinstance(value, list) else value
        return cls(**(parts | overrides))

    @torch.no_grad()
    def __call__(self, image: Picture, scale: float = 4, num_inference_steps: int | None = None,
                 generator: torch.Generator | None = None, start_from: Literal["noise", "lr"] = "noise",
                 fidelity: float | None = None, color_fix: str = "wavelet", tile: int | None = None,
                 tile_batch: int = 1, progress: Callable[[int, int], None] | None = None) -> InstanceRSROutput:
        """Upscales one picture.

        Args:
            image: PIL picture, (H, W, 3) uint8 array or path; at least 16x16.
            scale: enlargement. 4 is the model's own; less is shrunk from it, more is done in two passes.
            num_inference_steps: DDIM steps; None for the model's default.
            generator: source of the noise; None for seed 0, so that the same input gives the same output.
            start_from: "noise", or "lr": y-hat noised to the first timestep. The same thing where the first timestep
                is pure noise, as with the shipped weights' schedule.
            fidelity: 1 is y-hat, closest to the input; 0 is the sample, richest. None for the model's default.
            color_fix: "wavelet", "adain" or "none".
            tile: side of a tile in LR pixels; None chooses, and chooses smaller ones when memory runs out.
            tile_batch: tiles computed at once.
            progress: called with (tiles done, tiles in all).

        Raises:
            ValueError: an argument is out of its range.
            ImageError: the file cannot be read.
        """
        lr = _to_array(image)
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        fidelity = self.config.default_fidelity if fidelity is None else fidelity
        _check_call(lr, scale, steps, start_from, fidelity, color_fix, tile, tile_batch)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        settings = _Settings(steps, seed, start_from, fidelity, color_fix, tile_batch)
        first = min(scale, NATIVE_SCALE)
        picture, ids = self._upscale(lr, settings, tile, progress)
        picture, ids = _resized(picture, ids, [round(side * first) for side in lr.shape[:2]])
        if scale > NATIVE_SCALE:
            second = self(picture, scale / NATIVE_SCALE, steps, generator, start_from, fidelity, color_fix, tile,
                          tile_batch, progress)
            size = [round(side * scale) for side in lr.shape[:2]]
            picture, ids = _resized(np.asarray(second.images[0]), second.instances[0], size)
        return InstanceRSROutput(images=[Image.fromarray(picture)], instances=[ids])

    # ------------------------------------------------------------------------------------------ tiles

    def _upscale(self, lr: np.ndarray, settings: _Settings, tile: int | None,
                 progress: Callable[[int, int], None] | None) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8 and (4h, 4w) int32, with smaller tiles after running out of memory."""
        side = tile or TILE
        while True:
            try:
                return self._upscale_tiled(lr, settings, side, progress)
            except torch.OutOfMemoryError:
                side //= 2
                if tile is not None or side < SMALLEST_TILE:
                    raise
                torch.cuda.empty_cache()

    def _upscale_tiled(self, lr: np.ndarray, settings: _Settings, side: int,
                       progress: Callable[[int, int], None] | None) -> tuple[np.ndarray, np.ndarray]:
        height, width = lr.shape[:2]
        padded = _padded(lr)
        side = max(SMALLEST, side // LR_TOKEN * LR_TOKEN)
        overlap = min(OVERLAP, side // 2)
        rows, columns = padded.shape[:2]
        tiles = plan_tiles(rows, columns, side, overlap, LR_TOKEN)
        canvas = TileCanvas(rows, columns, overlap, NATIVE_SCALE)
        ids = IdCanvas(rows, columns, overlap, NATIVE_SCALE)
        noise = NoiseField(settings.seed, self.transformer.config.in_channels, columns // 2)
        for number, group in enumerate(_groups(tiles, settings.tile_batch)):
            photos, maps = self._sample_tiles(padded, group, noise, settings)
            for place, photo, instance_ids in zip(group, photos, maps, strict=True):
                canvas.add(place, photo)
                ids.add(place, instance_ids)
            if progress is not None:
                progress(min((number + 1) * settings.tile_batch, len(tiles)), len(tiles))
        box = np.s_[: height * NATIVE_SCALE, : width * NATIVE_SCALE]
        return canvas.finish()[box], ids.finish()[box]

    def _sample_tiles(self, lr: np.ndarray, tiles: list[Tile], noise: NoiseField,
                      settings: _Settings) -> tuple[Tensor, list[np.ndarray]]:
        """Photos (B, 3, 4h, 4w), on the CPU, and instance ids (4h, 4w) of some tiles of one shape."""
        stack = np.stack([lr[t.slices] for t in tiles])
        y = torch.from_numpy(stack).permute(0, 3, 1, 2).to(self.device, self.transformer.dtype) / 255  # (B, 3, h, w)
        eps = torch.stack([noise.window(t) for t in tiles]).to(y)
        restored = enlarge(y, NATIVE_SCALE) if self.restoration is None else self.restoration(y)
        denoiser = Denoiser(self.transformer, self.controlnet, self.scheduler)
        z, _ = sample(denoiser, encode(self.autoencoder, restored), eps, settings.steps, settings.start_from)
        z_x, z_m = split(z)
        photo, instance_map = decode(self.autoencoder, z_x), decode(self.autoencoder, z_m)
        photo = settings.fidelity * restored + (1 - settings.fidelity) * photo
        photo = match_color(photo.float(), y.float(), settings.color_fix)
        return photo.cpu(), [self._read_map(*pair) for pair in zip(restored, instance_map, strict=True)]

    def _read_map(self, restored: Tensor, instance_map: Tensor) -> np.ndarray:
        """(3, H, W) each -> (H, W) int32 ids."""
        photo, colors = (p.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy() for p in (restored, instance_map))
        return decode_id_map(colors) if self.map_decoder is None else segment(photo, colors, self.map_decoder)


@dataclass(frozen=True)
class _Settings:
    """What is the same for every tile of a call."""

    steps: int
    seed: int
    start_from: str
    fidelity: float
    color_fix: str
    tile_batch: int


class NoiseField:
    """The noise of a whole picture, drawn in bands of rows when they are needed.

    Neighbouring tiles see the same noise where they overlap, so they agree there, and the memory it takes does not
    grow with the picture's height.

    Args:
        seed: of the picture.
        channels: of the joint latent.
        width: of the picture in latents.
    """

    def __init__(self, seed: int, channels: int, width: int):
        self._band = lru_cache(maxsize=2 * TILE // NOISE_BAND)(
            lambda number: torch.randn(channels, NOISE_BAND, width,
                                       generator=torch.Generator().manual_seed((seed + number) % 2**63)))

    def window(self, tile: Tile) -> Tensor:
        """(C, h / 2, w / 2) for a tile of h x w LR pixels: a latent is 2x2 LR pixels."""
        top, left, height, width = (v // 2 for v in (tile.top, tile.left, tile.height, tile.width))
        first, last = top // NOISE_BAND, (top + height - 1) // NOISE_BAND
        rows = torch.cat([self._band(n) for n in range(first, last + 1)], 1)
        start = top - first * NOISE_BAND
        return rows[:, start : start + height, left : left + width]


def upscale(image: Picture, scale: float = 4, **options: Any) -> Image.Image:
    """Upscales one picture with the weights in this package; `options` as for the pipeline's call.

    Raises:
        ValueError, ImageError: as the pipeline.
    """
    return _builtin()(image, scale, **options).images[0]


@lru_cache(maxsize=1)
def _builtin() -> InstanceRSRPipeline:
    return InstanceRSRPipeline.from_pretrained("builtin")


# ------------------------------------------------------------------------------------------------ loading


def find_model(name: str) -> Path:
    """The folder of "builtin", of a saved pipeline, or of a hub id that is cached or can be fetched.

    Raises:
        OSError: there is no such model.
    """
    folder = BUILTIN if name == "builtin" else Path(name)
    if (folder / "model_index.json").is_file():
        return folder
    if name == "builtin" or folder.exists():
        raise OSError(f"{folder}: no model here (model_index.json is missing)")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name))
    except Exception as error:  # the hub's client raises many kinds: bad name, no network, no such repository
        raise OSError(f"{name}: neither a folder with a model nor a hub model that can be fetched now") from error


def _load_part(folder: Path, library: str | None, kind: str | None, dtype: torch.dtype) -> Any:
    if kind is None:
        return None
    source = models if str(library).startswith("instancersr") else diffusers
    part = getattr(source, kind, None)
    if part is None:
        raise OSError(f"{folder}: this version knows no component {kind} of {library}")
    if hasattr(part, "parameters"):
        return part.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False).eval()
    return part.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------ pictures


def _to_array(image: Picture) -> np.ndarray:
    if isinstance(image, (str, os.PathLike)):
        return read_image(image).rgb
    array = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, not {array.shape} {array.dtype}")
    return array


def _check_call(lr: np.ndarray, scale: float, steps: int, start_from: str, fidelity: float, color_fix: str,
                tile: int | None, tile_batch: int) -> None:
    if min(lr.shape[:2]) < SMALLEST:
        raise ValueError(f"image: {lr.shape[1]}x{lr.shape[0]} is too small, at least {SMALLEST}x{SMALLEST} is needed")
    if not 1 <= scale <= NATIVE_SCALE**2:
        raise ValueError(f"scale must be 1 to {NATIVE_SCALE**2}, not {scale}")
    if steps < 1:
        raise ValueError(f"num_inference_steps must be 1 or more, not {steps}")
    if start_from not in ("noise", "lr"):
        raise ValueError(f"start_from must be 'noise' or 'lr', not {start_from!r}")
    if not 0 <= fidelity <= 1:
        raise ValueError(f"fidelity must be 0 to 1, not {fidelity}")
    if color_fix not in COLOR_FIXES:
        raise ValueError(f"color_fix must be one of {', '.join(COLOR_FIXES)}, not {color_fix!r}")
    if tile is not None and tile < SMALLEST:
        raise ValueError(f"tile must be at least {SMALLEST}, not {tile}")
    if tile_batch < 1:
        raise ValueError(f"tile_batch must be 1 or more, not {tile_batch}")


def _padded(lr: np.ndarray) -> np.ndarray:
    """Mirrored at the bottom and right to whole tokens."""
    below, right = (-side % LR_TOKEN for side in lr.shape[:2])
    return np.pad(lr, ((0, below), (0, right), (0, 0)), mode="symmetric")


def _resized(picture: np.ndarray, ids: np.ndarray, size: list[int]) -> tuple[np.ndarray, np.ndarray]:
    if list(picture.shape[:2]) == size:
        return picture, ids
    height, width = size
    picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    near = F.interpolate(torch.from_numpy(ids)[None, None].double(), size, mode="nearest-exact")
    return picture, near[0, 0].to(torch.int32).numpy()


def _groups(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]
