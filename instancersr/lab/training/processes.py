"""One process or many: `accelerate launch` or `torchrun` start them, `accelerate` finds them, torch joins them.

Everything that differs between one process and many is here. `accelerate.Accelerator` itself wraps no model in FSDP2 on
CPUs, where the tests run, so wrapping is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from instancersr.errors import MissingPackage

from .config import ConfigError
from .randomness import Draws
from .stages import Batch, Objective


def choose_device(name: str) -> torch.device:
    """"auto" is CUDA, else Apple's GPU, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class Terms(nn.Module):
    """An objective's loss terms as a module's forward pass, which is where DDP and FSDP2 hook in."""

    def __init__(self, objective: Objective, model: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, draws: Draws, progress: float) -> dict[str, Tensor]:
        """See `Objective.terms`."""
        return self.objective.terms(self.model, batch, draws, progress)


class Processes:
    """The processes of a run, this one among them.

    Args:
        device: `auto`, or a torch device.

    Raises:
        MissingPackage: accelerate is not installed.
        ConfigError: the device is not there.
    """

    def __init__(self, device: str):
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise MissingPackage(error, "train") from error
        chosen = choose_device(device)
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device: {device}, but torch sees no CUDA device here")
        self._state = PartialState(cpu=chosen.type == "cpu")
        self.count, self.number = self._state.num_processes, self._state.process_index
        self.device = self._state.device if self.count > 1 else chosen
        self.is_main = self._state.is_main_process

    def wait(self) -> None:
        """Until all processes have come here."""
        self._state.wait_for_everyone()

    @contextmanager
    def together(self) -> Iterator[None]:
        """The run of all processes, who leave their group at its end, or when a signal ends it.

        Whoever does not leave may be aborted while Python ends, by a thread of gloo that still holds the tensors of the
        last collective (github.com/pytorch/pytorch/pull/179291); the busier the machine, the likelier. After an error
        nobody leaves: the others may be in a collective, and leaving would wait for them.
        """
        try:
            yield
        except KeyboardInterrupt:
            self._state.destroy_process_group()
            raise
        self._state.destroy_process_group()

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over all processes of scalars, which have the same names everywhere."""
        if self.count == 1 or not values:
            return dict(values)
        together = torch.stack([value.detach().float().to(self.device) for value in values.values()])
        dist.all_reduce(together)
        return dict(zip(values, (together / self.count).unbind(), strict=True))

    # ------------------------------------------------------------------------------------- the model

    def wrap(self, terms: Terms, sharded: bool, precision: torch.dtype) -> nn.Module:
        """What computes the terms in every process and adds up the gradients.

        Args:
            sharded: FSDP2 instead of DDP. Where nothing is trained there is neither.
            precision: of the weights that FSDP2 sends around.
        """
        if self.count == 1 or not any(p.requires_grad for p in terms.parameters()):
            return terms
        if sharded:
            return shard(terms, self.device, precision)
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            terms, device_ids=devices, gradient_as_bucket_view=True,
            find_unused_parameters=terms.objective.skips_parameters)


def shard(terms: Terms, device: torch.device, precision: torch.dtype = torch.float32) -> nn.Module:
    """Divides the parameters among the processes, in place: each transformer block by itself, then all the rest.

    Only inside the forward pass of `terms` are they whole.
    """
    try:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    except ImportError as error:
        raise ConfigError(f"sharded: FSDP2 needs torch 2.6 or newer, this is {torch.__version__}") from error
    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in terms.model.children():
        for block in transformer_blocks(part):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(terms, mesh=mesh)


def transformer_blocks(part: nn.Module) -> list[nn.Module]:
    """A transformer's blocks, none of another network, whose `blocks` is a number of its configuration."""
    blocks = getattr(part, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


@contextmanager
def gradient_sync(wrapped: nn.Module, last: bool) -> Iterator[None]:
    """Gradients of a step's parts stay in each process until its last part."""
    if isinstance(wrapped, nn.parallel.DistributedDataParallel) and not last:
        with wrapped.no_sync():
            yield
        return
    if hasattr(wrapped, "set_requires_gradient_sync"):
        wrapped.set_requires_gradient_sync(last)
    yield


def local_parameters(model: nn.Module) -> list[Tensor]:
    """This process' part of each parameter: all of it, unless it is sharded."""
    return [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole model's tensors, on the CPU, in the main process; nothing in the others. All must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
