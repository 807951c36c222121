"""The ablation's three quantities on records whose answers can be worked out by hand, and a small one for real."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.evaluation.ablation import (
    AblationConfig,
    Record,
    differences,
    efficiency,
    markdown_tables,
    relative_quality,
    run_ablation,
    summarize,
    t_interval,
)
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.config import ConfigError, load_config, load_section

FALLING = [(1000, 1.0), (2000, 0.5), (3000, 0.4)]


def test_quality_counts_lpips_the_other_way():
    reference = {"psnr": 25.0, "lpips": 0.3}
    assert relative_quality(reference, reference) == 1
    assert relative_quality({"psnr": 25.0, "lpips": 0.6}, reference) == pytest.approx((1 + 0.5) / 2)
    assert relative_quality({"psnr": 30.0, "lpips": 0.3}, reference) == pytest.approx((1.2 + 1) / 2)


def test_efficiency_of_a_case_that_case_0_overtakes_half_way():
    # it ends at .75, which case 0 reaches between 1,000 (1.0) and 2,000 images (.5): at 1,500
    assert efficiency([(3000, 0.75)], FALLING) == pytest.approx(1500 / 3000)


def test_efficiency_of_the_reference_is_one_and_of_a_better_case_at_least_one():
    assert efficiency(FALLING, FALLING) == 1
    assert efficiency([(2000, 0.3)], FALLING) == pytest.approx(3000 / 2000)


def test_t_interval_is_students():
    # two values: t(.975, 1) = 12.706 and the standard error is half their distance
    mean, low, high = t_interval([1.0, 3.0])
    assert (mean, high - mean, mean - low) == pytest.approx((2, 12.7062, 12.7062), rel=1e-4)
    assert all(math.isnan(bound) for bound in t_interval([1.0])[1:])


def record(case: str, seed: int, psnr: float, awareness: float) -> Record:
    parts = {"map": awareness - 0.1, "probe": awareness + 0.1, "awareness": awareness}
    return Record(case, seed, {"psnr": psnr}, parts, FALLING, {})


def test_summary_compares_within_a_seed():
    records = [record("default", 0, 20.0, 0.6), record("default", 1, 40.0, 0.8),
               record("other", 0, 10.0, 0.5), record("other", 1, 20.0, 0.5)]
    summary = summarize(records, "default")
    assert summary["default"]["quality"] == pytest.approx((1, 1, 1))
    assert summary["other"]["quality"] == pytest.approx((0.5, 0.5, 0.5))  # half in each seed, so no spread
    assert summary["other"]["awareness"] == pytest.approx((0.5, 0.5, 0.5))
    assert summary["default"]["awareness"][0] == pytest.approx(0.7)
    tables = markdown_tables(records, "default")
    assert "| other | 0.500 (0.500 to 0.500) | 1.000" in tables and "Quality is over psnr." in tables


def test_differences_are_paired_by_seed():
    records = [record("default", 0, 20.0, 0.6), record("default", 1, 40.0, 0.8),
               record("other", 0, 19.0, 0.5), record("other", 1, 39.0, 0.6)]
    [(case, row)] = differences(records, "default").items()
    assert case == "other" and row["psnr"] == pytest.approx((-1, -1, -1))  # though the seeds are 20 dB apart
    half = 12.7062 * 0.05  # t(.975, 1) times the standard error of -.1 and -.2
    for part in ("map", "probe"):
        assert row[part] == pytest.approx((-0.15, -0.15 - half, -0.15 + half), rel=1e-4)
    assert "| other | -1.000 (-1.000 to -1.000) | -0.150 (-0.785 to +0.485) |" in markdown_tables(records, "default")


@pytest.fixture(scope="module")
def mini(photo_folder, tiny_model, tmp_path_factory) -> Path:
    """An ablation of minutes on two cores, here of seconds: three cases, one seed, on shards that are read in place."""
    folder = tmp_path_factory.mktemp("ablation")
    prepare_photos(photo_folder, folder / "shards", SampleSettings(size=128), shard_photos=2, workers=1)
    base = {"task": "diffusion", "output": "unused", "images": 16, "batch": 4, "device": "cpu", "precision": "fp32",
            "autoencoder": str(tiny_model / "autoencoder"), "restoration": str(tiny_model / "restoration"),
            "transformer": {"width": 32, "depth": 2, "heads": 2, "control_depth": 1},
            "alignment": {"layer": 1}, "sampler": {"steps": 2},
            "data": {"photos": str(folder / "shards"), "stream": True, "cache": str(folder / "cache"), "crop": 64,
                     "workers": 0},
            "optimizer": {"lr": 1.0e-3, "warmup_images": 0},
            "log": {"checkpoint_images": 8, "sample_images": 8, "validation_crops": 4}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    config = {"base": "base.yaml", "output": str(folder / "out"), "seeds": [0], "crops": 16, "metrics": ["psnr"],
              "training": ["alignment.scale_weight=0.2"], "probed": ["default", "no-mask"], "clouds": ["no-mask"],
              "cases": {"default": [], "no-mask": ["mask_modelling=false"], "layer-2": ["alignment.layer=2"]},
              "steps": [1, 3], "layers": {"default": 1, "layer-2": 2}}
    (folder / "mini.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "mini.yaml"


@pytest.fixture(scope="module")
def finished(mini) -> Path:
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install '.[eval]'")
    return run_ablation(mini)


@pytest.mark.parametrize("name", ["mini", "long"])
def test_the_shipped_ablations_are_valid(name):
    path = Path(__file__).parents[3] / "configs" / "ablations" / f"{name}.yaml"
    config = load_section(AblationConfig, path)
    for overrides in config.cases.values():
        load_config(path.parent / config.base, [*config.training, *overrides])


def test_the_long_ablation_has_the_cases_of_the_short_one_with_ten_times_the_crops():
    folder = Path(__file__).parents[3] / "configs" / "ablations"
    short, long = (load_section(AblationConfig, folder / f"{name}.yaml") for name in ("mini", "long"))
    assert list(long.cases)[: len(short.cases)] == list(short.cases) and long.seeds == [0, 1, 2]
    images = [load_config(folder / config.base, config.training).images for config in (short, long)]
    assert images[1] == 10 * images[0] and long.output != short.output
    kind = load_config(folder / long.base, [*long.training, *long.cases["stablesr-kind"]])
    assert (kind.mask_modelling, kind.alignment.weight, kind.alignment.scale_weight) == (False, 0, 0)


def test_ablation_from_training_to_table_and_figures(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary) == ["default", "no-mask", "layer-2"]
    assert summary["default"]["quality"][0] == summary["default"]["efficiency"][0] == 1
    for row in summary.values():
        assert 0 < row["awareness"][0] < 1 and 0 < row["quality"][0] < 10
    record = json.loads((finished / "records" / "default-0.json").read_text())
    assert [images for images, _ in record["curve"]] == [8, 16] and set(record["by_steps"]) == {"1", "3"}
    assert set(record["by_block"]) == {"1", "2"}  # one after the other, of the one model
    assert record["by_block"]["1"] == pytest.approx(record["awareness"]["probe"])  # block 1 is the aligned one
    [run] = (finished / "runs").glob("default-0-*")
    case = json.loads((run / "run.json").read_text())["starts"][0]["config"]
    assert case["alignment"]["scale_weight"] == 0.2
    drawn = {path.name for path in (finished / "figures").iterdir()}
    assert drawn == {f"figure{name}.{kind}" for name in ("1-tsne", "4a-layers", "4a-probing", "4b-steps", "4c-progress")
                     for kind in ("png", "svg")}


def test_no_photo_is_decoded_into_a_cache(finished):
    """Neither by training nor by a measuring step: the shards are read in place, by the index beside them."""
    assert (finished.parent / "shards" / "index.npy").exists() and not (finished.parent / "cache").exists()


def test_without_mask_modelling_the_map_is_ignored(finished):
    [run] = (finished / "runs").glob("no-mask-0-*")
    pipeline = InstanceRSRPipeline.from_pretrained(run / "model")
    weight = pipeline.transformer.x_embedder.proj.weight
    half = weight.shape[1] // 2
    assert weight[:, half:].abs().max() == 0 < weight[:, :half].abs().max()


def test_a_second_run_trains_and_measures_nothing(finished, mini, monkeypatch):
    from instancersr.lab.training.trainer import Trainer

    before = (finished / "table.md").read_text()
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    run_ablation(mini)
    assert (finished / "table.md").read_text() == before


def test_other_settings_are_another_run_and_not_the_finished_one_measured_anew(finished, mini, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    cases = ["cases={default: [], no-mask: [mask_modelling=false, optimizer.lr=1.0e-5]}", f"output={tmp_path / 'out'}",
             "probed=[]", "clouds=[]", "layers={}"]
    run_ablation(mini, cases)
    one, other = ([json.loads(line)["loss"] for line in (run / "losses.jsonl").read_text().splitlines()]
                  for run in (tmp_path / "out/runs").glob("no-mask-0-*"))
    assert one[0] == other[0] and one[-1] != other[-1]  # the same first step, then another rate


@pytest.mark.parametrize(("override", "named"), [
    ("crop=3", "crop: unknown key"),
    ("metrics=[psrn]", "metrics: .*'psrn' is unknown"),
    ("cases.no-mask=[mask_modeling=false]", "cases.no-mask: .*mask_modeling: unknown key"),
    ("probed=[defualt]", "probed: there is no case 'defualt'"),
    ("metrics=[fid]", "'fid' is unknown or no metric of single pictures"),
    ("base=nowhere.yaml", "nowhere.yaml: cannot be read"),
    ("steps=[0, 1]", r"steps\.0: .*greater than or equal to 1"),
    ("steps=[1, 99999]", "mini.yaml: steps: must be 1 to 1000, not 99999"),
    ("training=[sampler.steps=1001]", "cases.default: sampler.steps: must be 1 to 1000, not 1001"),
    ("layers.layer-2=99", "layers.layer-2: the case aligns layer 2, not 99"),
    ("seeds=[0, -3]", r"seeds\.1: .*greater than or equal to 0"),
])  # fmt: skip
def test_a_bad_configuration_names_the_key_before_anything_is_trained(mini, override, named, tmp_path, monkeypatch):
    from instancersr.lab.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=named):
        run_ablation(mini, [override, f"output={tmp_path}"])
