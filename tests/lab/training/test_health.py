"""A run that diverges ends with one line, and what it would have saved is not there."""

import math

import pytest
import torch
import yaml
from safetensors.torch import load_file

from instancersr.lab.training.checkpoint import list_checkpoints
from instancersr.lab.training.health import FIRST, PATIENCE, DivergedError, LossWatch
from instancersr.lab.training.trainer import train_from_config


def watched(losses: list[float], limit: float = 20.0) -> LossWatch:
    watch = LossWatch(limit)
    for number, loss in enumerate(losses):
        watch.see(number, {"a": loss / 2, "b": -loss / 2}, 1.0)
    return watch


@pytest.mark.parametrize(("terms", "gradient", "named"), [
    ({"mse": math.nan}, 1.0, "mse is not a number"), ({"mse": 1.0}, math.inf, "the gradient is not a number"),
])
def test_what_is_no_number_stops_at_once(terms, gradient, named):
    with pytest.raises(DivergedError, match=f"at 64 images: {named}") as caught:
        LossWatch(20).see(64, terms, gradient)
    assert "\n" not in str(caught.value)


def test_one_bad_batch_is_not_saved_but_does_not_stop_the_run():
    assert watched([1.0] * FIRST + [19.0]).healthy
    assert not watched([1.0] * FIRST + [21.0]).healthy
    assert watched([1.0] * FIRST + [21.0] * (PATIENCE - 1) + [1.0]).healthy


def test_an_exploded_loss_stops_the_run():
    with pytest.raises(DivergedError, match=f"at {FIRST + PATIENCE - 1} images: the loss is 1e"):
        watched([1.0] * FIRST + [1e6] * PATIENCE)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(photo_folder, tmp_path):
    config = {"task": "restoration", "channels": 8, "blocks": 1, "images": 400, "batch": 2, "device": "cpu",
              "precision": "fp32", "threads": 1, "output": str(tmp_path / "run"),
              "optimizer": {"lr": 1e-3, "warmup_images": 0, "decay": "constant"},
              "data": {"photos": str(photo_folder), "cache": str(tmp_path / "cache"), "crop": 64, "workers": 0},
              "log": {"checkpoint_images": 4, "keep": 1, "sample_images": 10000}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    train_from_config(path, ["images=8"])
    with pytest.raises(DivergedError):
        train_from_config(path, ["optimizer.lr=1e30"])
    assert list_checkpoints(tmp_path / "run")  # whatever was saved meanwhile has numbers in it
    for checkpoint in list_checkpoints(tmp_path / "run"):
        weights = load_file(checkpoint / "model/diffusion_pytorch_model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())
