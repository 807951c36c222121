"""The pipeline: any picture in, the same picture out every time, whatever the tiles."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from skimage import data

import instancersr
from instancersr.lab.method.models import ControlNet, DetailDecoder, JointDiT
from instancersr.lab.pipeline import seed_of


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return instancersr.InstanceRSRPipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.astronaut()[40:88, 200:260]  # 48 x 60


def pixels(out) -> np.ndarray:
    return np.asarray(out.images[0]).astype(int)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (48, 32), (16, 140)])
def test_any_size_and_aspect(pipe, size):
    photo = data.astronaut()[: size[0], : size[1]]
    out = pipe(photo)
    assert out.images[0].size == (4 * size[1], 4 * size[0])
    assert out.instances[0].shape == (4 * size[0], 4 * size[1]) and out.instances[0].dtype == np.int32


def test_same_input_and_seed_same_output(pipe, photo):
    assert np.array_equal(pixels(pipe(photo)), pixels(pipe(photo)))
    seeds = [pixels(pipe(photo, generator=torch.Generator().manual_seed(s))) for s in (0, 0, 1)]
    assert np.array_equal(seeds[0], seeds[1]) and not np.array_equal(seeds[0], seeds[2])


def test_a_generator_stands_for_its_seed_and_moves_on(pipe, photo):
    generator = torch.Generator().manual_seed(7)
    first, second = (pixels(pipe(photo, generator=generator)) for _ in range(2))
    assert np.array_equal(first, np.asarray(pipe.upscaler(photo, seed=7).images[0]))
    assert not np.array_equal(first, second)
    assert seed_of(None) == 0 and seed_of(torch.Generator().manual_seed(7)) == 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("steps", [1, 4])
def test_half_precision_differs_little(pipe, tiny_model, photo, dtype, steps):
    half = instancersr.InstanceRSRPipeline.from_pretrained(tiny_model, torch_dtype=dtype)
    assert half.transformer.dtype == dtype
    ours, expected = (pixels(each(photo, num_inference_steps=steps)) for each in (half, pipe))
    assert 0 < np.abs(ours - expected).mean() < 3


def test_tile_batch_does_not_change_the_result(pipe, photo):
    one, three = (pipe(photo, tile=32, tile_batch=n) for n in (1, 3))
    assert np.abs(pixels(one) - pixels(three)).max() <= 1  # sums in another order may round differently
    assert np.array_equal(one.instances[0] > 0, three.instances[0] > 0)


def test_tiles_leave_no_seam(pipe, photo):
    """At fidelity 1 the tiles' borders are the only difference to one tile; steps across them are no larger."""
    whole, tiled = (pixels(pipe(photo, fidelity=1.0, color_fix="none", tile=t)) for t in (64, 32))
    assert np.abs(whole - tiled).mean() < 0.5
    steps = np.abs(np.diff(tiled, axis=1)).mean((0, 2))
    plain = np.abs(np.diff(whole, axis=1)).mean((0, 2))
    assert np.abs(steps - plain).max() < 1


def test_the_detail_decoder_draws_on_the_sample_and_is_saved(pipe, photo, tmp_path):
    torch.manual_seed(0)
    decoder = DetailDecoder(feature_channels=8, channels=8, blocks=1)
    parts = pipe.components | {"detail_decoder": decoder}
    detailed = instancersr.InstanceRSRPipeline(**parts, default_steps=2)
    assert np.array_equal(pixels(detailed(photo)), pixels(pipe(photo)))  # it starts as the identity
    torch.nn.init.normal_(decoder.tail.weight, std=0.1)
    assert np.array_equal(pixels(detailed(photo, fidelity=1.0)), pixels(pipe(photo, fidelity=1.0)))
    assert np.abs(pixels(detailed(photo)) - pixels(pipe(photo))).mean() > 1
    detailed.save_pretrained(tmp_path)
    again = instancersr.InstanceRSRPipeline.from_pretrained(tmp_path)
    assert np.array_equal(pixels(detailed(photo)), pixels(again(photo)))


def test_a_detail_decoder_that_sees_tokens_sees_the_transformers_last(pipe, photo, tmp_path):
    torch.manual_seed(0)
    width, depth = pipe.transformer.config.width, pipe.transformer.config.depth
    decoder = DetailDecoder(feature_channels=8, channels=8, blocks=1, token_channels=width, feature_skip=True)
    torch.nn.init.normal_(decoder.tail.weight, std=0.1)
    detailed = instancersr.InstanceRSRPipeline(**(pipe.components | {"detail_decoder": decoder}), default_steps=2)
    deaf = pixels(detailed(photo))
    torch.nn.init.normal_(decoder.token_proj.weight, std=0.5)
    seen, given = [], []
    hooks = [pipe.transformer.blocks[depth - 1].register_forward_hook(lambda _block, _inputs, x: seen.append(x)),
             decoder.token_norm.register_forward_pre_hook(lambda _norm, inputs: given.append(inputs[0]))]
    hearing = pixels(detailed(photo))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2 and torch.equal(given[0], seen[-1])  # of two steps the last
    assert np.abs(hearing - deaf).mean() > 1
    detailed.save_pretrained(tmp_path)
    assert np.array_equal(pixels(instancersr.InstanceRSRPipeline.from_pretrained(tmp_path)(photo)), hearing)


