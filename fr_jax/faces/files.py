"""Files of rendered faces: labelled folders, videos with their tracks."""

import csv
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fr_jax.errors import UserError
from fr_jax.faces import sets, video
from fr_jax.faces.renderer import codes as named

_QUALITY = 95
_OPTIONS = "options.json"  # of an unfinished folder
BYTES_PER_PIXEL = 0.75  # upper estimate for a JPEG of this quality
_BOX = ("x", "y", "w", "h")
_FIVE = ("lx", "ly", "rx", "ry", "nx", "ny", "mlx", "mly", "mrx", "mry")
_SIXTY_EIGHT = tuple(f"{axis}{point}" for point in range(68) for axis in "xy")
_TRACK = ("track", "frame", "shot", *_BOX, *_FIVE, "score", "file")
_LABELS = (
    *("file", "identity", "age", "yaw", "pitch", "roll"),
    *("expression", "light", "session"),
)
_CODES = (
    *(f"identity.{name}" for name in named.TRAITS),
    *(f"identity.pattern{k}" for k in range(named.PATTERN_SIZE)),
    *(f"expression.{name}" for name in named.MOVEMENTS),
    *("camera.distance", "camera.right", "camera.down"),
    *(f"light.{k}.{channel}" for k in range(9) for channel in "rgb"),
    *(f"style.{name}" for name in named.STYLE),
    *(f"imaging.{name}" for name in named.IMAGING),
)
_MIN_VISIBLE = 0.35  # smallest visible share of a head that counts as a face
# Zhang et al., ECCV 2016: 16 of 227 pixels of context on each side, enlarged 2.2 times.
_CROP = 227 / (227 - 2 * 16) * 2.2


def jpeg(image: np.ndarray) -> bytes:
    """Returns the JPEG of a uint8 RGB image."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def check_free(target: Path) -> None:
    """Raises UserError if the target exists or is not on a local disk."""
    if "://" in str(target) or ":/" in str(target):
        raise UserError(
            f"--to {target}: folders go to a local disk; use --format records there"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists; choose another folder or remove it")


class LabelledFolder:
    """Writer of <identity>/<image>.jpg and labels.csv, a context manager.

    The files are in TARGET.part until they are complete. With the same options writing
    resumes after the last complete row. After an error, one without rows is removed.

    Args:
      options: JSON values that must be equal for writing to resume.
      lists: texts of further files by name.
      columns: names of further numbers of a row; by default the renderer's codes.
      dense: rows have 68 landmarks and a box.

    Attributes:
      done: number of rows written by an earlier run.
      last: file of the last of them; '' for none.

    Raises:
      UserError: if TARGET.part has rows of other options, or files of another origin.
    """

    def __init__(
        self,
        target: Path,
        options: dict[str, Any],
        lists: Mapping[str, str],
        *,
        columns: Sequence[str] = _CODES,
        dense: bool = True,
    ):
        self._target, self._lists, self._dense = target, lists, dense
        self._columns = columns
        self.part = target.with_name(target.name + ".part")
        self._settings = json.dumps(options)
        self._table = self.part / "labels.csv"
        self.done, self.last, self._end = 0, "", 0
        if self.part.exists() and not (self.part.is_dir() and _is_empty(self.part)):
            stored = _stored(self.part)
            self.done, self.last, self._end = _complete_rows(self._table)
            if self.done:
                _check_equal(self.part, stored, json.loads(self._settings))

    def __enter__(self) -> "LabelledFolder":
        if self.done:
            os.truncate(self._table, self._end)
        else:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
            (self.part / _OPTIONS).write_text(self._settings)
            points = (*_BOX, *_FIVE, *_SIXTY_EIGHT) if self._dense else _FIVE
            header = (*_LABELS, *points, *self._columns)
            self._table.write_text(",".join(header) + "\n")
        self._file = self._table.open("a", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._has_rows = bool(self.done)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._file.close()
        if kind is None:
            for name, text in self._lists.items():
                (self.part / name).write_text(text)
            self.part.rename(self._target)
            (self._target / _OPTIONS).unlink()
        elif not self._has_rows:
            shutil.rmtree(self.part)

    def add(self, face: Any, numbers: Iterable[float]) -> None:
        """Writes an image, then its row, which ends with `numbers`."""
        path = self.part / face.source
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(face.image)
        self._has_rows = True
        points = face.landmarks5.ravel()
        if self._dense:
            points = (*face.box, *points, *face.landmarks68.ravel())
        self._rows.writerow(
            [
                *(face.source, face.identity),
                *_format(".6g", (face.age, face.yaw, face.pitch, face.roll)),
                *(face.expression, face.light, face.session),
                *_format(".2f", points),
                *_format(".6g", numbers),
            ]
        )


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def _stored(part: Path) -> dict[str, Any]:
    """Returns the options of an unfinished folder; UserError for other files."""
    try:
        stored = json.loads((part / _OPTIONS).read_text())
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, dict):
        raise UserError(
            f"{part} exists and is no unfinished folder of this command; choose "
            "another --to or remove it"
        )
    return stored


def _check_equal(part: Path, stored: dict[str, Any], options: dict[str, Any]) -> None:
    """Raises a UserError that names the options of an unfinished folder that differ."""
    texts = [
        f"{name} is {options.get(name)!r:.60}, there {stored.get(name)!r:.60}"
        for name in dict.fromkeys((*options, *stored))
        if options.get(name) != stored.get(name)
    ]
    if texts:
        raise UserError(
            f"{part} has images with other options: {'; '.join(texts)}. Repeat these "
            "to resume, choose another --to, or remove the folder"
        )


def _complete_rows(table: Path) -> tuple[int, str, int]:
    """Returns the number of complete rows, the last one's file, the length up to it.

    The table may be larger than the memory.
    """
    count, last, end = -1, b"", 0  # without the header
    if table.is_file():
        with table.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    count, last, end = count + 1, line, end + len(line)
    if count < 1:
        return 0, "", 0
    return count, last.partition(b",")[0].decode(), end


def numbers(codes: named.Codes) -> tuple[float, ...]:
    """Returns the renderer's codes as numbers, in the order of the columns."""
    return (
        *(*codes.identity, *codes.expression, *codes.camera),
        *(*codes.light.ravel(), *codes.style, *codes.imaging),
    )


