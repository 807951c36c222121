"""Names of results: each source has one of its own, the same in every run, decided from the sources alone."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence, Set
from pathlib import Path

from ..files import LONGEST_NAME

_LEVELS = 5
"""The stem; with its suffix; with its folder; with a digest; and once more, if a digest's name is taken."""
_LONGEST_TAIL = len("_instances.json")


def distinct_stems(sources: Sequence[Path], place: Callable[[Path, str], Path], taken: Set[str] = frozenset(),
                   with_folders: bool = True) -> dict[Path, str]:
    """What the results' names begin with: the source's stem, and more of its path where results would collide.

    `a.jpg` and `a.png` become `a_jpg` and `a_png`; two `a.png` of folders x and y become `x_a_png` and `y_a_png`; what
    is still the same gets a digest of its path. All that collide are given longer names, so that the order does not
    matter.

    Args:
        sources: all different.
        place: where a source's result goes that begins with a stem.
        taken: files that no result may be, as `key` gives them.
        with_folders: whether folders' names may be used; without them names may stay the same.
    """
    stems = {source: _stem(source, 0) for source in sources}
    for level in range(1, _LEVELS if with_folders else 2):
        targets = {source: key(place(source, stem)) for source, stem in stems.items()}
        counts = Counter(targets.values())
        collided = [source for source, target in targets.items() if counts[target] > 1 or target in taken]
        if not collided:
            break
        stems |= {source: _stem(source, level) for source in collided}
    return stems


def _stem(source: Path, level: int) -> str:
    stem = source.stem
    if level >= 1:
        stem += source.suffix.lower().replace(".", "_")
    if level >= 2:
        stem = f"{source.absolute().parent.name}_{stem}"
    return fitting(f"{stem}~{_digest(str(source.absolute()))}" if level >= 3 else stem)


def fitting(stem: str) -> str:
    """A stem that leaves room for what results append; a longer one is cut, and told from others by a digest."""
    encoded = os.fsencode(stem)
    room = LONGEST_NAME - _LONGEST_TAIL
    if len(encoded) <= room:
        return stem
    return f"{encoded[: room - 9].decode(errors='ignore')}~{_digest(stem)}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def key(path: Path) -> str:
    """The same for two paths of one file, whether it exists or not."""
    return os.path.normcase(os.path.realpath(path))
