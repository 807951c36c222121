"""FLOPs of a training step, counted by torch on the real networks, which run on the meta device: no memory, no weights.

A multiplication and an addition are two; elementwise work, losses, optimizer and average are not counted, as is usual.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..method.models import BlockAutoencoder, ControlNet, RestorationNetwork
from ..method.models.teachers import ConvProjector, Projector
from ..training.config import ConfigError, DiffusionConfig
from ..training.stages.paper import build_transformer, hold_backbone

DINOV2 = {
    name: {"model_type": "dinov2", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64,
           "image_size": 518, "patch_size": 14}
    for name, width, depth in (("facebook/dinov2-small", 384, 12), ("facebook/dinov2-base", 768, 12),
                               ("facebook/dinov2-large", 1024, 24))
}
"""Width and depth of the published teachers (Oquab et al., 2023, arXiv:2304.07193, table 14)."""

SD_AUTOENCODER = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
                  "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D"] * 4,
                  "up_block_types": ["UpDecoderBlock2D"] * 4}
AUTOENCODERS = {"stabilityai/sd-vae-ft-ema": SD_AUTOENCODER, "stabilityai/sd-vae-ft-mse": SD_AUTOENCODER}
"""Published configurations, so that a plan needs no network."""

ATTENTION = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
"""The products of two activations, as attention's are."""
FLASH_BACKWARD = 0.5
"""Of attention's forward pass, on top of the two of a backward pass: fast kernels compute the scores again."""


class Networks:
    """The networks of a diffusion run, on the meta device.

    Raises:
        ConfigError: the configuration of a frozen network is not to be had; names the key.
    """

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.grid = config.data.crop // (8 * config.transformer.patch_size)
        autoencoder = read_config(config.autoencoder, AUTOENCODERS, "autoencoder")
        restoration = read_config(config.restoration, {}, "restoration") if config.restoration else None
        with torch.device("meta"):
            self.autoencoder = _build_autoencoder(autoencoder)
            self.restoration = restoration and RestorationNetwork.from_config(restoration)
            self.teacher = self._build_teacher()
            self.transformer = build_transformer(config.transformer, autoencoder["latent_channels"])
            self.control = ControlNet.from_backbone(self.transformer, autoencoder["latent_channels"],
                                                    config.transformer.control_depth)
            self.projector = None
            if self.teacher is not None:
                kind = ConvProjector if config.alignment.projector == "conv" else Projector
                self.projector = kind(self.transformer.config.width, self.teacher_width)
        hold_backbone(self.transformer, config.backbone.trained_blocks)

    @property
    def tokens(self) -> int:
        """N, of one crop."""
        return self.grid**2

    @property
    def teacher_width(self) -> int:
        """T; 0 without a teacher."""
        return 0 if self.teacher is None else self.teacher.config.hidden_size

    @property
    def aligned(self) -> float:
        """Share of the images on which Eq. 5 is computed."""
        return self.config.alignment.until / self.config.alignment.every

    def count(self) -> dict[str, tuple[float, float, float]]:
        """FLOPs for one image: forward, backward, and those of all blocks' forward pass, of each network that is there.

        Frozen networks have no backward pass. The autoencoder's are of one encoding.
        """
        side, patch = self.config.data.crop, 14
        frozen: dict[str, Callable[[], Any]] = {
            "autoencoder": lambda: self.autoencoder.encode(_meta(1, 3, side, side)),
            "restoration": lambda: self.restoration(_meta(1, 3, side // 4, side // 4)),
            "teacher": lambda: self.teacher(_meta(1, 3, patch * self.grid, patch * self.grid))}
        counted = {}
        for name, call in frozen.items():
            if getattr(self, name) is not None:
                with torch.no_grad():
                    counted[name] = (sum(_counted(call)), 0.0, 0.0)
        return counted | self._count_trained()

    def _count_trained(self) -> dict[str, tuple[float, float, float]]:
        config, condition = self.transformer.config, self.control.config.condition_channels
        latent = 8 * self.grid * config.patch_size // 8
        z_t, z_y, t = _meta(1, config.in_channels, latent, latent), _meta(1, condition, latent, latent), _meta(1).long()
        tokens, conditioning = _leaf(1, self.tokens, config.width), _leaf(1, config.width)
        features = [_leaf(1, self.tokens, config.width) for _ in self.control.blocks]
        block = sum(_counted(lambda: self.transformer.blocks[0](tokens, conditioning)))

        def backbone() -> Tensor:  # each branch embeds the joint latent
            start, again = self.transformer.embed(z_t, t)
            return self.transformer(z_t, t, features).sample.sum() + start.sum() + again.sum()

        counted = {
            "backbone": (*_both_passes(backbone), block * config.depth),
            "control branch": (*_both_passes(lambda: sum(f.sum() for f in self.control(tokens, conditioning, z_y))),
                               block * len(self.control.blocks))}
        if self.projector is not None:
            on_grid = ((self.grid, self.grid),) if isinstance(self.projector, ConvProjector) else ()
            counted["projector"] = (*_both_passes(lambda: self.projector(tokens, *on_grid).sum()), 0.0)
        return counted

    def _build_teacher(self) -> nn.Module | None:
        alignment = self.config.alignment
        if alignment.teacher is None or not alignment.weight:
            return None
        from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        values = read_config(alignment.teacher, DINOV2, "alignment.teacher")
        registers = values.get("model_type") == "dinov2_with_registers"
        config = (Dinov2WithRegistersConfig if registers else Dinov2Config).from_dict(values)
        model = (Dinov2WithRegistersModel if registers else Dinov2Model)(config).eval()
        if alignment.teacher_layer is not None:  # the blocks after it do not run
            model.encoder.layer = model.encoder.layer[: alignment.teacher_layer]
        return model


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _leaf(*shape: int) -> Tensor:
    """Of a network's input that has a gradient."""
    return _meta(*shape).requires_grad_()


def _counted(call: Callable[[], Any]) -> tuple[float, float]:
    """FLOPs of products with weights, and of attention's two products, which have none."""
    # the plain attention is made of matrix products, which are counted on every device
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    counts = counter.get_flop_counts().get("Global", {})
    attention = sum(flops for operation, flops in counts.items() if operation in ATTENTION)
    return float(sum(counts.values()) - attention), float(attention)


def _both_passes(call: Callable[[], Any]) -> tuple[float, float]:
    """Of the forward and of the backward pass of what `call` returns, a scalar."""
    results: list[Any] = []
    weights, attention = _counted(lambda: results.append(call()))
    return weights + attention, sum(_counted(lambda: results[0].backward())) + FLASH_BACKWARD * attention


def count_parameters(network: nn.Module) -> int:
    """All of them."""
    return sum(p.numel() for p in network.parameters())


def _build_autoencoder(config: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    kind = BlockAutoencoder if config["_class_name"] == "BlockAutoencoder" else AutoencoderKL
    return kind.from_config(config)


def read_config(source: str | Path, published: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """A network's config.json: from `published`, a folder, or the hub.

    Raises:
        ConfigError: there is none; names the configuration's key.
    """
    if str(source) in published:
        return published[str(source)]
    path = Path(source) / "config.json"
    try:
        if not path.is_file():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(source), "config.json"))
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:  # the hub's errors are kin of these
        raise ConfigError(f"{key}: {source} holds no config.json; give a folder with one, or a name of the hub: "
                          f"`hf download {source} config.json`") from error
