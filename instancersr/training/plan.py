"""`instancersr plan`: what a training run costs, before it is begun: FLOPs, memory, images/s, days, energy.

Parameters are counted on the real networks, built without memory (torch's meta device). FLOPs and memory are closed
forms; a multiplication and an addition are two FLOPs, elementwise work is not counted, as `torch.utils.flop_counter`
does. Shapes: N tokens, D width, H x W pixels of an HR crop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ..models import BlockAutoencoder, ControlNet, JointDiT, RestorationNetwork
from ..models.teachers import Projector
from .config import AnyTrainConfig, ConfigError, DiffusionConfig

MEMORY_SHARE = 0.9
"""Of a GPU's memory that a plan fills; the rest is for CUDA's context, libraries and fragmentation."""
RECENT_WORD = 4
"""Bytes of an fp32 number: weights, gradients, AdamW's two moments and the moving average are kept in it."""


@dataclass(frozen=True)
class Gpu:
    """tflops: peak of dense bf16 tensor-core products with fp32 accumulation. memory: 1e9 bytes. watts: board power."""

    name: str
    tflops: float
    memory: float
    watts: float
    source: str


GPUS = {gpu.name: gpu for gpu in (
    Gpu("H100", 989.4, 80, 700, "NVIDIA H100 Tensor Core GPU data sheet, SXM5; half of the figure with sparsity"),
    Gpu("H100-PCIe", 756, 80, 350, "NVIDIA H100 Tensor Core GPU architecture white paper, PCIe"),
    Gpu("H200", 989.4, 141, 700, "NVIDIA H200 Tensor Core GPU data sheet, SXM; half of the figure with sparsity"),
    Gpu("A100", 312, 80, 400, "NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM4"),
    Gpu("A100-40GB", 312, 40, 400, "NVIDIA A100 Tensor Core GPU architecture white paper, 40 GB SXM4"),
    Gpu("L40S", 362, 48, 350, "NVIDIA L40S data sheet; half of the figure with sparsity"),
    Gpu("RTX4090", 165.2, 24, 450, "NVIDIA Ada GPU architecture white paper, fp32 accumulation"),
    Gpu("RTX3090", 71, 24, 350, "NVIDIA Ampere GA102 GPU architecture white paper, fp32 accumulation"),
)}

DINOV2 = {"facebook/dinov2-small": (384, 12), "facebook/dinov2-base": (768, 12), "facebook/dinov2-large": (1024, 24)}
"""Width and depth of the published teachers (Oquab et al., 2023, arXiv:2304.07193, table 14)."""

SD_AUTOENCODER = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
                  "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D"] * 4,
                  "up_block_types": ["UpDecoderBlock2D"] * 4}
AUTOENCODERS = {"stabilityai/sd-vae-ft-ema": SD_AUTOENCODER, "stabilityai/sd-vae-ft-mse": SD_AUTOENCODER}
"""Published configurations, so that a plan needs no network."""


@dataclass(frozen=True)
class Flops:
    """Of one forward pass: products with weights, and the two products of attention, which have none."""

    weights: float = 0.0
    attention: float = 0.0

    @property
    def forward(self) -> float:
        """The two together."""
        return self.weights + self.attention

    @property
    def backward(self) -> float:
        """Twice the products with weights; 2.5 times attention's, whose fast kernels compute the scores again."""
        return 2 * self.weights + 2.5 * self.attention

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.weights + other.weights, self.attention + other.attention)

    def __mul__(self, factor: float) -> Flops:
        return Flops(factor * self.weights, factor * self.attention)


