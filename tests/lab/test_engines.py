"""Both engines draw the same pictures, of the shipped weights and of random models of the paper's kind."""

import json

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from safetensors import safe_open
from skimage import data

from instancersr.denoising import GRAIN_PARTS
from instancersr.edits import Edit
from instancersr.errors import ModelError, UserError
from instancersr.images.reading import read_image
from instancersr.lab.graphs import write_graphs
from instancersr.lab.method.models import ControlNet, DetailDecoder, JointDiT, RestorationNetwork
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.loading import load_upscaler, pick_engine
from instancersr.model import BUILTIN, GRAPHS, Model, find_model


def load_both(name: str):
    return [load_upscaler(name, "cpu", 1, engine) for engine in ("onnx", "torch")]


@pytest.fixture(scope="module")
def shipped():
    return load_both("builtin")


def pixels(out) -> np.ndarray:
    return np.asarray(out.images[0]).astype(int)


def assert_same(engines, photo: np.ndarray, **options) -> None:
    """Within one level, and on nearly every pixel the same; so are the maps, up to single border pixels."""
    ours, expected = (upscaler(photo, **options) for upscaler in engines)
    difference = np.abs(pixels(ours) - pixels(expected))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    assert expected.images[0].getextrema() != ((0, 0),) * 3
    for map_, other in zip(ours.instances, expected.instances, strict=True):
        assert (map_ != other).mean() < 0.002


def middle(shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[shape[0] // 3 : -shape[0] // 3, shape[1] // 3 : -shape[1] // 3] = True
    return mask


ASTRONAUT, COFFEE, CAT, ROCKET = (getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket"))
CASES = {
    "one tile": (ASTRONAUT[40:88, 200:256], {}),
    "odd sides": (COFFEE[100:133, 120:171], {}),
    "the smallest": (CAT[100:116, 100:116], {}),
    "several tiles": (ROCKET[100:172, 200:280], {"tile": 40}),
    "batches of tiles": (CAT[60:108, 120:190], {"tile": 32, "tile_batch": 2}),
    "four steps": (ASTRONAUT[60:108, 180:240], {"num_inference_steps": 4}),
    "more steps than are anchors": (ASTRONAUT[60:100, 180:228], {"num_inference_steps": 6}),
    "best, from the photo": (COFFEE[160:208, 200:248], {"quality": "best", "start_from": "lr"}),
    "without a sample": (CAT[100:160, 150:210], {"quality": "fast"}),
    "half the strength": (ROCKET[300:340, 250:300], {"strength": 0.5, "color_fix": "adain"}),
    "a fidelity, another size": (ASTRONAUT[200:248, 100:140], {"fidelity": 0.3, "scale": 2.5}),
    "two passes": (COFFEE[200:220, 300:324], {"scale": 6, "color_fix": "none"}),
    "grey": (np.repeat(data.camera()[100:140, 200:260, None], 3, 2), {"seed": 5}),
}


@pytest.mark.parametrize("case", CASES)
def test_both_engines_draw_the_same_picture(shipped, case):
    photo, options = CASES[case]
    assert_same(shipped, photo, **options)


def test_both_engines_re_sample_the_same_object(shipped):
    photo = ASTRONAUT[40:104, 190:262]
    mask = middle((4 * 64, 4 * 72))
    assert_same(shipped, photo, num_inference_steps=2, edits=[Edit(mask, seed=3), Edit(~mask, strength=0.4)])


def test_both_engines_draw_the_same_picture_of_a_file_with_alpha(shipped, tmp_path):
    Image.fromarray(np.dstack([CAT[100:140, 100:150], middle((40, 50)) * np.uint8(255)])).save(tmp_path / "a.png")
    photo = read_image(tmp_path / "a.png")
    assert photo.alpha is not None
    assert_same(shipped, photo.rgb)


# ------------------------------------------------------------------------------------------------ other models


def randomized(network: torch.nn.Module, std: float = 0.05) -> torch.nn.Module:
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return network


def papers(**config) -> InstanceRSRPipeline:
    """AutoencoderKL, no restoration network, noise prediction with learned variance, classes, linear schedule."""
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                                up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4)
    transformer = randomized(JointDiT(8, 16, 2, 32, 2, 2, num_classes=10, **config))
    control = randomized(ControlNet.from_backbone(transformer, 4, 1))
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="epsilon",
                              timestep_spacing="trailing", clip_sample=False)
    return InstanceRSRPipeline(autoencoder, None, transformer, control, scheduler, default_steps=3)


def compact(tokens: bool, skip: bool, noise_skip: bool = True) -> InstanceRSRPipeline:
    from instancersr.lab.method.models import BlockAutoencoder

    torch.manual_seed(1)
    autoencoder = BlockAutoencoder(latent_channels=4, refine_channels=4 if skip else 0)
    autoencoder.fit([torch.rand(2, 3, 64, 64) * 2 - 1])
    transformer = randomized(JointDiT(8, 8, width=32, depth=2, heads=2, residual_std=[0.5] * 8, noise_skip=noise_skip))
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False, rescale_betas_zero_snr=True,
                              timestep_spacing="trailing")
    detail = randomized(DetailDecoder(8, 8, 1, token_channels=32 if tokens else 0, feature_skip=skip))
    return InstanceRSRPipeline(autoencoder, randomized(RestorationNetwork(8, 1)), transformer,
                               randomized(ControlNet.from_backbone(transformer, 4, 1)), scheduler, 2, 0.1, detail)


