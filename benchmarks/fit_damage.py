"""Fits what judges a photo's damage (`instancersr/damage.json`), and prints how often it is right on held-out photos.

    python benchmarks/fit_damage.py --photos ../shared/photos [--check ../shared/realsr/LR ../shared/web/old]

Crops of training photos are damaged by the presets of cameras and of the web, so many by each; a perceptron learns to
tell the two from what `instancersr.damage.measure` says of their LR photos. `web_mild` lies between and is left out.
Shown: the share of each preset's crops, of photos that were not fitted, that counts as damaged; then that of the
pictures in the folders of `--check`, which are never fitted. The shipped one saw the photos of
configs/web/1_restoration.yaml, 80 drawn pages among them.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.neural_network import MLPClassifier

from instancersr.damage import FITTED, estimate_damage, judge, measure
from instancersr.denoising import DAMAGED
from instancersr.lab.training.config import RestorationConfig
from instancersr.lab.training.data import crops, open_photos

CAMERAS = ("camera_optics", "camera_sharpened", "twin")
WEB = ("web_jpeg", "web_messenger", "web_night", "web_old")
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


def fit(inputs: np.ndarray, labels: np.ndarray) -> dict[str, list]:
    """The perceptron of measurements (N, F) and labels (N,), 1 for the web, as the file holds it."""
    mean, deviation = inputs.mean(0), inputs.std(0)
    network = MLPClassifier((HIDDEN,), alpha=DECAY, max_iter=2000, random_state=0)
    network.fit((inputs - mean) / deviation, labels)
    (hidden, output), (bias, output_bias) = network.coefs_, network.intercepts_
    values = {"mean": mean, "deviation": deviation, "hidden": hidden, "bias": bias, "output": output[:, 0],
              "output_bias": output_bias[0]}
    return {name: np.round(value, DIGITS).tolist() for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "damage_cache"))
    parser.add_argument("--crops", type=int, default=300)
    parser.add_argument("--check", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    kinds = {kind: measured(arguments.photos, arguments.cache, kind, arguments.crops, False) for kind in CAMERAS + WEB}
    labels = np.repeat([float(kind in WEB) for kind in kinds], arguments.crops)
    FITTED.write_text(json.dumps(fit(np.concatenate([*kinds.values()]), labels)) + "\n")

    for kind in CAMERAS + WEB:
        odds = [judge(row) for row in measured(arguments.photos, arguments.cache, kind, arguments.crops // 3, True)]
        print(f"{kind:18} {np.mean(np.array(odds) >= DAMAGED):.2f}", flush=True)
    for folder in arguments.check:
        odds = [estimate_damage(np.asarray(Image.open(path).convert("RGB"))) for path in sorted(folder.glob("*.png"))]
        print(f"{folder!s:18} {np.mean(np.array(odds) >= DAMAGED):.2f}", flush=True)


if __name__ == "__main__":
    main()
