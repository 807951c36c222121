"""The frozen teachers: DINOv2's features for Eq. 5 with the projector onto them, SAM's masks for the instance maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from instancersr.errors import MissingPackage, ModelError
from instancersr.instances.annotations import annotation_of_mask, id_map_from_annotations
from instancersr.instances.maps import resize_ids
from instancersr.loading import SAM_PACKAGES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SAM_SIDE = 1024
"""Longer side, in pixels, of what SAM is shown: its own input's."""


class Projector(nn.Sequential):
    """REPA's MLP from the tokens to the teacher's width: three linear maps, (B, N, D) -> (B, N, T)."""

    def __init__(self, width: int, teacher_width: int, hidden: int = 2048):
        super().__init__(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                         nn.Linear(hidden, teacher_width))


class ConvProjector(nn.Module):
    """iREPA's projector: one 3x3 convolution over the token grid (Singh et al., 2025, arXiv:2512.10794)."""

    def __init__(self, width: int, teacher_width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, teacher_width, 3, padding=1)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) in row order -> (B, N, T)."""
        x = tokens.transpose(1, 2).unflatten(2, grid)  # (B, D, rows, columns)
        return self.conv(x).flatten(2).transpose(1, 2)


def spatial_normalization(features: Tensor, strength: float) -> Tensor:
    """iREPA's: takes `strength` times the mean over the patches off each channel, and divides by the deviation.

    What all patches share says nothing of where things are. features: (B, N, T).
    """
    centered = features - strength * features.mean(1, keepdim=True)
    return centered / (features.std(1, keepdim=True) + 1e-6)


DINOV2 = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
"""`model_type` of a configuration -> class of `transformers`."""


class Dinov2Teacher(nn.Module):
    """A frozen DINOv2, with or without registers, whose patch features lie on the transformer's token grid.

    Args:
        name: hub name (`facebook/dinov2-base`, `facebook/dinov2-with-registers-base`) or local folder in
            `transformers` layout.
        layer: the block whose tokens are used, counted from 1; None for the last one after its layer norm.

    Raises:
        OSError: the weights are neither in the folder nor in the hub's cache nor can they be fetched.
    """

    def __init__(self, name: str | Path, layer: int | None = None):
        super().__init__()
        import transformers  # of which the automatic classes would import every network's configuration

        kind = transformers.PretrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind not in DINOV2:
            raise OSError(f"{name}: a {kind}, not a DINOv2")
        self.model = getattr(transformers, DINOV2[kind]).from_pretrained(name).eval().requires_grad_(False)
        self.layer = layer
        if layer is not None:  # the blocks after it need not run
            self.model.encoder.layer = self.model.encoder.layer[:layer]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])

    @property
    def width(self) -> int:
        """T, the width of the features."""
        return self.model.config.hidden_size

    @torch.no_grad()
    def forward(self, hr: Tensor, grid: tuple[int, int]) -> Tensor:
        """Clean HR photos (B, 3, H, W) in [0, 1] -> (B, grid[0] * grid[1], T), in row order."""
        patch = self.model.config.patch_size
        x = (hr - self.mean) / self.std
        x = F.interpolate(x, (patch * grid[0], patch * grid[1]), mode="bicubic", align_corners=False, antialias=True)
        if self.layer is None:
            tokens = self.model(x).last_hidden_state
        else:  # not last_hidden_state: that has the layer norm which belongs to the last block
            tokens = self.model(x, output_hidden_states=True).hidden_states[-1]
        return tokens[:, -grid[0] * grid[1] :]  # class and register tokens come first


class SamMasks:
    """Automatic masks of a photo by Segment Anything (Kirillov et al., 2023), or SAM 2 (Ravi et al., 2024), through
    `transformers`.

    Args:
        name: hub name (`facebook/sam-vit-huge`, `facebook/sam2.1-hiera-tiny`) or local folder in `transformers` layout.
        device: where it computes.
        points_per_side: of the grid of points that masks are asked for.
        pred_iou: masks whose predicted IoU is less are dropped.
        stability: masks that change more than this allows under another threshold are dropped.
        nms: of two masks whose boxes have a larger IoU the worse is dropped.
        points_per_batch: points asked for at once; each takes twelve bytes of memory for a pixel of the photo.
        local_files_only: whether nothing is fetched from the hub.

    Raises:
        ModelError: the weights are missing, or `transformers` or torchvision, whose NMS it uses, is not installed.
    """

    def __init__(self, name: str | Path, device: str = "cpu", points_per_side: int = 32, pred_iou: float = 0.88,
                 stability: float = 0.95, nms: float = 0.7, points_per_batch: int = 64,
                 local_files_only: bool = False):
        try:
            import torchvision  # noqa: F401
            from transformers import AutoImageProcessor, AutoModelForMaskGeneration, pipeline
        except ImportError as error:
            raise MissingPackage(error, "torch", *SAM_PACKAGES) from error
        try:
            model = AutoModelForMaskGeneration.from_pretrained(name, local_files_only=local_files_only).eval()
            processor = AutoImageProcessor.from_pretrained(name, local_files_only=local_files_only)
        except (OSError, ValueError) as error:
            raise ModelError(f"{name}: no SAM here and none in the hub's cache; "
                             f"fetch it with `hf download {name}`") from error
        self._generate = pipeline("mask-generation", model=model, image_processor=processor, device=device)
        self._settings = {"points_per_crop": points_per_side, "pred_iou_thresh": pred_iou,
                          "stability_score_thresh": stability, "crops_nms_thresh": nms,
                          "points_per_batch": points_per_batch}

    def __call__(self, rgb: np.ndarray) -> list[dict]:
        """(H, W, 3) uint8 -> SA-1B's annotations, the surest first; none where nothing is found.

        The stability scores are not known beyond their threshold, and are left out.
        """
        found = self._generate(Image.fromarray(rgb), **self._settings)
        notes: list[dict] = []
        for mask, score in zip(found["masks"], found["scores"], strict=True):
            mask = np.asarray(mask, bool)
            if mask.any():
                note = annotation_of_mask(mask, len(notes) + 1) | {"predicted_iou": float(score)}
                notes.append({key: value for key, value in note.items() if key != "stability_score"})
        return notes

    def find_objects(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) int32 instance ids, 0 = none: the masks, painted from the largest to the smallest.

        A photo with a longer side than SAM_SIDE is shown to it at that size, since SAM looks no closer.
        """
        height, width = rgb.shape[:2]
        factor = min(1.0, SAM_SIDE / max(height, width))
        seen = [max(1, round(side * factor)) for side in (height, width)]
        shown = rgb if factor == 1 else np.asarray(Image.fromarray(rgb).resize(seen[::-1], Image.Resampling.LANCZOS))
        image = {"height": seen[0], "width": seen[1]}
        return resize_ids(id_map_from_annotations({"image": image, "annotations": self(shown)}), (height, width))
