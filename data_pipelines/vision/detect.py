"""Face detection with five points: OpenCV's YuNet, with a model file of the user."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError

# YuNet's training size; the longest side of an image is scaled to it. Without the
# enlargement, images of 200 pixels (HELEN, AFW) take a sixth of the time and give as
# many faces, but the errors of the points are 25 % larger.
LONGEST = 640
_PROBES = ((320, 320), (192, 448))  # height and width of blank images
# Outputs of YuNet: stride of their cells and values per cell.
_OUTPUTS = {
    f"{name}_{stride}": (stride, values)
    for name, values in {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}.items()
    for stride in (8, 16, 32)
}


class Detection(NamedTuple):
    box: np.ndarray  # x, y, width, height in pixels; edges at integers
    points: np.ndarray  # [5, 2], in the template's order; pixel centres at integers
    score: float


class YuNet:
    """A detector: image -> faces, largest first.

    Args:
      model: the .onnx file (OpenCV 5 needs the 2026may one).
      threshold: lowest score of a face.
      longest: side in pixels to which the longer side of an image is scaled.

    Raises:
      DataError: for a missing file, and one that OpenCV cannot run as YuNet. Blank
        images are tried at once.
    """

    def __init__(
        self, model: str | Path, threshold: float = 0.6, longest: int = LONGEST
    ):
        self._model, self._longest = str(model), longest
        if not Path(model).is_file():
            raise DataError(
                f"{model}: no such detector file; the OpenCV model zoo has YuNet"
            )
        with self._refusing():
            _check_outputs(cv2.dnn.readNetFromONNX(self._model))
            size = _PROBES[0]
            self._net = cv2.FaceDetectorYN.create(self._model, "", size, threshold)
            self._net.detect(np.zeros((*size, 3), np.uint8))

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Returns the faces of a uint8 RGB image [H, W, 3]."""
        scale = self._longest / max(image.shape[:2])
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
        with self._refusing():
            self._net.setInputSize(size)
            _, rows = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        faces = []
        for row in () if rows is None else rows:
            points = (row[4:14].reshape(5, 2) + 0.5) / ratio - 0.5
            faces.append(Detection(row[:4] / [*ratio, *ratio], points, float(row[14])))
        return faces

    @contextlib.contextmanager
    def _refusing(self):
        """Turns errors of OpenCV, and of another network, into a DataError."""
        levels = cv2.utils.logging
        level = levels.setLogLevel(levels.LOG_LEVEL_SILENT)
        try:
            yield
        except (cv2.error, ValueError) as error:
            reason = getattr(error, "err", "") or str(error)
            raise DataError(
                f"{self._model}: OpenCV {cv2.__version__} cannot load it as a YuNet "
                f"detector ({' '.join(reason.split())[:200]}); the OpenCV model zoo "
                "has YuNet"
            ) from None
        finally:
            levels.setLogLevel(level)


def _check_outputs(net: cv2.dnn.Net) -> None:
    """Raises a ValueError unless blank images of two sizes give the outputs of YuNet.

    OpenCV does not check them, and reads beyond outputs that are too short.
    """
    names = net.getUnconnectedOutLayersNames()
    if sorted(names) != sorted(_OUTPUTS):
        raise ValueError(f"its outputs are {', '.join(names)[:100]}")
    for height, width in _PROBES:
        net.setInput(np.zeros((1, 3, height, width), np.float32))
        for name, output in zip(names, net.forward(names)):
            stride, values = _OUTPUTS[name]
            shape = (1, height // stride * (width // stride), values)
            if getattr(output, "shape", None) != shape or output.dtype != np.float32:
                raise ValueError(f"its output {name} is not float32 {shape}")
            if not np.isfinite(output).all():
                raise ValueError(f"its output {name} has non-finite values")


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
