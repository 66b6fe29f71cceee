"""Evaluation of a landmark regressor: rendered faces, photographs with .pts."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from fr_jax.augment import landmarks as crops
from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.faces import sets
from fr_jax.metrics import landmarks as metrics
from fr_jax.report import landmarks as report

SIZE = 112  # side of the crops


class Cropped(NamedTuple):
    """Crops of faces with their true landmarks.

    Attributes:
      images: uint8 [N, S, S, 3].
      points: float32 [N, 68, 2] in pixels of the crops.
      found: bool [N]; False where no face was found, whose crop is meaningless.
      names: of the images.
    """

    images: np.ndarray
    points: np.ndarray
    found: np.ndarray
    names: Sequence[str] = ()


@dataclasses.dataclass(eq=False)
class Landmarks:
    """Evaluates the network 'landmarks' on crops.

    `nme` is the mean normalised error, the failures `FAILED` each; `nme:mean_shape` is
    the error of the set's own mean shape as the answer to every crop; see
    `metrics.landmarks`.

    Attributes:
      name: of the set, the prefix of the results.
      errors, answers: of the last evaluation: [N], and [N, 68, 2] in pixels of crops.
    """

    name: str
    faces: Cropped
    errors: np.ndarray | None = dataclasses.field(default=None, init=False)
    answers: np.ndarray | None = dataclasses.field(default=None, init=False)

    @property
    def metric_names(self) -> list[str]:
        """The names of the results."""
        ends = ("nme", "nme:mean_shape", "auc@nme=0.08", "failure_rate@nme=0.08")
        return [f"{self.name}/{end}" for end in (*ends, "missed")]

    def __call__(self, trained: Trained) -> dict[str, float]:
        """Returns the results; rates and errors as shares."""
        _, truth, found, _ = self.faces
        self.answers = trained.networks["landmarks"].points(self.faces.images)
        self.errors = metrics.normalised_errors(self.answers, truth, found)
        shape = metrics.mean_shape(truth[found] if found.any() else truth)
        constant = np.broadcast_to(shape, truth.shape)
        values = (
            self.errors.mean(),
            metrics.normalised_errors(constant, truth, found).mean(),
            metrics.area_under_curve(self.errors),
            metrics.failure_rate(self.errors),
            np.mean(~found),
        )
        return dict(zip(self.metric_names, map(float, values), strict=True))

    def subset(self, count: int) -> "Landmarks":
        """Returns the first `count` faces, to be evaluated during training."""
        if count >= len(self.faces.images):
            return self
        images, points, found, names = self.faces
        some = Cropped(images[:count], points[:count], found[:count], names[:count])
        return Landmarks(f"{self.name}:{count}", some)

    def draw(self, folder: epath.Path) -> list[epath.Path]:
        """Draws the cumulative curve of the last evaluation; returns its path."""
        assert self.errors is not None
        path = folder / f"landmark_errors_{self.name}.png"
        report.cumulative_errors({self.name: self.errors}, path)
        return [path]


def rendered(arrays: dict[str, np.ndarray], size: int = SIZE) -> Cropped:
    """Returns crops of rendered faces in a loose frame, around `sets.face_boxes`.

    Args:
      arrays: `image` and `landmarks68`, see `sets.arrays`.
    """

    @jax.jit
    def cropped(images, points, boxes):
        squares = crops.boxed_squares(boxes)
        inside = crops.into_crops(points, squares, size)
        return crops.crop(images, squares, size).round().astype("uint8"), inside

    points = arrays["landmarks68"]
    boxes = sets.face_boxes(points)
    images, inside = map(np.asarray, cropped(arrays["image"], points, boxes))
    return Cropped(images, inside, np.ones(len(images), bool))


def photographs(
    path: str, detector: Any = None, size: int = SIZE, progress: Any = lambda _: None
) -> Cropped:
    """Returns crops of the photographs of a folder or .tar with .pts.

    Args:
      detector: image -> detections, such as `YuNet`: of several faces the one that
        overlaps the landmarks most is cropped. None: the box of the landmarks.
      progress: is called with each name.

    Raises:
      DataError: see `data_pipelines.readers.landmark_photographs`.
    """
    from data_pipelines.readers import landmark_photographs
    from data_pipelines.vision import crop
    from data_pipelines.vision.detect import detect_or_pad

    images, points, found, names = [], [], [], []
    for name, image, true in landmark_photographs.read(path):
        progress(name)
        own = crop.points_box(true)
        box: np.ndarray | None = own
        if detector is not None:
            # YuNet's edges are at integers, as those of pixels are at halves.
            boxes = [
                face.box - (0.5, 0.5, 0, 0) for face in detect_or_pad(detector, image)
            ]
            overlaps = functools.partial(crop.overlap, own)
            box = max(boxes, key=overlaps, default=None)
            box = None if box is None or not overlaps(box) else box
        found.append(box is not None)
        face = crop.face_crop(image, own if box is None else box, size)
        images.append(face.image)
        points.append(face.into(true).astype(np.float32))
        names.append(name)
    return Cropped(np.stack(images), np.stack(points), np.array(found), names)


def photograph_sets(
    path: str, detector: str, name: str = "photographs"
) -> list[Landmarks]:
    """Returns evaluators of photographs: detected boxes if there is a detector, own.

    Args:
      detector: file of YuNet; '' for the boxes of the landmarks alone.

    Raises:
      UserError: for a detector without photographs.
    """
    from data_pipelines.vision.detect import YuNet

    if not path:
        if detector:
            raise UserError("a detector, but no photographs: give both or neither")
        return []
    evaluators = [Landmarks(f"{name}_points_box", photographs(path))]
    if detector:
        faces = photographs(path, YuNet(detector))
        evaluators.insert(0, Landmarks(name, faces))
    return evaluators
