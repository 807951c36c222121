"""Several processes on this machine's CPU (gloo): the same training as one, and checkpoints for any number of them."""

import json
import os
import shutil
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

from instancersr.lab.method.models import BlockAutoencoder, RestorationNetwork
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.checkpoint import list_checkpoints
from instancersr.lab.training.trainer import train_from_config

STEPS = 20
BATCH = 4


def losses_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
INSTANCERSR = [sys.executable, "-m", "instancersr", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def launch(processes: int, path: Path, torchrun: bool = False) -> str:
    """`instancersr train` in so many processes; what it prints. It must succeed."""
    command = [*INSTANCERSR, str(path), f"--processes={processes}"]
    if torchrun:
        command = [*TORCHRUN, f"--nproc-per-node={processes}", *INSTANCERSR[1:], str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def config(photo_folder, tmp_path_factory) -> dict:
    """A small diffusion run with all three losses. The scale of its instances differs from photo to photo."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    BlockAutoencoder(8).save_pretrained(folder / "autoencoder")
    RestorationNetwork(8, 1).save_pretrained(folder / "restoration")
    Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56,
                             patch_size=14)).save_pretrained(folder / "teacher")
    return {"task": "diffusion", "images": STEPS * BATCH, "batch": BATCH, "device": "cpu", "precision": "fp32",
            "threads": 1, "autoencoder": str(folder / "autoencoder"), "restoration": str(folder / "restoration"),
            "transformer": {"width": 32, "depth": 2, "heads": 2, "control_depth": 1},
            "alignment": {"layer": 1, "teacher": str(folder / "teacher")},
            "optimizer": {"lr": 2e-3, "warmup_images": 0, "ema_images": 20},
            "data": {"photos": str(photo_folder), "cache": str(folder / "cache"), "crop": 64, "workers": 0},
            "log": {"checkpoint_images": STEPS * BATCH // 2, "keep": 5, "sample_images": STEPS * BATCH,
                    "validation_crops": 2}}


def write(folder: Path, config: dict, name: str, **values) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "output": str(folder / name), **values}))
    return path


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory) -> Path:
    """One process; two with a copy each, which accumulate gradients; two that share one sharded model."""
    folder = tmp_path_factory.mktemp("runs")
    train_from_config(write(folder, config, "one"))
    launch(2, write(folder, config, "copies", micro_batch=1))
    launch(2, write(folder, config, "shards", sharded=True), torchrun=True)
    return folder


@pytest.mark.parametrize("kind", ["copies", "shards"])
def test_two_processes_have_the_losses_of_one(runs, kind):
    expected, found = losses_of(runs / "one"), losses_of(runs / kind)
    assert [line["images"] for line in found] == [BATCH * (n + 1) for n in range(STEPS)]
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, abs=1e-4)
    assert abs(expected[0]["loss"] - expected[-1]["loss"]) > 0.02  # there was something to follow


@pytest.mark.parametrize("kind", ["copies", "shards"])
def test_two_processes_export_the_model_of_one(runs, kind):
    a, b = (InstanceRSRPipeline.from_pretrained(runs / run / "model") for run in ("one", kind))
    for name in ("transformer", "controlnet"):
        for p, q in zip(getattr(a, name).parameters(), getattr(b, name).parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3)
    looks = [json.loads((runs / run / "validation.jsonl").read_text()) for run in ("one", kind)]
    assert looks[1] == pytest.approx(looks[0], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("kind", "processes"), [("copies", 1), ("shards", 1), ("shards", 4)])
def test_a_checkpoint_of_two_processes_goes_on_with_another_number(runs, config, tmp_path, kind, processes):
    half = list_checkpoints(runs / kind)[0]
    assert half.name.endswith(str(STEPS * BATCH // 2))
    shutil.copytree(half, tmp_path / "again" / half.name)
    path = write(tmp_path, config, "again", sharded=processes > 1)
    if processes == 1:
        train_from_config(path)
    else:
        launch(processes, path)
    expected, found = losses_of(runs / "one")[STEPS // 2 :], losses_of(tmp_path / "again")
    assert len(found) == STEPS // 2
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, abs=1e-4)


def test_sharded_checkpoint_has_a_part_from_each_process(runs):
    parts = {path.name.split("_")[2] for path in list_checkpoints(runs / "shards")[-1].glob("*.distcp")}
    assert parts == {"0", "1"}


def test_run_is_recorded_once_with_what_made_it(runs, config):
    (start,) = json.loads((runs / "shards/run.json").read_text())["starts"]
    assert start["machine"]["processes"] == 2 and start["images"] == 0
    assert start["config"]["seed"] == 0 and start["config"]["alignment"]["layer"] == 1
    assert torch.__version__.startswith(start["packages"]["torch"])


def test_what_has_nothing_to_train_needs_no_gradients_between_processes(config, tmp_path):
    """The block transform is fitted in closed form."""
    values = {key: config[key] for key in ("batch", "device", "precision", "threads", "data", "log")}
    launch(2, write(tmp_path, values, "fitted", task="autoencoder", images=16, latent_channels=8))
    assert BlockAutoencoder.from_pretrained(tmp_path / "fitted/model").config.latent_channels == 8


@pytest.mark.parametrize("launcher", [["--processes=2"], None], ids=["processes", "torchrun"])
def test_batch_that_does_not_divide_is_one_line(config, tmp_path, launcher):
    path = write(tmp_path, {**config, "autoencoder": "nowhere"}, "odd", batch=3)  # found before any model is built
    command = [*INSTANCERSR, str(path), *launcher] if launcher else [*TORCHRUN, "--nproc-per-node=2", *INSTANCERSR[1:],
                                                                      str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    said = "error: batch: 3 images do not divide among 2 processes"
    assert done.returncode and said in done.stderr
    if launcher:
        assert done.returncode == 2 and done.stderr.splitlines() == [said]


def test_what_all_processes_run_into_is_said_once(config, tmp_path):
    path = write(tmp_path, {**config, "restoration": str(tmp_path / "nowhere")}, "lost")
    done = subprocess.run([*INSTANCERSR, str(path), "--processes=2"], env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "restoration: " in line and "nowhere" in line and "Traceback" not in done.stderr


def test_two_launchers_are_one_too_many(config, tmp_path):
    path = write(tmp_path, config, "both")
    done = subprocess.run([*INSTANCERSR, str(path), "--processes=2"], env=ENVIRONMENT | {"WORLD_SIZE": "2"},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "--processes is instead of torchrun" in done.stderr
    assert not (tmp_path / "both").exists()


def begin(path: Path, run: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A run in two processes that has made a step, and these."""
    main = subprocess.Popen([*INSTANCERSR, str(path), "--processes=2"], env=ENVIRONMENT, stderr=subprocess.PIPE,
                            stdout=subprocess.DEVNULL, text=True)
    losses, deadline = run / "losses.jsonl", time.monotonic() + 240
    while not (losses.exists() and losses.stat().st_size):
        assert main.poll() is None and time.monotonic() < deadline, main.communicate()
        time.sleep(0.02)
    return main, psutil.Process(main.pid).children()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_to_the_one_that_started_the_others_saves_a_checkpoint(config, tmp_path):
    main, others = begin(write(tmp_path, config, "long", images=10**6), tmp_path / "long")
    main.send_signal(signal.SIGTERM)
    _, said = main.communicate(timeout=120)
    (checkpoint,) = list_checkpoints(tmp_path / "long")
    reached = len(losses_of(tmp_path / "long")) * BATCH
    assert main.returncode == 130 and checkpoint.name.endswith(str(reached)) and len(others) == 2
    assert said.splitlines()[-1] == (f"interrupted: checkpoint saved at {reached:,} images; the same command goes on")
    assert not any(process.is_running() for process in others)


@pytest.mark.skipif(sys.platform != "linux", reason="signals that the system sends")
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_is_killed_none_is_left_and_it_is_said(config, tmp_path, victim):
    main, others = begin(write(tmp_path, config, "long", images=10**6), tmp_path / "long")
    others[victim].kill()
    _, said = main.communicate(timeout=120)
    assert main.returncode == 2 and "Traceback" not in said
    assert said.splitlines()[-1] == (f"error: process {victim} terminated with signal SIGKILL; the same command goes "
                                     "on from the run's last checkpoint")
    assert not any(process.is_running() for process in others)


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells them that their parent is gone")
def test_processes_whose_parent_is_killed_save_and_end(config, tmp_path):
    main, others = begin(write(tmp_path, config, "long", images=10**6), tmp_path / "long")
    main.kill()
    _, alive = psutil.wait_procs(others, timeout=120)
    assert not alive and list_checkpoints(tmp_path / "long")
    main.communicate()
