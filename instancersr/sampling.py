"""DDIM on the joint latent, in numpy, for every engine: the noise schedule, the noise of a picture, the steps.

`z` is the joint latent [z_x; z_m] of photo and instance map, `z_y` the latent of the restored photo, alpha and sigma
the signal and noise scales: z_t = alpha z + sigma eps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from .engines.protocol import Engine
from .geometry import LR_LATENT
from .tiling import Tile

NOISE_BAND = 16
"""Rows of latents whose noise is drawn at once."""
BANDS_KEPT = 16
"""Bands of noise that are held in memory: those of two rows of tiles."""
EDGE_WINDOW = 7
"""Pixels along the side of the window in which contrast is measured: a letter of fine print."""
PRINT = (150, 240)
"""Grey levels of contrast from which versions begin to agree, and at which they do."""


@dataclass(frozen=True)
class Schedule:
    """Where a sampler's steps lie and how noisy each is.

    The formulas are those of `diffusers.DDIMScheduler` with eta 0 (Song et al., 2021, arXiv:2010.02502).

    Args:
        signal: (T,) float64, alpha squared at each timestep.
        spacing: "leading", "linspace" or "trailing".
        offset: added to the timesteps of "leading".
        final_signal: alpha squared after the last step.
        clip: largest value of a clean latent, None for no limit.
        anchor_steps: of a network that was trained for few steps, the most that it does well. More steps lie evenly
            between the first and the last of theirs, and the network is told the nearest of theirs. None: any number
            of steps lies as `spacing` says.
    """

    signal: np.ndarray
    spacing: str = "trailing"
    offset: int = 0
    final_signal: float = 1.0
    clip: float | None = None
    anchor_steps: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], anchor_steps: int | None = None) -> Schedule:
        """What a `scheduler_config.json` of `DDIMScheduler` says.

        Args:
            config: its keys and values.
            anchor_steps: as of the class; diffusers has no word for it.

        Raises:
            ValueError: it asks for something that this sampler cannot do.
        """
        if config.get("thresholding"):
            raise ValueError("scheduler: thresholding is not supported")
        if anchor_steps and config.get("prediction_type", "epsilon") != "sample":
            raise ValueError("anchor_steps: only a network that predicts the clean latent can be told another timestep")
        signal = np.cumprod(1 - _betas(config))
        if config.get("rescale_betas_zero_snr"):
            signal = _zero_terminal(signal)
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in ("leading", "linspace", "trailing"):
            raise ValueError(f"scheduler: timestep_spacing {spacing!r} is unknown")
        clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None
        final = 1.0 if config.get("set_alpha_to_one", True) else float(signal[0])
        return cls(signal, spacing, config.get("steps_offset", 0), final, clip, anchor_steps)

    def timesteps(self, steps: int) -> list[int]:
        """Of so many steps, the noisiest first.

        Raises:
            ValueError: there are fewer timesteps than that.
        """
        total, refined = len(self.signal), self._refines(steps)
        first, last = (self._anchors[0], self._anchors[-1]) if refined else (total - 1, 0)
        if not 1 <= steps <= first - last + 1:
            raise ValueError(f"num_inference_steps must be 1 to {first - last + 1} with this model, not {steps}")
        if refined:
            return np.linspace(first, last, steps).round().astype(int).tolist()
        if self.spacing == "linspace":
            return np.linspace(0, total - 1, steps).round()[::-1].astype(int).tolist()
        if self.spacing == "leading":
            return [number * (total // steps) + self.offset for number in reversed(range(steps))]
        return (np.round(np.arange(total, 0, -total / steps)) - 1).astype(int).tolist()

    def told(self, timestep: int, steps: int) -> int:
        """The timestep that the network is told at this one of so many steps."""
        if not self._refines(steps):
            return timestep
        return min(self._anchors, key=lambda anchor: abs(anchor - timestep))

    def scales(self, timestep: int) -> tuple[np.float32, np.float32]:
        """alpha and sigma."""
        return _scales(float(self.signal[timestep]))

    def step(self, clean: np.ndarray, z_t: np.ndarray, timestep: int, steps: int) -> np.ndarray:
        """z at the timestep after this one of so many steps, from the clean latent that the network sees in z_t."""
        alpha, sigma = self.scales(timestep)
        noise = (z_t - alpha * clean) / sigma
        if self.clip is not None:
            clean = clean.clip(-self.clip, self.clip)
        following = self._following(timestep, steps)
        alpha, sigma = self.scales(following) if following >= 0 else _scales(self.final_signal)
        return alpha * clean + sigma * noise

    @property
    def _anchors(self) -> list[int]:
        assert self.anchor_steps is not None
        return self.timesteps(self.anchor_steps)

    def _refines(self, steps: int) -> bool:
        return self.anchor_steps is not None and steps > self.anchor_steps > 1

    def _following(self, timestep: int, steps: int) -> int:
        """The timestep after this one, negative after the last; of steps that go down to 0 as diffusers counts it."""
        if self._refines(steps):
            return max((later for later in self.timesteps(steps) if later < timestep), default=-1)
        return timestep - len(self.signal) // steps


def _scales(signal: float) -> tuple[np.float32, np.float32]:
    return np.float32(signal**0.5), np.float32((1 - signal) ** 0.5)


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    if config.get("trained_betas") is not None:
        return np.array(config["trained_betas"], np.float64)
    kind, total = config.get("beta_schedule", "linear"), config.get("num_train_timesteps", 1000)
    first, last = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    if kind == "linear":
        return np.linspace(first, last, total)
    if kind == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, total) ** 2
    if kind == "squaredcos_cap_v2":
        signal = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    raise ValueError(f"scheduler: beta_schedule {kind!r} is unknown")


def _zero_terminal(signal: np.ndarray) -> np.ndarray:
    """The last timestep becomes pure noise (Lin et al., 2024, arXiv:2305.08891)."""
    alpha = np.sqrt(signal)
    return ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2


class NoiseField:
    """The noise of a whole picture, drawn in bands of rows when they are needed.

    Neighbouring tiles see the same noise where they overlap, so they agree there, and the memory it takes does not
    grow with the picture's height. The generator is numpy's Philox, so every engine and machine has the same noise.

    Args:
        seed: of the picture, 0 to 2^64 - 1.
        channels: of the joint latent.
        width: of the picture in latents.
        layer: noises of one seed and different layers have nothing in common.
    """

    def __init__(self, seed: int, channels: int, width: int, layer: int = 0):
        def draw(band: int) -> np.ndarray:
            generator = np.random.Generator(np.random.Philox(key=np.array([seed, band + (layer << 32)], np.uint64)))
            return generator.standard_normal((channels, NOISE_BAND, width), np.float32)

        self._band = lru_cache(maxsize=BANDS_KEPT)(draw)

    def window(self, tile: Tile) -> np.ndarray:
        """(C, h / 2, w / 2) for a tile of h x w LR pixels: a latent is 2x2 LR pixels."""
        rows, columns = tile.latents
        first, last = rows.start // NOISE_BAND, (rows.stop - 1) // NOISE_BAND
        bands = np.concatenate([self._band(number) for number in range(first, last + 1)], 1)
        return bands[:, rows.start - first * NOISE_BAND : rows.stop - first * NOISE_BAND, columns]


@dataclass(frozen=True)
class VersionNoise:
    """The noise of another version of a picture: that of its seed, but of seed 0 where versions must agree.

    Args:
        own: noise of the seed.
        first: noise of seed 0.
        share: (h, w) of the picture's latents, see `version_share`.
    """

    own: NoiseField
    first: NoiseField
    share: np.ndarray

    def window(self, tile: Tile) -> np.ndarray:
        """As `NoiseField.window`; the variance stays 1."""
        share = self.share[tile.latents]
        return share * self.own.window(tile) + np.sqrt(1 - share**2) * self.first.window(tile)


def version_share(photo: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H / 2, W / 2) float32: 1 where a version may differ, 0 at edges as strong as those of print.

    Letters and edges are known better than hair and gravel, and a stroke that moves makes another letter.
    """
    grey = photo.mean(2, dtype=np.float32)
    contrast = maximum_filter(grey, EDGE_WINDOW) - minimum_filter(grey, EDGE_WINDOW)
    least, most = PRINT
    return ((most - contrast) / (most - least)).clip(0, 1)[::LR_LATENT, ::LR_LATENT]