def _format(spec: str, numbers: Iterable[float]) -> list[str]:
    return [format(number, spec) for number in numbers]


def write_video(
    target: Path,
    frames: Iterable[video.Frame],
    size: tuple[int, int],
    crop: int,
    seed: int,
) -> tuple[int, int]:
    """Writes a video and its ground truth; returns the numbers of tracks and of faces.

    group.mp4; group_tracks.csv, one row per face, whose `score` is the visible share of
    the head; t<track>/<frame>.jpg, squares of `crop` pixels around each face.
    """
    frames = iter(frames)
    first = next(frames)  # compiles, which a signal cannot interrupt
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        counts = _write_frames(part, itertools.chain([first], frames), size, crop, seed)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def _write_frames(
    part: Path,
    frames: Iterable[video.Frame],
    size: tuple[int, int],
    crop: int,
    seed: int,
) -> tuple[int, int]:
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    clip = cv2.VideoWriter(str(part / "group.mp4"), codec, video.RATE, size)
    if not clip.isOpened():
        raise UserError(f"OpenCV {cv2.__version__} cannot write {part / 'group.mp4'}")
    tracks: dict[tuple[int, int], int] = {}
    num_faces = 0
    with (part / "group_tracks.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*_TRACK, "identity", "yaw", "pitch", "roll", *_SIXTY_EIGHT])
        for number, frame in enumerate(frames):
            clip.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
            heads = zip(*frame[2:], sets.face_boxes(frame.landmarks68))
            for identity, five, sixty_eight, pose, visible, box in heads:
                if visible < _MIN_VISIBLE:
                    continue
                track = tracks.setdefault((frame.shot, int(identity)), len(tracks))
                name = f"t{track:03}/{number:04}.jpg"
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(jpeg(_square(frame.image, box, crop)))
                rows.writerow(
                    [
                        *(track, number, frame.shot),
                        *_format(".1f", (*box, *five.ravel())),
                        *(f"{visible:.2f}", name),
                        sets.identity_name(seed, sets.FIRST_UNSEEN + int(identity)),
                        *_format(".1f", (*pose, *sixty_eight.ravel())),
                    ]
                )
                num_faces += 1
    clip.release()
    return len(tracks), num_faces


def _square(image: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """Returns face and hair: a square around a box, cropped at the frame's edges."""
    half = _CROP / 2 * max(box[2], box[3])
    centre = box[:2] + box[2:] / 2
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(centre - half), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(centre + half), 0, (width, height)).astype(int)
    return cv2.resize(image[top:bottom, left:right], (side, side))
