"""Makes the picture at the top of the README with the shipped weights.

    python benchmarks/before_after.py docs/images/before_after.jpg --rival x4plus.onnx

Rows: `examples/cat.jpg`, a JPEG; scikit-image's coffee photo (CC0) with the noise of a phone at night; its astronaut
(public domain) as an old scan. Columns: bicubic interpolation, Real-ESRGAN, ours. The damage is that of the training
presets `web_night` and `web_old`, with a seed that was chosen before anyone looked. The rival is an ONNX file as for
`web_photos.py`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from web_photos import run_ours, run_rival

from instancersr.lab.method.degradation import degrade

CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"
CELL = (600, 400)
"""Width and height of a photo in the picture."""
SEED = 1


def damaged(picture: np.ndarray, preset: str) -> Image.Image:
    """A fourth of the side of a (H, W, 3) uint8 photo, as `degrade` makes it."""
    hr = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    return Image.fromarray((degrade(hr, preset, [SEED])[0] * 255).round().byte().permute(1, 2, 0).numpy())


def photos() -> dict[str, Image.Image]:
    """The small photos by name, in the order of the rows."""
    return {"jpeg": Image.open(CAT).convert("RGB"),
            "night": damaged(data.coffee()[:400, :600], "web_night"),
            "scan": damaged(data.astronaut()[:320, 16:496], "web_old")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rival", type=Path, required=True, help="Real-ESRGAN x4plus as an ONNX file")
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        lr, ours, rival = (Path(work, name) for name in ("lr", "ours", "rival"))
        lr.mkdir()
        small = photos()
        for name, photo in small.items():
            photo.save(lr / f"{name}.png")
        run_rival(lr, rival, arguments.rival)
        (lr / "jpeg.png").unlink()  # ours reads the file itself, whose table counts
        shutil.copy(CAT, lr / "jpeg.jpg")
        run_ours(lr, ours, arguments.model, [])
        rows = []
        for name, photo in small.items():
            large = [Image.open(folder / f"{name}_x4.png").convert("RGB") for folder in (rival, ours)]
            cells = [photo.resize(CELL, Image.Resampling.BICUBIC),
                     *(picture.resize(CELL, Image.Resampling.LANCZOS) for picture in large)]
            rows.append(np.concatenate([np.asarray(cell) for cell in cells], 1))
    Image.fromarray(np.concatenate(rows)).save(arguments.output, quality=88)


if __name__ == "__main__":
    main()
