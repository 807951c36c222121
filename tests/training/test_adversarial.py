"""The two players of the adversarial term each move their own way, and only that way."""

import math

import pytest
import torch

from instancersr.training.adversarial import FeatureDiscriminator, adversarial_terms

WIDTHS = (4, 8)


def features(seed: int, shift: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [shift + torch.randn(2, width, 12, 12, generator=generator) for width in WIDTHS]


@pytest.fixture
def discriminator() -> FeatureDiscriminator:
    torch.manual_seed(0)
    return FeatureDiscriminator(WIDTHS, hidden=8)


def test_gradients_reach_one_player_each(discriminator):
    output = [f.requires_grad_() for f in features(0)]
    generator, critic = adversarial_terms(discriminator, output, features(1))
    critic.backward(retain_graph=True)
    assert all(f.grad is None for f in output)
    assert all(p.grad.abs().sum() > 0 for p in discriminator.heads[0].parameters())
    discriminator.zero_grad()
    generator.backward()
    assert all(f.grad.abs().sum() > 0 for f in output)
    assert all(p.grad is None for p in discriminator.parameters())


def test_no_discriminator_beats_chance_where_output_and_truth_are_the_same(discriminator):
    for seed in range(5):
        _, critic = adversarial_terms(discriminator, features(seed), features(seed))
        assert critic.item() >= math.log(2) - 1e-6


def test_playing_alone_each_player_wins(discriminator):
    truth, fake = features(1, 1.0), features(2, -1.0)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    for _ in range(60):
        _, critic = adversarial_terms(discriminator, fake, truth)
        optimizer.zero_grad()
        critic.backward()
        optimizer.step()
    assert critic.item() < 0.35  # log 2 = .69 is chance
    shift = torch.zeros(len(WIDTHS), requires_grad=True)
    generator_optimizer = torch.optim.Adam([shift], 0.1)
    losses = []
    for _ in range(40):
        fooled, _ = adversarial_terms(discriminator, [f + s for f, s in zip(fake, shift, strict=True)], truth)
        generator_optimizer.zero_grad()
        fooled.backward()
        generator_optimizer.step()
        losses.append(fooled.item())
    assert losses[-1] < losses[0] / 2 and (shift > 0.5).all()  # it found where the truth lies
