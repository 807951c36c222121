"""The shards' index against the tars themselves, as prepared, as built, and as built by several processes."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from instancersr.lab.data import index as indexing
from instancersr.lab.data.cache import CachedPhotos, build_cache
from instancersr.lab.data.index import INDEX, open_index, shard_sources
from instancersr.lab.data.prepare.run import prepare_photos
from instancersr.lab.data.prepare.sample import SampleSettings
from instancersr.lab.data.sources import DataError, find_sources, held_out_photos, is_held_out, key_hash
from instancersr.lab.data.stream import ShardPhotos


@pytest.fixture(scope="module")
def album(photo_folder, tmp_path_factory) -> Path:
    """The six photos, two of them in sub-folders, one with a dot in its name."""
    album = tmp_path_factory.mktemp("album")
    names = {"photo0": "trip/photo0", "photo1": "trip/day.2/photo1", "photo2": "photo.2"}
    for file in photo_folder.iterdir():
        target = album / (names.get(file.stem, file.stem) + file.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    return album


@pytest.fixture(scope="module")
def shards(album, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    prepare_photos(album, out, SampleSettings(size=96), shard_photos=2, workers=1)
    return out


def check(index, shards: Path) -> None:
    """Every file of every sample is where the index says, and nothing is missing."""
    found = {}
    for row in index.rows:
        for member in indexing.MEMBERS:
            content = index.read(row, member)
            if content is not None:
                found[row["key"].decode(), member] = content
    expected = {}
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, suffix = member.name.split(".")
                expected[key, "photo" if suffix == "jpg" else suffix] = tar.extractfile(member).read()
    assert found == expected and len(index.rows) == 6


def refuse(*_: object) -> None:
    raise AssertionError("a shard was read")


def test_prepare_writes_the_index_and_training_reads_no_shard_for_it(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "scan_shard", refuse)
    index = open_index(shard_sources(shards), tmp_path / "cache")
    assert index.file == shards / INDEX and not (tmp_path / "cache").exists()
    check(index, shards)


def without_index(shards: Path, folder: Path) -> Path:
    """The shards alone, as others make them."""
    folder.mkdir()
    for shard in shards.glob("*.tar"):
        (folder / shard.name).symlink_to(shard)
    return folder


@pytest.mark.parametrize("few", [0, 64])
def test_a_missing_index_is_built_once(shards, tmp_path, monkeypatch, few):
    """By processes of its own where there are many shards."""
    monkeypatch.setattr(indexing, "FEW", few)
    monkeypatch.setattr(indexing, "usable_cores", lambda: 2)
    plain = without_index(shards, tmp_path / "plain")
    index = open_index(shard_sources(plain), tmp_path / "cache")
    check(index, plain)
    monkeypatch.setattr(indexing, "scan_shard", refuse)
    assert np.array_equal(open_index(shard_sources(plain), tmp_path / "cache").rows, index.rows)
    assert np.array_equal(np.load(shards / INDEX), index.rows)


def test_an_index_that_was_stopped_goes_on(shards, tmp_path, monkeypatch):
    plain, scanned = without_index(shards, tmp_path / "plain"), []
    scan = indexing.scan_shard

    def stop_at_the_third(source: Path):
        scanned.append(source.name)
        if len(scanned) == 3:
            raise KeyboardInterrupt
        return scan(source)

    monkeypatch.setattr(indexing, "scan_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_index(shard_sources(plain), tmp_path / "cache")
    check(open_index(shard_sources(plain), tmp_path / "cache"), plain)
    assert sorted(scanned[:2] + scanned[3:]) == sorted(p.name for p in plain.glob("*.tar"))


def test_each_process_begins_with_its_share_and_waits_for_nobody(shards, tmp_path, monkeypatch):
    plain, scanned = without_index(shards, tmp_path / "plain"), []
    scan = indexing.scan_shard
    monkeypatch.setattr(indexing, "scan_shard", lambda source: scanned.append(source.name) or scan(source))
    check(open_index(shard_sources(plain), tmp_path / "cache", process=1, processes=2), plain)
    assert scanned == ["shard-000001.tar", "shard-000000.tar", "shard-000002.tar"]


def test_an_index_of_other_shards_is_not_used(shards, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in shards.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    with tarfile.open(copy / "shard-000001.tar", "a") as tar:
        tar.add(shards / "manifest.json", "note.txt")
    index = open_index(shard_sources(copy), tmp_path / "cache")
    assert index.file.parent == tmp_path / "cache" and len(index.rows) == 6


def test_a_worker_process_gets_the_indexs_place_not_a_copy(shards, tmp_path):
    index = open_index(shard_sources(shards), tmp_path)
    index.rows = None  # were it sent along, it would not come back
    assert len(pickle.loads(pickle.dumps(index)).rows) == 6


def test_a_damaged_tar_is_named(tmp_path):
    (tmp_path / "a.tar").write_text("no tar")
    with pytest.raises(DataError, match="a.tar: not a readable, uncompressed tar"):
        open_index([tmp_path / "a.tar"], tmp_path / "cache")


# ---------------------------------------------------------------------------------------- keys, held out


def test_keys_and_held_out_photos_are_the_same_in_a_folder_and_in_shards(album, shards, tmp_path):
    cache = build_cache(find_sources(album), tmp_path, 64)
    index = open_index(shard_sources(shards), tmp_path)
    from_folder = {r.key for r in cache.records}
    assert from_folder == {row["key"].decode() for row in index.rows}
    assert from_folder == {"trip_photo0", "trip_day_2_photo1", "photo_2", "photo3", "photo4", "photo10"}
    held_out = {r.key for r in CachedPhotos(cache, True, 64).records}
    source = ShardPhotos(index, True, 64)
    assert held_out == {index.rows[source.row_of(n)]["key"].decode() for n in range(len(source))}


def test_a_tenth_is_held_out_but_never_more_than_the_most():
    keys = [f"photo{number}" for number in range(20000)]
    hashes = np.array([key_hash(key) for key in keys], np.uint64)
    tenth = held_out_photos(hashes)
    assert tenth.tolist() == [is_held_out(key) for key in keys] and 1800 < tenth.sum() < 2200
    capped = held_out_photos(hashes, most=300)
    assert capped.sum() == 300 and not (capped & ~tenth).any()
    # whatever order the photos come in, and with new ones few change sides
    order = np.random.default_rng(0).permutation(len(keys))
    assert np.array_equal(held_out_photos(hashes[order], 300), capped[order])
    more = np.concatenate([hashes, np.array([key_hash(f"new{n}") for n in range(1000)], np.uint64)])
    assert (held_out_photos(more, 300)[: len(keys)] & ~capped).sum() == 0
