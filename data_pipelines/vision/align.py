"""Alignment of faces to the standard template by a similarity of five points."""

import cv2
import numpy as np

from data_pipelines import DataError

# insightface's template: left eye, right eye, nose, left and right corner of the mouth
# (left in the image), x and y in a crop of 112 x 112 pixels.
ARCFACE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


def template(size: int = 112) -> np.ndarray:
    """Returns the five points [5, 2] of a crop of `size` pixels.

    Multiples of 128, except of 112, are scaled by size / 128 and moved right by the
    margin of such crops, 8 px at 128; other sizes are the scaled crop of 112.
    """
    if size % 112 and size % 128 == 0:
        return ARCFACE * (size / 128) + (8 * size / 128, 0)
    return ARCFACE * (size / 112)


def similarity(
    source: np.ndarray, target: np.ndarray, *, method: str = "umeyama"
) -> np.ndarray:
    """Returns the matrix [2, 3] of the similarity from source points to target points.

    Args:
      source, target: float [N, 2], x and y.
      method: 'umeyama', least squares in the target (Umeyama 1991), or 'inverse_ls',
        least squares in the source, then inverted, as MATLAB's cp2tform and
        InsightFace_Pytorch do. They agree for an exact fit only.

    Raises:
      DataError: for coinciding points, and an unknown method.
    """
    if method == "inverse_ls":
        matrix = np.vstack([similarity(target, source), (0, 0, 1)])
        return np.linalg.inv(matrix)[:2]
    if method != "umeyama":
        raise DataError(f"method {method!r}: use 'umeyama' or 'inverse_ls'")
    source, target = np.asarray(source, float), np.asarray(target, float)
    mean_s, mean_t = source.mean(0), target.mean(0)
    spread = source.var(0).sum()
    if not spread > 0:
        raise DataError("points that coincide have no similarity transform")
    covariance = (target - mean_t).T @ (source - mean_s) / len(source)
    u, values, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, -1.0 if np.linalg.det(covariance) < 0 else 1.0])
    rotation = u * sign @ vt
    scale = (values * sign).sum() / spread
    return np.column_stack([scale * rotation, mean_t - scale * rotation @ mean_s])


def residual(points: np.ndarray, size: int = 112) -> float:
    """Returns the distance of aligned points to the template: root mean square / size.

    It is large for profiles and for wrongly detected points.
    """
    target = template(size)
    matrix = similarity(points, target)
    aligned = points @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(np.mean((aligned - target) ** 2)) / size)


def crop(image: np.ndarray, points: np.ndarray, size: int = 112) -> np.ndarray:
    """Returns the face of an image, aligned to the template, uint8 [size, size, C].

    Bilinear, black outside the image.
    """
    return cv2.warpAffine(image, similarity(points, template(size)), (size, size))
