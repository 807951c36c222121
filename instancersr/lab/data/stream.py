"""Shards that are read as they are: for data that no cache of raw pixels holds, each photo once an epoch.

The order of an epoch is a pure function of (seed, epoch): however many processes and workers share it, and wherever a
run goes on, no photo comes twice in an epoch. Shards are shuffled, then photos within groups of shards, so that reading
stays local.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from .dataset import Picture
from .index import ShardIndex, read_manifest, shard_sources
from .pictures import decode_ids, decode_photo, ids_of_annotations
from .sources import DataError, Skipped, held_out_photos, tar_members

GROUP_SHARDS = 16
"""Shards whose photos are shuffled among each other."""
MOST_SKIPPED = 100
"""Photos in a row that cannot be used: then it is not they that are wrong."""


class ShardPhotos:
    """Photos of the shards in the order of their epochs: sample n is photo n mod N of epoch n div N.

    A photo that cannot be used is skipped: another one, which is the same in every run, takes its place.

    Args:
        held_out: the validation photos instead of the training ones.
        min_side: smaller photos are skipped. In pixels.
        seed: of the order.
        stored: take along what `instancersr prepare --latents --features` stored.
    """

    def __init__(self, index: ShardIndex, held_out: bool, min_side: int, seed: int = 0, stored: bool = False):
        self.index, self.min_side, self.seed, self.stored = index, min_side, seed, stored
        self._numbers = np.flatnonzero(held_out_photos(index.rows["hash"]) == held_out)
        if not len(self._numbers):
            raise DataError(f"{index.sources[0]}: no {'validation' if held_out else 'training'} photos in the shards")
        shards = index.rows["shard"][self._numbers]
        self._starts = np.searchsorted(shards, np.arange(len(index.sources) + 1))  # of each shard among the numbers
        self._kept: dict[tuple[int, ...], Any] = {}  # of the epoch and of the group at hand

    def __len__(self) -> int:
        return len(self._numbers)

    def choose(self, number: int, rng: np.random.Generator) -> Picture:
        """Of photos without stored tensors, the caller cuts a crop with `rng`.

        Raises:
            DataError: many photos in a row cannot be used.
        """
        skipped: list[Skipped] = []
        row = self.row_of(number)
        others = np.random.default_rng((self.seed, number, 1))
        while len(skipped) < MOST_SKIPPED:
            try:
                return self._picture(self.index.rows[row], tuple(skipped))
            except DataError as error:
                skipped.append(Skipped(self.index.rows[row]["key"].decode(), str(error)))
                row = int(self._numbers[others.integers(len(self))])
        raise DataError(f"{MOST_SKIPPED} photos in a row cannot be used, the last: {skipped[-1].reason}")

    def _picture(self, row: np.void, skipped: tuple[Skipped, ...]) -> Picture:
        try:
            encoded = self.index.read(row, "photo")
            assert encoded is not None  # the index has photos only
            rgb = decode_photo(encoded)
            if min(rgb.shape[:2]) < self.min_side:
                raise DataError(f"{rgb.shape[1]}x{rgb.shape[0]} pixels; data.crop is {self.min_side}, which "
                                f"`instancersr prepare --size {self.min_side}` makes sure of")
            ids = self._ids(row, rgb.shape[:2])
            stored = self._tensors(row) if self.stored else {}
        except DataError as error:
            raise DataError(f"{self.index.name(row)}: {error}") from error
        return Picture(row["key"].decode(), rgb, ids, stored, self.stored, skipped)

    def _ids(self, row: np.void, size: tuple[int, int]) -> np.ndarray:
        """Of the instance map, or, where the shard has none, of the masks."""
        encoded = self.index.read(row, "ids")
        if encoded is None:
            return ids_of_annotations(self.index.read(row, "json"), size)
        ids = decode_ids(encoded)
        if ids.shape != size:
            raise DataError(f"its instance map is {ids.shape}, the photo {size}")
        return ids

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

    def _tensors(self, row: np.void) -> dict[str, torch.Tensor]:
        encoded = self.index.read(row, "safetensors")
        if encoded is None:
            raise DataError("no stored tensors; set data.stored=false, or prepare with --latents and --features")
        return decode_tensors(encoded)


def decode_tensors(encoded: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DataError: it is damaged.
    """
    try:
        return load(encoded)
    except SafetensorError as error:
        raise DataError(f"its stored tensors cannot be read ({error})") from error


def stored_settings(photos: str | Path) -> dict[str, Any]:
    """With what `instancersr prepare` made the shards; nothing where their folder has no manifest."""
    return read_manifest(shard_sources(photos)[0].parent).get("settings", {})


def stored_shapes(photos: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that the first photo of the shards has, of those whose tensors can be read.

    Raises:
        DataError: it has none.
    """
    source = shard_sources(photos)[0]
    for member in tar_members(source):
        if member.name.endswith(".safetensors"):
            with open(source, "rb") as file:
                file.seek(member.offset_data)
                encoded = file.read(member.size)
            try:
                return {name: tuple(tensor.shape) for name, tensor in decode_tensors(encoded).items()}
            except DataError:  # training leaves it out and says so; the next one has the same shapes
                continue
    raise DataError(f"{source}: no stored tensors; set data.stored=false, or prepare with --latents and --features")
