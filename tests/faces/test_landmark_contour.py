"""Landmarks without rendering: the jaw of a turned face on its visible contour."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.augment.landmarks import MIRROR
from fr_jax.faces.renderer import codes
from fr_jax.faces.renderer.render import project_landmarks

POSES = [(0, 0, 0), (45, 0, 0), (-45, 0, 0), (45, 0, 20)]  # yaw, pitch, roll
SIZE = 112


@functools.cache
def projected():
    """Fixed and contour points [4, 68, 2] of the mean face in the poses."""
    rows = {name: jnp.zeros((4, *row)) for name, row in codes.SIZES.items()}
    faces = codes.Codes(**rows)._replace(
        age=jnp.full(4, 30.0),
        pose=jnp.array(POSES, jnp.float32),
        camera=jnp.tile(jnp.array([[25.0, 0.0, 0.0]]), (4, 1)),
    )
    both = (project_landmarks(faces, SIZE, "loose", contour) for contour in (0, 1))
    return [np.asarray(points) for points in both]


def test_only_the_far_side_of_the_jaw_moves():
    fixed, contour = projected()
    np.testing.assert_array_equal(contour[:, 17:], fixed[:, 17:])
    np.testing.assert_array_equal(contour[:, 8], fixed[:, 8])
    np.testing.assert_allclose(contour[0], fixed[0], atol=1.0)  # frontal
    moved = np.linalg.norm(contour[1:3, :17] - fixed[1:3, :17], axis=2)
    for row in moved:  # one side moves, the other stays
        left, right = row[:7].max(), row[10:].max()
        assert min(left, right) < 0.2 and max(left, right) > 2


def test_points_move_outwards():
    fixed, contour = projected()
    side = np.sign(np.arange(17) - 8)
    outward = side * (contour[1:3, :17, 0] - fixed[1:3, :17, 0])
    assert outward.min() > -0.01 and outward.max() > 0.5


def test_mirrored_poses_have_mirrored_points():
    _, contour = projected()
    mirrored = contour[2][MIRROR] * (-1, 1) + (SIZE - 1, 0)
    np.testing.assert_allclose(mirrored, contour[1], atol=0.05)


def test_roll_turns_the_image_alone():
    """About the centre of the loose frame, which is 3 % above the middle."""
    _, contour = projected()
    upright, rolled = contour[1], contour[3]
    centre = np.array([0.5, 0.47]) * SIZE - 0.5
    lengths = [np.linalg.norm(p - centre, axis=1) for p in (upright, rolled)]
    np.testing.assert_allclose(*lengths, atol=0.05)
    turned = (upright - centre)[:, 0] + 1j * (upright - centre)[:, 1]
    other = (rolled - centre)[:, 0] + 1j * (rolled - centre)[:, 1]
    angles = np.degrees(np.angle(other / turned))
    assert np.ptp(angles) == pytest.approx(0, abs=0.5)
    assert abs(np.mean(angles)) == pytest.approx(20, abs=0.5)
