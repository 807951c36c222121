"""The last layers of the photo's decoder: they start as nothing, and see the whole neighbourhood."""

import pytest
import torch

from instancersr.lab.method.models import DetailDecoder, RestorationNetwork


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


@pytest.fixture
def extended(decoder) -> DetailDecoder:
    for layer in (decoder.tail, decoder.body[0].conv2):
        torch.nn.init.normal_(layer.weight, std=0.1)  # as if it had been trained
    return decoder.extended(decoder.config.blocks + 1, token_channels=6, feature_skip=True)


def test_what_is_added_to_a_trained_decoder_changes_nothing_yet(decoder, extended):
    photo, features, tokens = torch.rand(2, 3, 32, 48), torch.randn(2, 8, 8, 12), torch.randn(2, 6, 6)
    assert torch.equal(extended(photo, features, tokens), decoder(photo, features))
    blocks = extended.config.blocks
    assert extended.extended(blocks, 6, True) is extended and decoder.extended(blocks - 1, 0, False) is decoder
    assert extended.extended(blocks, 0, False).config.token_channels == 6
    with pytest.raises(ValueError, match="more than 0"):
        decoder.extended(0, 0, False)


def test_a_token_speaks_to_its_own_pixels(extended):
    """In row order, 4x4 LR pixels each; what lies around hears of it through the convolutions only."""
    spoken = []
    extended.body.register_forward_pre_hook(lambda _layer, inputs: spoken.append(inputs[0]))
    torch.nn.init.normal_(extended.token_proj.weight)
    photo, features, tokens = torch.rand(1, 3, 32, 48), torch.randn(1, 8, 8, 12), torch.randn(1, 6, 6)
    other = torch.cat([tokens[:, :4], torch.randn(1, 2, 6)], 1)
    pictures = [extended(photo, features, heard) for heard in (tokens, other)]
    changed = (spoken[1] - spoken[0]).abs().sum((0, 1)) > 0                       # (8, 12) LR pixels
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[4:, 4:] = True  # tokens 4 and 5: the second and third of the second row
    assert torch.equal(changed, expected)
    assert not torch.allclose(*pictures)


def test_the_skip_draws_the_features_linearly(extended):
    torch.nn.init.normal_(extended.skip.weight)
    torch.nn.init.zeros_(extended.tail.weight)
    photo, features, tokens = torch.rand(1, 3, 32, 32), torch.randn(1, 8, 8, 8), torch.randn(1, 4, 6)
    drawn = extended(photo, features, tokens) - photo
    expected = torch.nn.functional.conv2d(features, extended.skip.weight, padding=1)  # (1, 48, 8, 8)
    torch.testing.assert_close(drawn, torch.pixel_shuffle(expected, 4), atol=1e-5, rtol=1e-4)


def test_other_scales_are_refused():
    with pytest.raises(ValueError, match="scale must be 4, not 2"):
        DetailDecoder(scale=2)


def test_features_and_rendering_are_the_restoration_networks_two_halves():
    torch.manual_seed(0)
    network, lr = RestorationNetwork(8, 2), torch.rand(1, 3, 8, 8)
    assert torch.equal(network(lr), network.render(lr, network.features(lr)))