MODELS = {
    "paper": papers, "base grid": lambda: papers(base_grid=8), "diffusers' frequencies": lambda: papers(
        frequency_shift=1, mlp_norm_eps=1e-5),
    "decoder": lambda: compact(False, False), "tokens": lambda: compact(True, False),
    "tokens, skip, refined latents": lambda: compact(True, True),
    "clean latents predicted": lambda: compact(True, True, noise_skip=False),
}


@pytest.mark.parametrize("kind", MODELS)
def test_both_engines_run_random_models(kind, tmp_path):
    MODELS[kind]().save_pretrained(tmp_path)
    write_graphs(tmp_path)
    engines = load_both(str(tmp_path))
    photo = COFFEE[100:137, 120:178]
    assert_same(engines, photo, tile=32)
    assert_same(engines, photo[:24, :20], num_inference_steps=1, start_from="lr", quality="fast")
    assert_same(engines, photo[:24, :20], quality="fast")
    mask = middle((4 * 37, 4 * 58))
    assert_same(engines, photo, edits=[Edit(mask, seed=2)])


def test_half_precision_weights_are_read_as_they_are(tmp_path):
    pipeline = compact(True, True)
    for part, dtype in ((pipeline.transformer, torch.bfloat16), (pipeline.detail_decoder, torch.float16)):
        part.to(dtype)
    pipeline.save_pretrained(tmp_path)
    write_graphs(tmp_path)
    assert_same(load_both(str(tmp_path)), COFFEE[100:137, 120:178])


def test_graphs_hold_no_weights_and_are_deleted_where_they_no_longer_fit(tmp_path):
    pipeline = compact(True, True)
    pipeline.save_pretrained(tmp_path)
    write_graphs(tmp_path)
    expected = {name for name in GRAPHS if name != "pair_odds"}  # there is no map decoder
    assert {path.stem for path in tmp_path.glob("*.onnx")} == expected and find_model(str(tmp_path)).has_graphs
    stored = {tensor.name: tensor.data_location for tensor in
              onnx.load(Model(tmp_path).graph("denoise"), load_external_data=False).graph.initializer}
    for part in ("transformer", "controlnet"):
        for name, _ in getattr(pipeline, part).named_parameters():
            assert stored[f"{part}.{name}"] == onnx.TensorProto.EXTERNAL
    pipeline.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_the_shipped_graphs_point_at_the_shipped_weights():
    """Each tensor of a graph is where safetensors has the tensor of that name: weights and graphs change together."""
    seen = set()
    for name in GRAPHS:
        for tensor in onnx.load(Model(BUILTIN).graph(name), load_external_data=False).graph.initializer:
            part, _, key = tensor.name.partition(".")
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert not (BUILTIN / part).is_dir(), f"{tensor.name} is inside {name}.onnx"
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            with open(BUILTIN / place["location"], "rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                entry = json.loads(stream.read(size))[key]
            begin, end = entry["data_offsets"]
            assert place["location"].startswith(f"{part}/") and entry["shape"] == list(tensor.dims)
            assert (int(place["offset"]), int(place["length"])) == (8 + size + begin, end - begin)
            seen.add(tensor.name)
    stored = {f"{file.parent.name}.{key}" for file in BUILTIN.glob("*/*.safetensors")
              for key in safe_open(file, "np").keys()  # noqa: SIM118  it is no dict
              if file.parent.name not in GRAIN_PARTS.values()}  # no graph's own: they are mixed in
    assert seen == stored


def test_weights_from_memory_take_the_place_of_those_in_the_files(tiny_model):
    """A network with its last layer's weights at zero adds nothing to the bicubic enlargement."""
    from instancersr.color import enlarge
    from instancersr.engines.onnx import SessionSettings, open_session

    y = np.random.default_rng(0).random((1, 3, 16, 20), np.float32)
    graph = find_model(str(tiny_model)).graph("restore")
    zeros = {"restoration.tail.weight": np.zeros((48, 8, 3, 3), np.float32),
             "restoration.tail.bias": np.zeros(48, np.float32)}
    restored = open_session(graph, SessionSettings(), zeros).run(["restored"], {"y": y})[0]
    np.testing.assert_allclose(restored, enlarge(y, (64, 80)), atol=1e-5)
    assert np.abs(open_session(graph, SessionSettings()).run(["restored"], {"y": y})[0] - restored).max() > 0.01


def test_the_engine_fits_the_model_and_the_device(tiny_model, tmp_path, monkeypatch):
    model = find_model(str(tiny_model))
    assert pick_engine(model, "auto") == pick_engine(model, "cpu") == "onnx"
    assert pick_engine(model, "cpu", "torch") == pick_engine(model, "mps") == "torch"
    compact(False, False).save_pretrained(tmp_path)
    without_graphs = find_model(str(tmp_path))
    assert pick_engine(without_graphs, "auto") == "torch"
    with pytest.raises(ModelError, match="has no graphs.*instancersr export"):
        load_upscaler(str(tmp_path), engine="onnx")
    monkeypatch.setattr("instancersr.loading.find_spec", lambda _: None)  # as if torch were not installed
    for arguments in ((without_graphs, "auto"), (model, "cpu", "torch"), (model, "mps")):
        with pytest.raises(UserError, match="torch"):
            pick_engine(*arguments)


@pytest.mark.parametrize(("device", "engine"), [("cuda", "onnx"), ("openvino", "auto"), ("mps", "torch")])
def test_a_device_that_is_not_there_is_one_line(tiny_model, device, engine):
    with pytest.raises(ModelError, match=f"no {device} .*; try --device auto"):
        load_upscaler(str(tiny_model), device, engine=engine)
