"""`instancersr plan`: what a training run costs, before it is begun: FLOPs, memory, images/s, days, energy.

Parameters and FLOPs are counted on the real networks, which run on torch's meta device, without memory: see
`flops.py`. Memory is in closed forms. Shapes: N tokens, D width, H x W pixels of an HR crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from instancersr.errors import UserError

from ..data.sources import DataError
from ..data.stream import stored_shapes
from ..training.config import AnyTrainConfig, ConfigError, DiffusionConfig
from .flops import Networks, count_parameters

MEMORY_SHARE = 0.9
"""Of a GPU's memory that a plan fills; the rest is for CUDA's context, libraries and fragmentation."""
WORD = 4
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
    Gpu("L40S", 362, 48, 350, "NVIDIA L40S data sheet, without sparsity"),
    Gpu("RTX4090", 165.2, 24, 450, "NVIDIA Ada GPU architecture white paper, fp32 accumulation"),
    Gpu("RTX3090", 71, 24, 350, "NVIDIA Ampere GA102 GPU architecture white paper, fp32 accumulation"),
)}

SAMPLES_PER_CORE = {"stored": 33.9, "computed": 20.9}
"""Training samples of 512 x 512 that one core makes in a second, of stored latents or not: `benchmarks/samples.py`."""


@dataclass(frozen=True)
class Part:
    """A network: its parameters, how many of them are trained, and its FLOPs for one image of training."""

    name: str
    parameters: int
    trained: int
    forward: float
    backward: float = 0.0
    recomputed: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU when it is fullest, at the end of a micro-batch's forward pass with gradients accumulated.

    copies: of the weights in bf16, which autocast keeps for the backward pass. activations: what autograd saves.
    scratch: the largest matrix's new gradient, before it is added. workspace: of the autoencoder's encoder, which is
    gone when activations begin to be saved.
    """

    weights: float
    frozen: float
    gradients: float
    optimizer: float
    average: float
    copies: float
    activations: float
    scratch: float
    workspace: float

    @property
    def total(self) -> float:
        """The larger of the two moments."""
        held = self.weights + self.frozen + self.gradients + self.optimizer + self.average
        return held + max(self.copies + self.activations + self.scratch, self.workspace)


@dataclass(frozen=True)
class Setup:
    """How a run is laid out.

    Args:
        gpu, gpus: on what it runs.
        utilisation: share of the peak that all the FLOPs counted here reach, recomputation included.
        micro_batch: images that a GPU has in one forward pass.
        sharded: FSDP2 (weights, gradients, optimizer and average divided by the GPUs) instead of DDP.
        checkpointing: blocks are computed again in the backward pass instead of keeping what they computed.
        cached_latents: those of photo and map come from the shards; only the LR photo is encoded.
        cached_teacher: its features come from the shards.
        bf16: autocast, as on GPUs; else everything is fp32.
    """

    gpu: Gpu
    gpus: int = 1
    utilisation: float = 0.45
    micro_batch: int = 1
    sharded: bool = False
    checkpointing: bool = False
    cached_latents: bool = False
    cached_teacher: bool = False
    bf16: bool = True


@dataclass(frozen=True)
class Plan:
    """The answer. parts: FLOPs for one image. seconds, kilowatt_hours: of the whole run, GPUs at full board power."""

    setup: Setup
    images: int
    batch: int
    parts: list[Part]
    memory: Memory
    crop: int

    @property
    def flops_per_image(self) -> float:
        """Of training: forward, backward, recomputation, frozen networks."""
        return sum(part.forward + part.backward + part.recomputed for part in self.parts)

    @property
    def images_per_second(self) -> float:
        """Of all GPUs together."""
        return self.setup.gpus * self.setup.utilisation * self.setup.gpu.tflops * 1e12 / self.flops_per_image

    @property
    def cores_per_gpu(self) -> float:
        """CPU cores that make the samples which a GPU trains on."""
        made = SAMPLES_PER_CORE["stored" if self.setup.cached_latents else "computed"] * (512 / self.crop) ** 2
        return self.images_per_second / self.setup.gpus / made

    @property
    def seconds(self) -> float:
        """To the end of the schedule."""
        return self.images / self.images_per_second

    @property
    def kilowatt_hours(self) -> float:
        """GPU boards alone."""
        return self.seconds / 3600 * self.setup.gpus * self.setup.gpu.watts / 1000

    @property
    def bandwidth(self) -> float:
        """Bytes/s that each GPU must send for the ring all-reduce of gradients to take no longer than a step."""
        gpus = self.setup.gpus
        sent = 2 * (gpus - 1) / gpus * WORD * sum(part.trained for part in self.parts)
        return sent * self.images_per_second / self.batch

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
    networks = Costs(_check(config))
    share = config.batch // setup.gpus
    if config.batch % setup.gpus or (micro_batch is not None and share % micro_batch):
        raise ConfigError(f"batch: {config.batch} does not divide into {setup.gpus} GPUs"
                          + (f" and micro-batches of {micro_batch}" if micro_batch else ""))
    sizes = [size for size in range(share, 0, -1) if share % size == 0] if micro_batch is None else [micro_batch]
    for size in sizes:
        setup = replace(setup, micro_batch=size)
        memory = networks.memory(setup, share)
        plan = Plan(setup, config.images, config.batch, networks.parts(setup), memory, config.data.crop)
        if plan.fits:
            break
    return plan


def _check(config: AnyTrainConfig) -> DiffusionConfig:
    if not isinstance(config, DiffusionConfig):
        raise ConfigError(f"task: plan knows diffusion, not {config.task}")
    if config.sampler.weight:
        raise ConfigError("sampler.weight: plan does not count the stage through the sampler; set it to 0")
    return config


