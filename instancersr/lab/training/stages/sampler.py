"""Stages 5 and 8: the few-step sampler, the detail decoder and the restoration network, by losses on pixels.

On top of the paper's terms, whose weight may be 0 here. A training step runs the sampler with a number of steps that is
drawn, decodes what the last one promises, and lets the photo's and the map's judges speak.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...method.diffusion import (
    Denoiser,
    add_noise,
    decode,
    noise_scales,
    sampling_step,
    sampling_timesteps,
    split,
    token_layer,
)
from ...method.models import DetailDecoder
from ..adversarial import PatchDiscriminator, adversarial_terms
from ..config import ConfigError, DiffusionConfig
from ..perceptual import (
    excess_grain,
    random_window,
    repeated_pattern,
    repeated_steps,
    texture_distance,
    variety_error,
)
from .objective import load_part, perceptual_loss
from .paper import PaperObjective

ADVERSARIAL_WINDOW = 80
"""Pixels along the side of what a discriminator sees, a little more than its receptive field."""


class SamplerObjective(PaperObjective):
    """L1 and other judges of the photo and the map that the sampler promises."""

    needs_colors = True

    def __init__(self, config: DiffusionConfig):
        self.perceptual = perceptual_loss(config.sampler.perceptual)
        super().__init__(config)

    def _parts(self) -> dict[str, nn.Module]:
        parts, sampler = super()._parts(), self.config.sampler
        if sampler.release_restoration and self.restoration is not None:
            parts["restoration"] = self.restoration
        if sampler.decoder_blocks:
            parts["detail_decoder"] = self._detail_decoder(parts["transformer"].config.width)
        if sampler.adversarial_weight:
            parts["discriminator"] = PatchDiscriminator(sampler.adversarial_channels)
        return parts

    def _hold(self) -> None:
        super()._hold()
        if self.config.sampler.release_restoration == "tail" and "restoration" in self.model:
            self.model["restoration"].requires_grad_(False).tail.requires_grad_(True)
        if self.config.sampler.held == "transformer":
            self.model["transformer"].requires_grad_(False)
            self.model["controlnet"].requires_grad_(False)
        if self.config.sampler.held == "decoder":
            decoder = self.model["detail_decoder"].requires_grad_(False)
            decoder.token_norm.requires_grad_(True)
            decoder.token_proj.requires_grad_(True)

    def _detail_decoder(self, width: int) -> DetailDecoder:
        """The one to begin from, or one that changes nothing yet. width: of the transformer's tokens."""
        sampler, saved = self.config.sampler, self.config.init and self.config.init / "detail_decoder"
        tokens = width if sampler.decoder_tokens else 0
        if saved and saved.exists():
            begun = load_part(DetailDecoder, saved, "init")
            try:
                return begun.extended(sampler.decoder_blocks, tokens, sampler.decoder_skip)
            except ValueError as error:
                raise ConfigError(f"sampler.decoder_blocks: {error}") from error
        return DetailDecoder(self.restoration.config.channels, blocks=sampler.decoder_blocks, token_channels=tokens,
                             feature_skip=sampler.decoder_skip)

    @property
    def skips_parameters(self) -> bool:
        """Also the transformer, in steps that draw the photo without it."""
        return super().skips_parameters or bool(self.config.sampler.direct_share)

    def to(self, device: torch.device) -> None:
        """Moves the frozen networks."""
        super().to(device)
        for part in (self.perceptual, self.model["restoration"] if "restoration" in self.model else None):
            if part is not None:  # the restoration network is asked before training begins
                part.to(device)

    def terms(self, model, batch, draws, progress):
        """The paper's, and those of the judges."""
        z, z_y, restored, features = self._latents(model, batch, draws)
        denoiser = self._denoiser(model)
        terms: dict[str, Tensor] = {}
        if self.config.denoising_weight:
            terms |= self._denoising_terms(model, denoiser, z, z_y.detach(), batch, draws, progress)
        # With a detail decoder, judges reach the restoration network through its features: y-hat stays faithful.
        guide = z_y.detach() if "detail_decoder" in model else z_y
        terms |= self._sampler_terms(model, denoiser, z, guide, restored, features, batch, draws, progress)
        if "restoration" in model:  # it must stay the faithful end of the fidelity scale
            terms["restored"] = self.config.sampler.weight * 0.5 * F.l1_loss(restored, batch["hr"])
        return terms

    def _sampler_terms(self, model, denoiser, z, z_y, restored, features, batch, draws,
                       progress) -> dict[str, Tensor]:
        """Judges the picture: of the sampler, or in a share of the steps of the detail decoder without it."""
        sampler = self.config.sampler
        if sampler.direct_share and float(torch.rand((), generator=draws.shared)) < sampler.direct_share:
            return self._photo_terms(model, model["detail_decoder"](restored.detach(), features), batch, draws,
                                     progress)
        timesteps = sampling_timesteps(self.scheduler, self._choose_count(draws))
        lateness = 1 - (timesteps[-1] + 1) / self.scheduler.config.num_train_timesteps

        def version() -> tuple[Tensor, Tensor]:
            clean, tokens = self._sampled(model, denoiser, z, z_y, timesteps, batch, draws)
            clean_x, clean_m = split(clean)
            return self._decode(model, clean_x, features, tokens), clean_m

        photo, clean_m = version()
        terms: dict[str, Tensor] = {}
        if sampler.variety and lateness:
            other, _ = version()
            error = variety_error(photo, other, batch["hr"], restored.detach(), sampler.variety * lateness)
            terms["variety"] = sampler.variety_weight * error
            photo = _closer(photo, other, batch["hr"])
        terms |= self._photo_terms(model, photo, batch, draws, progress, sampler.later_texture**lateness)
        if self.config.mask_modelling:
            instance_map = decode(self.autoencoder, clean_m)
            error = F.l1_loss(instance_map, batch["instance_map"], reduction="none")
            terms["map"] = sampler.map_weight * (error * self._map_weights(batch)).mean()
        return terms

    def _choose_count(self, draws) -> int:
        """The number of steps that are run."""
        shares = self.config.sampler.count_shares or [1.0] * self.config.sampler.run_steps
        return 1 + int(torch.multinomial(torch.tensor(shares), 1, generator=draws.shared))

    def _sampled(self, model, denoiser: Denoiser, z, z_y, timesteps: list[int], batch,
                 draws) -> tuple[Tensor, Tensor | None]:
        """The clean latent that the last of these steps of the sampler promises, and its tokens.

        What it begins from is noise, the true latent noised, or what the steps before make, run without gradient.
        """
        *before, last = timesteps
        timestep = torch.full((len(z),), last, device=z.device)
        z_t = draws.normal(z.shape[1:]).to(z)
        truth_share = self.config.sampler.truth_share
        if before and truth_share and float(torch.rand((), generator=draws.shared)) < truth_share:
            z_t = add_noise(z, z_t, *noise_scales(self.scheduler, timestep))
        else:
            with torch.no_grad():
                for t in before:
                    z_t, _ = sampling_step(denoiser, z_t, z_y, t, batch["token_offset"])
        tokens_after = token_layer(model["transformer"], self._part(model, "detail_decoder"))
        out = denoiser(self._visible(z_t), z_y, timestep, batch["token_offset"], tokens_after)
        return out.clean, out.hidden

    def _photo_terms(self, model, photo, batch, draws, progress, texture: float = 1.0) -> dict[str, Tensor]:
        """texture: how many times the weight on texture, and what part of L1's."""
        sampler, target = self.config.sampler, batch.get("target", batch["hr"])
        terms = {"pixel": sampler.weight / texture * F.l1_loss(photo, batch["hr"])}
        if self.perceptual is not None:
            terms["lpips"] = sampler.perceptual.weight * self.perceptual(photo, target, draws.shared)
        if sampler.texture_weight:
            terms["texture"] = texture * sampler.texture_weight * texture_distance(*self.perceptual.features)
        if sampler.pattern_weight:
            terms["pattern"] = sampler.pattern_weight * repeated_pattern(photo - target)
        if sampler.grid_weight:
            terms["grid"] = sampler.grid_weight * repeated_steps(photo, target)
        if sampler.grain_weight:
            terms["grain"] = sampler.grain_weight * excess_grain(photo, target)
        if "discriminator" in model:
            seen = random_window(photo, target, ADVERSARIAL_WINDOW, draws.shared)
            fooled, critic = adversarial_terms(model["discriminator"], *seen)
            terms["critic"] = critic
            if progress >= sampler.adversarial_from:
                terms["gan"] = sampler.adversarial_weight * fooled
        return terms


def _closer(first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
    """Of each pair the one with the smaller L1: judges that saw both would pull both to the mean of what may be true.

    Training the closest of several samples is IMLE's idea (Li and Malik, 2018, arXiv:1809.09087).
    """
    errors = [(picture - truth).detach().abs().mean((1, 2, 3), keepdim=True) for picture in (first, second)]
    return torch.where(errors[0] <= errors[1], first, second)
