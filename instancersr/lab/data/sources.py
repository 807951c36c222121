"""Where photos lie, in folders and in tars, under which keys, and which of them are held out.

A photo has the same key wherever it lies: in a folder, in a tar of it, and in the shards that `instancersr prepare`
makes of either. Instances' scale targets and the held-out photos follow from keys, so they are the same as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from instancersr.errors import UserError

PHOTO_SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")
HELD_OUT_SHARE = 10
"""One photo of so many is held out,"""
HELD_OUT_MOST = 4096
"""but no more than this: a validation needs no more, and training wants the rest."""
TAR_ERRORS = (tarfile.TarError, OSError)


class DataError(UserError):
    """A shard, photo or annotation that cannot be used; one line that names it."""


@dataclass(frozen=True)
class Skipped:
    """A photo that is left out, and why, in one line."""

    photo: str
    reason: str


@dataclass(frozen=True, slots=True)  # there are millions
class Extent:
    """A file, or the place of one inside a tar. Offset and size in bytes; name: what to call it in a message."""

    name: str
    file: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its content. Raises OSError."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class PhotoFiles:
    """A photo and the JSON of masks beside it, if any. number: its place in the list."""

    number: int
    key: str
    picture: Extent
    masks: Extent | None

    @property
    def suffix(self) -> str:
        """Of the photo's file, such as `jpg`."""
        return PurePosixPath(self.picture.name).suffix[1:].lower()


# ------------------------------------------------------------------------------------------ keys, held out


def photo_key(path: PurePosixPath) -> str:
    """The path in its folder or tar without the suffix, `_` for what WebDataset gives a meaning of its own: `/`, `.`.

    Undecodable bytes of a name would stop a JSON writer: they become `?`.
    """
    name = str(path.with_suffix("")).replace("/", "_").replace(".", "_")
    return name.encode(errors="replace").decode()


def key_hash(key: str) -> int:
    """64 bits, the same everywhere."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def is_held_out(key: str) -> bool:
    """Whether a photo belongs to the tenth from which those held out are taken; of a small data set, all of it."""
    return (key_hash(key) >> 32) % HELD_OUT_SHARE == 0


def held_out_photos(hashes: np.ndarray, most: int = HELD_OUT_MOST) -> np.ndarray:
    """(n,) key hashes -> (n,) bool: the validation photos, a tenth, or the `most` of least hash if that were more."""
    hashes = np.asarray(hashes, np.uint64)
    chosen = (hashes >> np.uint64(32)) % np.uint64(HELD_OUT_SHARE) == 0
    candidates = np.flatnonzero(chosen)
    if len(candidates) > most:
        # of equal upper halves the lower ones, which decided nothing yet
        order = np.argsort(hashes[candidates] & np.uint64(0xFFFFFFFF), kind="stable")
        chosen[candidates[order[most:]]] = False
    return chosen


# --------------------------------------------------------------------------------------------------- listing


def find_sources(pattern: str | Path) -> list[Path]:
    """A folder of photos, a tar, or a glob pattern of tars -> the folders and tars it stands for.

    Raises:
        DataError: there are none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar")) or [path]
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise DataError(f"{pattern}: no such shards or folder; set data.photos to a folder of photos or tars")
    return found


def list_photos(sources: Iterable[Path]) -> tuple[list[PhotoFiles], list[Skipped]]:
    """All photos of folders, with their sub-folders, and of tars, in the order of the sources and of the paths.

    Of photos with the same key the first is taken, the others are returned as skipped.

    Raises:
        DataError: a tar cannot be read.
    """
    photos: dict[str, PhotoFiles] = {}
    skipped = []
    for source in sources:
        files = _files_of_folder(source) if source.is_dir() else _files_of_tar(source)
        for path in sorted(p for p in files if p.suffix.lower() in PHOTO_SUFFIXES):
            key = photo_key(path)
            if key in photos:
                reason = f"its key {key} is already that of {photos[key].picture.name}"
                skipped.append(Skipped(files[path].name, reason))
            else:
                photos[key] = PhotoFiles(len(photos), key, files[path], files.get(path.with_suffix(".json")))
    return list(photos.values()), skipped


def read_source(source: Path) -> Iterator[tuple[str, bytes, dict | None]]:
    """Yields (key, encoded photo, SA-1B annotations or None) of a tar or a folder, ordered by path."""
    for photo in list_photos([source])[0]:
        yield photo.key, photo.picture.read(), json.loads(photo.masks.read()) if photo.masks else None


def _files_of_folder(folder: Path) -> dict[PurePosixPath, Extent]:
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            relative = PurePosixPath(path.relative_to(folder).as_posix())
            if not is_hidden(relative) and path.is_file():
                found[relative] = Extent(str(path), str(path.absolute()), 0, path.stat().st_size)
    return found


def _files_of_tar(source: Path) -> dict[PurePosixPath, Extent]:
    file = str(source.absolute())
    return {PurePosixPath(member.name): Extent(f"{source}/{member.name}", file, member.offset_data, member.size)
            for member in tar_members(source)}


def tar_members(source: Path) -> Iterator[tarfile.TarInfo]:
    """The files of an uncompressed tar that are not hidden, with their places in it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with tarfile.open(source, "r:") as tar:  # uncompressed: files are read from their place in it
            for member in tar:
                if member.isreg() and not is_hidden(PurePosixPath(member.name)):
                    yield member
    except TAR_ERRORS as error:
        raise DataError(f"{source}: not a readable, uncompressed tar ({error}); get a fresh copy or move it away") \
            from error


def is_hidden(path: PurePosixPath) -> bool:
    """Whether it, or a folder around it, begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def state_of(sources: Sequence[Path]) -> list[list[str | int]]:
    """What tells one state of the sources from another: path, size and time of each tar, or photo, or photo's masks."""
    files = [file for source in sources for file in (_photos_and_masks(source) if source.is_dir() else [source])]
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _photos_and_masks(folder: Path) -> list[Path]:
    photos, _ = list_photos([folder])
    return [Path(extent.file) for photo in photos for extent in (photo.picture, photo.masks) if extent]
