"""Pose classes of yaws in degrees. NumPy."""

from collections.abc import Sequence

import numpy as np

from fr_jax.errors import UserError


def reach(angles: Sequence[float], *, unsigned: bool = False) -> tuple[float, float]:
    """Returns the lowest and the highest yaw of the classes: half a step beyond them.

    All beyond where the outermost class is a profile.

    Args:
      angles: degrees, ascending, two or more.
      unsigned: left and right are one pose.
    """
    steps = np.diff(np.asarray(angles, float))
    low = -180.0 if angles[0] <= -90 else angles[0] - steps[0] / 2
    high = 180.0 if angles[-1] >= 90 else angles[-1] + steps[-1] / 2
    return (-high if unsigned else low), high


def nearest(
    yaws: np.ndarray, angles: Sequence[float], *, unsigned: bool = False
) -> np.ndarray:
    """Returns for each yaw the number of the nearest angle, int32; -1 where it is NaN.

    Half-way between two angles the greater one counts, which for steps of 15 from -90
    on is floor((yaw + 97.5) / 15) as in the authors' program.

    Args:
      angles, unsigned: see `reach`.
    """
    centres, yaws = np.asarray(angles, float), np.asarray(yaws, float)
    yaws = np.abs(yaws) if unsigned else yaws
    found = np.searchsorted((centres[1:] + centres[:-1]) / 2, yaws, side="right")
    return np.where(np.isnan(yaws), -1, found).astype(np.int32)


def classes(
    yaws: np.ndarray, angles: Sequence[float], *, unsigned: bool = False
) -> np.ndarray:
    """Returns the pose class of each yaw, as `nearest`.

    Raises:
      UserError: for a yaw out of the angles' reach.
    """
    low, high = reach(angles, unsigned=unsigned)
    outside = np.flatnonzero((yaws < low) | (yaws > high))
    if len(outside):
        raise UserError(
            f"{len(outside):,} pose labels are out of range, as image {outside[0]:,} "
            f"with a yaw of {yaws[outside[0]]:g} degrees; the angles end at "
            f"{angles[0]:g} and {angles[-1]:g}: use more angles, or leave such images "
            "out (config.data.records.drop_beyond)"
        )
    return nearest(yaws, angles, unsigned=unsigned)
