"""Photos a second of `instancersr prepare` against a plain Python loop over the same steps, in one run.

    python benchmarks/prepare.py PHOTOS [--size 512] [--workers 2] [--limit 500] [--features FOLDER] [--rounds 2]

The loop makes each photo's sample and adds it to a tar, one after the other, in one process and one thread. Both take
turns. Two ratios are printed: with the seconds that the workers' processes need to start, and without.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from instancersr.lab.data.prepare.photos import Photo, find_photos
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import Sample, Settings, make_sample


def plain_loop(photos: list[Photo], out: Path, settings: Settings) -> float:
    """Photos a second."""
    started = time.perf_counter()
    with tarfile.open(out / "shard.tar", "w") as tar:
        for photo in photos:
            sample = make_sample(photo, settings, "cpu")
            if isinstance(sample, Sample):
                for suffix, content in sample.files:
                    member = tarfile.TarInfo(f"{sample.key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return len(photos) / (time.perf_counter() - started)


def pool(photos: Path, out: Path, settings: Settings, workers: int) -> tuple[float, float]:
    """Photos a second, with the start of the workers and from the first photo on."""
    times: list[tuple[int, float]] = []
    started = time.perf_counter()
    prepare_photos(photos, out, settings, shard_photos=100, workers=workers,
                   progress=lambda done, total: times.append((done, time.perf_counter())))
    ended = time.perf_counter()
    first, last = next(entry for entry in times if entry[0]), times[-1]
    return last[0] / (ended - started), (last[0] - first[0]) / (last[1] - first[1])


def unpack(photos: str, folder: Path, limit: int) -> None:
    """The first `limit` photos and their masks as files of one folder."""
    for photo in find_photos(photos)[0][:limit]:
        (folder / f"{photo.key}.{photo.suffix}").write_bytes(photo.picture.read())
        if photo.masks:
            (folder / f"{photo.key}.json").write_bytes(photo.masks.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder of photos, or tars, as for the command")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=500, help="photos to take")
    parser.add_argument("--features", help="a DINOv2 whose features are stored too")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    settings = Settings(size=arguments.size, features=arguments.features)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        unpack(arguments.photos, photos, arguments.limit)
        found = find_photos(photos)[0]
        for round in range(arguments.rounds):
            out = Path(folder, f"plain{round}")
            out.mkdir()
            plain = plain_loop(found, out, settings)
            whole, steady = pool(photos, Path(folder, f"pool{round}"), settings, arguments.workers)
            print(f"{len(found)} photos, size {arguments.size}: plain loop {plain:.1f} photos/s, {arguments.workers} "
                  f"workers {whole:.1f} ({whole / plain:.2f}x) with their start, {steady:.1f} ({steady / plain:.2f}x) "
                  "without", flush=True)


if __name__ == "__main__":
    main()
