"""Samples: pure functions of their number, whatever the source's form."""

import json
import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from instancersr.instances.codes import scale_target
from instancersr.instances.patches import patch_ids
from instancersr.lab.data.auxiliary import AuxiliaryCrops
from instancersr.lab.data.cache import CachedPhotos, WholePhotos, build_cache
from instancersr.lab.data.dataset import BatchNumbers, CropDataset, Picture
from instancersr.lab.data.sources import DataError, find_sources, is_held_out


@pytest.fixture(scope="module")
def cache(photo_folder, tmp_path_factory):
    return build_cache(find_sources(photo_folder), tmp_path_factory.mktemp("cache"), 64)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_cached_pixels_and_ids_are_the_files(cache, photo_folder):
    assert len(cache.records) == 6
    for record in cache.records:
        with Image.open(photo_folder / f"{record.key}.png") as image:
            assert np.array_equal(cache.rgb(record), np.asarray(image))
        ids = cache.ids(record)
        assert ids[50, 50] == 1 and ids[120, 20] == 2 and ids[0, 0] == 0


def test_tars_and_folders_are_the_same(cache, photo_folder, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"photos-{number}.tar", "w") as tar:
            for file in sorted(photo_folder.iterdir())[number * 6 : number * 6 + 6]:
                tar.add(file, file.name)
    from_tars = build_cache(find_sources(tmp_path / "photos-*.tar"), tmp_path / "cache", 64)
    assert [r.key for r in from_tars.records] == [r.key for r in cache.records]
    a, b = (CropDataset(CachedPhotos(c, False, 64), 64, masks=True) for c in (cache, from_tars))
    assert equal(a[5], b[5])


def test_a_sample_depends_on_its_number_and_the_seed_alone(cache):
    dataset = CropDataset(CachedPhotos(cache, False, 64), 64, masks=True, seed=3)
    ninth = dataset[9]
    dataset[2], dataset[700]
    assert equal(dataset[9], ninth)
    assert not equal(CropDataset(CachedPhotos(cache, False, 64), 64, masks=True, seed=4)[9], ninth)
    assert not equal(dataset[10], ninth)


def test_fields_shapes_and_ranges(cache):
    sample = CropDataset(CachedPhotos(cache, False, 64), 64, masks=True, downscale_prob=0.5, max_offset=7)[0]
    assert sample["hr"].shape == (3, 64, 64) and sample["lr"].shape == (3, 16, 16)
    assert sample["instance_map"].shape == (3, 64, 64) and sample["ids"].shape == (64, 64)
    for name in ("hr", "lr", "instance_map"):
        assert sample[name].min() >= 0 and sample[name].max() <= 1
    assert sample["token_offset"].tolist() <= [7, 7]


def test_crops_are_windows_of_the_photo_with_masks_in_place(cache):
    """Every crop, turned back, is found in its photo, and its ids are those of the same place."""
    dataset = CropDataset(CachedPhotos(cache, False, 64), 64, masks=True)
    for number in range(8):
        sample = dataset[number]
        rgb, ids = (sample["hr"].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8), sample["ids"].numpy()
        assert any(_found(cache, record, np.rot90(_flip(rgb, flip), turn), np.rot90(_flip(ids, flip), turn))
                   for record in cache.records for turn in range(4) for flip in (False, True))


def test_whole_photos_come_in_their_order_cut_about_the_middle(cache):
    records = CachedPhotos(cache, False, 64).records
    dataset = CropDataset(WholePhotos(cache, False, 64, ("*",), 96), 64, masks=True, downscale_prob=1.0, max_offset=7)
    for number in (0, 1, len(records)):
        record, sample = records[number % len(records)], dataset[number]
        assert torch.equal((sample["hr"] * 255).round().byte().permute(1, 2, 0),
                           torch.from_numpy(cache.rgb(record)[32:128, 32:128].copy()))  # of 160 x 160
        assert np.array_equal(sample["ids"].numpy(), cache.ids(record)[32:128, 32:128])
        assert sample["lr"].shape == (3, 24, 24) and not sample["token_offset"].any()


def _flip(array, flip):
    return array[:, ::-1] if flip else array


def _found(cache, record, rgb, ids) -> bool:
    photo = cache.rgb(record)
    matches = np.argwhere((photo[: 160 - 63, : 160 - 63] == rgb[0, 0]).all(-1))
    return any(np.array_equal(photo[y : y + 64, x : x + 64], rgb)
               and np.array_equal(cache.ids(record)[y : y + 64, x : x + 64], ids) for y, x in matches)


def test_scale_targets_are_the_instances_own(cache):
    sample = CropDataset(CachedPhotos(cache, False, 64), 64, masks=True)[1]
    targets = {scale_target(r.key, i) for r in cache.records for i in (1, 2)}
    seen = set(sample["scale_targets"][sample["ids"] > 0].tolist())
    assert seen and all(any(abs(s - t) < 1e-6 for t in targets) for s in seen)
    assert (sample["scale_targets"][sample["ids"] == 0] == 0).all()
    assert patch_ids(sample["ids"][None], (4, 4)).shape == (1, 16)


