"""Image quality metrics with the settings that published tables use (see docs/results.md).

PSNR and SSIM are scikit-image's on Y of ITU-R BT.601, as StableSR and OSEDiff take them; the others are pyiqa's.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instancersr.errors import UserError, reason
from instancersr.installation import how_to_install

PATIENCE = 60.0
"""Seconds that a metric may take to load and fetch its weights: a dead network must not stop an evaluation."""
FID_PATCH = 256
"""Side of FID's patches in pixels."""

T = TypeVar("T")


@dataclass(frozen=True)
class MetricSpec:
    """A metric of the tables.

    pyiqa_name: what pyiqa calls it; None: scikit-image's. less_is_better: the direction. needs_truth: whether it
    compares with the truth. of_set: one score for all pictures of a benchmark together, not one each.
    """

    pyiqa_name: str | None
    less_is_better: bool
    needs_truth: bool = True
    of_set: bool = False


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
    "fid": MetricSpec("fid", True, of_set=True),  # on patches
}

Metric = Callable[[Any, Any], Tensor]


def load_metrics(names: Sequence[str]) -> tuple[dict[str, Metric], dict[str, str]]:
    """Metrics that can be computed here, and the reasons why the others cannot.

    Args:
        names: keys of METRICS.

    Returns:
        Name -> function of output and truth, (B, 3, H, W) in [0, 1] each, that gives (B,) scores, or for a metric of
        sets of the list of output files and that of truth files, that gives (1,); and name -> reason, one line, for
        those whose weights are missing and cannot be fetched in `PATIENCE` seconds.

    Raises:
        UserError: a name is unknown.
    """
    loaded: dict[str, Metric] = {}
    missing: dict[str, str] = {}
    for name in names:
        spec = metric_spec(name)
        try:
            loaded[name] = _on_luma(name) if spec.pyiqa_name is None else with_deadline(PATIENCE, partial(_pyiqa, spec))
        except ImportError as error:
            missing[name] = f"it needs more packages ({error}); {how_to_install('eval')}"
        except TimeoutError:
            missing[name] = (f"its weights were not there after {PATIENCE:.0f} s; fetch them once with python -c "
                             f"\"import pyiqa; pyiqa.create_metric('{spec.pyiqa_name}')\"")
        except Exception as error:  # hubs, downloads and torch.load have their own exceptions
            missing[name] = f"its weights are missing and could not be fetched ({type(error).__name__})"
    return loaded, missing


def usable_metrics(names: Sequence[str], side: int) -> tuple[dict[str, Metric], dict[str, str]]:
    """As `load_metrics`; those that cannot score pictures of so many pixels a side are missing as well.

    Raises:
        UserError: a name is unknown.
    """
    loaded, missing = load_metrics(names)
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    for name, metric in [*loaded.items()]:
        try:
            metric(picture, picture.flip(3))
        except Exception as error:  # each metric has its own way to refuse
            del loaded[name]
            missing[name] = f"it cannot score {side}x{side} pixels ({reason(error)})"
    return loaded, missing


def with_deadline(seconds: float, make: Callable[[], T]) -> T:
    """What `make` returns, or raises.

    Raises:
        TimeoutError: it takes longer. It goes on in the background, as a download cannot be stopped from outside, but
            does not keep the process from ending.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(make())
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"not done after {seconds} s")
    return results[0]


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
    if spec.of_set:
        return lambda outputs, truths: torch.tensor([_fid(metric, outputs, truths)])
    if spec.needs_truth:
        return lambda output, truth: metric(output, truth).flatten()
    return lambda output, _truth: metric(output).flatten()


def _fid(metric: Any, outputs: Sequence[Path], truths: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        made, true = Path(folder, "outputs"), Path(folder, "truths")
        write_patches(outputs, made)
        write_patches(truths, true)
        return float(metric(str(made), str(true), num_workers=0, verbose=False))


def write_patches(files: Sequence[Path], folder: Path) -> None:
    """Cuts pictures into squares for FID, as Mentzer et al. (2020, arXiv:2006.09965, appendix A.7) do.

    A grid of squares of `FID_PATCH` pixels from the top left, and the same grid half a square further down and right; a
    picture that is smaller than a square is one patch as it is. The score depends on how many there are: compare it
    only between methods on the same benchmark.
    """
    folder.mkdir()
    for number, file in enumerate(files):
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        half = FID_PATCH // 2
        corners = [(left, top) for first in (0, half)
                   for top in range(first, picture.height - FID_PATCH + 1, FID_PATCH)
                   for left in range(first, picture.width - FID_PATCH + 1, FID_PATCH)]
        for index, (left, top) in enumerate(corners or [(0, 0)]):
            box = (left, top, left + FID_PATCH, top + FID_PATCH) if corners else None
            (picture.crop(box) if box else picture).save(folder / f"{number:05d}_{index:03d}.png")


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