def test_fidelity_runs_from_the_restored_photo_to_the_sample(pipe, photo):
    ends = [pixels(pipe(photo, fidelity=f, color_fix="none")) for f in (0.0, 0.5, 1.0)]
    middle = (ends[0] + ends[2]) / 2
    inside = (ends[0] > 0) & (ends[0] < 255) & (ends[2] > 0) & (ends[2] < 255)  # not clipped
    assert np.abs(ends[1] - middle)[inside].max() <= 1
    y = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        restored = (pipe.restoration(y).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(ends[2] - restored).max() <= 1


def test_start_from_lr_differs_where_the_first_step_has_signal(pipe, photo):
    leading = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    other = type(pipe)(pipe.autoencoder, pipe.restoration, pipe.transformer, pipe.controlnet, leading)
    noise, lr = (pixels(other(photo, num_inference_steps=2, start_from=s)) for s in ("noise", "lr"))
    assert not np.array_equal(noise, lr)


@pytest.mark.parametrize("scale", [1, 2, 2.5, 6])
def test_other_scales(pipe, scale):
    out = pipe(data.astronaut()[:16, :20], scale=scale)
    assert out.images[0].size == (round(20 * scale), round(16 * scale))
    assert out.instances[0].shape == (round(16 * scale), round(20 * scale))


def test_pictures_arrays_and_paths_are_the_same(pipe, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    results = [pixels(pipe(image)) for image in (photo, Image.fromarray(photo), tmp_path / "photo.png")]
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_progress_counts_tiles(pipe, photo):
    calls = []
    pipe(photo, tile=32, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, calls[0][1]) for n in range(1, calls[0][1] + 1)] and len(calls) > 1


@pytest.mark.parametrize(("options", "message"), [
    ({"scale": 0.5}, "scale must be"), ({"scale": 17}, "scale must be"),
    ({"num_inference_steps": 0}, "num_inference_steps"), ({"start_from": "zero"}, "start_from must be"),
    ({"fidelity": 1.5}, "fidelity must be"), ({"color_fix": "magic"}, "magic"), ({"tile": 3}, "tile must be"),
    ({"tile_batch": 0}, "tile_batch"),
])
def test_wrong_options_are_named(pipe, photo, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(photo, **options)


@pytest.mark.parametrize("image", [np.zeros((0, 40, 3), np.uint8), np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3))])
def test_wrong_pictures_are_named(pipe, image):
    with pytest.raises(ValueError, match="image: "):
        pipe(image)


def test_missing_models_are_named(tmp_path):
    for name in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(OSError, match=str(tmp_path)):
            instancersr.InstanceRSRPipeline.from_pretrained(name)


def test_saved_and_loaded(pipe, photo, tmp_path):
    saved = instancersr.InstanceRSRPipeline(**pipe.components, default_steps=2, anchor_steps=2)
    saved.save_pretrained(tmp_path)
    loaded = instancersr.InstanceRSRPipeline.from_pretrained(tmp_path)
    assert np.array_equal(pixels(loaded(photo)), pixels(saved(photo)))
    assert loaded.config.default_steps == 2
    three, elsewhere = (pixels(each(photo, num_inference_steps=3)) for each in (loaded, pipe))
    assert np.array_equal(three, pixels(saved(photo, num_inference_steps=3)))
    assert not np.array_equal(three, elsewhere)


def test_the_papers_parts_fit_the_same_pipeline(photo, tmp_path):
    """AutoencoderKL, no restoration network, noise prediction with learned variance, classes, linear schedule."""
    autoencoder = AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                                up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4)
    transformer = JointDiT(8, 16, 2, 32, 2, 2, num_classes=10)
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="epsilon",
                              timestep_spacing="trailing", clip_sample=False)
    paper = instancersr.InstanceRSRPipeline(autoencoder, None, transformer, ControlNet.from_backbone(transformer, 4, 1),
                                            scheduler, default_steps=2)
    first, second = (paper(photo) for _ in range(2))  # of the autoencoder's posterior the mean is taken
    assert first.images[0].size == (240, 192) and np.array_equal(pixels(first), pixels(second))
    paper.save_pretrained(tmp_path)
    loaded = instancersr.InstanceRSRPipeline.from_pretrained(tmp_path)
    assert loaded.restoration is None and isinstance(loaded.autoencoder, AutoencoderKL)
