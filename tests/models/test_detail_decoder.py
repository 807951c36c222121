"""The last layers of the photo's decoder: they start as nothing, and see the whole neighbourhood."""

import pytest
import torch

from instancersr.models import DetailDecoder, RestorationNetwork


@pytest.fixture
def decoder() -> DetailDecoder:
    torch.manual_seed(0)
    return DetailDecoder(feature_channels=8, channels=16, blocks=2)


def test_it_starts_as_the_identity(decoder):
    photo = torch.rand(2, 3, 32, 48)
    assert torch.equal(decoder(photo, torch.randn(2, 8, 8, 12)), photo)


def test_the_signal_reaches_the_last_layer():
    """He's initial weights keep its size; with torch's own a seventh is left for the last layer to learn from."""
    torch.manual_seed(0)
    decoder, seen = DetailDecoder(), []
    decoder.tail.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    photo = 0.5 + 0.25 * torch.randn(1, 3, 64, 64)
    decoder(photo, 0.06 * torch.randn(1, 64, 16, 16))
    assert 0.5 < seen[0].std() / photo.std() < 4


def test_photo_and_features_both_matter_once_it_is_trained(decoder):
    torch.nn.init.normal_(decoder.tail.weight)
    photo, features = torch.rand(1, 3, 32, 32), torch.randn(1, 8, 8, 8)
    detail = decoder(photo, features) - photo
    assert not torch.allclose(detail, decoder(photo, features + 1) - photo)
    assert not torch.allclose(detail, decoder(photo.flip(-1), features) - photo.flip(-1))


def test_other_scales_are_refused():
    with pytest.raises(ValueError, match="scale must be 4, not 2"):
        DetailDecoder(scale=2)


def test_features_and_rendering_are_the_restoration_networks_two_halves():
    torch.manual_seed(0)
    network, lr = RestorationNetwork(8, 2), torch.rand(1, 3, 8, 8)
    assert torch.equal(network(lr), network.render(lr, network.features(lr)))
