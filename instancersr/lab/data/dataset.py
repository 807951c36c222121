"""Photos with instance masks -> training samples.

Shards are WebDataset tars of `KEY.webp|jpg|png` and, where known, `KEY.json` (instance masks in SA-1B's format);
a plain folder of the same files works too. They are decoded once into a cache of raw pixels (`stream.py` is for data
that is too large for one), and a sample is a pure function of (seed, number of the sample): any number of workers and
processes, and any resumed run, sees the same crops.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.utils.data import Dataset

from instancersr.errors import UserError
from instancersr.instances.annotations import id_map_from_annotations
from instancersr.instances.codes import LUMA, colorize, photo_targets, scale_target

from ..method.degradation import SHARPEN_SIGMA, Preset, degrade, sharpen, twin_camera

PHOTO_SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")
TOKEN = 16
"""HR pixels along one side of a token: f8 autoencoder, patch 2."""


class DataError(UserError):
    """A shard, photo or annotation that cannot be used; one line that names it."""


def is_held_out(key: str) -> bool:
    """Whether a photo belongs to the validation tenth, by a hash of its key (its file name without suffix)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10 == 0


# --------------------------------------------------------------------------------- reading the sources


def find_sources(pattern: str | Path) -> list[Path]:
    """A folder of photos, a tar, or a glob pattern of tars -> the folders and tars it stands for."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar")) or [path]
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise DataError(f"{pattern}: no such shards or folder; set data.photos to a folder of photos or tars")
    return found


def read_source(source: Path) -> Iterator[tuple[str, bytes, dict | None]]:
    """Yields (key, encoded photo, SA-1B annotations or None) of a tar or a folder, ordered by key."""
    if source.is_dir():
        for photo in sorted(p for p in source.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES):
            notes = photo.with_suffix(".json")
            yield photo.stem, photo.read_bytes(), json.loads(notes.read_text()) if notes.exists() else None
        return
    try:
        with tarfile.open(source) as tar:
            members = {m.name: m for m in tar if m.isfile()}
            for name in sorted(n for n in members if Path(n).suffix.lower() in PHOTO_SUFFIXES):
                member = members.get(str(Path(name).with_suffix(".json")))
                annotations = json.loads(_read(tar, member)) if member else None
                yield Path(name).stem, _read(tar, members[name]), annotations
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{source}: not a readable tar ({error})") from error


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # only regular files are asked for
    return file.read()


# ------------------------------------------------------------------------------------------- the cache


@dataclass(frozen=True)
class PhotoRecord:
    """Where one decoded photo lies in the cache. Sizes and offset in pixels."""

    key: str
    height: int
    width: int
    offset: int


class PhotoCache:
    """Decoded photos: `rgb.bin` (uint8, 3 a pixel), `ids.bin` (uint16, one a pixel) and `index.json`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.records = [PhotoRecord(**r) for r in json.loads((folder / "index.json").read_text())]
        self._rgb: np.ndarray | None = None
        self._ids: np.ndarray | None = None

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "records": self.records, "_rgb": None, "_ids": None}

    def rgb(self, record: PhotoRecord) -> np.ndarray:
        """(H, W, 3) uint8, a view of the file."""
        if self._rgb is None:
            self._rgb = np.memmap(self.folder / "rgb.bin", np.uint8, mode="r")
        start, count = 3 * record.offset, 3 * record.height * record.width
        return self._rgb[start : start + count].reshape(record.height, record.width, 3)

    def ids(self, record: PhotoRecord) -> np.ndarray:
        """(H, W) uint16 instance ids, 0 where no instance is known, a view of the file."""
        if self._ids is None:
            self._ids = np.memmap(self.folder / "ids.bin", np.uint16, mode="r")
        start, count = record.offset, record.height * record.width
        return self._ids[start : start + count].reshape(record.height, record.width)


def build_cache(sources: Sequence[Path], cache_root: Path, min_side: int) -> PhotoCache:
    """Decodes all photos of `sources` whose sides are at least `min_side`; does nothing if that is done already."""
    folder = cache_root / f"photos-{_fingerprint(sources, min_side)}"
    if not (folder / "index.json").exists():
        cache_root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache_root))
        try:
            _decode_all(sources, partial, min_side)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return PhotoCache(folder)


