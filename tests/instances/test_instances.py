"""Instance maps against pycocotools, brute force and round trips."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from scipy import fft, ndimage, stats

from instancersr.instances import codes
from instancersr.instances.annotations import (
    annotations_from_id_map,
    decode_rle,
    encode_rle,
    id_map_from_annotations,
    middle_pixel,
)
from instancersr.instances.codes import colorize, decode_id_map, photo_targets, scale_of_color, scale_target
from instancersr.instances.overlap import boundary_f_score, mean_iou, pieces_per_object
from instancersr.instances.patches import patch_ids


def blobs(seed: int, size: int = 96, count: int = 8) -> np.ndarray:
    """A map of convex cells around random points, ids 1..count, with an empty corner."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, size, (count, 2))
    y, x = np.mgrid[:size, :size]
    ids = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(-1) + 1
    ids[: size // 6, : size // 6] = 0
    return ids.astype(np.int32)


def targets_of(ids: np.ndarray, key: str = "photo") -> dict[int, float]:
    return {int(i): scale_target(key, int(i)) for i in np.unique(ids) if i}


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_rle_equals_pycocotools(seed, height, width, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == theirs["counts"].decode()
    assert np.array_equal(decode_rle({"size": [height, width], "counts": theirs["counts"].decode()}), mask)


def test_long_runs_and_uncompressed_counts():
    mask = np.zeros((700, 900), bool)
    mask[3:650, 100:800] = True
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_rle({"size": [700, 900], "counts": theirs["counts"]}), mask)
    assert np.array_equal(decode_rle({"size": [2, 3], "counts": [1, 2, 3]}), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("counts", ["", "0", "P", "~~", [1, 2], [1, -2, 7], "0h3Y"])
def test_malformed_rle_is_refused(counts):
    with pytest.raises(ValueError, match="RLE"):
        decode_rle({"size": [2, 3], "counts": counts})


@pytest.mark.parametrize("rle", [
    {}, {"size": [2, 3]}, {"counts": [6]}, {"size": [2], "counts": [6]}, {"size": ["a", 3], "counts": [6]},
    {"size": [-2, -3], "counts": [6]}, {"size": [2, 3], "counts": None}, {"size": [2, 3], "counts": [1.5, 4.5]},
    {"size": [2, 3], "counts": [2**70]}, {"size": [2, 3], "counts": "o" * 40 + "0"}])
def test_rle_of_wrong_types_is_refused(rle):
    with pytest.raises(ValueError, match="RLE") as error:
        decode_rle(rle)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("note", [{}, {"id": 1}, {"id": 1, "area": "x", "segmentation": {}},
                                  {"id": 1.5, "area": 1, "segmentation": {"size": [2, 2], "counts": [4]}},
                                  {"id": 8, "area": 1, "segmentation": {"size": [2, 2], "counts": [3]}}])
def test_malformed_annotations_are_refused(note):
    with pytest.raises(ValueError, match="annotation"):
        id_map_from_annotations({"image": {"height": 2, "width": 2}, "annotations": [note]})


def test_small_masks_are_painted_over_large_ones():
    large, small = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    large[2:18, 2:28], small[5:9, 5:9] = True, True
    for order in ([large, small], [small, large]):
        notes = [{"id": 7 if m is large else 3, "area": int(m.sum()), "segmentation": encode_rle(m)} for m in order]
        ids = id_map_from_annotations({"image": {"height": 20, "width": 30}, "annotations": notes})
        assert ids[6, 6] == 3 and ids[3, 3] == 7 and ids[0, 0] == 0
        assert (ids == 3).sum() == 16


def test_annotations_round_trip_as_sa1b():
    ids = blobs(1)
    notes = annotations_from_id_map(ids, "a.jpg", 5)
    assert np.array_equal(id_map_from_annotations(notes), ids)
    assert notes["image"] == {"image_id": 5, "width": 96, "height": 96, "file_name": "a.jpg"}
    for note in notes["annotations"]:
        assert note["area"] == coco.area(note["segmentation"] | {"counts": note["segmentation"]["counts"].encode()})
        assert note["bbox"] == coco.toBbox(note["segmentation"]).tolist()
        x, y = note["point_coords"][0]
        assert ids[y, x] == note["id"]


@pytest.mark.parametrize("bad", [0, -1, 2**31])
def test_ids_out_of_range_are_refused(bad):
    note = {"id": bad, "area": 1, "segmentation": encode_rle(np.ones((2, 2), bool))}
    with pytest.raises(ValueError, match="positive 32-bit"):
        id_map_from_annotations({"image": {"height": 2, "width": 2}, "annotations": [note]})


def test_scale_targets_are_fixed_and_uniform():
    assert scale_target("a", 1) == scale_target("a", 1) != scale_target("a", 2)
    assert scale_target("a", 1) != scale_target("b", 1)
    digest = int.from_bytes(hashlib.blake2b(b"a/1", digest_size=8).digest(), "big")
    assert scale_target("a", 1) == pytest.approx(0.5 + digest / 2**64)  # the same in every process and version
    draws = [scale_target(f"photo{i}", i) - 0.5 for i in range(4000)]
    assert stats.kstest(draws, "uniform").pvalue > 0.01


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_colors_are_in_range_and_carry_the_target(seed):
    ids = blobs(seed)
    targets = targets_of(ids)
    rgb = colorize(ids, targets, (seed % 500, seed % 300))
    assert rgb.dtype == np.float32 and rgb.min() >= 0 and rgb.max() <= 1
    for i, target in targets.items():
        colors = np.unique(rgb[ids == i], axis=0)
        assert len(colors) == 1
        assert scale_of_color(colors[0]) == pytest.approx(target, abs=1e-4)
    assert (rgb[ids == 0] == 0).all()


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_touching_instances_have_chromas_well_apart(seed):
    ids = blobs(seed, count=12)
    rgb = colorize(ids, dict.fromkeys(range(1, 13), 1.0))  # one lightness: chroma alone tells them apart
    for a, b in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        colors = (rgb[1:], rgb[:-1]) if a.shape[0] < 96 else (rgb[:, 1:], rgb[:, :-1])
        border = (a != b) & (a > 0) & (b > 0)
        assert np.abs(colors[0] - colors[1]).max(-1)[border].min() > 0.08


def test_chroma_follows_the_place_in_the_whole_picture():
    """A window of a picture has the colours of the picture, when its origin is given."""
    ids = np.zeros((64, 64), np.int32)
    ids[20:40, 24:44] = 1
    whole = np.zeros((200, 200), np.int32)
    whole[100:164, 60:124] = ids
    part, full = colorize(ids, {1: 1.0}, (100, 60)), colorize(whole, {1: 1.0})
    np.testing.assert_allclose(part, full[100:164, 60:124], atol=1e-6)
    assert np.abs(part - colorize(ids, {1: 1.0}, (0, 0))).max() > 0.05


def test_patch_majority_equals_counting():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (2, 12, 20)).astype(np.int32)
    result = patch_ids(torch.from_numpy(ids), (3, 4))
    assert result.shape == (2, 12)
    for b in range(2):
        for row in range(3):
            for column in range(4):
                cell = ids[b, row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
                counts = np.bincount(cell.ravel(), minlength=3)
                assert counts[result[b, row * 4 + column]] == counts.max()


@pytest.mark.parametrize("seed", range(5))
def test_decoding_recovers_the_map(seed):
    ids = blobs(seed, 160, 9)
    rgb = colorize(ids, targets_of(ids))
    assert mean_iou(ids, decode_id_map(rgb), 200) > 0.97
    ringing = np.random.default_rng(seed).normal(0, 0.002, rgb.shape) + ndimage.gaussian_filter(rgb, (1, 1, 0))
    decoded = decode_id_map(ringing.astype(np.float32))
    assert mean_iou(ids, decoded, 200) > 0.85
    assert (decoded[:20, :20] == 0).mean() > 0.8


def test_decoding_recovers_the_map_after_a_block_transform():
    """8x8 blocks that keep the 15 lowest DCT frequencies ring at borders as the autoencoder's do."""
    low = np.add.outer(np.arange(8), np.arange(8)) < 5
    for seed in range(5):
        ids = blobs(seed, 160, 9)
        blocks = colorize(ids, targets_of(ids)).reshape(20, 8, 20, 8, 3)
        kept = fft.dctn(blocks, axes=(1, 3), norm="ortho") * low[None, :, None, :, None]
        ringing = fft.idctn(kept, axes=(1, 3), norm="ortho").reshape(160, 160, 3).clip(0, 1)
        assert mean_iou(ids, decode_id_map(ringing.astype(np.float32)), 400) > 0.85


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_decoding_sees_through_noise(sigma):
    ids = blobs(3, 160, 9)
    noise = np.random.default_rng(3).normal(0, sigma, (160, 160, 3))
    decoded = decode_id_map((colorize(ids, targets_of(ids)) + noise).clip(0, 1).astype(np.float32))
    assert mean_iou(ids, decoded, 200) > 0.85


def test_line_median_equals_scipy():
    rgb = np.random.default_rng(0).random((20, 30, 3))
    for axis in (0, 1):
        size = [5 if a == axis else 1 for a in range(3)]
        assert np.array_equal(codes._median5(rgb, axis), ndimage.median_filter(rgb, size, mode="nearest"))


def test_colors_do_not_depend_on_how_large_ids_are():
    """SA-1B's ids are large: the same instances have the same colours whatever their numbers."""
    ids = blobs(2)
    large = np.where(ids > 0, ids + 10**9, 0).astype(np.int32)
    targets = dict.fromkeys(range(1, 9), 1.0)
    assert np.array_equal(colorize(ids, targets), colorize(large, {i + 10**9: s for i, s in targets.items()}))


def test_far_instances_of_like_colors_stay_apart():
    """Pieces that look nearly alike are one instance if near (an object behind a pole), two if far apart."""
    for left, same in ((60, True), (200, False)):
        picture = np.zeros((64, 260, 3), np.float32)
        picture[8:56, 8:56], picture[8:56, left : left + 50] = 0.5, 0.51
        decoded = decode_id_map(picture)
        assert decoded[30, 30] > 0 and decoded[30, left + 20] > 0
        assert (decoded[30, 30] == decoded[30, left + 20]) == same


def test_decoding_noise_and_flat_maps():
    assert decode_id_map(np.zeros((32, 40, 3), np.float32)).max() == 0
    flat = colorize(np.ones((32, 40), np.int32), {1: 1.0})
    assert (decode_id_map(flat) == 1).all()
    noise = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    assert decode_id_map(noise).shape == (64, 64)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (2, 1), (3, 0.5), (4, 0)])
