"""The faces found in a video so far, in files that an interrupted run goes on with."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import DataError, images
from data_pipelines.vision import align
from data_pipelines.vision.crop import context_window, window_crop
from data_pipelines.vision.detect import Detection
from data_pipelines.vision.frames import Frame

CROP, ALIGNED = 256, 112  # sides of the stored images in pixels
IMAGES = "images.bin"
_OPTIONS, _FACES = "options.json", "faces.csv"
FILES = (_OPTIONS, _FACES, IMAGES)


class Found(NamedTuple):
    """One detected face in pixels of the video, and where its images are stored."""

    frame: int
    time: float
    shot: int
    box: np.ndarray  # x, y, width, height
    points: np.ndarray  # [5, 2]
    score: float
    offset: int  # of the crop in the file of images, followed by the aligned face
    lengths: tuple[int, int]


class Spool:
    """The faces found so far and their images, in files to which frames are appended.

    A context manager. The last frame of an interrupted run may be incomplete: it is
    dropped.

    Attributes:
      faces: all faces.
      done: frames below this number need no search.
    """

    def __init__(self, part: Path, options: dict[str, Any]):
        self._part, self._options = part, options
        self.faces: list[Found] = []
        self.done = 0

    def __enter__(self) -> "Spool":
        end = images_end = 0
        if self._part.exists():
            self._check_options()
            end, images_end = self._read()
        else:
            self._part.mkdir(parents=True)
            (self._part / _OPTIONS).write_text(json.dumps(self._options))
        for name, length in ((_FACES, end), (IMAGES, images_end)):
            with (self._part / name).open("ab") as file:
                file.truncate(length)
        self._rows = (self._part / _FACES).open("a", newline="", encoding="utf-8")
        self._images = (self._part / IMAGES).open("ab")
        self._offset = images_end
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._rows.close()
        self._images.close()
        if kind is not None and not self.faces:
            shutil.rmtree(self._part)

    def by_frame(self) -> dict[int, list[int]]:
        """Returns the numbers of the faces of each frame that has some."""
        frames: dict[int, list[int]] = {}
        for number, face in enumerate(self.faces):
            frames.setdefault(face.frame, []).append(number)
        return frames

    def add(self, frame: Frame, shot: int, faces: Sequence[Detection]) -> list[int]:
        """Stores the faces of a frame; returns their numbers."""
        first, text = len(self.faces), io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        for one in faces:
            window = context_window(one.box, frame.image.shape[1::-1])
            crop = window_crop(frame.image, window, CROP)
            aligned = align.crop(frame.image, one.points, ALIGNED)
            data = [images.encode_jpeg(image) for image in (crop, aligned)]
            lengths = len(data[0]), len(data[1])
            for encoded in data:
                self._images.write(encoded)
            time = round(frame.time, 4)
            where = self._offset, lengths
            self.faces.append(Found(frame.number, time, shot, *one, *where))
            rows.writerow(row_of(self.faces[-1]) + [self._offset, *lengths])
            self._offset += sum(lengths)
        if faces:
            self._images.flush()
            self._rows.write(text.getvalue())
            self._rows.flush()
        return list(range(first, len(self.faces)))

    def _check_options(self) -> None:
        try:
            stored = json.loads((self._part / _OPTIONS).read_text())
        except (OSError, ValueError):
            stored = None
        if not isinstance(stored, dict):
            raise DataError(
                f"{self._part} exists and is no unfinished folder of this command; "
                "choose another folder or remove it"
            )
        for name, value in self._options.items():
            if stored.get(name) != value:
                raise DataError(
                    f"{self._part} was begun with {name} {stored.get(name)!r}, not "
                    f"{value!r}: repeat it to resume, choose another folder, or remove "
                    "this one"
                )

    def _read(self) -> tuple[int, int]:
        """Reads the faces of complete frames; returns the lengths of both files."""
        path = self._part / _FACES
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        try:
            faces = [_found(line.decode().strip().split(",")) for line in lines]
        except (ValueError, IndexError):
            raise DataError(f"{path}: damaged; remove {self._part}") from None
        last = faces[-1].frame if faces else 0
        kept = [face for face in faces if face.frame < last]
        self.faces, self.done = kept, last
        ends = kept[-1].offset + sum(kept[-1].lengths) if kept else 0
        stored = self._part / IMAGES
        if not stored.exists() or stored.stat().st_size < ends:
            raise DataError(f"{stored}: damaged; remove {self._part}")
        return sum(map(len, lines[: len(kept)])), ends


def row_of(face: Found) -> list[str | int]:
    """Returns the columns of a face, without that of its tracklet."""
    places = (format(value, ".2f") for value in (*face.box, *face.points.ravel()))
    return [
        *(face.frame, f"{face.time:.4f}", face.shot, *places),
        f"{face.score:.3f}",
    ]


def _found(row: list[str]) -> Found:
    values = np.array(row[3:17], float)
    offset, *lengths = map(int, row[18:21])
    return Found(
        *(int(row[0]), float(row[1]), int(row[2])),
        *(values[:4], values[4:].reshape(5, 2), float(row[17])),
        *(offset, (lengths[0], lengths[1])),
    )
