"""From photographs to FRA's faces: alignment, records, landmarks of a regressor."""

import functools
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fr_jax.embedder import Embedder
from fr_jax.errors import UserError, check_names
from fr_jax.faces import sets
from fr_jax.progress import progress_bar
from fr_jax.systems.fra import stored
from fr_jax.systems.fra.stored import say
from fr_jax.training.data import Context

Array = np.ndarray
FOLDER = "photographs_aligned"  # in the workdir
_ALIGNED, _RECORDS = "aligned", "records"  # in that folder
_ORIGIN = "origin.json"
_CROP = 112  # side of the regressor's crops
_CHUNK = 256  # images decoded at a time
# The mean face box of aligned frontal faces of 112 pixels: x, y, width, height.
_BOX = np.array([2.0, 14.0, 108.0, 108.0])


def points(regressor: Embedder, images: Any, *, progress: str = "") -> Array:
    """Returns landmarks float32 [N, 68, 2] of aligned faces, in their pixels.

    A regressor takes squares around a face box. In aligned images that box is off the
    centre if the face is turned, so every image is regressed twice: first around the
    mean box, then around the box of the points found.

    Args:
      regressor: embedder of kind 'landmarks'.
      images: uint8 RGB [N, S, S, 3], an array or an object with slices.
    """
    from data_pipelines.vision import crop

    found, starts = [np.zeros((0, 68, 2), np.float32)], range(0, len(images), _CHUNK)
    for start in progress_bar(starts, progress, disable=not progress, leave=False):
        faces = images[start : start + _CHUNK]
        boxes = np.tile(_BOX * (faces.shape[1] / 112), (len(faces), 1))
        for _ in range(2):
            crops = [
                crop.face_crop(face, box, _CROP) for face, box in zip(faces, boxes)
            ]
            inside = regressor.points(np.stack([one.image for one in crops]))
            outside = [one.back(face) for one, face in zip(crops, inside)]
            boxes = sets.face_boxes(np.stack(outside))
            boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)  # of an untrained regressor
        found.append(np.stack(outside).astype(np.float32))
    return np.concatenate(found)


def to_records(options: Any, context: Context) -> tuple[str, dict[str, int]]:
    """Aligns and converts the photographs of `config.data.photographs`.

    WORKDIR/photographs_aligned gets the aligned faces, with the landmarks of the
    regressor given as 'landmarks' if there is one, and the records. They are used again
    if files, detector, regressor and layout are the same; otherwise a line says so.

    Returns:
      Path of the records, and numbers of what was left out, by reason.

    Raises:
      UserError: for missing options, and several processes; DataError: see
        `align_folder` and the readers.
    """
    from data_pipelines.readers.layouts import LAYOUTS

    source, key = Path(options.path), "config.data.photographs"
    if not options.path:
        raise UserError(f"give the folder of photographs: --{key}.path=FOLDER")
    if not options.detector:
        raise UserError(
            f"{source}: photographs are aligned by the points of a face detector: "
            f"--{key}.detector=FILE (YuNet's .onnx, of the OpenCV model zoo)"
        )
    check_names(f"{key}.layout", [options.layout], LAYOUTS)
    remote = "://" in context.workdir
    if not context.workdir or remote or jax.process_count() > 1:
        raise UserError(
            f"{key} needs a local workdir and one process; otherwise use fr-jax data "
            "align and convert, and config.data.source='records'"
        )
    folder = Path(context.workdir) / FOLDER
    regressor = context.pretrained.get("landmarks")
    origin = {
        "photographs": f"{source}, {_digest(source)}",
        "layout": options.layout,
        "detector": _digest(Path(options.detector)),
        "landmarks": stored.identity(regressor) if regressor else "of files",
    }
    if about := _finished(folder, origin, context):
        return about["records"], about["left_out"]
    for left_over in (_ALIGNED, _RECORDS):  # nothing that a user may have put there
        shutil.rmtree(folder / left_over, ignore_errors=True)
    (folder / _ORIGIN).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    records, left_out = _convert(options, folder, regressor, context)
    about = {"origin": origin, "records": records, "left_out": left_out}
    part = folder / f"{_ORIGIN}.part"
    part.write_text(json.dumps(about, indent=1))
    part.replace(folder / _ORIGIN)
    return records, left_out


def _finished(folder: Path, origin: dict[str, str], context: Context) -> Any:
    """Returns what is stored of an earlier run with the same origin, or None."""
    try:
        about = json.loads((folder / _ORIGIN).read_text())
        if not Path(about["records"]).is_dir():
            return None
        before = about["origin"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    changed = [name for name in origin if before.get(name) != origin[name]]
    if not changed:
        say(context, f"{folder}: the faces are reused")
        return about
    for name in changed:
        say(context, f"{folder}: {name} {before.get(name)}; now {origin[name]}")
    return None


def _convert(
    options: Any, folder: Path, regressor: Embedder | None, context: Context
) -> tuple[str, dict[str, int]]:
    from data_pipelines.builders import faces  # loads TensorFlow
    from data_pipelines.readers.layouts import open_source
    from data_pipelines.vision import detect
    from data_pipelines.vision.align_folder import align_folder

    hidden = not context.show_progress
    source, aligned = Path(options.path), folder / _ALIGNED
    rows, skipped = align_folder(
        source,
        aligned,
        detect.YuNet(options.detector),
        landmarks=regressor.points if regressor else None,
        progress=functools.partial(progress_bar, label="aligning", disable=hidden),
    )
    reader = open_source(aligned, options.layout)
    name = re.sub(r"[^a-z0-9_]", "_", source.resolve().name.lower())
    name = name if name[:1].isalpha() else f"set_{name}"
    records, bad = faces.build(reader, folder / _RECORDS, name, source=str(source))
    left_out = {f"files: {kind}": count for kind, count in skipped.items()}
    left_out["photographs without a face"] = sum(not row["score"] for row in rows)
    left_out |= {**reader.skipped, "unusable images": len(bad)}
    left_out |= {".csv": 0, ".pts": 0}  # of the alignment
    if note := getattr(reader, "note", ""):
        say(context, f"note: {note}")
    return str(records), {reason: n for reason, n in left_out.items() if n}


def _digest(path: Path) -> str:
    """Returns a digest of a file, or of the names and contents below a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    hashed = hashlib.blake2b(digest_size=8)
    for one in files:
        if one.is_file():
            hashed.update(str(one.relative_to(path)).encode("utf-8", "surrogateescape"))
            hashed.update(one.read_bytes())
    return hashed.hexdigest()
