"""Trains the network that sees borders of objects (`instancersr/instances/borders.onnx`), and prints how well it does.

    python benchmarks/fit_borders.py --photos ../shared/photos --teacher facebook/dinov2-small

A small U-Net looks at photos of half their size. For every cell of 4 x 4 pixels it learns from their masks whether a
border runs there, and an embedding: the squared distance of two cells' is little where both are of one mask. It has a
head for each kind of mask, drawn by people (BSDS) and found by a program. In its middle it learns DINOv2's features, as
the transformer does by Eq. 5 of the paper: without them it knows less of objects. The masks of COCO's photos are left
out: the map decoder is fitted to them, and would trust too much what the network has learned by heart. Shown: the
average precision of borders and the area under the curve (ROC) of pairs, on photos that were not trained on. The
shipped one took 18 minutes on two cores. Then the map decoder is to be fitted anew (configs/compact/9_map.yaml).
"""

import argparse
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms.functional import gaussian_blur

from instancersr.geometry import TOKEN
from instancersr.instances.annotations import id_map_from_annotations
from instancersr.instances.borders import HALF, NETWORK
from instancersr.instances.overlap import borders
from instancersr.instances.regions import CELL
from instancersr.lab.data.sources import find_sources, is_held_out, read_source
from instancersr.lab.method.models.teachers import Dinov2Teacher

HUMAN, UNKNOWN = "bsds_", "coco_"
"""Keys of photos with masks drawn by people, and of those whose masks are left out; all others are of the second
kind."""
KINDS = ("human", "program")
WIDTHS = (24, 48, 96, 128, 160)
"""Channels at a cell's size, and at each half of the resolution below."""
EMBEDDING = 12
TOKEN_LEVEL = 1
"""On the way up, counted from 0, the one of a token's resolution."""
TOKEN_CELLS, COMPONENTS = TOKEN // CELL, 64
"""Cells along the side of a token of DINOv2's, and how many principal components of it are learned."""
PAIR_SHARE, TOKEN_SHARE = 0.5, 0.7
"""Of the losses of pairs and of tokens; that of borders has 1."""
SIDE, BATCH, RATE, DECAY, WARM_UP = 96, 16, 2e-3, 0.05, 0.06
"""Of the crops in cells, and of training."""
PAIRS, NEAR = 768, 20
"""Pairs of cells of a crop; half of them lie within so many rows and columns of each other."""
BORDER_WEIGHT = 2.0
"""Of cells with a border, which are fewer than those without."""
HUMAN_WEIGHT, UNKNOWN_WEIGHT = 1.5, 2.0
"""How often photos of these kinds come."""
LONGEST = 1024
"""Photos with a longer side are shrunk."""
ZOOM, GAIN, SHIFT, TINT, NOISE = 1.5, 0.3, 0.15, 0.04, 0.012
"""How far a crop's size, contrast, brightness, colours and noise vary."""
BLURS = (0.0, 0.0, 0.5, 0.8, 1.2, 1.6)
"""In pixels of the halved photo: what is restored is not as sharp as a photo."""
SMALL = 1000
"""Numbers; smaller weights stay in single precision."""


@dataclass
class Example:
    """A photo of half the size (2h, 2w, 3) uint8, the ids of its cells (h, w), its kind of masks, and its tokens
    (h / 4, w / 4, D).
    """

    half: np.ndarray
    ids: np.ndarray
    kind: int
    tokens: np.ndarray


class Crop(NamedTuple):
    """Pixels (3, 2s, 2s) in about [-.5, .5], borders and where they are known (s, s), the kind, and pairs of cells:
    their numbers (2, P), whether they are of one mask, and whether that is known (P,); tokens (COMPONENTS, s/4, s/4).
    """

    pixels: Tensor
    borders: Tensor
    known: Tensor
    kind: Tensor
    pairs: Tensor
    same: Tensor
    counts: Tensor
    tokens: Tensor


