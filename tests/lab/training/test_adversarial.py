"""The two players of the adversarial term each move their own way, and only that way."""

import math

import pytest
import torch

from instancersr.lab.training.adversarial import PatchDiscriminator, adversarial_terms


def pictures(seed: int, roughness: float) -> torch.Tensor:
    return 0.5 + roughness * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(channels=8)


@pytest.fixture
def trained(discriminator) -> PatchDiscriminator:
    """One that tells rough pictures, which are true, from smooth ones."""
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    for step in range(60):
        _, critic = adversarial_terms(discriminator, pictures(step, 0.02), pictures(1000 + step, 0.2))
        optimizer.zero_grad()
        critic.backward()
        optimizer.step()
    discriminator.zero_grad()
    return discriminator.eval()


def test_gradients_reach_one_player_each(trained):
    output = pictures(0, 0.02).requires_grad_()
    generator, critic = adversarial_terms(trained, output, pictures(1, 0.2))
    critic.backward()
    assert output.grad is None
    assert all(p.grad is not None for p in trained.parameters())
    trained.zero_grad()
    generator.backward()
    assert all(p.grad is None for p in trained.parameters())
    # a mean over two pictures, whose own gradients are as long as the discriminator is better than chance
    advantage = torch.full((2,), 1 - critic.item() / math.log(2))
    assert advantage[0] > 0.3 and torch.allclose(output.grad.flatten(1).norm(dim=1), advantage / 2)


def test_a_discriminator_that_knows_nothing_moves_nothing(discriminator):
    output = pictures(0, 0.02).requires_grad_()
    generator, critic = adversarial_terms(discriminator, output, output.detach())  # the same: no better than chance
    generator.backward()
    assert critic >= math.log(2) - 1e-6 and not output.grad.any()


def test_the_generators_gradient_goes_where_the_discriminator_is_fooled_more(trained):
    output, truth = pictures(0, 0.02).requires_grad_(), pictures(1, 0.2)
    before, _ = adversarial_terms(trained, output, truth)
    before.backward()
    after, _ = adversarial_terms(trained, output.detach() - 0.5 * output.grad, truth)
    assert after < before


def test_no_discriminator_beats_chance_where_output_and_truth_are_the_same(discriminator):
    for seed in range(5):
        _, critic = adversarial_terms(discriminator, pictures(seed, 0.1), pictures(seed, 0.1))
        assert critic.item() >= math.log(2) - 1e-6


def test_the_discriminator_learns_to_tell_rough_from_smooth(trained):
    assert (trained(pictures(5000, 0.2)) > trained(pictures(5000, 0.02))).all()
