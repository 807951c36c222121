"""A say over each object of a picture that was upscaled: how much is restored, and which are drawn once more.

Here is what an edit means: which pixels it names, how its edges fade, which part of a tile has to be computed again,
and how new pixels are put in. The upscaler applies it. Pixels are native ones (see `geometry`) unless said to be LR.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # loads its parts when they are first used

from .geometry import LATENT, LR_TOKEN, SCALE, TOKEN
from .images.reading import ImageError, read_image
from .instances.annotations import middle_pixel
from .instances.maps import check_present
from .tiling import Tile, blend_window

if TYPE_CHECKING:
    from .recipe import Recipe

Target = int | tuple[int, int] | np.ndarray

FADE = 14
"""Native pixels from an object to where the picture is the old one again, after re-sampling."""
STRENGTH_FADE = 4
"""Strengths of neighbours mix over twice so many pixels on either side of their border."""
MARGIN = 3
"""Tokens around an object that are computed as well: its context."""
BLOCKS = 8
"""Blocks along a side of a tile, of which crops are put together."""
CROP_COST = 32
"""What a crop costs beside its area, in tokens."""
BAND = 256
"""Rows of a picture that are worked on at once."""


@dataclass(frozen=True)
class Edit:
    """What becomes of one object.

    Args:
        target: an id of the instance map (0: all that belongs to no object), a point (x, y) in pixels of the output
            that lies on the object, or a mask (H, W) bool of the output's size.
        strength: 0 is the picture closest to the input, 1 full restoration; None leaves it as it is.
        seed: draw the object once more with the noise of this seed; None does not.

    Raises:
        ValueError: a value is out of its range.
    """

    target: Target
    strength: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be 0 to 1, not {self.strength}")
        if self.seed is not None and not 0 <= operator.index(self.seed) < 2**63:
            raise ValueError(f"seed must be 0 to 2^63 - 1, not {self.seed}")


@dataclass(frozen=True)
class Kept:
    """What an edit needs of an upscale. For each LR pixel about 96 bytes of latents, and 60 for each picture.

    recipe: of the call. photo: (h, w, 3) uint8, as given. lr: what the networks see of it, (H, W, 3) uint8, padded to
    whole tokens.
    tiles, overlap: the plan. latents: z (2C, h / 2, w / 2) of each tile. conditions: z_y (C, h / 2, w / 2) of each.
    features: of the restoration network (F, h, w), in half precision, if a detail decoder needs them.
    shifts: fidelity -> what the colour fix added to each tile, shrunk to (3, h, w); empty where it is not "wavelet".
    pictures: fidelity -> (4H, 4W, 3) uint8, for each of the recipe's fidelities.
    ids: (4H, 4W) int32, None if not asked for.
    strengths: (4H, 4W) float32, without soft edges; None: the recipe's everywhere.
    """

    recipe: Recipe
    photo: np.ndarray
    lr: np.ndarray
    tiles: list[Tile]
    overlap: int
    latents: list[np.ndarray]
    conditions: list[np.ndarray]
    features: list[np.ndarray]
    shifts: dict[float, list[np.ndarray]]
    pictures: dict[float, np.ndarray]
    ids: np.ndarray | None
    strengths: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the LR photo."""
        return self.photo.shape[:2]

    def with_strength(self, mask: np.ndarray, strength: float) -> Kept:
        """Another strength where the mask (4H, 4W) is true."""
        strengths = self.strengths
        if strengths is None:
            strengths = np.full(mask.shape, self.recipe.strength, np.float32)
        return replace(self, strengths=np.where(mask, np.float32(strength), strengths))

    def to_native(self, mask: np.ndarray) -> np.ndarray:
        """A mask, or strengths, at native size (4H, 4W), padding included; no object is lost by shrinking."""
        height, width = (SCALE * side for side in self.size)
        rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), mask.shape, strict=True))
        native = mask[np.ix_(rows, columns)]
        if mask.shape[0] > height or mask.shape[1] > width:
            y, x = np.nonzero(mask)
            native[y * height // mask.shape[0], x * width // mask.shape[1]] = True
        below, right = (SCALE * padded - side for padded, side in zip(self.lr.shape, (height, width), strict=False))
        return np.pad(native, ((0, below), (0, right)), mode="symmetric")


# ---------------------------------------------------------------------------------------------------- targets


def find_object(target: Any, ids: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool that an edit's target names.

    Args:
        target: as `Edit` says.
        ids: the instance map (H, W).

    Raises:
        ValueError: there is no such object, the point lies outside, or the mask is no mask of this picture.
    """
    if isinstance(target, np.ndarray) and target.ndim:
        if target.shape != ids.shape or target.dtype != bool:
            raise ValueError(f"mask: expected {ids.shape} bool, the output's size, not {target.shape} {target.dtype}")
        if not target.any():
            raise ValueError("mask: it is empty")
        return target
    height, width = ids.shape
    try:
        if isinstance(target, (tuple, list)) and len(target) == 2:
            x, y = map(operator.index, target)
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"point {x},{y}: outside the output of {width}x{height}")
            return ids == ids[y, x]
        number = operator.index(target)
    except TypeError as error:
        raise ValueError(f"target {target!r}: neither an id, nor a point (x, y), nor a mask") from error
    mask = ids == number
    if not mask.any():
        check_present([number], ids)
    return mask


def read_target(text: str, size: tuple[int, int], output_size: tuple[int, int]) -> Target:
    """The target that a person wrote: an id such as 7, a point such as 210,96, or the path of a mask.

    Args:
        text: what was written.
        size, output_size: (height, width) of the input and of the output; a mask may be of either size.

    Raises:
        ImageError: the mask cannot be read, or has another size.
    """
    if re.fullmatch(r"\d+", text):
        return int(text)
    if point := re.fullmatch(r"(\d+),(\d+)", text):
        return int(point[1]), int(point[2])
    photo = read_image(text)
    mask = photo.rgb.mean(2) > 127  # white is the object
    if photo.alpha is not None:
        mask &= photo.alpha > 127  # under full transparency the colours are those beside it
    if mask.shape not in (size, output_size):
        raise ImageError(f"{text}: this mask is {mask.shape[1]}x{mask.shape[0]}; it must be as large as the input, "
                         f"{size[1]}x{size[0]}, or the output, {output_size[1]}x{output_size[0]}")
    rows, columns = (np.arange(new) * old // new for new, old in zip(output_size, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


def list_objects(ids: np.ndarray) -> list[dict[str, Any]]:
    """The objects of a map (H, W): id, area, box (left, top, width, height) and a point (x, y) on each, in pixels.

    The largest comes first; names are SA-1B's.
    """
    objects = []
    for number, box in enumerate(scipy.ndimage.find_objects(ids), 1):
        if box is None:
            continue
        top, left = (s.start for s in box)
        area, (x, y) = middle_pixel(ids[box] == number)
        objects.append({"id": number, "area": area, "point_coords": [[left + x, top + y]],
                        "bbox": [left, top, box[1].stop - left, box[0].stop - top]})
    return sorted(objects, key=lambda entry: -entry["area"])


# ------------------------------------------------------------------------------------------------- soft edges


def soft_mask(mask: np.ndarray, box: tuple[slice, slice] | None = None) -> np.ndarray:
    """A mask (H, W) bool, or a part of it, as float32: 1 on the object, falling to 0 at FADE pixels from it."""
    if box is None:
        box = slice(0, mask.shape[0]), slice(0, mask.shape[1])
    wide = tuple(slice(max(0, s.start - FADE), s.stop + FADE) for s in box)
    part = mask[wide]
    if not part.any():
        return np.zeros([s.stop - s.start for s in box], np.float32)
    distance = scipy.ndimage.distance_transform_edt(~part)[tuple(
        slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True))]
    return (np.cos(np.minimum(distance / FADE, 1) * np.pi / 2) ** 2 * (distance < FADE)).astype(np.float32)


def latent_mask(mask: np.ndarray) -> np.ndarray:
    """What is drawn anew of each latent, (H / 8, W / 8) float32: 1 on the object, a half beside it."""
    on = _any_in_cells(mask, LATENT)
    return (on * 0.5 + scipy.ndimage.binary_dilation(on, np.ones((3, 3))) * 0.5).astype(np.float32)


def at_latents(weight: np.ndarray) -> np.ndarray:
    """What native pixels (H, W) have, in the middle of each latent: (H / 8, W / 8)."""
    return weight[LATENT // 2 :: LATENT, LATENT // 2 :: LATENT]


def soften(strengths: np.ndarray) -> np.ndarray:
    """Strengths (H, W) whose borders are slopes; exactly as they were where there is no border near."""
    size = 2 * STRENGTH_FADE + 1
    smooth = strengths
    for _ in range(2):
        smooth = scipy.ndimage.uniform_filter(smooth, size, mode="nearest")
    wide = 2 * size - 1  # of both filters together
    low = scipy.ndimage.minimum_filter(strengths, wide, mode="nearest")
    return np.clip(smooth, low, scipy.ndimage.maximum_filter(strengths, wide, mode="nearest"))


def mix_strengths(pictures: dict[float, np.ndarray], recipe: Recipe, strengths: np.ndarray | None) -> np.ndarray:
    """The picture (H, W, 3) uint8 at these strengths (H, W).

    Strength s is fidelity 1 - s (1 - f), f being the call's: a mixture of the pictures at fidelity 1 and f.
    """
    plain = pictures[recipe.shown]
    if strengths is None:
        return plain
    soft = soften(strengths)
    picture = plain.copy()
    closest, full = pictures[1.0], pictures[recipe.fidelity]
    for top in range(0, len(picture), BAND):
        rows = slice(top, top + BAND)
        low, share = closest[rows].astype(np.float32), soft[rows, :, None]
        mixed = np.rint(low + share * (full[rows] - low)).astype(np.uint8)
        picture[rows] = np.where(share == np.float32(recipe.strength), plain[rows], mixed)
    return picture


def fade_in(old: np.ndarray, new: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`new` (h, w, 3) where `share` (h, w) is 1, `old` (h, w, 3) where it is 0; uint8."""
    mixed = (1 - share[..., None]) * old + share[..., None] * new
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def _any_in_cells(mask: np.ndarray, side: int) -> np.ndarray:
    height, width = mask.shape
    return np.logical_or.reduce(mask.reshape(height // side, side, width // side, side), (1, 3))


# ------------------------------------------------------------------------------------- what is computed again


def plan_crops(mask: np.ndarray, tiles: list[Tile]) -> list[tuple[int, Tile]]:
    """Which parts of which tiles an object (4H, 4W) bool needs: (number of the tile, part in LR pixels).

    Parts of an object that lie apart, and the arms of one that sprawls, are computed apart where that costs less.
    """
    near = scipy.ndimage.binary_dilation(_any_in_cells(mask, TOKEN), np.ones((3, 3)))  # FADE reaches one token further
    crops = []
    for number, tile in enumerate(tiles):
        rows, columns = (slice(s.start // LR_TOKEN, s.stop // LR_TOKEN) for s in tile.slices)
        for top, left, bottom, right in _boxes(near[rows, columns]):
            crops.append((number, Tile(tile.top + LR_TOKEN * top, tile.left + LR_TOKEN * left,
                                       LR_TOKEN * (bottom - top), LR_TOKEN * (right - left))))
    return crops


def _boxes(tokens: np.ndarray) -> list[list[int]]:
    """Boxes (top, left, bottom, right) that show all that is true in (h, w) and its margin, at little cost.

    It begins with the boxes of small blocks, and unites two of them as long as their union costs no more than they do.
    """
    blocks = []
    for rows in np.array_split(np.arange(tokens.shape[0]), BLOCKS):
        for columns in np.array_split(np.arange(tokens.shape[1]), BLOCKS):
            y, x = np.nonzero(tokens[np.ix_(rows, columns)])
            if len(y):  # with signs by which the union of two is their maximum
                blocks.append([-rows[y.min()], -columns[x.min()], rows[y.max()] + 1, columns[x.max()] + 1])
    if not blocks:
        return []
    boxes, limits = np.array(blocks), [0, 0, *tokens.shape]

    def wide(boxes: np.ndarray) -> np.ndarray:
        return np.minimum(boxes + MARGIN - 1, limits)

    def cost(boxes: np.ndarray) -> np.ndarray:
        top, left, bottom, right = wide(boxes).T
        return (bottom + top) * (right + left) + CROP_COST

    while len(boxes) > 1:
        first, second = np.triu_indices(len(boxes), 1)
        unions = np.maximum(boxes[first], boxes[second])
        saved = cost(boxes[first]) + cost(boxes[second]) - cost(unions)
        best = saved.argmax()
        if saved[best] < 0:
            break
        boxes = np.vstack([boxes[~(boxes <= unions[best]).all(1)], unions[best]])
    return (wide(boxes) * [-1, -1, 1, 1]).tolist()


def crop_weights(crops: list[Tile]) -> list[np.ndarray]:
    """How much each crop of a tile decides of its native pixels (4h, 4w): together 1, with slopes between them."""
    area = _around(crops)
    places = [crop.within(area).scaled(SCALE) for crop in crops]
    windows = [blend_window(SCALE * crop.height, SCALE * crop.width, 2 * (MARGIN - 1) * TOKEN) for crop in crops]
    total = np.zeros((SCALE * area.height, SCALE * area.width), np.float32)
    for place, window in zip(places, windows, strict=True):
        total[place] += window
    return [window / total[place] for place, window in zip(places, windows, strict=True)]


class Patch:
    """Collects new pixels of an object from the tiles that show it, blended as the tiles were.

    Args:
        mask: the object, (4H, 4W) bool.
        crops: all that will be added, in LR pixels.
        overlap: of the tiles' plan, in LR pixels.
    """

    def __init__(self, mask: np.ndarray, crops: list[Tile], overlap: int):
        self._overlap = SCALE * overlap
        self._area = _around(crops)
        self._share = soft_mask(mask, self._area.scaled(SCALE))
        self._sums: dict[float, np.ndarray] = {}
        self._weight = np.zeros(self._share.shape, np.float32)

    def add(self, tile: Tile, crop: Tile, photos: dict[float, np.ndarray], weight: np.ndarray) -> None:
        """The photos (3, 4h, 4w) at each fidelity of a crop of a tile, and its weight (4h, 4w) in the tile."""
        window = blend_window(SCALE * tile.height, SCALE * tile.width, self._overlap)
        weight = weight * window[crop.within(tile).scaled(SCALE)]
        box = crop.within(self._area).scaled(SCALE)
        self._weight[box] += weight
        for fidelity, photo in photos.items():
            total = self._sums.setdefault(fidelity, np.zeros((*self._share.shape, 3), np.float32))
            total[box] += photo.transpose(1, 2, 0) * weight[..., None]

    def apply(self, pictures: dict[float, np.ndarray]) -> dict[float, np.ndarray]:
        """The pictures with the object's new pixels."""
        box = self._area.scaled(SCALE)
        weight = np.maximum(self._weight[..., None], np.finfo(np.float32).tiny)
        changed = {}
        for fidelity, picture in pictures.items():
            if fidelity in self._sums:
                new = np.clip(self._sums[fidelity] / weight, 0, 1) * 255
                picture = picture.copy()
                picture[box] = fade_in(picture[box], new, self._share)
            changed[fidelity] = picture
        return changed


def _around(tiles: list[Tile]) -> Tile:
    """The smallest rectangle that holds them all."""
    top, left = min(t.top for t in tiles), min(t.left for t in tiles)
    return Tile(top, left, max(t.top + t.height for t in tiles) - top, max(t.left + t.width for t in tiles) - left)
