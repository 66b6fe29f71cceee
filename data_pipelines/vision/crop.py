"""Square crops of photographs around face boxes."""

from typing import NamedTuple

import cv2
import numpy as np

MARGIN = 1.3  # side of the square as a multiple of the longer side of the box
# Of a crop with hair and shoulders (Zhang et al., ECCV 2016): the padding of a network
# input of 227 pixels, then 2.2 times the size.
CONTEXT = 227 / (227 - 2 * 16) * 2.2


class Crop(NamedTuple):
    """A square of an image, resized.

    Attributes:
      image: uint8 RGB [S, S, 3].
      centre: (x, y) of the square in pixels of the image, pixel centres at integers.
      side: of the square, in pixels of the image.
    """

    image: np.ndarray
    centre: np.ndarray
    side: float

    def into(self, points: np.ndarray) -> np.ndarray:
        """Returns points [n, 2] of the image in pixels of the crop."""
        size = self.image.shape[0]
        return (points - self.centre) / self.side * size + (size - 1) / 2

    def back(self, points: np.ndarray) -> np.ndarray:
        """Returns points [n, 2] of the crop in pixels of the image."""
        size = self.image.shape[0]
        return (points - (size - 1) / 2) / size * self.side + self.centre


def face_crop(
    image: np.ndarray, box: np.ndarray, size: int, margin: float = MARGIN
) -> Crop:
    """Returns the square of `margin` times the longer side of a box, at its centre.

    Averaged over pixel areas where the square is larger than the crop, else bilinear;
    outside of the image its edge is repeated.

    Args:
      image: uint8 RGB [H, W, 3].
      box: x, y, width, height; pixel centres at integers.
      size: side of the crop in pixels.

    Raises:
      ValueError: for a box without an extent.
    """
    extent = np.asarray(box[2:], float)
    side = margin * float(extent.max())
    if not side > 0:
        raise ValueError(f"a face box of {extent[0]:g}x{extent[1]:g} pixels")
    centre = np.asarray(box[:2], float) + extent / 2
    height, width = image.shape[:2]
    ratio = np.ones(2)
    if size < side:
        shrunk = [max(1, round(length * size / side)) for length in (width, height)]
        ratio = np.array(shrunk) / (width, height)
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    step = side * ratio / size  # pixels of `image` per pixel of the crop
    start = (centre + 0.5) * ratio - 0.5 - step * (size - 1) / 2
    source = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    cropped = cv2.warpAffine(
        image, source, (size, size), flags=flags, borderMode=border
    )
    return Crop(cropped, centre, side)


def context_window(
    box: np.ndarray, limits: tuple[int, int], margin: float = CONTEXT
) -> np.ndarray:
    """Returns x, y, width, height, integers, of a face with its surroundings.

    The square of `margin` times the longer side of a box, at its centre, clipped at the
    edges of an image (Zhang et al., ECCV 2016).

    Args:
      box: x, y, width, height.
      limits: width and height of the image.
    """
    half = margin / 2 * max(box[2], box[3])
    centre = np.asarray(box[:2], float) + np.asarray(box[2:], float) / 2
    low = np.clip(np.floor(centre - half), 0, np.subtract(limits, 1)).astype(int)
    high = np.clip(np.ceil(centre + half), low + 1, limits).astype(int)
    return np.concatenate([low, high - low])


def window_crop(image: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """Returns a window of an image, resized to a square, uint8 RGB [size, size, 3].

    A window that is no square changes its proportions, as in Zhang et al.
    """
    x, y, width, height = window
    method = cv2.INTER_AREA if size < max(width, height) else cv2.INTER_LINEAR
    part = image[y : y + height, x : x + width]
    return cv2.resize(part, (size, size), interpolation=method)


def points_box(points: np.ndarray) -> np.ndarray:
    """Returns the box (x, y, width, height) of points [n, 2]."""
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, high - low])


def intersection(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the area common to two boxes (x, y, width, height)."""
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    return float(np.prod(np.maximum(high - low, 0)))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the intersection of two boxes (x, y, width, height) over their union."""
    common = intersection(first, second)
    union = float(np.prod(first[2:]) + np.prod(second[2:])) - common
    return common / union if union > 0 else 0.0
