"""Face detection with five points: OpenCV's YuNet, with a model file of the user."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError

# YuNet's training size; the longest side of every image is scaled to it. Without the
# enlargement, images of 200 pixels (HELEN, AFW) take a sixth of the time and give as
# many faces, but the errors of the points are 25 % larger.
_LONGEST = 640


class Detection(NamedTuple):
    box: np.ndarray  # x, y, width, height in pixels; edges at integers
    points: np.ndarray  # [5, 2], in the template's order; pixel centres at integers
    score: float


class YuNet:
    """A detector: image -> faces, largest first.

    Args:
      model: the .onnx file (OpenCV 5 needs the 2026may one).
      threshold: lowest score of a face.

    Raises:
      DataError: for a missing file, and one that OpenCV cannot load.
    """

    def __init__(self, model: str | Path, threshold: float = 0.6):
        if not Path(model).is_file():
            raise DataError(
                f"{model}: no such detector file; the OpenCV model zoo has YuNet"
            )
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
        faces = self._search(image, scale)
        if not faces and scale > 1:  # a face that fills the image may be too large
            faces = self._search(image, 1.0)
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])

    def _search(self, image: np.ndarray, scale: float) -> list[Detection]:
        height, width = image.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        ratio = np.array(size) / (width, height)
        if size != (width, height):
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            image = cv2.resize(image, size, interpolation=method)
        self._net.setInputSize(size)
        _, rows = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        faces = []
        for row in () if rows is None else rows:
            points = (row[4:14].reshape(5, 2) + 0.5) / ratio - 0.5
            faces.append(Detection(row[:4] / [*ratio, *ratio], points, float(row[14])))
        return faces


def detect_or_pad(detector: YuNet, image: np.ndarray) -> list[Detection]:
    """Returns the faces of an image, or of the image with a margin if there are none.

    A face that fills the image is often detected only with background around it. The
    coordinates are those of the image without the margin.
    """
    if faces := detector(image):
        return faces
    margin = max(image.shape[:2]) // 2
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return [
        Detection(face.box - [margin, margin, 0, 0], face.points - margin, face.score)
        for face in detector(padded)
    ]
