"""Alignment: five points -> similarity transform -> face in the standard template."""

import cv2
import numpy as np

from data_pipelines import DataError

# Left eye, right eye, nose, left and right corner of the mouth (left as seen), x and y,
# in a crop of 112 x 112: insightface's template.
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

    Multiples of 128 are scaled by size / 128 and moved right by the 8 px margin that
    such crops have; other sizes are the 112 crop scaled.
    """
    if size % 112 and size % 128 == 0:
        return ARCFACE * (size / 128) + (8 * size / 128, 0)
    return ARCFACE * (size / 112)


def similarity(
    source: np.ndarray, target: np.ndarray, *, method: str = "umeyama"
) -> np.ndarray:
    """Returns the 2x3 matrix of the similarity that takes source points to target.

    Args:
      source, target: float [N, 2], x and y.
      method: 'umeyama', least squares in the target (Umeyama 1991), or 'inverse_ls',
        least squares in the source, then inverted, as MATLAB's cp2tform and
        InsightFace_Pytorch do. They differ where the fit is not exact.

    Raises:
      DataError: for points that coincide.
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
    """Returns how far aligned points lie from the template: root mean square / size.

    Large for profiles and for points that were found wrongly.
    """
    matrix = similarity(points, template(size))
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(np.mean((moved - template(size)) ** 2)) / size)


def crop(image: np.ndarray, points: np.ndarray, size: int = 112) -> np.ndarray:
    """Returns the face of an image warped into the template, uint8 [size, size, C].

    Bilinear, black outside the image.
    """
    return cv2.warpAffine(image, similarity(points, template(size)), (size, size))
