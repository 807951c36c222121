"""How well two instance maps agree."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment


def mean_iou(truth: np.ndarray, predicted: np.ndarray, min_area: int = 1024) -> float:
    """Mean intersection over union of the true instances of `min_area` pixels or more, matched one to one.

    An instance that is not matched counts 0. NaN where there is no such instance.
    """
    true_ids, true_index = np.unique(truth, return_inverse=True)
    ids, index = np.unique(predicted, return_inverse=True)
    both = np.bincount(true_index.ravel() * len(ids) + index.ravel(), minlength=len(true_ids) * len(ids))
    both = both.reshape(len(true_ids), len(ids)).astype(float)
    areas = both.sum(1)
    iou = both / (areas[:, None] + both.sum(0) - both)
    iou = iou[(true_ids > 0) & (areas >= min_area)][:, ids > 0]
    if not len(iou):
        return float("nan")
    return float(iou[linear_sum_assignment(-iou)].sum() / len(iou))


def boundary_f_score(truth: np.ndarray, predicted: np.ndarray, tolerance: float = 2) -> float:
    """F-score of the borders: the harmonic mean of the shares of predicted ones near true ones, and of true ones near
    predicted ones.

    As in BSDS (Martin et al., 2004), but without matching pixels one to one. What is predicted where the truth knows no
    instance is left out. NaN where the truth has no border, 0 where the prediction has none.

    Args:
        truth, predicted: (H, W) instance ids, 0: none.
        tolerance: in pixels, what is near.
    """
    true, found = borders(truth), borders(predicted)
    if not true.any():
        return float("nan")
    near_true = distance_transform_edt(~true) <= tolerance
    found &= (truth > 0) | near_true
    if not found.any():
        return 0.0
    precision = np.mean(near_true[found])
    recall = np.mean(distance_transform_edt(~found)[true] <= tolerance)
    return float(2 * precision * recall / max(precision + recall, np.finfo(float).tiny))


def borders(ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels with another id above, below, left or right of them."""
    border = np.zeros(ids.shape, bool)
    for ahead, behind in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = ids[ahead] != ids[behind]
        border[ahead] |= differs
        border[behind] |= differs
    return border


def pieces_per_object(truth: np.ndarray, predicted: np.ndarray, min_area: int = 64**2, share: float = 0.9) -> float:
    """How few predicted instances together cover `share` of a true one: the mean over those of `min_area` pixels.

    NaN where there is no such instance.
    """
    counts = []
    for number in np.unique(truth[truth > 0]):
        inside = predicted[truth == number]
        if inside.size >= min_area:
            covered = np.cumsum(np.sort(np.unique(inside, return_counts=True)[1])[::-1])
            counts.append(1 + np.searchsorted(covered, share * inside.size))
    return float(np.mean(counts)) if counts else float("nan")
