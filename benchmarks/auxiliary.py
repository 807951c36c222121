"""Crops with an auxiliary target for training: what another super-resolver makes of degraded photos.

    python benchmarks/auxiliary.py CONFIG OUT --network FILE.onnx --count 4430 [--side 64] [key=value ...]

CONFIG is a training configuration, whose photos and degradation are used; `key=value` changes it, as for `instancersr
train`. The network takes `x` (1, 3, h, w) in [0, 1] and gives `y` (1, 3, 4h, 4w). OUT is what `data.auxiliary` names.
Crops that OUT has are not made again, so several processes can share the work: give each its own `--from`.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from instancersr.files import whole_file
from instancersr.lab.data.auxiliary import SCALE
from instancersr.lab.training.config import load_config
from instancersr.lab.training.data import crops, open_photos


def save(picture: np.ndarray, path: Path) -> None:
    """(3, H, W) in [0, 1] -> a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    with whole_file(path) as file:
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first crop")
    parser.add_argument("--side", type=int, default=64, help="of the LR photo, in pixels")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()  # overrides come last, after the options
    config = load_config(options.config, [*options.overrides, f"data.crop={SCALE * options.side}",
                                          "data.auxiliary=null", "data.auxiliary_share=0"])
    dataset = crops(config, open_photos(config.data), held_out=False, masks=False)
    network = onnxruntime.InferenceSession(options.network, providers=["CPUExecutionProvider"])
    for number in range(options.first, options.first + options.count):
        name = f"{number:06d}.png"
        if (options.out / "lr" / name).exists():
            continue
        sample = dataset[number]
        save(sample["hr"].numpy(), options.out / "hr" / name)
        save(network.run(["y"], {"x": sample["lr"][None].numpy()})[0][0], options.out / "target" / name)
        save(sample["lr"].numpy(), options.out / "lr" / name)  # last: its name says that all three are there
        if (number + 1) % 100 == 0:
            print(f"{number + 1 - options.first} of {options.count}", flush=True)


if __name__ == "__main__":
    main()
