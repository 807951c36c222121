"""What `--fidelity`, `--quality`, `--steps` and `--denoise` change: scores against the truth, and time.

    python benchmarks/presets.py fidelity --lr RealSRVal_crop128/test_LR --hr RealSRVal_crop128/test_HR
    python benchmarks/presets.py quality --lr WEB/* --hr TRUTHS --every 4 --seeds
    python benchmarks/presets.py steps --lr WEB/* --hr TRUTHS --every 4
    python benchmarks/presets.py denoise --lr RealSRVal_crop128/test_LR --hr RealSRVal_crop128/test_HR

Every photo at each value. The order is turned from photo to photo, and times are sums over all. Metrics whose packages
or weights (TORCH_HOME) are missing are left out, saying so. `flat` is grain in flat areas over the truth's
(`instancersr.lab.evaluation.artifacts`), and `seeds` the PSNR-Y between the pictures of two seeds.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from judging import METRICS, judged, judges, luma, psnr
from PIL import Image

from instancersr.lab.evaluation.artifacts import flat_ratio
from instancersr.lab.evaluation.metrics import Metric
from instancersr.loading import load_upscaler
from instancersr.recipe import QUALITIES
from instancersr.upscaler import Upscaler

FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
DENOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = (1, 2, 3, 4, 5, 6, 8, 10)
SETTINGS: dict[str, tuple] = {"fidelity": FIDELITIES, "quality": QUALITIES, "steps": STEPS, "denoise": DENOISES}


def measure(upscaler: Upscaler, what: str, paths: list[Path], hr: Path, metrics: dict[str, Metric],
            seeds: bool) -> None:
    """A line a setting: means over the photos, and seconds of all."""
    settings = list(SETTINGS[what])
    argument = {"steps": "num_inference_steps"}.get(what, what)
    scores: dict = {value: [] for value in settings}
    pairs: dict = {value: [] for value in settings}
    seconds = dict.fromkeys(settings, 0.0)
    for number, path in enumerate(paths):
        truth = Image.open(hr / path.name).convert("RGB")
        turn = number % len(settings)
        for value in settings[turn:] + settings[:turn]:
            start = time.perf_counter()
            output = upscaler(path, instances=False, **{argument: value}).images[0]
            seconds[value] += time.perf_counter() - start
            scores[value].append(judged(metrics, output, truth))
            pairs[value].append((np.asarray(output), np.asarray(truth)))
            if seeds:
                other = upscaler(path, instances=False, seed=1, **{argument: value}).images[0]
                scores[value][-1]["seeds"] = psnr(luma(output), luma(other))
    for value, rows in scores.items():
        name = f"{value:.2f}" if isinstance(value, float) else value
        print(f"{name:9}", *(f"{key} {np.mean([row[key] for row in rows]):.4f}" for key in rows[0]),
              f"flat {flat_ratio(pairs[value]):.2f}  {seconds[value]:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("--lr", type=Path, required=True, nargs="+", help="folders")
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--every", type=int, default=1, help="use every so many photos")
    parser.add_argument("--seeds", action="store_true", help="also compare two seeds, at twice the time")
    arguments = parser.parse_args()
    paths = [path for folder in arguments.lr for path in sorted(folder.glob("*.png"))[:: arguments.every]]
    measure(load_upscaler(arguments.model), arguments.what, paths, arguments.hr, judges(("psnr", *METRICS)),
            arguments.seeds)


if __name__ == "__main__":
    main()
