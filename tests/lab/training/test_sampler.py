"""The sampler's own steps: which one is trained, from what it begins, and how much texture it is asked for."""

import pytest
import torch
from torch import Tensor

from instancersr.lab.method.diffusion import encode
from instancersr.lab.method.models import BlockAutoencoder, RestorationNetwork
from instancersr.lab.training.config import DiffusionConfig, SamplerConfig
from instancersr.lab.training.randomness import Draws
from instancersr.lab.training.stages import build_objective
from instancersr.lab.training.stages.sampler import SamplerObjective

SIDE = 64


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    BlockAutoencoder(4).save_pretrained(folder / "autoencoder")
    RestorationNetwork(channels=8, blocks=1).save_pretrained(folder / "restoration")
    return folder


SIZES = {"width": 32, "depth": 2, "heads": 2, "control_depth": 1}


def objective(parts, init=None, transformer=SIZES | {"prediction": "clean"}, **sampler) -> SamplerObjective:
    return build_objective(DiffusionConfig(
        task="diffusion", output="unused", images=8, batch=2, autoencoder=str(parts / "autoencoder"),
        restoration=parts / "restoration", denoising_weight=0.0, mask_modelling=False, init=init,
        transformer=transformer, alignment={"layer": 1}, data={"photos": "unused", "crop": SIDE},
        sampler={"weight": 1.0, "steps": 1, "trained_steps": 4, "decoder_blocks": 1} | sampler))


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"hr": torch.rand(2, 3, SIDE, SIDE, generator=generator),
            "lr": torch.rand(2, 3, SIDE // 4, SIDE // 4, generator=generator),
            "ids": torch.zeros(2, SIDE, SIDE, dtype=torch.int32), "instance_map": torch.zeros(2, 3, SIDE, SIDE),
            "token_offset": torch.zeros(2, 2, dtype=torch.long)}


def evaluations(task: SamplerObjective, seed: int = 0) -> list[tuple[Tensor, int, bool]]:
    """z_t, timestep and whether the gradient goes through, of each call of the transformer in a step of training."""
    seen = []

    def record(_network, inputs):
        seen.append((inputs[0], int(inputs[1][0]), torch.is_grad_enabled()))

    hook = task.model["transformer"].register_forward_pre_hook(record)
    task.terms(task.model, batch(), Draws(1, range(2), seed), 0.0)
    hook.remove()
    return seen


def only(count: int) -> list[float]:
    """The shares that let no other number of steps be drawn."""
    return [float(number == count) for number in range(1, 5)]


@pytest.mark.parametrize(("count", "timesteps"), [(1, [999]), (2, [999, 499]), (3, [999, 666, 332]),
                                                  (4, [999, 749, 499, 249])])
def test_the_last_step_begins_from_what_those_before_it_made_and_is_trained_alone(parts, count, timesteps):
    """The timesteps are those of trailing spacing (Lin et al., 2024), by hand."""
    seen = evaluations(objective(parts, count_shares=only(count)))
    assert [timestep for _, timestep, _ in seen] == timesteps
    assert [trained for *_, trained in seen] == [False] * (count - 1) + [True]


def test_numbers_of_steps_are_drawn_by_their_shares(parts):
    task = objective(parts, count_shares=[1, 0, 0, 3])
    last = [evaluations(task, seed)[-1][1] for seed in range(40)]
    assert set(last) == {999, 249} and 4 < last.count(999) < 18


def test_a_share_of_the_later_steps_begins_from_the_true_latent_noised(parts):
    """Then what is left of z_t, once the truth is taken off at that step's strength, is noise of its strength."""
    for truth_share, expected in ((1.0, True), (0.0, False)):
        task = objective(parts, count_shares=only(4), truth_share=truth_share)
        z_x = encode(task.autoencoder, batch()["hr"])
        seen = evaluations(task)
        assert len(seen) == (1 if expected else 4)
        signal = float(task.scheduler.alphas_cumprod[249])
        left = (seen[-1][0][:, : z_x.shape[1]] - signal**0.5 * z_x) / (1 - signal) ** 0.5
        assert (abs(float(left.std()) - 1) < 0.1) == expected


def test_the_first_step_has_nothing_but_noise(parts):
    task = objective(parts, count_shares=only(1), truth_share=1.0)
    (z_t, timestep, _), = evaluations(task)
    noise = z_t[:, : task.autoencoder.config.latent_channels]  # the map's half is hidden
    assert timestep == 999 and float(noise.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("begun", ["residual", "clean"])
@pytest.mark.parametrize("asked", [None, "residual", "clean"])
def test_a_run_keeps_what_its_network_predicts_unless_told_otherwise(parts, tmp_path, begun, asked):
    """Else a run from the built-in model would draw other pictures than that model from the second step on."""
    first = objective(parts, transformer=SIZES | {"prediction": begun}).model
    for name in ("transformer", "controlnet"):
        first[name].save_pretrained(tmp_path / name)
    task = objective(parts, init=tmp_path, transformer=SIZES | {"prediction": asked})
    assert task.model["transformer"].config.noise_skip == ((asked or begun) == "residual")


class Judge(torch.nn.Module):
    """In LPIPS' place: its weights are no part of the package."""

    def forward(self, output: Tensor, truth: Tensor, _generator) -> Tensor:
        self.features = [output], [truth]
        return (output - truth).square().mean()


@pytest.mark.parametrize(("count", "power"), [(1, 0), (2, 1 / 2), (4, 3 / 4)])
def test_later_steps_are_asked_for_more_texture_and_less_of_the_mean(parts, monkeypatch, count, power):
    monkeypatch.setattr("instancersr.lab.training.stages.sampler.perceptual_loss", lambda _settings: Judge())
    found = []
    for later_texture in (1.0, 8.0):
        torch.manual_seed(0)
        task = objective(parts, count_shares=only(count), later_texture=later_texture,
                         texture_weight=0.5, perceptual={"weight": 1.0})
        found.append(task.terms(task.model, batch(), Draws(1, range(2), 5), 0.0))
    plain, later = found
    torch.testing.assert_close(later["texture"], plain["texture"] * 8**power)
    torch.testing.assert_close(later["pixel"], plain["pixel"] / 8**power)
    torch.testing.assert_close(later["lpips"], plain["lpips"])


@pytest.mark.parametrize("shares", [[1.0], [0, 0, 0, 0]])
def test_shares_that_fit_no_numbers_of_steps_are_refused(shares):
    with pytest.raises(ValueError, match="count_shares: give 4 numbers, not all 0"):
        SamplerConfig(weight=1.0, trained_steps=4, count_shares=shares)
