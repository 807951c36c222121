"""What each part gives to the finished photo: it is drawn again without that part, by the same weights.

    python benchmarks/parts.py --lr ../shared/web/* --hr ../shared/realsr/HR [--every 4] [--without transformer ...]
        [--alone MODEL]

- transformer: nothing is sampled; the detail decoder draws the photo from y-hat, as `--quality fast` does.
- control: the control branch says nothing to the transformer.
- map: the transformer sees zeros in place of the map's noisy latent.
- decoder: the autoencoder's decoder draws the photo alone.
- restoration: the photo is y-hat (`--fidelity 1`), so all that comes after the restoration network is left out.

--alone is another model whose decoder draws without sampling, for one that was trained without it for as long: the row
`alone`. configs/ablations/share_sampled.yaml and share_alone.yaml train such a pair.

Printed: the mean change of a pixel in grey levels, and the metrics whose weights are at hand (TORCH_HOME), with the
whole's in the first row; below, the same metrics less the whole's, paired by photo, with their 95 % bootstrap
intervals. Weights that were trained together are taken apart here; a part that is retrained without the other may make
up for it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from judging import judged, judges
from PIL import Image

from instancersr.engines.torch import TorchEngine
from instancersr.lab.evaluation.evaluate import summarize
from instancersr.lab.pipeline import InstanceRSRPipeline
from instancersr.upscaler import Upscaler

METRICS = ("lpips", "dists", "niqe", "psnr")
FAST = {"quality": "fast", "instances": False}
PARTS = ("transformer", "control", "map", "decoder", "restoration")


class MapBlindEngine(TorchEngine):
    """The transformer sees zeros where the map's noisy latent was."""

    def denoise(self, z_t, z_y, timestep, offset):
        blind = z_t.copy()
        blind[:, z_y.shape[1] :] = 0
        return super().denoise(blind, z_y, timestep, offset)


def silence(pipeline: InstanceRSRPipeline) -> InstanceRSRPipeline:
    """The pipeline, whose control branch adds 0 from now on."""
    for project in pipeline.controlnet.out_proj:
        torch.nn.init.zeros_(project.weight)
        torch.nn.init.zeros_(project.bias)
    return pipeline


def ways(model: str, steps: int) -> dict[str, tuple[Upscaler, dict]]:
    """Part that is left out -> an upscaler, and its options."""
    load = InstanceRSRPipeline.from_pretrained
    whole = load(model)
    sampled = {"num_inference_steps": steps, "instances": False}
    blind = Upscaler(MapBlindEngine(whole), whole.upscaler.schedule, whole.upscaler.defaults)
    return {"nothing": (whole.upscaler, sampled),
            "transformer": (whole.upscaler, FAST),
            "control": (silence(load(model)).upscaler, sampled),
            "map": (blind, sampled),
            "decoder": (load(model, detail_decoder=None, detail_decoder_grain=None).upscaler, sampled),
            "restoration": (whole.upscaler, sampled | {"fidelity": 1.0})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", required=True, type=Path, nargs="+", help="folders")
    parser.add_argument("--hr", required=True, type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--alone", help="a model")
    parser.add_argument("--steps", type=int, default=2, help="of the whole")
    parser.add_argument("--every", type=int, default=1, help="use every so many photos of each folder")
    parser.add_argument("--without", nargs="*", choices=PARTS, default=PARTS, help="parts to leave out, one by one")
    arguments = parser.parse_args()
    metrics, tried = judges(METRICS), ways(arguments.model, arguments.steps)
    tried = {name: tried[name] for name in ("nothing", *arguments.without)}
    if arguments.alone:
        tried["alone"] = (InstanceRSRPipeline.from_pretrained(arguments.alone).upscaler, FAST)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in tried}
    for path in (path for folder in arguments.lr for path in sorted(folder.glob("*.png"))[:: arguments.every]):
        truth, whole = Image.open(arguments.hr / path.name).convert("RGB"), None
        for name, (upscaler, options) in tried.items():
            picture = upscaler(path, **options).images[0]
            pixels = np.asarray(picture, float)
            whole = pixels if whole is None else whole
            rows[name].append({"change": float(np.abs(pixels - whole).mean())} | judged(metrics, picture, truth))
    print(f"{len(rows['nothing'])} photos, {arguments.steps} steps; left out:")
    for name, scores in rows.items():
        print(f"{name:12}", *(f"{key} {np.mean([row[key] for row in scores]):.4f}" for key in scores[0]))
    print("less the whole's, with 95 % intervals:")
    for name in [name for name in tried if name != "nothing"]:
        pairs = list(zip(rows[name], rows["nothing"], strict=True))
        changes = summarize(("", name, str(number), metric, part[metric] - whole[metric])
                            for number, (part, whole) in enumerate(pairs) for metric in metrics)
        print(f"{name:12}", *(f"{metric} {mean:+.4f} ({low:+.4f} to {high:+.4f})"
                              for _, _, metric, mean, low, high, _ in changes))


if __name__ == "__main__":
    main()
