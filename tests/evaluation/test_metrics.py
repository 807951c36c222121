"""Metrics against the per-image scores that OSEDiff's authors published."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from instancersr.errors import UserError
from instancersr.evaluation.metrics import METRICS, load_metrics

TOLERANCE = {"psnr": 0.01, "ssim": 0.001, "lpips": 0.001, "dists": 0.002}


def load(path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", TOLERANCE)
def test_published_scores_are_reproduced(shared, name):
    loaded, missing = load_metrics([name])
    if name in missing:
        pytest.skip(f"{name}: {missing[name]}")
    published = json.loads((shared / "realsr" / "osediff_scores.json").read_text())
    outputs = sorted((shared / "realsr" / "osediff").glob("*.png"))
    assert len(outputs) == 25
    for path in outputs:
        score = loaded[name](load(path), load(shared / "realsr" / "HR" / path.name)).item()
        assert score == pytest.approx(published[path.name][name.upper()], abs=TOLERANCE[name]), path.name


def test_psnr_of_a_known_error_on_every_pixel():
    loaded, _ = load_metrics(["psnr", "ssim"])
    truth = torch.full((2, 3, 32, 32), 0.5)
    output = truth.clone()
    output[1] += 10 / 255  # Y has 219 steps for the 255 of RGB
    same, off = loaded["psnr"](output, truth)
    assert torch.isinf(same) and off.item() == pytest.approx(20 * np.log10(255 / (10 * 219 / 255)), abs=1e-3)
    assert loaded["ssim"](output, truth)[0] == 1


def test_directions_are_those_of_the_papers():
    assert {name for name, spec in METRICS.items() if spec.less_is_better} == {"lpips", "dists", "niqe"}


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match="'psrn' is unknown; choose from psnr"):
        load_metrics(["psrn"])
