"""Accuracies with intervals: numbers of the literature and of formulas."""

import numpy as np
import pytest

from fr_jax.metrics import classification


def test_wilson_interval():
    """8 of 10, as in tables of the interval; all of 10 is not certain."""
    true = np.arange(10)
    predicted = np.where(true < 8, true, -1)
    estimate = classification.top1(predicted, true)
    np.testing.assert_allclose(estimate, (0.8, 0.4901625, 0.9433178), atol=1e-4)
    z2 = 1.959964**2
    estimate = classification.top1(true, true)
    np.testing.assert_allclose(estimate, (1, 10 / (10 + z2), 1), atol=1e-4)
    with pytest.raises(ValueError, match="no rows"):
        classification.top1(true[:0], true[:0])


def test_students_interval():
    half = 4.302653 / np.sqrt(3)  # t of two degrees of freedom
    estimate = classification.mean_interval(np.array([1, 2, 3]))
    np.testing.assert_allclose(estimate, (2, 2 - half, 2 + half), atol=1e-5)
    mean, low, high = classification.mean_interval(np.array([5.0]))
    assert mean == 5 and np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="no values"):
        classification.mean_interval(np.array([]))


def test_paired_differences_ignore_what_is_common():
    common = np.array([0.1, 0.9, 0.5])
    shifted = common + np.array([0.1, 0.1, 0.1])
    estimate = classification.paired_difference(shifted, common)
    np.testing.assert_allclose(estimate, (0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="equal lengths"):
        classification.paired_difference(common, common[:2])


def test_confusion_counts_rows_by_true_class():
    counts = classification.confusion([0, 0, 1, 2, 0], [0, 1, 1, 0, 1], 4)
    assert counts.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
