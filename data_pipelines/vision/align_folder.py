"""Alignment of the faces in a folder of photographs."""

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from data_pipelines import DataError, images
from data_pipelines.vision import align, detect

_PROFILE = 0.08  # a larger misfit of the points needs a check
_COLUMNS = ("file", "faces", "score", "misfit", "note")


def align_folder(
    source: Path,
    target: Path,
    detector: detect.YuNet,
    *,
    size: int = 112,
    legacy_bgr: bool = False,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
) -> list[dict]:
    """Returns a row per image after aligning the largest face in each to the template.

    The target folder appears when the last face is written, with the rows in
    alignment.csv: file, faces (number detected), score, misfit, note.

    Args:
      legacy_bgr: swap red and blue for the detector, as in USynthFace.
      progress: iterates over the files and shows the progress, as tqdm does.

    Raises:
      DataError: for a missing folder, a target that exists or is inside the source, and
        images without any face.
    """
    paths = images.list_images(source)
    if not paths:
        raise DataError(f"{source}: no .jpg, .jpeg or .png below it")
    if target.exists():
        raise DataError(f"{target} exists; choose another folder or remove it")
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{target} is inside {source}; choose another folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        rows = _align(source, part, paths, detector, size, legacy_bgr, progress)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return rows


def _align(
    source: Path,
    part: Path,
    paths: list[Path],
    detector: detect.YuNet,
    size: int,
    legacy_bgr: bool,
    progress: Callable[[list[Path]], Iterable[Path]],
) -> list[dict]:
    """Writes aligned faces and alignment.csv to `part`; returns the rows."""
    rows = []
    for path in progress(paths):
        name = path.relative_to(source)
        row = dict.fromkeys(_COLUMNS, "") | {"file": name.as_posix(), "faces": 0}
        rows.append(row)
        try:
            image = images.decode(images.read_file(path), upright=True)
        except (DataError, OSError) as error:
            row["note"] = str(error)
            continue
        searched = image[..., ::-1].copy() if legacy_bgr else image
        faces = detect.detect_or_pad(detector, searched)
        row["faces"] = len(faces)
        if not faces:
            row["note"] = "no face found"
            continue
        _, points, score = faces[0]
        misfit = align.residual(points)
        row |= {"score": f"{score:.3f}", "misfit": f"{misfit:.4f}"}
        if misfit > _PROFILE:
            row["note"] = "points far from the template: a profile, or wrongly detected"
        _write(align.crop(image, points, size), part / name)
    if not any(row["score"] for row in rows):
        raise DataError(f"{source}: no face found in any of {len(paths)} images")
    with (part / "alignment.csv").open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _write(face, path: Path) -> None:
    target = path.with_suffix(".jpg")
    if target.exists():  # of a.jpg; this is a.png
        target = path.with_name(path.name + ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(target), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise DataError(f"{target}: could not be written; is the disk full?")
