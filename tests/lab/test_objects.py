"""Edits of single objects: what they change, what they must not, and what a full upscale would have made."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

import instancersr
from instancersr.edits import Edit, crop_weights, list_objects, plan_crops
from instancersr.lab.method.models import DetailDecoder
from instancersr.sampling import Known, sample
from instancersr.tiling import plan_tiles

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


@pytest.mark.parametrize(("scale", "color_fix"), [(4, "wavelet"), (4, "none"), (2.5, "adain"), (6, "wavelet")])
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


@pytest.mark.parametrize(("size", "tile", "steps"), [((48, 60), None, 1), ((48, 60), None, 3), ((50, 53), 40, 2)])
def test_a_picture_re_sampled_as_a_whole_is_that_of_the_seed(pipe, size, tile, steps):
    photo = data.astronaut()[40 : 40 + size[0], 200 : 200 + size[1]]
    options = {"num_inference_steps": steps, "tile": tile, "fidelity": 0.2}
    everything = np.ones((4 * size[0], 4 * size[1]), bool)
    edited = pipe(photo, **options, edits=[Edit(everything, seed=12)])
    assert np.array_equal(pixels(edited), pixels(pipe(photo, **options, generator=generator(12))))


@pytest.mark.parametrize(("options", "size"), [
    ({"num_inference_steps": 1}, (64, 80)), ({"num_inference_steps": 3}, (64, 80)),
    ({"num_inference_steps": 2, "tile": 40}, (48, 60)), ({"scale": 2, "color_fix": "adain"}, (64, 80)),
    ({"scale": 1.3, "color_fix": "none"}, (67, 101)), ({"scale": 6}, (16, 20)),
])
def test_re_sampling_changes_the_object_and_nothing_far_from_it(pipe, options, size):
    photo = data.astronaut()[40 : 40 + size[0], 200 : 200 + size[1]]
    before = pipe(photo, **options, keep_latents=True)
    mask = disc(before.instances[0].shape, radius=0.15 if min(size) > 16 else 0.05)
    after = pipe.edit(before, [Edit(mask, seed=3)])
    change = np.abs(pixels(after) - pixels(before)).max(2)
    assert not change[outside(mask)].any()
    assert change[mask].mean() > 0.5
    assert after.instances[0] is before.instances[0]


class FarSeeing(DetailDecoder):
    """A decoder in which each pixel depends on all."""

    def forward(self, photo: torch.Tensor, features: torch.Tensor, tokens: None = None) -> torch.Tensor:
        return photo + photo.mean((2, 3), keepdim=True) + features.mean()


@pytest.mark.parametrize("decoder", ["far seeing", "random", "with tokens"])
def test_a_decoder_of_wide_sight_changes_nothing_far_from_the_object(pipe, decoder):
    module = FarSeeing(feature_channels=8, channels=8, blocks=1)
    if decoder != "far seeing":
        width = pipe.transformer.config.width if decoder == "with tokens" else 0
        module = DetailDecoder(feature_channels=8, channels=8, blocks=10, token_channels=width)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    other = type(pipe)(pipe.autoencoder, pipe.restoration, pipe.transformer, pipe.controlnet, pipe.scheduler,
                       detail_decoder=module)
    before = other(data.astronaut()[40:104, 200:280], keep_latents=True)
    mask = disc(before.instances[0].shape)
    change = np.abs(pixels(other.edit(before, [Edit(mask, seed=3)])) - pixels(before))
    assert not change[outside(mask)].any() and change[mask].any()


def sprawling(shape: tuple[int, int]) -> np.ndarray:
    """An arch: its box is nearly the picture, most of which it leaves free."""
    mask = np.zeros(shape, bool)
    mask[16:-16, 16:40] = mask[16:-16, -40:-16] = mask[16:40, 16:-16] = True
    return mask


@pytest.mark.parametrize("decoder", [False, "without tokens", "with tokens"])
@pytest.mark.parametrize("size", [(80, 100), (152, 140)])
def test_the_same_seed_again_is_nearly_the_same_picture(pipe, decoder, size):
    """Only the context is smaller: an edit with the picture's own noise must not be seen, at the border least."""
    if decoder:
        torch.manual_seed(0)
        width = pipe.transformer.config.width if decoder == "with tokens" else 0
        module = DetailDecoder(feature_channels=8, channels=8, blocks=2, token_channels=width)
        torch.nn.init.normal_(module.tail.weight, std=0.05)
        if width:
            torch.nn.init.normal_(module.token_proj.weight, std=0.1)
        pipe = type(pipe)(pipe.autoencoder, pipe.restoration, pipe.transformer, pipe.controlnet, pipe.scheduler,
                          detail_decoder=module)
    before = pipe(data.astronaut()[40 : 40 + size[0], 180 : 180 + size[1]], keep_latents=True)
    for mask in (disc(before.instances[0].shape, radius=0.1), sprawling(before.instances[0].shape)):
        again = pipe.edit(before, [Edit(mask, seed=0)])
        other = pipe.edit(before, [Edit(mask, seed=1)])
        changes = [np.abs(pixels(out) - pixels(before))[mask].mean() for out in (again, other)]
        assert changes[0] < 0.1 * changes[1]
        once_more = pipe.edit(other, [Edit(mask, seed=1)])
        assert np.abs(pixels(once_more) - pixels(other))[mask].mean() < 0.1 * changes[1]