def test_held_out_photos_never_mix_with_training_photos(cache, photo_folder, tmp_path):
    for number in range(40):
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(tmp_path / f"flat{number}.png")
    many = build_cache(find_sources(tmp_path), tmp_path / "cache", 64)
    training, held_out = (CropDataset(CachedPhotos(many, h, 64), 64) for h in (False, True))
    keys = [{r.key for r in d.source.records} for d in (training, held_out)]
    assert keys[0] | keys[1] == {r.key for r in many.records} and not keys[0] & keys[1]
    assert all(is_held_out(k) for k in keys[1]) and 0 < len(keys[1]) < 15


def test_masks_that_are_made_anew_and_photos_of_sub_folders_make_a_new_cache(photo_folder, tmp_path):
    """Neither changes the time of the folder."""
    album = tmp_path / "album"
    shutil.copytree(photo_folder, album)
    (album / "more").mkdir()
    time, before = album.stat().st_mtime_ns, build_cache(find_sources(album), tmp_path / "cache", 64)
    masks = next(album.glob("*.json"))
    masks.write_text(json.dumps(json.loads(masks.read_text()) | {"annotations": []}))
    between = build_cache(find_sources(album), tmp_path / "cache", 64)
    ids = {record.key: between.ids(record) for record in between.records}
    assert not ids.pop(masks.stem).any() and all(each.any() for each in ids.values())
    shutil.copy(next(album.glob("photo*.png")), album / "more")
    after = build_cache(find_sources(album), tmp_path / "cache", 64)
    assert album.stat().st_mtime_ns == time
    assert len(after.records) == len(between.records) + 1 == len(before.records) + 1


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_images_of_each_step(processes):
    """And a run that goes on at image 8 takes the rest of them, whole batches to the end."""
    shares = [list(BatchNumbers(8, 22, 4, process, processes)) for process in range(processes)]
    steps = [sorted(sum(parts, [])) for parts in zip(*shares, strict=True)]
    assert steps == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert len(BatchNumbers(8, 22, 4)) == 4



def test_unusable_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="no such shards or folder"):
        find_sources(tmp_path / "nothing-*.tar")
    (tmp_path / "bad.tar").write_text("no tar")
    with pytest.raises(DataError, match="bad.tar: not a readable, uncompressed tar"):
        build_cache([tmp_path / "bad.tar"], tmp_path / "cache", 64)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "broken.jpg").write_text("no picture")
    with pytest.raises(DataError, match="broken.jpg: cannot be decoded"):
        build_cache([folder], tmp_path / "cache", 64)
    Image.new("RGB", (64, 64)).save(folder / "broken.jpg")
    (folder / "broken.json").write_text(json.dumps({"image": {"width": 8, "height": 8}, "annotations": []}))
    with pytest.raises(DataError, match="broken.jpg: its masks cannot be used"):
        build_cache([folder], tmp_path / "cache", 64)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_a_soft_truth_is_the_sharp_one_blurred_before_it_is_degraded(cache):
    source = CachedPhotos(cache, held_out=False, min_side=64)
    sharp = CropDataset(source, 64, {"camera": 1.0}, seed=3)[0]["hr"].numpy()
    soft = CropDataset(source, 64, {"camera": 1.0}, seed=3, truth_blur=(0.8, 0.8))[0]
    expected = np.stack([gaussian_filter(channel, 0.8) for channel in sharp])
    np.testing.assert_allclose(soft["hr"].numpy(), expected, atol=1e-5)


def test_a_wave_in_a_sharpened_truth_is_as_much_higher_as_an_unsharp_mask_makes_it():
    """A blur of deviation s leaves exp(-(w s)^2 / 2) of a wave of w radians a pixel."""
    omega = 2 * np.pi / 8
    wave = 127.5 + 40 * np.sin(omega * np.arange(64))
    rgb = np.repeat(np.tile(wave, (64, 1))[..., None], 3, 2).round().astype(np.uint8)
    source = SimpleNamespace(choose=lambda number, rng: Picture("wave", rgb, np.zeros((64, 64), np.uint16)))

    def height(seed: int, amount: float) -> float:
        dataset = CropDataset(source, 64, {"camera": 1.0}, seed, truth_sharpen=(amount, amount))
        return float(dataset[0]["hr"][:, 8:-8, 8:-8].std())

    sigmas = []
    for seed in range(8):
        gain, half_gain = (height(seed, amount) / height(seed, 0.0) - 1 for amount in (0.8, 0.4))
        assert gain == pytest.approx(2 * half_gain, rel=1e-3)
        sigmas.append(np.sqrt(-2 * np.log(1 - gain / 0.8)) / omega)
    assert 0.45 <= min(sigmas) < 1 and 1.5 < max(sigmas) <= 2.05  # sampled, a narrow Gaussian is a little narrower


