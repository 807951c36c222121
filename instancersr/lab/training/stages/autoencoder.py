"""Stage 1: the autoencoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...method.diffusion import decode, encode
from ...method.models import BlockAutoencoder
from ..config import AutoencoderConfig
from .objective import Batch, Objective, psnr


class AutoencoderObjective(Objective):
    """Mean squared error of the learned layers; the block transform, fitted before, is held."""

    def __init__(self, config: AutoencoderConfig):
        self.images = config.images
        self.model = BlockAutoencoder(config.latent_channels, refine_channels=config.refine_channels)
        self.model.analysis.requires_grad_(False)
        self.model.synthesis.requires_grad_(False)

    def begin(self, batches, device):
        """Fits the transform in closed form."""
        self.model.fit(batch["hr"] * 2 - 1 for batch in batches(self.images))

    def terms(self, model, batch, draws, progress):
        return {"mse": F.mse_loss(self._round_trip(model, batch), batch["hr"])}

    def validate(self, model, batch, draws):
        return {"psnr": psnr(self._round_trip(model, batch), batch["hr"])}

    def pictures(self, model, batch, draws):
        return [self._round_trip(model, batch), batch["hr"]]

    @staticmethod
    def _round_trip(model: nn.Module, batch: Batch) -> Tensor:
        return decode(model, encode(model, batch["hr"]))
