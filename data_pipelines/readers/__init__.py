"""Readers of foreign data sets: each yields `Face` records or raises a DataError."""

import math
from typing import NamedTuple

import numpy as np

NOTHING = np.zeros((0, 2), np.float32)


class Face(NamedTuple):
    """One aligned face and its labels; the defaults are the unknown values.

    `image` holds the encoded bytes, unchanged, `label` is the class (-1: unknown), and
    `source` the origin, such as a path. Angles are in degrees, landmarks (x, y) and
    `box` (x, y, width, height) in pixels, `time` in seconds.
    """

    image: bytes
    label: int = -1
    identity: str = ""
    source: str = ""
    age: float = math.nan
    yaw: float = math.nan
    pitch: float = math.nan
    roll: float = math.nan
    expression: str = ""
    light: int = -1
    session: int = -1
    landmarks5: np.ndarray = NOTHING
    landmarks68: np.ndarray = NOTHING
    video: str = ""
    frame: int = -1
    time: float = math.nan
    shot: int = -1
    track: int = -1
    box: tuple[float, ...] = (math.nan,) * 4
    quality: float = math.nan
