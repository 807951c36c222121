"""Shards that are read as they are: for data that no cache of raw pixels holds, each photo once an epoch.

An index says where in which tar each sample lies, so any of them is one read away, and the order of an epoch is a
pure function of (seed, epoch): however many processes and workers share it, and wherever a run goes on, no photo comes
twice in an epoch. Shards are shuffled, then photos within groups of shards, so that reading stays local.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from .dataset import PHOTO_SUFFIXES, DataError, Picture, compact_ids, decode_photo, find_sources, is_held_out

GROUP_SHARDS = 16
"""Shards whose photos are shuffled among each other."""
MEMBERS = ("photo", "json", "safetensors")
"""Files of a sample, each with its place in the tar."""


class ShardIndex:
    """Where each sample lies.

    Args:
        sources: the tars.
        rows: (n,) with `key`, `held_out`, `shard` and, for each file, its `offset` and `size` in bytes; in the order of
            the shards, and of the photos in them.
    """

    def __init__(self, sources: Sequence[Path], rows: np.ndarray):
        self.sources, self.rows = list(sources), rows

    def read(self, row: np.void, member: str) -> bytes | None:
        """A sample's file, None if it has none."""
        size = int(row[f"{member}_size"])
        if not size:
            return None
        source = self.sources[row["shard"]]
        try:
            with open(source, "rb") as file:
                file.seek(int(row[f"{member}_offset"]))
                return file.read(size)
        except OSError as error:
            raise DataError(f"{source}: cannot be read ({error.strerror})") from error


def shard_sources(photos: str | Path) -> list[Path]:
    """The tars of a folder or pattern.

    Raises:
        DataError: there are none, or one that the folder's `manifest.json` lists is missing.
    """
    sources = find_sources(photos)
    if any(source.is_dir() for source in sources):
        raise DataError(f"{photos}: no shards; make them with `instancersr prepare`, or set data.stream=false")
    for folder in sorted({source.parent for source in sources}):
        manifest = folder / "manifest.json"
        listed = json.loads(manifest.read_text())["shards"] if manifest.exists() else []
        for shard in listed:
            if not (folder / shard["name"]).exists():
                raise DataError(f"{folder / shard['name']}: this shard is missing; run `instancersr prepare` again")
    return sources


def build_index(sources: Sequence[Path], cache: Path) -> ShardIndex:
    """Reads the headers of all tars, once: the index is kept in `cache`.

    Raises:
        DataError: a tar cannot be read, or there are no photos.
    """
    state = [[str(s.resolve()), s.stat().st_size, s.stat().st_mtime_ns] for s in sources]
    path = cache / f"index-{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]}.npy"
    if not path.exists():
        with ThreadPoolExecutor(32) as pool:  # waiting for a file system, mostly
            found = [sample for samples in pool.map(_scan, sources, range(len(sources))) for sample in samples]
        if not found:
            raise DataError(f"{sources[0]}: no photos in it")
        places = [(f"{name}_{what}", np.int64) for name in MEMBERS for what in ("offset", "size")]
        longest = max(len(sample[0]) for sample in found)
        rows = np.array(found, [("key", f"S{longest}"), ("held_out", bool), ("shard", np.int32), *places])
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with open(partial, "wb") as file:
            np.save(file, rows)
        os.replace(partial, path)
    return ShardIndex(sources, np.load(path, mmap_mode="r"))


def _scan(source: Path, number: int) -> list[tuple]:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                kind = "photo" if name.suffix.lower() in PHOTO_SUFFIXES else name.suffix[1:]
                if member.isreg() and kind in MEMBERS:
                    samples.setdefault(name.stem, {})[kind] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{source}: not a readable, uncompressed tar ({error}); get a fresh copy of it") from error
    return [(key.encode(), is_held_out(key), number, *(value for name in MEMBERS for value in files.get(name, (0, 0))))
            for key, files in samples.items() if "photo" in files]


