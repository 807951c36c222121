"""The block autoencoder against the optimum of its kind and AutoencoderKL's interface."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from skimage import data

from instancersr.lab.method.diffusion import decode, encode
from instancersr.lab.method.models import BlockAutoencoder


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    picture = torch.from_numpy(data.astronaut()[:256, :256].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    return picture.float()


@pytest.fixture(scope="module")
def fitted(pictures) -> tuple[BlockAutoencoder, torch.Tensor]:
    autoencoder = BlockAutoencoder(latent_channels=16)
    return autoencoder, autoencoder.fit([pictures])


def test_error_is_the_variance_of_the_dropped_components(fitted, pictures):
    """The closed form of a Karhunen-Loeve transform's mean squared error (Eckart-Young)."""
    autoencoder, variances = fitted
    with torch.no_grad():
        error = (autoencoder(pictures).sample - pictures).square().mean()
    assert error.item() == pytest.approx(variances[16:].sum().item() / 192, rel=1e-3)


def test_transform_equals_numpys_principal_components(fitted, pictures):
    autoencoder, variances = fitted
    x = pictures[0].numpy()
    blocks = x.reshape(3, 32, 8, 32, 8).transpose(1, 3, 0, 2, 4).reshape(-1, 3, 64)
    centred = (blocks - x.mean((1, 2))[None, :, None]).reshape(len(blocks), 192)
    singular = np.linalg.svd(centred, compute_uv=False) ** 2 / len(blocks)
    np.testing.assert_allclose(variances.numpy(), singular, rtol=1e-3, atol=1e-6)


def test_latents_are_white(fitted, pictures):
    z = encode(fitted[0], pictures / 2 + 0.5)[0].flatten(1)  # (C, N)
    covariance = z @ z.T / z.shape[1]
    torch.testing.assert_close(covariance, torch.eye(16), atol=1e-2, rtol=0)


def test_more_components_come_nearer(pictures):
    errors = []
    for channels in (4, 32, 192):
        autoencoder = BlockAutoencoder(latent_channels=channels)
        autoencoder.fit([pictures])
        errors.append((autoencoder(pictures).sample - pictures).square().mean().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_learned_layers_start_as_nothing_and_get_gradients(pictures):
    plain, refined = BlockAutoencoder(16), BlockAutoencoder(16, refine_channels=8)
    plain.fit([pictures]), refined.fit([pictures])
    assert torch.equal(plain(pictures).sample, refined(pictures).sample)
    refined(pictures).sample.square().mean().backward()
    assert refined.encoder_refine[-1].weight.grad.abs().sum() > 0
    assert refined.decoder_refine[-1].weight.grad.abs().sum() > 0


def test_takes_the_place_of_autoencoder_kl(pictures, fitted):
    """Same calls, same types, same shapes up to the number of channels."""
    kl = AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                       up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4)
    for autoencoder in (kl, fitted[0]):
        posterior = autoencoder.encode(pictures).latent_dist
        z = posterior.sample(torch.Generator().manual_seed(0))
        assert z.shape == posterior.mode().shape == (1, autoencoder.config.latent_channels, 32, 32)
        assert autoencoder.decode(z, return_dict=False)[0].shape == pictures.shape
        assert isinstance(autoencoder.config.scaling_factor, float)
        # the one place that scales and shifts, for both
        assert decode(autoencoder, encode(autoencoder, pictures / 2 + 0.5)).shape == pictures.shape
    ours, theirs = (inspect.signature(c.encode).parameters for c in (BlockAutoencoder, AutoencoderKL))
    assert list(ours) == list(theirs)


def test_saved_and_loaded(fitted, pictures, tmp_path):
    fitted[0].save_pretrained(tmp_path)
    assert torch.equal(BlockAutoencoder.from_pretrained(tmp_path)(pictures).sample, fitted[0](pictures).sample)


def test_wrong_size_is_named():
    with pytest.raises(ValueError, match="divisible by 8"):
        BlockAutoencoder().encode(torch.zeros(1, 3, 20, 16))
