"""Folders of photographs -> folders of aligned faces."""

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from data_pipelines import DataError, images
from data_pipelines.vision import align, detect

_PROFILE = 0.08  # misfit of the points from which they are worth a look


def align_folder(
    source: Path,
    target: Path,
    detector: detect.YuNet,
    *,
    size: int = 112,
    legacy_bgr: bool = False,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
) -> list[dict]:
    """Warps the largest face of every image below a folder into the template.

    The target is put in place when the last face is written, with alignment.csv.

    Args:
      legacy_bgr: the detector sees red for blue, as USynthFace's did.
      progress: iterates over the files and shows how far it is, as tqdm does.

    Returns:
      A row for each image: file, faces, score, misfit, note.

    Raises:
      DataError: for a missing folder, a target that exists or lies in the source, and
        where no face is found at all.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    paths = list(images.list_images(source))
    if not paths:
        raise DataError(f"{source}: no .jpg, .jpeg or .png below it")
    if target.exists():
        raise DataError(f"{target} exists; choose another folder or remove it")
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{target} lies in {source}; aligned faces would be aligned again"
        )
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    rows = []
    for path in progress(paths):
        name = path.relative_to(source)
        row = {
            "file": name.as_posix(),
            "faces": 0,
            "score": "",
            "misfit": "",
            "note": "",
        }
        rows.append(row)
        try:
            image = images.decode(images.read_file(path), upright=True)
        except (DataError, OSError) as error:
            row["note"] = str(error)
            continue
        seen = image[..., ::-1].copy() if legacy_bgr else image
        found = detect.detect_or_pad(detector, seen)
        row["faces"] = len(found)
        if not found:
            row["note"] = "no face found"
            continue
        misfit = align.residual(found[0].points)
        row |= {"score": f"{found[0].score:.3f}", "misfit": f"{misfit:.4f}"}
        if misfit > _PROFILE:
            row["note"] = "points far from the template: a profile, or wrongly detected"
        _write(align.crop(image, found[0].points, size), part / name)
    if not any(row["score"] for row in rows):
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(f"{source}: no face found in any of {len(paths)} images")
    with (part / "alignment.csv").open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    part.rename(target)
    return rows


def _write(face, place: Path) -> None:
    target = place.with_suffix(".jpg")
    if target.exists():  # a.png beside a.jpg
        target = place.with_name(place.name + ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(target), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise DataError(f"{target}: could not be written; is the disk full?")
