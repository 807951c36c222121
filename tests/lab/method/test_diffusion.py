"""The forward process and the preconditioning against closed forms."""

import pytest
import torch
from diffusers import DDIMScheduler

from instancersr.lab.method.diffusion import (
    Denoiser,
    add_noise,
    gaussian_posterior,
    join,
    noise_scales,
    prior_mean,
    split,
)
from instancersr.lab.method.models import ControlNet, JointDiT
from instancersr.lab.training.config import ScheduleConfig


@pytest.fixture
def scheduler() -> DDIMScheduler:
    return DDIMScheduler(prediction_type="sample", clip_sample=False, **ScheduleConfig().model_dump())


def denoiser(scheduler, residual_std, noise_skip: bool = True) -> Denoiser:
    torch.manual_seed(0)
    transformer = JointDiT(8, 8 if residual_std else 16, 2, 32, 2, 2, residual_std=residual_std, noise_skip=noise_skip)
    torch.nn.init.normal_(transformer.final_layer.linear.weight)
    return Denoiser(transformer, ControlNet.from_backbone(transformer, 4, 1), scheduler)


def test_join_and_split():
    z_x, z_m = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert torch.equal(split(join(z_x, z_m))[0], z_x) and torch.equal(split(join(z_x, z_m))[1], z_m)


def test_forward_process_is_the_schedulers(scheduler):
    z, noise, t = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4), torch.tensor([0, 500, 999])
    torch.testing.assert_close(add_noise(z, noise, *noise_scales(scheduler, t)), scheduler.add_noise(z, noise, t))


def test_last_timestep_is_pure_noise(scheduler):
    alpha, sigma = noise_scales(scheduler, torch.tensor([999]))
    assert alpha.item() == pytest.approx(0, abs=1e-6) and sigma.item() == pytest.approx(1)
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 499]


def test_posterior_is_bayes_rule_on_a_grid():
    """Mean and deviation of p(z | z_t) for z ~ N(m, s^2), by numerical integration."""
    m, s, a, b, z_t = 0.7, 0.4, 0.8, 0.6, 0.2
    z = torch.linspace(-6, 6, 200001, dtype=torch.float64)
    density = torch.exp(-((z - m) ** 2) / (2 * s**2) - (z_t - a * z) ** 2 / (2 * b**2))
    density /= density.sum()
    mean = (density * z).sum()
    std = (density * (z - mean) ** 2).sum().sqrt()
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    ours = gaussian_posterior(z_t * one, m * one, s * one[0], a * one, b * one)
    assert ours[0].item() == pytest.approx(mean.item(), abs=1e-6)
    assert ours[1].item() == pytest.approx(std.item(), abs=1e-6)


def test_posterior_is_the_prior_at_pure_noise_and_the_truth_without_noise():
    z_t, mean, std = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3), torch.tensor([0.5, 2.0])[:, None, None]
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    torch.testing.assert_close(gaussian_posterior(z_t, mean, std, zero, one), (mean, std.expand(1, 2, 1, 1)))
    clean, deviation = gaussian_posterior(z_t, mean, std, one, zero)
    torch.testing.assert_close(clean, z_t)
    assert (deviation == 0).all()


@pytest.mark.parametrize("noise_skip", [True, False])
@pytest.mark.parametrize("residual_std", [None, [0.3] * 4 + [1.0] * 4])
def test_a_network_that_hits_its_target_gives_the_clean_latent(scheduler, residual_std, noise_skip):
    """`clean` undoes `target`: for noise prediction, for the preconditioned residual and for x-prediction."""
    z, z_y, noise = torch.randn(2, 8, 4, 4), torch.randn(2, 4, 4, 4), torch.randn(2, 8, 4, 4)
    t = torch.tensor([300, 700])
    model = denoiser(scheduler, residual_std, noise_skip)
    alpha, sigma = noise_scales(scheduler, t)
    z_t = add_noise(z, noise, alpha, sigma)
    target = model.target(z, z_t, z_y, noise, t)
    model._evaluate = lambda *_: (target, None)  # the network's place is taken by the right answer
    torch.testing.assert_close(model(z_t, z_y, t).clean, z, atol=1e-4, rtol=1e-4)


def test_an_untrained_residual_network_gives_the_restored_photo(scheduler):
    model = denoiser(scheduler, [0.3] * 8)
    torch.nn.init.zeros_(model.transformer.final_layer.linear.weight)
    z_y = torch.randn(1, 4, 4, 4)
    prediction = model(torch.randn(1, 8, 4, 4), z_y, torch.tensor([999]))
    torch.testing.assert_close(prediction.clean, prior_mean(z_y), atol=1e-5, rtol=0)


def test_without_the_skip_no_noise_passes_a_network_that_says_nothing(scheduler):
    """x-prediction: what the network adds to the condition is the same at every noise, and z_t enters by it alone."""
    z_y, z_t, t = torch.randn(1, 4, 4, 4), torch.randn(1, 8, 4, 4), torch.tensor([249])
    for noise_skip in (True, False):
        model = denoiser(scheduler, [0.3] * 8, noise_skip)
        model._evaluate = lambda *_: (torch.ones(1, 8, 4, 4), None)
        follows_noise = not torch.allclose(model(z_t, z_y, t).clean, model(-z_t, z_y, t).clean)
        assert follows_noise == noise_skip
    torch.testing.assert_close(model(z_t, z_y, t).clean, prior_mean(z_y) + 0.3)


def test_at_pure_noise_the_skip_changes_nothing(scheduler):
    z_t, z_y, last = torch.randn(1, 8, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor([999])
    with_skip, without = (denoiser(scheduler, [0.3] * 8, skip)(z_t, z_y, last).clean for skip in (True, False))
    torch.testing.assert_close(with_skip, without)


def test_learned_variance_channels_are_cut_off(scheduler):
    prediction = denoiser(scheduler, None)(torch.randn(1, 8, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor([10]))
    assert prediction.raw.shape == (1, 8, 4, 4)
