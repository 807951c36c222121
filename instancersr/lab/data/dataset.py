"""Photos with instance maps -> training samples.

A sample is a pure function of (seed, number of the sample): any number of workers and processes, and any resumed run,
sees the same crops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.utils.data import Dataset, default_collate

from instancersr.instances.codes import LUMA, colorize, photo_targets, scale_target

from ..method.degradation import SHARPEN_SIGMA, AnyPreset, degrade, sharpen, twin_camera
from .auxiliary import AuxiliaryCrops
from .sources import Skipped

TOKEN = 16
"""HR pixels along one side of a token: f8 autoencoder, patch 2."""


@dataclass(frozen=True)
class Picture:
    """A photo to cut a crop from.

    rgb: (H, W, 3) uint8. ids: (H, W) uint16. stored: tensors that belong to all of it. whole: whether it is to be
    taken as it is. skipped: photos that it was taken instead of, as they cannot be used.
    """

    key: str
    rgb: np.ndarray
    ids: np.ndarray
    stored: Mapping[str, torch.Tensor] = field(default_factory=dict)
    whole: bool = False
    skipped: tuple[Skipped, ...] = ()


class PhotoSource(Protocol):
    """Where crops come from."""

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        """The photo of sample `number`; `rng` is that sample's own."""


class CropDataset(Dataset):
    """Random crops: sample n is the same whatever came before it.

    A sample holds `hr` (3, S, S) and `lr` (3, S/4, S/4), float32 in [0, 1]; with `masks` also `ids` (S, S) int32,
    `instance_map` (3, S, S) in [0, 1], `scale_targets` (S, S) (s_i of the instance at each pixel, 0 where none)
    and `token_offset` (2,), the place in the picture, in tokens, that the crop pretends to have. Pictures that
    are to be taken whole are not cut, turned, shrunk or moved; stored tensors come along.

    Args:
        source: of the photos.
        size: side of the HR crop, in pixels.
        presets: degradation presets and their shares.
        seed: of everything random.
        masks: whether to give the instance maps.
        downscale_prob: share of crops taken from a larger window and shrunk, which makes the truth sharper and cleaner.
        max_offset: token offsets are drawn from 0..max_offset.
        lightness: what an instance's lightness, and so its s_i, follows: "hash", fixed by key and id, or "photo", the
            instance's luma in the crop.
        downscale_max: the most that a window is shrunk by.
        truth_blur: range of the Gaussian blur that makes the truth one, its deviation in pixels.
        truth_sharpen: range of the amount of an unsharp mask on that.
        gray_prob: share of crops that are made grey before anything else happens to them.
        twin_prob: share of crops whose LR photo the truth's own camera takes, through a shorter lens (`twin_camera`).
        colored: whether `instance_map` is given even where its latent is stored.
        auxiliary: crops with an auxiliary target. Samples then also hold `target` (3, S, S): it, and `hr` where there
            is none. Masks of these crops are unknown.
        auxiliary_share: of the samples, those that are such crops.
    """

    def __init__(self, source: PhotoSource, size: int = 128, presets: Mapping[str, float] | None = None, seed: int = 0,
                 masks: bool = False, downscale_prob: float = 0.0, max_offset: int = 0, lightness: str = "hash",
                 downscale_max: float = 2.0, truth_blur: tuple[float, float] = (0.0, 0.0),
                 truth_sharpen: tuple[float, float] = (0.0, 0.0), twin_prob: float = 0.0,
                 gray_prob: float = 0.0, colored: bool = True, auxiliary: AuxiliaryCrops | None = None,
                 auxiliary_share: float = 0.0):
        self.source, self.size, self.seed = source, size, seed
        self.masks, self.downscale_prob, self.max_offset = masks, downscale_prob, max_offset
        self.lightness, self.downscale_max = lightness, downscale_max
        self.truth_blur, self.truth_sharpen, self.twin_prob = truth_blur, truth_sharpen, twin_prob
        self.gray_prob, self.colored = gray_prob, colored
        self.auxiliary, self.auxiliary_share = auxiliary, auxiliary_share
        shares = presets or {"seesr": 1.0}
        self._presets = list(shares)
        self._preset_probs = np.array(list(shares.values()), float) / sum(shares.values())

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, number))
        if self.auxiliary is not None and rng.random() < self.auxiliary_share:
            return self._auxiliary_sample(self.auxiliary, rng)
        photo = self.source.choose(number, rng)
        rgb, ids = (photo.rgb, photo.ids) if photo.whole else self._crop(photo, rng)
        hr, lr = self._photographed(rgb, rng)
        sample: dict[str, Any] = {"hr": hr, "lr": lr, **photo.stored}
        if self.auxiliary is not None:
            sample["target"] = hr
        if self.masks:
            sample |= self._mask_fields(photo, rgb, ids, rng)
        return sample | {"skipped": photo.skipped} if photo.skipped else sample

    def _auxiliary_sample(self, auxiliary: AuxiliaryCrops, rng: np.random.Generator) -> dict[str, Any]:
        sample: dict[str, Any] = auxiliary.choose(rng)
        if self.masks:
            black = np.zeros((self.size, self.size, 3), np.uint8)
            sample |= self._mask_fields(Picture("", black, black[..., 0]), black, black[..., 0], rng)
        return sample

    def _photographed(self, rgb: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(H, W, 3) uint8 -> HR (3, H, W), as a lens blurs it and a processor sharpens that; LR (3, H/4, W/4)."""
        scene = rgb.astype(np.float32) / 255
        if self.gray_prob and rng.random() < self.gray_prob:
            scene = np.repeat((scene @ LUMA.astype(np.float32))[..., None], 3, -1)
        blur = rng.uniform(*self.truth_blur) if self.truth_blur[1] else 0.0
        amount, sigma = 0.0, SHARPEN_SIGMA[0]
        if self.truth_sharpen[1]:
            amount, sigma = rng.uniform(*self.truth_sharpen), rng.uniform(*SHARPEN_SIGMA)
        hr = gaussian_filter(scene, (blur, blur, 0)) if blur else scene
        hr = sharpen(hr, amount, sigma) if amount else hr
        twin = self.twin_prob > 0 and rng.random() < self.twin_prob
        preset: str | AnyPreset = twin_camera(blur, amount, sigma) if twin else self._choose_preset(rng)
        lr = degrade(_tensor(scene if twin else hr)[None], preset, [int(rng.integers(2**62))])
        return _tensor(hr).contiguous(), lr[0]

    def _choose_preset(self, rng: np.random.Generator) -> str:
        return self._presets[rng.choice(len(self._presets), p=self._preset_probs)]

    def _crop(self, photo: Picture, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rgb, ids = self._window(photo, rng)
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        return _turned(rgb, turn, flip), _turned(ids, turn, flip)

    def _window(self, photo: Picture, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size, window = self.size, self.size
        height, width = photo.ids.shape
        if rng.random() < self.downscale_prob:
            window = int(rng.uniform(size, min(self.downscale_max * size, height, width) + 1))
        top = int(rng.integers(height - window + 1))
        left = int(rng.integers(width - window + 1))
        box = np.s_[top : top + window, left : left + window]
        rgb, ids = photo.rgb[box], photo.ids[box]
        if window == size:
            return rgb, ids
        rgb = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC))
        nearest = (np.arange(size) * window + window // 2) // size
        return rgb, ids[np.ix_(nearest, nearest)]

    def _mask_fields(self, photo: Picture, rgb: np.ndarray, ids: np.ndarray,
                     rng: np.random.Generator) -> dict[str, torch.Tensor]:
        ids = np.ascontiguousarray(ids).astype(np.int32)
        present = np.flatnonzero(np.bincount(ids.ravel())).tolist()
        if self.lightness == "photo":
            targets = photo_targets(ids, rgb / 255)
        else:
            targets = {i: scale_target(photo.key, i) for i in present if i > 0}
        offset = np.zeros(2, np.int64) if photo.whole else rng.integers(0, self.max_offset + 1, 2)
        table = np.zeros(present[-1] + 1, np.float32)
        table[list(targets)] = list(targets.values())
        fields = {"ids": torch.from_numpy(ids), "scale_targets": torch.from_numpy(table[ids]),
                  "token_offset": torch.from_numpy(offset)}
        if self.colored or "map_latent" not in photo.stored:
            origin = (int(offset[0]) * TOKEN, int(offset[1]) * TOKEN)
            colors = torch.from_numpy(colorize(ids, targets, origin))
            fields["instance_map"] = colors.permute(2, 0, 1).float().contiguous()
        return fields


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of tensors, and `skipped`, the photos that its samples stand for."""
    skipped = [photo for sample in samples for photo in sample.get("skipped", ())]
    tensors = [{name: value for name, value in sample.items() if name != "skipped"} for sample in samples]
    return {**default_collate(tensors), "skipped": skipped}


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W), a view."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _turned(array: np.ndarray, turn: int, flip: bool) -> np.ndarray:
    array = np.rot90(array, turn)
    return np.ascontiguousarray(array[:, ::-1] if flip else array)  # once, while it is small


class BatchNumbers(torch.utils.data.Sampler[list[int]]):
    """The numbers of the images of each step, always a whole batch: of them this process' share.

    Args:
        start, stop: the first image's number, and that before which the last batch begins.
        batch: images of a step, of all processes together.
        process, processes: which of how many this is; `processes` divides `batch`.
    """

    def __init__(self, start: int, stop: int, batch: int, process: int = 0, processes: int = 1):
        self.starts = range(start, stop, batch)
        share = batch // processes
        self.share = range(process * share, (process + 1) * share)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield [start + place for place in self.share]

    def __len__(self) -> int:
        return len(self.starts)
