"""Trains the network that judges a photo's damage and noise (`instancersr/damage.onnx`), and prints how well it does.

    python benchmarks/fit_damage.py --photos ../shared/photos [--check ../shared/realsr/LR ../shared/web/old]

Crops of training photos are damaged by the presets of cameras and of the web, so many by each. The network, five
convolutions and the mean and deviation of what the last one finds, learns from their LR photos to tell the web's from
the cameras', and those of noisy presets from all others. Photos of cameras have been developed: a little noise, parts
of a pixel's shift, a JPEG of high quality. `web_mild` lies between, and says nothing of damage. Shown: the share of
each preset's crops, of photos that were not trained on, that counts as damaged, and as noisy; then those of the
pictures in the folders of `--check`, which are never trained on. The shipped one saw the photos of
configs/web/1_restoration.yaml, 80 drawn pages among them. On two cores it takes ten minutes for the crops, and as long
for the network.
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from instancersr.damage import DAMAGED, NETWORK, NOISY, estimate_damage, estimate_noise
from instancersr.lab.training.config import RestorationConfig
from instancersr.lab.training.data import crops, open_photos

CAMERAS = ("camera_optics", "camera_sharpened", "twin")
DAMAGED_KINDS = ("web_jpeg", "web_messenger", "web_night", "web_old")
NOISY_KINDS = ("web_night", "web_old")
KINDS = (*CAMERAS, "web_mild", *DAMAGED_KINDS)
BATCH, RATE, DECAY, DROPOUT = 32, 4e-3, 0.02, 0.3
DEVELOPED_QUALITY, DEVELOPED_NOISE = 92, 1.5
"""The least quality of a camera's own JPEG, and the most noise, in grey levels, that it leaves."""
GAIN, SHIFT = 0.2, 0.1
"""Contrast and brightness of a crop vary by so much, because no camera's curve is that of another."""


class DamageNetwork(nn.Module):
    """(N, 3, h, w) in [-.5, .5] -> logits (N, 2) of damage and of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*_block(3, 16, 5), *_block(16, 32, 3, 2), *_block(32, 32, 3), *_block(32, 48, 3, 2),
                                  *_block(48, 64, 3))
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(2 * 64, 2))

    def forward(self, photos: Tensor) -> Tensor:
        found = self.body(photos).float()
        mean = found.mean((2, 3))
        power = found.square().mean((2, 3)) - mean.square()
        return self.head(torch.cat((mean, (power.clamp_min(0) + 1e-4).sqrt()), 1))


class Judge(nn.Module):
    """(h, w, 3) uint8 -> odds (2,) of damage and of noise."""

    def __init__(self, network: DamageNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, photo: Tensor) -> Tensor:
        return self.network(photo.permute(2, 0, 1)[None].float() / 255 - 0.5)[0].sigmoid()


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()


def lr_crops(photos: str, cache: str, kind: str, count: int, held_out: bool) -> np.ndarray:
    """(count, h, w, 3) uint8: LR photos of this preset, or of twins."""
    data = {"photos": photos, "cache": cache, "crop": 384, "downscale_prob": 1.0, "downscale_max": 2.5,
            "truth_blur": (0.53, 0.93), "truth_sharpen": (0.0, 1.0), "gray_prob": 0.05,
            "twin_prob": float(kind == "twin"), "presets": {"camera_optics" if kind == "twin" else kind: 1.0}}
    config = RestorationConfig(task="restoration", output="unused", images=1, seed=7, data=data)
    dataset = crops(config, open_photos(config.data), held_out, masks=False)
    small = (dataset[number]["lr"].permute(1, 2, 0).numpy() for number in range(count))
    pictures = [(lr * 255).round().astype(np.uint8) for lr in small]
    if kind in CAMERAS:
        rng = np.random.default_rng(CAMERAS.index(kind))
        pictures = [developed(picture, rng) for picture in pictures]
    return np.stack(pictures)


def developed(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo (h, w, 3) uint8 as a camera, and who aligns its photos, leave it: none of this is damage."""
    picture = Image.fromarray(photo)
    if rng.random() < 0.5:
        zoom = rng.uniform(0.98, 1)
        left, top = (1 - zoom) * rng.random(2) * picture.size  # so that nothing comes from outside
        picture = picture.transform(picture.size, Image.Transform.AFFINE, (zoom, 0, left, 0, zoom, top),
                                    Image.Resampling.BICUBIC)
    noisy = np.asarray(picture) + rng.normal(0, rng.uniform(0, DEVELOPED_NOISE), photo.shape)
    picture = Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))
    if rng.random() < 0.7:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(DEVELOPED_QUALITY, 101)), subsampling=int(rng.integers(3)))
        picture = Image.open(file)
    return np.asarray(picture)


