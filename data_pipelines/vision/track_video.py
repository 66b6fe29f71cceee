"""Tracklets of the faces in a video: detected, linked, cropped, stored as TFRecords."""

import csv
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError
from data_pipelines.readers import Face
from data_pipelines.vision import align, tracks
from data_pipelines.vision.crop import context_window
from data_pipelines.vision.detect import Detection
from data_pipelines.vision.face_spool import (
    ALIGNED,
    CROP,
    FILES,
    IMAGES,
    Found,
    Spool,
    row_of,
)
from data_pipelines.vision.frames import Frame, Frames, scale_for, scaled
from data_pipelines.vision.shots import ShotCounter

TABLE, ABOUT, PREVIEW = "tracks.csv", "about.json", "preview.mp4"
CROPS_NAME, ALIGNED_NAME = "crops", "aligned"  # sets of records
_BOX = ("x", "y", "w", "h")
_FIVE = ("lx", "ly", "rx", "ry", "nx", "ny", "mlx", "mly", "mrx", "mry")
COLUMNS = ("track", "frame", "time", "shot", *_BOX, *_FIVE, "score")
_LATER = (CROPS_NAME, ALIGNED_NAME, TABLE, ABOUT, PREVIEW)  # made from these
_PREVIEW_SIDE = 960
_COLOURS = 12

# uint8 RGB [H, W, 3] -> faces in its pixels.
Detect = Callable[[np.ndarray], Sequence[Detection]]
Progress = Callable[[Iterable[Frame], int, str], Iterable[Frame]]


class Tracks(NamedTuple):
    """The tracklets of a video.

    Attributes:
      faces: all detected faces.
      tracklets: numbers of the faces of each, in order of their first faces.
      num_frames: of the video.
      cuts: seconds at which each shot but the first begins.
      note: what to tell the user, or ''.
    """

    faces: list[Found]
    tracklets: list[list[int]]
    num_frames: int
    cuts: list[float]
    note: str

    def rows(self) -> Iterator[tuple[int, Found]]:
        """Yields (tracklet, face), ordered by frame."""
        owner = {
            face: number for number, one in enumerate(self.tracklets) for face in one
        }
        for face in sorted(owner):
            yield owner[face], self.faces[face]


def track_video(
    frames: Frames,
    target: Path,
    detect: Detect,
    tracker: tracks.Tracker,
    options: dict[str, Any],
    *,
    detect_size: int = 960,
    smallest: float = 20.0,
    preview: bool = True,
    progress: Progress = lambda frames, *_: frames,
    draw: Callable[[Tracks, Path], object] = lambda *_: None,
) -> Tracks:
    """Writes the tracklets of a video to a new folder.

    tracks.csv, a row per face; crops and aligned, TFRecords of faces with hair and
    shoulders at 256 pixels and of aligned faces at 112; preview.mp4, the frames with
    the tracklets drawn in; about.json.

    Everything is in TARGET.part until it is complete. With the same options a call
    resumes: frames that were searched are decoded again, and not searched again.

    Args:
      tracker: gets frames at most `detect_size` pixels long.
      options: JSON values that must be equal for the work to resume.
      smallest: longer side of the smallest face, in pixels of the video.
      progress: (frames, their number, what is done) -> the same frames.
      draw: (tracklets, folder) adds figures to the folder before it is complete.

    Raises:
      DataError: for a target that exists, other options than those of an unfinished
        folder, a video that changes its size, and one without a tracklet.
    """
    if target.exists():
        raise DataError(f"{target} exists; choose another folder or remove it")
    part = target.with_name(target.name + ".part")
    spool = Spool(part, options)
    scale = scale_for(frames.size, detect_size)
    with spool:
        found = _search(frames, spool, detect, tracker, scale, smallest, progress)
    if not found.tracklets:
        shutil.rmtree(part)
        faces = f"{len(found.faces):,}" if found.faces else "no"
        raise DataError(
            f"{frames.path}: {faces} faces in {found.num_frames:,} frames, and no "
            f"tracklet; faces below {smallest:g} pixels are left out (--smallest)"
        )
    for name in _LATER:
        path = part / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    _write_table(part / TABLE, found)
    _write_records(part, found, frames.path.name, frames.size)
    if preview:
        _write_preview(part / PREVIEW, frames, found, progress)
    counts = {
        "frames": found.num_frames,
        "shots": len(found.cuts) + 1,
        "faces": len(found.faces),
        "tracklets": len(found.tracklets),
        "faces_in_tracklets": sum(map(len, found.tracklets)),
        "width": frames.size[0],
        "height": frames.size[1],
        "rate": frames.rate,
        "note": found.note,
    }
    about = json.dumps({**options, **counts}, indent=1)
    (part / ABOUT).write_text(about + "\n", encoding="utf-8")
    draw(found, part)
    part.rename(target)
    for name in FILES:  # needed for resuming until now
        (target / name).unlink()
    return found


# --- detection and linking ------------------------------------------------------------


