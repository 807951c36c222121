"""Pictures judged: metrics of a picture against its truth, and PSNR-Y, for the benchmarks beside this file."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instancersr.instances.codes import LUMA
from instancersr.lab.evaluation.metrics import Metric, load_metrics

METRICS = ("lpips", "dists", "niqe")


def luma(picture: Image.Image) -> np.ndarray:
    """(H, W) in 0..255."""
    return np.asarray(picture.convert("RGB"), np.float64) @ LUMA


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
