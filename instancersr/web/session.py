"""What a visitor has made: the enlarged photo, its objects and their settings, and the files the browser is shown."""

from __future__ import annotations

import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..edits import Edit
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


@dataclass(frozen=True)
class Changes:
    """What is asked of the objects of a photo; each method gives new changes.

    settings: by id, of the objects that have any. merged: by the id that names it, the ids in the photo's map that an
    object is made of, of the objects that are made of several.
    """

    settings: dict[int, Setting] = field(default_factory=dict)
    merged: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def of(self, number: int | None) -> Setting:
        """The setting of an object."""
        return Setting() if number is None else self.settings.get(number, Setting())

    def set(self, number: int, **values: Any) -> Changes:
        """With other values of an object's setting."""
        return replace(self, settings=self.settings | {number: replace(self.of(number), **values)})

    def reset(self, number: int) -> Changes:
        """Without an object's setting."""
        return replace(self, settings={each: value for each, value in self.settings.items() if each != number})

    def merge(self, numbers: Sequence[int]) -> Changes:
        """With these objects made one, which has the name and the setting of the first."""
        first, *others = numbers
        merged = {each: parts for each, parts in self.merged.items() if each not in numbers}
        merged[first] = tuple(part for each in numbers for part in self.merged.get(each, (each,)))
        return Changes({each: value for each, value in self.settings.items() if each not in others}, merged)

    @property
    def asked(self) -> list[tuple[int, Setting]]:
        """The objects that are not as they were, in the order in which they were changed."""
        return [(number, setting) for number, setting in self.settings.items() if setting != Setting()]

    @property
    def edits(self) -> list[Edit]:
        return [Edit(number, strength=setting.strength if setting.strength != 1 else None, seed=setting.seed)
                for number, setting in self.asked]

    def draws_as(self, other: Changes) -> bool:
        """Whether the picture is the same: merging alone changes nothing in it."""
        return self._drawn == other._drawn

    @property
    def _drawn(self) -> list[tuple[int, Setting, tuple[int, ...]]]:
        return [(number, setting, self.merged.get(number, (number,))) for number, setting in self.asked]


@dataclass(frozen=True)
class Version:
    """How a photo looked once.

    label: what was done to it. changes: of its objects. shown: address of its preview. file: the picture without loss,
    None for the first version, which the result holds.
    """

    label: str
    changes: Changes
    shown: str
    file: Path | None = None


@dataclass
class Enlarged:
    """An enlarged photo.

    name: of the results' files, without suffix. source: the uploaded file. photo: what is in it. original: as the
    upscaler made it.
    versions: all that were made, the original first. at: number of the one that is shown. against: of the one beside
    it; None: the photo before.
    picture: that one's. ids: its objects, (H, W) int32, 0: none; None where they were not asked for.
    saved: by the number of a version and a suffix, the file that was downloaded, and the notes on it.
    view: what the page shows.
    """

    name: str
    source: Path
    photo: Photo
    original: Upscaled
    picture: Image.Image
    ids: np.ndarray | None
    versions: list[Version] = field(default_factory=list)
    at: int = 0
    against: int | None = None
    saved: dict[tuple[int, str], tuple[Path, list[str]]] = field(default_factory=dict)
    view: dict[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> Changes:
        """Of the version that is shown."""
        return self.versions[self.at].changes


class Session:
    """A visitor's result, and a folder for files with a name that nobody can guess.

    Args:
        root: folder in which to make it.
    """

    def __init__(self, root: Path):
        self.folder = root / secrets.token_urlsafe(24)
        self.folder.mkdir(parents=True)
        self.result: Enlarged | None = None
        self.pixels = 0
        """How much is kept here: pixels of the results."""
        self.tasks = 0
        """How many of its tasks wait or run."""

    def new_file(self, name: str) -> Path:
        """A path for a file; the URL differs from all before, so that no browser shows an old picture."""
        folder = self.folder / secrets.token_urlsafe(6)
        folder.mkdir()
        return folder / name


class Sessions:
    """The visitors' sessions by the key that their browsers send; of results only so many are kept.

    Args:
        root: folder for their files.
        kept_pixels: results of more pixels than this, together, make those go that were longest unused; never one
            whose task waits or runs, nor the one that was used last.
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

    def keep(self, session: Session, pixels: int, result: Enlarged | None = None) -> None:
        """Notes what a session holds; the sessions that were longest unused go where it is too much for all."""
        session.pixels, session.result = pixels, result
        self._renew(session)
        self._let_go()

    @contextmanager
    def working(self, session: Session) -> Iterator[None]:
        """While one of its tasks waits or runs: the session does not go."""
        session.tasks += 1
        try:
            yield
        finally:
            session.tasks -= 1
            self._renew(session)
            self._let_go()

    def find(self, key: str) -> tuple[Session, Enlarged]:
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

    def _renew(self, session: Session) -> None:
        """Makes it the one that was used last, unless it has gone."""
        for key in [key for key, each in self._sessions.items() if each is session]:
            self._sessions.move_to_end(key)

    def _let_go(self) -> None:
        for key in list(self._sessions)[:-1]:
            if len(self._sessions) <= KEPT_SESSIONS and self._pixels() <= self._kept_pixels:
                return
            if not self._sessions[key].tasks:
                self.drop(key)

    def _pixels(self) -> int:
        return sum(session.pixels for session in self._sessions.values())
