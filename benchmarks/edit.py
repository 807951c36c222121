"""What re-sampling one object costs against a full upscale, and what it changes beside the object.

    python benchmarks/edit.py --photos ../shared/photos [--model builtin] [--steps 1 4] [--count 12] [--true-objects]

Held-out photos are degraded four times (preset `camera`, as in `instance_map.py`) and upscaled. In each the largest
object of the predicted map that covers less than a fifth of the picture is re-sampled with another seed; where the map
has none of a fiftieth or more, and with --true-objects always, the largest such object of the photo's annotations is
given as a mask; a photo without one is passed over. Printed for each photo:

- the share of the picture that is the object, and the CPU seconds of the re-sampling over those of the upscale;
- the largest difference farther than 16 pixels from the object, and the mean difference on it, in 8-bit levels;
- seam: the mean gradient within 14 pixels around the object, where old and new meet, over the same before.
"""

import argparse
import time

import numpy as np
from instance_map import pairs
from scipy import ndimage

from instancersr import InstanceRSRPipeline
from instancersr.edits import FADE, Edit

LEAST, MOST = 1 / 50, 1 / 5
"""Of the picture that an object may cover."""
FAR = 16
"""Pixels from the object beyond which the difference is measured."""


def pick_object(*maps: np.ndarray) -> np.ndarray | None:
    """The mask of the largest fitting object of the first map that has one, or None."""
    for candidates in maps:
        numbers, areas = np.unique(candidates[candidates > 0], return_counts=True)
        fits = (areas >= LEAST * candidates.size) & (areas < MOST * candidates.size)
        if fits.any():
            return candidates == numbers[np.argmax(np.where(fits, areas, 0))]
    return None


def cpu_seconds(run, repeats: int) -> float:
    """Least CPU time of some calls: other work on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def gradient(picture: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels in a region."""
    grey = picture.mean(2)
    slopes = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    return float(slopes[where[:-1, :-1]].mean())


def measure(pipe: InstanceRSRPipeline, lr: np.ndarray, truth: np.ndarray, steps: int, repeats: int,
            true_objects: bool) -> list[float] | None:
    """Share, cost, largest far difference, mean difference on the object, seam; None without a fitting object."""
    before = pipe(lr, num_inference_steps=steps, keep_latents=True)
    mask = pick_object(truth) if true_objects else pick_object(before.instances[0], truth)
    if mask is None:
        return None
    edit = [Edit(mask, seed=1)]
    after = pipe.edit(before, edit)
    full = cpu_seconds(lambda: pipe(lr, num_inference_steps=steps), repeats)
    part = cpu_seconds(lambda: pipe.edit(before, edit), repeats)
    old, new = (np.asarray(out.images[0]).astype(float) for out in (before, after))
    change, distance = np.abs(new - old).max(2), ndimage.distance_transform_edt(~mask)
    ring = (distance > 0) & (distance < FADE)
    far = change[distance > FAR]
    return [mask.mean(), part / full, far.max() if far.size else 0.0, change[mask].mean(),
            gradient(new, ring) / gradient(old, ring)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, help="shards or folder with SA-1B annotations")
    parser.add_argument("--prefix", default="coco_", help="keys of the photos that are used")
    parser.add_argument("--model", default="builtin", help="builtin, or a folder with a pipeline")
    parser.add_argument("--true-objects", action="store_true", help="re-sample objects of the annotations")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    pipe = InstanceRSRPipeline.from_pretrained(arguments.model)
    for steps in arguments.steps:
        print(f"\n{steps} steps         object   cost   far  change   seam")
        rows: list[list[float]] = []
        for lr, truth in pairs(arguments.photos, arguments.prefix, "camera", held_out=True):
            row = measure(pipe, lr, truth, steps, arguments.repeats, arguments.true_objects)
            if row is not None:
                rows.append(row)
                print_row(f"{lr.shape[1]}x{lr.shape[0]}", row)
            if len(rows) == arguments.count:
                break
        print_row("median", np.median(rows, 0))
        print_row("largest", np.max(rows, 0))


def print_row(name: str, row: list[float] | np.ndarray) -> None:
    share, cost, far, change, seam = row
    print(f"{name:14} {share:7.3f} {cost:6.2f} {far:5.0f} {change:7.2f} {seam:6.3f}", flush=True)


if __name__ == "__main__":
    main()
