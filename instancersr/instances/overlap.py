"""How well two instance maps agree."""

from __future__ import annotations

import numpy as np
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
