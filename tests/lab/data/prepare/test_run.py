"""Whole preparations: what others read from the shards, and that neither kills nor dead machines change a byte."""

import hashlib
import json
import multiprocessing
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from instancersr.errors import UserError
from instancersr.instances.annotations import id_map_from_annotations
from instancersr.lab.data.cache import build_cache
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.data.sources import find_sources

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def shards(photo_folder, tmp_path_factory) -> tuple[Path, dict]:
    """The six photos, a seventh without masks, one that is broken and one too small, in shards of three."""
    album = tmp_path_factory.mktemp("album")
    for file in photo_folder.iterdir():
        (album / file.name).symlink_to(file)
    (album / "trip").mkdir()
    Image.fromarray(data.chelsea()[:200]).save(album / "trip" / "cat.jpg")
    Image.new("RGB", (32, 32)).save(album / "small.png")
    (album / "broken.jpg").write_text("no picture")
    (album / "photo3.jpg").symlink_to(photo_folder / "photo3.png")
    out = tmp_path_factory.mktemp("out") / "shards"
    return out, prepare_photos(album, out, SampleSettings(size=128), shard_photos=3, workers=1)


def test_webdataset_reads_every_sample_once(shards):
    import webdataset

    out, manifest = shards
    names = [str(out / shard["name"]) for shard in manifest["shards"]]
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("rgb8"))
    keys = [f"photo{number}" for number in (0, 1, 10, 2, 3, 4)]
    assert Counter(s["__key__"] for s in samples) == Counter([*keys, "trip_cat"])
    assert all(s["jpg"].shape == (128, 128, 3) for s in samples)
    assert {s["__key__"] for s in samples if "json" not in s} == {"trip_cat"}
    ids = id_map_from_annotations(samples[0]["json"])
    assert ids.shape == (128, 128) and ids[40, 60] == 1 and ids[96, 40] == 2


def test_training_reads_the_shards(shards, tmp_path):
    cache = build_cache(find_sources(shards[0]), tmp_path, 64)
    assert len(cache.records) == 7
    for record in cache.records:
        ids = cache.ids(record)
        assert cache.rgb(record).shape == (128, 128, 3)
        assert (ids[40, 60], ids[96, 40]) == ((0, 0) if record.key == "trip_cat" else (1, 2))


