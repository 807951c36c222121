"""What `--fidelity`, `--quality` and `--denoise` change: scores against the truth, and time.

    python benchmarks/presets.py fidelity --lr ../shared/realsr/LR --hr ../shared/realsr/HR
    python benchmarks/presets.py quality --lr ../shared/realsr/LR --hr ../shared/realsr/HR
    python benchmarks/presets.py denoise --lr ../shared/realsr/LR --hr ../shared/realsr/HR

Every photo at each value. The order is turned from photo to photo, and times are sums over all. Metrics whose packages
or weights (TORCH_HOME) are missing are left out, saying so.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from perception import METRICS, judged, judges
from PIL import Image

from instancersr.lab.evaluation.metrics import Metric
from instancersr.loading import load_upscaler
from instancersr.recipe import QUALITIES
from instancersr.upscaler import Upscaler

FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
DENOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
SETTINGS = {"fidelity": FIDELITIES, "quality": QUALITIES, "denoise": DENOISES}


def measure(upscaler: Upscaler, what: str, lr: Path, hr: Path, every: int, metrics: dict[str, Metric]) -> None:
    """A line a setting: means over the photos, and seconds of all."""
    settings = list(SETTINGS[what])
    scores: dict = {value: [] for value in settings}
    seconds = dict.fromkeys(settings, 0.0)
    for number, path in enumerate(sorted(lr.iterdir())[::every]):
        truth = Image.open(hr / path.name).convert("RGB")
        turn = number % len(settings)
        for value in settings[turn:] + settings[:turn]:
            start = time.perf_counter()
            output = upscaler(path, instances=False, **{what: value}).images[0]
            seconds[value] += time.perf_counter() - start
            scores[value].append(judged(metrics, output, truth))
    for value, rows in scores.items():
        name = value if isinstance(value, str) else f"{value:.2f}"
        print(f"{name:9}", *(f"{key} {np.mean([row[key] for row in rows]):.4f}" for key in rows[0]),
              f"{seconds[value]:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("--lr", type=Path, required=True)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--every", type=int, default=1, help="use every so many photos")
    arguments = parser.parse_args()
    measure(load_upscaler(arguments.model), arguments.what, arguments.lr, arguments.hr, arguments.every,
            judges(("psnr", *METRICS)))


if __name__ == "__main__":
    main()
