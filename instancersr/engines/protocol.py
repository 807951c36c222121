"""What an upscale asks of an engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Engine(Protocol):
    """The networks of a model on a device. All methods may be called by several threads at once.

    Arrays are float32. Features and tokens mean nothing to the caller; features are cut like the LR photo.

    name: of the engine. device: where it computes. precision: of its numbers.
    latent_channels: C of z_x, z_m and z_y; the joint latent z has 2C.
    spread_positions: whether positions are spread over the tile, so that a part of it cannot be computed alone.
    finishes: whether there is a detail decoder, which `finish` needs and for which features are kept.
    pair_features: how many numbers of two regions `pair_odds` reads; 0 without a map decoder, which it needs.
    denoises: whether the model has grain parts, which `denoising` needs.

    Raises:
        MemoryError: by every method, where the device has too little memory for a tile.
    """

    name: str
    device: str
    precision: str
    latent_channels: int
    spread_positions: bool
    finishes: bool
    pair_features: int
    denoises: bool

    def denoising(self, denoise: float) -> Engine:
        """The engine whose `restore`, `decode` and `finish` take so much noise and grain off, in [0, 1]; all else is
        shared. The last few are kept.
        """

    def restore(self, y: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """y (B, 3, h, w) in [0, 1] -> features (B, F, h, w), None where no network restores, and y-hat
        (B, 3, 4h, 4w), about [0, 1].
        """

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """(B, 3, 4h, 4w) in [0, 1] -> latents (B, C, h / 2, w / 2); of a posterior its mean."""

    def denoise(self, z_t: np.ndarray, z_y: np.ndarray, timestep: int,
                offset: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """z_t (B, 2C, h / 2, w / 2), z_y (B, C, h / 2, w / 2) and the row and column of the first token -> the clean
        latent that the network sees in z_t, and the transformer's tokens, or None where no decoder wants them.
        """

    def decode(self, z_x: np.ndarray, features: np.ndarray | None, tokens: np.ndarray | None) -> np.ndarray:
        """z_x (B, C, h / 2, w / 2) -> the photo (B, 3, 4h, 4w), about [0, 1]."""

    def finish(self, restored: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """y-hat (B, 3, 4h, 4w) -> the photo (B, 3, 4h, 4w), about [0, 1], without any sample."""

    def decode_map(self, z_m: np.ndarray) -> np.ndarray:
        """z_m (B, C, h / 2, w / 2) -> the coloured instance map (B, 3, 4h, 4w), about [0, 1]."""

    def pair_odds(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs of regions (..., F) -> log odds (...) that both are of one instance."""
