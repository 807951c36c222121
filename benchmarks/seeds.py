"""How far the pictures of two seeds lie apart, on crops of photos: PSNR-Y in dB, of each and on average.

    python benchmarks/seeds.py face.jpg sign.png@0,0,160,40 [--quality best]

A box behind @ is left, top, right, bottom in pixels of the photo, which is upscaled whole. Where the photo leaves no
choice, on faces and text, two seeds should agree better than elsewhere.
"""

import argparse

import numpy as np
from judging import luma, psnr

from instancersr.geometry import SCALE
from instancersr.loading import load_upscaler
from instancersr.recipe import QUALITIES
from instancersr.upscaler import Upscaler

SEEDS = (0, 1)


def distance(upscaler: Upscaler, photo: str, quality: str) -> float:
    """Of a PATH or PATH@BOX."""
    path, _, box = photo.partition("@")
    pictures = [upscaler(path, seed=seed, quality=quality, instances=False).images[0] for seed in SEEDS]
    if box:
        pictures = [picture.crop([SCALE * int(side) for side in box.split(",")]) for picture in pictures]
    return psnr(*map(luma, pictures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", metavar="PHOTO[@BOX]")
    parser.add_argument("--quality", choices=QUALITIES, default="best")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    upscaler = load_upscaler(options.model, "cpu", options.threads, "onnx")
    found = []
    for photo in options.photos:
        found.append(distance(upscaler, photo, options.quality))
        print(f"{found[-1]:5.1f} dB  {photo}")
    print(f"{np.mean(found):5.1f} dB  on average, {min(found):.1f} at least, of {len(found)}")


if __name__ == "__main__":
    main()
