"""`instancersr evaluate` as a user runs it, on small pictures."""

import csv
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from instancersr.cli.app import app
from instancersr.errors import UserError
from instancersr.lab.evaluation.benchmarks import pair_folders
from instancersr.lab.evaluation.evaluate import BenchmarkConfig, EvaluationConfig, Journal, evaluate, summarize
from instancersr.lab.evaluation.metrics import load_metrics


@pytest.fixture
def folders(tmp_path):
    """Two pictures; test_LR and test_HR as StableSR has them, and outputs that are the truth itself."""
    for folder in ("test_LR", "test_HR", "outputs"):
        (tmp_path / folder).mkdir()
    for name, left in (("a", 0), ("b", 100)):
        truth = Image.fromarray(data.astronaut()[:64, left : left + 96])
        truth.save(tmp_path / "test_HR" / f"{name}_HR.png")
        truth.save(tmp_path / "outputs" / f"{name}_x4.png")
        truth.resize((24, 16), Image.Resampling.BICUBIC).save(tmp_path / "test_LR" / f"{name}_LR4.png")
    return tmp_path


def configuration(folders, **methods):
    return EvaluationConfig(output=folders / "out", benchmarks={"tiny": BenchmarkConfig(lr=folders / "test_LR",
                            hr=folders / "test_HR")}, methods=methods, metrics=["psnr", "ssim"])


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_command_writes_records_summary_and_table(folders):
    answer = CliRunner().invoke(app, ["evaluate", "--lr", str(folders / "test_LR"), "--hr", str(folders / "test_HR"),
                                      "--method", "cubic=bicubic", "--method", f"perfect={folders / 'outputs'}",
                                      "--metrics", "psnr,ssim", "-o", str(folders / "out")])
    assert answer.exit_code == 0, answer.output
    records = rows(folders / "out" / "records.csv")
    assert list(records[0]) == ["benchmark", "method", "image", "metric", "value"]
    perfect = {r["image"]: float(r["value"]) for r in records if (r["method"], r["metric"]) == ("perfect", "ssim")}
    assert perfect == {"a": 1, "b": 1}
    summary = rows(folders / "out" / "summary.csv")
    assert list(summary[0]) == ["benchmark", "method", "metric", "mean", "low", "high", "n"]
    cubic = [float(r["value"]) for r in records if (r["method"], r["metric"]) == ("cubic", "psnr")]
    row = next(r for r in summary if (r["method"], r["metric"]) == ("cubic", "psnr"))
    assert float(row["mean"]) == pytest.approx(np.mean(cubic)) and row["n"] == "2"
    assert "| perfect |" in (folders / "out" / "table.md").read_text()


def test_second_run_adds_no_measurement_and_a_changed_input_does(folders):
    config = configuration(folders, cubic="bicubic")
    journal = evaluate(config) / "journal.jsonl"
    first = journal.read_text()
    evaluate(config)
    assert journal.read_text() == first
    picture = folders / "test_LR" / "a_LR4.png"
    Image.new("RGB", (24, 16)).save(picture)
    evaluate(config)
    added = [json.loads(line) for line in journal.read_text()[len(first):].splitlines()]
    assert {line[2] for line in added} == {"a"}