@dataclass(frozen=True)
class Part:
    """A network: its parameters, how many of them are trained, and its FLOPs for one image of training."""

    name: str
    parameters: int
    trained: bool
    forward: float
    backward: float = 0.0
    recomputed: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU when it is fullest, at the end of a micro-batch's forward pass with gradients accumulated.

    copies: of the weights in bf16, which autocast keeps for the backward pass. activations: what autograd saves.
    workspace: of the autoencoder's encoder, which is gone when activations begin to be saved.
    """

    weights: float
    frozen: float
    gradients: float
    optimizer: float
    average: float
    copies: float
    activations: float
    workspace: float

    @property
    def total(self) -> float:
        """The larger of the two moments."""
        held = self.weights + self.frozen + self.gradients + self.optimizer + self.average
        return held + max(self.copies + self.activations, self.workspace)


@dataclass(frozen=True)
class Setup:
    """How a run is laid out.

    Args:
        gpu, gpus: on what it runs.
        utilisation: share of the peak that all the FLOPs counted here reach, recomputation included.
        micro_batch: images that a GPU has in one forward pass.
        sharded: FSDP2 (weights, gradients, optimizer and average divided by the GPUs) instead of DDP.
        checkpointing: blocks are computed again in the backward pass instead of keeping what they computed.
        cached: latents and teacher features come from the shards; only the LR photo is encoded.
        bf16: autocast, as on GPUs; else everything is fp32.
    """

    gpu: Gpu
    gpus: int = 1
    utilisation: float = 0.45
    micro_batch: int = 1
    sharded: bool = False
    checkpointing: bool = False
    cached: bool = False
    bf16: bool = True


@dataclass(frozen=True)
class Plan:
    """The answer. parts: FLOPs for one image. seconds, kilowatt_hours: of the whole run, GPUs at full board power."""

    setup: Setup
    images: int
    batch: int
    parts: list[Part]
    memory: Memory

    @property
    def flops_per_image(self) -> float:
        """Of training: forward, backward, recomputation, frozen networks."""
        return sum(part.forward + part.backward + part.recomputed for part in self.parts)

    @property
    def images_per_second(self) -> float:
        """Of all GPUs together."""
        return self.setup.gpus * self.setup.utilisation * self.setup.gpu.tflops * 1e12 / self.flops_per_image

    @property
    def seconds(self) -> float:
        """To the end of the schedule."""
        return self.images / self.images_per_second

    @property
    def kilowatt_hours(self) -> float:
        """GPU boards alone."""
        return self.seconds / 3600 * self.setup.gpus * self.setup.gpu.watts / 1000

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, with a margin."""
        return self.memory.total <= MEMORY_SHARE * self.setup.gpu.memory * 1e9


def make_plan(config: AnyTrainConfig, setup: Setup, micro_batch: int | None = None) -> Plan:
    """The cost of a run.

    Args:
        config: of a diffusion run without a stage through the sampler.
        setup: its layout.
        micro_batch: images in one forward pass; None for the most that fit, or 1 where none do.

    Raises:
        ConfigError: the task is another, a frozen network's configuration is not to be had, or the batch does not
            divide into GPUs and micro-batches.
    """
    networks = _Networks(_check(config))
    share = config.batch // setup.gpus
    if config.batch % setup.gpus or (micro_batch is not None and share % micro_batch):
        raise ConfigError(f"batch: {config.batch} does not divide into {setup.gpus} GPUs"
                          + (f" and micro-batches of {micro_batch}" if micro_batch else ""))
    sizes = [size for size in range(share, 0, -1) if share % size == 0] if micro_batch is None else [micro_batch]
    for size in sizes:
        setup = replace(setup, micro_batch=size)
        plan = Plan(setup, config.images, config.batch, networks.parts(setup), networks.memory(setup))
        if plan.fits:
            break
    return plan


def _check(config: AnyTrainConfig) -> DiffusionConfig:
    if not isinstance(config, DiffusionConfig):
        raise ConfigError(f"task: plan knows diffusion, not {config.task}")
    if config.sampler.weight:
        raise ConfigError("sampler.weight: plan does not count the stage through the sampler; set it to 0")
    return config


# ------------------------------------------------------------------------------------------------ closed forms


def block_flops(tokens: int, width: int, mlp_ratio: float = 4.0) -> Flops:
    """A transformer block: qkv and projection 8 N D^2, MLP 4 r N D^2, attention 4 N^2 D."""
    return Flops((8 + 4 * mlp_ratio) * tokens * width**2, 4 * tokens**2 * width)


def modulated_block_flops(tokens: int, width: int, mlp_ratio: float = 4.0) -> Flops:
    """With DiT's adaptive layer norm: 12 D^2 more, once for all tokens."""
    return block_flops(tokens, width, mlp_ratio) + Flops(12 * width**2)


def transformer_flops(config: Any, tokens: int) -> Flops:
    """JointDiT of this configuration on so many tokens: embeddings, blocks, final layer."""
    width, patch = config.width, config.patch_size**2
    embed = embed_flops(config, tokens)
    time = 2 * 256 * width + 2 * width**2
    final = 4 * width**2 + 2 * tokens * width * patch * config.out_channels
    return modulated_block_flops(tokens, width, config.mlp_ratio) * config.depth + Flops(embed + time + final)


def embed_flops(config: Any, tokens: int) -> float:
    """The map from patches to tokens."""
    return 2 * tokens * config.width * config.patch_size**2 * config.in_channels


def control_flops(config: Any, tokens: int) -> Flops:
    """ControlNet of this configuration: its embedding and its projection, blocks, a projection after each."""
    width = config.width
    embed = 2 * tokens * width * config.patch_size**2 * config.condition_channels
    project = Flops(2 * tokens * width**2)
    blocks = (modulated_block_flops(tokens, width, config.mlp_ratio) + project) * config.depth
    return blocks + project + Flops(embed)