def _search(
    frames: Frames,
    spool: Spool,
    detect: Detect,
    tracker: tracks.Tracker,
    scale: float,
    smallest: float,
    progress: Progress,
) -> Tracks:
    """Returns the tracklets; new faces and their images are appended to the spool."""
    counter, shot = ShotCounter(), 0
    cuts: list[float] = []
    tracklets: list[list[int]] = []
    stored = spool.by_frame()
    for frame in progress(frames, frames.stated, "faces"):
        small = scaled(frame.image, scale)
        before, shot = shot, counter(small)
        if shot != before:
            tracklets += tracker.finish()
            cuts.append(frame.time)
        if frame.number < spool.done:
            numbers = stored.get(frame.number, [])
        else:
            numbers = spool.add(
                frame, shot, _kept(detect(small), small, scale, smallest)
            )
        faces = [spool.faces[number] for number in numbers]
        boxes = np.array([one.box for one in faces]).reshape(-1, 4)
        aligned = functools.partial(_aligned, frame.image, faces)
        view = tracks.View(small, scale, boxes, aligned)
        tracker.add(frame.number, numbers, view)
    tracklets += tracker.finish()
    tracklets.sort(key=lambda faces: faces[0])
    return Tracks(spool.faces, tracklets, frames.read, cuts, frames.break_off)


def _aligned(image: np.ndarray, faces: Sequence[Found]) -> np.ndarray:
    return np.stack([align.crop(image, face.points, ALIGNED) for face in faces])


def _kept(
    detections: Sequence[Detection], small: np.ndarray, scale: float, smallest: float
) -> list[Detection]:
    """Returns the faces to keep, in pixels of the video, from left to right."""
    faces = [
        Detection(
            np.round(one.box / scale, 2),
            np.round((one.points + 0.5) / scale - 0.5, 2),
            round(one.score, 3),
        )
        for one in detections
    ]
    height, width = (side / scale for side in small.shape[:2])
    faces = [
        one
        for one in faces
        if max(one.box[2:]) >= smallest
        and (one.box[:2] < (width, height)).all()
        and (one.box[:2] + one.box[2:] > 0).all()
        and np.ptp(one.points, axis=0).max() > 0
    ]
    faces.sort(key=lambda one: (*one.box[:2], -one.score))
    boxes = np.array([one.box for one in faces]).reshape(-1, 4)
    left = tracks.suppressed(boxes, np.array([one.score for one in faces]))
    return [faces[row] for row in left]


# --- what is made from them -----------------------------------------------------------


def _write_table(path: Path, found: Tracks) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for track, face in found.rows():
            rows.writerow([track, *row_of(face)])


def _write_records(
    part: Path, found: Tracks, video: str, frame_size: tuple[int, int]
) -> None:
    from data_pipelines.builders import faces  # loads TensorFlow

    for number, name in enumerate((CROPS_NAME, ALIGNED_NAME)):
        size = (CROP, ALIGNED)[number]
        with (part / IMAGES).open("rb") as images:
            stored = _records(images, found, video, number, frame_size)
            faces.build(stored, part, name, size=size, source=video, max_bad=0)
    shutil.rmtree(part / "downloads", ignore_errors=True)  # TFDS makes it


def _records(
    images: Any, found: Tracks, video: str, number: int, frame_size: tuple[int, int]
) -> Iterator[Face]:
    """Yields crops (0) or aligned faces (1) with all that is known of them."""
    for track, face in found.rows():
        images.seek(face.offset + sum(face.lengths[:number]))
        yield Face(
            images.read(face.lengths[number]),
            source=f"{video}#{face.frame}",
            landmarks5=(_in_crop(face, frame_size), _in_aligned(face))[number],
            video=video,
            frame=face.frame,
            shot=face.shot,
            track=track,
            time=face.time,
            box=tuple(face.box.tolist()),
            quality=face.score,
        )


def _in_crop(face: Found, frame_size: tuple[int, int]) -> np.ndarray:
    window = context_window(face.box, frame_size)
    points = (face.points + 0.5 - window[:2]) / window[2:] * CROP - 0.5
    return points.astype(np.float32)


def _in_aligned(face: Found) -> np.ndarray:
    matrix = align.similarity(face.points, align.template(ALIGNED))
    return (face.points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _write_preview(
    path: Path, frames: Frames, found: Tracks, progress: Progress
) -> None:
    """Writes the frames with boxes in the colour of the tracklet, and its number."""
    scale = scale_for(frames.size, _PREVIEW_SIDE)
    width, height = (max(2, round(side * scale)) // 2 * 2 for side in frames.size)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    clip = cv2.VideoWriter(str(path), codec, frames.rate, (width, height))
    if not clip.isOpened():
        raise DataError(
            f"OpenCV {cv2.__version__} cannot write {path}; repeat the call with "
            "--no-preview: the faces found are kept"
        )
    rows: dict[int, list[tuple[int, Found]]] = {}
    for track, face in found.rows():
        rows.setdefault(face.frame, []).append((track, face))
    thickness = max(1, height // 270)
    for frame in progress(frames, found.num_frames, "preview"):
        image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for track, face in rows.get(frame.number, []):
            x, y, w, h = (face.box * scale).round().astype(int).tolist()
            colour = _colour(track)
            cv2.rectangle(image, (x, y), (x + w, y + h), colour, thickness)
            place = x, max(y - 2 * thickness, 12)
            face_font, size = cv2.FONT_HERSHEY_SIMPLEX, height / 1100 + 0.25
            cv2.putText(image, str(track), place, face_font, size, (0, 0, 0), 3)
            cv2.putText(image, str(track), place, face_font, size, colour, 1)
        clip.write(image)
    clip.release()


def _colour(track: int) -> tuple[int, int, int]:
    """Returns a bright colour, BGR; neighbours in number are far apart."""
    hue = track * 5 % _COLOURS * 180 // _COLOURS
    pixel = np.array([[[hue, 200, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