class ShardPhotos:
    """Photos of the shards in the order of their epochs: sample n is photo n mod N of epoch n div N.

    Args:
        held_out: the validation photos instead of the training ones.
        min_side: smaller photos are enlarged errors: they stop the run by name. In pixels.
        seed: of the order.
        stored: take along what `instancersr prepare --latents --features` stored.
    """

    def __init__(self, index: ShardIndex, held_out: bool, min_side: int, seed: int = 0, stored: bool = False):
        self.index, self.min_side, self.seed, self.stored = index, min_side, seed, stored
        self._numbers = np.flatnonzero(index.rows["held_out"] == held_out)
        if not len(self._numbers):
            raise DataError(f"{index.sources[0]}: no {'validation' if held_out else 'training'} photos in the shards")
        shards = index.rows["shard"][self._numbers]
        self._starts = np.searchsorted(shards, np.arange(len(index.sources) + 1))  # of each shard among the numbers
        self._kept: dict[tuple[int, ...], Any] = {}  # of the epoch and of the group at hand

    def __len__(self) -> int:
        return len(self._numbers)

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        """Of photos without stored tensors, the caller cuts a crop with `rng`."""
        row = self.index.rows[self.row_of(number)]
        key, source = row["key"].decode(), self.index.sources[row["shard"]]
        encoded = self.index.read(row, "photo")
        assert encoded is not None  # the index has photos only
        rgb = decode_photo(key, encoded, source)
        if min(rgb.shape[:2]) < self.min_side:
            raise DataError(f"{source}: photo {key} has {rgb.shape[1]}x{rgb.shape[0]} pixels, data.crop is "
                            f"{self.min_side}; leave it out with `instancersr prepare --size {self.min_side}`")
        masks = self.index.read(row, "json")
        ids = compact_ids(None if masks is None else json.loads(masks), rgb.shape[:2], key)
        stored = self._tensors(row, source) if self.stored else {}
        return Picture(key, rgb, ids, stored, whole=self.stored)

    def row_of(self, number: int) -> int:
        """The row of the index that sample `number` is."""
        epoch, place = divmod(number, len(self))
        ends = self._groups(epoch)[1]
        group = int(np.searchsorted(ends, place, side="right"))
        begin = int(ends[group - 1]) if group else 0
        return int(self._numbers[self._order(epoch, group)[place - begin]])

    def _groups(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The shards of each group, and the places at which the groups end."""
        if (epoch,) not in self._kept:
            shards = np.random.default_rng((self.seed, epoch)).permutation(len(self._starts) - 1)
            groups = [shards[i : i + GROUP_SHARDS] for i in range(0, len(shards), GROUP_SHARDS)]
            counts = np.diff(self._starts)
            self._kept = {(epoch,): (groups, np.cumsum([counts[group].sum() for group in groups]))}
        return self._kept[(epoch,)]

    def _order(self, epoch: int, group: int) -> np.ndarray:
        """The photos of a group, shuffled: places in `_numbers`."""
        if (epoch, group) not in self._kept:
            shards = self._groups(epoch)[0][group]
            members = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in shards])
            order = np.random.default_rng((self.seed, epoch, group)).permutation(members)
            self._kept = {(epoch,): self._kept[(epoch,)], (epoch, group): order}
        return self._kept[(epoch, group)]

    def _tensors(self, row: np.void, source: Path) -> dict[str, torch.Tensor]:
        encoded = self.index.read(row, "safetensors")
        if encoded is None:
            raise DataError(f"{source}: photo {row['key'].decode()} has no stored tensors; set data.stored=false, or "
                            "prepare with --latents and --features")
        return load(encoded)


def stored_shapes(photos: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that the first photo of the shards has.

    Raises:
        DataError: it has none.
    """
    source = shard_sources(photos)[0]
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".safetensors") else None
                if file is not None:
                    return {name: tuple(tensor.shape) for name, tensor in load(file.read()).items()}
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{source}: not a readable, uncompressed tar ({error})") from error
    raise DataError(f"{source}: no stored tensors; set data.stored=false, or prepare with --latents and --features")
