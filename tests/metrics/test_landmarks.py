"""Errors of landmarks: exact values of small cases."""

import numpy as np
import pytest

from fr_jax.metrics import landmarks


def faces(count=3):
    truth = np.random.default_rng(0).uniform(0, 50, (count, 68, 2))
    truth[:, 36], truth[:, 45] = (10, 20), (40, 60)  # 50 pixels apart
    return truth


def test_the_error_is_the_mean_distance_over_that_of_the_eye_corners():
    truth = faces()
    moved = truth + np.array([3.0, 4.0]) * np.array([0, 1, 2]).reshape(3, 1, 1)
    errors = landmarks.normalised_errors(moved, truth)
    np.testing.assert_allclose(errors, [0, 0.1, 0.2])
    one = truth.copy()
    one[0, 7] += (0, 34)  # a single point
    np.testing.assert_allclose(landmarks.normalised_errors(one, truth)[0], 0.01)


def test_a_face_without_points_counts_as_100_percent():
    truth, found = faces(), np.array([True, False, True])
    errors = landmarks.normalised_errors(truth, truth, found)
    assert errors.tolist() == [0, 1, 0]


def test_curve_area_and_failures():
    errors = np.array([0.02, 0.06, 0.5, 0.08])
    sorted_errors, shares = landmarks.cumulative(errors)
    assert sorted_errors.tolist() == [0.02, 0.06, 0.08, 0.5]
    assert shares.tolist() == [0.25, 0.5, 0.75, 1]
    expected = (0.06 + 0.02 + 0 + 0) / 4 / 0.08
    assert landmarks.area_under_curve(errors) == pytest.approx(expected)
    assert landmarks.failure_rate(errors) == 0.25
    assert landmarks.failure_rate(errors, 0.01) == 1
    # The area is that under the step function, integrated numerically.
    grid = (np.arange(8000) + 0.5) * 1e-5
    curve = (errors[None] <= grid[:, None]).mean()
    assert landmarks.area_under_curve(errors) == pytest.approx(curve, abs=1e-4)
    assert landmarks.area_under_curve(np.zeros(3)) == 1


def test_the_mean_shape_has_the_least_squared_error():
    truth = faces(20)
    mean = landmarks.mean_shape(truth)
    assert mean.shape == (68, 2)
    squares = [np.sum((truth - mean - shift) ** 2) for shift in (0, 0.1, -0.1)]
    assert squares[0] == min(squares)


def test_wrong_shapes_and_closed_eyes_are_refused():
    truth = faces()
    with pytest.raises(ValueError, match="expected .N, 68, 2. twice"):
        landmarks.normalised_errors(truth[:, :5], truth[:, :5])
    truth[1, 45] = truth[1, 36]
    with pytest.raises(ValueError, match="face 1: its eye corners are one point"):
        landmarks.normalised_errors(truth, truth)
