"""What a visitor has made: the enlarged photo, its objects and their settings, and the files the browser is shown."""

from __future__ import annotations

import secrets
import shutil
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..images.pixels import Photo
from ..upscaler import Upscaled

KEPT_PIXELS = 200_000_000
"""Pixels of results that are kept, of all visitors together; each takes some twenty-five bytes of memory."""

KEPT_SESSIONS = 100
"""Visitors whose results are kept, at most."""


@dataclass(frozen=True)
class Setting:
    """What is asked of an object: strength 0 (closest to the input) to 1, and the seed of another version or None."""

    strength: float = 1.0
    seed: int | None = None


@dataclass
class Result:
    """An enlarged photo.

    name: of the results' files, without suffix. source: the uploaded file. photo: what is in it. original: as the
    upscaler made it.
    current: with the objects' settings. settings: by instance id, of the objects that have any.
    view: what the page shows.
    """

    name: str
    source: Path
    photo: Photo
    original: Upscaled
    current: Upscaled
    settings: dict[int, Setting] = field(default_factory=dict)
    view: dict[str, Any] = field(default_factory=dict)

    @property
    def picture(self) -> Image.Image:
        return self.current.images[0]

    @property
    def ids(self) -> np.ndarray | None:
        """(H, W) int32 instance ids, 0: none; None where they were not asked for."""
        return self.original.instances[0] if self.original.instances else None


class Session:
    """A visitor's result, and a folder for files with a name that nobody can guess.

    Args:
        root: folder in which to make it.
    """

    def __init__(self, root: Path):
        self.folder = root / secrets.token_urlsafe(24)
        self.folder.mkdir(parents=True)
        self.result: Result | None = None
        self.pixels = 0
        """How much is kept here: pixels of the results."""

    def new_file(self, name: str) -> Path:
        """A path for a file; the URL differs from all before, so that no browser shows an old picture."""
        folder = self.folder / secrets.token_urlsafe(6)
        folder.mkdir()
        return folder / name


class Sessions:
    """The visitors' sessions by the key that their browsers send; of results only so many are kept.

    Args:
        root: folder for their files.
        kept_pixels: results of more pixels than this, together, make the oldest ones go.
    """

    def __init__(self, root: Path, kept_pixels: int = KEPT_PIXELS):
        self._root, self._kept_pixels = root, kept_pixels
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, key: str) -> Session:
        """The visitor's session, with nothing in it."""
        self.drop(key)
        session = self._sessions[key] = Session(self._root)
        self._let_go()
        return session

    def keep(self, session: Session, pixels: int, result: Result | None = None) -> None:
        """Notes what a session holds; the sessions that were longest unused go where it is too much for all."""
        session.pixels, session.result = pixels, result
        self._let_go()

    def find(self, key: str) -> tuple[Session, Result]:
        """The visitor's session and result.

        Raises:
            UserError: there is none, or none any more.
        """
        session = self._sessions.get(key)
        if session is None or session.result is None:
            raise UserError("This result is no longer kept; enlarge the photo again.")
        self._sessions.move_to_end(key)
        return session, session.result

    def drop(self, key: str) -> None:
        """Forgets a visitor and deletes the files."""
        session = self._sessions.pop(key, None)
        if session is not None:
            shutil.rmtree(session.folder, ignore_errors=True)

    def _let_go(self) -> None:
        while len(self._sessions) > 1 and (len(self._sessions) > KEPT_SESSIONS or self._pixels() > self._kept_pixels):
            self.drop(next(iter(self._sessions)))

    def _pixels(self) -> int:
        return sum(session.pixels for session in self._sessions.values())
