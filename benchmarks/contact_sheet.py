"""A sheet to look at: small photos by bicubic interpolation, by Real-ESRGAN, by v7 and by us.

    python benchmarks/contact_sheet.py docs/images/cases.jpg PHOTO... --rival x4plus.onnx

A row a photo. v7's networks are those of `--denoise 0` in a model that has grain parts. The rival is an ONNX file as
for `web_photos.py`. Photos that are much taller than wide, or the contrary, are cut to their middle.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from web_photos import run_ours, run_rival

CELL = (400, 300)
"""Width and height of a photo on the sheet."""


def cell(picture: Image.Image, method: Image.Resampling) -> np.ndarray:
    return np.asarray(ImageOps.fit(picture.convert("RGB"), CELL, method))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--rival", type=Path, required=True, help="Real-ESRGAN x4plus as an ONNX file")
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        small, grain, rival, ours = (Path(work, name) for name in ("small", "grain", "rival", "ours"))
        small.mkdir()
        for photo in arguments.photos:
            Image.open(photo).convert("RGB").save(small / f"{photo.stem}.png")
        run_rival(small, rival, arguments.rival)
        run_ours(small, grain, arguments.model, ["--denoise", "0"])
        for photo in arguments.photos:  # the files themselves: a JPEG's table counts
            run_ours(photo, ours / f"{photo.stem}_x4.png", arguments.model, [])
        rows = [np.concatenate([cell(Image.open(photo), Image.Resampling.BICUBIC),
                                *(cell(Image.open(folder / f"{photo.stem}_x4.png"), Image.Resampling.LANCZOS)
                                  for folder in (rival, grain, ours))], 1) for photo in arguments.photos]
    Image.fromarray(np.concatenate(rows)).save(arguments.output, quality=85)


if __name__ == "__main__":
    main()