def dinov2_flops(width: int, depth: int, tokens: int, patch: int = 14) -> Flops:
    """DINOv2 on `tokens` patches and a class token."""
    return block_flops(tokens + 1, width) * depth + Flops(2 * tokens * width * 3 * patch**2)


def dinov2_parameters(width: int, depth: int, patch: int = 14, size: int = 518) -> int:
    """Patch, class, mask and position embeddings; blocks with biases, layer norms and layer scales; the last norm."""
    embeddings = (3 * patch**2 + 1) * width + 2 * width + (1 + (size // patch) ** 2) * width
    return embeddings + depth * (12 * width**2 + 15 * width) + 2 * width


def autoencoder_flops(config: Any, height: int, width: int) -> Flops:
    """Encoding one picture of so many pixels, with an `AutoencoderKL` or a `BlockAutoencoder`."""
    if config["_class_name"] == "BlockAutoencoder":
        return Flops(sum(2 * inputs * outputs * kernel**2 * height * width / scale**2
                         for inputs, outputs, kernel, scale in _block_encoder_convolutions(config)))
    convolutions = sum(2 * inputs * outputs * kernel**2 * height * width / scale**2
                       for inputs, outputs, kernel, scale in _encoder_convolutions(config))
    top, scale = config["block_out_channels"][-1], 2 ** (len(config["block_out_channels"]) - 1)
    places = height * width / scale**2
    return Flops(convolutions + 8 * places * top**2, 4 * places**2 * top)  # the middle's attention has one head


def _encoder_convolutions(config: Any) -> Iterator[tuple[int, int, int, int]]:
    """Channels in, channels out, kernel, and downscaling of the output, for each convolution of AutoencoderKL."""
    channels, scale = config["block_out_channels"][0], 1
    yield 3, channels, 3, scale
    for level, width in enumerate(config["block_out_channels"]):
        for _ in range(config["layers_per_block"]):
            yield channels, width, 3, scale
            yield width, width, 3, scale
            if channels != width:
                yield channels, width, 1, scale
            channels = width
        if level < len(config["block_out_channels"]) - 1:
            scale *= 2
            yield width, width, 3, scale
    for _ in range(4):  # two residual blocks in the middle
        yield channels, channels, 3, scale
    moments = 2 * config["latent_channels"]
    yield channels, moments, 3, scale
    if config.get("use_quant_conv", True):
        yield moments, moments, 1, scale


def _block_encoder_convolutions(config: Any) -> Iterator[tuple[int, int, int, int]]:
    block, latent, refine = config["block_size"], config["latent_channels"], config["refine_channels"]
    yield 3, latent, block, block
    if refine:
        yield 3 * block**2, refine, 3, block
        yield refine, refine, 3, block
        yield refine, latent, 3, block


def restoration_flops(channels: int, blocks: int, pixels: float, scale: int = 4) -> Flops:
    """RestorationNetwork on so many LR pixels: head, residual blocks, tail."""
    return Flops(2 * 9 * pixels * (3 * channels + 2 * blocks * channels**2 + channels * 3 * scale**2))


def block_activations(tokens: int, width: int, mlp_ratio: float, bf16: bool) -> float:
    """Bytes that autograd keeps of a DiT block for one image.

    In tokens x width: input and output of both layer norms (fp32 under autocast) 4; their modulated outputs 2; q, k
    and v 3; attention 1; its projection 1; the MLP's two hidden layers 2 r; its output 1.
    """
    word, norm_word = (2, 4) if bf16 else (4, 4)
    return tokens * width * (4 * norm_word + (8 + 2 * mlp_ratio) * word)


# ---------------------------------------------------------------------------------------------- the networks


class _Networks:
    """The networks of a configuration, without memory, and what they cost."""

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.side = config.data.crop
        self.tokens = (self.side // (8 * config.transformer.patch_size)) ** 2
        autoencoder = read_config(config.autoencoder, AUTOENCODERS, "autoencoder")
        self.autoencoder_config = autoencoder
        self.restoration_config = config.restoration and read_config(config.restoration, {}, "restoration")
        self.teacher = None
        if config.alignment.teacher is not None and config.alignment.weight:
            self.teacher = _teacher_size(config.alignment.teacher)
        with torch.device("meta"):
            self.autoencoder = _build_autoencoder(autoencoder)
            self.transformer, self.control = _build_transformer(config, autoencoder["latent_channels"])
            self.projector = self.teacher and Projector(self.transformer.config.width, self.teacher[0])
            self.restoration = self.restoration_config and RestorationNetwork(
                self.restoration_config["channels"], self.restoration_config["blocks"])

    def parts(self, setup: Setup) -> list[Part]:
        """Every network with its FLOPs for one image."""
        parts = [*self._trained_parts(setup.checkpointing)]
        encoded = 1 if setup.cached else 3  # photo, instance map, LR photo
        encoding = autoencoder_flops(self.autoencoder_config, self.side, self.side) * encoded
        parts.append(Part("autoencoder", _count(self.autoencoder), False, encoding.forward))
        if self.restoration is not None:
            size = self.restoration_config
            flops = restoration_flops(size["channels"], size["blocks"], (self.side / 4) ** 2)
            parts.append(Part("restoration", _count(self.restoration), False, flops.forward))
        if self.teacher is not None:
            width, depth = self.teacher
            depth = self.config.alignment.teacher_layer or depth
            flops = dinov2_flops(width, depth, self.tokens) * (0 if setup.cached else self._aligned)
            parts.append(Part("teacher", dinov2_parameters(width, depth), False, flops.forward))
        return parts

    @property
    def _aligned(self) -> float:
        """Share of the images on which Eq. 5 is computed."""
        return self.config.alignment.until / self.config.alignment.every

    def _trained_parts(self, checkpointing: bool) -> Iterator[Part]:
        config, control = self.transformer.config, self.control.config
        block = modulated_block_flops(self.tokens, config.width, config.mlp_ratio)
        # Pictures need no gradient, so the first map has half a backward pass; each branch embeds the joint latent.
        embed = embed_flops(config, self.tokens)
        flops = transformer_flops(config, self.tokens)
        yield Part("backbone", _count(self.transformer), True, flops.forward + embed, flops.backward,
                   block.forward * config.depth * checkpointing)
        flops = control_flops(control, self.tokens)
        yield Part("control branch", _count(self.control), True, flops.forward, flops.backward,
                   block.forward * control.depth * checkpointing)
        if self.projector is not None:
            count = _count(self.projector)
            flops = Flops(2 * self.tokens * sum(p.numel() for p in self.projector.parameters() if p.ndim > 1))
            flops *= self._aligned
            yield Part("projector", count, True, flops.forward, flops.backward)

    def memory(self, setup: Setup) -> Memory:
        """On one GPU."""
        parts = self.parts(setup)
        trained = RECENT_WORD * sum(part.parameters for part in parts if part.trained)
        frozen = RECENT_WORD * sum(part.parameters for part in parts if not part.trained)
        shards = setup.gpus if setup.sharded else 1
        # DDP sends gradients in buckets of their own
        buckets = 2 if setup.gpus > 1 and not setup.sharded else 1
        copies = trained / 2 if setup.bf16 else 0.0
        if setup.sharded:  # whole only for the block at work and the next one
            copies = 2 * RECENT_WORD * _count(self.transformer.blocks[0])
        return Memory(trained / shards, frozen, buckets * trained / shards, 2 * trained / shards, trained / shards,
                      copies, setup.micro_batch * self._activations(setup),
                      setup.micro_batch * self._workspace())

    def _activations(self, setup: Setup) -> float:
        """Bytes for one image."""
        config, control = self.transformer.config, self.control.config
        word, stream = (2 if setup.bf16 else 4), self.tokens * config.width
        block = block_activations(self.tokens, config.width, config.mlp_ratio, setup.bf16)
        blocks = config.depth + control.depth
        kept = blocks * word * stream + block if setup.checkpointing else blocks * block
        final = 2 * 4 * stream + word * stream
        lengths = 2 * 4 * stream  # of Eq. 6: the tokens in fp32 and their squares
        return kept + final + lengths + self._aligned_activations(word)

    def _aligned_activations(self, word: int) -> float:
        """Of the projector, and of the cosine in fp32 of both sides."""
        if self.teacher is None or self.projector is None:
            return 0.0
        hidden = sum(layer.out_features for layer in self.projector if isinstance(layer, torch.nn.Linear))
        width = self.teacher[0]
        return self.tokens * (2 * (hidden - width) * word + 4 * 4 * width) / self.config.alignment.every

    def _workspace(self) -> float:
        """Bytes for one image of the encoder's first level, in whose residual blocks four feature maps live."""
        channels = self.autoencoder_config.get("block_out_channels", [0])[0]
        return 4 * RECENT_WORD * channels * self.side**2


def _build_transformer(config: DiffusionConfig, channels: int) -> tuple[JointDiT, ControlNet]:
    size = config.transformer
    transformer = JointDiT(2 * channels, 2 * channels, size.patch_size, size.width, size.depth, size.heads)
    return transformer, ControlNet.from_backbone(transformer, channels, size.control_depth)


def _build_autoencoder(config: dict[str, Any]) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    kind = BlockAutoencoder if config["_class_name"] == "BlockAutoencoder" else AutoencoderKL
    return kind.from_config(config)


def _teacher_size(name: str) -> tuple[int, int]:
    """Width and depth."""
    if name in DINOV2:
        return DINOV2[name]
    config = read_config(name, {}, "alignment.teacher")
    return config["hidden_size"], config["num_hidden_layers"]


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


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
