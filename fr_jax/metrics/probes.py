"""Linear probes: the pose of an image, and information left in a feature.

They are trained on other images than those that are evaluated.
"""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = np.ndarray


class PictureClassifier:
    """Classes of pictures by their gradients, such as poses of aligned faces.

    Args:
      images: uint8 [N, S, S, 3] to learn from; all that it is given later must have as
        many pixels.
      classes: int [N].
    """

    def __init__(self, images: Array, classes: Array):
        self._model: Any = _linear().fit(gradient_histograms(images), classes)

    def __call__(self, images: Array) -> Array:
        """Returns the class of each image [N]."""
        return self._model.predict(gradient_histograms(images))


def gradient_histograms(images: Array, *, cells: int = 8, bins: int = 8) -> Array:
    """Returns histograms of the directions of gradients [N, cells * cells * bins].

    Dalal and Triggs, Histograms of Oriented Gradients (CVPR 2005), without blocks: in
    each cell, gradients by direction, weighted by their length; an image's is 1.
    """
    grey = np.asarray(images, np.float32).mean(axis=3)
    height, width = (side // cells * cells for side in grey.shape[1:])
    down, right = np.gradient(grey, axis=(1, 2))
    down, right = down[:, :height, :width], right[:, :height, :width]
    length = np.hypot(down, right)
    place = np.arctan2(down, right) / (2 * np.pi) * bins % bins
    found = np.empty((len(grey), cells, cells, bins), np.float32)
    for number in range(bins):
        away = np.abs(place - number)
        share = np.maximum(1 - np.minimum(away, bins - away), 0) * length
        parts = share.reshape(len(grey), cells, height // cells, cells, width // cells)
        found[..., number] = parts.mean(axis=(2, 4))
    found = np.sqrt(found.reshape(len(grey), -1))
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def leakage(
    features: Array, classes: Array, groups: Array | None = None, *, folds: int = 5
) -> float:
    """Returns how well a linear probe tells the class from the feature, [0, 1].

    Of poses and an identity feature: the lower, the better apart; chance is the share
    of the most frequent class.

    Args:
      features: [N, F]; classes: [N].
      groups: [N], such as identities: no group is in training and test fold. None
        splits the rows of each class into folds.
    """
    if groups is None:
        cut: Any = StratifiedKFold(folds, shuffle=True, random_state=0)
    else:
        cut = GroupKFold(folds)
    scores = []
    for train, test in cut.split(features, classes, groups):
        probe = _linear().fit(features[train], classes[train])
        scores.append(probe.score(features[test], classes[test]))
    return float(np.mean(scores))


def _linear():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
