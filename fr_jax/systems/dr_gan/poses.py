"""Pose classes of yaws in degrees. NumPy."""

from collections.abc import Sequence

import numpy as np

from fr_jax.errors import UserError


def reach(angles: Sequence[float], *, unsigned: bool = False) -> tuple[float, float]:
    """Returns the lowest and highest yaw of the classes, half a step beyond the angles.

    A profile as outermost class (-90 or 90) extends to -180 or 180 degrees.

    Args:
      angles: degrees, ascending, two or more.
      unsigned: left and right yaws are the same pose.
    """
    steps = np.diff(np.asarray(angles, float))
    low = -180.0 if angles[0] <= -90 else angles[0] - steps[0] / 2
    high = 180.0 if angles[-1] >= 90 else angles[-1] + steps[-1] / 2
    return (-high if unsigned else low), high


def nearest(
    yaws: np.ndarray, angles: Sequence[float], *, unsigned: bool = False
) -> np.ndarray:
    """Returns the index of the angle nearest to each yaw, int32; -1 for NaN.

    Half-way between two angles it is the greater one: for steps of 15 from -90 on,
    floor((yaw + 97.5) / 15) as in the authors' program.

    Args:
      angles, unsigned: see `reach`.
    """
    centres, yaws = np.asarray(angles, float), np.asarray(yaws, float)
    yaws = np.abs(yaws) if unsigned else yaws
    index = np.searchsorted((centres[1:] + centres[:-1]) / 2, yaws, side="right")
    return np.where(np.isnan(yaws), -1, index).astype(np.int32)


def classes(
    yaws: np.ndarray, angles: Sequence[float], *, unsigned: bool = False
) -> np.ndarray:
    """Returns the pose class of each yaw, as `nearest`.

    Raises:
      UserError: for a yaw beyond `reach`.
    """
    low, high = reach(angles, unsigned=unsigned)
    outside = np.flatnonzero((yaws < low) | (yaws > high))
    if len(outside):
        raise UserError(
            f"{len(outside):,} pose labels are out of range, such as image "
            f"{outside[0]:,} with a yaw of {yaws[outside[0]]:g} degrees; angles are "
            f"{angles[0]:g} to {angles[-1]:g}: use more angles, or leave such images "
            "out (config.data.records.drop_beyond)"
        )
    return nearest(yaws, angles, unsigned=unsigned)
