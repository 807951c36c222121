"""Photos -> the files of their samples. A pure function of the photos and the settings, on whatever machine.

In two steps, which other processes may do: `draft` reads, decodes and cuts, and needs a CPU; `Models.finish` makes
masks, latents and features, and wants a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from instancersr.errors import reason
from instancersr.instances.annotations import annotation_of_mask, check_annotations, decode_rle
from instancersr.instances.codes import colorize, scale_target

from ..dataset import TOKEN
from ..pictures import decode_photo, encode_ids, encode_photo, ids_of_annotations, photo_size
from ..sources import DataError, Extent, PhotoFiles, Skipped

CHUNK = 16
"""Photos that are worked on together: what batches of the models are made of, so that these depend on the plan alone,
not on which process was free."""
GPU_BATCH = 8
"""Pictures that a model gets at once on a GPU; elsewhere they come singly."""


@dataclass(frozen=True)
class SampleSettings:
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
        """Whether instances are known."""
        return any(suffix == "json" for suffix, _ in self.files)


@dataclass(frozen=True)
class Draft:
    """A sample that waits for the models.

    rgb: (H, W, 3) uint8, as the photo decodes from the sample; None where no model wants it. ids: (H, W) uint16, and
    colors: (K + 1, 3) float32 of each id; None where no masks are known yet.
    """

    photo: PhotoFiles
    sample: Sample
    rgb: np.ndarray | None = None
    ids: np.ndarray | None = None
    colors: np.ndarray | None = None


def make_samples(photos: Sequence[PhotoFiles], settings: SampleSettings, device: str) -> list[Sample | Skipped]:
    """Both steps for a chunk of photos: each one's sample, or why there is none.

    Files of a sample: the photo; `json`, its masks as SA-1B has them, and `ids`, a PNG with the instance of each pixel;
    `safetensors`, if latents or features are asked for, float16: `latent` (C, S/8, S/8), scaled, and `map_latent`, that
    of the coloured instance map, with `latent_std` and `map_latent_std` if the autoencoder draws its latents (draw
    `latent + latent_std * noise`); `teacher` (N, T) on the grid of tokens. All of them are of the photo as it decodes
    from the sample.

    Pixels are taken as they are stored, as training takes them: an EXIF orientation is not applied.
    """
    return finish_drafts(make_drafts(photos, settings), settings, device)


def make_drafts(photos: Sequence[PhotoFiles], settings: SampleSettings) -> list[Draft | Skipped]:
    """The first step for a chunk of photos."""
    drafts: list[Draft | Skipped] = []
    for photo in photos:
        try:
            drafts.append(draft(photo, settings))
        except DataError as error:
            drafts.append(Skipped(photo.picture.name, str(error)))
    return drafts


def finish_drafts(drafts: Sequence[Draft | Skipped], settings: SampleSettings, device: str) -> list[Sample | Skipped]:
    """The second step for a chunk of photos."""
    ready = [d for d in drafts if isinstance(d, Draft)]
    samples = iter(_models(settings, device).finish(ready) if settings.needs_models else [d.sample for d in ready])
    return [next(samples) if isinstance(d, Draft) else d for d in drafts]


def draft(photo: PhotoFiles, settings: SampleSettings) -> Draft:
    """Reads, decodes, checks and cuts. Raises DataError: the photo or its masks cannot be used."""
    encoded, suffix = _read(photo.picture), photo.suffix
    masks = _read(photo.masks) if photo.masks else None
    _check_size(photo_size(encoded), settings.size)
    rgb = decode_photo(encoded, settings.size)
    annotations = None if masks is None else _parse(masks, photo_size(encoded))
    if settings.size is not None:
        if annotations is not None:
            annotations = crop_annotations(annotations, settings.size)
            annotations["image"]["file_name"] = f"{photo.key}.jpg"
            masks = _to_json(annotations)
        encoded, suffix = encode_photo(crop_photo(rgb, settings.size)), "jpg"
        rgb = decode_photo(encoded) if settings.needs_models else rgb
    begun = Draft(photo, Sample(photo.key, ((suffix, encoded),)), rgb if settings.needs_models else None)
    if annotations is None:
        return begun
    size = (annotations["image"]["height"], annotations["image"]["width"])
    return _with_masks(begun, annotations, masks or b"", size, bool(settings.latents))


def _with_masks(draft: Draft, annotations: dict, encoded: bytes, size: tuple[int, int], colored: bool) -> Draft:
    """With its masks, their JSON and their instance map. colored: whether the map's colours are needed."""
    ids = ids_of_annotations(annotations, size)
    files = (*draft.sample.files, ("json", encoded), ("ids", encode_ids(ids)))
    colors = _color_table(draft.photo.key, ids) if colored else None
    return replace(draft, sample=replace(draft.sample, files=files), ids=ids, colors=colors)


