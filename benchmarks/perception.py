"""What scores do not show: grain in flat areas, what a seed changes, and what the transformer adds to y-hat.

    python benchmarks/perception.py --lr ../shared/realsr/LR --hr ../shared/realsr/HR [--model builtin] [--every 1]

- Flat areas: over 32x32 patches of the truth whose luma deviates by less than 2/255, the mean energy of what a Gaussian
  blur (sigma 1.5 pixels) takes off the output's luma, over that of the truth's.
- Seeds: PSNR-Y between the outputs of seeds 0 and 1.
- Transformer: LPIPS, DISTS and NIQE of the default output and of y-hat (`fidelity=1`), where pyiqa and its weights are
  at hand (TORCH_HOME).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from instancersr import InstanceRSRPipeline
from instancersr.instances.codes import LUMA
from instancersr.lab.evaluation.metrics import Metric, load_metrics

PATCH, FLAT, BLUR = 32, 2.0, 1.5
METRICS = ("lpips", "dists", "niqe")


def luma(picture: Image.Image) -> np.ndarray:
    """(H, W) in 0..255."""
    return np.asarray(picture.convert("RGB"), np.float64) @ LUMA


def patches(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (N, PATCH * PATCH), whole patches only."""
    rows, columns = (side // PATCH for side in values.shape)
    grid = values[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH)
    return grid.transpose(0, 2, 1, 3).reshape(rows * columns, -1)


def grain(picture: np.ndarray) -> np.ndarray:
    """(H, W) luma -> (N,) high-pass energy of its patches."""
    return (patches(picture - gaussian_filter(picture, BLUR)) ** 2).mean(1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-10)))


def judges(names: Sequence[str] = METRICS) -> dict[str, Metric]:
    """The metrics that can be computed here; says which cannot."""
    metrics, missing = load_metrics(names)
    for name, reason in missing.items():
        print(f"{name} left out: {reason}")
    return metrics


def judged(metrics: dict[str, Metric], output: Image.Image, truth: Image.Image) -> dict[str, float]:
    pictures = as_tensor(output), as_tensor(truth)
    return {name: float(metric(*pictures)) for name, metric in metrics.items()}


def as_tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", required=True, type=Path)
    parser.add_argument("--hr", required=True, type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--every", type=int, default=1, help="use every so many photos")
    arguments = parser.parse_args()
    pipeline, metrics = InstanceRSRPipeline.from_pretrained(arguments.model), judges()
    flat_ours, flat_truth, between, scores = [], [], [], []
    for path in sorted(arguments.lr.iterdir())[:: arguments.every]:
        truth = Image.open(arguments.hr / path.name).convert("RGB")
        first, second, faithful = (
            pipeline(path, generator=torch.Generator().manual_seed(seed), fidelity=fidelity).images[0]
            for seed, fidelity in ((0, None), (1, None), (0, 1.0)))
        flat = patches(luma(truth)).std(1) < FLAT
        flat_ours += grain(luma(first))[flat].tolist()
        flat_truth += grain(luma(truth))[flat].tolist()
        between.append(psnr(luma(first), luma(second)))
        scores.append({"default": judged(metrics, first, truth), "y-hat": judged(metrics, faithful, truth)})
    print(f"{len(scores)} photos, {len(flat_truth)} flat patches")
    if flat_truth:
        print(f"flat areas: high-pass energy {np.mean(flat_ours):.3f}, truth {np.mean(flat_truth):.3f}, "
              f"ratio {np.mean(flat_ours) / np.mean(flat_truth):.2f}")
    print(f"seeds 0 and 1: PSNR-Y {np.mean(between):.2f} dB, least {min(between):.2f}")
    for name in metrics:
        default, faithful = (np.mean([score[kind][name] for score in scores]) for kind in ("default", "y-hat"))
        print(f"{name}: default {default:.4f}, y-hat {faithful:.4f}, difference {default - faithful:+.4f}")


if __name__ == "__main__":
    main()
