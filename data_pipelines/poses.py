"""Pose classes of yaws in degrees."""

from collections.abc import Sequence

import numpy as np

from data_pipelines import DataError

FIFTEENS = tuple(range(-90, 91, 15))


def classes(
    yaws: np.ndarray, angles: Sequence[float], *, unsigned: bool = False
) -> np.ndarray:
    """Returns for each yaw the number of the nearest angle, int32; -1 where it is NaN.

    Half-way between two angles the greater one counts, which for `FIFTEENS` is
    floor((yaw + 97.5) / 15) as in the authors' program.

    Args:
      angles: degrees, ascending, two or more.
      unsigned: left and right are one, as where nobody noted the side.

    Raises:
      DataError: for angles that do not ascend, and for a yaw that none of them is near:
        beyond the outermost by more than a step, unless that is a profile.
    """
    centres, yaws = np.asarray(angles, float), np.asarray(yaws, float)
    steps = np.diff(centres)
    if len(centres) < 2 or (steps <= 0).any():
        raise DataError(f"angles {list(angles)}: give two or more, ascending")
    yaws = np.abs(yaws) if unsigned else yaws
    low = -180.0 if angles[0] <= -90 or unsigned else angles[0] - steps[0]
    high = 180.0 if angles[-1] >= 90 else angles[-1] + steps[-1]
    outside = np.flatnonzero((yaws < low) | (yaws > high))
    if len(outside):
        raise DataError(
            f"{len(outside):,} pose labels are out of range, as image {outside[0]:,} "
            f"with a yaw of {yaws[outside[0]]:g} degrees; the angles end at "
            f"{angles[0]:g} and {angles[-1]:g}: use more angles, or fewer images"
        )
    found = np.searchsorted((centres[1:] + centres[:-1]) / 2, yaws, side="right")
    return np.where(np.isnan(yaws), -1, found).astype(np.int32)
