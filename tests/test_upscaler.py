"""The core's upscaler, on ONNX Runtime: what a call computes, and what threads and memory do to it."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data
from typer.testing import CliRunner

import instancersr
from instancersr.cli.app import app
from instancersr.edits import Edit, read_target
from instancersr.errors import ModelError
from instancersr.loading import load_upscaler
from instancersr.model import BUILTIN, GRAPHS, INDEX
from instancersr.recipe import Defaults
from instancersr.upscaler import Upscaler


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    """The shipped weights, which have every part, with one step by default and nothing of y-hat."""
    shipped = load_upscaler(threads=1)
    return Upscaler(shipped.engine, shipped.schedule, Defaults(1, 0.0, "balanced"))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.astronaut()[40:72, 200:240]


class Watched:
    """An engine that notes which of its methods are called."""

    def __init__(self, engine):
        self._engine, self.calls = engine, []

    def __getattr__(self, name):
        found = getattr(self._engine, name)
        if name not in GRAPHS:
            return found

        def noted(*inputs):
            self.calls.append(name)
            return found(*inputs)

        return noted


def calls(upscaler: Upscaler, photo: np.ndarray, **options) -> list[str]:
    watched = Watched(upscaler.engine)
    Upscaler(watched, upscaler.schedule, upscaler.defaults)(photo, denoise=1.0, **options)  # its own weights
    return watched.calls


def pixels(out) -> np.ndarray:
    return np.asarray(out.images[0]).astype(int)


def halves(rgb: np.ndarray) -> np.ndarray:
    """A segmenter: what is above the middle is object 5, the rest none."""
    ids = np.zeros(rgb.shape[:2], np.int32)
    ids[: len(rgb) // 2] = 5
    return ids


def test_a_map_decoder_of_an_earlier_version_is_named(upscaler, photo):
    older = Upscaler(copy(upscaler.engine), upscaler.schedule, upscaler.defaults)
    older.engine.pair_features = 31
    with pytest.raises(ModelError, match="map_decoder reads 31 numbers of two regions, and this version gives 39"):
        older(photo, denoise=1.0)
    assert older(photo, denoise=1.0, instances=False).images


FULL = ["restore", "encode", "denoise", "decode", "decode_map", "pair_odds"]


@pytest.mark.parametrize(("options", "expected"), [
    ({}, FULL),
    ({"instances": False}, ["restore", "encode", "denoise", "decode"]),
    ({"quality": "fast", "instances": False}, ["restore", "finish"]),
    ({"quality": "fast"}, ["restore", "encode", "denoise", "finish", "decode_map", "pair_odds"]),
    ({"quality": "fast", "segmenter": halves}, ["restore", "finish"]),
    ({"quality": "fast", "num_inference_steps": 2, "instances": False},
     ["restore", "encode", "denoise", "denoise", "decode"]),
    ({"quality": "best", "instances": False}, ["restore", "encode", *["denoise"] * 4, "decode"]),
    ({"fidelity": 1.0, "instances": False}, ["restore"]),
    ({"quality": "fast", "keep_latents": True}, FULL),
])
def test_a_call_computes_what_it_needs_and_no_more(upscaler, photo, options, expected):
    assert calls(upscaler, photo, cleaning=0.0, **options) == expected
    assert calls(upscaler, photo, cleaning=0.5, **options) == ["restore", *expected]


def test_another_seed_draws_other_texture_and_the_same_print(upscaler):
    """Without the noise that seeds share in print, print changes by 2.5 levels here."""
    rng = np.random.default_rng(0)
    photo = np.full((64, 128, 3), 128, np.uint8)
    photo[:, :64] = 255 * np.kron(rng.integers(0, 2, (16, 16)), np.ones((4, 4), int))[..., None]
    photo[:, 64:] = (128 + 25 * rng.standard_normal((64, 64, 1))).clip(0, 255)
    first, other = (np.asarray(upscaler(photo, quality="best", instances=False, denoise=0, seed=seed).images[0], float)
                    for seed in (0, 1))
    change = np.abs(other - first).mean((0, 2))
    assert change[:224].mean() < 0.5 and change[288:].mean() > 3


def test_the_photo_does_not_depend_on_whether_the_map_is_wanted(upscaler, photo):
    for quality in ("fast", "balanced"):
        one, other = (upscaler(photo, quality=quality, instances=wanted) for wanted in (False, True))
        assert np.array_equal(pixels(one), pixels(other)) and not one.instances
        assert other.instances[0].shape == pixels(other).shape[:2]


def test_a_models_own_quality_holds_where_the_call_names_none(upscaler, photo):
    fast = Upscaler(upscaler.engine, upscaler.schedule, Defaults(1, 0.0, "fast"))
    drawn = pixels(upscaler(photo, quality="fast"))
    assert np.array_equal(pixels(fast(photo)), drawn)
    assert not np.array_equal(pixels(fast(photo, quality="balanced")), drawn)
    assert np.array_equal(pixels(fast(photo, quality="balanced")), pixels(upscaler(photo)))


def test_the_shipped_default_takes_no_sample_and_a_part_of_y_hat_where_a_photo_is_damaged(upscaler, photo):
    """The default of the others here is one step and nothing of y-hat."""
    shipped = load_upscaler(threads=1)
    share = json.loads((BUILTIN / INDEX).read_text())["default_fidelity"]
    assert calls(shipped, photo, instances=False, cleaning=0.0) == ["restore", "finish"] and 0 < share < 0.5
    for denoise in (0, 1):
        assert np.array_equal(pixels(shipped(photo, denoise=denoise)),
                              pixels(upscaler(photo, quality="fast", denoise=denoise, fidelity=share * denoise)))


def test_best_draws_all_the_texture_whatever_the_models_own_fidelity_is(upscaler, photo):
    half = Upscaler(upscaler.engine, upscaler.schedule, Defaults(1, 0.5, "balanced"))
    best = pixels(half(photo, quality="best"))
    assert np.array_equal(best, pixels(upscaler(photo, quality="best", fidelity=0.0)))
    assert not np.array_equal(best, pixels(half(photo, quality="best", fidelity=0.5)))
    assert np.array_equal(pixels(half(photo, denoise=1.0)), pixels(upscaler(photo, fidelity=0.5, denoise=1.0)))


def test_quality_and_seed_are_checked(upscaler, photo):
    with pytest.raises(ValueError, match="quality must be one of fast, balanced, best, not 'good'"):
        upscaler(photo, quality="good")
    for name, value in {"scale": "4", "denoise": "x", "fidelity": "all", "seed": 1.5, "tile": 64.0}.items():
        with pytest.raises(ValueError, match=f"{name} must be a (whole )?number, not {value!r}"):
            upscaler(photo, **{name: value})
    with pytest.raises(ValueError, match="merge is for objects of the map"):
        upscaler(photo, instances=False, merge=[(1, 2)])
    with pytest.raises(ValueError, match="seed must be"):
        upscaler(photo, seed=-1)


def test_threads_with_different_settings_get_the_pictures_they_get_alone(tiny_model, photo):
    upscaler = load_upscaler(str(tiny_model), threads=1)
    settings = [{"num_inference_steps": steps, "seed": steps, "tile": tile} for steps in (1, 3, 5) for tile in (16, 32)]
    alone = [pixels(upscaler(photo, **options)) for options in settings]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda options: pixels(upscaler(photo, **options)), settings * 3))
    for number, picture in enumerate(together):
        assert np.array_equal(picture, alone[number % len(settings)])


def test_out_of_memory_tries_smaller_tiles(upscaler):
    sides = []

    class Tight(Upscaler):
        def _upscale_tiled(self, lr, recipe, side, progress):
            sides.append(side)
            if side > 32:
                raise MemoryError
            return super()._upscale_tiled(lr, recipe, side, progress)

    tight = Tight(upscaler.engine, upscaler.schedule, upscaler.defaults)
    assert tight(data.astronaut()[:48, :60], quality="fast", instances=False).images[0].size == (240, 192)
    assert sides == [128, 64, 32]
    with pytest.raises(MemoryError):
        tight(data.astronaut()[:48, :60], tile=64)


def test_edits_of_what_was_not_kept_are_refused(upscaler, photo):
    out = upscaler(photo, instances=False, keep_latents=True)
    with pytest.raises(ValueError, match="keep_latents=True and instances"):
        upscaler.edit(out, [Edit(1, strength=0.5)])


# ------------------------------------------------------------------------------------------------ objects


@pytest.mark.parametrize("scale", [2, 4])
def test_a_segmenter_sees_the_finished_picture_and_its_objects_are_edited(upscaler, photo, scale):
    seen = []

    def segmenter(rgb):
        seen.append(rgb.copy())
        return halves(rgb)

    plain = upscaler(photo, scale)
    out = upscaler(photo, scale, segmenter=segmenter, edits=[Edit(5, strength=0)])
    np.testing.assert_array_equal(seen[0], np.asarray(plain.images[0]))
    np.testing.assert_array_equal(out.instances[0], halves(seen[0]))
    masked = upscaler(photo, scale, edits=[Edit(halves(seen[0]) == 5, strength=0)])
    np.testing.assert_array_equal(pixels(out), pixels(masked))
    assert not np.array_equal(pixels(out), pixels(plain))


@pytest.mark.parametrize("beside", [0, 127])
def test_of_a_mask_with_transparency_only_what_is_white_and_seen_is_the_object(tmp_path, beside):
    rgb, alpha = np.full((16, 20, 3), 255, np.uint8), np.full((16, 20), beside, np.uint8)
    alpha[4:10, 5:15] = 200
    rgb[4:10, 12:15] = 0  # seen, but black
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "mask.png")
    expected = np.zeros((32, 40), bool)
    expected[8:20, 10:24] = True
    np.testing.assert_array_equal(read_target(str(tmp_path / "mask.png"), (16, 20), (32, 40)), expected)


def test_a_segmenters_map_of_another_size_is_refused(upscaler, photo):
    with pytest.raises(ValueError, match=r"segmenter: its map is \(64, 160\), the picture \(128, 160\)"):
        upscaler(photo, segmenter=lambda rgb: halves(rgb)[::2])


def test_objects_are_merged_before_they_are_edited(upscaler, photo):
    plain = upscaler(photo, segmenter=halves)
    merged = upscaler(photo, segmenter=halves, merge=[(5, 0)], edits=[Edit(5, strength=0)])
    assert (merged.instances[0] == 5).all() and (plain.instances[0] == 0).any()
    np.testing.assert_array_equal(pixels(merged), pixels(upscaler(photo, strength=0)))
    with pytest.raises(ValueError, match="object 7: not in the instance map"):
        upscaler(photo, segmenter=halves, merge=[(5, 7)])


# ------------------------------------------------------------------------------------------- the package's one call


@pytest.fixture(scope="module")
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_one_call_gives_what_the_command_writes(photo, profile, tmp_path):
    """Transparency, colour profile and orientation, of a file and of a PIL picture."""
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.dstack([photo, alpha])).save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    result = CliRunner().invoke(app, ["upscale", str(tmp_path / "a.png")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "a_x4.png") as written, Image.open(tmp_path / "a.png") as opened:
        for source in (tmp_path / "a.png", opened):
            ours = instancersr.upscale(source)
            assert ours.mode == written.mode == "RGBA" and ours.info["icc_profile"] == profile
            assert np.array_equal(np.asarray(ours), np.asarray(written))


def test_a_grey_picture_with_its_profile_stays_grey(photo, profile):
    grey = Image.fromarray(photo).convert("L")
    grey.info["icc_profile"] = profile[:16] + b"GRAY" + profile[20:]
    ours = instancersr.upscale(grey, quality="fast")
    assert ours.mode == "L" and ours.info["icc_profile"] == grey.info["icc_profile"]


@pytest.mark.parametrize("image", [None, b"bytes", io.BytesIO(), [[0, 0, 0]]])
def test_other_kinds_of_pictures_are_refused_by_name(upscaler, image):
    with pytest.raises(ValueError, match=f"expected a path, a PIL picture or an array .*not {type(image).__name__}"):
        upscaler(image)


def test_auto_is_the_noise_that_is_taken_off_where_nobody_says(upscaler, photo):
    one, other = (upscaler(photo, quality="fast", instances=False, denoise=value) for value in (None, "auto"))
    assert np.array_equal(pixels(one), pixels(other))