def test_border_f_score_of_a_moved_border(shift, expected):
    """A border is two pixels wide, one on either side: moved by three, one of its two is still within two pixels."""
    truth = np.ones((20, 40), int)
    truth[:, 20:] = 2
    moved = np.where(np.arange(40) < 20 + shift, 1, 2) * np.ones((20, 1), int)
    assert boundary_f_score(truth, moved) == pytest.approx(expected)


def test_border_f_score_asks_for_no_border_where_nothing_is_known():
    truth = np.ones((20, 40), int)
    truth[:, 20:] = 0
    predicted = truth.copy()
    predicted[:, 30] = 7
    assert boundary_f_score(truth, predicted) == 1
    predicted[:, 10] = 7  # two more borders, three pixels in all, and no true one is missed
    assert boundary_f_score(truth, predicted) == pytest.approx(2 * 0.4 / 1.4)
    assert np.isnan(boundary_f_score(np.ones((4, 4)), truth[:4, :4])) and boundary_f_score(truth, 0 * truth) == 0


def test_pieces_are_as_few_as_cover_nine_tenths():
    truth, predicted = np.ones((80, 160), int), np.ones((80, 160), int)
    truth[:, 80:] = 2
    predicted[:70, :80] = 3  # 7/8 of the first, which needs the other eighth, too
    predicted[:76, 80:] = 4  # 19/20 of the second
    assert pieces_per_object(truth, predicted) == 1.5
    assert pieces_per_object(truth, predicted, share=0.99) == 2
    assert np.isnan(pieces_per_object(truth, predicted, min_area=10_000))


