"""An upscale, from pixels to pixels: restoration, latents, joint sampling, and the way back, tile by tile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
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

from instancersr.color import COLOR_FIXES, match_color
from instancersr.constraints import apply_constraints
from instancersr.edits import (
    Edit,
    Kept,
    Patch,
    at_latents,
    crop_weights,
    fade_in,
    find_object,
    latent_mask,
    latents_of,
    mix_strengths,
    plan_crops,
    resample,
    soft_mask,
    within,
)
from instancersr.images.pixels import to_photo
from instancersr.images.reading import read_image
from instancersr.instances.codes import decode_id_map
from instancersr.instances.regions import segment
from instancersr.tiling import IdCanvas, Tile, TileCanvas, plan_tiles

from .method import models
from .method.diffusion import Denoiser, decode, decode_photo, encode, restore, sample, split, token_layer
from .method.models import ControlNet, DetailDecoder, JointDiT, MapDecoder, RestorationNetwork
from .method.models.detail_decoder import LR_TOKEN

Picture = Image.Image | np.ndarray | str | os.PathLike

BUILTIN = Path(__file__).parent.parent / "weights"
NATIVE_SCALE = 4
SMALLEST = 16
"""Least side of what is computed, in pixels; smaller pictures are padded."""
TILE, SMALLEST_TILE = 128, 32
"""Side of a tile in LR pixels, and how small it may become when memory runs out."""
OVERLAP = 16
"""Least overlap of neighbouring tiles in LR pixels."""
NOISE_BAND = 16
"""Rows of latents whose noise is drawn at once."""


@dataclass
class InstanceRSROutput(BaseOutput):
    """images: PIL pictures. instances: (H, W) int32 instance ids at their size, 0 = none. One each.

    kept: what `InstanceRSRPipeline.edit` needs; None unless it was asked for.
    """

    images: list[Image.Image]
    instances: list[np.ndarray]
    kept: Kept | None = None


class InstanceRSRPipeline(DiffusionPipeline):
    """Photo in; sharp photo and instance map out.

    Args:
        autoencoder: `BlockAutoencoder` or `diffusers.AutoencoderKL`.
        restoration: y -> y-hat, or None for the bicubic enlargement (the paper's configuration).
        transformer, controlnet: the denoiser.
        scheduler: a `DDIMScheduler` with explicit `timestep_spacing`.
        default_steps: sampling steps where the call does not say.
        default_fidelity: fidelity where the call does not say.
        detail_decoder: the last layers of the photo's decoder, or None; needs a restoration network.
        map_decoder: merges regions of y-hat into instances, or None to read the instance map's colours alone.
    """

    _optional_components = ["restoration", "detail_decoder", "map_decoder"]

    def __init__(self, autoencoder: Any, restoration: RestorationNetwork | None, transformer: JointDiT,
                 controlnet: ControlNet, scheduler: Any, default_steps: int = 4, default_fidelity: float = 0.0,
                 detail_decoder: DetailDecoder | None = None, map_decoder: MapDecoder | None = None):
        super().__init__()
        self.register_modules(autoencoder=autoencoder, restoration=restoration, transformer=transformer,
                              controlnet=controlnet, scheduler=scheduler, detail_decoder=detail_decoder,
                              map_decoder=map_decoder)
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
                 tile_batch: int = 1, progress: Callable[[int, int], None] | None = None, *, strength: float = 1.0,
                 edits: Sequence[Edit] = (), keep_latents: bool = False,
                 overlap: int = OVERLAP) -> InstanceRSROutput:
        """Upscales one picture.

        Args:
            image: PIL picture, (H, W, 3) uint8 array or path. What is transparent counts as the colour beside it.
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
            strength: 1 is the picture at this fidelity, 0 the one closest to the input: the fidelity becomes
                1 - strength * (1 - fidelity).
            edits: other strengths, or other noise, for single objects, as for `edit`.
            keep_latents: let `edit` go on from the result. Takes memory: see `Kept`.
            overlap: least overlap of neighbouring tiles in LR pixels, at most half a tile.

        Raises:
            ValueError: an argument is out of its range, or an edit names what is not there.
            ImageError: the file cannot be read.
        """
        lr = _to_array(image)
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        fidelity = self.config.default_fidelity if fidelity is None else fidelity
        _check_call(lr, scale, steps, start_from, fidelity, color_fix, tile, tile_batch, strength, overlap)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        seed = _draw_seed(generator)
        second_seed = _draw_seed(generator) if scale > NATIVE_SCALE else 0
        keep = keep_latents or len(edits) > 0
        settings = Settings(steps, seed, start_from, fidelity, strength, color_fix, tile_batch, keep, overlap)
        kept = replace(self._upscale(lr, settings, tile, progress), scale=scale, tile=tile, second_seed=second_seed)
        picture, ids = self._render(kept, progress)
        out = InstanceRSROutput(images=[Image.fromarray(picture)], instances=[ids], kept=kept if keep else None)
        if edits:
            out = self.edit(out, edits, progress)
        return out if keep_latents else InstanceRSROutput(images=out.images, instances=out.instances)

    @torch.no_grad()
    def edit(self, out: InstanceRSROutput, edits: Sequence[Edit],
             progress: Callable[[int, int], None] | None = None) -> InstanceRSROutput:
        """Changes objects of an upscale that was made with `keep_latents=True`; `out` itself stays as it is.

        Pixels farther than 16 from every object that is named stay as they are. A strength costs next to nothing,
        a re-sampling as much as the tiles' parts around the object. Beyond four times, the edit is done in the first
        pass, and the second pass runs again.

        Args:
            out: the upscale, or the result of an earlier edit, on which this one builds. Ids and points are those of
                `out.instances`, which stays the same.
            edits: applied in their order.
            progress: called with (parts of tiles done, parts in all).

        Raises:
            ValueError: nothing was kept, or an edit names what is not there.
        """
        if out.kept is None:
            raise ValueError("edit: nothing was kept of this upscale; make it with keep_latents=True")
        kept, ids = out.kept, out.instances[0]
        masks = [find_object(edit.target, ids) for edit in edits]
        native = [kept.to_native(mask) for mask in masks]
        crops = [[] if edit.seed is None else self._plan_crops(mask, kept)
                 for edit, mask in zip(edits, native, strict=True)]
        count = _counter(sum(map(len, crops)), progress)
        for edit, mask, parts in zip(edits, native, crops, strict=True):
            if edit.seed is not None:
                kept = self._resample(kept, mask, parts, edit.seed, count)
            if edit.strength is not None:
                kept = kept.with_strength(mask, edit.strength)
        picture, _ = self._render(kept, progress)
        if kept.scale > NATIVE_SCALE and masks:  # the second pass may change anything
            share = soft_mask(np.logical_or.reduce(masks))
            picture = fade_in(np.asarray(out.images[0]), picture, share)
        return InstanceRSROutput(images=[Image.fromarray(picture)], instances=[ids], kept=kept)

    def _render(self, kept: Kept, progress: Callable[[int, int], None] | None) -> tuple[np.ndarray, np.ndarray]:
        """The picture (H, W, 3) uint8 at the strengths and the scale asked for, and its ids (H, W)."""
        box = np.s_[: kept.size[0] * NATIVE_SCALE, : kept.size[1] * NATIVE_SCALE]
        picture, ids = mix_strengths(kept.pictures, kept.settings, kept.strengths)[box], kept.ids[box]
        picture, ids = _resized(picture, ids, [round(side * min(kept.scale, NATIVE_SCALE)) for side in kept.size])
        if kept.scale > NATIVE_SCALE:
            strengths = kept.strengths
            settings = replace(kept.settings, seed=kept.second_seed, keep=strengths is not None)
            second = self._upscale(picture, settings, kept.tile, progress)
            if strengths is not None:
                strengths = second.to_native(strengths[box])
            picture = mix_strengths(second.pictures, second.settings, strengths)
            box = np.s_[: second.size[0] * NATIVE_SCALE, : second.size[1] * NATIVE_SCALE]
            picture, ids = _resized(picture[box], second.ids[box], [round(side * kept.scale) for side in kept.size])
        return apply_constraints(picture, kept.lr[: kept.size[0], : kept.size[1]]), ids

    # ------------------------------------------------------------------------------------------ tiles

    def _upscale(self, lr: np.ndarray, settings: Settings, tile: int | None,
                 progress: Callable[[int, int], None] | None) -> Kept:
        """(h, w, 3) uint8 -> its enlargement by four, with smaller tiles after running out of memory."""
        side = tile or TILE
        while True:
            try:
                return self._upscale_tiled(lr, settings, side, progress)
            except torch.OutOfMemoryError:
                side //= 2
                if tile is not None or side < SMALLEST_TILE:
                    raise
                torch.cuda.empty_cache()

    def _upscale_tiled(self, lr: np.ndarray, settings: Settings, side: int,
                       progress: Callable[[int, int], None] | None) -> Kept:
        padded = _padded(lr)
        side = max(SMALLEST, side // LR_TOKEN * LR_TOKEN)
        overlap = min(settings.overlap, side // 2)
        rows, columns = padded.shape[:2]
        tiles = plan_tiles(rows, columns, side, overlap, LR_TOKEN)
        canvases = {fidelity: TileCanvas(rows, columns, overlap, NATIVE_SCALE) for fidelity in settings.fidelities}
        ids = IdCanvas(rows, columns, overlap, NATIVE_SCALE)
        noise = self._noise(settings.seed, padded)
        latents: list[Tensor] = []
        conditions: list[Tensor] = []
        features: list[Tensor] = []
        for number, group in enumerate(_groups(tiles, settings.tile_batch)):
            photos, maps, z, z_y, known = self._sample_tiles(padded, group, noise, settings)
            for index, place in enumerate(group):
                for fidelity, canvas in canvases.items():
                    canvas.add(place, photos[fidelity][index])
                ids.add(place, maps[index])
            if settings.keep:
                latents.extend(z.cpu())
                conditions.extend(z_y.cpu())
                if self.detail_decoder is not None:
                    features.extend(known.half().cpu())
            if progress is not None:
                progress(min((number + 1) * settings.tile_batch, len(tiles)), len(tiles))
        pictures = {fidelity: canvas.finish() for fidelity, canvas in canvases.items()}
        return Kept(settings, NATIVE_SCALE, None, 0, lr.shape[:2], padded, tiles, overlap, latents, conditions,
                    features, pictures, ids.finish())

    def _sample_tiles(
        self, lr: np.ndarray, tiles: list[Tile], noise: NoiseField, settings: Settings
    ) -> tuple[dict[float, Tensor], list[np.ndarray], Tensor, Tensor, Tensor | None]:
        """Of some tiles of one shape: photos at each fidelity (B, 3, 4h, 4w), instance ids (4h, 4w), z, z_y, and
        the restoration network's features (B, F, h, w), None without one.
        """
        y, eps = self._pixels(lr, tiles), self._noise_of(noise, tiles)
        features, restored = restore(self.restoration, y)
        denoiser, z_y = Denoiser(self.transformer, self.controlnet, self.scheduler), encode(self.autoencoder, restored)
        z, tokens = sample(denoiser, z_y, eps, settings.steps, settings.start_from, hidden_layer=self._token_layer)
        z_x, z_m = split(z)
        photos = self._photos(z_x, features, tokens, restored, settings, dict.fromkeys(settings.fidelities, y))
        maps = [self._read_map(*pair) for pair in zip(restored, decode(self.autoencoder, z_m), strict=True)]
        return photos, maps, z, z_y, features

    def _read_map(self, restored: Tensor, instance_map: Tensor) -> np.ndarray:
        """(3, H, W) each -> (H, W) int32 ids."""
        photo, colors = (p.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy() for p in (restored, instance_map))
        return decode_id_map(colors) if self.map_decoder is None else segment(photo, colors, self.map_decoder)

    @property
    def _token_layer(self) -> int | None:
        return token_layer(self.transformer, self.detail_decoder)

    def _photos(self, z_x: Tensor, features: Tensor | None, tokens: Tensor | None, restored: Tensor | None,
                settings: Settings, references: dict[float, Tensor]) -> dict[float, Tensor]:
        """Fidelity -> photo (B, 3, 4h, 4w) on the CPU, in the colours of its reference (B, 3, any, any).

        Fidelity 0 alone does without the restored photo.
        """
        photo = decode_photo(self.autoencoder, self.detail_decoder, z_x, features, tokens)
        mixed = {f: f * restored + (1 - f) * photo if f else photo for f in references}
        return {f: match_color(p.float(), references[f].float(), settings.color_fix).cpu() for f, p in mixed.items()}

    def _pixels(self, lr: np.ndarray, tiles: list[Tile]) -> Tensor:
        """y of some tiles, (B, 3, h, w) in [0, 1]."""
        stack = np.stack([lr[t.slices] for t in tiles])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).to(self.device, self.transformer.dtype) / 255

    def _noise(self, seed: int, padded: np.ndarray) -> NoiseField:
        return NoiseField(seed, self.transformer.config.in_channels, padded.shape[1] // 2)

    def _noise_of(self, field: NoiseField, tiles: list[Tile]) -> Tensor:
        return torch.stack([field.window(t) for t in tiles]).to(self.device, self.transformer.dtype)

    # ---------------------------------------------------------------------------------------- objects

    def _plan_crops(self, mask: np.ndarray, kept: Kept) -> list[tuple[int, Tile]]:
        crops = plan_crops(mask, kept.tiles)
        if self.transformer.config.base_grid is None:
            return crops
        # Positions are spread over the whole grid of a tile: a part of it would have others.
        return [(number, kept.tiles[number]) for number in sorted({number for number, _ in crops})]

    def _resample(self, kept: Kept, mask: np.ndarray, crops: list[tuple[int, Tile]], seed: int,
                  done: Callable[[], None]) -> Kept:
        """Draws what lies under the mask (4H, 4W) once more; `done` is called after each crop."""
        share = torch.from_numpy(latent_mask(mask)).to(self.device, self.transformer.dtype)
        fields = (self._noise(kept.settings.seed, kept.lr),
                  self._noise(_draw_seed(torch.Generator().manual_seed(seed)), kept.lr))
        latents = list(kept.latents)
        patch = Patch(mask, [crop for _, crop in crops], kept.overlap)
        for number, group in groupby(crops, key=itemgetter(0)):
            tile, parts = kept.tiles[number], [crop for _, crop in group]
            places = [(..., *latents_of(crop, tile)) for crop in parts]
            latents[number] = latents[number].clone()
            for place in places:
                latents[number][place] = 0
            for crop, place, weight in zip(parts, places, crop_weights(parts), strict=True):
                z, photos = self._resample_crop(kept, number, crop, share, fields)
                latents[number][place] += at_latents(weight) * z
                patch.add(tile, crop, photos, weight)
                done()
        return replace(kept, latents=latents, pictures=patch.apply(kept.pictures))

    def _resample_crop(self, kept: Kept, number: int, crop: Tile, share: Tensor,
                       fields: tuple[NoiseField, NoiseField]) -> tuple[Tensor, dict[float, Tensor]]:
        """z (2C, h / 2, w / 2) and the photos (3, 4h, 4w) of a part of a tile, drawn anew where `share` says."""
        settings, tile, y = kept.settings, kept.tiles[number], self._pixels(kept.lr, [crop])
        place = (None, ..., *latents_of(crop, tile))
        known, z_y = (each[number][place].to(y) for each in (kept.latents, kept.conditions))
        offset = torch.tensor([[crop.top - tile.top, crop.left - tile.left]]) // LR_TOKEN
        denoiser = Denoiser(self.transformer, self.controlnet, self.scheduler)
        old, new = (self._noise_of(field, [crop]) for field in fields)
        z, tokens = resample(denoiser, z_y, known, share[latents_of(crop)], (old, new), settings.steps,
                             settings.start_from, offset, self._token_layer)
        references = dict.fromkeys(settings.fidelities - {1.0}, y)
        features = restored = None
        if any(references):  # a mixture with the restored photo
            features, restored = restore(self.restoration, y)
        elif kept.features:
            features = kept.features[number][(None, ..., *within(tile, crop).slices)].to(y)
        if settings.color_fix == "adain":  # a crop has other means than its tile: those of the picture before
            rows, columns = crop.scaled(NATIVE_SCALE)
            references = {f: self._pixels(kept.pictures[f], [Tile(rows.start, columns.start, rows.stop - rows.start,
                                                                  columns.stop - columns.start)]) for f in references}
        photos = self._photos(split(z)[0], features, tokens, restored, settings, references)
        return z[0].cpu(), {fidelity: photo[0] for fidelity, photo in photos.items()}


@dataclass(frozen=True)
class Settings:
    """What is the same for every tile of a call."""

    steps: int
    seed: int
    start_from: str
    fidelity: float
    strength: float
    color_fix: str
    tile_batch: int
    keep: bool
    overlap: int = OVERLAP

    @property
    def shown(self) -> float:
        """The fidelity that fidelity and strength together ask for."""
        return 1 - self.strength * (1 - self.fidelity) if self.strength != 1 else self.fidelity

    @property
    def fidelities(self) -> set[float]:
        """Those of the pictures that are made: for edits also the two ends of a strength."""
        return {self.shown, self.fidelity, 1.0} if self.keep else {self.shown}


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
    array = to_photo(image).rgb if isinstance(image, Image.Image) else image
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, not {array.shape} {array.dtype}")
    return array


def _check_call(lr: np.ndarray, scale: float, steps: int, start_from: str, fidelity: float, color_fix: str,
                tile: int | None, tile_batch: int, strength: float, overlap: int) -> None:
    if not lr.size:
        raise ValueError("image: it has no pixels")
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
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be 0 to 1, not {strength}")
    if overlap < 0:
        raise ValueError(f"overlap must be 0 or more, not {overlap}")


def _padded(lr: np.ndarray) -> np.ndarray:
    """Mirrored at the bottom and right to whole tokens, and to the least side."""
    below, right = (max(SMALLEST, side + -side % LR_TOKEN) - side for side in lr.shape[:2])
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


def _draw_seed(generator: torch.Generator) -> int:
    """Of a noise field."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    """Calls `progress` with (calls so far, total)."""
    numbers = iter(range(1, total + 1))
    return lambda: progress(next(numbers), total) if progress is not None else None
