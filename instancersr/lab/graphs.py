"""A model's graphs for ONNX Runtime, which hold no weights: they point into its safetensors files.

ONNX keeps large tensors as (file, offset, length), and a safetensors file is raw little-endian tensors after a header:
so one copy of the weights serves torch and ONNX Runtime alike.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from ..geometry import SCALE
from ..model import GRAPHS, Model
from ..tensors import Stored, stored_tensors
from .method.diffusion import Denoiser, decode, decode_photo, encode_moments, restore, token_layer
from .method.models.restoration import enlarge
from .method.models.transformer import Attention

OPSET = 20
TYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16,
         "F8_E4M3": TensorProto.FLOAT8E4M3FN}
"""Of safetensors -> of ONNX."""


class Graph(nn.Module):
    """A method of an engine, to be traced: a call with the inputs' tensors gives the outputs' tensors.

    Sub-modules have the names of the model's parts, so that weights are called PART.NAME.

    inputs, outputs: name -> its axes of any length.
    """

    inputs: dict[str, dict[int, str]]
    outputs: dict[str, dict[int, str]]


BATCH = {0: "batch"}
PLANE = BATCH | {2: "height", 3: "width"}
TOKENS = BATCH | {1: "tokens"}


class Restore(Graph):
    inputs = {"y": PLANE}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.restoration = pipeline.restoration
        self.outputs = {"features": PLANE, "restored": PLANE} if self.restoration else {"restored": PLANE}

    def forward(self, y: Tensor) -> Any:
        features, restored = restore(self.restoration, y)
        return restored if features is None else (features, restored)


class Encode(Graph):
    inputs, outputs = {"pictures": PLANE}, {"latents": PLANE}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.autoencoder = pipeline.autoencoder

    def forward(self, pictures: Tensor) -> Tensor:
        return encode_moments(self.autoencoder, pictures)[0]


class Denoise(Graph):
    inputs = {"z_t": PLANE, "z_y": PLANE, "timestep": BATCH, "offset": BATCH}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.transformer, self.controlnet = map(_fuse_attention, (pipeline.transformer, pipeline.controlnet))
        self.scheduler = pipeline.scheduler
        self.layer = token_layer(pipeline.transformer, pipeline.detail_decoder)
        self.outputs = {"clean": PLANE, "tokens": TOKENS} if self.layer else {"clean": PLANE}

    def forward(self, z_t: Tensor, z_y: Tensor, timestep: Tensor, offset: Tensor) -> Any:
        denoiser = Denoiser(self.transformer, self.controlnet, self.scheduler)
        prediction = denoiser(z_t, z_y, timestep, offset, self.layer)
        return (prediction.clean, prediction.hidden) if self.layer else prediction.clean


class Decode(Graph):
    outputs = {"photo": PLANE}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.autoencoder, self.detail_decoder = pipeline.autoencoder, pipeline.detail_decoder
        self.inputs = {"z_x": PLANE}
        if self.detail_decoder is not None:
            self.inputs = self.inputs | {"features": PLANE}
            if self.detail_decoder.config.token_channels:
                self.inputs = self.inputs | {"tokens": TOKENS}

    def forward(self, z_x: Tensor, features: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        return decode_photo(self.autoencoder, self.detail_decoder, z_x, features, tokens)


class Finish(Graph):
    inputs, outputs = {"restored": PLANE, "features": PLANE}, {"photo": PLANE}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.detail_decoder = pipeline.detail_decoder

    def forward(self, restored: Tensor, features: Tensor) -> Tensor:
        return self.detail_decoder(restored, features)


class DecodeMap(Graph):
    inputs, outputs = {"z_m": PLANE}, {"map": PLANE}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.autoencoder = pipeline.autoencoder

    def forward(self, z_m: Tensor) -> Tensor:
        return decode(self.autoencoder, z_m)


class PairOdds(Graph):
    inputs, outputs = {"pairs": BATCH | {1: "others"}}, {"odds": BATCH | {1: "others"}}

    def __init__(self, pipeline: Any):
        super().__init__()
        self.map_decoder = pipeline.map_decoder

    def forward(self, pairs: Tensor) -> Tensor:
        return self.map_decoder(pairs)


KINDS = dict(zip(GRAPHS, (Restore, Encode, Denoise, Decode, Finish, DecodeMap, PairOdds), strict=True))


def write_graphs(folder: Path) -> None:
    """Writes the graphs of a saved pipeline into its folder.

    Raises:
        OSError: the folder holds no pipeline.
    """
    from .pipeline import InstanceRSRPipeline

    pipeline = InstanceRSRPipeline.from_pretrained(folder)
    examples = _examples(pipeline)
    weights = {f"{network.name}.{name}": stored for network in sorted(folder.iterdir()) if network.is_dir()
               for name, stored in stored_tensors(network).items()}
    needs = {"finish": pipeline.detail_decoder, "pair_odds": pipeline.map_decoder}
    for name, kind in KINDS.items():
        if needs.get(name, True) is not None:
            graph = kind(pipeline)
            model = _trace(graph, tuple(examples[each] for each in graph.inputs))
            _point_into_files(model, graph, weights, folder)
            Model(folder).graph(name).write_bytes(model.SerializeToString())


def _examples(pipeline: Any) -> dict[str, Tensor]:
    """An input of each name, for a photo of 32x48; batch, height and width all differ, as nothing may be fixed."""
    transformer, detail = pipeline.transformer.config, pipeline.detail_decoder
    channels, grid = transformer.in_channels // 2, (16, 24)
    return {
        "y": torch.rand(3, 3, 32, 48), "pictures": torch.rand(3, 3, 128, 192), "restored": torch.rand(3, 3, 128, 192),
        "z_t": torch.randn(3, 2 * channels, *grid), "z_y": torch.randn(3, channels, *grid),
        "z_x": torch.randn(3, channels, *grid), "z_m": torch.randn(3, channels, *grid),
        "timestep": torch.full((3,), 500), "offset": torch.zeros(3, 2, dtype=torch.int64),
        "features": torch.randn(3, detail.config.feature_channels if detail else 1, 32, 48),
        "tokens": torch.randn(3, 8 * 12, transformer.width),
        "pairs": torch.randn(5, 5, pipeline.map_decoder.config.features if pipeline.map_decoder else 1)}


@symbolic_helper.parse_args("v", "i")
def _pixel_unshuffle(graph: Any, x: Any, factor: int) -> Any:
    """Of an RGB picture: torch's exporter would fix its size. ONNX has the pixel before the channel, torch after it."""
    blocks = graph.op("SpaceToDepth", x, blocksize_i=factor)
    order = torch.arange(3 * factor**2).view(factor**2, 3).T.flatten()
    return graph.op("Gather", blocks, graph.op("Constant", value_t=order), axis_i=1)


