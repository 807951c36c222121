"""Metrics against the per-image scores that OSEDiff's authors published."""

import itertools
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from instancersr.errors import UserError
from instancersr.lab.evaluation.metrics import (
    FID_PATCH,
    METRICS,
    load_metrics,
    usable_metrics,
    with_deadline,
    write_patches,
)

TOLERANCE = {"psnr": 0.01, "ssim": 0.001, "lpips": 0.001, "dists": 0.002, "niqe": 0.05}


def load(path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255


def test_published_scores_are_reproduced(shared):
    loaded, missing = load_metrics(list(TOLERANCE))
    published = json.loads((shared / "realsr" / "osediff_scores.json").read_text())
    outputs = sorted((shared / "realsr" / "osediff").glob("*.png"))
    assert len(outputs) == 25
    for path, (name, metric) in itertools.product(outputs, loaded.items()):
        score = metric(load(path), load(shared / "realsr" / "HR" / path.name)).item()
        assert score == pytest.approx(published[path.name][name.upper()], abs=TOLERANCE[name]), (path.name, name)
    if missing:
        pytest.skip("; ".join(f"{name}: {reason}" for name, reason in missing.items()))


def test_psnr_of_a_known_error_on_every_pixel():
    loaded, _ = load_metrics(["psnr", "ssim"])
    truth = torch.full((2, 3, 32, 32), 0.5)
    output = truth.clone()
    output[1] += 10 / 255  # Y has 219 steps for the 255 of RGB
    same, off = loaded["psnr"](output, truth)
    assert torch.isinf(same) and off.item() == pytest.approx(20 * np.log10(255 / (10 * 219 / 255)), abs=1e-3)
    assert loaded["ssim"](output, truth)[0] == 1


def test_directions_are_those_of_the_papers():
    assert {name for name, spec in METRICS.items() if spec.less_is_better} == {"lpips", "dists", "niqe", "fid"}


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match="'psrn' is unknown; choose from psnr"):
        load_metrics(["psrn"])


def test_a_metric_that_cannot_score_so_small_a_picture_is_missing():
    usable, missing = usable_metrics(["psnr", "ssim"], 8)  # SSIM's window has 11 pixels
    assert list(usable) == ["psnr"] and missing["ssim"].startswith("it cannot score 8x8 pixels (")
    assert list(usable_metrics(["psnr", "ssim"], 16)[0]) == ["psnr", "ssim"]


def test_a_download_that_hangs_is_given_up_and_an_error_is_passed_on():
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        with_deadline(0.05, never.wait)
    with pytest.raises(ZeroDivisionError):
        with_deadline(5, lambda: 1 / 0)
    assert with_deadline(5, lambda: "loaded") == "loaded"
    never.set()


def test_patches_are_two_grids_half_a_square_apart_and_a_small_picture_is_one(tmp_path):
    rng = np.random.default_rng(0)
    half = FID_PATCH // 2
    pixels = rng.integers(0, 256, (FID_PATCH + half, 2 * FID_PATCH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:40, :50]).save(tmp_path / "small.png")
    write_patches([tmp_path / "large.png", tmp_path / "small.png"], tmp_path / "patches")
    found = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "patches").iterdir())]
    expected = [pixels[:FID_PATCH, :FID_PATCH], pixels[:FID_PATCH, FID_PATCH:],
                pixels[half:, half : half + FID_PATCH], pixels[:40, :50]]
    assert len(found) == 4 and all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))
