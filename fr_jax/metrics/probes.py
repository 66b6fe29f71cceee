"""Linear probes: the pose of an image, and information contained in a feature.

They are trained and evaluated on different images.
"""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = np.ndarray


class PictureClassifier:
    """A linear classifier of gradient histograms, such as for poses of aligned faces.

    Args:
      images: uint8 [N, S, S, 3], for training; later images must have the same size.
      classes: int [N].
    """

    def __init__(self, images: Array, classes: Array):
        self._model: Any = _linear().fit(gradient_histograms(images), classes)

    def __call__(self, images: Array) -> Array:
        """Returns the class of each image [N]."""
        return self._model.predict(gradient_histograms(images))


def gradient_histograms(images: Array, *, cells: int = 8, bins: int = 8) -> Array:
    """Returns histograms of gradient directions [N, cells * cells * bins].

    Dalal and Triggs, Histograms of Oriented Gradients (CVPR 2005), without blocks: for
    each cell, gradients by direction, weighted by their length. Square roots are taken,
    and the rows have length 1.
    """
    grey = np.asarray(images, np.float32).mean(axis=3)
    height, width = (side // cells * cells for side in grey.shape[1:])
    down, right = np.gradient(grey, axis=(1, 2))
    down, right = down[:, :height, :width], right[:, :height, :width]
    length = np.hypot(down, right)
    direction = np.arctan2(down, right) / (2 * np.pi) * bins % bins
    histograms = np.empty((len(grey), cells, cells, bins), np.float32)
    for number in range(bins):
        distance = np.abs(direction - number)
        share = np.maximum(1 - np.minimum(distance, bins - distance), 0) * length
        parts = share.reshape(len(grey), cells, height // cells, cells, width // cells)
        histograms[..., number] = parts.mean(axis=(2, 4))
    rows = np.sqrt(histograms.reshape(len(grey), -1))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def leakage(features: Array, classes: Array, groups: Array | None = None) -> Array:
    """Returns a mask [N]: features whose class a linear probe predicts.

    The probe is trained on others, and the mean of the mask is its accuracy. An
    identity feature is independent of the pose if poses are predicted at chance, the
    share of the most frequent class.

    Args:
      features, classes: [N, F] and [N].
      groups: [N], such as identities, which are disjoint between training and test
        folds. None for folds stratified by class. There are five.
    """
    split: Any = StratifiedKFold(5, shuffle=True, random_state=0)
    if groups is not None:
        split = GroupKFold(5)
    guesses = cross_val_predict(_linear(), features, classes, groups=groups, cv=split)
    return guesses == classes


def _linear():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