def _bicubic(graph: Any, x: Any, *_: Any) -> Any:
    """The enlargement of an RGB picture by SCALE, as a convolution and a shuffle: ONNX Runtime's own takes thirty times
    as long. It is linear, so its answer to single pixels, edges repeated, is its kernel.
    """
    reach = 2  # pixels that count on either side
    impulse = torch.zeros(1, 1, 4 * reach + 1, 4 * reach + 1)
    impulse[..., 2 * reach, 2 * reach] = 1
    answer = F.pixel_unshuffle(enlarge(impulse, SCALE), SCALE)[0, :, reach:-reach, reach:-reach]  # (16, 5, 5)
    kernel = answer.flip(1, 2)[:, None].repeat(3, 1, 1, 1)
    edge = graph.op("Constant", value_t=torch.tensor([0, 0, reach, reach] * 2))
    padded = graph.op("Pad", x, edge, mode_s="edge")
    phases = graph.op("Conv", padded, graph.op("Constant", value_t=kernel), group_i=3)
    return graph.op("DepthToSpace", phases, blocksize_i=SCALE, mode_s="CRD")


class _Attend(torch.autograd.Function):
    """Attention as ONNX Runtime's fused operator: it never holds the whole matrix of weights."""

    @staticmethod
    def forward(_: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        parts = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, q: Any, k: Any, v: Any, heads: int) -> Any:
        return graph.op("com.microsoft::MultiHeadAttention", q, k, v, num_heads_i=heads).setType(q.type())


class _FusedAttention(nn.Module):
    """The same function as `Attention`, with its weights."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads, self.qkv, self.proj = attention.heads, attention.qkv, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_Attend.apply(*self.qkv(x).chunk(3, 2), self.heads))


def _fuse_attention(network: nn.Module) -> nn.Module:
    for block in network.blocks:
        block.attn = _FusedAttention(block.attn)
    return network


@torch.no_grad()
def _trace(graph: Graph, inputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    """The graph, whose weights are inputs: a file that held them could not be larger than 2 GiB, protobuf's limit.

    Without folding they keep their names.
    """
    buffer = io.BytesIO()
    torch.onnx.register_custom_op_symbolic("aten::pixel_unshuffle", _pixel_unshuffle, OPSET)
    torch.onnx.register_custom_op_symbolic("aten::upsample_bicubic2d", _bicubic, OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, and of constants that the trace is right about
        torch.onnx.export(graph.eval(), inputs, buffer, input_names=list(graph.inputs),
                          output_names=list(graph.outputs), dynamic_axes=graph.inputs | graph.outputs,
                          opset_version=OPSET, do_constant_folding=False, dynamo=False, export_params=False)
    return onnx.load_from_string(buffer.getvalue())


def _point_into_files(model: onnx.ModelProto, graph: Graph, stored: dict[str, Stored], folder: Path) -> None:
    """Makes the weights constants that lie in files of the folder, as the graph will; what no file has, it holds.

    What is not float32 is cast where it comes in.
    """
    held, casts = dict(graph.named_buffers()) | dict(graph.named_parameters()), []
    weights = [each.name for each in model.graph.input if each.name not in graph.inputs]
    for name in weights:
        if name in stored:
            model.graph.initializer.append(_external(name, stored[name], held[name], folder))
            if stored[name].dtype != "F32":
                casts.append(name)
        else:
            model.graph.initializer.append(numpy_helper.from_array(held[name].detach().numpy(), name))
    for each in [each for each in model.graph.input if each.name in weights]:
        model.graph.input.remove(each)
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            if name in casts:
                node.input[number] = f"{name}.float"
    for name in casts:
        model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT))


def _external(name: str, stored: Stored, value: Tensor, folder: Path) -> onnx.TensorProto:
    """A constant that lies in a file. value: what was traced."""
    assert list(value.shape) == stored.shape, f"{name}: {list(value.shape)}, stored as {stored.shape}"
    tensor = onnx.TensorProto(name=name, dims=stored.shape, data_type=TYPES[stored.dtype],
                              data_location=TensorProto.EXTERNAL)
    file = stored.file.relative_to(folder).as_posix()
    for key, place in (("location", file), ("offset", stored.offset), ("length", stored.length)):
        tensor.external_data.add(key=key, value=str(place))
    return tensor
