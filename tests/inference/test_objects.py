"""Edits of single objects: what they change, what they must not, and what a full upscale would have made."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

import instancersr
from instancersr.inference.objects import Edit, find_object, plan_crops
from instancersr.inference.tiling import plan_tiles

FAR = 16
"""Output pixels from an object beyond which nothing may change."""


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return instancersr.InstanceRSRPipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.astronaut()[40:88, 200:260]  # 48 x 60


@pytest.fixture(scope="module")
def out(pipe, photo):
    return pipe(photo, num_inference_steps=3, keep_latents=True)


def pixels(out) -> np.ndarray:
    return np.asarray(out.images[0]).astype(int)


def disc(shape: tuple[int, int], y: float = 0.5, x: float = 0.4, radius: float = 0.15) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - y * shape[0], columns - x * shape[1]) < radius * min(shape)


def outside(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask) > FAR


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------- strength


def test_keeping_latents_changes_nothing(pipe, photo, out):
    assert np.array_equal(pixels(out), pixels(pipe(photo, num_inference_steps=3)))
    assert pipe(photo, num_inference_steps=1).kept is None


@pytest.mark.parametrize("color_fix", ["wavelet", "adain", "none"])
@pytest.mark.parametrize("scale", [4, 2.5, 6])
def test_the_ends_of_strength_are_exact(pipe, photo, color_fix, scale):
    photo = photo if scale <= 4 else photo[:16, :20]
    options = {"scale": scale, "color_fix": color_fix, "fidelity": 0.3}
    default, closest = pixels(pipe(photo, **options)), pixels(pipe(photo, **options | {"fidelity": 1.0}))
    for strength, expected in ((1.0, default), (0.0, closest)):
        assert np.array_equal(pixels(pipe(photo, **options, strength=strength)), expected)
        everything = np.ones(expected.shape[:2], bool)
        edited = pipe(photo, **options, strength=0.6, edits=[Edit(everything, strength=strength)])
        assert np.array_equal(pixels(edited), expected)
    every_object = [Edit(int(i), strength=0) for i in np.unique(pipe(photo, **options).instances[0])]
    assert np.array_equal(pixels(pipe(photo, **options, edits=every_object)), closest)


def test_strength_is_a_fidelity(pipe, photo):
    """s with fidelity f is fidelity 1 - s (1 - f), for the picture exactly, for an object up to rounding."""
    expected = pixels(pipe(photo, fidelity=1 - 0.4 * (1 - 0.25)))
    assert np.array_equal(pixels(pipe(photo, fidelity=0.25, strength=0.4)), expected)
    everything = np.ones(expected.shape[:2], bool)
    edited = pixels(pipe(photo, fidelity=0.25, edits=[Edit(everything, strength=0.4)]))
    ends = [pixels(pipe(photo, fidelity=f)) for f in (0.25, 1.0)]
    inside = np.logical_and.reduce([(end > 0) & (end < 255) for end in ends])  # not clipped
    assert inside.mean() > 0.2 and np.abs(edited - expected)[inside].max() <= 1


def test_one_objects_strength_reaches_no_further(pipe, photo, out):
    mask = disc(out.instances[0].shape)
    edited = pipe.edit(out, [Edit(mask, strength=0)])
    closest = pixels(pipe(photo, num_inference_steps=3, fidelity=1.0))
    deep = ndimage.binary_erosion(mask, iterations=FAR)
    assert np.array_equal(pixels(edited)[deep], closest[deep])
    assert np.array_equal(pixels(edited)[outside(mask)], pixels(out)[outside(mask)])
    assert not np.array_equal(pixels(edited), pixels(out))


def test_edits_accumulate_and_leave_what_they_began_from(pipe, out):
    before = pixels(out)
    left, right = disc(before.shape[:2], x=0.25), disc(before.shape[:2], x=0.75)
    both = pipe.edit(out, [Edit(left, strength=0.2), Edit(right, seed=5)])
    one_by_one = pipe.edit(pipe.edit(out, [Edit(left, strength=0.2)]), [Edit(right, seed=5)])
    assert np.array_equal(pixels(both), pixels(one_by_one))
    assert np.array_equal(pixels(out), before)
    undone = pipe.edit(both, [Edit(left, strength=1)])
    assert np.array_equal(pixels(undone), pixels(pipe.edit(out, [Edit(right, seed=5)])))


# ---------------------------------------------------------------------------------------------- re-sampling


@pytest.mark.parametrize(("size", "tile", "steps"), [((48, 60), None, 1), ((48, 60), None, 3), ((50, 71), 32, 3)])
def test_a_picture_re_sampled_as_a_whole_is_that_of_the_seed(pipe, size, tile, steps):
    photo = data.astronaut()[40 : 40 + size[0], 200 : 200 + size[1]]
    options = {"num_inference_steps": steps, "tile": tile, "fidelity": 0.2}
    everything = np.ones((4 * size[0], 4 * size[1]), bool)
    edited = pipe(photo, **options, edits=[Edit(everything, seed=12)])
    assert np.array_equal(pixels(edited), pixels(pipe(photo, **options, generator=generator(12))))


@pytest.mark.parametrize(("options", "size"), [
    ({"num_inference_steps": 1}, (64, 80)), ({"num_inference_steps": 3}, (64, 80)),
    ({"num_inference_steps": 3, "tile": 32}, (64, 80)), ({"scale": 2, "color_fix": "adain"}, (64, 80)),
    ({"scale": 1.3, "color_fix": "none"}, (67, 101)), ({"scale": 6}, (32, 40)),
])
def test_re_sampling_changes_the_object_and_nothing_far_from_it(pipe, options, size):
    photo = data.astronaut()[40 : 40 + size[0], 200 : 200 + size[1]]
    before = pipe(photo, **options, keep_latents=True)
    mask = disc(before.instances[0].shape)
    after = pipe.edit(before, [Edit(mask, seed=3)])
    change = np.abs(pixels(after) - pixels(before)).max(2)
    assert not change[outside(mask)].any()
    assert change[mask].mean() > 1
    assert after.instances[0] is before.instances[0]
