"""Half an hour of a GPU: what travels, and what runs there.

    python benchmarks/gpu_sprint.py pack ../shared/photos pack/        # here: photos re-encoded until 56 MiB are full
    python benchmarks/gpu_sprint.py run pack/ -o runs/sprint --minutes 25  # there, in a checkout with that folder

`run` goes through stages 1 and 2 of `configs/web/`, each for its share of the minutes, with batches, workers and
precision for the device, a checkpoint about every three minutes, and each stage beginning from the one before. The same
command goes on with what a run before it left. A stage whose time is over is stopped as by Ctrl-C.

On a CPU, at a small size, to see that it works: `--minutes 2 --device cpu --batch 4 --workers 0`.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from instancersr.lab.data.sources import find_sources, read_source
from instancersr.lab.training.checkpoint import newest_model

STAGES = (("1_restoration", 0.45), ("2_detail", 0.55))
"""Configurations of `configs/web`, and the share of the time that each has."""
LONGEST = 1024
"""Longer sides are shrunk to it, in pixels: crops see no more of a photo anyway."""
QUALITY = 84
BYTES = 56 * 2**20
CHECKPOINTS = 8
"""Of the whole run: one every three minutes of 25."""
GRACE = 120
"""Seconds that a stopped stage has to write its model."""


def pack(photos: str, folder: Path) -> None:
    """WebP photos without masks, which these stages do not need, until the space is full."""
    folder.mkdir(parents=True, exist_ok=True)
    used = count = left_out = 0
    for source in find_sources(photos):
        for key, encoded, _ in read_source(source):
            picture = Image.open(io.BytesIO(encoded)).convert("RGB")
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            memory = io.BytesIO()
            picture.save(memory, "WEBP", quality=QUALITY, method=6)
            if used + memory.tell() > BYTES:
                left_out += 1
                continue
            (folder / f"{key.replace('/', '_')}.webp").write_bytes(memory.getvalue())
            used, count = used + memory.tell(), count + 1
    print(f"{count} photos, {used / 2**20:.1f} MiB in {folder}; {left_out} left out for lack of space")


def run(arguments: argparse.Namespace) -> None:
    begun: list[str] = []
    for name, share in STAGES:
        output = arguments.output / name
        seconds = 60 * arguments.minutes * share
        overrides = [f"data.photos={arguments.photos}", f"data.cache={arguments.output / 'cache'}",
                     f"data.workers={arguments.workers}", f"output={output}", f"device={arguments.device}",
                     f"batch={arguments.batch}", "images=100000000", "precision=auto",
                     f"compile={str(arguments.device == 'cuda').lower()}", *begun]
        train(Path("configs/web") / f"{name}.yaml", overrides, seconds)
        begun = [f"restoration={newest_model(output)}"]


def train(config: Path, overrides: list[str], seconds: float) -> None:
    """One stage, stopped after its time."""
    command = [sys.executable, "-m", "instancersr", "train", str(config), *overrides]
    print("$", *command, flush=True)
    process = subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    start = time.monotonic()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        code = process.wait(GRACE)
    print(f"{config.stem}: {time.monotonic() - start:.0f} s, exit code {code}", flush=True)
    if code not in (0, 130):
        raise SystemExit(f"{config}: failed; the other stages were not begun")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("photos", help="shards or folder of training photos")
    packing.add_argument("folder", type=Path)
    running = commands.add_parser("run")
    running.add_argument("photos", type=Path, help="the packed folder")
    running.add_argument("-o", "--output", type=Path, required=True)
    running.add_argument("--minutes", type=float, default=25)
    running.add_argument("--device", default="cuda")
    running.add_argument("--batch", type=int, default=128)
    running.add_argument("--workers", type=int, default=14)
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.photos, arguments.folder)
    else:
        run(arguments)


if __name__ == "__main__":
    main()
