"""One photo -> the files of its sample. A pure function of the photo and the settings, on whatever machine."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from instancersr.instances.annotations import annotation_of_mask, check_annotations, decode_rle
from instancersr.instances.codes import colorize, scale_target

from ..dataset import TOKEN, DataError, compact_ids
from .photos import Extent, Photo, Skipped

WEBP_QUALITY = 95
"""Of photos that are cropped; others keep their bytes."""


@dataclass(frozen=True)
class Settings:
    """What samples hold.

    size: photos and masks become the centre square, this many pixels a side; None keeps the files' bytes.
    sam, latents, features: hub name or folder of the SAM that makes the missing masks, of the autoencoder and of the
        DINOv2 whose outputs are stored; None where there shall be none.
    """

    size: int | None = None
    sam: str | None = None
    latents: str | None = None
    features: str | None = None

    @property
    def needs_models(self) -> bool:
        return any((self.sam, self.latents, self.features))


@dataclass(frozen=True)
class Sample:
    """files: (suffix, content) of each file, the photo first."""

    key: str
    files: tuple[tuple[str, bytes], ...]

    @property
    def has_masks(self) -> bool:
        return any(suffix == "json" for suffix, _ in self.files)


def make_sample(photo: Photo, settings: Settings, device: str) -> Sample | Skipped:
    """The sample of one photo, or why there is none.

    Files of a sample: the photo; `json`, its masks as SA-1B has them; `safetensors`, if latents or features are asked
    for, float16: `latent` (C, S/8, S/8), scaled, and `map_latent`, that of the coloured instance map, with
    `latent_std` and `map_latent_std` if the autoencoder draws its latents (draw `latent + latent_std * noise`);
    `teacher` (N, T) on the grid of tokens. All of them are of the photo as it decodes from the sample.

    Pixels are taken as they are stored, as training takes them: an EXIF orientation is not applied.
    """
    try:
        return _maker(settings, device).make(photo)
    except DataError as error:
        return Skipped(photo.picture.name, str(error))


@lru_cache(maxsize=1)
def _maker(settings: Settings, device: str) -> _SampleMaker:
    """Models are loaded once a process, and one thread a process keeps their output the same for any `--workers`."""
    torch.set_num_threads(1)
    return _SampleMaker(settings, device)


class _SampleMaker:
    def __init__(self, settings: Settings, device: str):
        self.size, self.device = settings.size, device
        self.sam: Any = None
        self.autoencoder: Any = None
        self.teacher: Any = None
        if settings.sam:
            from ...method.models.teachers import SamMasks

            self.sam = SamMasks(settings.sam, device)
        if settings.latents:
            from ...method.models.pretrained import load_autoencoder

            self.autoencoder = load_autoencoder(settings.latents).to(device)
        if settings.features:
            from ...method.models.teachers import Dinov2Teacher

            self.teacher = Dinov2Teacher(settings.features).to(device)

    def make(self, photo: Photo) -> Sample:
        """Raises DataError: the photo or its masks cannot be used."""
        encoded, suffix = _read(photo.picture), photo.suffix
        masks = _read(photo.masks) if photo.masks else None
        rgb = _decode(encoded)
        annotations = None if masks is None else _parse(masks, rgb.shape[:2])
        if self.size is not None:
            if annotations is not None:
                annotations = crop_annotations(annotations, self.size)
                annotations["image"]["file_name"] = f"{photo.key}.webp"
                masks = _to_json(annotations)
            encoded, suffix = _encode(crop_photo(rgb, self.size)), "webp"
            rgb = _decode(encoded)
        if annotations is None and self.sam is not None:
            annotations = {"image": {"image_id": photo.number, "width": rgb.shape[1], "height": rgb.shape[0],
                                     "file_name": f"{photo.key}.{suffix}"}, "annotations": self.sam(rgb)}
            masks = _to_json(annotations)
        files = [(suffix, encoded)]
        if masks is not None:
            files.append(("json", masks))
        if self.autoencoder is not None or self.teacher is not None:
            tensors = self._tensors(rgb, annotations, photo.key)
            half = {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}
            files.append(("safetensors", save(half)))
        return Sample(photo.key, tuple(files))

    @torch.no_grad()
    def _tensors(self, rgb: np.ndarray, annotations: dict | None, key: str) -> dict[str, Tensor]:
        hr = self._batch(rgb.astype(np.float32) / 255)
        tensors = {}
        if self.autoencoder is not None:
            from ...method.diffusion import encode_moments

            ids = compact_ids(annotations, rgb.shape[:2], key).astype(np.int32)
            targets = {int(i): scale_target(key, int(i)) for i in np.unique(ids) if i > 0}
            for name, pictures in (("latent", hr), ("map_latent", self._batch(colorize(ids, targets)))):
                mean, deviation = encode_moments(self.autoencoder, pictures)
                tensors[name] = mean[0]
                if deviation is not None:
                    tensors[f"{name}_std"] = deviation[0]
        if self.teacher is not None:
            tensors["teacher"] = self.teacher(hr, (rgb.shape[0] // TOKEN, rgb.shape[1] // TOKEN))[0]
        return tensors

    def _batch(self, picture: np.ndarray) -> Tensor:
        """(H, W, 3) float32 -> (1, 3, H, W) on the device."""
        return torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().to(self.device)


# ------------------------------------------------------------------------------------------------ the crop


def crop_photo(rgb: np.ndarray, size: int) -> np.ndarray:
    """The centre square of (H, W, 3) uint8, resized to (size, size, 3).

    Raises:
        DataError: the photo is smaller than that; an enlarged one would teach blur.
    """
    height, width = rgb.shape[:2]
    top, left, side = _centre(height, width)
    if side < size:
        raise DataError(f"{width}x{height} pixels; {size} a side are asked for")
    square = Image.fromarray(rgb[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def crop_annotations(sa1b: dict, size: int) -> dict:
    """SA-1B's JSON with the masks of the crop that `crop_photo` makes; those that lie outside it are left out.

    Args:
        sa1b: of the whole photo, as `check_annotations` passes it.
        size: side of the crop after resizing, in pixels.
    """
    top, left, side = _centre(sa1b["image"]["height"], sa1b["image"]["width"])
    nearest = (np.arange(size) * side + side // 2) // size
    window = np.ix_(top + nearest, left + nearest)
    notes = []
    for note in sa1b["annotations"]:
        mask = decode_rle(note["segmentation"])[window]
        if mask.any():
            judged = {name: note[name] for name in ("predicted_iou", "stability_score") if name in note}
            notes.append(annotation_of_mask(mask, note["id"]) | judged)
    return {"image": sa1b["image"] | {"width": size, "height": size}, "annotations": notes}


def _centre(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


# --------------------------------------------------------------------------------------------------- files


def _read(extent: Extent) -> bytes:
    try:
        return extent.read()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error


def _decode(encoded: bytes) -> np.ndarray:
    """-> (H, W, 3) uint8."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError:  # its message has an address in it, another one in every run
        raise DataError("cannot be decoded (not a picture)") from None
    except Exception as error:  # every codec has its own exceptions for damaged data
        raise DataError(f"cannot be decoded ({(str(error).splitlines() or [type(error).__name__])[0]})") from error


def _encode(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def _parse(encoded: bytes, photo_size: tuple[int, int]) -> dict:
    """SA-1B's JSON of a photo of this height and width."""
    try:
        annotations = json.loads(encoded)
        size = check_annotations(annotations)
    except ValueError as error:
        raise DataError(f"its masks cannot be used ({error})") from error
    if size != photo_size:
        raise DataError(f"its masks cannot be used (they are of a photo of {size}, this one is {photo_size})")
    return annotations


def _to_json(annotations: dict) -> bytes:
    return json.dumps(annotations, separators=(",", ":")).encode()