class BorderNetwork(nn.Module):
    """(N, 3, 2h, 2w) in [-.5, .5], h and w multiples of 16 -> logits of borders (N, K, h, w), embeddings
    (N, K, EMBEDDING, h, w), for each kind of mask, and tokens (N, COMPONENTS, h / 4, w / 4).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_layer(3, WIDTHS[0], 5, HALF), _layer(WIDTHS[0], WIDTHS[0]))
        steps = list(zip(WIDTHS, WIDTHS[1:], strict=False))
        self.down = nn.ModuleList(nn.Sequential(_layer(a, b, 3, 2), _layer(b, b)) for a, b in steps)
        self.middle = nn.Sequential(*(_layer(WIDTHS[-1], WIDTHS[-1]) for _ in range(2)))
        self.up = nn.ModuleList(nn.Sequential(_layer(a + b, a), _layer(a, a)) for a, b in reversed(steps))
        self.head = nn.Conv2d(WIDTHS[0], len(KINDS) + EMBEDDING, 1)
        width = steps[::-1][TOKEN_LEVEL][0]
        self.tokens = nn.Sequential(_layer(width, width), nn.Conv2d(width, COMPONENTS, 1))
        self.axes = nn.Parameter(torch.zeros(len(KINDS), EMBEDDING))
        self.offset = nn.Parameter(torch.ones(len(KINDS)))

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = [self.stem(photos)]
        for layer in self.down:
            seen.append(layer(seen[-1]))
        found, levels = self.middle(seen.pop()), []
        for layer in self.up:
            skipped = seen.pop()
            found = F.interpolate(found, size=skipped.shape[2:], mode="bilinear", align_corners=False)
            found = layer(torch.cat((found, skipped), 1))
            levels.append(found)
        tokens = self.tokens(levels[TOKEN_LEVEL]).float()
        logits, embeddings = self.head(found).float().split([len(KINDS), EMBEDDING], 1)
        return logits, embeddings[:, None] * F.softplus(self.axes)[:, :, None, None].sqrt(), tokens

    def pair_logits(self, embeddings: Tensor, crops: Crop) -> Tensor:
        """(N, P): that the crops' pairs of cells are of one mask."""
        own = embeddings[torch.arange(len(crops.kind)), crops.kind].flatten(2)  # (N, EMBEDDING, cells)
        a, b = (own.gather(2, cells[:, None].expand(-1, EMBEDDING, -1)) for cells in crops.pairs.unbind(1))
        return self.offset[crops.kind][:, None] - (a - b).square().sum(1)


