"""Instance awareness: does the network know which object is which?

The paper's Table 2 names the quantity without defining it. Here it is the mean of (a) the quality of the predicted
instance map, mean IoU and adjusted Rand index halved, and (b) the accuracy of a linear probe on the hidden tokens `f`
that says of two patches whether they belong to one instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instancersr.instances.overlap import mean_iou

PAIRS = 64
"""Pairs of patches drawn from each picture, half of them of one instance."""


@dataclass
class PatchFeatures:
    """The tokens of one picture: tokens (N, D), ids (N,) instance ids, 0 where none is known."""

    tokens: np.ndarray
    ids: np.ndarray


def map_quality(truth: np.ndarray, predicted: np.ndarray, min_area: int = 256) -> float:
    """Mean of the mean IoU (Hungarian matching, instances of `min_area` pixels and more) and the adjusted Rand index.

    Args:
        truth, predicted: (H, W) instance ids; pixels that are 0 in the truth are left out.

    Returns:
        At most 1; NaN where the truth has no instance.
    """
    return float(np.mean([mean_iou(truth, predicted, min_area), adjusted_rand_index(truth, predicted)]))


def adjusted_rand_index(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The adjusted Rand index (Hubert & Arabie, 1985) over pixels whose true instance is known; NaN without any."""
    from sklearn.metrics import adjusted_rand_score

    known = truth > 0
    return float(adjusted_rand_score(truth[known], predicted[known])) if known.any() else float("nan")


def probe_accuracy(train: Sequence[PatchFeatures], test: Sequence[PatchFeatures], seed: int = 0) -> float:
    """Accuracy of a logistic regression that tells pairs of patches of one instance from pairs of two.

    A pair is seen as the differences |a - b| of its standardised tokens, so chance is .5 whatever the tokens' norm.

    Args:
        train, test: pictures; pairs are drawn within a picture, as many of one instance as of two.

    Raises:
        ValueError: no picture of either set has two instances.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    inputs, labels = _pairs(train, rng)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(inputs, labels)
    return float(probe.score(*_pairs(test, rng)))


def _pairs(pictures: Sequence[PatchFeatures], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(P, D) differences and (P,) whether the pair is of one instance; both kinds are equally many."""
    tokens = np.concatenate([p.tokens for p in pictures])
    mean, deviation = tokens.mean(0), tokens.std(0) + 1e-6
    inputs, labels = [], []
    for picture in pictures:
        standard = (picture.tokens - mean) / deviation
        for same, pairs in _draw(picture.ids, rng).items():
            inputs.append(np.abs(standard[pairs[:, 0]] - standard[pairs[:, 1]]))
            labels.append(np.full(len(pairs), same))
    if not inputs:
        raise ValueError("probe: no picture has two instances with two patches each; give pictures with masks")
    return np.concatenate(inputs), np.concatenate(labels)


def _draw(ids: np.ndarray, rng: np.random.Generator) -> dict[bool, np.ndarray]:
    """Equally many (P, 2) pairs of patches of one instance and of two; nothing where a picture lacks either kind."""
    known = np.flatnonzero(ids > 0)
    first, second = (index.ravel() for index in np.meshgrid(known, known))
    first, second = first[first < second], second[first < second]
    same = ids[first] == ids[second]
    count = min(PAIRS // 2, int(same.sum()), int((~same).sum()))
    if count == 0:
        return {}
    return {kind: np.stack([first[chosen], second[chosen]], 1)
            for kind in (True, False)
            for chosen in [rng.choice(np.flatnonzero(same == kind), count, replace=False)]}
