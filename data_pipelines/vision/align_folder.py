"""Alignment of the faces in a folder of photographs."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from data_pipelines import DataError, images
from data_pipelines.listing import list_images
from data_pipelines.names import written
from data_pipelines.readers import landmark_files
from data_pipelines.readers.image_folder import no_images
from data_pipelines.vision import align, detect
from data_pipelines.vision import crop as crops

_BAD = ".bad"
_PROFILE = 0.08  # a larger misfit of the points needs a check
_COLUMNS = ("file", "faces", "score", "misfit", "note")
_CROP, _CROPS = 112, 64  # side of the crops for landmarks, and their number in a batch

# Square crops uint8 RGB [n, S, S, 3] of 1.3 times a face box -> (x, y) in their pixels
# [n, 68, 2].
Landmarks = Callable[[np.ndarray], np.ndarray]


def align_folder(
    source: Path,
    target: Path,
    detector: detect.YuNet,
    *,
    size: int = 112,
    legacy_bgr: bool = False,
    landmarks: Landmarks | None = None,
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> tuple[list[dict], Counter[str]]:
    """Aligns the largest face in each image to the template.

    Returns a row per image, and the number of files that are no images, by kind.

    The target folder appears when the last face is written, with the rows in
    alignment.csv: file, faces (number detected), score, misfit, note. The 68 landmarks
    in a file beside a photograph (`landmark_files`) are aligned with it, to a .pts.
    Images with the suffix .bad, by which CMU Face Images marks damaged ones, are left
    out and counted.

    Args:
      legacy_bgr: swap red and blue for the detector, as in USynthFace.
      landmarks: finds the landmarks of photographs that have none beside them.
      progress: iterates over the names and shows the progress, as tqdm does.

    Raises:
      DataError: for a missing folder, a target that exists or is inside the source, and
        images without any face.
    """
    listed, skipped = list_images(source)
    names = [name for name in listed if not name.endswith(_BAD)]
    if marked := len(listed) - len(names):
        skipped[f"images marked {_BAD}"] = marked
    if not names:
        raise DataError(no_images(source, skipped))
    if target.exists():
        raise DataError(f"{target} exists; choose another folder or remove it")
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{target} is inside {source}; choose another folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    suffixes = [one for one in landmark_files.SUFFIXES if skipped[one]]
    beside = {
        name: path
        for name in (names if suffixes else ())
        if (path := landmark_files.beside(source / name, suffixes))
    }
    skipped -= Counter(Path(path).suffix for path in {*beside.values()})
    try:
        found = _Landmarks(landmarks, size)
        options = size, legacy_bgr, progress, beside, found
        rows = _align(source, part, names, detector, *options)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return rows, skipped


def _align(
    source: Path,
    part: Path,
    names: list[str],
    detector: detect.YuNet,
    size: int,
    legacy_bgr: bool,
    progress: Callable[[list[str]], Iterable[str]],
    beside: Mapping[str, str],
    found: "_Landmarks",
) -> list[dict]:
    """Writes aligned faces and alignment.csv to `part`; returns the rows."""
    rows = []
    for name in progress(names):
        row = dict.fromkeys(_COLUMNS, "") | {"file": written(name), "faces": 0}
        rows.append(row)
        try:
            image = images.decode(images.read_file(source / name))
        except DataError as error:
            row["note"] = str(error)
            continue
        searched = image[..., ::-1].copy() if legacy_bgr else image
        faces = detect.detect_or_pad(detector, searched)
        row["faces"] = len(faces)
        if not faces:
            row["note"] = "no face found"
            continue
        box, points, score = faces[0]
        misfit = align.residual(points)
        row |= {"score": f"{score:.3f}", "misfit": f"{misfit:.4f}"}
        if misfit > _PROFILE:
            row["note"] = "points far from the template: a profile, or wrongly detected"
        target = _write(align.crop(image, points, size), part / name)
        target = target.with_suffix(".pts")
        if name not in beside:
            found.add(image, box, points, target)
            continue
        try:
            landmarks = landmark_files.read(beside[name])
        except DataError as error:
            row["note"] = str(error)
            continue
        landmark_files.write(target, _aligned(landmarks, points, size))
    found.flush()
    if not any(row["score"] for row in rows):
        raise DataError(f"{source}: no face found in any of {len(names)} images")
    with (part / "alignment.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


class _Landmarks:
    """Finds the landmarks of photographs in batches, and writes them aligned.

    Args:
      find: None writes none.
      size: side of the aligned faces.
    """

    def __init__(self, find: Landmarks | None, size: int):
        self._find, self._size = find, size
        self._waiting: list[tuple[crops.Crop, np.ndarray, Path]] = []

    def add(
        self, image: np.ndarray, box: np.ndarray, points: np.ndarray, target: Path
    ) -> None:
        """Adds a photograph with its face box and five points."""
        if self._find is None:
            return
        # YuNet's edges are at integers, as those of pixels are at halves.
        face = crops.face_crop(image, box - (0.5, 0.5, 0, 0), _CROP)
        self._waiting.append((face, points, target))
        if len(self._waiting) == _CROPS:
            self.flush()

    def flush(self) -> None:
        """Writes the landmarks of all that were added."""
        if self._find is None or not self._waiting:
            return
        images = np.stack([face.image for face, _, _ in self._waiting])
        for found, (face, points, path) in zip(self._find(images), self._waiting):
            landmark_files.write(path, _aligned(face.back(found), points, self._size))
        self._waiting.clear()


def _aligned(landmarks: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Returns landmarks [n, 2] in pixels of the aligned face; five points align it."""
    matrix = align.similarity(points, align.template(size))
    return landmarks @ matrix[:, :2].T + matrix[:, 2]


def _write(face, path: Path) -> Path:
    """Writes a face as a JPEG; returns its path."""
    target = path.with_suffix(".jpg")
    if target.exists():  # of a.jpg; this is a.png
        target = path.with_name(path.name + ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(images.encode_jpeg(face))
    return target
