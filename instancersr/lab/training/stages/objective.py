"""What the trainer asks of a stage, and what several stages need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instancersr.errors import UserError

from ..config import ConfigError, PerceptualConfig
from ..perceptual import PerceptualLoss
from ..randomness import Draws

Batch = Mapping[str, Tensor]


class Objective:
    """A stage. `model` is what is trained, averaged and saved; one that `begin` fits has no steps after it.

    needs_masks: whether batches have instance maps. needs_colors: whether `terms` looks at the coloured map even where
    its latent is stored.
    """

    model: nn.Module
    needs_masks = False
    needs_colors = False

    @property
    def skips_parameters(self) -> bool:
        """Whether some steps leave some of the trained parameters out."""
        return False

    def to(self, device: torch.device) -> None:
        """Moves the frozen networks, if there are any."""

    def begin(self, batches: Callable[[int], Iterator[Batch]], device: torch.device) -> None:
        """What is done once, before the first step; every process comes to the same result.

        Args:
            batches: gives batches of training images, up to so many images.
            device: where the frozen networks are.
        """

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """`params` and `lr_scale` of what is trained: all that is not held, at the same learning rate."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr_scale": 1.0}]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """(B,) numbers of which `terms` needs the mean over all images of the step, not only those it is given.

        That mean is then in its batch, by the same name, once for each image.
        """
        return {}

    def terms(self, model: Any, batch: Batch, draws: Draws, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms, whose sum is minimised. progress: share of the run that is over, 0 to 1."""
        raise NotImplementedError

    def validate(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Scores of a held-out batch, each a mean over it."""
        raise NotImplementedError

    def pictures(self, model: Any, batch: Batch, draws: Draws) -> list[Tensor]:
        """(B, 3, H, W) rows of a sample grid: input, outputs, truth."""
        raise NotImplementedError

    def export(self, model: Any, folder: Path) -> None:
        """Writes the networks as `from_pretrained` reads them: here, the network alone."""
        model.save_pretrained(folder)


def load_part(kind: Any, folder: Path, key: str) -> nn.Module:
    """A frozen network for training.

    Raises:
        ConfigError: `folder` has none; names the configuration's key.
    """
    try:
        return kind.from_pretrained(folder, low_cpu_mem_usage=False).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {folder} holds no {kind.__name__} ({' '.join(str(error).split())[:160]})") from error


def named(key: str, load: Callable[[Any], Any], source: Any) -> Any:
    """What `load` makes of `source`; its complaint names the configuration's key."""
    try:
        return load(source)
    except UserError as error:
        raise ConfigError(f"{key}: {error}") from error


def perceptual_loss(settings: PerceptualConfig) -> PerceptualLoss | None:
    """None where its weight is 0."""
    return PerceptualLoss(settings.window, settings.zoom, settings.turned) if settings.weight else None


def psnr(output: Tensor, truth: Tensor) -> Tensor:
    """Mean over the batch of the peak signal-to-noise ratio in dB, all channels, pictures in [0, 1]."""
    return -10 * (output.clamp(0, 1) - truth).square().mean((1, 2, 3)).clamp_min(1e-10).log10().mean()
