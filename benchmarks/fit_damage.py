"""Fits what judges a photo's damage (`instancersr/damage.json`), and prints how often it is right on held-out photos.

    python benchmarks/fit_damage.py --photos ../shared/photos [--model builtin] [--check ../shared/realsr/LR ...]

Crops of training photos are damaged by the presets of cameras and of the web, and drawn by `--denoise 0` and by
`--denoise 1`. A perceptron learns from what `instancersr.damage.measure` says of the LR crop by how much the second
is closer to the truth (LPIPS of VGG16; TORCH_HOME holds its weights). So `auto` chooses what the model does better,
not a kind of photo, and is fitted anew for new weights.

Shown for the crops of each preset, of photos that were not fitted: the share that counts as damaged, the LPIPS of
either end, that of the choice, and that of the better end of each photo. Then the share of the pictures in the folders
of `--check` that count as damaged; they are never fitted.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.neural_network import MLPRegressor

from instancersr.damage import FITTED, estimate_damage, judge, measure
from instancersr.denoising import DAMAGED
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.config import RestorationConfig
from instancersr.lab.training.data import crops, open_photos
from instancersr.lab.training.perceptual import PerceptualLoss

KINDS = ("camera_optics", "camera_sharpened", "twin", "seesr", "web_mild", "web_jpeg", "web_messenger", "web_night",
         "web_old")
HIDDEN, DECAY, DIGITS = 16, 3.0, 5
CROP, DRAWN = 384, 192
"""Sides, in pixels of the truth, of what is measured, and of its middle, which is drawn and judged."""
DOUBT = 0.02
"""Gain in LPIPS at which the odds are 73 %: what the two ends usually differ by."""


class Judge:
    """LPIPS of VGG16 of what a pipeline draws of an LR photo with either end of the control."""

    def __init__(self, model: str):
        self.pipeline = InstanceRSRPipeline.from_pretrained(model)
        self.lpips = PerceptualLoss(DRAWN)

    def __call__(self, lr: np.ndarray, hr: torch.Tensor) -> list[float]:
        """lr (h, w, 3) uint8 and hr (3, H, W) in [0, 1] -> LPIPS of `--denoise 0` and of `--denoise 1`."""
        return [self._distance(lr, hr, denoise) for denoise in (0.0, 1.0)]

    @torch.no_grad()
    def _distance(self, lr: np.ndarray, hr: torch.Tensor, denoise: float) -> float:
        drawn = self.pipeline(Image.fromarray(lr), quality="fast", instances=False, denoise=denoise).images[0]
        output = torch.from_numpy(np.asarray(drawn).copy()).permute(2, 0, 1)[None] / 255
        return float(self.lpips(output, hr[None], torch.Generator()))


def examples(photos: str, cache: str, kind: str, count: int, held_out: bool, judged: Judge,
             ) -> tuple[np.ndarray, np.ndarray]:
    """Measurements (count, F) of LR crops of this preset, or of twins, and LPIPS (count, 2) of either end."""
    data = {"photos": photos, "cache": cache, "crop": CROP, "downscale_prob": 1.0, "downscale_max": 2.5,
            "truth_blur": (0.53, 0.93), "truth_sharpen": (0.0, 1.0), "gray_prob": 0.05,
            "twin_prob": float(kind == "twin"), "presets": {"camera_optics" if kind == "twin" else kind: 1.0}}
    config = RestorationConfig(task="restoration", output="unused", images=1, seed=7, data=data)
    dataset = crops(config, open_photos(config.data), held_out, masks=False)
    begin, end = (CROP - DRAWN) // 2, (CROP + DRAWN) // 2
    inputs, distances = [], []
    for number in range(count):
        crop = dataset[number]
        lr = (crop["lr"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        inputs.append(measure(lr))
        middle = lr[begin // 4 : end // 4, begin // 4 : end // 4]
        distances.append(judged(middle, crop["hr"][:, begin:end, begin:end]))
    return np.stack(inputs), np.array(distances)


def fit(inputs: np.ndarray, gains: np.ndarray) -> dict[str, list]:
    """The perceptron of measurements (N, F) and gains in LPIPS (N,), as the file holds it: its output are log odds."""
    mean, deviation = inputs.mean(0), inputs.std(0)
    network = MLPRegressor((HIDDEN,), alpha=DECAY, max_iter=2000, random_state=0)
    network.fit((inputs - mean) / deviation, np.tanh(gains / DOUBT / 4) * 4)  # a few large gains must not decide
    (hidden, output), (bias, output_bias) = network.coefs_, network.intercepts_
    values = {"mean": mean, "deviation": deviation, "hidden": hidden, "bias": bias, "output": output[:, 0],
              "output_bias": output_bias[0]}
    return {name: np.round(value, DIGITS).tolist() for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "damage_cache"))
    parser.add_argument("--crops", type=int, default=100, help="of each preset; a third as many are held out")
    parser.add_argument("--check", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    judged = Judge(arguments.model)

    def of_kinds(count: int, held_out: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {kind: examples(arguments.photos, arguments.cache, kind, count, held_out, judged) for kind in KINDS}

    fitted = of_kinds(arguments.crops, False).values()
    inputs, distances = (np.concatenate(parts) for parts in zip(*fitted, strict=True))
    FITTED.write_text(json.dumps(fit(inputs, distances[:, 0] - distances[:, 1])) + "\n")

    print(f"{'':18} damaged    0    1 auto best")
    for kind, (inputs, distances) in of_kinds(arguments.crops // 3, True).items():
        damaged = np.array([judge(row) >= DAMAGED for row in inputs])
        scores = *distances.mean(0), np.where(damaged, distances[:, 1], distances[:, 0]).mean(), distances.min(1).mean()
        print(f"{kind:18} {damaged.mean():7.2f} " + " ".join(f"{score:.3f}"[1:] for score in scores), flush=True)
    for folder in arguments.check:
        odds = [estimate_damage(np.asarray(Image.open(path).convert("RGB"))) for path in sorted(folder.glob("*.png"))]
        print(f"{folder!s:18} {np.mean(np.array(odds) >= DAMAGED):7.2f}", flush=True)


if __name__ == "__main__":
    main()
