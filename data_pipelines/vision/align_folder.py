"""Alignment of the faces in a folder of photographs."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2

from data_pipelines import DataError, images
from data_pipelines.listing import list_images
from data_pipelines.names import written
from data_pipelines.readers import landmark_files
from data_pipelines.readers.image_folder import no_images
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
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> tuple[list[dict], Counter[str]]:
    """Aligns the largest face in each image to the template.

    Returns a row per image, and the number of files that are no images, by kind.

    The target folder appears when the last face is written, with the rows in
    alignment.csv: file, faces (number detected), score, misfit, note. The 68 landmarks
    in a file beside a photograph (`landmark_files`) are aligned with it, to a .pts.

    Args:
      legacy_bgr: swap red and blue for the detector, as in USynthFace.
      progress: iterates over the names and shows the progress, as tqdm does.

    Raises:
      DataError: for a missing folder, a target that exists or is inside the source, and
        images without any face.
    """
    names, skipped = list_images(source)
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
        rows = _align(source, part, names, detector, size, legacy_bgr, progress, beside)
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
        _, points, score = faces[0]
        misfit = align.residual(points)
        row |= {"score": f"{score:.3f}", "misfit": f"{misfit:.4f}"}
        if misfit > _PROFILE:
            row["note"] = "points far from the template: a profile, or wrongly detected"
        written_to = _write(align.crop(image, points, size), part / name)
        if name in beside:
            try:
                landmarks = landmark_files.read(beside[name])
            except DataError as error:
                row["note"] = str(error)
                continue
            matrix = align.similarity(points, align.template(size))
            moved = landmarks @ matrix[:, :2].T + matrix[:, 2]
            landmark_files.write(written_to.with_suffix(".pts"), moved)
    if not any(row["score"] for row in rows):
        raise DataError(f"{source}: no face found in any of {len(names)} images")
    with (part / "alignment.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _write(face, path: Path) -> Path:
    """Writes a face as a JPEG; returns its path."""
    target = path.with_suffix(".jpg")
    if target.exists():  # of a.jpg; this is a.png
        target = path.with_name(path.name + ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
    # OpenCV itself takes only names in UTF-8.
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    target.write_bytes(encoded.tobytes())
    return target