def _color_table(key: str, ids: np.ndarray) -> np.ndarray:
    """(K + 1, 3) float32: what `colorize` gives to each id."""
    targets = {i: scale_target(key, i) for i in range(1, int(ids.max()) + 1)}
    table = np.zeros((len(targets) + 1, 3), np.float32)
    table[ids.ravel()] = colorize(ids.astype(np.int32), targets).reshape(-1, 3)
    return table


@lru_cache(maxsize=1)
def _models(settings: SampleSettings, device: str) -> Models:
    """Models are loaded once a process, and one thread a process keeps their output the same for any `--workers`."""
    torch.set_num_threads(1)
    return Models(settings, device)


class Models:
    """SAM, the autoencoder and the teacher of the settings, on one device.

    Raises:
        UserError: one of them is not to be had.
    """

    def __init__(self, settings: SampleSettings, device: str):
        self.device = device
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

    def finish(self, drafts: Sequence[Draft]) -> list[Sample]:
        """The drafts' samples, with what the models add."""
        if self.sam is not None:
            drafts = [draft if draft.ids is not None else self._segmented(draft) for draft in drafts]
        if self.autoencoder is None and self.teacher is None:
            return [draft.sample for draft in drafts]
        samples = []
        waiting = iter(drafts)
        while batch := list(islice(waiting, 1 if self.device == "cpu" else GPU_BATCH)):
            tensors = {name: values.half().cpu() for name, values in self._tensors(batch).items()}
            for number, draft in enumerate(batch):
                own = save({name: values[number].contiguous() for name, values in tensors.items()})
                samples.append(replace(draft.sample, files=(*draft.sample.files, ("safetensors", own))))
        return samples

    def _segmented(self, draft: Draft) -> Draft:
        assert draft.rgb is not None  # there are models
        (suffix, _), size = draft.sample.files[0], draft.rgb.shape[:2]
        image = {"image_id": draft.photo.number, "width": size[1], "height": size[0],
                 "file_name": f"{draft.photo.key}.{suffix}"}
        annotations = {"image": image, "annotations": self.sam(draft.rgb)}
        return _with_masks(draft, annotations, _to_json(annotations), size, self.autoencoder is not None)

    @torch.no_grad()
    def _tensors(self, drafts: Sequence[Draft]) -> dict[str, Tensor]:
        """Of photos of one size: (B, ...) each."""
        hr = self._batch([np.asarray(draft.rgb, np.float32) / 255 for draft in drafts])
        tensors = {}
        if self.autoencoder is not None:
            from ...method.diffusion import encode_moments

            black = np.zeros(hr.shape[2:] + (3,), np.float32)
            maps = [black if d.colors is None or d.ids is None else d.colors[d.ids] for d in drafts]
            for name, pictures in (("latent", hr), ("map_latent", self._batch(maps))):
                tensors[name], deviation = encode_moments(self.autoencoder, pictures)
                if deviation is not None:
                    tensors[f"{name}_std"] = deviation
        if self.teacher is not None:
            tensors["teacher"] = self.teacher(hr, (hr.shape[2] // TOKEN, hr.shape[3] // TOKEN))
        return tensors

    def _batch(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(H, W, 3) float32 each -> (B, 3, H, W) on the device."""
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().to(self.device)


# ------------------------------------------------------------------------------------------------ the crop


def _check_size(photo: tuple[int, int], size: int | None) -> None:
    """Raises DataError: the photo is smaller than the crop; an enlarged one would teach blur."""
    if size is not None and min(photo) < size:
        raise DataError(f"{photo[1]}x{photo[0]} pixels; {size} a side are asked for")


def crop_photo(rgb: np.ndarray, size: int) -> np.ndarray:
    """The centre square of (H, W, 3) uint8, resized to (size, size, 3)."""
    top, left, side = _centre(*rgb.shape[:2])
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
        raise DataError(f"cannot be read ({reason(error)})") from error


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