def _fingerprint(sources: Sequence[Path], min_side: int) -> str:
    state = [[str(s.resolve()), s.stat().st_size, s.stat().st_mtime_ns] for s in sources]
    return hashlib.sha256(json.dumps([state, min_side]).encode()).hexdigest()[:12]


def _decode_all(sources: Sequence[Path], folder: Path, min_side: int) -> None:
    records: list[dict] = []
    offset = 0
    with open(folder / "rgb.bin", "wb") as rgb_file, open(folder / "ids.bin", "wb") as ids_file:
        for source in sources:
            for key, encoded, annotations in read_source(source):
                rgb = decode_photo(key, encoded, source)
                height, width = rgb.shape[:2]
                if min(height, width) < min_side:
                    continue
                ids = compact_ids(annotations, (height, width), key)
                rgb_file.write(rgb.tobytes())
                ids_file.write(ids.tobytes())
                records.append({"key": key, "height": height, "width": width, "offset": offset})
                offset += height * width
    if not records:
        raise DataError(f"{sources[0]}: no photo with sides of {min_side} pixels or more")
    (folder / "index.json").write_text(json.dumps(records))


def decode_photo(key: str, encoded: bytes, source: Path) -> np.ndarray:
    """-> (H, W, 3) uint8. Raises DataError."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: photo {key} cannot be decoded ({error})") from error


def compact_ids(annotations: dict | None, size: tuple[int, int], key: str) -> np.ndarray:
    """(H, W) uint16: 1..K in the order of the annotations' ids, so that 65,535 instances fit a photo."""
    if annotations is None:
        return np.zeros(size, np.uint16)
    try:
        ids = id_map_from_annotations(annotations)
    except ValueError as error:
        raise DataError(f"photo {key}: {error}") from error
    if ids.shape != size:
        raise DataError(f"photo {key}: its masks are {ids.shape}, the photo is {size}")
    present, compact = np.unique(ids, return_inverse=True)
    first = 0 if present[0] == 0 else 1
    return (compact.reshape(size) + first).astype(np.uint16)


# ----------------------------------------------------------------------------------------- the samples


@dataclass(frozen=True)
class Picture:
    """A photo to cut a crop from.

    rgb: (H, W, 3) uint8. ids: (H, W) uint16. stored: tensors that belong to all of it. whole: whether it is to be
    taken as it is.
    """

    key: str
    rgb: np.ndarray
    ids: np.ndarray
    stored: Mapping[str, torch.Tensor] = field(default_factory=dict)
    whole: bool = False


class PhotoSource(Protocol):
    """Where crops come from."""

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        """The photo of sample `number`; `rng` is that sample's own."""


class CachedPhotos:
    """Photos of the cache, drawn anew for each sample, large ones more often.

    Args:
        held_out: the validation photos instead of the training ones.
        min_side: smaller photos are left out; in pixels.
        keys: patterns, one of which a photo's key must match.
    """

    def __init__(self, cache: PhotoCache, held_out: bool, min_side: int, keys: Sequence[str] = ("*",)):
        self.cache = cache
        self.records = [r for r in cache.records
                        if is_held_out(r.key) == held_out and min(r.height, r.width) >= min_side
                        and any(fnmatchcase(r.key, pattern) for pattern in keys)]
        if not self.records:
            raise DataError(f"no {'validation' if held_out else 'training'} photo has sides of {min_side} pixels "
                            f"or more and a key like {' or '.join(keys)}")
        weights = np.sqrt([r.height * r.width for r in self.records])  # large photos have more to see, but also
        self._probs = weights / weights.sum()                          # more of the same sky

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        record = self.records[rng.choice(len(self.records), p=self._probs)]
        return Picture(record.key, self.cache.rgb(record), self.cache.ids(record))


