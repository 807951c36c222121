"""The picture of what `--quality` and `--seed` change: two details at fast, balanced, best, and best with another seed.

    python benchmarks/qualities.py docs/images/qualities.jpg [--model builtin]

The photos are examples/cat.jpg and scikit-image's `gravel`, shrunk to a fourth as a camera's JPEG would be. The details
are as large as the pictures are, without any more enlargement.
"""

import argparse
from pathlib import Path

import numpy as np
from before_after import CAT, damaged
from PIL import Image
from skimage import data

from instancersr.loading import load_upscaler

WAYS = ({"quality": "fast"}, {"quality": "balanced"}, {"quality": "best"}, {"quality": "best", "seed": 1})
CELL = (300, 225)
"""Width and height of a detail."""


def detail(picture: Image.Image) -> np.ndarray:
    """The middle of a picture, a little to the right."""
    left, top = (picture.width - CELL[0]) * 2 // 3, (picture.height - CELL[1]) // 2
    return np.asarray(picture.convert("RGB").crop((left, top, left + CELL[0], top + CELL[1])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    upscaler = load_upscaler(arguments.model)
    gravel = np.repeat(data.gravel()[:400, :480, None], 3, 2)
    rows = [np.concatenate([detail(upscaler(photo, instances=False, **way).images[0]) for way in WAYS], 1)
            for photo in (CAT, damaged(gravel, "camera"))]
    Image.fromarray(np.concatenate(rows)).save(arguments.output, quality=90)


if __name__ == "__main__":
    main()
