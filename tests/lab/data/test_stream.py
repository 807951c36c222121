"""Shards as `instancersr prepare` makes them, read in place: every photo once an epoch, and what was stored is used."""

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from instancersr.lab.data.dataset import BatchNumbers, CropDataset, collate
from instancersr.lab.data.index import open_index, shard_sources
from instancersr.lab.data.pictures import ids_of_annotations
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.data.sources import DataError, Skipped, is_held_out
from instancersr.lab.data.stream import GROUP_SHARDS, ShardPhotos, stored_shapes
from instancersr.lab.method.models import RestorationNetwork
from instancersr.lab.training.config import ConfigError, DiffusionConfig
from instancersr.lab.training.randomness import Draws
from instancersr.lab.training.skipped import SkippedPhotos
from instancersr.lab.training.stages.paper import PaperObjective
from instancersr.lab.training.trainer import train_from_config

CROP = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                  block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4,
                  scaling_factor=0.18215).save_pretrained(folder / "vae")
    Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56,
                             patch_size=14)).save_pretrained(folder / "teacher")
    RestorationNetwork(8, 1).save_pretrained(folder / "restoration")
    return {name: str(folder / name) for name in ("vae", "teacher", "restoration")}


@pytest.fixture(scope="module")
def shards(photo_folder, models, tmp_path_factory) -> Path:
    """Six photos with masks in shards of two, with latents and teacher features."""
    out = tmp_path_factory.mktemp("prepared") / "shards"
    prepare_photos(photo_folder, out, SampleSettings(CROP, None, models["vae"], models["teacher"]), 2, workers=1)
    return out


def photos(shards: Path, cache: Path, held_out: bool = False, **options) -> ShardPhotos:
    return ShardPhotos(open_index(shard_sources(shards), cache), held_out, CROP, **options)


def as_webdataset_reads(shards: Path) -> dict[str, dict]:
    dataset = webdataset.WebDataset([str(p) for p in sorted(shards.glob("*.tar"))], shardshuffle=False)
    return {sample["__key__"]: sample for sample in dataset}


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A hundred photos in forty shards: more than one group."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        with webdataset.TarWriter(str(folder / f"{number:03d}.tar")) as tar:
            for photo in range(2 + number % 2):
                file = io.BytesIO()
                Image.fromarray(np.full((CROP, CROP, 3), number, np.uint8)).save(file, "png")
                tar.write({"__key__": f"photo-{number}-{photo}", "png": file.getvalue()})
    return folder


def test_each_photo_comes_once_an_epoch_whoever_reads_it(many, tmp_path):
    source = photos(many, tmp_path)
    keys = source.index.rows["key"]
    expected = {key for key in as_webdataset_reads(many) if not is_held_out(key)}
    assert len(source) == len(expected) > 80 and GROUP_SHARDS < 40
    batch, epochs = 8, 2
    for processes in (1, 4):
        stop = epochs * len(source) // batch * batch
        steps = [list(BatchNumbers(0, stop, batch, process, processes)) for process in range(processes)]
        numbers = sorted(n for process in steps for step in process for n in step)
        seen = [keys[source.row_of(n)].decode() for n in numbers]
        first, second = seen[: len(source)], seen[len(source) :]
        assert Counter(first) == dict.fromkeys(expected, 1)
        assert max(Counter(second).values()) == 1 and set(second) <= expected
        assert first != sorted(first) and first[: len(second)] != second
        # neighbours in a shard are torn apart, yet no photo is read before its group's turn
        assert sum(a[:-2] == b[:-2] for a, b in zip(first, first[1:], strict=False)) < len(first) / 4


def test_order_follows_the_seed_alone(many, tmp_path):
    again = [photos(many, tmp_path / cache, seed=seed) for cache, seed in (("a", 1), ("b", 1), ("a", 2))]
    orders = [[source.row_of(n) for n in range(50)] for source in again]
    assert orders[0] == orders[1] != orders[2]
    assert again[0].row_of(7) == orders[0][7]  # also out of turn


