"""Photos a second of `instancersr prepare`: what a core cuts, what a GPU would encode, and what that means for SA-1B.

    python benchmarks/prepare.py [PHOTOS] [--size 512] [--masks 100] [--photos 16] [--workers 2] [--gpu H100]

PHOTOS is a folder or tars, as for the command; without it, photos of 1500 x 2250 pixels, as SA-1B has them, are made of
scikit-image's, with Voronoi cells as masks. The cores' stage is measured, in CPU seconds of one process, and the
command's own rate with `--workers` processes beside it. The GPU's stage is simulated: an encoding by Stable Diffusion's
autoencoder of the photo and of its map, from the FLOPs that `instancersr plan` counts, at the share --mfu of the peak.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image
from samples import voronoi
from skimage import data

from instancersr.instances.annotations import annotations_from_id_map
from instancersr.lab.data.prepare.photos import find_photos
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings, make_drafts
from instancersr.lab.evaluation.flops import Networks
from instancersr.lab.evaluation.plan import find_gpu
from instancersr.lab.training.config import load_config

SA1B = 11.2e6
"""Photos."""


def make_photos(folder: Path, count: int, masks: int) -> None:
    """Photos of SA-1B's size with as many masks each."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea()]
    for number in range(count):
        Image.fromarray(pictures[number % 3]).resize((2250, 1500)).save(folder / f"{number}.jpg", quality=90)
        ids = Image.fromarray(voronoi(512, masks, number)).resize((2250, 1500), Image.Resampling.NEAREST)
        (folder / f"{number}.json").write_text(json.dumps(annotations_from_id_map(np.asarray(ids), f"{number}.jpg")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?")
    for name, value in {"size": 512, "masks": 100, "photos": 16, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--mfu", type=float, default=0.45)
    options = parser.parse_args()
    settings = SampleSettings(options.size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        if options.source is None:
            make_photos(folder, options.photos, options.masks)
        source = options.source or folder
        photos = find_photos(source)[0][: options.photos]
        make_drafts(photos[:1], settings)
        start = time.process_time()
        make_drafts(photos, settings)
        per_core = len(photos) / (time.process_time() - start)
        start = time.perf_counter()
        made = prepare_photos(source, Path(temporary) / "out", settings, workers=options.workers)
        rate = made["photos"] / (time.perf_counter() - start)
    config = load_config(Path(__file__).parents[1] / "configs/paper.yaml", [f"data.crop={options.size}"])
    per_gpu = options.mfu * find_gpu(options.gpu).tflops * 1e12 / (2 * Networks(config).count()["autoencoder"][0])
    print(f"cut to {options.size} with masks and instance map: {per_core:.2f} photos/s and core; the command with "
          f"{options.workers} workers, their start included: {rate:.2f} photos/s")
    print(f"encoded, photo and map (simulated): {per_gpu:.0f} photos/s and {options.gpu}, for which "
          f"{per_gpu / per_core:.0f} cores cut")
    for gpus, cores in ((1, 16), (8, 128), (8, round(8 * per_gpu / per_core))):
        slower = min(gpus * per_gpu, cores * per_core)
        print(f"SA-1B on {gpus} x {options.gpu} and {cores} cores: {SA1B / slower / 86400:.2f} days")


if __name__ == "__main__":
    main()
