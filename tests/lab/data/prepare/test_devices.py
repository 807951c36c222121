"""Models beside the CPU workers: a process for each device, on one machine or as Ray Data's actors."""

from pathlib import Path

import pytest
import torch

from instancersr.errors import UserError
from instancersr.lab.data.prepare import workers
from instancersr.lab.data.prepare.run import model_devices, prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.method.models import BlockAutoencoder


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> SampleSettings:
    folder = tmp_path_factory.mktemp("autoencoder")
    autoencoder = BlockAutoencoder(4)
    autoencoder.fit([torch.rand(2, 3, 64, 64) * 2 - 1])
    autoencoder.save_pretrained(folder)
    return SampleSettings(64, latents=str(folder))


@pytest.fixture(scope="module")
def by_workers(photo_folder, settings, tmp_path_factory) -> dict[str, bytes]:
    """The shards as the CPU workers make them with their own models."""
    out = tmp_path_factory.mktemp("workers") / "out"
    prepare_photos(photo_folder, out, settings, shard_photos=4, workers=1)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def test_each_device_has_a_process_of_its_own_and_the_shards_are_the_same(photo_folder, settings, by_workers, tmp_path,
                                                                          monkeypatch):
    """The CPU stands in for two GPUs; chunks of one photo, so that both have something to do."""
    given = []

    class Watched(workers._GpuStage):
        def _finish(self, result, device, finished):
            given.append(device)
            super()._finish(result, device, finished)

    monkeypatch.setattr(workers, "_GpuStage", Watched)
    monkeypatch.setattr(workers, "CHUNK", 1)
    prepare_photos(photo_folder, tmp_path / "out", settings, shard_photos=4, workers=1, devices=["cpu", "cpu:0"])
    assert contents(tmp_path / "out") == by_workers
    assert set(given) == {"cpu", "cpu:0"} and len(given) == 6


def test_the_gpu_with_the_least_to_do_gets_the_next_chunk():
    from concurrent.futures import Future

    class Pool:
        def __init__(self):
            self.waiting: list[Future] = []

        def submit(self, *_: object) -> Future:
            self.waiting.append(Future())
            return self.waiting[-1]

    pools = {"cuda:0": Pool(), "cuda:1": Pool()}
    workers_pool = Pool()
    stage = workers._GpuStage(workers_pool, pools, SampleSettings())
    results = [stage.submit([]) for _ in range(4)]
    for cut in workers_pool.waiting[:2]:
        cut.set_result([])
    assert [len(pool.waiting) for pool in pools.values()] == [1, 1]
    pools["cuda:1"].waiting[0].set_result(["done"])
    assert results[1].result(0) == ["done"]
    workers_pool.waiting[2].set_result([])
    assert [len(pool.waiting) for pool in pools.values()] == [1, 2]
    workers_pool.waiting[3].set_exception(UserError("broken"))
    with pytest.raises(UserError, match="broken"):
        results[3].result(0)


def test_every_gpu_is_used_or_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    some = SampleSettings(64, sam="sam")
    assert model_devices(some, "cuda", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert model_devices(some, "cuda", 2) == ["cuda:0", "cuda:1"]
    assert model_devices(some, "cpu", None) == model_devices(SampleSettings(64), "cuda", None) == []
    with pytest.raises(UserError, match="--gpus 4: torch sees 3 here"):
        model_devices(some, "cuda", 4)
    with pytest.raises(UserError, match="--gpus: nothing runs on a GPU"):
        model_devices(some, "cpu", 1)


def test_ray_data_makes_the_same_shards(photo_folder, settings, by_workers, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    monkeypatch.setattr(workers, "WAVE", 1)  # more than one wave
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        prepare_photos(photo_folder, tmp_path / "out", settings, shard_photos=4, ray="auto", device="auto")
        assert contents(tmp_path / "out") == by_workers
        with pytest.raises(UserError, match="the cluster has no GPU"):
            prepare_photos(photo_folder, tmp_path / "other", settings, ray="auto", device="cuda")
    finally:
        ray.shutdown()