def test_photo_masks_and_tensors_are_those_of_the_shard(shards, tmp_path):
    known = as_webdataset_reads(shards)
    source = photos(shards, tmp_path, stored=True)
    assert len(source) == 5
    for number in range(len(source)):
        photo = source.choose(number, np.random.default_rng(0))
        with Image.open(io.BytesIO(known[photo.key]["jpg"])) as image:
            assert np.array_equal(photo.rgb, np.asarray(image))
        assert set(np.unique(photo.ids)) == {0, *range(1, 1 + len(json.loads(known[photo.key]["json"])["annotations"]))}
        assert photo.stored["latent"].shape == (4, CROP // 8, CROP // 8) and photo.stored["teacher"].shape == (16, 16)
    assert len(photos(shards, tmp_path, held_out=True)) == 1


def config(models: dict[str, str], shards: Path, folder: Path, **data) -> dict:
    return {"task": "diffusion", "output": str(folder / "run"), "images": 16, "batch": 4, "device": "cpu",
            "precision": "fp32", "threads": 1, "autoencoder": models["vae"], "restoration": models["restoration"],
            "transformer": {"width": 32, "depth": 2, "heads": 2, "control_depth": 1, "prediction": "noise"},
            "schedule": {"rescale_betas_zero_snr": False},
            "alignment": {"layer": 1, "teacher": models["teacher"]},
            "data": {"photos": str(shards), "cache": str(folder / "cache"), "crop": CROP, "workers": 0,
                     "stream": True, **data},
            "log": {"checkpoint_images": 8, "sample_images": 16, "validation_crops": 2}}


def test_stored_tensors_give_the_loss_of_computed_ones(models, shards, tmp_path):
    batches, losses = [], []
    for stored in (False, True):
        values = config(models, shards, tmp_path, stored=stored)
        objective = PaperObjective(DiffusionConfig.model_validate(values))
        assert (objective.teacher is None) == stored
        torch.manual_seed(0)
        for parameter in objective.model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        dataset = CropDataset(photos(shards, tmp_path / "cache", stored=True), CROP, masks=True)
        batches.append(collate([dataset[n] for n in range(3)]))
        batch = batches[0] if stored else {k: v for k, v in batches[0].items()
                                           if not k.startswith(("latent", "map_latent", "teacher"))}
        terms = objective.terms(objective.model, batch, Draws(0, range(3)), 0.0)
        losses.append({name: term.item() for name, term in terms.items()})
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)  # they are kept as float16
    assert set(losses[0]) == {"denoise_x", "denoise_m", "repa", "scale"}


