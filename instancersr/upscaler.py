"""An upscale, from pixels to pixels: restoration, latents, joint sampling, and the way back, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from PIL import Image

from .color import base_shift, enlarge, match_color
from .constraints import apply_constraints
from .damage import automatic_cleaning, automatic_denoise
from .denoising import shrink
from .edits import (
    Edit,
    Kept,
    Patch,
    at_latents,
    crop_weights,
    fade_in,
    find_object,
    latent_mask,
    mix_strengths,
    plan_crops,
    soft_mask,
)
from .engines.protocol import Engine
from .errors import ModelError
from .geometry import LR_LATENT, LR_TOKEN, SCALE, SMALLEST
from .images.inputs import Picture, as_photo
from .instances.maps import merge_objects, resize_ids
from .instances.pairs import check_features
from .instances.reading import ColorReader, MapReader, RegionReader
from .recipe import BEST_STEPS, QUALITIES, Defaults, Quality, Recipe, check, check_choice, check_number
from .sampling import Known, NoiseField, Schedule, VersionNoise, sample, version_share
from .tiling import Tile, TileCanvas, fitted_side, plan_tiles

Progress = Callable[[int, int], None]
Segmenter = Callable[[np.ndarray], np.ndarray]
"""Finds the objects of a picture: (H, W, 3) uint8 -> (H, W) int32 instance ids, 0 = none."""

TILE, SMALLEST_TILE = 128, 32
"""Side of a tile in LR pixels, and how small it may become when memory runs out."""
OVERLAP = 16
"""Least overlap of neighbouring tiles in LR pixels."""


@dataclass
class Upscaled:
    """images: PIL pictures. instances: (H, W) int32 instance ids at their size, 0 = none; empty if not asked for.

    kept: what `Upscaler.edit` needs; None unless it was asked for.
    """

    images: list[Image.Image]
    instances: list[np.ndarray]
    kept: Kept | None = None


@dataclass
class Drawn:
    """Some tiles of one shape: photos at each fidelity and the restored ones (B, 3, 4h, 4w), coloured instance maps of
    that shape (None if not asked for), latents z and z_y (None without a sample), the restoration network's features
    (None without one), and for edits what the colour fix added at each fidelity, (B, 3, 4h, 4w).
    """

    photos: dict[float, np.ndarray]
    restored: np.ndarray
    maps: np.ndarray | None
    z: np.ndarray | None
    z_y: np.ndarray | None
    features: np.ndarray | None
    shifts: dict[float, np.ndarray]


class Upscaler:
    """Photo in; sharp photo and instance map out. Threads may share one.

    Args:
        engine: computes the networks.
        schedule: of the sampler.
        defaults: for what a call does not say.
    """

    def __init__(self, engine: Engine, schedule: Schedule, defaults: Defaults):
        self.engine, self.schedule, self.defaults = engine, schedule, defaults

    def __call__(self, image: Picture, scale: float = 4, num_inference_steps: int | None = None, seed: int = 0,
                 start_from: Literal["noise", "lr"] = "noise", fidelity: float | None = None,
                 color_fix: str = "wavelet", tile: int | None = None, tile_batch: int = 1,
                 progress: Progress | None = None, *, quality: Quality | None = None, strength: float = 1.0,
                 edits: Sequence[Edit] = (), keep_latents: bool = False, overlap: int = OVERLAP,
                 instances: bool = True, denoise: float | Literal["auto"] | None = None,
                 cleaning: float | None = None, merge: Sequence[Sequence[int]] = (),
                 segmenter: Segmenter | None = None) -> Upscaled:
        """Upscales one picture.

        Args:
            image: path, PIL picture, which is turned as its EXIF orientation says, (H, W, 3) uint8 array, or what
                `read_image` gives. What is transparent counts as the colour beside it.
            scale: enlargement. 4 is the model's own; less is shrunk from it, more is done in two passes.
            num_inference_steps: DDIM steps; None: what the quality says.
            seed: of the noise; the same input and seed give the same output. Other seeds than 0 draw other versions,
                which agree in print and other strong edges.
            start_from: "noise", or "lr": y-hat noised to the first timestep. The same thing where the first timestep
                is pure noise, as with the shipped weights' schedule.
            fidelity: 1 is y-hat, closest to the input; 0 is the photo as drawn, richest. None for the model's default,
                in a model with the control `denoise` times its value, so 0 for what the grain parts draw; 0 where
                quality is "best".
            color_fix: "wavelet", "adain" or "none".
            tile: side of a tile in LR pixels; None chooses, and chooses smaller ones when memory runs out.
            tile_batch: tiles computed at once.
            progress: called with (tiles done, tiles in all).
            quality: "fast" draws the photo without a sample, "balanced" with the model's number of steps, "best" with
                four steps and all the texture; None for the model's default. Steps, edits, and models without a detail
                decoder need a sample, whatever it says.
            strength: 1 is the picture at this fidelity, 0 the one closest to the input: the fidelity becomes
                1 - strength * (1 - fidelity).
            edits: other strengths, or other noise, for single objects, as for `edit`.
            keep_latents: let `edit` go on from the result. Takes memory: see `Kept`.
            overlap: least overlap of neighbouring tiles in LR pixels, at most half a tile.
            instances: whether the instance map is wanted, which costs time; the photo is the same.
            denoise: how much noise and grain is taken off: 0 keeps it, 1 takes off as much as can be. None or
                "auto": as the photo's own damage asks for, where the model has the control.
            cleaning: share of its restored self, shrunk, that the photo is mixed with before it is drawn, which takes
                as long again as the restoration network. None: what its noise asks for, in a model with the control
                `denoise`, in proportion to that; 0 for photos with little noise.
            merge: groups of ids of the map; each group becomes one object, under the id that it names first, before
                the edits.
            segmenter: finds the objects in the finished picture; None for the model's own map.

        Raises:
            ValueError: an argument is out of its range, an edit or a merge names what is not there, or the segmenter's
                map has another size than the picture.
            ModelError: `denoise` is given, and the model has no grain parts.
            ImageError: the file cannot be read.
            MemoryError: not even the smallest tiles can be computed.
        """
        photo = as_photo(image)
        denoise = None if denoise == "auto" else denoise
        quality = self.defaults.quality if quality is None else quality
        check_choice("quality", quality, QUALITIES)
        steps = BEST_STEPS if quality == "best" else self.defaults.steps
        keep, maps = keep_latents or len(edits) > 0, instances or len(edits) > 0
        fast = (quality == "fast" and self.engine.finishes and num_inference_steps is None and start_from == "noise"
                and not keep)
        if denoise is None and self.denoises:
            denoise = automatic_denoise(photo.rgb, photo.quality)
        check_number("denoise", denoise)
        if len(merge) and not maps:
            raise ValueError("merge is for objects of the map; ask for instances, or for edits")
        if fidelity is None and quality == "best":
            fidelity = 0.0
        elif fidelity is None:  # damaged photos want more of it than those that the grain parts draw
            fidelity = self.defaults.fidelity * (1 if denoise is None else denoise)
        recipe = Recipe(scale, steps if num_inference_steps is None else num_inference_steps, seed, start_from,
                        fidelity, strength, color_fix, tile, tile_batch, overlap, not fast,
                        maps and segmenter is None, keep, denoise, cleaning or 0.0)
        check(recipe)
        if cleaning is None and denoise:
            recipe = replace(recipe, cleaning=denoise * automatic_cleaning(photo.rgb))
        upscaler = self._denoising(recipe)
        kept = upscaler._upscale(photo.rgb, recipe, progress)
        out = upscaler._render(kept, progress)
        if segmenter is not None and maps:
            out = replace(out, instances=[_find_objects(segmenter, out.images[0])])
        out = replace(out, instances=[merge_objects(ids, merge) for ids in out.instances])
        if edits:
            out = self.edit(out, edits, progress)
        return replace(out, instances=out.instances if instances else [], kept=out.kept if keep_latents else None)

    def edit(self, out: Upscaled, edits: Sequence[Edit], progress: Progress | None = None) -> Upscaled:
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
        if out.kept is None or not out.instances:
            raise ValueError("edit: nothing was kept of this upscale; make it with keep_latents=True and instances")
        kept, ids = out.kept, out.instances[0]
        upscaler = self._denoising(kept.recipe)
        masks = [find_object(edit.target, ids) for edit in edits]
        native = [kept.to_native(mask) for mask in masks]
        crops = [[] if edit.seed is None else self._plan_crops(mask, kept)
                 for edit, mask in zip(edits, native, strict=True)]
        count = _counter(sum(map(len, crops)), progress)
        for edit, mask, parts in zip(edits, native, crops, strict=True):
            if edit.seed is not None:
                kept = upscaler._resample(kept, mask, parts, edit.seed, count)
            if edit.strength is not None:
                kept = kept.with_strength(mask, edit.strength)
        picture = upscaler._render(kept, progress).images[0]
        if kept.recipe.scale > SCALE and masks:  # the second pass may change anything
            share = soft_mask(np.logical_or.reduce(masks))
            picture = Image.fromarray(fade_in(np.asarray(out.images[0]), np.asarray(picture), share))
        return Upscaled([picture], [ids], kept)

    @property
    def denoises(self) -> bool:
        """Whether the model has the control `denoise`."""
        return self.engine.denoises

    def _denoising(self, recipe: Recipe) -> Upscaler:
        """The upscaler with the weights that the recipe asks for."""
        if recipe.denoise is None or recipe.denoise == 1:
            return self
        if not self.denoises:
            raise ModelError("this model has no control of noise and grain: leave denoise out")
        return type(self)(self.engine.denoising(recipe.denoise), self.schedule, self.defaults)

    def _render(self, kept: Kept, progress: Progress | None) -> Upscaled:
        """The picture at the strengths and the scale asked for, and its ids."""
        recipe, size = kept.recipe, kept.size
        picture, ids = _native(kept, kept.strengths)
        picture, ids = _resized(picture, ids, [round(side * min(recipe.scale, SCALE)) for side in size])
        if recipe.scale > SCALE:
            strengths = kept.strengths
            again = replace(recipe, cleaning=0.0, layer=1, keep=strengths is not None)
            second = self._upscale(picture, again, progress)
            if strengths is not None:
                strengths = second.to_native(strengths[: size[0] * SCALE, : size[1] * SCALE])
            picture, ids = _native(second, strengths)
            picture, ids = _resized(picture, ids, [round(side * recipe.scale) for side in size])
        picture = apply_constraints(picture, kept.photo)
        return Upscaled([Image.fromarray(picture)], [] if ids is None else [ids], kept)

    # ------------------------------------------------------------------------------------------ tiles

    def _upscale(self, lr: np.ndarray, recipe: Recipe, progress: Progress | None) -> Kept:
        """(h, w, 3) uint8 -> its enlargement by four, with smaller tiles after running out of memory."""
        side = recipe.tile or TILE
        while True:
            try:
                return self._upscale_tiled(lr, recipe, side, progress)
            except MemoryError:
                side //= 2
                if recipe.tile is not None or side < SMALLEST_TILE:
                    raise

    def _upscale_tiled(self, lr: np.ndarray, recipe: Recipe, side: int, progress: Progress | None) -> Kept:
        padded = _padded(lr)
        side = max(SMALLEST, side // LR_TOKEN * LR_TOKEN)
        overlap = min(recipe.overlap, side // 2)
        rows, columns = padded.shape[:2]
        tiles = plan_tiles(rows, columns, (fitted_side(rows, side, overlap), fitted_side(columns, side, overlap)),
                           overlap)
        canvases = {fidelity: TileCanvas(rows, columns, overlap) for fidelity in recipe.fidelities}
        reader = self._reader(rows, columns, overlap) if recipe.maps else None
        groups = list(_groups(tiles, recipe.tile_batch))
        done = _counter(len(tiles) * (2 if recipe.cleaning else 1), progress)
        seen = self._clean(padded, groups, overlap, recipe.cleaning, done) if recipe.cleaning else padded
        noise = self._noise(recipe.seed, recipe.layer, seen) if recipe.samples else None
        kept = Kept(recipe, lr, seen, tiles, overlap, [], [], [], {}, {}, None)
        for group in groups:
            drawn = self._draw(seen, group, noise, recipe)
            for index, place in enumerate(group):
                for fidelity, canvas in canvases.items():
                    canvas.add(place, drawn.photos[fidelity][index])
                if reader is not None and drawn.maps is not None:
                    reader.add(place, drawn.restored[index], drawn.maps[index])
            if recipe.keep:
                _keep(kept, drawn, self.engine.finishes)
            done(len(group))
        pictures = {fidelity: canvas.finish() for fidelity, canvas in canvases.items()}
        return replace(kept, pictures=pictures, ids=None if reader is None else reader.finish())

    def _clean(self, lr: np.ndarray, groups: list[list[Tile]], overlap: int, share: float,
               done: Callable[[int], None]) -> np.ndarray:
        """The photo (H, W, 3) uint8 with this share of its restored self, shrunk, which has less noise."""
        rows, columns = lr.shape[:2]
        canvas = TileCanvas(rows, columns, overlap, scale=1)
        for group in groups:
            _, restored = self.engine.restore(_pixels(lr, group))
            for tile, picture in zip(group, restored, strict=True):
                canvas.add(tile, shrink(picture))
            done(len(group))
        return np.rint(_between(lr, canvas.finish(), share)).astype(np.uint8)

    def _draw(self, lr: np.ndarray, tiles: list[Tile], noise: NoiseField | VersionNoise | None,
              recipe: Recipe) -> Drawn:
        y = _pixels(lr, tiles)
        features, restored = self.engine.restore(y)
        z = z_y = tokens = None
        if noise is not None:
            z_y = self.engine.encode(restored)
            eps = np.stack([noise.window(tile) for tile in tiles])
            z, tokens = sample(self.engine, self.schedule, z_y, eps, recipe.steps, recipe.start_from)
        z_x = z[:, : self.engine.latent_channels] if z is not None and recipe.from_sample else None
        unfixed = self._photos(z_x, features, tokens, restored, recipe.fidelities)
        photos = {f: match_color(photo, y, recipe.color_fix) for f, photo in unfixed.items()}
        maps = self.engine.decode_map(z[:, self.engine.latent_channels :]) if z is not None and recipe.maps else None
        keeps_shifts = recipe.keep and recipe.color_fix == "wavelet"
        shifts = {f: base_shift(unfixed[f], y) for f in recipe.fidelities - {1.0}} if keeps_shifts else {}
        return Drawn(photos, restored, maps, z, z_y, features, shifts)

    def _photos(self, z_x: np.ndarray | None, features: np.ndarray | None, tokens: np.ndarray | None,
                restored: np.ndarray | None, fidelities: set[float]) -> dict[float, np.ndarray]:
        """Fidelity -> photo (B, 3, 4h, 4w), in the networks' own colours.

        Without z_x the photo is drawn from the restored one. Fidelity 0 of a sample alone does without that.
        """
        photo = restored
        if min(fidelities) < 1:
            if z_x is None:
                assert restored is not None  # nothing else to draw from
                photo = self.engine.finish(restored, features)
            else:
                photo = self.engine.decode(z_x, features, tokens)
        return {f: _between(photo, restored, f) for f in fidelities}

    def _reader(self, rows: int, columns: int, overlap: int) -> MapReader:
        if self.engine.pair_features:
            check_features(self.engine.pair_features)
            return RegionReader(rows, columns, overlap, self.engine.pair_odds)
        return ColorReader(rows, columns, overlap)

    def _noise(self, seed: int, layer: int, seen: np.ndarray) -> NoiseField | VersionNoise:
        """Of the photo that the networks see, (H, W, 3) uint8."""
        own, first = (NoiseField(each, 2 * self.engine.latent_channels, seen.shape[1] // LR_LATENT, layer)
                      for each in (seed, 0))
        return first if seed == 0 else VersionNoise(own, first, version_share(seen))

    # ---------------------------------------------------------------------------------------- objects

    def _plan_crops(self, mask: np.ndarray, kept: Kept) -> list[tuple[int, Tile]]:
        crops = plan_crops(mask, kept.tiles)
        if not self.engine.spread_positions:
            return crops
        return [(number, kept.tiles[number]) for number in sorted({number for number, _ in crops})]

    def _resample(self, kept: Kept, mask: np.ndarray, crops: list[tuple[int, Tile]], seed: int,
                  done: Callable[[int], None]) -> Kept:
        """Draws what lies under the mask (4H, 4W) once more; `done` is called after each crop."""
        share = latent_mask(mask)
        fields = tuple(self._noise(each, kept.recipe.layer, kept.lr) for each in (kept.recipe.seed, seed))
        latents = list(kept.latents)
        patch = Patch(mask, [crop for _, crop in crops], kept.overlap)
        for number, group in groupby(crops, key=itemgetter(0)):
            tile, parts = kept.tiles[number], [crop for _, crop in group]
            places = [(..., *crop.within(tile).latents) for crop in parts]
            latents[number] = latents[number].copy()
            for place in places:
                latents[number][place] = 0
            for crop, place, weight in zip(parts, places, crop_weights(parts), strict=True):
                z, photos = self._resample_crop(kept, number, crop, share, fields)
                latents[number][place] += at_latents(weight) * z
                patch.add(tile, crop, photos, weight)
                done(1)
        return replace(kept, latents=latents, pictures=patch.apply(kept.pictures))

    def _resample_crop(self, kept: Kept, number: int, crop: Tile, share: np.ndarray,
                       fields: tuple[NoiseField | VersionNoise, ...]) -> tuple[np.ndarray, dict[float, np.ndarray]]:
        """z (2C, h / 2, w / 2) and the photos (3, 4h, 4w) of a part of a tile, drawn anew where `share` says."""
        recipe, tile, y = kept.recipe, kept.tiles[number], _pixels(kept.lr, [crop])
        local = crop.within(tile)
        place = (None, ..., *local.latents)
        old, new = (field.window(crop)[None] for field in fields)
        z, tokens = sample(self.engine, self.schedule, kept.conditions[number][place], new, recipe.steps,
                           recipe.start_from, (local.top // LR_TOKEN, local.left // LR_TOKEN),
                           Known(kept.latents[number][place], old, share[crop.latents]))
        fidelities = recipe.fidelities - {1.0}
        features = restored = None
        if any(fidelities):  # a mixture with the restored photo
            features, restored = self.engine.restore(y)
        elif kept.features:
            features = kept.features[number][(None, ..., *local.slices)].astype(np.float32)
        if not fidelities:
            return z[0], {}
        unfixed = self._photos(z[:, : self.engine.latent_channels], features, tokens, restored, fidelities)
        return z[0], {f: _fixed_part(kept, f, number, crop, photo)[0] for f, photo in unfixed.items()}


# ------------------------------------------------------------------------------------------------ pictures


def _pixels(picture: np.ndarray, tiles: list[Tile]) -> np.ndarray:
    """Some tiles of a picture (H, W, 3) uint8: (B, 3, h, w) float32 in [0, 1]."""
    stack = np.stack([picture[tile.slices] for tile in tiles]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stack, np.float32) / 255


def _padded(lr: np.ndarray) -> np.ndarray:
    """Mirrored at the bottom and right to whole tokens, and to the least side."""
    below, right = (max(SMALLEST, side + -side % LR_TOKEN) - side for side in lr.shape[:2])
    return np.pad(lr, ((0, below), (0, right), (0, 0)), mode="symmetric")


def _between(photo: Any, restored: Any, fidelity: float) -> np.ndarray:
    if fidelity in (0, 1):
        return restored if fidelity else photo
    return np.float32(fidelity) * restored + np.float32(1 - fidelity) * photo


def _fixed_part(kept: Kept, fidelity: float, number: int, crop: Tile, photo: np.ndarray) -> np.ndarray:
    """A photo (1, 3, 4h, 4w) of a part of a tile in the colours of the rest.

    A part has other means and another base than its tile, so those of the picture before, or what was added to it.
    """
    tile, fix = kept.tiles[number], kept.recipe.color_fix
    if fix != "wavelet":
        return match_color(photo, _pixels(kept.pictures[fidelity], [crop.times(SCALE)]), fix)
    if crop == tile:
        return match_color(photo, _pixels(kept.lr, [crop]), fix)
    shift = enlarge(kept.shifts[fidelity][number][None], (SCALE * tile.height, SCALE * tile.width))
    rows, columns = crop.within(tile).scaled(SCALE)
    return np.clip(photo + shift[..., rows, columns], 0, 1)


def _keep(kept: Kept, drawn: Drawn, finishes: bool) -> None:
    assert drawn.z is not None and drawn.z_y is not None  # a recipe that keeps samples
    for fidelity, shift in drawn.shifts.items():  # so smooth that its fourth holds it
        kept.shifts.setdefault(fidelity, []).extend(map(shrink, shift))
    kept.latents.extend(drawn.z)
    kept.conditions.extend(drawn.z_y)
    if finishes and drawn.features is not None:
        kept.features.extend(drawn.features.astype(np.float16))


def _native(kept: Kept, strengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The picture (4h, 4w, 3) uint8 at these strengths, and its ids, without the padding."""
    box = np.s_[: kept.size[0] * SCALE, : kept.size[1] * SCALE]
    picture = mix_strengths(kept.pictures, kept.recipe, strengths)
    return picture[box], None if kept.ids is None else kept.ids[box]


def _resized(picture: np.ndarray, ids: np.ndarray | None, size: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    if list(picture.shape[:2]) == size:
        return picture, ids
    height, width = size
    ids = None if ids is None else resize_ids(ids, size)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)), ids


def _find_objects(segmenter: Segmenter, picture: Image.Image) -> np.ndarray:
    rgb = np.asarray(picture)
    ids = segmenter(rgb)
    if ids.shape != rgb.shape[:2]:
        raise ValueError(f"segmenter: its map is {ids.shape}, the picture {rgb.shape[:2]}")
    return ids


def _groups(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Called with what is done since the last call, calls `progress` with (done so far, total)."""
    so_far = 0

    def count(more: int) -> None:
        nonlocal so_far
        so_far += more
        if progress is not None:
            progress(so_far, total)

    return count
