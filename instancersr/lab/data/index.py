"""Which sample lies where in which shard: any of them is then one read away.

`instancersr prepare` writes the index beside its shards. For other shards it is built once, by all processes of a run
together and before they join a process group, whose timeout a large data set would not keep; each shard's part is
saved as it is read, so a run that is stopped meanwhile goes on with the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np

from instancersr.cores import usable_cores
from instancersr.errors import reason
from instancersr.files import whole_file

from .sources import PHOTO_SUFFIXES, DataError, find_sources, key_hash, photo_key, state_of, tar_members

INDEX = "index.npy"
"""The index of a folder's shards, beside them."""
MANIFEST = "manifest.json"
MEMBERS = ("photo", "json", "ids", "safetensors")
"""Files of a sample, each with its place in the tar: the photo, masks, instance map, stored tensors."""
FEW = 64
"""Shards that one process reads by itself, in about the time that others need to start."""


class ShardIndex:
    """Where each sample lies.

    Args:
        sources: the tars.
        file: (n,) rows with `key`, `hash` of the key, `shard` and, for each of `MEMBERS`, its `offset` and `size` in
            bytes, saved by numpy; in the order of the shards, and of the photos in them.
    """

    def __init__(self, sources: Sequence[Path], file: Path):
        self.sources, self.file = list(sources), file
        self.rows = np.load(file, mmap_mode="r")

    def __getstate__(self) -> dict:  # a worker maps the file as well, instead of getting a copy of gigabytes
        return {"sources": self.sources, "file": self.file}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def name(self, row: np.void) -> str:
        """What to call a sample in a message."""
        return f"{self.sources[row['shard']]}: photo {row['key'].decode()}"

    def read(self, row: np.void, member: str) -> bytes | None:
        """A sample's file, None if it has none. Raises DataError."""
        size = int(row[f"{member}_size"])
        if not size:
            return None
        try:
            with open(self.sources[row["shard"]], "rb") as file:
                file.seek(int(row[f"{member}_offset"]))
                return file.read(size)
        except OSError as error:
            raise DataError(f"cannot be read ({reason(error)})") from error


def shard_sources(photos: str | Path) -> list[Path]:
    """The tars of a folder or pattern.

    Raises:
        DataError: there are none, or one that the folder's `manifest.json` lists is missing.
    """
    sources = find_sources(photos)
    if any(source.is_dir() for source in sources):
        raise DataError(f"{photos}: no shards; make them with `instancersr prepare`, or set data.stream=false")
    for folder in sorted({source.parent for source in sources}):
        there = {entry.name for entry in os.scandir(folder)}
        for shard in _listed(folder):
            if shard["name"] not in there:
                raise DataError(f"{folder / shard['name']}: this shard is missing; run `instancersr prepare` again")
    return sources


def read_manifest(folder: Path) -> dict:
    """What `instancersr prepare` wrote of the shards in a folder; empty where it wrote none."""
    manifest = folder / MANIFEST
    return json.loads(manifest.read_text()) if manifest.exists() else {}


def _listed(folder: Path) -> list[dict]:
    """The shards of the folder's manifest; none where it has none."""
    return read_manifest(folder).get("shards", [])


def open_index(sources: Sequence[Path], cache: Path, process: int = 0, processes: int = 1) -> ShardIndex:
    """The index that `instancersr prepare` wrote, or one that is built, once, and kept in `cache`.

    Of several processes that build it each begins with its share of the shards, and goes on with what is left of the
    others': none waits for another.

    Raises:
        DataError: a tar cannot be read, or there are no photos.
    """
    prepared = _prepared_index(sources)
    if prepared is not None:
        return ShardIndex(sources, prepared)
    state = json.dumps(state_of(sources))
    file = cache / f"index-{hashlib.sha256(state.encode()).hexdigest()[:12]}.npy"
    if not file.exists():
        parts = file.with_suffix(".parts")
        parts.mkdir(parents=True, exist_ok=True)
        _scan_all(sources, parts, process, processes)
        join_parts([parts / f"{source.name}.npy" for source in sources], file)
    return ShardIndex(sources, file)


def _prepared_index(sources: Sequence[Path]) -> Path | None:
    """The index in the shards' folder, if it is of these very shards."""
    folder = sources[0].parent
    sizes = {shard["name"]: shard["bytes"] for shard in _listed(folder)}
    if not (folder / INDEX).exists() or any(source.parent != folder for source in sources):
        return None
    there = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name in sizes}
    return folder / INDEX if sizes == there and sorted(sizes) == [source.name for source in sources] else None


def _scan_all(sources: Sequence[Path], parts: Path, process: int, processes: int) -> None:
    turned = [*range(process, len(sources), processes), *range(len(sources))]  # its own first
    todo = [source for source in (sources[n] for n in dict.fromkeys(turned))
            if not (parts / f"{source.name}.npy").exists()]
    workers = max(1, usable_cores() // processes)
    if len(todo) <= FEW or workers == 1:
        for source in todo:
            _save_part(source, parts)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for _ in pool.map(_save_part, todo, [parts] * len(todo)):
            pass


def _save_part(source: Path, parts: Path) -> None:
    part = parts / f"{source.name}.npy"
    if not part.exists():  # another process may have come to it
        save_rows(part, scan_shard(source))


def scan_shard(source: Path) -> np.ndarray:
    """The rows of one shard, numbered 0. Raises DataError: it cannot be read."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for member in tar_members(source):
        path = PurePosixPath(member.name)
        kind = "photo" if path.suffix.lower() in PHOTO_SUFFIXES else path.suffix[1:]
        if kind in MEMBERS:
            samples.setdefault(photo_key(path), {}).setdefault(kind, (member.offset_data, member.size))
    photos = {key.encode(): files for key, files in samples.items() if "photo" in files}
    rows = [(key, key_hash(key.decode()), 0, *(value for name in MEMBERS for value in files.get(name, (0, 0))))
            for key, files in photos.items()]
    return np.array(rows, _row_type(max(map(len, photos), default=1)))


def _row_type(longest: int) -> np.dtype:
    places = [(f"{name}_{what}", np.int64) for name in MEMBERS for what in ("offset", "size")]
    return np.dtype([("key", f"S{longest}"), ("hash", np.uint64), ("shard", np.int32), *places])


def save_rows(file: Path, rows: np.ndarray) -> None:
    """Completely or not at all."""
    with whole_file(file) as opened:
        np.save(opened, rows)


def join_parts(parts: Iterable[Path], file: Path) -> None:
    """Each shard's rows, numbered by their place in `parts` -> the index of all.

    Raises:
        DataError: there are no photos in any of them.
    """
    found = [np.load(part, mmap_mode="r") for part in parts]
    joined = np.empty(sum(map(len, found)), _row_type(max(rows.dtype["key"].itemsize for rows in found)))
    if not len(joined):
        raise DataError(f"{file.parent}: no photos in the shards")
    start = 0
    for number, rows in enumerate(found):
        place = joined[start : start + len(rows)]
        place[:] = rows
        place["shard"] = number
        start += len(rows)
    save_rows(file, joined)
