"""Training runs, for real and small: they learn, they stop, and they go on to the same trajectory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import Dinov2Config, Dinov2Model

from instancersr.errors import UserError
from instancersr.lab.data.cache import CachedPhotos
from instancersr.lab.data.dataset import CropDataset
from instancersr.lab.method.models import BlockAutoencoder, JointDiT, RestorationNetwork
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.checkpoint import list_checkpoints, newest_model
from instancersr.lab.training.config import ConfigError, load_config
from instancersr.lab.training.data import start_method
from instancersr.lab.training.health import LossWatch
from instancersr.lab.training.trainer import Trainer, begin_moments, compile_networks, train_from_config


def losses_of(run: Path) -> dict[int, float]:
    return {line["images"]: line["loss"] for line in map(json.loads, (run / "losses.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def base(photo_folder, tmp_path_factory) -> dict:
    cache = tmp_path_factory.mktemp("cache")
    return {"batch": 2, "device": "cpu", "precision": "fp32", "threads": 1,
            "data": {"photos": str(photo_folder), "cache": str(cache), "crop": 64, "workers": 0},
            "log": {"checkpoint_images": 8, "sample_images": 1000, "validation_crops": 2}}


def write(folder: Path, base: dict, **values) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**base, "output": str(folder / "run"), **values}))
    return path


@pytest.fixture(scope="module")
def parts(base, tmp_path_factory) -> dict[str, str]:
    """An autoencoder and a restoration network, made by their own training commands."""
    folder = tmp_path_factory.mktemp("parts")
    autoencoder = train_from_config(write(folder, base, task="autoencoder", images=16, latent_channels=8,
                                          output=str(folder / "a")))
    restoration = train_from_config(write(folder, base, task="restoration", images=8, channels=8, blocks=1,
                                          output=str(folder / "r")))
    return {"autoencoder": str(autoencoder), "restoration": str(restoration)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A small random DINOv2 in the hub's layout."""
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return str(folder)


def diffusion(parts: dict, teacher: str, **values) -> dict:
    return {"task": "diffusion", "images": 16, **parts,
            "transformer": {"width": 32, "depth": 2, "heads": 2, "control_depth": 1},
            "alignment": {"layer": 1, "teacher": teacher, "teacher_layer": 1}, **values}


def test_parts_are_saved_as_models(parts):
    assert BlockAutoencoder.from_pretrained(parts["autoencoder"]).config.latent_channels == 8
    assert RestorationNetwork.from_pretrained(parts["restoration"]).config.channels == 8


def test_what_the_configuration_says_of_truths_reaches_the_samples(tmp_path, base):
    camera = {"downscale_prob": 1.0, "downscale_max": 1.5, "truth_blur": [0.5, 0.9], "truth_sharpen": [0.2, 1.0],
              "twin_prob": 1.0}
    path = write(tmp_path, base, task="restoration", images=8, channels=8, blocks=1, seed=4,
                 data={**base["data"], **camera})
    trainer = Trainer(load_config(path))
    expected = CropDataset(CachedPhotos(trainer.photos, False, 64), 64, seed=4, **camera)[0]
    sample = trainer._dataset(held_out=False)[0]
    assert torch.equal(sample["hr"], expected["hr"]) and torch.equal(sample["lr"], expected["lr"])


def test_restoration_learns(tmp_path, base):
    path = write(tmp_path, base, task="restoration", images=160, channels=16, blocks=2,
                 optimizer={"lr": 2e-3, "warmup_images": 8, "ema_images": 40})
    train_from_config(path)
    values = list(losses_of(tmp_path / "run").values())
    assert sum(values[-20:]) < 0.8 * sum(values[:20])


def test_learned_autoencoder_layers_improve_on_the_transform(tmp_path, base):
    path = write(tmp_path, base, task="autoencoder", images=120, latent_channels=4, refine_channels=8,
                 optimizer={"lr": 3e-3, "warmup_images": 8, "ema_images": 40})
    train_from_config(path)
    values = list(losses_of(tmp_path / "run").values())
    assert sum(values[-15:]) < sum(values[:15])