def setup_of(config: AnyTrainConfig, gpu: Gpu, gpus: int, utilisation: float) -> Setup:
    """The layout that the configuration says: sharded, checkpointing, and what is stored in its shards.

    Where `data.stored` is set but the shards are not there yet, they are taken to have latents alone.
    """
    stored: dict = {}
    if config.data.stored:
        try:
            stored = stored_shapes(config.data.photos)
        except DataError:
            stored = {"latent": ()}
    checkpointing = isinstance(config, DiffusionConfig) and config.gradient_checkpointing
    return Setup(gpu, gpus, utilisation, 1, config.sharded, checkpointing, "latent" in stored, "teacher" in stored)


def find_gpu(name: str) -> Gpu:
    """By its name, whatever the case.

    Raises:
        UserError: it is not known.
    """
    for gpu in GPUS.values():
        if gpu.name.lower() == name.lower():
            return gpu
    raise UserError(f"--gpu: {name} is unknown; use {', '.join(GPUS)}")


# --------------------------------------------------------------------------------------------------- memory


def encoder_workspace(config: Any, height: int, width: int) -> float:
    """Bytes for one picture in AutoencoderKL's first level, where five feature maps live; next to none in ours."""
    return 5 * WORD * config.get("block_out_channels", [0])[0] * height * width


def block_activations(tokens: int, width: int, mlp_ratio: float, bf16: bool) -> float:
    """Bytes that autograd keeps of a DiT block for one image.

    In tokens x width: input and output of both layer norms (fp32 under autocast) 4; their modulated outputs 2; q, k
    and v 3; attention 1; its projection 1; the MLP's two hidden layers 2 r; its output 1.
    """
    word, norm_word = (2, 4) if bf16 else (4, 4)
    return tokens * width * (4 * norm_word + (8 + 2 * mlp_ratio) * word)


class Costs:
    """What the networks of a configuration cost."""

    def __init__(self, config: DiffusionConfig):
        self.config = config
        self.networks = Networks(config)

    @cached_property
    def _counted(self) -> dict[str, tuple[float, float, float]]:
        return self.networks.count()

    def parts(self, setup: Setup) -> list[Part]:
        """Every network with its FLOPs for one image."""
        return [*self._trained_parts(setup.checkpointing), *self._frozen_parts(setup)]

    def _trained_parts(self, checkpointing: bool) -> Iterator[Part]:
        networks = self.networks
        for name, network in (("backbone", networks.transformer), ("control branch", networks.control),
                              ("projector", networks.projector)):
            if network is not None:
                share = networks.aligned if name == "projector" else 1.0
                forward, backward, blocks = (share * flops for flops in self._counted[name])
                trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
                yield Part(name, count_parameters(network), trained, forward, backward, blocks * checkpointing)

    def _frozen_parts(self, setup: Setup) -> Iterator[Part]:
        networks = self.networks
        encoded = 1 if setup.cached_latents else 3  # photo, instance map, LR photo
        shares = {"autoencoder": float(encoded), "restoration": 1.0, "teacher": networks.aligned}
        for name, share in shares.items():
            network = getattr(networks, name)
            if network is not None and not (name == "teacher" and setup.cached_teacher):
                yield Part(name, count_parameters(network), 0, share * self._counted[name][0])

    def memory(self, setup: Setup, share: int) -> Memory:
        """On one GPU, for a step of so many images on each."""
        parts = self.parts(setup)
        trained = WORD * sum(part.trained for part in parts)
        held = WORD * sum(part.parameters - part.trained for part in parts)
        shards = setup.gpus if setup.sharded else 1
        # DDP sends gradients in buckets of their own; FSDP2 keeps those of a step's parts whole until the last
        buckets = 2 if setup.gpus > 1 and not setup.sharded else 1
        gradients = trained if setup.sharded and setup.micro_batch < share else buckets * trained / shards
        copies = trained / 2 if setup.bf16 else 0.0
        networks = [network for network in (self.networks.transformer, self.networks.control, self.networks.projector)
                    if network is not None]
        if setup.sharded:  # whole only for the block at work and the next one
            copies = 2 * WORD * count_parameters(self.networks.transformer.blocks[0])
        scratch = WORD * max(p.numel() for network in networks for p in network.parameters())
        average = WORD * sum(map(count_parameters, networks))  # of all that is saved, trained or not
        return Memory(trained / shards, held, gradients, 2 * trained / shards, average / shards, copies,
                      setup.micro_batch * self._activations(setup), scratch, setup.micro_batch * self._workspace())

    def _activations(self, setup: Setup) -> float:
        """Bytes for one image."""
        config, control, tokens = self.networks.transformer.config, self.networks.control.config, self.networks.tokens
        word, stream = (2 if setup.bf16 else 4), tokens * config.width
        block = block_activations(tokens, config.width, config.mlp_ratio, setup.bf16)
        blocks = config.depth + control.depth
        kept = blocks * word * stream + block if setup.checkpointing else blocks * block
        final = 2 * 4 * stream + word * stream
        lengths = 2 * 4 * stream  # of Eq. 6: the tokens in fp32 and their squares
        return kept + final + lengths + self._aligned_activations(word)

    def _aligned_activations(self, word: int) -> float:
        """Of the projector, and of the cosine in fp32 of both sides."""
        projector, width = self.networks.projector, self.networks.teacher_width
        if projector is None:
            return 0.0
        hidden = sum(layer.weight.shape[0] for layer in projector.modules()
                     if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)))
        return self.networks.tokens * (2 * (hidden - width) * word + 4 * 4 * width) / self.config.alignment.every

    def _workspace(self) -> float:
        """Bytes for one image of what encodes it."""
        side = self.config.data.crop
        return encoder_workspace(self.networks.autoencoder.config, side, side)
