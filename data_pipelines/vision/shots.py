"""Cuts between the shots of a video.

A cut is where the joint colour histogram changes more than around it (Zhang,
Kankanhalli, Smoliar: Automatic partitioning of full-motion video, Multimedia Systems
1993), and where the picture is another one too: a flash changes all colours, but the
edges stay.
"""

import collections

import cv2
import numpy as np

_BINS = 8  # of each channel
_LEAST = 0.12  # half the L1 distance of histograms, 0 to 1; 0.17 between dark scenes
_TIMES = 4.0  # of the median of the last changes
_WINDOW = 12  # frames
_STRUCTURE = 0.75  # correlation of the pictures, above which there is no cut
_SIDE = 32  # of the picture whose structure is compared


class ShotCounter:
    """Gives each frame the number of its shot; one frame is kept."""

    def __init__(self):
        self.shot = -1
        self._histogram = self._picture = np.zeros(0)
        self._changes: collections.deque[float] = collections.deque(maxlen=_WINDOW)

    def __call__(self, image: np.ndarray) -> int:
        """Returns the shot, from 0, of the next frame, uint8 RGB [H, W, 3]."""
        small = cv2.resize(image, (4 * _SIDE, 4 * _SIDE), interpolation=cv2.INTER_AREA)
        histogram = colour_histogram(small, _BINS)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        picture = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        picture = picture.astype(np.float64).ravel() - picture.mean()
        if self.shot < 0 or self._is_cut(histogram, picture):
            self.shot += 1
            self._changes.clear()
        self._histogram, self._picture = histogram, picture
        return self.shot

    def _is_cut(self, histogram: np.ndarray, picture: np.ndarray) -> bool:
        change = float(np.abs(histogram - self._histogram).sum() / 2)
        usual = float(np.median(self._changes)) if self._changes else 0.0
        self._changes.append(change)
        if change < max(_LEAST, _TIMES * usual):
            return False
        norms = np.linalg.norm(picture) * np.linalg.norm(self._picture)
        return float(picture @ self._picture) < _STRUCTURE * max(float(norms), 1e-9)


def colour_histogram(image: np.ndarray, bins: int) -> np.ndarray:
    """Returns the joint histogram [bins^3], sum 1, of uint8 RGB [H, W, 3].

    The bin of a value is floor(value * bins / 255), at most the last.
    """
    levels = np.minimum(np.arange(256) * bins // 255, bins - 1)
    red, green, blue = (levels[image[..., channel]] for channel in range(3))
    joint = ((red * bins + green) * bins + blue).ravel()
    return np.bincount(joint, minlength=bins**3) / max(1, joint.size)
