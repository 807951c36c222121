"""Instance maps as annotations: SA-1B's masks, run-length encoded <-> one id per pixel.

Id maps are (H, W) int32, 0 where no instance is known.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np

# ----------------------------------------------------------------------------------- run-length encoding


def decode_rle(rle: Mapping) -> np.ndarray:
    """A COCO run-length encoding, compressed (text) or not (a list) -> (H, W) bool.

    Raises:
        ValueError: the size or the runs are missing or no numbers, or the runs do not fill the picture.
    """
    counts, height, width = _runs(rle)
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _runs(rle: Mapping) -> tuple[np.ndarray, int, int]:
    """Lengths of the runs, height and width, checked as `decode_rle` says."""
    try:
        size = [operator.index(side) for side in rle["size"]]
        counts = _counts(rle["counts"])
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"RLE: needs a size of two whole numbers and counts, text or a list ({error!r})") from error
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"RLE: size {size} is not a height and a width")
    height, width = size
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"RLE: {counts.sum()} pixels encoded, {height}x{width} expected")
    return counts, height, width


def encode_rle(mask: np.ndarray) -> dict:
    """(H, W) bool -> a compressed COCO run-length encoding, `{"size": [H, W], "counts": text}`."""
    flat = np.asarray(mask, bool).T.ravel()  # columns first
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0] if not flat[:1].any() else [0, 0], edges, [flat.size]])
    counts = np.diff(starts)
    deltas = counts.copy()
    deltas[3:] -= counts[1:-2]
    return {"size": list(mask.shape), "counts": "".join(map(_encode_number, deltas.tolist()))}


def _encode_number(value: int) -> str:
    """Five bits a character, lowest first, 0x20 where more follow; the last one's 0x10 is the sign."""
    text = ""
    while True:
        bits, value = value & 0x1F, value >> 5
        more = value != (-1 if bits & 0x10 else 0)
        text += chr(48 + bits + (0x20 if more else 0))
        if not more:
            return text


def _counts(counts: str | bytes | list) -> np.ndarray:
    if isinstance(counts, list):
        return np.fromiter(map(operator.index, counts), np.int64, len(counts))
    raw = counts.encode() if isinstance(counts, str) else counts
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    last = (codes & 0x20) == 0
    if not len(codes) or not last[-1] or (codes < 0).any() or (codes > 63).any():
        raise ValueError("RLE: the text of counts is cut off or has wrong characters")
    number = np.concatenate([[0], np.cumsum(last)[:-1]])
    first = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(codes)) - first[number]
    if place.max() > 6:  # 35 bits; more would overflow
        raise ValueError("RLE: a count is longer than any picture's")
    values = np.zeros(number[-1] + 1, np.int64)
    np.add.at(values, number, (codes & 0x1F) << (5 * place))
    ends = np.flatnonzero(last)
    values -= np.where(codes[ends] & 0x10, 1 << (5 * (place[ends] + 1)), 0)
    # from the fourth on, a count is the difference to the one before the last
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


# ---------------------------------------------------------------------------------------- annotations


def check_annotations(sa1b: Mapping) -> tuple[int, int]:
    """The height and width of the photo that SA-1B's JSON describes. No mask is decoded: this is quick.

    Raises:
        ValueError: a field is missing, an id is not a positive 32-bit number, a mask is malformed or has another
            size than the photo.
    """
    try:
        size = (operator.index(sa1b["image"]["height"]), operator.index(sa1b["image"]["width"]))
        notes = [(note["id"], note["segmentation"], -note["area"]) for note in sa1b["annotations"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"SA-1B annotations: a field is missing or of another type ({error!r})") from error
    for i, segmentation, _ in notes:
        if type(i) is not int or not 0 < i < 2**31:
            raise ValueError(f"annotation id {i!r} must be a positive 32-bit number")
        try:
            _, *mask_size = _runs(segmentation)
        except ValueError as error:
            raise ValueError(f"annotation {i}: {error}") from error
        if tuple(mask_size) != size:
            raise ValueError(f"annotation {i}: mask of {tuple(mask_size)}, photo of {size}")
    return size


def id_map_from_annotations(sa1b: Mapping) -> np.ndarray:
    """SA-1B's JSON of one photo -> its id map. Masks overlap: they are painted from the largest to the smallest.

    Raises:
        ValueError: as `check_annotations`.
    """
    ids = np.zeros(check_annotations(sa1b), np.int32)
    for note in sorted(sa1b["annotations"], key=lambda note: -note["area"]):
        ids[decode_rle(note["segmentation"])] = note["id"]
    return ids


def middle_pixel(mask: np.ndarray) -> tuple[int, tuple[int, int]]:
    """Of a mask (H, W) bool that is not empty, its area, and the (x, y) of its middle pixel in the order of rows.

    No list of all its pixels is made: that of a sky in a photo of 12 megapixels has 200 MB.
    """
    until = np.cumsum(np.count_nonzero(mask, axis=1))
    area = int(until[-1])
    y = int(np.searchsorted(until, area // 2, side="right"))
    in_row = np.flatnonzero(mask[y])
    return area, (int(in_row[area // 2 - until[y]]), y)  # `until[y]` counts this row: the place is from its end


def annotation_of_mask(mask: np.ndarray, instance_id: int) -> dict:
    """SA-1B's annotation of one mask (H, W) bool that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    area, middle = middle_pixel(mask)
    return {
        "id": instance_id, "segmentation": encode_rle(mask), "area": area,
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "predicted_iou": 1.0, "stability_score": 1.0,
        "crop_box": [0, 0, mask.shape[1], mask.shape[0]], "point_coords": [list(middle)]}


def annotations_from_id_map(ids: np.ndarray, file_name: str, image_id: int = 0) -> dict:
    """An id map -> SA-1B's JSON, one annotation for each id but 0."""
    annotations = [annotation_of_mask(ids == i, i) for i in np.unique(ids[ids > 0]).tolist()]
    image = {"image_id": image_id, "width": ids.shape[1], "height": ids.shape[0], "file_name": file_name}
    return {"image": image, "annotations": annotations}