def test_diffusion_run_logs_every_term_and_exports_a_pipeline(tmp_path, base, parts, teacher):
    path = write(tmp_path, base, **diffusion(
        parts, teacher, alignment={"layer": 1, "teacher": teacher, "dispersion_weight": 0.1},
        sampler={"weight": 1.0, "steps": 2}, log={**base["log"], "sample_images": 8}))
    folder = train_from_config(path)
    line = json.loads((tmp_path / "run/losses.jsonl").read_text().splitlines()[0])
    terms = {"denoise_x", "denoise_m", "repa", "scale", "dispersion", "pixel", "map"}
    assert set(line) == terms | {"images", "loss"}
    assert line["loss"] == pytest.approx(sum(line[t] for t in terms), rel=1e-5)
    assert len(list((tmp_path / "run/samples").glob("*.png"))) == 2
    assert list((tmp_path / "run/tensorboard").iterdir())
    std = InstanceRSRPipeline.from_pretrained(folder).transformer.config.residual_std
    assert len(std) == 16 and len(set(std)) > 8  # measured, not the placeholder of ones


def test_literal_scale_targets_and_haste(tmp_path, base, parts, teacher):
    path = write(tmp_path, base, **diffusion(
        parts, teacher, alignment={"layer": 1, "teacher": teacher, "scale_targets": "literal", "until": 0.5}))
    train_from_config(path)
    lines = [json.loads(line) for line in (tmp_path / "run/losses.jsonl").read_text().splitlines()]
    assert ["repa" in line for line in lines] == [True] * 4 + [False] * 4


def test_accumulated_gradients_take_the_same_steps_as_the_whole_batch(tmp_path, base):
    runs = []
    for name, micro_batch in (("whole", None), ("parts", 3)):  # 4 images in parts of 3 and 1
        path = write(tmp_path, base, task="restoration", images=24, channels=8, blocks=1, batch=4,
                     micro_batch=micro_batch, optimizer={"lr": 1.0e-2, "warmup_images": 0}, output=str(tmp_path / name))
        train_from_config(path)
        runs.append(losses_of(tmp_path / name))
    whole, parts = runs
    assert list(whole) == list(parts) == [4, 8, 12, 16, 20, 24]
    assert all(parts[n] == pytest.approx(whole[n], rel=1e-4) for n in whole)