class Seer(nn.Module):
    """(H, W, 3) in [0, 1] -> borders (K, H / 4, W / 4) in [0, 1] and embeddings (K, EMBEDDING, H / 4, W / 4)."""

    def __init__(self, network: BorderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        half = F.avg_pool2d(photo.permute(2, 0, 1)[None] - 0.5, HALF)
        found, embeddings, _ = self.network(half)
        return found[0].sigmoid(), embeddings[0]


def _layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def read_examples(photos: str, teacher: Dinov2Teacher, held_out: bool) -> list[Example]:
    """Those with masks, with the teacher's own tokens."""
    examples = []
    for source in find_sources(photos):
        for key, encoded, annotations in read_source(source):
            if annotations is None or is_held_out(key) != held_out:
                continue
            photo = Image.open(io.BytesIO(encoded)).convert("RGB")
            ids = id_map_from_annotations(annotations) * (not key.startswith(UNKNOWN))
            shrink = max(1, max(photo.size) / LONGEST)
            rows, columns = (int(side / shrink) // TOKEN * TOKEN for side in ids.shape)
            if min(rows, columns) < SIDE * CELL // 2:
                continue
            box = (0, 0, columns * shrink, rows * shrink)
            half = photo.resize((columns // HALF, rows // HALF), Image.Resampling.BOX, box)
            middles = [((np.arange(side // CELL) + 0.5) * CELL * shrink).astype(int) for side in (rows, columns)]
            whole = np.asarray(photo.resize((columns, rows), Image.Resampling.LANCZOS, box))
            grid = rows // TOKEN, columns // TOKEN
            tokens = teacher(torch.from_numpy(whole.copy()).permute(2, 0, 1)[None].float() / 255, grid)[0]
            examples.append(Example(np.asarray(half), ids[np.ix_(*middles)], int(not key.startswith(HUMAN)),
                                    tokens.unflatten(0, grid).half().numpy()))
    return examples


def keep_components(examples: list[Example], components: PCA | None = None) -> PCA:
    """Replaces tokens by their principal components, of these examples if none are given."""
    if components is None:
        some = np.concatenate([example.tokens.reshape(-1, example.tokens.shape[-1])[::16] for example in examples])
        components = PCA(COMPONENTS, random_state=0).fit(some.astype(np.float32))
    for example in examples:
        flat = example.tokens.reshape(-1, example.tokens.shape[-1]).astype(np.float32)
        tokens = components.transform(flat)
        example.tokens = tokens.reshape(*example.tokens.shape[:2], COMPONENTS).astype(np.float32)
    return components


class Crops(IterableDataset):
    """Without end, or so many, cut and varied anew; large photos come more often, and those of people's masks."""

    def __init__(self, examples: list[Example], count: int | None = None):
        self.examples, self.count = examples, count
        weights = np.array([np.sqrt(each.ids.size) * _weight(each) for each in examples])
        self.chances = weights / weights.sum()

    def __iter__(self) -> Iterator[Crop]:
        worker = get_worker_info()
        rng = np.random.default_rng(worker.id if worker else 0)
        made = 0
        while self.count is None or made < self.count:
            yield cut(self.examples[rng.choice(len(self.examples), p=self.chances)], rng)
            made += 1


def _weight(example: Example) -> float:
    if not example.ids.any():
        return UNKNOWN_WEIGHT
    return HUMAN_WEIGHT if example.kind == 0 else 1.0


def cut(example: Example, rng: np.random.Generator) -> Crop:
    """A crop of any place and size, mirrored or not, with other colours, blur and noise."""
    zoom = 1.0 if rng.random() < 0.5 else ZOOM ** rng.uniform(-1, 1)
    side = int(min(SIDE * zoom, *example.ids.shape)) // TOKEN_CELLS * TOKEN_CELLS
    top, left = (TOKEN_CELLS * rng.integers((whole - side) // TOKEN_CELLS + 1) for whole in example.ids.shape)
    box = (HALF * left, HALF * top, HALF * (left + side), HALF * (top + side))
    half = np.asarray(Image.fromarray(example.half).resize((HALF * SIDE,) * 2, Image.Resampling.BICUBIC, box))
    nearest = ((np.arange(SIDE) + 0.5) * side / SIDE).astype(int)
    ids = example.ids[np.ix_(top + nearest, left + nearest)]
    place = tuple(slice(start // TOKEN_CELLS, (start + side) // TOKEN_CELLS) for start in (top, left))
    tokens = F.interpolate(torch.from_numpy(example.tokens[place]).permute(2, 0, 1)[None], (SIDE // TOKEN_CELLS,) * 2,
                           mode="bilinear", antialias=True)[0]
    if rng.random() < 0.5:
        half, ids, tokens = half[:, ::-1], ids[:, ::-1], tokens.flip(2)
    cells = rng.integers(0, SIDE, (PAIRS, 2))
    others = rng.integers(0, SIDE, (PAIRS, 2))
    others[::2] = np.clip(cells[::2] + rng.integers(-NEAR, NEAR + 1, (len(cells[::2]), 2)), 0, SIDE - 1)
    a, b = (ids[tuple(places.T)] for places in (cells, others))
    pairs = np.stack([places @ [SIDE, 1] for places in (cells, others)])
    arrays = (borders(ids).astype(np.float32), ids > 0, np.array(example.kind), pairs, (a == b).astype(np.float32),
              (a > 0) & (b > 0))
    return Crop(varied(half, rng), *map(torch.from_numpy, arrays), tokens)


def varied(half: np.ndarray, rng: np.random.Generator) -> Tensor:
    pixels = torch.from_numpy(half.copy()).permute(2, 0, 1).float() / 255 - 0.5
    if rng.random() < 0.1:
        pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
    tint = torch.from_numpy(rng.uniform(-TINT, TINT, (3, 1, 1))).float()
    pixels = pixels * (1 + rng.uniform(-GAIN, GAIN)) + rng.uniform(-SHIFT, SHIFT) + tint
    if blur := rng.choice(BLURS):
        pixels = gaussian_blur(pixels, [9, 9], [blur, blur])
    return pixels + torch.from_numpy(rng.standard_normal(pixels.shape)).float() * rng.uniform(0, NOISE)


def train(examples: list[Example], steps: int) -> BorderNetwork:
    torch.manual_seed(0)
    network = BorderNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=WARM_UP)
    for step, crops in zip(range(steps), DataLoader(Crops(examples), BATCH, num_workers=1), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            found = network(crops.pixels.contiguous(memory_format=torch.channels_last))
        losses = terms(network, *found, crops)
        optimizer.zero_grad()
        (losses[0] + PAIR_SHARE * losses[1] + TOKEN_SHARE * losses[2]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rates.step()
        if step % 100 == 0:
            border, pair, tokens = (f"{loss.item():.3f}" for loss in losses)
            print(f"{step} / {steps} steps  borders {border}  pairs {pair}  tokens {tokens}", flush=True)
    return network.eval()


def terms(network: BorderNetwork, found: Tensor, embeddings: Tensor, tokens: Tensor,
          crops: Crop) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies of the borders that were found and of pairs, and the tokens' error as a share of their power."""
    own = found[torch.arange(len(crops.kind)), crops.kind]
    border = binary_cross_entropy_with_logits(own, crops.borders, crops.known.float(),
                                              pos_weight=torch.tensor(BORDER_WEIGHT))
    pair = binary_cross_entropy_with_logits(network.pair_logits(embeddings, crops), crops.same, crops.counts.float())
    return border, pair, (tokens - crops.tokens).square().mean() / crops.tokens.square().mean()


@torch.no_grad()
def show(network: BorderNetwork, examples: list[Example], count: int = 256) -> None:
    """Prints how well borders and pairs are told on crops of these photos, by kind of mask."""
    of_kind: dict[int, list] = {kind: [] for kind in range(len(KINDS))}
    for crops in DataLoader(Crops(examples, count), BATCH):
        found, embeddings, _ = network(crops.pixels)
        rows = zip(found[torch.arange(len(crops.kind)), crops.kind], network.pair_logits(embeddings, crops),
                   *crops[1:], strict=True)
        for border, pair, true, known, kind, _, same, counts, _ in rows:
            of_kind[int(kind)].append((true[known], border[known], same[counts], pair[counts]))
    for kind, rows in of_kind.items():
        true, border, same, pair = (torch.cat(parts).numpy() for parts in zip(*rows, strict=True))
        print(f"{KINDS[kind]:8} borders AP {average_precision_score(true, border):.3f} (by chance {true.mean():.3f})"
              f"  pairs AUC {roc_auc_score(same, pair):.3f}")


def export(network: BorderNetwork) -> None:
    """Writes the graph with its weights, which the batch norms are folded into, in 8 bits."""
    sides = {0: "height", 1: "width"}
    cells = {"borders": {1: "h", 2: "w"}, "embeddings": {2: "h", 3: "w"}}
    buffer = io.BytesIO()
    torch.onnx.export(Seer(network), (torch.zeros(128, 192, 3),), buffer, dynamo=False, opset_version=18,
                      input_names=["photo"], output_names=[*cells], dynamic_axes={"photo": sides, **cells})
    onnx.save(rounded(onnx.load_from_string(buffer.getvalue())), str(NETWORK))


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """With large weights in 8 bits, a scale for each output channel; ONNX Runtime multiplies as it opens the graph."""
    for weight in [*model.graph.initializer]:
        values, name = numpy_helper.to_array(weight), weight.name
        if values.dtype == np.float32 and values.size >= SMALL:
            scale = np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True) / 127
            weight.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.8"))
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            model.graph.node.insert(0, helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
            model.graph.node.insert(0, helper.make_node("Cast", [f"{name}.8"], [f"{name}.float"],
                                                        to=onnx.TensorProto.FLOAT))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--teacher", required=True, help="DINOv2: a hub name, or a folder in transformers' layout")
    parser.add_argument("--steps", type=int, default=2100, help=f"of {BATCH} crops")
    arguments = parser.parse_args()
    teacher = Dinov2Teacher(arguments.teacher)
    examples, held_out = (read_examples(arguments.photos, teacher, held) for held in (False, True))
    keep_components(held_out, keep_components(examples))
    network = train(examples, arguments.steps)
    show(network, held_out)
    export(network)


if __name__ == "__main__":
    main()
