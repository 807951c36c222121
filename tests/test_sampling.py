"""The sampler in numpy against diffusers' scheduler, and the noise of a picture."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from instancersr.sampling import NoiseField, Schedule, VersionNoise, sample, version_share
from instancersr.tiling import Tile

CONFIGS = [
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True,
     "timestep_spacing": "trailing", "prediction_type": "sample", "clip_sample": False},
    {"beta_schedule": "linear", "timestep_spacing": "leading", "prediction_type": "epsilon", "clip_sample": False,
     "steps_offset": 1},
    {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace", "prediction_type": "epsilon",
     "clip_sample": True, "set_alpha_to_one": False},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("steps", [1, 3, 4, 10])
def test_the_steps_are_those_of_diffusers(config, steps):
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(scheduler.config)
    assert schedule.timesteps(steps) == scheduler.timesteps.tolist()
    np.testing.assert_allclose(schedule.signal, scheduler.alphas_cumprod.double(), atol=2e-6)
    z, output = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps.tolist():
        alpha, sigma = (float(scale) for scale in schedule.scales(timestep))
        clean = output if config["prediction_type"] == "sample" else (z - sigma * output) / alpha
        expected = scheduler.step(output, timestep, z).prev_sample
        ours = schedule.step(clean.numpy(), z.numpy(), timestep, steps)
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-3, atol=1e-4)
        z = expected


class KnowsTheAnswer:
    """An engine that sees the same clean latent in everything, and remembers what it was asked."""

    def __init__(self, clean):
        self.clean, self.asked = clean, []

    def denoise(self, z_t, z_y, timestep, offset):
        self.asked.append((z_t, timestep))
        return self.clean, None


@pytest.mark.parametrize(("steps", "noisiness", "told"), [
    (1, [999], [999]),
    (2, [999, 499], [999, 499]),
    (3, [999, 666, 333], [999, 666, 332]),
    (4, [999, 749, 499, 249], [999, 749, 499, 249]),
    (7, [999, 874, 749, 624, 499, 374, 249], [999, 999, 749, 749, 499, 499, 249]),
])
def test_more_steps_than_a_network_does_well_refine_those_it_does(steps, noisiness, told):
    schedule = Schedule.from_config(CONFIGS[0], anchor_steps=4)
    rng = np.random.default_rng(0)
    clean, noise = (rng.standard_normal((1, 4, 2, 2)).astype(np.float32) for _ in range(2))
    engine = KnowsTheAnswer(clean)
    z, _ = sample(engine, schedule, clean[:, :2], noise, steps)
    np.testing.assert_allclose(z, clean, atol=1e-5)
    assert [timestep for _, timestep in engine.asked] == told
    scheduler = DDIMScheduler(**CONFIGS[0])
    for (z_t, _), timestep in zip(engine.asked, noisiness, strict=True):  # as noisy as the step is, whatever is told
        signal = float(scheduler.alphas_cumprod[timestep])
        np.testing.assert_allclose(z_t, signal**0.5 * clean + (1 - signal) ** 0.5 * noise, atol=1e-4)


def test_more_steps_than_timesteps_are_refused_as_by_diffusers():
    scheduler = DDIMScheduler(num_train_timesteps=20)
    assert len(Schedule.from_config(scheduler.config).timesteps(20)) == 20
    for set_timesteps in (scheduler.set_timesteps, Schedule.from_config(scheduler.config).timesteps):
        with pytest.raises(ValueError, match="num_inference_steps.*20"):
            set_timesteps(21)


@pytest.mark.parametrize("config", [{"thresholding": True}, {"beta_schedule": "sigmoid"},
                                    {"timestep_spacing": "random"}])
def test_what_it_cannot_do_is_refused(config):
    with pytest.raises(ValueError, match=f"scheduler: {next(iter(config))}"):
        Schedule.from_config(config)


def test_more_steps_than_lie_between_the_anchors_are_refused():
    schedule = Schedule.from_config(CONFIGS[0], anchor_steps=4)
    assert schedule.timesteps(751) == list(range(999, 248, -1))
    with pytest.raises(ValueError, match="num_inference_steps must be 1 to 751"):
        schedule.timesteps(752)


def test_a_network_that_predicts_noise_has_no_anchors():
    with pytest.raises(ValueError, match="anchor_steps"):
        Schedule.from_config(CONFIGS[1], anchor_steps=4)


def test_noise_belongs_to_the_place_not_to_the_tile():
    field = NoiseField(5, 2, 60)
    whole = field.window(Tile(0, 0, 100, 120))
    assert whole.shape == (2, 50, 60)
    assert np.array_equal(field.window(Tile(36, 20, 40, 64)), whole[:, 18:38, 10:42])
    assert abs(whole.std() - 1) < 0.05 and abs(whole.mean()) < 0.05


def test_versions_agree_in_print_and_differ_elsewhere():
    photo = np.full((64, 96, 3), 128, np.uint8)
    photo[:, :32] = np.where(np.arange(32)[:, None] // 2 % 2, 255, 0)  # as black and white as print
    photo[:, 64:] = np.where(np.arange(32)[:, None] // 2 % 2, 226, 31)  # contrast of 195: half-way
    share = version_share(photo)
    assert share.shape == (32, 48)
    np.testing.assert_allclose(share[:, [5, 24, 40]], np.tile([0, 1, 0.5], (32, 1)))
    own, first = NoiseField(7, 200, 48), NoiseField(0, 200, 48)
    noise = VersionNoise(own, first, share)
    whole = noise.window(Tile(0, 0, 64, 96))
    assert np.array_equal(whole[:, :, :14], first.window(Tile(0, 0, 64, 28)))
    assert np.array_equal(whole[:, :, 20:28], own.window(Tile(0, 40, 64, 16)))
    mixed = whole[:, :, 36:]
    assert abs(mixed.var() - 1) < 0.02  # the sampler expects noise of variance 1
    for field, correlation in ((own, 0.5), (first, 0.75**0.5)):
        seen = field.window(Tile(0, 72, 64, 24))
        assert np.corrcoef(mixed.ravel(), seen.ravel())[0, 1] == pytest.approx(correlation, abs=0.02)
    assert np.array_equal(noise.window(Tile(16, 8, 32, 40)), whole[:, 8:24, 4:24])  # of the place, not of the tile


def test_seeds_layers_and_bands_have_noises_of_their_own():
    tile = Tile(0, 0, 32, 32)
    fields = [NoiseField(seed, 2, 16, layer) for seed, layer in ((5, 0), (6, 0), (5, 1), (2**64 - 1, 0))]
    noises = [field.window(tile).ravel() for field in fields] + [fields[0].window(Tile(32, 0, 32, 32)).ravel()]
    assert np.abs(np.corrcoef(noises) - np.eye(len(noises))).max() < 0.2