@pytest.mark.parametrize("seed", range(4))
def test_a_twin_shows_a_wave_as_the_truths_camera_shows_one_of_a_quarter_of_the_length(seed):
    """Blur and sharpening are the same in either camera's own pixels; shrinking takes another 3 % at most.

    The sharpening is strong enough that a twin which looks at the sharpened truth, not at the scene, is found out."""
    def shown(length: float, field: str) -> float:
        wave = 127.5 + 20 * np.sin(2 * np.pi / length * np.arange(128))
        rgb = np.repeat(np.tile(wave, (128, 1))[..., None], 3, 2).round().astype(np.uint8)
        source = SimpleNamespace(choose=lambda number, rng: Picture("wave", rgb, np.zeros((128, 128), np.uint16)))
        camera = {"truth_blur": (0.6, 0.6), "truth_sharpen": (3.0, 3.0), "twin_prob": 1.0}
        picture = CropDataset(source, 128, {"seesr": 1.0}, seed, **camera)[0][field]
        picture = picture.mean(0)[8:-8, 8:-8]  # (h, w)
        picture = picture - picture.mean()
        return float(max(picture.mean(0).std(), picture.mean(1).std()))  # crops are turned; noise averages out

    assert shown(32, "lr") == pytest.approx(shown(8, "hr"), rel=0.06)


def test_a_grey_photo_has_a_grey_truth_of_the_colours_luma(cache):
    source = CachedPhotos(cache, held_out=False, min_side=64)
    presets = {"web_jpeg": 1.0}
    colour, grey, half = ([CropDataset(source, 64, presets, seed=3, gray_prob=share)[n]["hr"] for n in range(40)]
                          for share in (0.0, 1.0, 0.5))
    assert all(torch.equal(hr[0], hr[1]) and torch.equal(hr[0], hr[2]) for hr in grey)
    assert 10 < sum(torch.equal(hr[0], hr[1]) for hr in half) < 30
    assert not torch.equal(colour[0][0], colour[0][1])
    crop = np.array([0.299, 0.587, 0.114])
    # the crop is drawn before the greyness, so both are of the same place
    np.testing.assert_allclose(grey[0][0].numpy(), np.tensordot(crop, colour[0].numpy(), 1), atol=1e-6)


@pytest.fixture
def triples(tmp_path):
    """Two triples whose pixels tell their place in the LR photo; the target is the truth with its red turned over."""
    rows, columns = np.mgrid[:20, :24]
    for number in range(2):
        lr = np.stack([rows * 10, columns * 10, np.full_like(rows, number * 100)], -1).astype(np.uint8)
        hr = lr.repeat(4, 0).repeat(4, 1)
        target = hr.copy()
        target[..., 0] = 255 - target[..., 0]
        for part, picture in {"lr": lr, "hr": hr, "target": target}.items():
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / part / f"{number}.png")
    return tmp_path


def test_the_three_pictures_of_an_auxiliary_crop_are_of_one_place_turned_one_way(cache, triples):
    dataset = CropDataset(CachedPhotos(cache, False, 64), 64, masks=True, seed=3, lightness="photo",
                          auxiliary=AuxiliaryCrops(triples, 64), auxiliary_share=0.5)
    samples = [dataset[number] for number in range(40)]
    taught = [sample for sample in samples if not torch.equal(sample["target"], sample["hr"])]
    assert 10 < len(taught) < 30 and all(sample.keys() == samples[0].keys() for sample in samples)
    corners = set()
    for sample in taught:
        assert torch.equal(sample["hr"], sample["lr"].repeat_interleave(4, 1).repeat_interleave(4, 2))
        assert torch.allclose(sample["target"][0], 1 - sample["hr"][0])
        assert torch.equal(sample["target"][1:], sample["hr"][1:])
        assert not sample["ids"].any() and sample["lr"].shape == (3, 16, 16)
        corners.add(tuple(sample["lr"][:, 0, 0].tolist()))
    assert len(corners) > 8  # of many places, turns and both triples
    assert {corner[2] for corner in corners} == {0, np.float32(100 / 255).item()}


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "target" / "1.png").unlink(), r"target: 1\.png is missing"),
    (lambda folder: [path.unlink() for path in folder.rglob("*.png")], "no PNG in its folder lr"),
])
def test_a_folder_of_auxiliary_crops_that_is_not_whole_is_named(triples, damage, message):
    damage(triples)
    with pytest.raises(DataError, match=message):
        AuxiliaryCrops(triples, 64)


def test_an_auxiliary_picture_of_another_size_is_named(triples):
    Image.new("RGB", (40, 40)).save(triples / "target" / "0.png")
    crops = AuxiliaryCrops(triples, 64)
    with pytest.raises(DataError, match=r"target/0\.png: not 4 times as wide and high as lr/0\.png"):
        for seed in range(20):
            crops.choose(np.random.default_rng(seed))
    (triples / "hr" / "0.png").write_text("no picture")
    with pytest.raises(DataError, match=r"hr/0\.png"):
        for seed in range(20):
            crops.choose(np.random.default_rng(seed))
