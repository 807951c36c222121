"""The photos that a run could not use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..data.sources import Skipped


class SkippedPhotos:
    """A run's list of photos that it could not use, each once, to which all its processes append.

    Args:
        path: of the list, a JSON object a line. A line that was cut off, as a full disk does, counts for nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.names: set[str] = set()
        self._read = 0
        self._cut_off = False
        self._catch_up()

    def note(self, photos: Iterable[Skipped]) -> Skipped | None:
        """Lists what is new among these photos, and returns the first that this process had not heard of."""
        new = {photo.photo: photo for photo in photos if photo.photo not in self.names}
        if not new:
            return None
        self._catch_up()  # another process may have met the same photo in another epoch
        lines = "".join(json.dumps(asdict(photo)) + "\n" for name, photo in new.items() if name not in self.names)
        with open(self.path, "a") as file:
            file.write("\n" + lines if self._cut_off and lines else lines)
        self.names |= new.keys()
        return next(iter(new.values()))

    def _catch_up(self) -> None:
        """Reads what was appended since the last time."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._read)
            appended = file.read()
        whole, _, rest = appended.rpartition(b"\n")
        self._read += len(appended) - len(rest)
        self._cut_off = bool(rest)
        for line in whole.splitlines():
            try:
                self.names.add(json.loads(line)["photo"])
            except (ValueError, KeyError, TypeError):
                continue
