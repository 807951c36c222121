"""Seconds from the command to the first step of the optimizer, of a run on prepared shards that have an index.

    python benchmarks/start.py [--size 512] [--masks 100] [--photos 24] [--processes 2] [--rounds 3] [--rows 11200000]

The run is `instancersr train --processes` on the shards of `benchmarks/samples.py`, with a small transformer that
predicts noise, a small DINOv2 and the small autoencoder that the shards' latents are from: what networks of the paper's
size add is the time to read their weights. Each round begins a run of its own and ends it after its first step, when
`losses.jsonl` has its first line. Last: the time to open an index of --rows photos, as SA-1B has them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import yaml
from samples import make_shards
from transformers import Dinov2Config, Dinov2Model

from instancersr.lab.data.index import open_index, shard_sources

TIMEOUT = 300


def make_run(folder: Path, options: argparse.Namespace) -> Path:
    """The shards, the networks, and the run's configuration."""
    teacher = Dinov2Config(hidden_size=384, num_hidden_layers=1, num_attention_heads=6, image_size=56, patch_size=14)
    Dinov2Model(teacher).save_pretrained(folder / "teacher")
    config = {"task": "diffusion", "output": "run", "images": 10**6, "batch": 2 * options.processes, "device": "cpu",
              "threads": 1, "autoencoder": "autoencoder",
              "transformer": {"width": 64, "depth": 3, "heads": 2, "control_depth": 2, "prediction": "noise"},
              "schedule": {"rescale_betas_zero_snr": False}, "alignment": {"layer": 2, "teacher": "teacher"},
              "data": {"photos": str(make_shards(folder, options)), "crop": options.size, "stream": True,
                       "stored": True}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def seconds_to_first_step(folder: Path, output: str, processes: int) -> float:
    """Of a run that begins anew in `output`, and is ended there."""
    command = [sys.executable, "-m", "instancersr", "train", "run.yaml", f"output={output}", f"--processes={processes}"]
    losses = folder / output / "losses.jsonl"
    with open(folder / f"{output}.log", "w") as log:
        start = time.monotonic()
        run = subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        while not (losses.exists() and losses.stat().st_size):
            if run.poll() is not None or time.monotonic() - start > TIMEOUT:
                run.kill()
                sys.exit((folder / f"{output}.log").read_text())
            time.sleep(0.01)
        seconds = time.monotonic() - start
        for process in [*psutil.Process(run.pid).children(recursive=True), run]:  # asked to stop, it would save first
            process.kill()
        run.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"size": 512, "masks": 100, "photos": 24, "processes": 2, "rounds": 3,
                        "rows": 11_200_000}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_run(Path(name), options)
        seconds = [seconds_to_first_step(folder, f"run{number}", options.processes) for number in range(options.rounds)]
        print(f"first step after {' '.join(f'{value:.1f}' for value in seconds)} s, {options.processes} processes")
        index = folder / "shards/index.npy"
        rows = np.load(index)
        np.save(index, np.resize(rows, options.rows))
        start = time.monotonic()
        count = len(open_index(shard_sources(folder / "shards"), folder).rows)
        print(f"an index of {count:,} photos is open after {time.monotonic() - start:.2f} s")


if __name__ == "__main__":
    main()
