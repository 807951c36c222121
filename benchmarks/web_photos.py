"""Photos as people send them, by kind of damage: scores, what is left of the damage, and a sheet to look at.

    python benchmarks/web_photos.py --lr ../shared/web --hr ../shared/realsr/HR --rival real-esrgan.onnx -o runs/web

Every sub-folder of `--lr` is a kind; its pictures have their truths in `--hr` by name. Ours are made by `instancersr
upscale`, with `--options` if given; the rival's by any ONNX file that takes (1, 3, H, W) RGB in [0, 1] and gives
(1, 3, 4H, 4W); bicubic interpolation stands beside them. Pictures that lie in `-o` from a run before are kept. Metrics
whose weights are missing (TORCH_HOME) are left out, saying so. `flat` and `grid` are those of
`instancersr.lab.evaluation.artifacts`. `less the rival` is ours less the rival's, paired by photo, with the 95 %
bootstrap interval, and on how many photos ours is lower.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from judging import judged, judges
from PIL import Image

from instancersr.lab.evaluation.artifacts import flat_ratio, grid_ratio
from instancersr.lab.evaluation.evaluate import summarize

METRICS = ("lpips", "dists", "psnr", "niqe")
PAIRED = ("lpips", "dists")
"""Metrics that are compared photo by photo."""
SHOWN = 3
"""Pictures of each kind on the sheet."""


def run_ours(lr: Path, out: Path, model: str, options: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "instancersr", "upscale", str(lr), "-o", str(out), "--model", model,
                    "--skip-existing", *options], check=True, stdout=subprocess.DEVNULL)


def run_rival(lr: Path, out: Path, network: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(lr.glob("*.png")):
        if not (out / f"{path.stem}_x4.png").exists():
            y = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
            x = session.run(None, {name: y})[0][0].clip(0, 1).transpose(1, 2, 0)
            Image.fromarray((x * 255).round().astype(np.uint8)).save(out / f"{path.stem}_x4.png")


def run_bicubic(lr: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(lr.glob("*.png")):
        photo = Image.open(path).convert("RGB")
        photo.resize([4 * side for side in photo.size], Image.Resampling.BICUBIC).save(out / f"{path.stem}_x4.png")


def measure(lr: Path, hr: Path, outputs: Path, metrics: dict) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Means over the pictures of one kind, and the scores of each."""
    names = [path.stem for path in sorted(lr.glob("*.png"))]
    pairs = [(Image.open(outputs / f"{name}_x4.png").convert("RGB"), Image.open(hr / f"{name}.png").convert("RGB"))
             for name in names]
    rows = [judged(metrics, *pair) for pair in pairs]
    arrays = [tuple(np.asarray(picture) for picture in pair) for pair in pairs]
    scores = {key: float(np.mean([row[key] for row in rows])) for key in metrics}
    return scores | {"flat": flat_ratio(arrays), "grid": grid_ratio(output for output, _ in arrays)}, rows


def compare(kind: str, ours: list[dict[str, float]], rival: list[dict[str, float]]) -> None:
    """A line a metric: ours over the rival's, and ours less the rival's, paired by photo."""
    for metric in (name for name in PAIRED if name in ours[0]):
        own, other = (np.array([row[metric] for row in rows]) for rows in (ours, rival))
        [(*_, mean, low, high, _)] = summarize((kind, "ours", str(number), metric, value)
                                               for number, value in enumerate(own - other))
        print(f"{kind:12}{metric} over the rival {own.mean() / other.mean():.3f}, less the rival {mean:+.4f} "
              f"({low:+.4f} to {high:+.4f}), lower on {(own < other).sum()} of {len(own)}", flush=True)


def draw_sheet(lr: Path, hr: Path, methods: dict[str, Path], kinds: list[str], path: Path) -> None:
    """A row a picture: each method, the truth."""
    rows = []
    for kind in kinds:
        found = sorted((lr / kind).glob("*.png"))
        for source in found[:: max(1, len(found) // SHOWN)][:SHOWN]:
            truth = Image.open(hr / source.name).convert("RGB")
            made = [Image.open(folder / kind / f"{source.stem}_x4.png").convert("RGB") for folder in methods.values()]
            rows.append(np.concatenate([np.asarray(picture) for picture in (*made, truth)], 1))
    Image.fromarray(np.concatenate(rows)).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", required=True, type=Path, help="a sub-folder a kind")
    parser.add_argument("--hr", required=True, type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--options", default="", help="of `instancersr upscale`, in one string")
    parser.add_argument("--rival", type=Path, help="an ONNX file")
    arguments = parser.parse_args()
    kinds = sorted(folder.name for folder in arguments.lr.iterdir() if folder.is_dir())
    names = ("bicubic", "rival", "ours") if arguments.rival else ("bicubic", "ours")
    methods = {name: arguments.output / name for name in names}
    metrics, all_rows = judges(METRICS), {name: [] for name in names}
    for kind in kinds:
        lr = arguments.lr / kind
        run_bicubic(lr, methods["bicubic"] / kind)
        run_ours(lr, methods["ours"] / kind, arguments.model, shlex.split(arguments.options))
        if arguments.rival:
            run_rival(lr, methods["rival"] / kind, arguments.rival)
        for name, folder in methods.items():
            scores, rows = measure(lr, arguments.hr, folder / kind, metrics)
            all_rows[name] += rows
            print(f"{kind:12}{name:8}", *(f"{key} {value:.4f}" for key, value in scores.items()), flush=True)
        if arguments.rival:
            compare(kind, *(all_rows[name][-len(rows) :] for name in ("ours", "rival")))
    if arguments.rival:
        compare("all", all_rows["ours"], all_rows["rival"])
    draw_sheet(arguments.lr, arguments.hr, methods, kinds, arguments.output / "sheet.jpg")


if __name__ == "__main__":
    main()
