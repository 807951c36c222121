"""How well the predicted instance map tells objects apart, against a segmentation of the enlarged photo.

    python benchmarks/instance_map.py --photos ../shared/photos [--model builtin] [--prefix coco_] [--preset camera]

Held-out photos are degraded four times (one seed a photo) and upscaled; the map is scored against the true one by the
adjusted Rand index over the pixels whose instance is known, by mean IoU (instances of 1,024 pixels and more, Hungarian
matching), by the F-score of its borders within 2 pixels, and by the pieces an instance of 64 x 64 pixels or more is in
(the fewest that cover nine tenths of it). The rival is Felzenszwalb & Huttenlocher's segmentation (scikit-image) of the
bicubic enlargement of the same LR photo, at the best of three scales, chosen on training photos. Needs scikit-image and
scikit-learn.
"""

import argparse
import io
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import felzenszwalb

from instancersr import InstanceRSRPipeline
from instancersr.instances.annotations import id_map_from_annotations
from instancersr.instances.overlap import boundary_f_score, mean_iou, pieces_per_object
from instancersr.lab.data.cache import middle
from instancersr.lab.data.sources import find_sources, is_held_out, read_source
from instancersr.lab.evaluation.awareness import adjusted_rand_index
from instancersr.lab.method.degradation import degrade

SCALES = (100, 300, 1000)
"""Of Felzenszwalb's segmentation: larger ones give larger regions."""
TUNING_PHOTOS = 20
"""Training photos on which the scale is chosen."""
LARGEST = 640
"""Longer sides are cropped to it, centred: photos need not be whole for a mean."""


def pairs(photos: str, prefix: str, preset: str, held_out: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(LR photo (h, w, 3) uint8, true ids (4h, 4w)) of every photo whose key begins with `prefix`."""
    for source in find_sources(photos):
        for number, (key, encoded, annotations) in enumerate(read_source(source)):
            if annotations is None or not key.startswith(prefix) or is_held_out(key) != held_out:
                continue
            picture = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
            box = middle(*picture.shape[:2], LARGEST)
            hr = torch.from_numpy(picture[box].copy()).permute(2, 0, 1)[None].float() / 255
            lr = degrade(hr, preset, [number])[0].permute(1, 2, 0).numpy()
            yield (lr * 255).round().astype(np.uint8), id_map_from_annotations(annotations)[box]


def segment(lr: np.ndarray, scale: float) -> np.ndarray:
    """Felzenszwalb's regions of the bicubic enlargement, numbered from 1."""
    large = Image.fromarray(lr).resize((4 * lr.shape[1], 4 * lr.shape[0]), Image.Resampling.BICUBIC)
    return felzenszwalb(np.asarray(large), scale=scale, sigma=0.8, min_size=64) + 1


MEASURES = {"ARI": adjusted_rand_index, "mean IoU": mean_iou, "border F": boundary_f_score, "pieces": pieces_per_object}


def score(predict: Callable[[np.ndarray], np.ndarray], photos: list) -> np.ndarray:
    """The mean over the photos of each of MEASURES."""
    rows = []
    for lr, truth in photos:
        predicted = predict(lr)
        rows.append([measure(truth, predicted) for measure in MEASURES.values()])
    return np.nanmean(rows, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="builtin, or a folder with a pipeline")
    parser.add_argument("--photos", required=True, help="shards or folder with SA-1B annotations")
    parser.add_argument("--prefix", default="coco_", help="keys of the photos that are used")
    parser.add_argument("--preset", default="camera", help="of the degradation")
    arguments = parser.parse_args()
    chosen = arguments.photos, arguments.prefix, arguments.preset
    tuning = list(itertools.islice(pairs(*chosen, held_out=False), TUNING_PHOTOS))
    best = max(SCALES, key=lambda scale: score(lambda lr: segment(lr, scale), tuning)[:2].sum())
    test = list(pairs(*chosen, held_out=True))
    pipeline = InstanceRSRPipeline.from_pretrained(arguments.model)
    ours = score(lambda lr: pipeline(lr).instances[0], test)
    rival = score(lambda lr: segment(lr, best), test)
    print(f"{f'{len(test)} photos':18}", *(f"{name:>9}" for name in MEASURES))
    for name, values in (("InstanceRSR", ours), (f"Felzenszwalb {best}", rival), ("ratio", ours / rival)):
        print(f"{name:18}", *(f"{value:9.3f}" for value in values))


if __name__ == "__main__":
    main()
