"""Makes the picture at the top of the README with the shipped weights.

    python benchmarks/before_after.py docs/images/before_after.jpg --rival x4plus.onnx

Rows: `examples/cat.jpg`, a JPEG; scikit-image's coffee photo (CC0) with the noise of a phone at night; its astronaut
(public domain) as an old scan. Columns: bicubic interpolation, Real-ESRGAN, ours. The damage is that of the training
presets `web_night` and `web_old`, with a seed that was chosen before anyone looked. The rival is an ONNX file as for
`web_photos.py`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from contact_sheet import sheet
from PIL import Image
from skimage import data

from instancersr.lab.method.degradation import degrade

CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"
CELL = (600, 400)
"""Width and height of a photo in the picture."""
SEED = 1


def damaged(picture: np.ndarray, preset: str) -> Image.Image:
    """A fourth of the side of a (H, W, 3) uint8 photo, as `degrade` makes it."""
    hr = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    return Image.fromarray((degrade(hr, preset, [SEED])[0] * 255).round().byte().permute(1, 2, 0).numpy())


def write_photos(folder: Path) -> list[Path]:
    """The small photos, in the order of the rows."""
    night, scan = folder / "night.png", folder / "scan.png"
    damaged(data.coffee()[:400, :600], "web_night").save(night)
    damaged(data.astronaut()[:320, 16:496], "web_old").save(scan)
    return [CAT, night, scan]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rival", type=Path, required=True, help="Real-ESRGAN x4plus as an ONNX file")
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder))
        sheet(photos, arguments.rival, arguments.model, [[]], CELL).save(arguments.output, quality=88)


if __name__ == "__main__":
    main()