@dataclass(frozen=True)
class Known:
    """A latent of which a part is drawn anew and the rest held.

    Holding the known part is RePaint's idea (Lugmayr et al., 2022, arXiv:2201.09865).

    Args:
        z: (B, 2C, h, w), as it was.
        noise: (B, 2C, h, w), what it was drawn from.
        share: (h, w), 1 where it is drawn anew, 0 where it is held.
    """

    z: np.ndarray
    noise: np.ndarray
    share: np.ndarray

    def mixed_noise(self, new: np.ndarray) -> np.ndarray:
        """The new noise where the latent is drawn anew, the old elsewhere; its variance stays 1."""
        total = np.sqrt(self.share**2 + (1 - self.share) ** 2)
        return (self.share * new + (1 - self.share) * self.noise) / total

    def hold(self, z_t: np.ndarray, alpha: float | np.floating, sigma: float | np.floating) -> np.ndarray:
        """z_t with the held part as it was at that noise."""
        return self.share * z_t + (1 - self.share) * (alpha * self.z + sigma * self.noise)


def sample(engine: Engine, schedule: Schedule, z_y: np.ndarray, noise: np.ndarray, steps: int,
           start_from: str = "noise", offset: tuple[int, int] = (0, 0),
           known: Known | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """DDIM from noise to the joint latent z, guided by z_y.

    Args:
        z_y: (B, C, h, w), the condition.
        noise: (B, 2C, h, w).
        steps: evaluations of the network; the schedule says where they lie.
        start_from: "noise", or "lr": z_y noised to the first timestep.
        offset: row and column of the first token in the tile.
        known: holds a part of z, at every step noised as far as that step is.

    Returns:
        z (B, 2C, h, w), and the last step's tokens, or None where the engine's decoder wants none.
    """
    noise = noise if known is None else known.mixed_noise(noise)
    z_t, tokens, timesteps = noise, None, schedule.timesteps(steps)
    if start_from == "lr":
        alpha, sigma = schedule.scales(timesteps[0])
        z_t = alpha * np.concatenate([z_y, np.zeros_like(z_y)], 1) + sigma * noise
    for timestep in timesteps:
        if known is not None:
            z_t = known.hold(z_t, *schedule.scales(timestep))
        clean, tokens = engine.denoise(z_t, z_y, schedule.told(timestep, steps), offset)
        z_t = schedule.step(clean, z_t, timestep, steps)
    return z_t if known is None else known.hold(z_t, 1, 0), tokens
