"""The stages of a training, a class and a file each: what it trains, and on which loss. The trainer does the rest."""

from __future__ import annotations

from collections.abc import Callable

from ..config import AnyTrainConfig, AutoencoderConfig, MapConfig, RestorationConfig
from .objective import Batch, Objective


def build_objective(config: AnyTrainConfig) -> Objective:
    """The stage that a configuration describes.

    Raises:
        ConfigError: what it begins from cannot be used; names the key.
    """
    return stage(config)(config)


def stage(config: AnyTrainConfig) -> Callable[..., Objective]:
    """The class of the stage. Only its own imports are made."""
    if isinstance(config, AutoencoderConfig):
        from .autoencoder import AutoencoderObjective

        return AutoencoderObjective
    if isinstance(config, RestorationConfig):
        from .restoration import RestorationObjective

        return RestorationObjective
    if isinstance(config, MapConfig):
        from .map import MapObjective

        return MapObjective
    if config.sampler.weight:
        from .sampler import SamplerObjective

        return SamplerObjective
    from .paper import PaperObjective

    return PaperObjective


__all__ = ["Batch", "Objective", "build_objective", "stage"]
