"""The joint diffusion: layout of the latents, forward process (Eq. 2), and what the networks predict.

Everything that both training and sampling must agree on is here. `z` is the joint latent [z_x; z_m], `z_y` the
latent of the restored LR photo, `alpha` and `sigma` the signal and noise scales: z_t = alpha z + sigma eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .models import ControlNet, DetailDecoder, JointDiT, RestorationNetwork
from .models.restoration import enlarge


def encode(autoencoder: torch.nn.Module, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> scaled latents (B, C, H/8, W/8), of our autoencoder or an `AutoencoderKL`."""
    posterior = autoencoder.encode(pictures * 2 - 1).latent_dist
    shift = getattr(autoencoder.config, "shift_factor", None) or 0.0
    return (posterior.sample(generator) - shift) * autoencoder.config.scaling_factor


def encode_moments(autoencoder: torch.nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation of what `encode` draws, (B, C, H/8, W/8) each; None where it draws nothing."""
    posterior = autoencoder.encode(pictures * 2 - 1).latent_dist
    shift = getattr(autoencoder.config, "shift_factor", None) or 0.0
    scale = autoencoder.config.scaling_factor
    return (posterior.mean - shift) * scale, None if posterior.deterministic else posterior.std * scale


def decode(autoencoder: torch.nn.Module, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) -> pictures (B, 3, 8h, 8w), about [0, 1], not clamped."""
    shift = getattr(autoencoder.config, "shift_factor", None) or 0.0
    return autoencoder.decode(latents / autoencoder.config.scaling_factor + shift).sample / 2 + 0.5


def restore(restoration: RestorationNetwork | None, y: Tensor) -> tuple[Tensor | None, Tensor]:
    """y (B, 3, h, w) in [0, 1] -> the restoration network's features (B, C, h, w), and y-hat (B, 3, 4h, 4w).

    Without a network, no features and the bicubic enlargement.
    """
    if restoration is None:
        return None, enlarge(y)
    features = restoration.features(y)
    return features, restoration.render(y, features)


def decode_photo(autoencoder: torch.nn.Module, detail_decoder: DetailDecoder | None, z_x: Tensor,
                 features: Tensor | None, tokens: Tensor | None = None) -> Tensor:
    """As `decode`, and finished by the detail decoder where there is one.

    It sees the restoration network's features, and the tokens that `token_layer` speaks of if it wants them.
    """
    photo = decode(autoencoder, z_x)
    return photo if detail_decoder is None else detail_decoder(photo, features, tokens)


def token_layer(transformer: JointDiT, detail_decoder: DetailDecoder | None) -> int | None:
    """The block, counted from 1, after which the detail decoder wants the tokens: the last; None: it wants none."""
    wanted = detail_decoder is not None and detail_decoder.config.token_channels
    return transformer.config.depth if wanted else None


def join(z_x: Tensor, z_m: Tensor) -> Tensor:
    """The photo's and the map's latents, (B, C, h, w) each -> (B, 2C, h, w)."""
    return torch.cat([z_x, z_m], 1)


def split(z: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `join`."""
    z_x, z_m = z.chunk(2, 1)
    return z_x, z_m


def noise_scales(scheduler: DDIMScheduler, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, (B, 1, 1, 1) each, at (B,) integer timesteps."""
    signal = scheduler.alphas_cumprod.to(timestep.device)[timestep][:, None, None, None]
    return signal.sqrt(), (1 - signal).sqrt()


def add_noise(z: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The forward process of Eq. 2."""
    return alpha * z + sigma * noise


@dataclass
class Prediction:
    """What one evaluation of the networks says.

    clean: (B, 2C, h, w) estimate of z. raw: the network's own output (the learned variance cut off).
    hidden: (B, N, D) tokens f, or None.
    """

    clean: Tensor
    raw: Tensor
    hidden: Tensor | None


class Denoiser:
    """The transformer and its control branch under one noise schedule.

    A transformer with `residual_std` says what the condition lacks: of z, or with its `noise_skip` of z given z_t, see
    `gaussian_posterior`. Both are the same at a timestep without any signal. Without `residual_std` it predicts noise.
    """

    def __init__(self, transformer: JointDiT, controlnet: ControlNet, scheduler: DDIMScheduler):
        self.transformer, self.controlnet, self.scheduler = transformer, controlnet, scheduler

    def __call__(self, z_t: Tensor, z_y: Tensor, timestep: Tensor, token_offset: Tensor | None = None,
                 hidden_layer: int | None = None) -> Prediction:
        """z_t (B, 2C, h, w), z_y (B, C, h, w), timestep (B,) integers -> the prediction.

        The networks compute in their own precision, what is around them in z_t's.
        """
        raw, hidden = self._evaluate(z_t, z_y, timestep, token_offset, hidden_layer)
        alpha, sigma = noise_scales(self.scheduler, timestep)
        std = self._residual_std(z_t)
        if std is None:
            return Prediction((z_t - sigma * raw) / alpha, raw, hidden)
        mean, deviation = self._begin(z_t, z_y, std, alpha, sigma)
        return Prediction(mean + deviation * raw, raw, hidden)

    def target(self, z: Tensor, z_t: Tensor, z_y: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What `raw` should have been: the noise, or the residual."""
        std = self._residual_std(z_t)
        if std is None:
            return noise
        alpha, sigma = noise_scales(self.scheduler, timestep)
        mean, deviation = self._begin(z_t, z_y, std, alpha, sigma)
        return (z - mean) / deviation.clamp_min(1e-3)

    def _begin(self, z_t: Tensor, z_y: Tensor, std: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of z before the network has spoken."""
        if self.transformer.config.noise_skip:
            return gaussian_posterior(z_t, prior_mean(z_y), std, alpha, sigma)
        return prior_mean(z_y), std

    def _evaluate(self, z_t: Tensor, z_y: Tensor, timestep: Tensor, token_offset: Tensor | None,
                  hidden_layer: int | None) -> tuple[Tensor, Tensor | None]:
        sample, condition = z_t.to(self.transformer.dtype), z_y.to(self.controlnet.dtype)
        tokens, conditioning = self.transformer.embed(sample, timestep, token_offset=token_offset)
        control = self.controlnet(tokens, conditioning, condition)
        out = self.transformer(sample, timestep, control, token_offset=token_offset, hidden_layer=hidden_layer)
        return out.sample[:, : z_t.shape[1]].to(z_t.dtype), out.hidden

    def _residual_std(self, like: Tensor) -> Tensor | None:
        std = self.transformer.config.residual_std
        return None if std is None else torch.tensor(list(std)).to(like)[:, None, None]


@torch.no_grad()
def sample(denoiser: Denoiser, z_y: Tensor, noise: Tensor, steps: int, start_from: str = "noise",
           token_offset: Tensor | None = None, hidden_layer: int | None = None) -> tuple[Tensor, Tensor | None]:
    """DDIM from noise to the joint latent z, guided by z_y.

    Args:
        z_y: (B, C, h, w).
        noise: (B, 2C, h, w).
        steps: number of evaluations; the scheduler's `timestep_spacing` says where they lie.
        start_from: "noise", or "lr": the prior mean noised to the first timestep.
        token_offset: (B, 2), see `JointDiT.forward`.
        hidden_layer: also give the tokens after this block at the last step.

    Returns:
        z (B, 2C, h, w), and the tokens (B, N, D) or None.
    """
    z_t, hidden = noise, None
    timesteps = sampling_timesteps(denoiser.scheduler, steps, z_y.device)
    if start_from == "lr":
        first = torch.full((len(z_y),), timesteps[0], device=z_y.device)
        z_t = add_noise(prior_mean(z_y), noise, *noise_scales(denoiser.scheduler, first))
    for t in timesteps:
        z_t, hidden = sampling_step(denoiser, z_t, z_y, t, token_offset, hidden_layer)
    return z_t, hidden


def sampling_timesteps(scheduler: DDIMScheduler, steps: int, device: torch.device | None = None) -> list[int]:
    """The timesteps of so many sampling steps, the noisiest first; they stay set in the scheduler."""
    scheduler.set_timesteps(steps, device=device)
    return scheduler.timesteps.tolist()


def sampling_step(denoiser: Denoiser, z_t: Tensor, z_y: Tensor, t: int, token_offset: Tensor | None = None,
                  hidden_layer: int | None = None) -> tuple[Tensor, Tensor | None]:
    """One step of DDIM: z at the next timestep of those that are set, and the tokens asked for."""
    timestep = torch.full((len(z_t),), t, device=z_t.device)
    prediction = denoiser(z_t, z_y, timestep, token_offset, hidden_layer)
    predicts_clean = denoiser.scheduler.config.prediction_type == "sample"
    output = prediction.clean if predicts_clean else prediction.raw
    return denoiser.scheduler.step(output, t, z_t).prev_sample, prediction.hidden


def prior_mean(z_y: Tensor) -> Tensor:
    """What is known of z before any noise is seen: the restored photo, and nothing of the map (its mean is 0)."""
    return join(z_y, torch.zeros_like(z_y))


def gaussian_posterior(z_t: Tensor, mean: Tensor, std: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of z given z_t, were z Gaussian with the given mean and deviations.

    The network then has only to say, in units of that deviation, how the true z differs: EDM's preconditioning
    (Karras et al., 2022, arXiv:2206.00364) around z_y instead of zero, with a deviation for each channel.

    Args:
        z_t, mean: (B, C, h, w).
        std: (C, 1, 1).
        alpha, sigma: (B, 1, 1, 1), sigma > 0 or alpha > 0.
    """
    variance = (alpha * std).square() + sigma.square()
    gain = alpha * std.square() / variance
    return mean + gain * (z_t - alpha * mean), std * sigma / variance.sqrt()
