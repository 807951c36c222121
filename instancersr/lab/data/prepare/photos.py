"""Which photos there are, under which keys, and which shard each belongs to: all decided before any work.

The plan depends on nothing but the photos and the settings, so a run that was stopped goes on with the same one.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..dataset import PHOTO_SUFFIXES, DataError, find_sources


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
class Photo:
    """A photo to prepare. number: its place in the plan. masks: the JSON beside it."""

    number: int
    key: str
    picture: Extent
    masks: Extent | None

    @property
    def suffix(self) -> str:
        """Of the photo's file, such as `jpg`."""
        return PurePosixPath(self.picture.name).suffix[1:].lower()


@dataclass(frozen=True)
class Skipped:
    """A photo that is left out, and why, in one line."""

    photo: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """The photos that one tar is made of, in their order in it."""

    name: str
    photos: tuple[Photo, ...]


def find_photos(pattern: str | Path) -> tuple[list[Photo], list[Skipped]]:
    """All photos of a folder and its sub-folders, of tars, or of a folder of tars, in a fixed order.

    A key is the path in the folder or tar without its suffix, `_` for what WebDataset gives a meaning of its own:
    `/` and `.`. Of photos with the same key the first is taken, the others are returned as skipped.

    Raises:
        DataError: there is no such folder or tar, a tar cannot be read, or there are no photos.
    """
    photos: dict[str, Photo] = {}
    skipped = []
    try:
        sources = find_sources(pattern)
    except DataError:  # its advice is for a training configuration
        raise DataError(f"{pattern}: no such folder, tar or pattern of tars") from None
    for source in sources:
        files = _files_of_folder(source) if source.is_dir() else _files_of_tar(source)
        for path in sorted(p for p in files if p.suffix.lower() in PHOTO_SUFFIXES):
            key = _key(path)
            if key in photos:
                reason = f"its key {key} is already that of {photos[key].picture.name}"
                skipped.append(Skipped(files[path].name, reason))
            else:
                photos[key] = Photo(len(photos), key, files[path], files.get(path.with_suffix(".json")))
    if not photos:
        raise DataError(f"{pattern}: no photos in it ({', '.join(PHOTO_SUFFIXES)})")
    return list(photos.values()), skipped


def add_photos(photos: list[Photo], skipped: list[Skipped], more: list[Photo]) -> tuple[list[Photo], list[Skipped]]:
    """Puts `more` behind `photos`, numbered on; those whose key is taken are added to `skipped`."""
    keys = {photo.key for photo in photos}
    new = [photo for photo in more if photo.key not in keys]
    taken = [Skipped(photo.picture.name, f"its key {photo.key} is that of a photo") for photo in more
             if photo.key in keys]
    return [*photos, *(replace(photo, number=len(photos) + n) for n, photo in enumerate(new))], [*skipped, *taken]


def _files_of_folder(folder: Path) -> dict[PurePosixPath, Extent]:
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            relative = PurePosixPath(path.relative_to(folder).as_posix())
            if not _hidden(relative) and path.is_file():
                found[relative] = Extent(str(path), str(path.absolute()), 0, path.stat().st_size)
    return found


def _files_of_tar(source: Path) -> dict[PurePosixPath, Extent]:
    file = str(source.absolute())
    try:
        with tarfile.open(source, "r:") as tar:  # uncompressed: files are read from their place in it
            return {PurePosixPath(member.name): Extent(f"{source}/{member.name}", file, member.offset_data, member.size)
                    for member in tar if member.isreg() and not _hidden(PurePosixPath(member.name))}
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{source}: not a readable, uncompressed tar ({error}); get a fresh copy or move it away") \
            from error


def _hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _key(path: PurePosixPath) -> str:
    """Undecodable bytes of a name would stop a JSON writer: they become `?`."""
    name = str(path.with_suffix("")).replace("/", "_").replace(".", "_")
    return name.encode(errors="replace").decode()


def cut_shards(photos: Sequence[Photo], most_photos: int, most_bytes: float) -> Iterator[Shard]:
    """Cuts the list where a shard would have more photos, or more bytes of source files, than it may.

    Not by the bytes of the finished tar: they are known only after the work, and a cut must not depend on what
    other workers have done.
    """
    content: list[Photo] = []
    number = weight = 0
    for photo in photos:
        size = photo.picture.size + (photo.masks.size if photo.masks else 0)
        if content and (len(content) == most_photos or weight + size > most_bytes):
            yield Shard(f"shard-{number:06d}.tar", tuple(content))
            number, content, weight = number + 1, [], 0
        content.append(photo)
        weight += size
    yield Shard(f"shard-{number:06d}.tar", tuple(content))


def fingerprint(photos: Sequence[Photo]) -> str:
    """A hash of keys and sizes: the same as long as no photo was added, removed or changed in size."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.key}\n{photo.picture.size}\n{photo.masks and photo.masks.size}\n".encode())
    return digest.hexdigest()
