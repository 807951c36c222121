"""Training samples a second that one core makes of prepared shards, and what that asks of a machine with GPUs.

    python benchmarks/samples.py [--size 512] [--masks 100] [--preset seesr] [--photos 24] [--samples 48] [--rounds 3]

Photos are crops of scikit-image's, with Voronoi cells as instances, prepared by `instancersr prepare --latents` with
an autoencoder that is small, as what it computes does not matter here. Three ways to read the same shards take turns,
one process and one thread each: with the masks as 100 run-length encodings, which are decoded and coloured for each
sample, as shards were before they had instance maps; with the instance maps; and with the stored latents, which need
no colours. Time is the process's CPU time, so that other work on the machine counts little. The last table is the time
of each step.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image
from scipy.spatial import cKDTree
from skimage import data

from instancersr.instances.annotations import annotations_from_id_map
from instancersr.instances.codes import colorize, scale_target
from instancersr.lab.data.dataset import CropDataset
from instancersr.lab.data.index import open_index, shard_sources
from instancersr.lab.data.pictures import decode_ids, decode_photo, ids_of_annotations
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.data.stream import ShardPhotos
from instancersr.lab.method.degradation import degrade
from instancersr.lab.method.models import BlockAutoencoder


class MasksAlone(ShardPhotos):
    """Shards without instance maps."""

    def _ids(self, row: np.void, size: tuple[int, int]) -> np.ndarray:
        return ids_of_annotations(self.index.read(row, "json"), size)


def voronoi(size: int, count: int, seed: int) -> np.ndarray:
    """(size, size) int32 ids 1..count of the nearest of as many random points."""
    points = np.random.default_rng(seed).integers(0, size, (count, 2))
    places = np.stack(np.mgrid[:size, :size], -1).reshape(-1, 2)
    return (cKDTree(points).query(places)[1].reshape(size, size) + 1).astype(np.int32)


def make_shards(folder: Path, options: argparse.Namespace) -> Path:
    """Prepared photos with masks and latents."""
    photos = folder / "photos"
    photos.mkdir()
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for number in range(options.photos):
        picture = Image.fromarray(pictures[number % len(pictures)]).resize((options.size, options.size))
        picture.rotate(90 * (number // len(pictures) % 4)).save(photos / f"{number}.png")
        ids = voronoi(options.size, options.masks, number)
        (photos / f"{number}.json").write_text(json.dumps(annotations_from_id_map(ids, f"{number}.png")))
    BlockAutoencoder(4).save_pretrained(folder / "autoencoder")
    settings = SampleSettings(options.size, latents=str(folder / "autoencoder"))
    prepare_photos(photos, folder / "shards", settings, workers=1)
    return folder / "shards"


def cpu_seconds(call, times: int) -> float:
    """Mean of one call."""
    start = time.process_time()
    for number in range(times):
        call(number)
    return (time.process_time() - start) / times


def steps(source: ShardPhotos, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each step of a sample."""
    row = source.index.rows[0]
    files = {member: source.index.read(row, member) for member in ("photo", "json", "ids")}
    rgb, ids = decode_photo(files["photo"]), decode_ids(files["ids"]).astype(np.int32)
    targets = {i: scale_target("key", i) for i in range(1, int(ids.max()) + 1)}
    hr = torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32))[None] / 255
    calls = {"photo decoded": lambda n: decode_photo(files["photo"]),
             "masks decoded": lambda n: ids_of_annotations(files["json"], ids.shape),
             "instance map decoded": lambda n: decode_ids(files["ids"]),
             "map coloured": lambda n: colorize(ids, targets),
             f"degraded ({options.preset})": lambda n: degrade(hr, options.preset, [n])}
    return {name: 1000 * cpu_seconds(call, options.samples) for name, call in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"size": 512, "masks": 100, "photos": 24, "samples": 48, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--preset", default="seesr")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        index = open_index(shard_sources(make_shards(folder, options)), folder)
        kinds = {"masks decoded and coloured": (MasksAlone, False), "instance maps": (ShardPhotos, False),
                 "stored latents": (ShardPhotos, True)}
        datasets = {name: CropDataset(kind(index, False, options.size, stored=stored), options.size,
                                      {options.preset: 1.0}, masks=True, colored=not stored)
                    for name, (kind, stored) in kinds.items()}
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(options.rounds):
            for name, dataset in datasets.items():  # in turns, so that a busy machine is busy for all
                seconds[name].append(cpu_seconds(dataset.__getitem__, options.samples))
        print(f"{options.size}x{options.size}, {options.masks} masks, preset {options.preset}, samples a second and "
              f"core (median of {options.rounds} rounds of {options.samples}, the same samples in each)")
        before = sorted(seconds["masks decoded and coloured"])[options.rounds // 2]
        for name, values in seconds.items():
            median = sorted(values)[options.rounds // 2]
            print(f"  {name:28}{1 / median:7.1f}   {before / median:5.2f} times   best {1 / min(values):.1f}")
        for name, milliseconds in steps(datasets["instance maps"].source, options).items():
            print(f"  {name:28}{milliseconds:7.1f} ms")


if __name__ == "__main__":
    main()
