"""Face detection with five points: OpenCV's YuNet on a model file of the user's."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError

# Longest side that is searched; larger images are searched scaled down.
_LONGEST = 640


class Detection(NamedTuple):
    box: np.ndarray  # x, y, width, height in pixels
    points: np.ndarray  # [5, 2], in the template's order
    score: float


class YuNet:
    """A detector: image -> faces, largest first.

    Args:
      model: the .onnx file (OpenCV 5 needs the 2026may one).
      threshold: least score of a face.

    Raises:
      DataError: for a file that is missing or that OpenCV does not take.
    """

    def __init__(self, model: str | Path, threshold: float = 0.6):
        if not Path(model).is_file():
            raise DataError(f"{model}: no such detector file")
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold)
        except cv2.error as error:
            raise DataError(
                f"{model}: OpenCV {cv2.__version__} cannot load it as a YuNet detector "
                f"({error.err or error})"
            ) from None

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Returns the faces of a uint8 RGB image [H, W, 3]."""
        height, width = image.shape[:2]
        scale = min(1.0, _LONGEST / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        searched = image
        if scale < 1:
            searched = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._net.setInputSize(size)
        _, found = self._net.detect(cv2.cvtColor(searched, cv2.COLOR_RGB2BGR))
        faces = [
            Detection(row[:4] / scale, row[4:14].reshape(5, 2) / scale, float(row[14]))
            for row in ([] if found is None else found)
        ]
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def detect_or_pad(detector: YuNet, image: np.ndarray) -> list[Detection]:
    """Returns the faces; where none is found, those of the image with a margin.

    A face that fills its image is often found only with some background around it. The
    coordinates are those of the image as it was given.
    """
    faces = detector(image)
    if faces:
        return faces
    margin = max(image.shape[:2]) // 2
    sides = ((margin, margin), (margin, margin), (0, 0))
    padded = np.pad(image, sides, mode="edge")
    shift = np.array([margin, margin])
    return [
        Detection(face.box - [*shift, 0, 0], face.points - shift, face.score)
        for face in detector(padded)
    ]
