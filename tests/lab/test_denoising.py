"""The control of noise and grain: pictures of mixed weights, against mixtures of the saved files' own numbers."""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from typer.testing import CliRunner

from instancersr import doctor
from instancersr.cli.app import app
from instancersr.edits import Edit
from instancersr.engines import onnx
from instancersr.errors import ModelError
from instancersr.lab.method.models import DetailDecoder, MapDecoder, RestorationNetwork
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.loading import load_upscaler
from instancersr.tensors import stored_tensors
from instancersr.upscaler import Upscaler

PARTS = ("restoration", "detail_decoder")
OWN = 1
"""The value that means the model's own weights."""
PHOTO = data.chelsea()[60:84, 100:128]
FILE = "diffusion_pytorch_model.safetensors"


def cli(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """own and grain: models of one ancestry, in half precision; both: own with grain's networks as its grain parts."""
    folder = tmp_path_factory.mktemp("denoising")
    torch.manual_seed(3)
    pipe = InstanceRSRPipeline.from_pretrained(tiny_model)
    decoder = DetailDecoder(8, 8, 1, token_channels=32, feature_skip=True)
    torch.nn.init.normal_(decoder.tail.weight, std=0.03)
    pipe.register_modules(detail_decoder=decoder, map_decoder=MapDecoder())
    for name in ("grain", "own"):
        for part in PARTS:
            for weight in getattr(pipe, part).parameters():
                weight.data += 0.03 * torch.randn_like(weight)
        pipe.save_pretrained(folder / "saved" / name)
        for part in PARTS:
            file = folder / "saved" / name / part / FILE
            save_file({key: weight.half() for key, weight in load_file(file).items()}, file, {"format": "pt"})
    (folder / "saved" / "grain").rename(folder / "grain")
    assert cli("export", folder / "saved" / "own", folder / "own").exit_code == 0
    doctor.write_checksums(folder / "own", doctor.checksums(folder / "own"))
    assert cli("export", folder / "own", folder / "both", "--grain", folder / "grain").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def both(folders):
    """The model with the control, on each engine."""
    return {engine: load_upscaler(str(folders / "both"), "cpu", 1, engine) for engine in ("onnx", "torch")}


def pixels(upscaler, **options) -> np.ndarray:
    """Without cleaning, whose share follows the control as well."""
    return np.asarray(upscaler(PHOTO, cleaning=0.0, **options).images[0]).astype(int)


def mixture(folders, share: float) -> InstanceRSRPipeline:
    """The model whose weights are grain + share (own - grain), of the files' numbers."""
    pipe = InstanceRSRPipeline.from_pretrained(folders / "own")
    for part in PARTS:
        own, grain = ({key: weight.double() for key, weight in load_file(folders / name / part / FILE).items()}
                      for name in ("own", "grain"))
        getattr(pipe, part).load_state_dict({key: grain[key] + share * (own[key] - grain[key]) for key in own})
    return pipe


def assert_near(ours: np.ndarray, expected: np.ndarray) -> None:
    """As near as rounding the weights to half precision lets them be."""
    difference = np.abs(ours - expected)
    assert difference.max() <= 2 and difference.mean() < 0.1


@pytest.mark.parametrize("options", [
    {}, {"quality": "fast", "instances": False}, {"fidelity": 1.0, "instances": False}, {"scale": 6, "fidelity": 0.4},
    {"edits": [Edit((50, 40), seed=4)]}], ids=["sampled", "fast", "restored", "two passes", "an object drawn again"])
def test_a_value_is_a_mixture_of_the_weights(folders, both, options):
    """0 is the grain model, 1 the model itself, in every place where networks compute."""
    own, grain = (pixels(InstanceRSRPipeline.from_pretrained(folders / name), **options) for name in ("own", "grain"))
    assert np.abs(own - grain).mean() > 1, "nothing could be told apart"
    for denoise, expected in ((0, grain), (0.45, pixels(mixture(folders, 0.45), **options)), (OWN, own)):
        for upscaler in both.values():
            assert_near(pixels(upscaler, denoise=denoise, **options), expected)


def test_the_default_fidelity_is_for_what_the_own_weights_draw(both):
    """Of a photo that the grain parts draw in part, it counts in part."""
    upscaler = both["onnx"]
    gentle = Upscaler(upscaler.engine, upscaler.schedule, replace(upscaler.defaults, fidelity=0.4))
    for options, expected in (({"denoise": OWN}, 0.4), ({"denoise": 0.5}, 0.2), ({"denoise": 0}, 0),
                              ({"denoise": OWN, "fidelity": 0.1}, 0.1)):
        np.testing.assert_array_equal(pixels(gentle, **options), pixels(upscaler, **(options | {"fidelity": expected})))
    assert np.abs(pixels(gentle, denoise=OWN) - pixels(upscaler, denoise=OWN)).max() > 1


def test_an_edit_computes_with_the_weights_of_its_upscale(both):
    edit = [Edit((50, 40), seed=4)]
    for upscaler in both.values():
        out = upscaler(PHOTO, keep_latents=True, denoise=0.1, cleaning=0.0)
        later, at_once = upscaler.edit(out, edit).images[0], pixels(upscaler, edits=edit, denoise=0.1)
        np.testing.assert_array_equal(np.asarray(later), at_once)
        assert np.abs(at_once - pixels(upscaler, edits=edit)).max() > 2


def test_the_own_weights_are_not_mixed_and_the_grain_parts_not_read(folders, tmp_path):
    """The picture is the same to the last bit where the files of the grain parts are gone."""
    shutil.copytree(folders / "both", tmp_path / "both")
    for part in PARTS:
        (tmp_path / "both" / f"{part}_grain" / FILE).unlink()
    upscaler = load_upscaler(str(tmp_path / "both"), "cpu", 1, "onnx")
    own = load_upscaler(str(folders / "own"), "cpu", 1, "onnx")
    np.testing.assert_array_equal(pixels(upscaler, denoise=OWN), pixels(own))
    with pytest.raises(ModelError, match="restoration_grain is missing"):
        upscaler(PHOTO, denoise=0.5)


def test_threads_with_different_values_get_what_they_get_alone(folders, both):
    """More values than an engine keeps, so that mixtures come and go meanwhile."""
    values = [0, 0.2, 0.4, 0.6, 0.8, 1]
    for engine, upscaler in both.items():
        fresh = load_upscaler(str(folders / "both"), "cpu", 1, engine)
        alone = {value: pixels(upscaler, denoise=value, instances=False) for value in values}
        assert len({picture.tobytes() for picture in alone.values()}) == len(values)
        with ThreadPoolExecutor(4) as threads:
            jobs = [(value, threads.submit(pixels, fresh, denoise=value, instances=False)) for value in 2 * values]
            for value, job in jobs:
                np.testing.assert_array_equal(job.result(), alone[value])


def test_a_value_opens_the_graphs_that_it_changes_and_shares_the_rest(folders, monkeypatch):
    opened = []
    real = onnx.open_session
    monkeypatch.setattr(onnx, "open_session", lambda graph, *rest: opened.append(graph.stem) or real(graph, *rest))
    upscaler = load_upscaler(str(folders / "both"), "cpu", 1, "onnx")
    pixels(upscaler)
    before = len(opened)
    for _ in range(2):
        pixels(upscaler, denoise=0.25)
    assert sorted(opened[before:]) == ["decode", "restore"]


def test_a_pipeline_is_saved_with_its_grain_parts_and_computes_with_them(folders, both, tmp_path):
    InstanceRSRPipeline.from_pretrained(folders / "both").save_pretrained(tmp_path / "saved")
    saved = InstanceRSRPipeline.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(pixels(saved, denoise=0.1), pixels(both["torch"], denoise=0.1))


def test_nobody_chooses_then_the_photos_damage_does(both, camera_photo):
    Image.fromarray(camera_photo).save(file := io.BytesIO(), "JPEG", quality=10)
    for photo, denoise in ((camera_photo, 0), (np.asarray(Image.open(file)), OWN)):
        alone, chosen = (np.asarray(both["onnx"](photo, denoise=value, instances=False).images[0])
                         for value in (None, denoise))
        np.testing.assert_array_equal(alone, chosen)


def test_a_jpegs_own_table_counts_where_its_pixels_look_clean(both, camera_photo, tmp_path):
    """The same pixels as a PNG, a JPEG of quality 90, and that JPEG opened by Pillow."""
    Image.fromarray(camera_photo).save(tmp_path / "a.jpg", quality=90)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    upscaler = both["onnx"]
    alone = {name: np.asarray(upscaler(picture, instances=False).images[0]) for name, picture in
             (("jpeg", tmp_path / "a.jpg"), ("opened", Image.open(tmp_path / "a.jpg")), ("png", tmp_path / "a.png"))}
    chosen = {value: np.asarray(upscaler(tmp_path / "a.png", denoise=value, instances=False).images[0])
              for value in (0, OWN)}
    np.testing.assert_array_equal(alone["png"], chosen[0])
    np.testing.assert_array_equal(alone["jpeg"], chosen[OWN])
    np.testing.assert_array_equal(alone["opened"], chosen[OWN])


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_takes_a_value_and_refuses_others_in_a_line(folders, both, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Image.fromarray(PHOTO).save(f"{name}.png")
    for value, denoise in (("0", 0), ("auto", None), ("1", 1)):
        result = cli("upscale", "a.png", "-o", f"{value}.png", "--denoise", value, "--model", folders / "both",
                     "--engine", "onnx")
        assert result.exit_code == 0, result.output
        expected = both["onnx"](PHOTO, denoise=denoise).images[0]
        np.testing.assert_array_equal(np.asarray(Image.open(f"{value}.png")), np.asarray(expected))
    for value in ("1.5", "-0.1", "nan", "much"):
        result = cli("upscale", "a.png", "--denoise", value, "--model", folders / "both")
        assert result.exit_code == 2 and "is neither 'auto' nor a number of 0 to 1" in result.stderr
    result = cli("upscale", "a.png", "b.png", "--denoise", "0.5", "--model", folders / "own", "--engine", "onnx")
    assert result.exit_code != 0 and len(result.stderr.splitlines()) == 1
    assert "this model has no control of noise and grain" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "a.png", "auto.png", "b.png"]


def test_values_out_of_range_and_models_without_the_control_are_errors(folders, both):
    for upscaler in both.values():
        for value in (-0.01, 1.01, float("nan")):
            with pytest.raises(ValueError, match="denoise must be 0 to 1"):
                upscaler(PHOTO, denoise=value)
    for engine in ("onnx", "torch"):
        upscaler = load_upscaler(str(folders / "own"), "cpu", 1, engine)
        assert not upscaler.denoises
        with pytest.raises(ModelError, match="no control of noise and grain"):
            upscaler(PHOTO, denoise=0.5)


# ------------------------------------------------------------------------------------------------ models


def test_export_adds_another_models_networks_in_half_precision(folders, tmp_path):
    """Weights, settings and checksums; the rest of the model is as it was, and a second pair replaces the first."""
    pipe = InstanceRSRPipeline.from_pretrained(folders / "own")
    pipe.save_pretrained(tmp_path / "float")  # in float32, and loaded from a path that must not be left in it
    out = tmp_path / "out"
    assert cli("export", folders / "both", out, "--grain", tmp_path / "float").exit_code == 0
    for part, model in [(part, model) for part in PARTS for model in (folders / "both", out)]:
        source = folders / ("own" if model == out else "grain")
        expected, found = load_file(source / part / FILE), load_file(model / f"{part}_grain" / FILE)
        assert found.keys() == expected.keys()
        assert all(found[key].dtype == torch.float16 and torch.equal(found[key], expected[key]) for key in found)
        assert str(folders) not in (model / f"{part}_grain" / "config.json").read_text()
        assert (model / part / FILE).read_bytes() == (folders / "own" / part / FILE).read_bytes()
        assert doctor._weights(model).found.count("as recorded") == 1
        assert json.loads((model / "model_index.json").read_text())["restoration_grain"][1] == "RestorationNetwork"


def test_what_cannot_be_grain_is_one_line_and_leaves_nothing(folders, tiny_model, tmp_path):
    pipe = InstanceRSRPipeline.from_pretrained(folders / "grain")
    pipe.register_modules(restoration=RestorationNetwork(8, 2))
    pipe.save_pretrained(tmp_path / "deeper")
    before = sorted(tmp_path.iterdir())
    for grain, words in ((tmp_path / "deeper", "its restoration has not the shape"),
                         (tiny_model, "its detail_decoder has not the shape"), (tmp_path / "nothing", "nothing")):
        result = cli("export", folders / "own", tmp_path / "out", "--grain", grain)
        assert result.exit_code in (1, 2) and words in result.stderr and len(result.stderr.splitlines()) == 1
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ValueError, match="restoration_grain has not the shape of restoration"):
        InstanceRSRPipeline.from_pretrained(folders / "own", restoration_grain=RestorationNetwork(8, 2))