def train(kinds: dict[str, np.ndarray], epochs: int) -> DamageNetwork:
    """From the LR crops (N, h, w, 3) of each kind."""
    torch.manual_seed(0)
    inputs = torch.from_numpy(np.concatenate([*kinds.values()])).permute(0, 3, 1, 2)
    number = np.repeat(np.arange(len(kinds)), [len(rows) for rows in kinds.values()])
    truths = torch.tensor([[kind in DAMAGED_KINDS, kind in NOISY_KINDS] for kind in kinds]).float()[number]
    counts = torch.tensor([[kind != "web_mild", True] for kind in kinds]).float()[number]
    network = DamageNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    whole = len(inputs) // BATCH
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * whole)
    batches = (batch for _ in range(epochs) for batch in torch.randperm(len(inputs)).split(BATCH)[:whole])
    for step, chosen in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(varied(inputs[chosen]))
        loss = (binary_cross_entropy_with_logits(logits.float(), truths[chosen], reduction="none")
                * counts[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 500 == 0:
            print(f"{step} / {epochs * whole} steps  loss {loss.item():.3f}", flush=True)
    return network.eval()


def varied(photos: Tensor) -> Tensor:
    """uint8 (N, 3, s, s) -> [-.5, .5]: mirrored, turned, with other contrast and brightness."""
    for axes in ((3,), (2,)):
        photos = photos.flip(axes) if torch.rand(()) < 0.5 else photos
    photos = photos.transpose(2, 3) if torch.rand(()) < 0.5 else photos
    gain, shift = (scale * (2 * torch.rand(len(photos), 1, 1, 1) - 1) for scale in (GAIN, SHIFT))
    return ((photos.float() / 255 - 0.5) * (1 + gain) + shift).contiguous(memory_format=torch.channels_last)


def export(network: DamageNetwork) -> None:
    """Writes the graph with its weights, which the batch norms are folded into."""
    torch.onnx.export(Judge(network), (torch.zeros(64, 64, 3, dtype=torch.uint8),), str(NETWORK), dynamo=False,
                      opset_version=18, input_names=["photo"], output_names=["odds"],
                      dynamic_axes={"photo": {0: "h", 1: "w"}})


def show(name: str, photos: list[np.ndarray]) -> None:
    """Prints the shares of the photos that count as damaged, and as noisy enough for half of the cleaning."""
    damaged = np.mean([estimate_damage(photo) >= DAMAGED for photo in photos])
    noisy = np.mean([estimate_noise(photo) >= np.mean(NOISY) for photo in photos])
    print(f"{name:18} damaged {damaged:.2f}  noisy {noisy:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "damage_cache"))
    parser.add_argument("--crops", type=int, default=4000, help="of each preset")
    parser.add_argument("--epochs", type=int, default=10, help="0: judges with the network that is there")
    parser.add_argument("--check", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    if arguments.epochs:
        kinds = {kind: lr_crops(arguments.photos, arguments.cache, kind, arguments.crops, False) for kind in KINDS}
        export(train(kinds, arguments.epochs))
    for kind in KINDS:
        show(kind, [*lr_crops(arguments.photos, arguments.cache, kind, arguments.crops // 10, True)])
    for folder in arguments.check:
        show(str(folder), [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


if __name__ == "__main__":
    main()