def test_re_sampling_does_not_restore_the_photo_again(pipe, monkeypatch):
    before = pipe(data.astronaut()[40:120, 180:280], keep_latents=True)
    monkeypatch.setattr(pipe.restoration, "features", None)
    pipe.edit(before, [Edit(disc(before.instances[0].shape), seed=1)])


def test_the_known_part_is_held_at_every_step(pipe):
    """What the network sees of it is z as it was, noised with its own noise as far as each step is."""
    engine, schedule = pipe.upscaler.engine, pipe.upscaler.schedule
    seen, denoise = [], engine.denoise

    def watching(z_t, z_y, timestep, offset):
        seen.append((z_t, timestep))
        return denoise(z_t, z_y, timestep, offset)

    engine.denoise = watching
    rng = np.random.default_rng(0)
    z_y = rng.standard_normal((1, 4, 8, 8), np.float32)
    known, old, new = rng.standard_normal((3, 1, 8, 8, 8), np.float32)
    share = np.zeros((8, 8), np.float32)
    share[:, 4:] = 1
    z, _ = sample(engine, schedule, z_y, new, 3, known=Known(known, old, share))
    assert len(seen) == 3
    for z_t, timestep in seen:
        alpha, sigma = schedule.scales(timestep)
        assert np.array_equal(z_t[..., :4], (alpha * known + sigma * old)[..., :4])
    assert np.array_equal(z[..., :4], known[..., :4])
    assert np.abs(z - known)[..., 4:].mean() > 0.1


def test_parts_of_an_object_that_lie_apart_are_computed_apart():
    mask = np.zeros((512, 512), bool)
    mask[40:60, 40:60] = mask[440:460, 430:450] = True
    tiles = plan_tiles(128, 128, 128, 16)
    crops = [crop for _, crop in plan_crops(mask, tiles)]
    assert len(crops) == 2
    assert sum(crop.height * crop.width for crop in crops) < 0.25 * 128 * 128
    covered = np.zeros((128, 128), bool)
    for crop in crops:
        covered[crop.slices] = True
        assert all(value % 4 == 0 for value in (crop.top, crop.left, crop.height, crop.width))
    near = ndimage.distance_transform_edt(~mask) <= 45  # FADE and the colour fix's blur
    assert covered.repeat(4, 0).repeat(4, 1)[near].all()


def test_the_arms_of_a_sprawling_object_are_computed_apart():
    mask = sprawling((512, 512))
    tiles = plan_tiles(128, 128, 128, 16)
    crops = [crop for _, crop in plan_crops(mask, tiles)]
    assert sum(crop.height * crop.width for crop in crops) < 0.7 * 128 * 128
    weights = np.zeros((512, 512))
    near = ndimage.distance_transform_edt(~mask) <= 14
    inside = np.zeros((512, 512), bool)  # of some crop, with all that a pixel's colour depends on
    for crop, weight in zip(crops, crop_weights(crops), strict=True):
        weights[crop.scaled(4)] += weight
        inside[tuple(slice(s.start + 31 * (s.start > 0), s.stop - 31 * (s.stop < 512)) for s in crop.scaled(4))] = True
    np.testing.assert_allclose(weights[near], 1, rtol=1e-6)
    assert inside[near].all()


# -------------------------------------------------------------------------------------------------- targets


def test_ids_points_and_masks_name_the_same_object(pipe, out):
    ids = out.instances[0]
    largest = list_objects(ids)[0]
    assert largest["area"] == np.count_nonzero(ids == largest["id"])
    left, top, width, height = largest["bbox"]
    rows, columns = np.nonzero(ids == largest["id"])
    assert (left, top, left + width - 1, top + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
    targets = (largest["id"], tuple(largest["point_coords"][0]), ids == largest["id"])
    edited = [pixels(pipe.edit(out, [Edit(target, strength=0)])) for target in targets]
    assert np.array_equal(edited[0], edited[1]) and np.array_equal(edited[0], edited[2])
    assert not np.array_equal(edited[0], pixels(out))


@pytest.mark.parametrize(("target", "message"), [
    (99_999, "object 99999: not in"), (-1, "object -1: not in"),
    ((240, 0), "point 240,0: outside the output of 240x192"),
    ((0, -1), "point 0,-1"), (np.ones((48, 60), bool), "mask: expected .192, 240. bool"),
    (np.zeros((192, 240), bool), "mask: it is empty"), (np.ones((192, 240)), "float64"), ("cat", "target 'cat'"),
    ((1, 2, 3), "neither an id, nor a point"),
])
def test_wrong_targets_are_named(pipe, out, target, message):
    with pytest.raises(ValueError, match=message):
        pipe.edit(out, [Edit(target, strength=0.5)])


def test_wrong_values_are_named(pipe, photo):
    for options in ({"strength": 1.5}, {"strength": -0.1}, {"strength": float("nan")}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            Edit(1, **options)
    with pytest.raises(ValueError, match="strength must be"):
        pipe(photo, strength=2)
    with pytest.raises(ValueError, match="keep_latents=True"):
        pipe.edit(pipe(photo, num_inference_steps=1), [Edit(1, strength=0.5)])


def test_progress_counts_the_parts_to_compute(pipe, out):
    calls = []
    mask = disc(out.instances[0].shape)
    pipe.edit(out, [Edit(mask, seed=1), Edit(mask, strength=0.5), Edit(mask, seed=2)],
              progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
