"""How faithfully the shipped autoencoder carries photos and instance maps.

    python benchmarks/autoencoder.py --truth ../shared/realsr/HR --photos ../shared/photos [--model builtin]

Prints the mean PSNR (RGB) of the truth photos after a round trip, their LPIPS where pyiqa and its weights are at hand
(TORCH_HOME), and the mean IoU of instance maps of the held-out photos after ids -> colours -> autoencoder -> ids, over
instances of 1,024 pixels and more, with the true instances matched one to one (Hungarian).
"""

import argparse
import collections
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from instancersr import InstanceRSRPipeline
from instancersr.instances.annotations import id_map_from_annotations
from instancersr.instances.codes import colorize, decode_id_map, scale_target
from instancersr.instances.overlap import mean_iou
from instancersr.lab.data.sources import find_sources, is_held_out, read_source
from instancersr.lab.method.diffusion import decode, encode


def round_trip(autoencoder, picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) float in [0, 1] -> (1, 3, H, W)."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    return decode(autoencoder, encode(autoencoder, x)).clamp(0, 1)


def score_photos(autoencoder, folder: Path) -> None:
    try:
        import pyiqa
        lpips = pyiqa.create_metric("lpips")
    except (ImportError, OSError, RuntimeError) as error:
        print(f"LPIPS left out: {error}")
        lpips = None
    psnrs, distances = [], []
    for path in sorted(folder.glob("*.png")):
        picture = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        output = (round_trip(autoencoder, picture) * 255).round() / 255
        truth = torch.from_numpy(picture).permute(2, 0, 1)[None]
        psnrs.append(-10 * (output - truth).square().mean().log10().item())
        if lpips is not None:
            distances.append(lpips(output, truth).item())
    print(f"{len(psnrs)} photos  PSNR {np.mean(psnrs):.2f} dB" + (f"  LPIPS {np.mean(distances):.4f}" if lpips else ""))


def score_maps(autoencoder, photos: str) -> None:
    scores = collections.defaultdict(list)
    for source in find_sources(photos):
        for key, _, annotations in read_source(source):
            if not is_held_out(key) or annotations is None:
                continue
            ids = id_map_from_annotations(annotations)
            height, width = (side // 8 * 8 for side in ids.shape)
            ids = ids[:height, :width]
            picture = colorize(ids, {int(i): scale_target(key, int(i)) for i in np.unique(ids) if i})
            decoded = decode_id_map(round_trip(autoencoder, picture)[0].permute(1, 2, 0).numpy())
            scores[key.split("_")[0]].append(mean_iou(ids, decoded))
    for name, values in sorted(scores.items()):
        print(f"{name:10} {len(values):3} maps  mean IoU {np.nanmean(values):.3f}")
    everything = [value for values in scores.values() for value in values]
    print(f"{'all':10} {len(everything):3} maps  mean IoU {np.nanmean(everything):.3f}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="builtin, or a folder with a pipeline")
    parser.add_argument("--truth", type=Path, required=True, help="folder of PNG photos")
    parser.add_argument("--photos", required=True, help="shards or folder with SA-1B annotations")
    arguments = parser.parse_args()
    autoencoder = InstanceRSRPipeline.from_pretrained(arguments.model).autoencoder
    score_photos(autoencoder, arguments.truth)
    score_maps(autoencoder, arguments.photos)


if __name__ == "__main__":
    main()