def test_journal_survives_a_line_that_a_kill_cut_off(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('["a", 1.0]\n["b", 2.')
    journal = Journal(path)
    assert (journal.get("a"), journal.get("b")) == (1.0, None)
    journal.add(3.0, "b")
    assert (Journal(path).get("a"), Journal(path).get("b")) == (1.0, 3.0)


def test_missing_truth_is_named_before_anything_is_computed(folders):
    (folders / "test_HR" / "b_HR.png").unlink()
    with pytest.raises(UserError, match=r"no truth in .*test_HR for b_LR4\.png"):
        evaluate(configuration(folders, cubic="bicubic"))
    assert not (folders / "out").exists()


@pytest.mark.parametrize("folder,name", [("test_HR", "b_HR.png"), ("outputs", "b_x4.png")])
def test_wrong_size_is_named_before_anything_is_computed(folders, folder, name):
    Image.new("RGB", (95, 64)).save(folders / folder / name)
    with pytest.raises(UserError, match=r"not 4 times the size of .*b_"):
        evaluate(configuration(folders, cubic="bicubic", done=str(folders / "outputs")))
    assert not (folders / "out").exists()


@pytest.mark.parametrize("name", ["test_LR/b_LR4.png", "test_HR/b_HR.png", "outputs/b_x4.png"])
def test_a_file_that_is_cut_off_is_named_before_anything_is_measured(folders, name):
    whole = (folders / name).read_bytes()
    (folders / name).write_bytes(whole[: len(whole) // 2])
    answer = CliRunner().invoke(app, ["evaluate", "--lr", str(folders / "test_LR"), "--hr", str(folders / "test_HR"),
                                      "--method", "cubic=bicubic", "--method", f"done={folders / 'outputs'}",
                                      "--metrics", "psnr", "-o", str(folders / "out")])
    assert answer.exit_code == 2 and isinstance(answer.exception, SystemExit)
    assert f"{folders / name}: the picture is damaged or cut off" in answer.stderr and "measured" not in answer.stderr
    assert not (folders / "out" / "journal.jsonl").exists()


def test_a_damaged_model_is_left_out_and_the_others_are_measured(folders, tiny_model):
    shutil.copytree(tiny_model, folders / "m")
    (folders / "m" / "restoration" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    told = []
    folder = evaluate(configuration(folders, ours=str(folders / "m"), cubic="bicubic"), told.append)
    assert {r["method"] for r in rows(folder / "summary.csv")} == {"cubic"}
    assert any(line.startswith("ours on tiny is left out: ") and str(folders / "m") in line for line in told)


def test_a_method_that_fails_with_a_picture_is_left_out_and_the_others_are_measured(folders, tiny_model, monkeypatch):
    from instancersr import InstanceRSRPipeline

    def fail(*arguments, **options):
        raise ValueError("it cannot be")

    monkeypatch.setattr(InstanceRSRPipeline, "__call__", fail)
    told = []
    folder = evaluate(configuration(folders, ours=str(tiny_model), cubic="bicubic"), told.append)
    assert {r["method"] for r in rows(folder / "summary.csv")} == {"cubic"}
    reason = f"ours: failed with {folders / 'test_LR' / 'a_LR4.png'} (it cannot be)"
    assert f"ours on tiny is left out: {reason}" in told and reason in (folder / "table.md").read_text()


def test_two_files_of_one_name_are_named(folders):
    Image.new("RGB", (24, 16)).save(folders / "test_LR" / "a_LR.png")
    with pytest.raises(UserError, match="a_LR.png and a_LR4.png"):
        pair_folders("tiny", folders / "test_LR", folders / "test_HR")


def test_without_truth_only_what_needs_none_is_measured(folders):
    if "niqe" in load_metrics(["niqe"])[1]:
        pytest.skip("niqe needs pyiqa and its parameters")
    Image.fromarray(data.astronaut()[:64, :64]).save(folders / "test_LR" / "c_LR4.png")
    told = []
    config = EvaluationConfig(output=folders / "out", benchmarks={"blind": BenchmarkConfig(lr=folders / "test_LR")},
                              methods={"cubic": "bicubic"}, metrics=["psnr", "niqe"])
    evaluate(config, told.append)
    measured = {(r["image"], r["metric"]) for r in rows(folders / "out" / "records.csv")}
    # 96x64 is too small for NIQE's blocks of 96 pixels: named, and the third is measured
    assert {pair for pair in measured if pair[1] in ("psnr", "niqe")} == {("c", "niqe")}
    assert any(line.startswith("niqe of some images of cubic on blind is left out: a: ") for line in told)


def test_a_typo_in_a_configuration_names_the_key(folders):
    path = folders / "c.yaml"
    path.write_text(yaml.safe_dump({"output": "o", "benchmarks": {}, "methods": {}, "metrcis": []}))
    answer = CliRunner().invoke(app, ["evaluate", str(path)])
    assert answer.exit_code == 2 and "metrcis: unknown key" in answer.output


def test_interval_is_that_of_scipys_bootstrap():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).normal(5, 2, 100)
    [(*_, mean, low, high, n)] = summarize(("b", "m", str(i), "psnr", v) for i, v in enumerate(values))
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=9999, random_state=0).confidence_interval
    assert (mean, n) == (pytest.approx(values.mean()), 100)
    assert (low, high) == (pytest.approx(expected.low, abs=0.05), pytest.approx(expected.high, abs=0.05))


def test_published_scores_of_each_image_are_a_method_marked_as_such(folders):
    scores = folders / "scores.json"
    scores.write_text(json.dumps({"a_LR4.png": {"PSNR": 20.0, "Runtime": 1}, "b_LR4.png": {"PSNR": 30.0}}))
    evaluate(configuration(folders, peer=str(scores)))
    [row] = rows(folders / "out" / "summary.csv")
    assert (row["method"], row["metric"], float(row["mean"])) == ("peer (published)", "psnr", 25)
    scores.write_text(json.dumps({"a_LR4.png": {"PSNR": 20.0}}))
    with pytest.raises(UserError, match="no scores of b_LR4.png"):
        evaluate(configuration(folders, peer=str(scores)))


def test_what_a_method_cannot_do_is_left_out_with_the_reason_and_the_others_are_measured(folders):
    broken = folders / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    told = []
    evaluate(configuration(folders, broken=str(broken), cubic="bicubic"), told.append)
    assert {r["method"] for r in rows(folders / "out" / "summary.csv")} == {"cubic"}
    assert any(line.startswith("broken on tiny is left out: ") for line in told)
    assert "broken on tiny is left out" in (folders / "out" / "table.md").read_text()


def test_progress_counts_what_is_left_to_measure(folders):
    shown = []
    evaluate(configuration(folders, cubic="bicubic"), show=lambda done, total: shown.append((done, total)))
    assert shown == [(0, 2), (1, 2), (2, 2)]
    shown.clear()
    evaluate(configuration(folders, cubic="bicubic"), show=lambda done, total: shown.append((done, total)))
    assert shown == [(0, 0)]


def test_parquet_holds_the_records_of_the_csv(folders):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install '.[eval]'")
    folder = evaluate(configuration(folders, cubic="bicubic"))
    table = parquet.read_table(folder / "records.parquet").to_pylist()
    assert [{name: str(value) for name, value in row.items()} for row in table] == rows(folder / "records.csv")


def test_figure_3_has_input_outputs_and_truth_and_a_wrong_box_is_named(folders):
    pytest.importorskip("matplotlib")
    config = configuration(folders, cubic="bicubic", done=str(folders / "outputs"))
    folder = evaluate(config.model_copy(update={"boxes": {"tiny": {"a": (10, 20, 30, 20)}}}))
    text = (folder / "figures" / "figure3-comparison.svg").read_text()
    assert text.count("<image") == 5  # the truth whole, then the box of input, two outputs and truth
    assert (folder / "figures" / "figure3-comparison.png").exists()
    for image, box, message in (("a", (80, 0, 30, 20), "leaves the picture, 96x64"),
                                ("c", (0, 0, 9, 9), "no such image")):
        with pytest.raises(UserError, match=rf"boxes\.tiny\.{image}: .*{message}"):
            evaluate(config.model_copy(update={"boxes": {"tiny": {image: box}}}))
