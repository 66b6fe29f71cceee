"""`fr-jax video`: find and follow the faces of a video.

Example:
    fr-jax video tracks clip.mp4 --detector yunet.onnx --to tracks
    fr-jax video tracks frames --detector yunet.onnx --tracker overlap --to tracks
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax import interrupt
from fr_jax.cli.targets import check_writable
from fr_jax.errors import UserError
from fr_jax.progress import progress_bar
from fr_jax.report import timeline

TRACKERS = ("linking", "overlap")


def add_arguments(parser: Any) -> None:
    action = parser.add_choice()
    summary = "Write the tracklets of a video: table, TFRecords of faces, preview."
    add = action("tracks", summary).add_argument
    add("clip", metavar="CLIP", help="video, or a folder of its frames")
    text = "YuNet's .onnx, of the OpenCV model zoo"
    add("--detector", required=True, metavar="FILE", help=text)
    text = "SHA-256 that the detector file must have; default: not checked"
    add("--detector-sha256", default="", metavar="HEX", help=text)
    add("--to", required=True, metavar="DIR", help="new folder")
    text = "longer side of the frames, in pixels, in which faces are searched and "
    text += "followed"
    add("--detect-size", type=int, default=960, metavar="N", help=text)
    text = "lowest score of a face; among partly hidden ones, lower scores join persons"
    add("--score", type=float, default=0.7, metavar="S", help=text)
    text = "longer side of the smallest face, in pixels of the video"
    add("--smallest", type=float, default=20.0, metavar="N", help=text)
    text = "linking: by position, size and colours, as Zhang et al.; overlap: by boxes "
    text += "and, with --embedder, cosines"
    add("--tracker", default="linking", choices=TRACKERS, help=text)
    text = "embedder of faces, for --tracker overlap"
    add("--embedder", default="", metavar="EMBEDDER", help=text)
    add("--no-preview", action="store_true", help="write no preview.mp4")


def run(arguments: argparse.Namespace) -> None:
    """Writes the tracklets of a video, and a figure of when each is seen."""
    from data_pipelines.vision import detect, frames, track_video

    _check(arguments)
    target = Path(arguments.to)
    check_writable("--to", target)
    clip = frames.Frames(arguments.clip)
    longest = min(arguments.detect_size, max(clip.size))
    digest = _checked_sha256(arguments)  # before it is read as a network
    detector = detect.YuNet(arguments.detector, arguments.score, longest)
    options = {
        "clip": clip.path.name,
        "clip_bytes": _bytes(clip.path),
        "detector_sha256": digest,
        **{
            name: getattr(arguments, name)
            for name in ("detect_size", "score", "smallest", "tracker", "embedder")
        },
    }
    part = target.with_name(target.name + ".part")
    text = f"interrupted: the same call resumes, with the faces in {part}, if any"
    with interrupt.explained(text):
        found = track_video.track_video(
            clip,
            target,
            detector,
            _tracker(arguments),
            options,
            detect_size=arguments.detect_size,
            smallest=arguments.smallest,
            preview=not arguments.no_preview,
            progress=_progress,
            draw=_timeline,
        )
    faces, shots = sum(map(len, found.tracklets)), len(found.cuts) + 1
    print(
        f"{found.num_frames:,} frames, {shots:,} shots; {faces:,} of "
        f"{len(found.faces):,} faces in {len(found.tracklets):,} tracklets to {target}"
    )
    if found.note:
        print(f"note: {found.note}")
    print(f"figure: {target / 'timeline.png'}")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.detect_size < 64:
        raise UserError(f"--detect-size {arguments.detect_size}: use at least 64")
    if not 0 < arguments.score < 1:
        raise UserError(f"--score {arguments.score:g}: use a value between 0 and 1")
    if arguments.embedder and arguments.tracker != "overlap":
        raise UserError(
            f"--embedder with --tracker {arguments.tracker}, which uses none; "
            "add --tracker overlap"
        )


def _checked_sha256(arguments: argparse.Namespace) -> str:
    """Returns the digest of the detector file; UserError for another one."""
    path, wanted = Path(arguments.detector), arguments.detector_sha256.lower()
    if not path.is_file():
        return ""  # YuNet says where it comes from
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if wanted and digest != wanted:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, not {wanted}; it is another file, or "
            "damaged: get it again"
        )
    return digest


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tracker(arguments: argparse.Namespace) -> Any:
    from data_pipelines.vision import tracks

    if arguments.tracker == "linking":
        return tracks.LinkedTracks()
    if not arguments.embedder:
        return tracks.OverlapTracks()
    from fr_jax.embedder import load_embedder

    return tracks.OverlapTracks(load_embedder(arguments.embedder).embed)


def _progress(frames: Iterable, count: int, label: str) -> Iterator:
    with progress_bar(frames, label, total=count or None, unit=" frames") as bar:
        yield from bar


def _timeline(found: Any, folder: Path) -> None:
    seconds = [
        np.array([found.faces[face].time for face in faces])
        for faces in found.tracklets
    ]
    timeline.plot(seconds, folder / "timeline.png", cuts=found.cuts)
