"""Image quality metrics with the settings that published tables use (see docs/results.md).

PSNR and SSIM are scikit-image's on Y of ITU-R BT.601, as StableSR and OSEDiff take them; the others are pyiqa's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class MetricSpec:
    """A metric of the tables.

    pyiqa_name: what pyiqa calls it; None: scikit-image's. less_is_better: the direction. needs_truth: whether it
    compares with the truth.
    """

    pyiqa_name: str | None
    less_is_better: bool
    needs_truth: bool = True


METRICS = {
    "psnr": MetricSpec(None, False),
    "ssim": MetricSpec(None, False),
    "lpips": MetricSpec("lpips", True),  # AlexNet
    "dists": MetricSpec("dists", True),
    "niqe": MetricSpec("niqe", True, needs_truth=False),
    "musiq": MetricSpec("musiq", False, needs_truth=False),  # trained on KonIQ
    "maniqa": MetricSpec("maniqa-pipal", False, needs_truth=False),
    "clipiqa": MetricSpec("clipiqa", False, needs_truth=False),
    "clipiqa+": MetricSpec("clipiqa+_vitL14_512", False, needs_truth=False),
    "liqe": MetricSpec("liqe", False, needs_truth=False),
}

Metric = Callable[[Tensor, Tensor], Tensor]


def load_metrics(names: Sequence[str]) -> tuple[dict[str, Metric], dict[str, str]]:
    """Metrics that can be computed here, and the reasons why the others cannot.

    Args:
        names: keys of METRICS.

    Returns:
        Name -> function of output and truth, (B, 3, H, W) in [0, 1] each, that gives (B,) scores; and name -> reason,
        one line, for those whose weights are missing and cannot be fetched.

    Raises:
        UserError: a name is unknown.
    """
    loaded: dict[str, Metric] = {}
    missing: dict[str, str] = {}
    for name in names:
        spec = metric_spec(name)
        try:
            loaded[name] = _on_luma(name) if spec.pyiqa_name is None else _pyiqa(spec)
        except ImportError as error:
            missing[name] = f"it needs more packages ({error}); pip install 'instancersr[eval]'"
        except Exception as error:  # hubs, downloads and torch.load have their own exceptions
            missing[name] = f"its weights are missing and could not be fetched ({type(error).__name__})"
    return loaded, missing


def metric_spec(name: str) -> MetricSpec:
    """The settings of a metric.

    Raises:
        UserError: there is no such metric; lists those there are.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise UserError(f"metrics: {name!r} is unknown; choose from {', '.join(METRICS)}") from None


def _pyiqa(spec: MetricSpec) -> Metric:
    import pyiqa

    metric = pyiqa.create_metric(spec.pyiqa_name)
    if spec.needs_truth:
        return lambda output, truth: metric(output, truth).flatten()
    return lambda output, _truth: metric(output).flatten()


def _on_luma(name: str) -> Metric:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    def ssim(truth: np.ndarray, output: np.ndarray) -> float:
        # Wang et al., 2004: an 11x11 window, sigma 1.5. In the published scores Y is in whole steps here, not for PSNR,
        # and places where the pictures are anticorrelated count 0.
        _, places = structural_similarity(truth.round(), output.round(), data_range=255, gaussian_weights=True,
                                          sigma=1.5, use_sample_covariance=False, full=True)
        return float(np.clip(places[5:-5, 5:-5], 0, None).mean())

    def psnr(truth: np.ndarray, output: np.ndarray) -> float:
        return peak_signal_noise_ratio(truth, output, data_range=255)

    compare = {"psnr": psnr, "ssim": ssim}[name]
    return lambda output, truth: torch.tensor([compare(t, o) for o, t in zip(_luma(output), _luma(truth), strict=True)])


def _luma(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W) float64, Y in 16..235."""
    from skimage.color import rgb2ycbcr

    return rgb2ycbcr(pictures.double().cpu().permute(0, 2, 3, 1).numpy())[..., 0]
