"""Crops with an auxiliary target: what another network makes of the same LR photo.

A folder holds `hr/`, `lr/` and `target/`, PNGs of the same names; those of `hr` and `target` are four times as wide and
high. `benchmarks/auxiliary.py` writes one. A strong network's picture says which of the many pictures that fit a badly
damaged photo to draw, where the truth alone teaches their blurred mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from instancersr.errors import reason

from .sources import DataError

SCALE = 4


class AuxiliaryCrops:
    """Crops at random places of stored triples, turned and mirrored.

    Args:
        folder: with `hr`, `lr` and `target`.
        size: side of the HR crop, in pixels; a multiple of 4.

    Raises:
        DataError: the folder has no triples, or a picture of one is missing.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        self.names = sorted(path.name for path in (folder / "lr").glob("*.png"))
        if not self.names:
            raise DataError(f"{folder}: no PNG in its folder lr; benchmarks/auxiliary.py writes such a folder")
        for part in ("hr", "target"):
            lacking = sorted(set(self.names) - {path.name for path in (folder / part).glob("*.png")})
            if lacking:
                raise DataError(f"{folder / part}: {lacking[0]} is missing, and {len(lacking) - 1} more")

    def choose(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """`hr` and `target` (3, S, S), `lr` (3, S/4, S/4), float32 in [0, 1].

        Raises:
            DataError: a picture cannot be read, or is too small, or the sizes of the three do not agree.
        """
        name = self.names[int(rng.integers(len(self.names)))]
        pictures = {part: self._read(part, name) for part in ("hr", "lr", "target")}
        height, width = pictures["lr"].shape[:2]
        for part in ("hr", "target"):
            if pictures[part].shape[:2] != (SCALE * height, SCALE * width):
                raise DataError(f"{self.folder / part / name}: not {SCALE} times as wide and high as lr/{name}")
        side = self.size // SCALE
        if min(height, width) < side:
            raise DataError(f"{self.folder / 'lr' / name}: smaller than crops, {side} pixels")
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        crop = {}
        for part, picture in pictures.items():
            scale = 1 if part == "lr" else SCALE
            box = picture[scale * top : scale * (top + side), scale * left : scale * (left + side)]
            box = np.rot90(box, turn)[:, ::-1] if flip else np.rot90(box, turn)
            crop[part] = torch.from_numpy(box.astype(np.float32) / 255).permute(2, 0, 1).contiguous()
        return crop

    def _read(self, part: str, name: str) -> np.ndarray:
        path = self.folder / part / name
        try:
            return np.asarray(Image.open(path).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: {reason(error)}") from error
