"""Samples -> one WebDataset tar, the same bytes for the same samples."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from instancersr.files import whole_file

from ..index import save_rows, scan_shard
from ..sources import Skipped
from .sample import Sample

PROGRESS = ".progress"
"""Folder of what the next start, and the end, need to know of finished shards."""


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: its file's name, samples, samples with masks, bytes and checksum, and what was left out."""

    name: str
    photos: int
    with_masks: int
    bytes: int
    sha256: str
    skipped: tuple[Skipped, ...]


class _HashedFile:
    """Adds up what is written to a file. A tar in stream mode asks for no more than `write`."""

    def __init__(self, file: BinaryIO):
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self.digest.update(data)
        return self.file.write(data)


def index_part(out: Path, name: str) -> Path:
    """Where the rows of a shard wait for those of the others."""
    return out / PROGRESS / f"{name}.npy"


def write_shard(name: str, out: Path, samples: Iterable[Sample | Skipped]) -> ShardRecord:
    """Writes `out/name` and its part of the index, completely or not at all; a shard of that name is replaced.

    Raises OSError where it cannot be written, and what `samples` raises.
    """
    photos, with_masks, skipped = 0, 0, []
    with whole_file(out / name) as raw:
        file = _HashedFile(raw)
        with tarfile.open(fileobj=file, mode="w|") as tar:  # type: ignore[call-overload]
            for sample in samples:
                if isinstance(sample, Skipped):
                    skipped.append(sample)
                    continue
                _add(tar, sample)
                photos += 1
                with_masks += sample.has_masks
        raw.flush()
        os.fsync(raw.fileno())
        save_rows(index_part(out, name), scan_shard(Path(raw.name)))
    return ShardRecord(name, photos, with_masks, file.bytes, file.digest.hexdigest(), tuple(skipped))


def _add(tar: tarfile.TarFile, sample: Sample) -> None:
    for suffix, content in sample.files:
        member = tarfile.TarInfo(f"{sample.key}.{suffix}")  # no owner, the year 1970, mode 644: the same everywhere
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
