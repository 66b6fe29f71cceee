"""Pose classes of yaws in degrees."""

from collections.abc import Sequence

import numpy as np

from data_pipelines import DataError


def reach(angles: Sequence[float], *, unsigned: bool = False) -> tuple[float, float]:
    """Returns the lowest and the highest yaw that one of the angles stands for.

    Half a step beyond the outermost ones; all beyond where that is a profile.

    Args:
      angles: degrees like the yaws, ascending, two or more.
      unsigned: left and right are one, as where nobody noted the side.

    Raises:
      DataError: for other angles.
    """
    steps = np.diff(np.asarray(angles, float))
    if len(angles) < 2 or (steps <= 0).any():
        raise DataError(f"angles {list(angles)}: give two or more, ascending")
    low = -180.0 if angles[0] <= -90 else angles[0] - steps[0] / 2
    high = 180.0 if angles[-1] >= 90 else angles[-1] + steps[-1] / 2
    return (-high if unsigned else low), high


def classes(
    yaws: np.ndarray, angles: Sequence[float], *, unsigned: bool = False
) -> np.ndarray:
    """Returns for each yaw the number of the nearest angle, int32; -1 where it is NaN.

    Half-way between two angles the greater one counts, which for steps of 15 from -90
    on is floor((yaw + 97.5) / 15) as in the authors' program.

    Args:
      angles, unsigned: see `reach`.

    Raises:
      DataError: for angles that do not ascend, and for a yaw out of their reach.
    """
    low, high = reach(angles, unsigned=unsigned)
    centres, yaws = np.asarray(angles, float), np.asarray(yaws, float)
    outside = np.flatnonzero((yaws < low) | (yaws > high))
    if len(outside):
        raise DataError(
            f"{len(outside):,} pose labels are out of range, as image {outside[0]:,} "
            f"with a yaw of {yaws[outside[0]]:g} degrees; the angles end at "
            f"{angles[0]:g} and {angles[-1]:g}: use more angles, or leave such images "
            "out (config.data.drop_beyond)"
        )
    yaws = np.abs(yaws) if unsigned else yaws
    found = np.searchsorted((centres[1:] + centres[:-1]) / 2, yaws, side="right")
    return np.where(np.isnan(yaws), -1, found).astype(np.int32)
