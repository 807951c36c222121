"""A sheet to look at: small photos by bicubic interpolation, by Real-ESRGAN, by v7 and by us.

    python benchmarks/contact_sheet.py docs/images/cases.jpg PHOTO... --rival x4plus.onnx

A row a photo. v7's networks are those of `--denoise 0` in a model that has grain parts. The rival is an ONNX file as
for `web_photos.py`. Photos of another shape than a cell are cut to their middle.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from web_photos import run_ours, run_rival

CELL = (400, 300)
"""Width and height of a photo on the sheet."""


def sheet(photos: Sequence[Path], rival: Path, model: str, options: Sequence[Sequence[str]],
          size: tuple[int, int]) -> Image.Image:
    """A row a photo, a column a way: bicubic, the rival, and the model with each of these options.

    The model reads the files themselves, as a JPEG's table counts.
    """
    with tempfile.TemporaryDirectory() as work:
        small = Path(work, "small")
        small.mkdir()
        for photo in photos:
            Image.open(photo).convert("RGB").save(small / f"{photo.stem}.png")
        run_rival(small, Path(work, "rival"), rival)
        for number, each in enumerate(options):
            for photo in photos:
                run_ours(photo, Path(work, str(number), f"{photo.stem}_x4.png"), model, [*each])
        made = ["rival", *map(str, range(len(options)))]
        return Image.fromarray(np.concatenate([np.concatenate(
            [cell(photo, size, Image.Resampling.BICUBIC),
             *(cell(Path(work, way, f"{photo.stem}_x4.png"), size, Image.Resampling.LANCZOS) for way in made)], 1)
            for photo in photos]))


def cell(picture: Path, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    return np.asarray(ImageOps.fit(Image.open(picture).convert("RGB"), size, method))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--rival", type=Path, required=True, help="Real-ESRGAN x4plus as an ONNX file")
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    ways = (["--denoise", "0"], [])
    sheet(arguments.photos, arguments.rival, arguments.model, ways, CELL).save(arguments.output, quality=75)


if __name__ == "__main__":
    main()
