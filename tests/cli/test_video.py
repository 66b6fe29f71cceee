"""`fr-jax video tracks`: a rendered video, mistakes, the real clips."""

import csv
import json
import shutil

import numpy as np
import pytest

from data_pipelines.vision import detect
from data_pipelines.vision.crop import overlap
from data_pipelines.vision.detect import Detection
from data_pipelines.vision.shots import ShotCounter
from fr_jax.cli.main import main
from fr_jax.faces import video

SIZE = (200, 120)


class Squares:
    """A detector of red squares, in place of YuNet."""

    def __init__(self, model, threshold=0.6, longest=640):
        self.settings = str(model), threshold, longest

    def __call__(self, image):
        mask = (image[..., 0] > 180) & (image[..., 1] < 80)
        if not mask.any():
            return []
        y, x = np.nonzero(mask)
        box = np.array([x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1], float)
        shares = np.array(
            [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.35, 0.8), (0.65, 0.8)]
        )
        return [Detection(box, box[:2] + shares * box[2:], 0.9)]


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder of frames and a detector file."""
    import cv2

    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(12):
        image = np.full((SIZE[1], SIZE[0], 3), 120, np.uint8)
        image[40:70, 20 + 4 * number : 50 + 4 * number] = (30, 30, 220)  # BGR
        cv2.imwrite(str(frames / f"{number}.png"), image)
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    monkeypatch.setattr(detect, "YuNet", Squares)
    return frames, tmp_path / "yunet.onnx"


def words(inputs, target, *more):
    frames, detector = inputs
    return ("video", "tracks", frames, "--detector", detector, "--to", target, *more)


@pytest.mark.parametrize("tracker", ["linking", "overlap"])
def test_tracks_are_written(inputs, tmp_path, command, tracker):
    target = tmp_path / "tracks"
    code, out, _ = command(*words(inputs, target, "--tracker", tracker))
    assert code == 0
    assert "12 frames, 1 shots; 12 of 12 faces in 1 tracklets" in out
    with (target / "tracks.csv").open() as file:
        assert [row["track"] for row in csv.DictReader(file)] == ["0"] * 12
    about = json.loads((target / "about.json").read_text())
    assert about["tracker"] == tracker and len(about["detector_sha256"]) == 64
    assert (target / "timeline.png").stat().st_size > 1000
    assert (target / "preview.mp4").exists()
    assert not (tmp_path / "tracks.part").exists()


def test_mistakes_are_explained(inputs, tmp_path, mistake):
    target = tmp_path / "tracks"
    digest = ("--detector-sha256", "ab" * 32)
    mistake("its SHA-256 is", *words(inputs, target, *digest))
    mistake("use at least 64", *words(inputs, target, "--detect-size", 8))
    mistake("use a value between 0 and 1", *words(inputs, target, "--score", 2))
    mistake("--tracker overlap", *words(inputs, target, "--embedder", "e"))
    mistake("unknown --tracker 'link'", *words(inputs, target, "--tracker", "link"))
    frames, detector = inputs
    missing = (frames / "no.mp4", detector)
    mistake("no such video", *words(missing, target))
    mistake("not a video", *words((detector, detector), target))
    target.mkdir()
    mistake("exists; choose another folder", *words(inputs, target))


def test_a_missing_detector_names_its_source(tmp_path, mistake):
    (tmp_path / "frames").mkdir()
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "frames" / "0.png")
    inputs = tmp_path / "frames", tmp_path / "yunet.onnx"
    mistake("the OpenCV model zoo has YuNet", *words(inputs, tmp_path / "tracks"))


def matched(reference, found):
    """Rows of a table of tracks -> of each reference row: its own tracklet, ours."""
    by_frame = {}
    for row in found:
        by_frame.setdefault(int(row["frame"]), []).append(row)

    def box(row):
        return np.array([float(row[name]) for name in "xywh"])

    pairs = []
    for row in reference:
        near = by_frame.get(int(row["frame"]), [])
        best = max(near, key=lambda one: overlap(box(row), box(one)), default=None)
        hit = best is not None and overlap(box(row), box(best)) >= 0.5
        pairs.append((int(row["track"]), int(best["track"]) if hit else -1))
    return np.array(pairs)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_every_cut_of_a_rendered_video_is_seen_and_no_other(seed):
    options = {"num_identities": 6, "shots": 16, "frames": 20, "quality": "fast"}
    counter = ShotCounter()
    film = video.Film(seed, size=(320, 180), **options)
    assert all(counter(frame.image) == frame.shot for frame in film)


@pytest.mark.long
@pytest.mark.parametrize("name", ["group", "stage"])
def test_faces_of_real_videos_are_found_and_followed(name, real, tmp_path, capsys):
    detector = real("weights/face_detection_yunet_2026may.onnx")
    target = tmp_path / "tracks"
    arguments = words((real(f"video/{name}.mp4"), detector), target, "--no-preview")
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in arguments])
    assert left.value.code == 0, capsys.readouterr().err
    with real(f"video/{name}_tracks.csv").open() as file:
        reference = list(csv.DictReader(file))
    with (target / "tracks.csv").open() as file:
        pairs = matched(reference, list(csv.DictReader(file)))
    hit = pairs[pairs[:, 1] >= 0]
    assert len(hit) >= 0.9 * len(pairs)
    parts = []
    for track in np.unique(hit[:, 1]):
        owners = hit[hit[:, 1] == track, 0]
        parts.append((owners[0], np.bincount(owners).max() / len(owners)))
    assert min(share for _, share in parts) >= 0.95
    if name == "stage":  # cuts between dark scenes, looked up by eye
        about = json.loads((target / "about.json").read_text())
        assert about["shots"] == 4
    tracks_each = len({tuple(pair) for pair in hit.tolist()}) / len(
        np.unique(hit[:, 0])
    )
    assert tracks_each <= 2
    shutil.rmtree(target)
