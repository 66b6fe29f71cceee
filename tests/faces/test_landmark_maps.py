"""Landmark pictures of 68 fixed points, against NumPy's arithmetic and OpenCV."""

import cv2
import numpy as np
import pytest

from fr_jax.faces.landmark_maps import faithful_landmarks, landmark_maps, loosened


def fixed_points() -> np.ndarray:
    """Returns 68 points, float32 [68, 2], of a photograph of 224 pixels."""
    number = np.arange(68)
    x = 112 + (40 + number % 23) * np.cos(0.37 * number)
    y = 128 + (45 + number % 19) * np.sin(0.37 * number)
    return np.stack([x, y], axis=1).astype(np.float32)


def bilinear(image: np.ndarray) -> np.ndarray:
    """Returns an image enlarged to 112 x 112: pixel centres, edges repeated."""

    def along(length):
        source = np.clip((np.arange(112) + 0.5) * length / 112 - 0.5, 0, length - 1)
        low = np.floor(source).astype(int)
        return low, np.minimum(low + 1, length - 1), source - low

    low, high, share = along(image.shape[0])
    rows = image[low] * (1 - share)[:, None] + image[high] * share[:, None]
    low, high, share = along(image.shape[1])
    return rows[:, low] * (1 - share)[None] + rows[:, high] * share[None]


def cropped(points: np.ndarray) -> np.ndarray:
    """Returns the dots of points in 112 pixels, cropped as by the authors' program."""
    x, y = np.clip(points, 0, 111).astype(int).T
    dots = np.zeros((112, 112))
    dots[y, x] = 1
    return dots[y.min() : y.max(), x.min() : x.max()]


@pytest.mark.parametrize(
    ("draw", "shift"), [(landmark_maps, 0), (faithful_landmarks, 10)]
)
def test_maps_of_fixed_points(draw, shift):
    points = fixed_points()
    (actual,) = np.asarray(draw(points[None], 224))
    assert actual.shape == (112, 112, 1) and actual.dtype == np.uint8
    tight = cropped(points / 2 + shift)
    # Sums of products of multiples of 1 / 224: half a pixel is exact up to rounding.
    expected = bilinear(tight) > 0.5 + 1e-9
    np.testing.assert_array_equal(actual[..., 0], expected)
    assert (actual[..., 0] != (cv2.resize(tight, (112, 112)) > 0.5)).sum() <= 2
    assert 60 < actual.sum() < 2000


def test_published_shift_moves_points_beyond_the_frame_to_its_edge():
    points = fixed_points() + np.float32([[80, 0]])
    repaired, faithful = (
        np.asarray(draw(points[None], 224))
        for draw in (landmark_maps, faithful_landmarks)
    )
    assert (repaired != faithful).any()
    # The clipped points are in the last column, which the crop leaves out.
    assert len(np.unique(np.clip(points[:, 0] / 2 + 10, 0, 111))) < 68


def test_landmarks_of_aligned_faces_fit_into_a_loose_frame():
    chin = np.float32([[[56, 128], [-10, 60], [120, 60], [56, 30]]])
    moved = loosened(chin, 112)
    assert (moved >= 0).all() and (moved <= 111).all()
    np.testing.assert_allclose(loosened(2 * chin, 224), 2 * moved, rtol=1e-6)
    # A similarity: distances are scaled alike.
    before, after = np.diff(chin[0], axis=0), np.diff(moved[0], axis=0)
    np.testing.assert_allclose(after, 0.63 * before, rtol=1e-5)
