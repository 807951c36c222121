"""The map decoder's training command: fitted to photos with masks, saved, and used by the pipeline."""

import numpy as np
import pytest
import torch
import yaml

from instancersr.lab.method.models import MapDecoder
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.config import ConfigError, load_config
from instancersr.lab.training.randomness import Draws
from instancersr.lab.training.stages.map import MapObjective, pair_loss
from instancersr.lab.training.trainer import Trainer, train_from_config


@pytest.fixture(scope="module")
def config(tiny_model, photo_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    values = {"task": "map", "pipeline": str(tiny_model), "output": str(folder / "run"), "images": 6, "batch": 2,
              "steps": 100, "device": "cpu", "precision": "fp32", "threads": 1, "optimizer": {"lr": 3e-3},
              "data": {"photos": str(photo_folder), "cache": str(folder / "cache"), "crop": 128, "workers": 0}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def fitted(config) -> MapDecoder:
    return MapDecoder.from_pretrained(train_from_config(config))


def test_it_learns_which_regions_belong_together(config, fitted):
    trainer = Trainer(load_config(config))
    objective: MapObjective = trainer.objective
    features, same = objective._pairs(next(trainer._batches(0, 2, shared=False)), Draws(0, range(2)))
    constant = same.mean().clamp(0.01, 0.99)
    chance = -(constant * constant.log() + (1 - constant) * (1 - constant).log())
    assert pair_loss(fitted, features, same) < 0.8 * chance


def test_the_pipeline_uses_and_saves_it(fitted, tiny_model, tmp_path):
    picture = (np.random.default_rng(0).random((40, 48, 3)) * 255).astype(np.uint8)
    plain = InstanceRSRPipeline.from_pretrained(tiny_model)
    assert plain.map_decoder is None
    pipe = InstanceRSRPipeline.from_pretrained(tiny_model, map_decoder=fitted)
    pipe.save_pretrained(tmp_path)
    again = InstanceRSRPipeline.from_pretrained(tmp_path)
    first, second = pipe(picture), again(picture)
    assert first.instances[0].shape == (160, 192) and first.instances[0].min() == 1
    assert np.array_equal(first.instances[0], second.instances[0])
    assert np.array_equal(np.asarray(first.images[0]), np.asarray(plain(picture).images[0]))
    assert torch.equal(pipe.map_decoder.mean, again.map_decoder.mean)


def test_keys_that_match_no_photo_are_named(config):
    with pytest.raises(ConfigError, match="key like coco_"):
        train_from_config(config, ["data.keys=[coco_*]", "output=unused"])


def test_it_can_be_fitted_to_whole_photos(config, tmp_path):
    trainer = Trainer(load_config(config, ["whole=144", "batch=1", f"output={tmp_path}", "images=5"]))
    shapes = [tuple(batch["hr"].shape) for batch in trainer._batches(0, 5, shared=False)]
    assert shapes == [(1, 3, 144, 144)] * 5  # of photos of 160 pixels; crops have 128
    assert trainer.objective.model.mean.any()


def test_whole_photos_come_singly(config):
    with pytest.raises(ConfigError, match="set batch=1"):
        train_from_config(config, ["whole=144"])


def test_a_missing_pipeline_is_named(config, tmp_path):
    with pytest.raises(ConfigError, match="^pipeline: "):
        train_from_config(config, [f"pipeline={tmp_path}"])