def run_command(config: Path, *overrides: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "instancersr", "train", str(config), *overrides],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def wait_for_checkpoint(run: Path, process: subprocess.Popen, timeout: float = 240) -> None:
    deadline = time.monotonic() + timeout
    while not list_checkpoints(run):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_run_goes_on_to_the_same_losses(tmp_path, base, parts, teacher):
    """kill -9 in the middle, the same command again: every later loss equals the undisturbed run's."""
    long = diffusion(parts, teacher, images=120)
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    train_from_config(write(tmp_path / "whole", base, **long, log={**base["log"], "keep": 100}))
    expected = losses_of(tmp_path / "whole/run")

    path = write(tmp_path / "cut", base, **long)
    process = run_command(path)
    wait_for_checkpoint(tmp_path / "cut/run", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(list_checkpoints(tmp_path / "cut/run")[-1].name.split("-")[1])
    assert reached < 120, "the run was over before it was killed"
    assert_same(newest_model(tmp_path / "cut/run"), tmp_path / f"whole/run/checkpoint-{reached:010d}/model")
    train_from_config(path)
    assert losses_of(tmp_path / "cut/run") == expected
    assert_same(*(tmp_path / run / "run/model" for run in ("whole", "cut")))
    assert_same(newest_model(tmp_path / "cut/run"), tmp_path / "cut/run/model")


def assert_same(one: Path, other: Path) -> None:
    """Two folders have the same transformer, with weights that were trained."""
    a, b = (InstanceRSRPipeline.from_pretrained(folder).transformer for folder in (one, other))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert a.final_layer.linear.weight.abs().sum() > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_leaves_a_checkpoint_of_the_last_step(tmp_path, base, number):
    """Ctrl-C in a terminal, and a scheduler's SIGTERM, reach the data workers too."""
    path = write(tmp_path, base, task="restoration", images=100000, channels=8, blocks=1,
                 data={**base["data"], "workers": 1})
    process = run_command(path)
    wait_for_checkpoint(tmp_path / "run", process)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in output
    assert "the same command goes on" in " ".join(output.split())
    last = int(list_checkpoints(tmp_path / "run")[-1].name.split("-")[1])
    assert last == max(losses_of(tmp_path / "run"))
    assert not list((tmp_path / "run").glob(".partial*"))


def test_a_killed_worker_is_one_line_and_the_run_goes_on_from_its_checkpoint(tmp_path, base):
    """As the kernel kills it where memory runs out."""
    path = write(tmp_path, base, task="restoration", images=100000, channels=8, blocks=1,
                 data={**base["data"], "workers": 1})
    process = run_command(path)
    wait_for_checkpoint(tmp_path / "run", process)
    [worker] = psutil.Process(process.pid).children(recursive=True)
    worker.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in output, output
    assert "data.workers: one of 1 processes that make crops was killed" in " ".join(output.split())
    reached = int(list_checkpoints(tmp_path / "run")[-1].name.split("-")[1])
    train_from_config(path, [f"images={reached + 2}", "data.workers=0"])
    assert max(losses_of(tmp_path / "run")) == reached + 2


WORKER_FAILS = """
import torch
from instancersr.lab.training.data import batches

class CutOff(torch.utils.data.Dataset):
    def __getitem__(self, number):
        raise EOFError("cut off")

next(batches(CutOff(), [[0]], 1, torch.device("cpu")))
"""


def test_an_error_in_a_worker_is_not_taken_for_its_death_and_ends_the_process():
    """The worker ignores SIGTERM, by which multiprocessing would end it at exit."""
    done = subprocess.run([sys.executable, "-c", WORKER_FAILS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "EOFError: cut off" in done.stderr, done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_do_not_change_the_trajectory(tmp_path, base, monkeypatch, method):
    """Nor how they begin: there is no fork on Windows, and none that is safe on a Mac."""
    if method == "spawn":
        monkeypatch.setattr(sys, "platform", "darwin")
    assert start_method() == method
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        train_from_config(write(folder, base, task="restoration", images=12, channels=8, blocks=1,
                                data={**base["data"], "workers": workers}))
    assert losses_of(tmp_path / "0/run") == losses_of(tmp_path / "2/run")


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(UserError, match="no run of `instancersr train`"):
        newest_model(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint with a model yet"):
        newest_model(tmp_path)
    for images in (8, 16):
        (tmp_path / f"checkpoint-{images:010d}/model").mkdir(parents=True)
    (tmp_path / "checkpoint-0000000008/state.json").write_text("{}")
    assert newest_model(tmp_path).parent.name == "checkpoint-0000000008"  # the other one is not complete


@pytest.mark.parametrize(("values", "message"), [
    ({"data": {"photos": "nowhere"}}, "data.photos: nowhere: no such shards"),
    ({"autoencoder": "nowhere"}, "autoencoder: nowhere: no autoencoder here"),
    ({"init": "nowhere"}, "init: nowhere.transformer holds no JointDiT"),
])
def test_what_is_missing_is_named(tmp_path, base, parts, teacher, values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        train_from_config(write(tmp_path, base, **{**diffusion(parts, teacher), **values}))
    assert "\n" not in str(caught.value)


def test_missing_teacher_names_the_command_that_fetches_it(tmp_path, base, parts, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="hf download nobody/nothing"):
        train_from_config(write(tmp_path, base, **diffusion(parts, "nobody/nothing")))


def test_checkpoint_of_another_network_is_refused(tmp_path, base):
    path = write(tmp_path, base, task="restoration", images=4, channels=8, blocks=1)
    train_from_config(path)
    with pytest.raises(ConfigError, match="does not fit this configuration"):
        train_from_config(path, ["channels=16"])


def test_a_damaged_checkpoint_is_told_from_another_network(tmp_path, base):
    path = write(tmp_path, base, task="restoration", images=8, channels=8, blocks=1,
                 log=base["log"] | {"checkpoint_images": 4})
    train_from_config(path)
    newest = list_checkpoints(tmp_path / "run")[-1]
    for part in newest.glob("*.distcp"):
        part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ConfigError, match=f"{newest.name}: is damaged; move it away"):
        train_from_config(path, ["images=12"])
    newest.rename(tmp_path / "away")
    train_from_config(path, ["images=12"])
    assert [int(folder.name.split("-")[1]) for folder in list_checkpoints(tmp_path / "run")] == [8, 12]


def test_a_failed_validation_loses_no_training(tmp_path, base, monkeypatch):
    path = write(tmp_path, base, task="restoration", images=16, channels=8, blocks=1,
                 log=base["log"] | {"sample_images": 8})
    monkeypatch.setattr(Trainer, "_validate", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        train_from_config(path)
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == ["checkpoint-0000000008"]


def test_a_run_that_is_stopped_in_a_bad_step_saves_after_the_next_good_one(tmp_path, base, monkeypatch):
    """The 22nd step's loss is a hundred times as large as it was, and Ctrl-C comes with it."""
    see = LossWatch.see

    def look(watch, images, terms, gradient):
        if images == 42:
            os.kill(os.getpid(), signal.SIGINT)
            terms = {name: 100 * value for name, value in terms.items()}
        see(watch, images, terms, gradient)

    monkeypatch.setattr(LossWatch, "see", look)
    with pytest.raises(KeyboardInterrupt, match="checkpoint saved at 46 images"):
        train_from_config(write(tmp_path, base, task="restoration", images=100, channels=8, blocks=1,
                                log=base["log"] | {"checkpoint_images": 1000}))
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == ["checkpoint-0000000046"]


def test_what_is_measured_before_the_first_step_fits_into_a_micro_batch(tmp_path, base, parts, monkeypatch):
    sizes = []
    monkeypatch.setattr("instancersr.lab.training.stages.paper.PaperObjective.measure_residual",
                        lambda _, batches: sizes.extend(len(batch["hr"]) for batch in batches))
    Trainer(load_config(write(tmp_path, base, task="diffusion", images=8, batch=8, micro_batch=2, **parts,
                              transformer={"width": 32, "depth": 2, "heads": 2, "control_depth": 1},
                              alignment={"layer": 1})))
    assert sum(sizes) == 256 and set(sizes) == {2}


def test_moments_from_the_start_are_those_of_the_first_step():
    ours, torchs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    late = torch.nn.Parameter(torch.ones(2))
    prepared, plain = (torch.optim.AdamW(list(parameters), 0.1, weight_decay=0.1, fused=True)
                       for parameters in ([ours, late], [torchs]))
    begin_moments(prepared)
    for step in range(3):
        for parameter, optimizer in ((ours, prepared), (torchs, plain)):
            parameter.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            optimizer.step()
    assert torch.equal(ours, torchs) and torch.equal(late, torch.ones(2))


def test_a_run_goes_on_whose_checkpoint_came_before_some_part_was_trained(tmp_path, base, parts):
    """With `direct_share` the sampler, and the decoder's view of its tokens, may not be trained for many steps."""
    values = {"task": "diffusion", "images": 8, **parts, "denoising_weight": 0.0,
              "transformer": {"width": 32, "depth": 2, "heads": 2, "control_depth": 1}, "alignment": {"layer": 1},
              "sampler": {"weight": 1.0, "steps": 1, "decoder_blocks": 1, "decoder_tokens": True, "direct_share": 1.0}}
    path = write(tmp_path, base, **values)
    train_from_config(path)
    train_from_config(path, ["images=16", "sampler.direct_share=0"])
    assert list(losses_of(tmp_path / "run")) == [2, 4, 6, 8, 10, 12, 14, 16]


def test_a_network_without_blocks_is_compiled_whole(monkeypatch):
    """`blocks` is a number of a restoration network's configuration, and the blocks of a transformer."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    restoration, transformer = RestorationNetwork(8, 2), JointDiT(width=32, depth=3, heads=2)
    compile_networks(torch.nn.ModuleDict({"restoration": restoration, "transformer": transformer}))
    assert compiled == [restoration, *transformer.blocks]


def test_weights_and_biases_keeps_the_run_offline(tmp_path, base, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = write(tmp_path, base, task="restoration", images=4, channels=8, blocks=1,
                 log={**base["log"], "sample_images": 4, "wandb": "tests"})
    train_from_config(path)
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    names, end = (b"loss/l1", b"validation/psnr", b"learning_rate"), time.monotonic() + 60
    while True:  # a process of its own writes the record, on a busy machine after the run has ended
        record = b"".join(file.read_bytes() for file in folder.glob("*.wandb"))
        if all(name in record for name in names) or time.monotonic() > end:
            break
        time.sleep(0.5)
    assert [name for name in names if name not in record] == []
