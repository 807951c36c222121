"""Makes the picture at the top of the README with the shipped weights.

    python benchmarks/before_after.py docs/images/before_after.jpg

Rows: `examples/cat.jpg`, and scikit-image's coffee photo (CC0) and astronaut (public domain), degraded with the `seesr`
preset. Columns: bicubic, ours.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

import instancersr
from instancersr.lab.method.degradation import degrade

SIZE = (600, 400)
"""Width and height of a cell."""


def degraded(picture: np.ndarray) -> Image.Image:
    hr = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    return Image.fromarray((degrade(hr, "seesr", [1])[0] * 255).byte().permute(1, 2, 0).numpy())


def row(pipe, lr: Image.Image) -> np.ndarray:
    cells = [lr.resize(SIZE, Image.Resampling.BICUBIC), pipe(lr).images[0].resize(SIZE, Image.Resampling.LANCZOS)]
    return np.concatenate([np.asarray(cell) for cell in cells], 1)


def main() -> None:
    pipe = instancersr.InstanceRSRPipeline.from_pretrained("builtin")
    cat = Image.open(Path(__file__).parent.parent / "examples" / "cat.jpg").convert("RGB")
    coffee, astronaut = degraded(data.coffee()[:400, :600]), degraded(data.astronaut()[:320, 16:496])
    picture = np.concatenate([row(pipe, lr) for lr in (cat, coffee, astronaut)])
    Image.fromarray(picture).save(sys.argv[1])


if __name__ == "__main__":
    main()
