"""Readers of foreign data sets: each yields `Face` records, or says what is wrong."""

import math
from typing import NamedTuple

import numpy as np

NOTHING = np.zeros((0, 2), np.float32)


class Face(NamedTuple):
    """One aligned face and what is known of it; what is not known has its default.

    `image` is the encoded image as it came, `label` the class (-1: unknown), `source`
    where it came from. Angles are degrees, landmarks (x, y) pixels, `box` x, y, width,
    height in pixels.
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
    shot: int = -1
    track: int = -1
    box: tuple[float, ...] = (math.nan,) * 4
    quality: float = math.nan
