"""Errors of 68 landmarks as in the 300-W challenge.

Sagonas, Tzimiropoulos, Zafeiriou, Pantic: 300 Faces in-the-Wild Challenge (ICCV
Workshops 2013): the mean distance of the points over the distance of the outer corners
of the eyes.
"""

import numpy as np

OUTER_EYE_CORNERS = (36, 45)
LIMIT = 0.08  # of the cumulative curve, and of a failure
FAILED = 1.0  # error of a face without points


def eye_distances(points: np.ndarray) -> np.ndarray:
    """Returns the distance [N] of the outer eye corners of landmarks [N, 68, 2]."""
    first, second = OUTER_EYE_CORNERS
    return np.linalg.norm(points[:, first] - points[:, second], axis=1)


def normalised_errors(
    points: np.ndarray, truth: np.ndarray, found: np.ndarray | None = None
) -> np.ndarray:
    """Returns the normalised mean error [N] of landmarks [N, 68, 2].

    The mean distance of the points to the true ones, over the true distance of the
    outer eye corners.

    Args:
      found: bool [N]; False for a face without points, whose error is `FAILED`.

    Raises:
      ValueError: for arrays of different or other shapes, and for true eye corners at
        one place.
    """
    if points.shape != truth.shape or points.shape[1:] != (68, 2):
        raise ValueError(
            f"landmarks {points.shape} and {truth.shape}; expected [N, 68, 2] twice"
        )
    eyes = eye_distances(truth)
    if not (eyes > 0).all():
        raise ValueError(f"face {int(np.argmin(eyes))}: its eye corners are one point")
    errors = np.linalg.norm(points - truth, axis=2).mean(axis=1) / eyes
    return errors if found is None else np.where(found, errors, FAILED)


def cumulative(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ascending errors [N], and the share [N] of faces up to each of them."""
    return np.sort(errors), np.arange(1, len(errors) + 1) / len(errors)


def area_under_curve(errors: np.ndarray, limit: float = LIMIT) -> float:
    """Returns the area under the cumulative curve from 0 to `limit`, over `limit`.

    The exact integral of the step function: 1 for errors of 0, 0 for errors above the
    limit.
    """
    return float(np.mean(np.maximum(limit - errors, 0)) / limit)


def failure_rate(errors: np.ndarray, limit: float = LIMIT) -> float:
    """Returns the share of errors above `limit`."""
    return float(np.mean(errors > limit))


def mean_shape(truth: np.ndarray) -> np.ndarray:
    """Returns the mean [68, 2] of landmarks [N, 68, 2] in crops of one size.

    As an answer to every crop of the set itself it has a lower error than the mean
    shape of another set: a strict baseline.
    """
    return truth.mean(axis=0)
