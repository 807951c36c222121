"""Instance maps as they are used: another size, and several objects made one.

Id maps are (H, W) int32, 0 where no instance is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def resize_ids(ids: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A map (H, W) at another (height, width): of each pixel's centre the nearest id."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, ids.shape, strict=True))
    return ids[np.ix_(rows, columns)]


def merge_objects(ids: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """A map in which the objects of each group are one, under the id that the group names first.

    Args:
        ids: (H, W); it stays as it is.
        groups: ids of objects; 0 is what belongs to none.

    Raises:
        ValueError: an id is not in the map, where an earlier group may have taken it.
    """
    for first, *others in groups:
        check_present([first, *others], ids)
        ids = np.where(np.isin(ids, others), ids.dtype.type(first), ids)
    return ids


def check_present(numbers: Sequence[int], ids: np.ndarray) -> None:
    """Raises a ValueError that names the first of the numbers that is no id of the map."""
    present = np.unique(ids)
    for number in numbers:
        if number not in present:
            raise ValueError(f"object {number}: not in the instance map, which has {_as_ranges(present)}")


def _as_ranges(present: np.ndarray) -> str:
    if len(present) == present[-1] - present[0] + 1:
        return f"{present[0]} to {present[-1]}"
    return f"{len(present)} ids up to {present[-1]}"
