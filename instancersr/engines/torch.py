"""The engine on torch: for models of the lab, in any precision, and for GPUs."""

from __future__ import annotations

from copy import copy, deepcopy
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..denoising import GRAIN_PARTS, MIXTURES
from ..errors import is_out_of_memory
from ..lab.method.diffusion import Denoiser, decode, decode_photo, encode_moments, restore, token_layer

if TYPE_CHECKING:
    from ..lab.pipeline import InstanceRSRPipeline


class TorchEngine:
    """See `Engine`. Networks compute in their own precision, the sampler's arithmetic in float32.

    Args:
        pipeline: whose networks, scheduler and device are used, as they are now.
    """

    name = "torch"

    def __init__(self, pipeline: InstanceRSRPipeline):
        self._parts: Any = pipeline
        self._denoiser = Denoiser(pipeline.transformer, pipeline.controlnet, pipeline.scheduler)
        self._token_layer = token_layer(pipeline.transformer, pipeline.detail_decoder)
        config = pipeline.transformer.config
        self._device = pipeline.device
        self.device = str(pipeline.device)
        self.precision = str(pipeline.transformer.dtype).removeprefix("torch.")
        self.latent_channels = config.in_channels // 2
        self.spread_positions = config.base_grid is not None
        self.finishes = pipeline.detail_decoder is not None
        self.pair_features = 0 if pipeline.map_decoder is None else pipeline.map_decoder.config.features
        self.denoises = pipeline.denoises
        self._mixtures = lru_cache(MIXTURES)(self._mixture)

    def denoising(self, denoise):
        return self._mixtures(denoise)

    def _mixture(self, denoise: float) -> TorchEngine:
        parts = self._parts.components
        mixed = {part: _mixed(parts[part], parts[grain], denoise)
                 for part, grain in GRAIN_PARTS.items() if parts[grain] is not None}
        mixture = copy(self)
        mixture._parts = SimpleNamespace(**(parts | mixed))
        return mixture

    def restore(self, y):
        network = self._parts.restoration
        return self._call(lambda y: restore(network, y), network, y)

    def encode(self, pictures):
        autoencoder = self._parts.autoencoder
        return self._call(lambda pictures: encode_moments(autoencoder, pictures)[0], autoencoder, pictures)

    def denoise(self, z_t, z_y, timestep, offset):
        def evaluate(z_t: Tensor, z_y: Tensor) -> tuple[Tensor, Tensor | None]:
            times = torch.full((len(z_t),), timestep, device=self._device)
            offsets = torch.tensor([offset] * len(z_t), device=self._device)
            prediction = self._denoiser(z_t, z_y, times, offsets, self._token_layer)
            return prediction.clean, prediction.hidden

        return self._call(evaluate, None, z_t, z_y)

    def decode(self, z_x, features, tokens):
        autoencoder, detail = self._parts.autoencoder, self._parts.detail_decoder
        return self._call(lambda *each: decode_photo(autoencoder, detail, *each), autoencoder, z_x, features, tokens)

    def finish(self, restored, features):
        detail = self._parts.detail_decoder
        return self._call(detail, detail, restored, features)

    def decode_map(self, z_m):
        autoencoder = self._parts.autoencoder
        return self._call(lambda z_m: decode(autoencoder, z_m), autoencoder, z_m)

    def pair_odds(self, pairs):
        decoder = self._parts.map_decoder.float()  # its features span many orders of magnitude
        return self._call(decoder, decoder, pairs)

    @torch.no_grad()
    def _call(self, function: Any, network: nn.Module | None, *inputs: np.ndarray | None) -> Any:
        """What the function says of the arrays, as arrays; they come in the network's precision, or in float32."""
        dtype = torch.float32 if network is None else next(network.parameters()).dtype
        try:
            out = function(*(None if each is None else torch.from_numpy(np.ascontiguousarray(each))
                             .to(self._device, dtype) for each in inputs))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(f"not enough memory on {self.device}") from error
        except RuntimeError as error:  # the CPU's allocator has no exception of its own
            if is_out_of_memory(error):
                raise MemoryError("not enough memory") from error
            raise
        return tuple(map(_array, out)) if isinstance(out, tuple) else _array(out)


def _mixed(own: nn.Module, grain: nn.Module, share: float) -> nn.Module:
    """The network whose weights are grain + share (own - grain)."""
    mixed, weights = deepcopy(own), grain.state_dict()
    mixed.load_state_dict({name: torch.lerp(weights[name], weight, share) for name, weight in own.state_dict().items()})
    return mixed


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.float().cpu().numpy()
