"""Which photos are prepared, and which shard each belongs to: all decided before any work.

The plan depends on nothing but the photos and the settings, so a run that was stopped goes on with the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..sources import PHOTO_SUFFIXES, DataError, PhotoFiles, Skipped, find_sources, list_photos


@dataclass(frozen=True)
class Shard:
    """The photos that one tar is made of, in their order in it."""

    name: str
    photos: tuple[PhotoFiles, ...]


def find_photos(pattern: str | Path) -> tuple[list[PhotoFiles], list[Skipped]]:
    """All photos of a folder and its sub-folders, of tars, or of a folder of tars: see `sources.list_photos`.

    Raises:
        DataError: there is no such folder or tar, a tar cannot be read, or there are no photos.
    """
    try:
        sources = find_sources(pattern)
    except DataError:  # its advice is for a training configuration
        raise DataError(f"{pattern}: no such folder, tar or pattern of tars") from None
    photos, skipped = list_photos(sources)
    if not photos:
        raise DataError(f"{pattern}: no photos in it ({', '.join(PHOTO_SUFFIXES)})")
    return photos, skipped


def add_photos(photos: list[PhotoFiles], skipped: list[Skipped],
               more: list[PhotoFiles]) -> tuple[list[PhotoFiles], list[Skipped]]:
    """Puts `more` behind `photos`, numbered on; those whose key is taken are added to `skipped`."""
    keys = {photo.key for photo in photos}
    new = [photo for photo in more if photo.key not in keys]
    taken = [Skipped(photo.picture.name, f"its key {photo.key} is that of a photo") for photo in more
             if photo.key in keys]
    return [*photos, *(replace(photo, number=len(photos) + n) for n, photo in enumerate(new))], [*skipped, *taken]


def cut_shards(photos: Sequence[PhotoFiles], most_photos: int, most_bytes: float) -> Iterator[Shard]:
    """Cuts the list where a shard would have more photos, or more bytes of source files, than it may.

    Not by the bytes of the finished tar: they are known only after the work, and a cut must not depend on what
    other workers have done.
    """
    content: list[PhotoFiles] = []
    number = weight = 0
    for photo in photos:
        size = photo.picture.size + (photo.masks.size if photo.masks else 0)
        if content and (len(content) == most_photos or weight + size > most_bytes):
            yield Shard(f"shard-{number:06d}.tar", tuple(content))
            number, content, weight = number + 1, [], 0
        content.append(photo)
        weight += size
    yield Shard(f"shard-{number:06d}.tar", tuple(content))


def fingerprint(photos: Sequence[PhotoFiles]) -> str:
    """A hash of keys and sizes: the same as long as no photo was added, removed or changed in size."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.key}\n{photo.picture.size}\n{photo.masks and photo.masks.size}\n".encode())
    return digest.hexdigest()
