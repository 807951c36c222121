"""What `--fidelity` and `--quality` change: scores against the truth, and time.

    python benchmarks/presets.py fidelity --lr ../shared/realsr/LR --hr ../shared/realsr/HR
    python benchmarks/presets.py quality --photos ../shared/photos

Fidelity: every photo at five values. Quality says how tiles overlap, so it needs photos of several tiles: held-out
ones of the training data whose shorter side has 700 pixels or more, degraded four times (preset `camera`, one seed a
photo). The order of the three is turned from photo to photo, and their times are sums over all. Metrics whose packages
or weights (TORCH_HOME) are missing are left out, saying so.
"""

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from perception import METRICS, as_tensor, judged, judges
from PIL import Image

from instancersr import InstanceRSRPipeline
from instancersr.lab.data.sources import find_sources, is_held_out, read_source
from instancersr.lab.evaluation.metrics import Metric
from instancersr.lab.method.degradation import degrade
from instancersr.presets import QUALITY

FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
SHORTEST = 700
"""Pixels of the shorter side of photos for `quality`."""
MULTIPLE = 64
"""Sides are cropped to it: whole tokens of the LR photo."""


def large_photos(photos: str) -> Iterator[tuple[Image.Image, Image.Image]]:
    """(LR photo, truth) of every held-out photo that is large enough."""
    for source in find_sources(photos):
        for number, (key, encoded, _) in enumerate(read_source(source)):
            if not is_held_out(key):
                continue
            picture = Image.open(io.BytesIO(encoded)).convert("RGB")
            if min(picture.size) < SHORTEST:
                continue
            width, height = (side // MULTIPLE * MULTIPLE for side in picture.size)
            truth = picture.crop((0, 0, width, height))
            lr = degrade(as_tensor(truth), "camera", [number])[0].permute(1, 2, 0).numpy()
            yield Image.fromarray((lr * 255).round().astype(np.uint8)), truth


def report(scores: dict[str, list[dict[str, float]]]) -> None:
    """A line a setting: means over the photos."""
    for name, rows in scores.items():
        print(f"{name:9}", *(f"{key} {np.mean([row[key] for row in rows]):.4f}" for key in rows[0]))


def measure_fidelity(pipeline: InstanceRSRPipeline, lr: Path, hr: Path, every: int,
                     metrics: dict[str, Metric]) -> None:
    scores: dict[str, list] = {f"{value:g}": [] for value in FIDELITIES}
    for path in sorted(lr.iterdir())[::every]:
        truth = Image.open(hr / path.name).convert("RGB")
        for value in FIDELITIES:
            output = pipeline(path, fidelity=value).images[0]
            scores[f"{value:g}"].append(judged(metrics, output, truth))
    report(scores)


def measure_quality(pipeline: InstanceRSRPipeline, photos: str, metrics: dict[str, Metric]) -> None:
    scores: dict[str, list] = {name: [] for name in QUALITY}
    seconds = dict.fromkeys(QUALITY, 0.0)
    for number, (lr, truth) in enumerate(large_photos(photos)):
        names = list(QUALITY)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            output = pipeline(lr, **QUALITY[name]).images[0]
            seconds[name] += time.perf_counter() - start
            scores[name].append(judged(metrics, output, truth))
    if not scores["balanced"]:
        raise SystemExit(f"{photos}: no held-out photo has a shorter side of {SHORTEST} pixels or more")
    print(f"{len(scores['balanced'])} photos")
    report(scores)
    print(*(f"{name}: {value / seconds['balanced']:.2f} of the time" for name, value in seconds.items()), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fidelity", "quality"))
    parser.add_argument("--lr", type=Path)
    parser.add_argument("--hr", type=Path)
    parser.add_argument("--photos", help="shards or folder of training photos")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--every", type=int, default=1, help="of --lr, use every so many photos")
    arguments = parser.parse_args()
    if arguments.what == "quality" and arguments.photos is None:
        parser.error("quality needs --photos")
    if arguments.what == "fidelity" and None in (arguments.lr, arguments.hr):
        parser.error("fidelity needs --lr and --hr")
    pipeline, metrics = InstanceRSRPipeline.from_pretrained(arguments.model), judges(("psnr", *METRICS))
    if arguments.what == "quality":
        measure_quality(pipeline, arguments.photos, metrics)
    else:
        measure_fidelity(pipeline, arguments.lr, arguments.hr, arguments.every, metrics)


if __name__ == "__main__":
    main()
