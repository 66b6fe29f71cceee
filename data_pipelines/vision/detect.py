"""Face detection with five points: OpenCV's YuNet on a model file of the user's."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError

# The side that YuNet learnt at: every image is searched with its longest side as long.
# In images of 200 pixels it finds as many faces unenlarged, in a sixth of the time, but
# its points then lie a quarter farther off (HELEN's and AFW's photographs).
_LONGEST = 640


class Detection(NamedTuple):
    box: np.ndarray  # x, y, width, height in pixels, by its edges
    points: np.ndarray  # [5, 2], in the template's order; centres at whole numbers
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
        scale = _LONGEST / max(image.shape[:2])
        found = self._search(image, scale)
        if not found and scale > 1:  # a face that fills it may be too large now
            found = self._search(image, 1.0)
        return sorted(found, key=lambda face: -face.box[2] * face.box[3])

    def _search(self, image: np.ndarray, scale: float) -> list[Detection]:
        height, width = image.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        ratio = np.array(size) / (width, height)
        if size != (width, height):
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            image = cv2.resize(image, size, interpolation=method)
        self._net.setInputSize(size)
        _, found = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return [
            Detection(
                row[:4] / [*ratio, *ratio],
                (row[4:14].reshape(5, 2) + 0.5) / ratio - 0.5,
                float(row[14]),
            )
            for row in ([] if found is None else found)
        ]


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
    return [
        Detection(face.box - [margin, margin, 0, 0], face.points - margin, face.score)
        for face in detector(padded)
    ]
