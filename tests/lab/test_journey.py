"""A lab's way from photos to scores, as its commands are typed: two processes, killed on the way, on small networks.

The configuration is `configs/paper.yaml`; the networks it begins from are small and random, in the hub's layouts.
"""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.lab.training.checkpoint import list_checkpoints

PAPER = Path(__file__).parents[2] / "configs/paper.yaml"
SIDE, BATCH, IMAGES = 64, 4, 80
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
INSTANCERSR = [sys.executable, "-m", "instancersr"]


def run(*arguments: str | Path, folder: Path) -> str:
    """A command's output. It must succeed."""
    done = subprocess.run([*INSTANCERSR, *map(str, arguments)], cwd=folder, env=ENVIRONMENT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def lab(photo_folder, save_hub_models, tmp_path) -> Path:
    """A folder with a DiT, an AutoencoderKL and a DINOv2 in the hub's layouts, photos, and a pair to be scored on."""
    save_hub_models(tmp_path, SIDE // 8)
    (tmp_path / "photos").symlink_to(photo_folder)
    for name in ("lr", "hr"):
        (tmp_path / name).mkdir()
    truth = Image.open(photo_folder / "photo10.png").resize((96, 64))
    truth.save(tmp_path / "hr/held_out.png")
    truth.resize((24, 16), Image.Resampling.BICUBIC).save(tmp_path / "lr/held_out.png")
    return tmp_path


TRAIN = ["train", str(PAPER), "--processes=2", "device=cpu", "precision=fp32", "threads=1", "output=run",
         "autoencoder=vae", "backbone.pretrained=dit", "alignment.teacher=dinov2", "alignment.layer=2",
         f"images={IMAGES}", f"batch={BATCH}", "micro_batch=1", f"data.crop={SIDE}", "data.workers=1",
         "data.stored=true", "transformer={width: 32, depth: 3, heads: 2, control_depth: 2, prediction: noise, "
         "num_classes: 10, learned_variance: true}", "optimizer={lr: 1.0e-3, warmup_images: 0, ema_images: 100}",
         f"log={{checkpoint_images: {2 * BATCH}, sample_images: {IMAGES}, validation_crops: 1}}"]


def kill_in_the_middle(folder: Path) -> int:
    """Begins the training, ends it and all its processes by SIGKILL after a checkpoint; the images it had seen."""
    with open(folder / "killed.log", "w") as log:
        training = subprocess.Popen([*INSTANCERSR, *TRAIN], cwd=folder, env=ENVIRONMENT, stdout=log,
                                    stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 240
        while not list_checkpoints(folder / "run"):
            assert training.poll() is None and time.monotonic() < deadline, (folder / "killed.log").read_text()
            time.sleep(0.02)
        everyone = [psutil.Process(training.pid), *psutil.Process(training.pid).children(recursive=True)]
        for process in everyone:
            process.kill()
        training.wait()
        psutil.wait_procs(everyone[1:])
    reached = int(list_checkpoints(folder / "run")[-1].name.split("-")[1])
    assert 0 < reached < IMAGES, "the run was over before it was killed"
    return reached


@pytest.mark.timeout(1800)  # on a busy machine; a minute and a half of computing
def test_from_photos_to_scores_with_a_kill_on_the_way(lab):
    run("prepare", "photos", "shards", "--size", SIDE, "--shard-photos", 2, "--latents", "vae", "--features", "dinov2",
        "--workers", 1, "--device", "cpu", folder=lab)
    index = lab / "shards/index.npy"
    assert len(np.load(index)) == 6 and len(list(lab.glob("shards/*.tar"))) == 3
    written = index.stat().st_mtime_ns, index.read_bytes()

    reached = kill_in_the_middle(lab)
    run("export", "run", "early", folder=lab)  # of the killed run
    printed = run(*TRAIN, folder=lab)
    assert "Traceback" not in printed
    starts = json.loads((lab / "run/run.json").read_text())["starts"]
    assert [(start["images"], start["machine"]["processes"]) for start in starts] == [(0, 2), (reached, 2)]
    losses = {line["images"]: line for line in map(json.loads, (lab / "run/losses.jsonl").read_text().splitlines())}
    assert sorted(losses) == list(range(BATCH, IMAGES + 1, BATCH))
    assert set(losses[BATCH]) == {"images", "loss", "denoise_x", "denoise_m", "repa", "scale"}
    # the shards' own index was used, and no other was built
    assert (index.stat().st_mtime_ns, index.read_bytes()) == written
    assert not list(lab.glob("cache/*"))

    run("export", "run", "mine", folder=lab)
    early, mine = (InstanceRSRPipeline.from_pretrained(lab / name).transformer.blocks[0] for name in ("early", "mine"))
    assert any(not torch.equal(a, b) for a, b in zip(early.parameters(), mine.parameters(), strict=True))
    run("upscale", "lr", "--model", "mine", "-o", "out", "--steps", 2, "--instances", folder=lab)
    upscaled = Image.open(lab / "out/held_out_x4.png")
    assert upscaled.size == (96, 64) and len(upscaled.getcolors(maxcolors=96 * 64)) > 100

    run("evaluate", "--lr", "lr", "--hr", "hr", "--method", "mine=mine", "--method", "files=out", "--method",
        "early=early", "--metrics", "psnr", "-o", "scores", folder=lab)
    with open(lab / "scores/records.csv") as file:
        psnr = {row["method"]: float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "psnr"}
    assert set(psnr) == {"mine", "files", "early"} and all(np.isfinite(list(psnr.values())))
    assert psnr["early"] != psnr["mine"]
