"""Benchmarks: layouts of releases, pairs, folders without truth, inputs made on the fly."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from skimage import data

from instancersr.errors import UserError
from instancersr.lab.evaluation.benchmarks import BenchmarkConfig, open_benchmark, pair_folders, pair_outputs
from instancersr.lab.evaluation.evaluate import EvaluationConfig, evaluate
from instancersr.lab.method.degradation import degrade


def save(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def opened(tmp_path, name="set", **config):
    return open_benchmark(name, BenchmarkConfig(**config), tmp_path / "work")


# ------------------------------------------------------------------------------------------------- releases


@pytest.mark.parametrize("name,lr,hr", [("RealSR", "Canon_004_LR4.png", "Canon_004_HR.png"),
                                        ("DRealSR", "DSC_0988_x1.png", "DSC_0988_x1.png"),
                                        ("DRealSR", "DSC_0988_x1.png", "DSC_0988_x4.png")])
def test_pairs_in_the_layout_of_a_release(tmp_path, name, lr, hr):
    save(tmp_path / "set" / "test_LR" / lr, (32, 32))
    save(tmp_path / "set" / "test_HR" / hr, (128, 128))
    [item] = opened(tmp_path, name, folder=tmp_path / "set").items
    assert (item.lr.name, item.hr.name) == (lr, hr)
    assert item.name == lr.rsplit("_", 1)[0]


@pytest.mark.parametrize("name", ["RealLR200", "RealLQ250", "my own"])
def test_a_folder_without_truth(tmp_path, name):
    save(tmp_path / "set" / "001.png", (20, 30))
    [item] = opened(tmp_path, name, folder=tmp_path / "set").items
    assert (item.name, item.hr) == ("001", None)


@pytest.mark.parametrize("name,source", [("RealSR", "StableSR-TestSets"), ("DRealSR", "StableSR-TestSets"),
                                         ("RealLR200", "cswry/SeeSR"), ("RealLQ250", "DreamClear")])
def test_missing_data_says_where_it_is_and_its_licence_in_one_line(tmp_path, name, source):
    with pytest.raises(UserError, match=rf"^{name}: no folder .*get .*{source}.*\(licence: .+\)$") as error:
        opened(tmp_path, name, folder=tmp_path / "not here")
    assert "\n" not in str(error.value)


def test_a_release_without_its_truths_is_not_taken_for_one_that_has_none(tmp_path):
    save(tmp_path / "set" / "test_LR" / "a_x1.png", (8, 8))
    with pytest.raises(UserError, match="DRealSR: no folder .*test_HR"):
        opened(tmp_path, "DRealSR", folder=tmp_path / "set")


# ---------------------------------------------------------------------------------------------------- pairs


def test_names_that_do_not_match_are_named(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "LR" / f"{name}.png", (8, 8))
    for name in ("a", "c"):
        save(tmp_path / "HR" / f"{name}.png", (32, 32))
    with pytest.raises(UserError, match=r"no truth in .*HR for b\.png"):
        pair_folders("set", tmp_path / "LR", tmp_path / "HR")
    (tmp_path / "LR" / "b.png").unlink()
    with pytest.raises(UserError, match=r"no input in .*LR for c\.png"):
        pair_folders("set", tmp_path / "LR", tmp_path / "HR")


def test_a_missing_output_and_one_of_another_size_are_named(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "LR" / f"{name}.png", (8, 8))
    save(tmp_path / "out" / "a.png", (32, 32))
    benchmark = pair_folders("set", tmp_path / "LR", None)
    with pytest.raises(UserError, match=r"peer: no output in .*out for b\.png"):
        pair_outputs("peer", tmp_path / "out", benchmark)
    save(tmp_path / "out" / "b.png", (32, 31))
    with pytest.raises(UserError, match=r"peer: not 4 times the size of its input .*b\.png"):
        pair_outputs("peer", tmp_path / "out", benchmark)


def test_a_file_that_is_no_picture_is_named_before_anything_is_computed(tmp_path):
    save(tmp_path / "LR" / "a.png", (8, 8))
    (tmp_path / "HR").mkdir()
    (tmp_path / "HR" / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"HR.a\.png: not a picture"):
        pair_folders("set", tmp_path / "LR", tmp_path / "HR")
    with pytest.raises(UserError, match=r"HR.a\.png: not a picture"):
        pair_folders("without truth", tmp_path / "HR", None)


@pytest.mark.parametrize("config", [{}, {"hr": "HR"}, {"folder": "a", "lr": "b"}, {"lr": "a", "preset": "seesr"},
                                    {"hr": "HR", "preset": "sesr"}])
def test_a_benchmark_has_one_source(config):
    with pytest.raises(ValidationError, match="give folder, or lr|'sesr' is unknown; use realesrgan, seesr"):
        BenchmarkConfig(**config)


# ------------------------------------------------------------------------------------------------ synthetic


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(data.astronaut()[:90, 100:231]).save(folder / "astronaut.png")
    Image.fromarray(data.coffee()[100:200, 100:200]).save(folder / "coffee.png")
    return folder


def inputs(benchmark):
    return {item.name: np.asarray(Image.open(item.lr)) for item in benchmark.items}


def test_inputs_are_the_degraded_middles_of_photos(photos, tmp_path):
    benchmark = opened(tmp_path, hr=photos, preset="seesr", seed=1, crop=96)
    astronaut, coffee = benchmark.items
    truth = np.asarray(Image.open(coffee.hr))
    assert np.array_equal(truth, np.asarray(Image.open(photos / "coffee.png"))[2:98, 2:98])
    assert Image.open(astronaut.hr).size == (96, 88) and Image.open(astronaut.lr).size == (24, 22)
    batch = torch.from_numpy(truth.copy()).permute(2, 0, 1)[None] / 255
    likely = [degrade(batch, "seesr", seeds=[seed])[0].permute(1, 2, 0).numpy() * 255 for seed in range(8)]
    found = np.asarray(Image.open(coffee.lr)).astype(float)
    errors = [np.abs(found - each).mean() for each in likely]
    small = np.asarray(Image.open(coffee.hr).resize((24, 24), Image.Resampling.BOX)).astype(float)
    assert 1 < np.abs(found - small).mean() < 3 * max(errors)  # bad, but the same photo


def test_inputs_are_the_same_for_the_same_seed_and_do_not_depend_on_other_photos(photos, tmp_path):
    first = inputs(opened(tmp_path, hr=photos, preset="seesr", crop=64))
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "work").rglob("*.png"))]
    again = inputs(opened(tmp_path, hr=photos, preset="seesr", crop=64))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "work").rglob("*.png"))]  # kept
    (photos / "astronaut.png").unlink()
    alone = inputs(opened(tmp_path, hr=photos, preset="seesr", crop=64))
    assert list(alone) == ["coffee"] and np.array_equal(alone["coffee"], first["coffee"])
    for change in ({"seed": 1}, {"preset": "realesrgan"}):
        other = inputs(opened(tmp_path, hr=photos, **({"preset": "seesr", "crop": 64} | change)))
        assert not np.array_equal(other["coffee"], first["coffee"])


def test_a_mistake_in_another_benchmark_stops_before_inputs_are_made(photos, tmp_path):
    config = EvaluationConfig(output=tmp_path / "out", methods={"cubic": "bicubic"}, metrics=["psnr"], benchmarks={
        "made": {"hr": photos, "preset": "seesr", "crop": 64}, "RealSR": {"folder": tmp_path / "no"}})
    with pytest.raises(UserError, match="RealSR: no folder"):
        evaluate(config)
    assert not (tmp_path / "out").exists()


def test_a_synthetic_benchmark_is_measured_against_its_truths(photos, tmp_path):
    config = EvaluationConfig(output=tmp_path / "out", methods={"cubic": "bicubic"}, metrics=["psnr"], benchmarks={
        "made": {"hr": photos, "preset": "seesr", "crop": 64}})
    text = (evaluate(config) / "records.csv").read_text()
    assert text.count("made,cubic,astronaut,psnr") == text.count("made,cubic,coffee,psnr") == 1
    journal = (tmp_path / "out" / "journal.jsonl").read_text()
    evaluate(config)
    assert journal == (tmp_path / "out" / "journal.jsonl").read_text()