def test_mean_iou_by_hand():
    truth, predicted = np.zeros((8, 8), int), np.zeros((8, 8), int)
    truth[:4], truth[4:6] = 1, 2
    predicted[:3] = 5  # 24 of 32 pixels of instance 1; instance 2 is missed
    assert mean_iou(truth, predicted, 1) == pytest.approx((24 / 32 + 0) / 2)
    assert mean_iou(truth, truth, 1) == 1
    predicted[:] = 9  # one region cannot stand for two instances
    assert mean_iou(truth, predicted, 1) == pytest.approx(32 / 64 / 2)
    assert np.isnan(mean_iou(np.zeros((4, 4), int), predicted[:4, :4]))


def test_near_instances_count_as_neighbors():
    """The autoencoder's borders ring over several pixels, so a thin gap does not part two colours."""
    ids = np.full((40, 40), 3, np.int32)
    ids[:, :18], ids[:, 21:] = 1, 2
    index = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    assert codes._neighbors(index, 3)[0, 1]


def test_targets_from_the_photo_follow_the_mean_luma_of_each_instance():
    ids = np.repeat([[0, 1, 2, 3]], 4, 0).astype(np.int32)
    rgb = np.zeros((4, 4, 3))
    rgb[:, 1] = 0.5                      # grey: luma .5
    rgb[:2, 2], rgb[2:, 2] = 0.5, 0.7    # luma .6 on the mean
    rgb[:, 3] = (0, 1, 0)                # green alone: luma .587
    targets = photo_targets(ids, rgb)
    assert set(targets) == {1, 2, 3}
    assert targets[1] == pytest.approx(1.0)
    assert targets[2] == pytest.approx(1.0 + 1.6 * 0.1) and targets[3] == pytest.approx(1.0 + 1.6 * 0.087)
    assert photo_targets(ids, np.ones((4, 4, 3)))[1] == 1.5 and photo_targets(ids, np.zeros((4, 4, 3)))[1] == 0.5


def test_the_middle_pixel_is_the_middle_of_numpys_list():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.3, 1.0):
        for _ in range(50):
            mask = rng.random(rng.integers(1, 9, 2)) < share
            mask[tuple(rng.integers(mask.shape))] = True
            y, x = np.argwhere(mask)[mask.sum() // 2].tolist()
            assert middle_pixel(mask) == (mask.sum(), (x, y))
