"""Fits what judges a photo's damage and noise (`instancersr/damage.json`, `noise.json`), and prints how well it does.

    python benchmarks/fit_damage.py --photos ../shared/photos [--check ../shared/realsr/LR ../shared/web/old]

Crops of training photos are damaged by the presets of cameras and of the web, so many by each. From what
`instancersr.damage.measure` says of their LR photos one perceptron learns to tell the web's from the cameras', another
to tell those of noisy presets from all others. `web_mild` lies between, and only the second sees it. Shown: the share
of each preset's crops, of photos that were not fitted, that counts as damaged, and as noisy; then those of the pictures
in the folders of `--check`, which are never fitted. The shipped ones saw the photos of configs/web/1_restoration.yaml,
80 drawn pages among them; damage.json is of an earlier run, and a new one judges a few photos otherwise.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.neural_network import MLPClassifier

from instancersr.damage import DAMAGE, NOISE, judge, measure
from instancersr.denoising import DAMAGED, NOISY
from instancersr.lab.training.config import RestorationConfig
from instancersr.lab.training.data import crops, open_photos

CAMERAS = ("camera_optics", "camera_sharpened", "twin")
WEB = ("web_jpeg", "web_messenger", "web_night", "web_old")
NOISE_KINDS = ("web_night", "web_old")
KINDS = (*CAMERAS, "web_mild", *WEB)
HIDDEN, DECAY, DIGITS = 16, 3.0, 5


def measured(photos: str, cache: str, kind: str, count: int, held_out: bool) -> np.ndarray:
    """(count, measurements) of LR photos of this preset, or of twins."""
    data = {"photos": photos, "cache": cache, "crop": 384, "downscale_prob": 1.0, "downscale_max": 2.5,
            "truth_blur": (0.53, 0.93), "truth_sharpen": (0.0, 1.0), "gray_prob": 0.05,
            "twin_prob": float(kind == "twin"), "presets": {"camera_optics" if kind == "twin" else kind: 1.0}}
    config = RestorationConfig(task="restoration", output="unused", images=1, seed=7, data=data)
    dataset = crops(config, open_photos(config.data), held_out, masks=False)
    small = (dataset[number]["lr"].permute(1, 2, 0).numpy() for number in range(count))
    return np.stack([measure((lr * 255).round().astype(np.uint8)) for lr in small])


def fit(kinds: dict[str, np.ndarray], positive: tuple[str, ...], path: Path) -> None:
    """Writes the perceptron that tells these kinds from the others by their measurements (N, F)."""
    inputs = np.concatenate([*kinds.values()])
    labels = np.concatenate([np.full(len(rows), kind in positive) for kind, rows in kinds.items()])
    mean, deviation = inputs.mean(0), inputs.std(0)
    network = MLPClassifier((HIDDEN,), alpha=DECAY, max_iter=2000, random_state=0)
    network.fit((inputs - mean) / deviation, labels)
    (hidden, output), (bias, output_bias) = network.coefs_, network.intercepts_
    values = {"mean": mean, "deviation": deviation, "hidden": hidden, "bias": bias, "output": output[:, 0],
              "output_bias": output_bias[0]}
    path.write_text(json.dumps({name: np.round(value, DIGITS).tolist() for name, value in values.items()}) + "\n")


def show(name: str, rows: np.ndarray) -> None:
    """Prints the shares of rows of measurements that count as damaged, and as noisy enough for half of the cleaning."""
    damaged = np.mean([judge(row, DAMAGE) >= DAMAGED for row in rows])
    noisy = np.mean([judge(row, NOISE) >= np.mean(NOISY) for row in rows])
    print(f"{name:18} damaged {damaged:.2f}  noisy {noisy:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "damage_cache"))
    parser.add_argument("--crops", type=int, default=300)
    parser.add_argument("--check", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    kinds = {kind: measured(arguments.photos, arguments.cache, kind, arguments.crops, False) for kind in KINDS}
    fit({kind: rows for kind, rows in kinds.items() if kind != "web_mild"}, WEB, DAMAGE)
    fit(kinds, NOISE_KINDS, NOISE)
    for kind in KINDS:
        show(kind, measured(arguments.photos, arguments.cache, kind, arguments.crops // 3, True))
    for folder in arguments.check:
        show(str(folder), np.stack([measure(np.asarray(Image.open(path).convert("RGB")))
                                    for path in sorted(folder.glob("*.png"))]))


if __name__ == "__main__":
    main()
