"""Photos decoded once into files of raw pixels: for data that fits the disk, from which crops cost next to nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from filelock import FileLock

from instancersr.errors import reason
from instancersr.files import replace_folder

from .dataset import TOKEN, Picture
from .pictures import decode_photo, ids_of_annotations
from .sources import DataError, PhotoFiles, Skipped, held_out_photos, key_hash, list_photos, state_of


@dataclass(frozen=True)
class PhotoRecord:
    """Where one decoded photo lies in the cache. Sizes and offset in pixels."""

    key: str
    height: int
    width: int
    offset: int


class PhotoCache:
    """Decoded photos: `rgb.bin` (uint8, 3 a pixel), `ids.bin` (uint16, one a pixel) and `index.json`.

    skipped: photos that are left out, with the reason.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.records = [PhotoRecord(**r) for r in json.loads((folder / "index.json").read_text())]
        skipped = folder / "skipped.jsonl"
        lines = skipped.read_text().splitlines() if skipped.exists() else []
        self.skipped = [Skipped(**json.loads(line)) for line in lines]
        self._rgb: np.ndarray | None = None
        self._ids: np.ndarray | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_rgb": None, "_ids": None}

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
    """Decodes all photos of `sources` whose sides are at least `min_side`; does nothing if that is done already.

    Raises:
        DataError: a tar cannot be read, or no photo can be used.
    """
    state = json.dumps([state_of(sources), min_side, "keys of paths"])
    folder = cache_root / f"photos-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    if not (folder / "index.json").exists():
        cache_root.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_root / f".{folder.name}.lock"):  # the processes of a run come here together
            if not (folder / "index.json").exists():
                _build(sources, folder, min_side)
    return PhotoCache(folder)


def _build(sources: Sequence[Path], folder: Path, min_side: int) -> None:
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _decode_all(sources, partial, min_side)
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _decode_all(sources: Sequence[Path], folder: Path, min_side: int) -> None:
    photos, skipped = list_photos(sources)
    records: list[dict] = []
    offset = 0
    with open(folder / "rgb.bin", "wb") as rgb_file, open(folder / "ids.bin", "wb") as ids_file:
        for photo in photos:
            try:
                rgb, ids = _decode(photo, min_side)
            except DataError as error:
                skipped.append(Skipped(photo.picture.name, str(error)))
                continue
            height, width = ids.shape
            rgb_file.write(rgb.tobytes())
            ids_file.write(ids.tobytes())
            records.append({"key": photo.key, "height": height, "width": width, "offset": offset})
            offset += height * width
    if not records:
        first = f"; {skipped[0].photo}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"{sources[0]}: no photo with sides of {min_side} pixels or more{first}")
    (folder / "skipped.jsonl").write_text("".join(json.dumps(asdict(photo)) + "\n" for photo in skipped))
    (folder / "index.json").write_text(json.dumps(records))


def _decode(photo: PhotoFiles, min_side: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (H, W) uint16. Raises DataError."""
    try:
        encoded, masks = photo.picture.read(), photo.masks.read() if photo.masks else None
    except OSError as error:
        raise DataError(f"cannot be read ({reason(error)})") from error
    rgb = decode_photo(encoded)
    if min(rgb.shape[:2]) < min_side:
        raise DataError(f"{rgb.shape[1]}x{rgb.shape[0]} pixels; data.crop is {min_side}")
    return rgb, ids_of_annotations(masks, rgb.shape[:2])


class CachedPhotos:
    """Photos of the cache, drawn anew for each sample, large ones more often.

    Args:
        held_out: the validation photos instead of the training ones.
        min_side: smaller photos are left out; in pixels.
        keys: patterns, one of which a photo's key must match.
    """

    def __init__(self, cache: PhotoCache, held_out: bool, min_side: int, keys: Sequence[str] = ("*",)):
        self.cache = cache
        validation = held_out_photos(np.array([key_hash(r.key) for r in cache.records], np.uint64))
        self.records = [r for r, held in zip(cache.records, validation, strict=True)
                        if held == held_out and min(r.height, r.width) >= min_side
                        and any(fnmatchcase(r.key, pattern) for pattern in keys)]
        if not self.records:
            raise DataError(f"no {'validation' if held_out else 'training'} photo has sides of {min_side} pixels "
                            f"or more and a key like {' or '.join(keys)}")
        weights = np.sqrt([r.height * r.width for r in self.records])  # large photos have more to see, but also
        self._probs = weights / weights.sum()                          # more of the same sky

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        """A photo drawn by `rng`."""
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
        """The photo whose turn it is."""
        record = self.records[number % len(self.records)]
        box = middle(record.height, record.width, self.longest)
        return Picture(record.key, self.cache.rgb(record)[box], self.cache.ids(record)[box], whole=True)
