"""The face of a model for users of diffusers: an adapter over the core, with the torch engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from ..denoising import GRAIN_PARTS
from ..edits import Edit, Kept
from ..engines.torch import TorchEngine
from ..images.inputs import Picture
from ..model import GRAPHS, Model, find_model
from ..recipe import Defaults, Quality
from ..sampling import Schedule
from ..upscaler import OVERLAP, Progress, Segmenter, Upscaled, Upscaler
from .merging import shapes
from .method import models
from .method.models import ControlNet, DetailDecoder, JointDiT, MapDecoder, RestorationNetwork


@dataclass
class InstanceRSROutput(BaseOutput):
    """images: PIL pictures. instances: (H, W) int32 instance ids at their size, 0 = none. One each.

    kept: what `InstanceRSRPipeline.edit` needs; None unless it was asked for.
    """

    images: list[Image.Image]
    instances: list[np.ndarray]
    kept: Kept | None = None


class InstanceRSRPipeline(DiffusionPipeline):
    """Photo in; sharp photo and instance map out.

    Args:
        autoencoder: `BlockAutoencoder` or `diffusers.AutoencoderKL`.
        restoration: y -> y-hat, or None for the bicubic enlargement (the paper's configuration).
        transformer, controlnet: the denoiser.
        scheduler: a `DDIMScheduler` with explicit `timestep_spacing`.
        default_steps: sampling steps where the call does not say.
        default_fidelity: fidelity where the call does not say, of a photo that the model's own weights draw; what the
            grain parts draw has 0.
        detail_decoder: the last layers of the photo's decoder, or None; needs a restoration network.
        map_decoder: merges regions of y-hat into instances, or None to read the instance map's colours alone.
        default_quality: "fast", "balanced" or "best" where the call does not say.
        restoration_grain, detail_decoder_grain: of the shapes of those without "_grain", with weights that leave noise
            and grain in; None for a model without the control `denoise`.
        anchor_steps: as of `Schedule`.

    Raises:
        ValueError: a grain part has not the shape of its part.
    """

    _optional_components = ["restoration", "detail_decoder", "map_decoder", *GRAIN_PARTS.values()]

    def __init__(self, autoencoder: Any, restoration: RestorationNetwork | None, transformer: JointDiT,
                 controlnet: ControlNet, scheduler: Any, default_steps: int = 4, default_fidelity: float = 0.0,
                 detail_decoder: DetailDecoder | None = None, map_decoder: MapDecoder | None = None,
                 default_quality: Quality = "balanced", restoration_grain: RestorationNetwork | None = None,
                 detail_decoder_grain: DetailDecoder | None = None, anchor_steps: int | None = None):
        super().__init__()
        self.register_modules(autoencoder=autoencoder, restoration=restoration, transformer=transformer,
                              controlnet=controlnet, scheduler=scheduler, detail_decoder=detail_decoder,
                              map_decoder=map_decoder, restoration_grain=restoration_grain,
                              detail_decoder_grain=detail_decoder_grain)
        for part, grain in GRAIN_PARTS.items():
            if getattr(self, grain) is not None and shapes(getattr(self, grain)) != shapes(getattr(self, part)):
                raise ValueError(f"{grain} has not the shape of {part}")
        self.register_to_config(default_steps=default_steps, default_fidelity=default_fidelity,
                                default_quality=default_quality, anchor_steps=anchor_steps)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, torch_dtype: torch.dtype = torch.float32,
                        **overrides: Any) -> InstanceRSRPipeline:
        """Loads "builtin" (the weights in this package), a folder of `save_pretrained`, or a hub id.

        Args:
            overrides: components or settings of the constructor that replace the saved ones.

        Raises:
            OSError: there is no such model, or a part of it is missing.
        """
        model = find_model(str(name))
        parts: dict[str, Any] = {}
        for key, value in model.index.items():
            if key in overrides or key.startswith("_"):
                continue
            parts[key] = _load_part(model, key, torch_dtype) if isinstance(value, list) else value
        return cls(**(parts | overrides))

    def save_pretrained(self, folder: str | os.PathLike, **options: Any) -> None:
        """As diffusers' own. Graphs of a model that was there before are deleted: they point into its files."""
        super().save_pretrained(folder, **options)
        for name in GRAPHS:
            Model(Path(folder)).graph(name).unlink(missing_ok=True)

    @property
    def denoises(self) -> bool:
        """Whether the model has the control `denoise`."""
        return any(getattr(self, name) is not None for name in GRAIN_PARTS.values())

    @property
    def upscaler(self) -> Upscaler:
        """The core's upscaler with these networks, as they are now."""
        config = self.config
        return Upscaler(TorchEngine(self), Schedule.from_config(self.scheduler.config, config.anchor_steps),
                        Defaults(config.default_steps, config.default_fidelity, config.default_quality))

    def __call__(self, image: Picture, scale: float = 4, num_inference_steps: int | None = None,
                 generator: torch.Generator | None = None, start_from: Literal["noise", "lr"] = "noise",
                 fidelity: float | None = None, color_fix: str = "wavelet", tile: int | None = None,
                 tile_batch: int = 1, progress: Progress | None = None, *, quality: Quality | None = None,
                 strength: float = 1.0, edits: Sequence[Edit] = (), keep_latents: bool = False, overlap: int = OVERLAP,
                 instances: bool = True, denoise: float | None = None, cleaning: float | None = None,
                 merge: Sequence[Sequence[int]] = (), segmenter: Segmenter | None = None) -> InstanceRSROutput:
        """Upscales one picture; but for the generator, arguments are those of `Upscaler`.

        Args:
            generator: source of the noise's seed, see `seed_of`; None for seed 0, so that the same input gives the
                same output.

        Raises:
            ValueError, ModelError, ImageError, MemoryError: as `Upscaler`.
        """
        return _output(self.upscaler(
            image, scale, num_inference_steps, seed_of(generator), start_from, fidelity, color_fix, tile, tile_batch,
            progress, quality=quality, strength=strength, edits=edits, keep_latents=keep_latents, overlap=overlap,
            instances=instances, denoise=denoise, cleaning=cleaning, merge=merge, segmenter=segmenter))

    def edit(self, out: InstanceRSROutput, edits: Sequence[Edit], progress: Progress | None = None,
             ) -> InstanceRSROutput:
        """As `Upscaler.edit`."""
        return _output(self.upscaler.edit(Upscaled(out.images, out.instances, out.kept), edits, progress))


def seed_of(generator: torch.Generator | None) -> int:
    """The seed that a generator stands for, after which it has moved on.

    One from which nothing was drawn yet stands for the seed that it was given; None stands for 0.
    """
    if generator is None:
        return 0
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    unused = torch.equal(fresh.get_state(), generator.get_state())
    drawn = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return generator.initial_seed() % 2**64 if unused else drawn


def _output(out: Upscaled) -> InstanceRSROutput:
    return InstanceRSROutput(images=out.images, instances=out.instances, kept=out.kept)


def _load_part(model: Model, name: str, dtype: torch.dtype) -> Any:
    library, kind = model.index[name]
    if kind is None:
        return None
    source = models if str(library).startswith("instancersr") else diffusers
    part = getattr(source, kind, None)
    if part is None:
        raise OSError(f"{model.folder / name}: this version knows no component {kind} of {library}")
    if hasattr(part, "parameters"):
        return part.from_pretrained(model.folder / name, torch_dtype=dtype, low_cpu_mem_usage=False).eval()
    return part.from_pretrained(model.folder / name)