def test_the_manifest_counts_and_the_bad_are_listed(shards):
    out, manifest = shards
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert (manifest["photos"], manifest["with_masks"], manifest["skipped"]) == (7, 6, 3)
    for shard in manifest["shards"]:
        content = (out / shard["name"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest() and shard["bytes"] == len(content)
    assert sum(shard["photos"] for shard in manifest["shards"]) == 7
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert {Path(line["photo"]).name: line["reason"].split(" ")[0] for line in listed} == {
        "photo3.png": "its", "broken.jpg": "cannot", "small.png": "32x32"}


def test_other_settings_or_photos_are_an_error(shards, photo_folder, tmp_path):
    out, _ = shards
    album = Path(json.loads((out / "skipped.jsonl").read_text().splitlines()[0])["photo"]).parent
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    for settings, options, said in [
        (SampleSettings(size=64), {"shard_photos": 3}, "--size 128, now 64"),
        (SampleSettings(size=128), {"shard_photos": 4}, "--shard-photos 3, now 4"),
        (SampleSettings(size=128), {"shard_photos": 3, "photos": photo_folder}, "the photos are not those"),
    ]:
        with pytest.raises(UserError, match=said):
            prepare_photos(options.pop("photos", album), out, settings, **options)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other things"):
        prepare_photos(photo_folder, tmp_path, SampleSettings())
    with pytest.raises(UserError, match="folders of their own"):
        prepare_photos(photo_folder, photo_folder, SampleSettings())
    with pytest.raises(UserError, match="--latents: needs --size"):
        prepare_photos(photo_folder, tmp_path / "new", SampleSettings(latents="x"))
    with pytest.raises(UserError, match="--size: 100 must be a multiple of 16"):
        prepare_photos(photo_folder, tmp_path / "new", SampleSettings(size=100))
    assert not (tmp_path / "new").exists()
    assert before == {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}


def test_a_shard_that_was_written_before_its_record_is_written_again(photo_folder, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    prepare_photos(photo_folder, whole, SampleSettings(size=64), workers=1)
    prepare_photos(photo_folder, out, SampleSettings(size=64), workers=1)
    for path in [*out.glob("*.*"), *(out / ".progress").glob("shard-*.json")]:
        if path.is_file() and path.suffix != ".tar":
            path.unlink()
    assert {path.name for path in out.iterdir()} == {".progress", "shard-000000.tar"}
    prepare_photos(photo_folder, out, SampleSettings(size=64), workers=1)
    assert (out / "shard-000000.tar").read_bytes() == (whole / "shard-000000.tar").read_bytes()


def test_settings_are_free_until_a_shard_is_done(photo_folder, tmp_path):
    """Whoever mistypes a model's name needs no new folder."""
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for settings in (SampleSettings(size=64), SampleSettings()):
        with pytest.raises(KeyboardInterrupt):
            prepare_photos(photo_folder, tmp_path / "out", settings, progress=stop)
    assert json.loads((tmp_path / "out" / ".progress" / "settings.json").read_text())["size"] is None


def test_a_cluster_that_does_not_answer_is_one_line(photo_folder, tmp_path):
    pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--ray {address}: no cluster answers"):
            prepare_photos(photo_folder, tmp_path / "out", SampleSettings(), ray=address)


# ---------------------------------------------------------------------------------- kills and dead machines


@pytest.fixture(scope="module")
def large_album(photo_folder, tmp_path_factory) -> Path:
    """Photos that take a while, a few of them bad."""
    album = tmp_path_factory.mktemp("large")
    Image.fromarray(data.astronaut()).resize((768, 768)).save(album / "photo000.png")
    for number in range(1, 40):
        (album / f"photo{number:03d}.png").symlink_to(album / "photo000.png")
    (album / "photo020b.png").write_text("no picture")
    return album


@pytest.fixture(scope="module")
def undisturbed(large_album, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    prepare_photos(large_album, out, SampleSettings(size=256), shard_photos=4, workers=1)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for orphans in /proc")
def test_killed_and_started_again_nothing_differs(large_album, undisturbed, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "instancersr", "prepare", large_album, out, "--size", "256", "--shard-photos",
               "4", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT)
    wait_until(lambda: (out / "shard-000001.tar").exists())
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2 and not (out / "manifest.json").exists()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    first = (out / "shard-000000.tar").stat().st_mtime_ns
    for folder in (out, out / ".progress"):  # what a kill in the middle of a file leaves
        (folder / ".0123456789ab.part").write_text("half")
    command[-1] = "1"  # the number of workers changes nothing either
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "40 photos, 11 shards" in done.stdout and "1 photos left out" in done.stderr
    assert (out / "shard-000000.tar").stat().st_mtime_ns == first  # not made again
    assert contents(out) == undisturbed


def test_a_cluster_that_loses_a_machine_loses_and_doubles_nothing(large_album, undisturbed, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    killed = []

    def kill_one(done: int, total: int) -> None:
        if done and not killed:
            killed.append(done)
            cluster.remove_node(doomed, allow_graceful=False)

    try:
        out = tmp_path / "out"
        manifest = prepare_photos(large_album, out, SampleSettings(size=256), shard_photos=4, ray=cluster.address,
                                  progress=kill_one)
        assert killed and killed[0] < 41
        assert manifest["photos"] == 40
        assert contents(out) == undisturbed
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_worker_that_dies_is_one_line(large_album, tmp_path):
    def kill_workers(done: int, total: int) -> None:
        if done == 4:
            for worker in multiprocessing.active_children():
                worker.kill()

    with pytest.raises(UserError, match="a worker process was killed"):
        prepare_photos(large_album, tmp_path / "out", SampleSettings(size=256), workers=1, shard_photos=4,
                       progress=kill_workers)
    assert not list((tmp_path / "out").glob(".*.part"))