def middle(height: int, width: int, longest: int) -> tuple[slice, slice]:
    """The middle of a picture, of whole tokens: its sides are cut to `longest` pixels."""
    kept = [min(side, longest) // TOKEN * TOKEN for side in (height, width)]
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    return slice(top, top + kept[0]), slice(left, left + kept[1])


class WholePhotos(CachedPhotos):
    """Photos of the cache as they are, in its order, over and over; sample n is the n-th.

    Args:
        longest: longer sides are cut to it, about the middle; in pixels, a multiple of 16.
    """

    def __init__(self, cache: PhotoCache, held_out: bool, min_side: int, keys: Sequence[str], longest: int):
        super().__init__(cache, held_out, min_side, keys)
        self.longest = longest

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        record = self.records[number % len(self.records)]
        box = middle(record.height, record.width, self.longest)
        return Picture(record.key, self.cache.rgb(record)[box], self.cache.ids(record)[box], whole=True)


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
    """

    def __init__(self, source: PhotoSource, size: int = 128, presets: Mapping[str, float] | None = None, seed: int = 0,
                 masks: bool = False, downscale_prob: float = 0.0, max_offset: int = 0, lightness: str = "hash",
                 downscale_max: float = 2.0, truth_blur: tuple[float, float] = (0.0, 0.0),
                 truth_sharpen: tuple[float, float] = (0.0, 0.0), twin_prob: float = 0.0,
                 gray_prob: float = 0.0):
        self.source, self.size, self.seed = source, size, seed
        self.masks, self.downscale_prob, self.max_offset = masks, downscale_prob, max_offset
        self.lightness, self.downscale_max = lightness, downscale_max
        self.truth_blur, self.truth_sharpen, self.twin_prob = truth_blur, truth_sharpen, twin_prob
        self.gray_prob = gray_prob
        shares = presets or {"seesr": 1.0}
        self._presets = list(shares)
        self._preset_probs = np.array(list(shares.values()), float) / sum(shares.values())

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, number))
        photo = self.source.choose(number, rng)
        rgb, ids = (photo.rgb, photo.ids) if photo.whole else self._crop(photo, rng)
        hr, lr = self._photographed(rgb.astype(np.float32) / 255, rng)
        sample = {"hr": hr, "lr": lr, **photo.stored}
        return sample | self._mask_fields(photo.key, rgb, ids, rng, photo.whole) if self.masks else sample

    def _photographed(self, scene: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(H, W, 3) in [0, 1] -> HR (3, H, W), as a lens blurs it and a processor sharpens that; LR (3, H/4, W/4)."""
        if self.gray_prob and rng.random() < self.gray_prob:
            scene = np.repeat((scene @ LUMA.astype(np.float32))[..., None], 3, -1)
        blur = rng.uniform(*self.truth_blur) if self.truth_blur[1] else 0.0
        amount, sigma = 0.0, SHARPEN_SIGMA[0]
        if self.truth_sharpen[1]:
            amount, sigma = rng.uniform(*self.truth_sharpen), rng.uniform(*SHARPEN_SIGMA)
        hr = _tensor(gaussian_filter(scene, (blur, blur, 0)) if blur else scene)
        hr = sharpen(hr, amount, sigma) if amount else hr
        twin = self.twin_prob > 0 and rng.random() < self.twin_prob
        preset: str | Preset = twin_camera(blur, amount, sigma) if twin else self._choose_preset(rng)
        lr = degrade(_tensor(scene) if twin else hr, preset, [int(rng.integers(2**62))])
        return hr[0], lr[0]

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

    def _mask_fields(self, key: str, rgb: np.ndarray, ids: np.ndarray, rng: np.random.Generator,
                     whole: bool) -> dict[str, torch.Tensor]:
        ids = np.ascontiguousarray(ids).astype(np.int32)
        present = np.unique(ids)
        if self.lightness == "photo":
            targets = photo_targets(ids, rgb / 255)
        else:
            targets = {int(i): scale_target(key, int(i)) for i in present if i > 0}
        offset = np.zeros(2, np.int64) if whole else rng.integers(0, self.max_offset + 1, 2)
        origin = (int(offset[0]) * TOKEN, int(offset[1]) * TOKEN)
        table = np.array([targets.get(int(i), 0.0) for i in present], np.float32)
        return {
            "ids": torch.from_numpy(ids),
            "instance_map": torch.from_numpy(colorize(ids, targets, origin)).permute(2, 0, 1).float().contiguous(),
            "scale_targets": torch.from_numpy(table[np.searchsorted(present, ids)]),
            "token_offset": torch.from_numpy(offset),
        }


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (1, 3, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def _turned(array: np.ndarray, turn: int, flip: bool) -> np.ndarray:
    array = np.rot90(array, turn)
    return array[:, ::-1] if flip else array


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
