"""The restoration network."""

import torch
import torch.nn.functional as F

from instancersr.lab.method.models import RestorationNetwork


def test_without_detail_it_is_the_bicubic_enlargement():
    network = RestorationNetwork(channels=8, blocks=2)
    torch.nn.init.zeros_(network.tail.weight)
    lr = torch.rand(2, 3, 12, 20)
    expected = F.interpolate(lr, (48, 80), mode="bicubic", align_corners=False)
    torch.testing.assert_close(network(lr), expected)


def test_any_size_and_batch():
    network = RestorationNetwork(channels=8, blocks=1)
    lr = torch.rand(2, 3, 17, 33)
    with torch.no_grad():
        both = network(lr)
        assert both.shape == (2, 3, 68, 132)
        torch.testing.assert_close(both[1:], network(lr[1:]), atol=1e-6, rtol=1e-5)


def test_a_deeper_network_begins_as_the_same_function_and_can_leave_it():
    network = RestorationNetwork(channels=8, blocks=2)
    torch.nn.init.normal_(network.body[1].conv2.weight, std=0.1)
    lr = torch.rand(1, 3, 12, 12)
    deeper = network.deepened(5)
    assert deeper.config.blocks == 5 and network.deepened(1) is network
    torch.testing.assert_close(deeper(lr), network(lr), rtol=0, atol=0)
    deeper(lr).square().mean().backward()
    assert deeper.body[4].conv2.weight.grad.abs().max() > 0


def test_the_branch_of_half_the_resolution_begins_as_nothing_and_sees_further():
    network = RestorationNetwork(channels=8, blocks=1)
    lr = torch.rand(1, 3, 48, 48)
    wider = network.deepened(1, coarse_blocks=3)
    assert wider.config.coarse_blocks == 3 and wider.deepened(1, 3) is wider
    torch.testing.assert_close(wider(lr), network(lr), rtol=0, atol=0)
    wider(lr).square().mean().backward()
    assert wider.coarse.up.weight.grad.abs().max() > 0
    assert _reach(network) <= 4 < 8 <= _reach(_drawn_at_random(wider))


def _drawn_at_random(network):
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return network


def _reach(network) -> int:
    """How far from the middle LR pixel, in LR pixels, another one can change y-hat there."""
    lr = torch.rand(1, 3, 48, 48, requires_grad=True)
    network.features(lr)[..., 24, 24].sum().backward()
    seen = lr.grad.abs().sum((0, 1)).nonzero()
    return int((seen - 24).abs().max())


def test_it_learns_to_undo_a_known_blur():
    """Real training: on blurred noise-like pictures the error falls well below the bicubic enlargement's."""
    torch.manual_seed(0)
    network = RestorationNetwork(channels=16, blocks=2)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    hr = F.interpolate(torch.rand(8, 3, 12, 12), (48, 48), mode="nearest")
    lr = F.interpolate(hr, (12, 12), mode="area")
    bicubic = (F.interpolate(lr, (48, 48), mode="bicubic", align_corners=False) - hr).abs().mean()
    for _ in range(150):
        loss = (network(lr) - hr).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < bicubic / 3
