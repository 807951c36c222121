"""The stages of a training, a class and a file each: what it trains, and on which loss. The trainer does the rest."""

from __future__ import annotations

from ..config import AnyTrainConfig, AutoencoderConfig, MapConfig, RestorationConfig
from .objective import Batch, Objective


def build_objective(config: AnyTrainConfig) -> Objective:
    """The stage that a configuration describes.

    Raises:
        ConfigError: what it begins from cannot be used; names the key.
    """
    if isinstance(config, AutoencoderConfig):
        from .autoencoder import AutoencoderObjective

        return AutoencoderObjective(config)
    if isinstance(config, RestorationConfig):
        from .restoration import RestorationObjective

        return RestorationObjective(config)
    if isinstance(config, MapConfig):
        from .map import MapObjective

        return MapObjective(config)
    if config.sampler.weight:
        from .sampler import SamplerObjective

        return SamplerObjective(config)
    from .paper import PaperObjective

    return PaperObjective(config)


__all__ = ["Batch", "Objective", "build_objective"]
