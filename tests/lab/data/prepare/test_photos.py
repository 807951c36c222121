"""The plan: keys, order and cuts, from the files alone."""

import tarfile
from pathlib import Path

import pytest

from instancersr.lab.data.prepare.photos import cut_shards, find_photos, fingerprint
from instancersr.lab.data.sources import DataError


@pytest.fixture
def album(tmp_path):
    """Names are what matters here: contents are read later."""
    folder = tmp_path / "album"
    (folder / "trip.2" / "day").mkdir(parents=True)
    for name in ["b.jpg", "b.json", "a.PNG", "a.b.webp", "trip.2/day/c.jpeg", "trip.2/day/c.json",
                 ".hidden.jpg", "note.txt"]:
        (folder / name).write_text(name)
    return folder


def pack(folder, tar_path):
    with tarfile.open(tar_path, "w") as tar:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                tar.add(file, f"./{file.relative_to(folder)}")


def test_keys_are_paths_without_the_marks_of_webdataset(album):
    photos, skipped = find_photos(album)
    assert [photo.key for photo in photos] == ["a", "a_b", "b", "trip_2_day_c"]
    assert [photo.number for photo in photos] == [0, 1, 2, 3] and not skipped
    assert {photo.key: photo.masks and photo.masks.read() for photo in photos} == {
        "a": None, "a_b": None, "b": b"b.json", "trip_2_day_c": b"trip.2/day/c.json"}


def test_a_tar_is_read_in_place_and_gives_the_same_plan(album, tmp_path):
    pack(album, tmp_path / "album.tar")
    from_folder, from_tar = (find_photos(path)[0] for path in (album, tmp_path / "album.tar"))
    assert fingerprint(from_folder) == fingerprint(from_tar)
    assert [(p.key, p.suffix, p.picture.read()) for p in from_folder] == \
        [(p.key, p.suffix, p.picture.read()) for p in from_tar]


def test_a_second_photo_of_the_same_key_is_named(album):
    (album / "a.jpg").write_text("again")
    (album / "trip_2_day_c.jpg").write_text("again")
    photos, skipped = find_photos(album)
    assert len(photos) == 4
    assert [(Path(s.photo).name, s.reason) for s in skipped] == [
        ("a.jpg", f"its key a is already that of {album / 'a.PNG'}"),
        ("trip_2_day_c.jpg", f"its key trip_2_day_c is already that of {album / 'trip.2/day/c.jpeg'}")]


def test_cuts_keep_order_and_limits(album):
    for number in range(20):
        (album / f"z{number:02d}.jpg").write_bytes(bytes(100 * number))
    photos, _ = find_photos(album)
    for most_photos, most_bytes in [(3, 1e9), (1000, 2500), (5, 1200), (1, 1e9), (1000, 1)]:
        shards = list(cut_shards(photos, most_photos, most_bytes))
        assert [photo for shard in shards for photo in shard.photos] == photos
        assert [shard.name for shard in shards] == [f"shard-{n:06d}.tar" for n in range(len(shards))]
        for shard in shards:
            weight = sum(p.picture.size + (p.masks.size if p.masks else 0) for p in shard.photos)
            assert 0 < len(shard.photos) <= most_photos
            assert weight <= most_bytes or len(shard.photos) == 1


def test_the_fingerprint_sees_new_and_changed_photos(album):
    before = fingerprint(find_photos(album)[0])
    (album / "b.jpg").write_text("longer than before")
    changed = fingerprint(find_photos(album)[0])
    (album / "d.jpg").write_text("d")
    assert len({before, changed, fingerprint(find_photos(album)[0])}) == 3


def test_unusable_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="no photos in it"):
        find_photos(tmp_path)
    (tmp_path / "bad.tar").write_text("no tar")
    with pytest.raises(DataError, match="bad.tar: not a readable"):
        find_photos(tmp_path / "bad.tar")
    with pytest.raises(DataError, match="nothing: no such folder"):
        find_photos(tmp_path / "nothing")