def write(values: dict, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_latents_may_be_stored_without_the_teachers_features(photo_folder, models, tmp_path):
    prepare_photos(photo_folder, tmp_path / "shards", SampleSettings(CROP, None, models["vae"]), 6, workers=1)
    values = config(models, tmp_path / "shards", tmp_path, stored=True)
    assert PaperObjective(DiffusionConfig.model_validate(values)).teacher is not None


@pytest.mark.parametrize("stored", [False, True])
def test_training_runs_on_a_stream(models, shards, tmp_path, stored):
    train_from_config(write(config(models, shards, tmp_path, stored=stored), tmp_path))
    lines = (tmp_path / "run/losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [4, 8, 12, 16]
    assert json.loads((tmp_path / "run/validation.jsonl").read_text())["images"] == 16


@pytest.mark.parametrize(("change", "message"), [
    ({"data": {"crop": 128}}, "data.crop: 128, but the stored latents are of 64 pixels"),
    ({"transformer": {"patch_size": 4}}, "alignment.teacher: the stored features are of 16 patches, .* has 4 tokens"),
    ({"data": {"lightness": "photo"}}, "data: .*so lightness cannot change them"),
    ({"data": {"gray_prob": 0.5, "truth_blur": [0.5, 0.9]}}, "data: .*so truth_blur, gray_prob cannot change them"),
    ({"alignment": {"teacher_layer": 1}}, "alignment.teacher_layer: the stored features are the teacher's output"),
    ({"alignment": {"teacher": "hub/dinov2-giant"}}, "alignment.teacher: hub/dinov2-giant, but the shards hold"),
    ({"data": {"stream": False}}, "data: .*set data.stream=true"),
])
def test_what_does_not_fit_the_shards_is_named_before_models_are_built(models, shards, tmp_path, change, message):
    values = config(models, shards, tmp_path, stored=True) | {"autoencoder": "nowhere/vae"}
    for section, fields in change.items():
        values[section] = values[section] | fields
    with pytest.raises(ConfigError, match=message) as caught:
        train_from_config(write(values, tmp_path))
    assert "\n" not in str(caught.value)


def test_latents_of_another_autoencoder_are_not_trained_on(models, shards, tmp_path):
    values = config(models, shards, tmp_path, stored=True) | {"autoencoder": "stabilityai/sd-vae-ft-ema"}
    with pytest.raises(ConfigError, match="autoencoder: stabilityai/sd-vae-ft-ema, but the shards hold what "):
        train_from_config(write(values, tmp_path))


def test_missing_shard_is_named(photo_folder, models, tmp_path):
    prepare_photos(photo_folder, tmp_path / "shards", SampleSettings(CROP), 2, workers=1)
    os.remove(tmp_path / "shards/shard-000001.tar")
    with pytest.raises(ConfigError, match="data.photos: .*shard-000001.tar: this shard is missing"):
        train_from_config(write(config(models, tmp_path / "shards", tmp_path) | {"autoencoder": "nowhere"}, tmp_path))


def test_folder_without_shards_is_named(photo_folder, tmp_path):
    with pytest.raises(DataError, match="no shards; make them with `instancersr prepare`"):
        shard_sources(photo_folder)


# ------------------------------------------------------------------------------------- photos that cannot be used


@pytest.fixture(scope="module")
def damaged(photo_folder, models, tmp_path_factory) -> Path:
    """Shards as somebody else made them: of twelve photos one is no picture, one small, one has broken masks."""
    folder = tmp_path_factory.mktemp("damaged")
    with webdataset.TarWriter(str(folder / "0.tar")) as tar:
        for number in range(12):
            file = io.BytesIO()
            size = 32 if number == 3 else 2 * CROP
            Image.fromarray(np.full((size, size, 3), 20 * number, np.uint8)).save(file, "png")
            sample = {"__key__": f"flat{number}", "png": b"no picture" if number == 2 else file.getvalue()}
            tar.write(sample | ({"json": b"{"} if number == 4 else {}))
    assert not any(is_held_out(f"flat{number}") for number in (2, 3, 4))
    return folder


def test_a_photo_that_cannot_be_used_is_replaced_by_the_same_one_in_every_run(damaged, tmp_path):
    chosen = [[source.choose(n, np.random.default_rng(0)) for n in range(2 * len(source))]
              for source in (photos(damaged, tmp_path), photos(damaged, tmp_path))]
    assert [p.key for p in chosen[0]] == [p.key for p in chosen[1]]
    assert not {p.key for p in chosen[0]} & {"flat2", "flat3", "flat4"}
    skipped = {s.photo: s.reason for p in chosen[0] for s in p.skipped}
    assert {key: reason.split(": ")[2].split(" ")[0] for key, reason in skipped.items()} == {
        "flat2": "cannot", "flat3": "32x32", "flat4": "its"}
    assert all("0.tar: photo flat" in reason for reason in skipped.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_training_goes_on_and_names_them(models, damaged, tmp_path, capsys, workers):
    values = {"task": "restoration", "channels": 8, "blocks": 1} | {
        name: value for name, value in config(models, damaged, tmp_path, workers=workers).items()
        if name not in ("task", "autoencoder", "restoration", "transformer", "schedule", "alignment")}
    train_from_config(write(values | {"images": 24}, tmp_path))
    listed = [json.loads(line)["photo"] for line in (tmp_path / "run/skipped.jsonl").read_text().splitlines()]
    assert sorted(listed) == ["flat2", "flat3", "flat4"]
    assert "left out so far: 3 photos" in capsys.readouterr().out


def test_the_list_of_unusable_photos_survives_a_line_that_was_cut_off(tmp_path):
    one, other = SkippedPhotos(tmp_path / "skipped.jsonl"), SkippedPhotos(tmp_path / "skipped.jsonl")
    assert one.note([Skipped("a", "x"), Skipped("b", "x")]).photo == "a" and one.note([Skipped("b", "y")]) is None
    with open(one.path, "a") as file:
        file.write('{"photo": "c", "rea')
    assert SkippedPhotos(one.path).names == {"a", "b"}
    assert other.note([Skipped("b", "x"), Skipped("d", "x")]).photo == "b"  # this process says so for the first time
    lines = one.path.read_text().splitlines()
    assert [json.loads(line)["photo"] for line in (lines[0], lines[1], lines[3])] == ["a", "b", "d"] and len(lines) == 4


def test_a_photo_whose_stored_tensors_are_damaged_is_left_out(models, shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    bad = []
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as tar:
            member = next(member for member in tar if member.name.endswith(".safetensors"))
        content = bytearray(shard.read_bytes())
        content[member.offset_data : member.offset_data + 16] = b"\xff" * 16
        shard.write_bytes(bytes(content))
        bad.append(member.name.removesuffix(".safetensors"))
    assert stored_shapes(folder) == stored_shapes(shards)
    source = photos(folder, tmp_path, stored=True)
    skipped = {s.photo: s.reason for n in range(3 * len(source))
               for s in source.choose(n, np.random.default_rng(0)).skipped}
    assert set(skipped) == {key for key in bad if not is_held_out(key)}
    assert all("its stored tensors cannot be read" in reason for reason in skipped.values())


def test_shards_in_which_nothing_can_be_used_end_the_run(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as tar:
        for number in range(12):
            tar.write({"__key__": f"bad{number}", "png": b"no picture"})
    with pytest.raises(DataError, match="100 photos in a row cannot be used, the last: .*0.tar: photo bad"):
        photos(tmp_path, tmp_path / "cache").choose(0, np.random.default_rng(0))


def test_instance_maps_are_the_masks_and_colours_are_left_out_where_their_latent_is_stored(shards, tmp_path):
    stored = photos(shards, tmp_path, stored=True)
    for number in range(len(stored)):
        row = stored.index.rows[stored.row_of(number)]
        masks = ids_of_annotations(stored.index.read(row, "json"), (CROP, CROP))
        assert np.array_equal(stored.choose(number, np.random.default_rng(0)).ids, masks) and masks.any()
    plain, colored = (CropDataset(stored, CROP, masks=True, colored=wanted)[0] for wanted in (False, True))
    assert set(colored) - set(plain) == {"instance_map"}
    assert all(torch.equal(plain[name], colored[name]) for name in plain)
    without = CropDataset(photos(shards, tmp_path), CROP, masks=True, colored=False)[0]
    assert "instance_map" in without  # nothing is stored: the latent is made of it
