"""Pose classes of yaws."""

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.systems.dr_gan import poses

SEVEN = (-45, -30, -15, 0, 15, 30, 45)


def test_yaws_map_to_the_nearest_angle():
    yaws = np.array([-97, -90, -82.6, -82.5, 0, 7.49, 7.5, 90, 120, np.nan])
    labels = poses.classes(yaws, range(-90, 91, 15))
    assert labels.tolist() == [0, 0, 0, 1, 6, 6, 7, 12, 12, -1]
    assert poses.classes(np.array([-52, 52.5]), SEVEN).tolist() == [0, 6]
    sides = poses.classes(np.array([0, -90, 90, 30]), (0, 90), unsigned=True)
    assert sides.tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match="1 pose labels are out of range, .* image 1"):
        poses.classes(np.array([0, 53]), SEVEN)
    assert poses.nearest(np.array([53]), SEVEN).tolist() == [6]


def test_reach_is_half_a_step_beyond_the_outermost_angles():
    assert poses.reach(SEVEN) == (-52.5, 52.5)
    assert poses.reach((0, 30, 90)) == (-15, 180)
    assert poses.reach((0, 30, 60), unsigned=True) == (-75, 75)
