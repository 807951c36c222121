"""JointDiT and ControlNet against diffusers' DiT, closed forms and the method's own promises."""

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_timestep_embedding

from instancersr.lab.method.models import ControlNet, JointDiT
from instancersr.lab.method.models.transformer import grid_positions, timestep_frequencies


def random_(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights without the zeros that make a fresh network trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    return model.eval()


@pytest.fixture
def network() -> JointDiT:
    return random_(JointDiT(8, 8, patch_size=2, width=32, depth=4, heads=2))


def test_positions_equal_diffusers_on_square_grids():
    expected = get_2d_sincos_pos_embed(48, 6, base_size=6, output_type="pt")
    np.testing.assert_allclose(grid_positions(6, 6, 48)[0].numpy(), np.asarray(expected), atol=1e-6)


def test_positions_put_the_horizontal_coordinate_first():
    positions = grid_positions(2, 3, 8)[0].reshape(2, 3, 8)
    x = torch.arange(3.0)
    expected = torch.stack([x.sin(), (x * 0.01).sin(), x.cos(), (x * 0.01).cos()], 1)  # (3, 4)
    torch.testing.assert_close(positions[0, :, :4], expected)
    torch.testing.assert_close(positions[1, :, :4], expected)
    torch.testing.assert_close(positions[:, 0, 4], torch.arange(2.0).sin())


def test_position_offset_is_a_window_of_a_larger_grid():
    whole = grid_positions(9, 9, 16).reshape(9, 9, 16)
    part = grid_positions(4, 5, 16, torch.tensor([[3, 2]])).reshape(4, 5, 16)
    torch.testing.assert_close(part, whole[3:7, 2:7])


def test_timestep_embedding_equals_diffusers():
    timestep = torch.tensor([0, 1, 500, 999])
    expected = get_timestep_embedding(timestep, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_frequencies(timestep), expected)


def test_batch_equals_single_images(network):
    sample, timestep = torch.randn(2, 8, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        both = network(sample, timestep).sample
        each = torch.cat([network(sample[i : i + 1], timestep[i : i + 1]).sample for i in range(2)])
    torch.testing.assert_close(both, each, atol=1e-5, rtol=1e-5)


def test_rectangular_grid_is_not_transposed(network):
    """Without position and time, a patch's output follows the patch: swapping two patches swaps the outputs."""
    network.x_embedder.proj.weight.data *= 3
    sample, timestep = torch.randn(1, 8, 4, 6), torch.tensor([5])
    with torch.no_grad():
        out = network(sample, timestep).sample
        changed = sample.clone()
        changed[..., 2:4, 4:6] += 5
        difference = (network(changed, timestep).sample - out).abs().mean(1)[0]  # (4, 6)
    assert out.shape == sample.shape
    cells = difference.reshape(2, 2, 3, 2).mean((1, 3))
    assert cells.argmax() == 1 * 3 + 2


def test_hidden_is_the_token_of_its_patch(network):
    """f[n] is where the patch n is: the token that a local change moves most, at every block."""
    sample, timestep = torch.randn(1, 8, 6, 4), torch.tensor([5])
    changed = sample.clone()
    changed[..., 4:6, 0:2] += 5  # patch in row 2, column 0 -> token 4
    with torch.no_grad():
        for layer in (1, 2, 4):
            a = network(sample, timestep, hidden_layer=layer).hidden
            b = network(changed, timestep, hidden_layer=layer).hidden
            assert a.shape == (1, 6, 32)
            assert (a - b).norm(dim=-1).argmax() == 4


def test_hidden_has_the_control_added(network):
    sample, timestep = torch.randn(1, 8, 4, 4), torch.tensor([5])
    control = [torch.randn(1, 4, 32)]
    with torch.no_grad():
        plain = network(sample, timestep, hidden_layer=1).hidden
        controlled = network(sample, timestep, control, hidden_layer=1).hidden
    torch.testing.assert_close(controlled, plain + control[0])


def test_control_is_exactly_a_no_op_at_the_start(network):
    branch = ControlNet.from_backbone(network, condition_channels=4, depth=2)
    sample, timestep, z_y = torch.randn(2, 8, 8, 6), torch.tensor([5, 999]), torch.randn(2, 4, 8, 6)
    with torch.no_grad():
        control = branch(*network.embed(sample, timestep), z_y)
        assert len(control) == 2
        assert torch.equal(network(sample, timestep, control).sample, network(sample, timestep).sample)


def test_control_blocks_are_copies_that_learn_on_their_own(network):
    branch = ControlNet.from_backbone(network, condition_channels=4, depth=3)
    for own, original in zip(branch.blocks.parameters(), network.blocks.parameters(), strict=False):
        assert torch.equal(own, original) and own.data_ptr() != original.data_ptr()


def test_trained_control_carries_the_condition(network):
    branch = random_(ControlNet.from_backbone(network, condition_channels=4, depth=2), seed=1)
    sample, timestep = torch.randn(1, 8, 8, 8), torch.tensor([5])
    with torch.no_grad():
        tokens, c = network.embed(sample, timestep)
        a = network(sample, timestep, branch(tokens, c, torch.zeros(1, 4, 8, 8))).sample
        b = network(sample, timestep, branch(tokens, c, torch.ones(1, 4, 8, 8))).sample
    assert not torch.allclose(a, b)


def test_checkpointed_gradients_are_the_same(network):
    sample, timestep = torch.randn(1, 8, 4, 4), torch.tensor([5])
    network(sample, timestep).sample.square().sum().backward()
    plain = network.blocks[1].mlp.fc1.weight.grad.clone()
    network.zero_grad()
    network.gradient_checkpointing = True
    network(sample, timestep).sample.square().sum().backward()
    torch.testing.assert_close(network.blocks[1].mlp.fc1.weight.grad, plain)


def test_saved_and_loaded(network, tmp_path):
    network.register_to_config(residual_std=[0.5] * 8)
    network.save_pretrained(tmp_path)
    loaded = JointDiT.from_pretrained(tmp_path)
    sample, timestep = torch.randn(1, 8, 4, 4), torch.tensor([5])
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))
    torch.testing.assert_close(loaded(sample, timestep).sample, network(sample, timestep).sample)
    assert list(loaded.config.residual_std) == [0.5] * 8


@pytest.mark.parametrize(("call", "message"), [
    (lambda n: n(torch.randn(1, 8, 5, 4), torch.tensor([1])), "divisible by 2"),
    (lambda n: n(torch.randn(1, 8, 4, 4), torch.tensor([1]), hidden_layer=5), "hidden_layer must be 1..4"),
    (lambda n: ControlNet.from_backbone(n, 4, 9), "depth must be 1..4"),
    (lambda n: JointDiT(width=30, heads=4), "divisible by 4 and by heads"),
])
def test_wrong_arguments_are_named(network, call, message):
    with pytest.raises(ValueError, match=message):
        call(network)