def test_grain_parts_are_merged_where_all_models_have_them(folders, tmp_path):
    swapped = tmp_path / "swapped"
    parts = {f"{part}_grain": getattr(InstanceRSRPipeline.from_pretrained(folders / "own"), part) for part in PARTS}
    InstanceRSRPipeline.from_pretrained(folders / "grain", **parts).save_pretrained(swapped)
    for other, share in ((swapped, 0.25), (folders / "own", 1.0)):
        out = tmp_path / f"merged_{share}"
        assert cli("merge", out, f"{folders}/both=0.75", f"{other}=0.25").exit_code == 0
        for part in PARTS:
            own, grain = (load_file(folders / name / part / FILE) for name in ("own", "grain"))
            for key, weight in load_file(out / f"{part}_grain" / FILE).items():
                expected = grain[key] if share == 1 else 0.75 * grain[key].float() + 0.25 * own[key].float()
                torch.testing.assert_close(weight, expected.float(), atol=1e-6, rtol=1e-6)


def test_weights_of_eight_bits_are_read_as_torch_does_and_are_not_mixed(tmp_path):
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    save_file({"a": torch.randn(3), "b": every.reshape(16, 16)}, tmp_path / FILE, {"format": "pt"})
    stored = stored_tensors(tmp_path)["b"]
    np.testing.assert_array_equal(stored.read(), every.float().numpy().reshape(16, 16))
    with pytest.raises(ModelError, match="weights of 8 bits cannot be mixed"):
        stored.pack(np.zeros((16, 16), np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tensors_are_read_and_packed_as_torch_does(dtype, tmp_path):
    torch.manual_seed(0)
    numbers = torch.randn(7, 11) * 10.0 ** torch.randint(-3, 3, (7, 11))
    save_file({"a": torch.randn(3), "b": numbers.to(dtype)}, tmp_path / FILE, {"format": "pt"})
    stored = stored_tensors(tmp_path)
    assert stored.keys() == {"a", "b"}
    np.testing.assert_array_equal(stored["b"].read(), numbers.to(dtype).float().numpy())
    packed = stored["b"].pack(numbers.numpy())
    expected = numbers.to(dtype)
    expected = expected.view(torch.uint16) if dtype == torch.bfloat16 else expected
    assert packed.dtype == expected.numpy().dtype
    np.testing.assert_array_equal(packed, expected.numpy())
