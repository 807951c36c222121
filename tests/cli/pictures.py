"""Pictures for the command to read, and what it wrote."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 20, height: int = 16, channels: int = 3, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), np.uint8))


def save(path: str, **options) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture(seed=len(path)).save(path, **options)
    return Path(path)


def written(folder=".") -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def animation(path: str, **options) -> bytes:
    frames = [picture(seed=seed) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return Path(path).read_bytes()
