"""Frames of a video file, or of a folder of images, with their times."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError, images
from data_pipelines.listing import list_images
from data_pipelines.names import written

FOLDER_RATE = 25.0  # frames per second of a folder
_MAX_SIDE = 16_384
_ONLY_FILES = "protocol_whitelist;file"  # playlists must not open connections
# A stated number of frames is an estimate in files without an index of them.
_SHORT = 0.98


class Frame(NamedTuple):
    """One frame.

    Attributes:
      number: from 0.
      time: seconds from the start, as the file states it.
      image: uint8 RGB [H, W, 3], upright.
    """

    number: int
    time: float
    image: np.ndarray


class Frames:
    """The frames of a video, decoded one by one on iteration; none is kept.

    Args:
      path: a video file that OpenCV reads, or a folder of images, which are taken in
        the order of the numbers in their names, 25 per second.

    Attributes:
      stated: number of frames that the file states, or 0; it may be an estimate.
      rate: frames per second, the mean if they are not constant.
      size: width and height of an upright frame in pixels.
      read: number of frames of the last iteration.

    Raises:
      DataError: for a missing file, one that is no video, and a folder without images.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.read = 0
        self._names: list[str] = []
        if self.path.is_dir():
            self._names = sorted(list_images(self.path).names, key=_natural)
            if not self._names:
                raise DataError(f"{self.path}: no images; a folder of frames has some")
            self.stated, self.rate = len(self._names), FOLDER_RATE
            height, width = self._image(0).shape[:2]
        else:
            capture = self._opened()
            ok, first = capture.read()
            if not ok:
                capture.release()
                raise DataError(f"{self.path}: a video without a frame that decodes")
            height, width = first.shape[:2]
            stated, rate = (
                capture.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
            )
            capture.release()
            self.stated = int(stated) if 0 < stated < 1e9 else 0
            self.rate = rate if 0 < rate < 1000 else FOLDER_RATE
        if max(width, height) > _MAX_SIDE:
            raise DataError(
                f"{self.path}: frames of {width}x{height} pixels; at most "
                f"{_MAX_SIDE:,} a side are read"
            )
        self.size = width, height

    def __iter__(self) -> Iterator[Frame]:
        self.read = 0
        if self._names:
            for number in range(len(self._names)):
                yield Frame(number, number / self.rate, self._image(number))
                self.read = number + 1
            return
        capture = self._opened()
        try:
            while capture.grab():
                time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                ok, image = capture.retrieve()
                if not ok:
                    return
                number, self.read = self.read, self.read + 1
                yield Frame(number, time, self._checked(image, number))
        finally:
            capture.release()

    @property
    def break_off(self) -> str:
        """Says that the last iteration ended before the stated end, else ''."""
        if self.read >= _SHORT * self.stated:
            return ""
        return (
            f"{self.path}: ends after {self.read:,} of {self.stated:,} frames: "
            "truncated or damaged; the frames up to there are used"
        )

    def _opened(self) -> cv2.VideoCapture:
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such video")
        keys = {
            "OPENCV_FFMPEG_CAPTURE_OPTIONS": _ONLY_FILES,
            "OPENCV_FFMPEG_LOGLEVEL": "-8",
        }
        before = {key: os.environ.get(key) for key in keys}
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.update(keys)
        try:
            # The absolute path: OpenCV takes others for addresses and patterns.
            capture = cv2.VideoCapture(str(self.path.resolve()), cv2.CAP_FFMPEG)
        except cv2.error:
            capture = cv2.VideoCapture()
        finally:
            cv2.utils.logging.setLogLevel(level)
            for key, value in before.items():
                os.environ.pop(key)
                if value is not None:
                    os.environ[key] = value
        if not capture.isOpened():
            raise DataError(
                f"{self.path}: not a video that OpenCV {cv2.__version__} reads; "
                "convert it to H.264 in .mp4, or give a folder of its frames"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture

    def _image(self, number: int) -> np.ndarray:
        name = self._names[number]
        try:
            image = images.decode(images.read_file(self.path / name))
        except DataError as error:
            raise DataError(f"{self.path / written(name)}: {error}") from None
        return self._checked(image, number) if number else image

    def _checked(self, image: np.ndarray, number: int) -> np.ndarray:
        height, width = image.shape[:2]
        if (width, height) != self.size:
            raise DataError(
                f"{self.path}: frame {number:,} has {width}x{height} pixels, those "
                f"before it {self.size[0]}x{self.size[1]}; convert it to one size"
            )
        return image if self._names else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Returns a key that sorts frame9 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def scale_for(size: tuple[int, int], longest: int) -> float:
    """Returns the scale at which the longer side is at most `longest`."""
    return min(1.0, longest / max(size))


def scaled(image: np.ndarray, scale: float) -> np.ndarray:
    """Returns an image at a scale of at most 1, averaged over areas."""
    if scale == 1:
        return image
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
