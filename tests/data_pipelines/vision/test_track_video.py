"""Tracklets of small videos with plain squares for faces: files, resuming, mistakes."""

import csv
import json

import cv2
import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.record_set import RecordSet
from data_pipelines.vision import tracks
from data_pipelines.vision.crop import context_window, window_crop
from data_pipelines.vision.detect import Detection
from data_pipelines.vision.frames import Frames
from data_pipelines.vision.track_video import COLUMNS, track_video

SIZE = (200, 120)  # width, height
FRAMES, CUT = 24, 14
SIDE = 24
COLOURS = {0: (220, 30, 30), 1: (30, 30, 220)}
OPTIONS = {"clip": "clip", "score": 0.6}


def squares(number):
    """The (colour, x, y) of the squares in a frame."""
    if number < CUT:
        return [(0, 20 + 2 * number, 40), (1, 150 - 2 * number, 60)]
    return [(1, 60 + number, 30)]


def frame(number):
    background = 90 if number < CUT else 200
    image = np.full((SIZE[1], SIZE[0], 3), background, np.uint8)
    if number >= CUT:
        image[60:, ::20] = 20  # another scene
    for colour, x, y in squares(number):
        image[y : y + SIDE, x : x + SIDE] = COLOURS[colour]
    return image


def detect(image):
    """Finds the squares of an image at any scale."""
    found = []
    scale = image.shape[1] / SIZE[0]
    for colour in COLOURS.values():
        mask = (np.abs(image.astype(int) - colour).max(axis=2) < 60).astype(np.uint8)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
        for x, y, w, h, area in boxes[1:]:
            if area > 0.5 * (scale * SIDE) ** 2:
                box = np.array([x, y, w, h], float)
                shares = np.array(
                    [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.35, 0.8), (0.65, 0.8)]
                )
                found.append(Detection(box, box[:2] + shares * box[2:], 0.9))
    return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, SIZE)
    for number in range(FRAMES):
        writer.write(cv2.cvtColor(frame(number), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def run(clip, target, detector=detect, **options):
    options = {"detect_size": 200, "smallest": 8.0, **options}
    tracker = options.pop("tracker", None) or tracks.LinkedTracks()
    return track_video(
        Frames(clip), target, detector, tracker, dict(OPTIONS), **options
    )


@pytest.fixture(scope="module")
def done(clip, tmp_path_factory):
    target = tmp_path_factory.mktemp("done") / "tracks"
    return target, run(clip, target)


def test_each_square_of_a_shot_is_a_tracklet(done):
    _, found = done
    assert (found.num_frames, found.note) == (FRAMES, "")
    assert found.cuts == [pytest.approx(CUT / 12.5, abs=1e-3)]
    assert [len(one) for one in found.tracklets] == [CUT, CUT, FRAMES - CUT]
    for track, face in found.rows():
        distances = [
            np.abs(face.box[:2] - (x, y)).max() for _, x, y in squares(face.frame)
        ]
        assert min(distances) <= 2
        assert face.shot == int(face.frame >= CUT) == int(track == 2)
        assert face.time == pytest.approx(face.frame / 12.5, abs=1e-3)


def test_the_table_has_a_row_per_face(done):
    target, found = done
    with (target / "tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == sum(map(len, found.tracklets))
    first = next(found.rows())[1]
    assert float(rows[0]["x"]) == first.box[0]
    about = json.loads((target / "about.json").read_text())
    assert about["tracklets"] == 3 and about["frames"] == FRAMES
    assert {path.name for path in target.iterdir()} == {
        *("tracks.csv", "about.json", "preview.mp4", "crops", "aligned")
    }


def test_records_hold_crops_and_aligned_faces_with_their_tracklets(done):
    target, found = done
    faces = [face for _, face in found.rows()]
    for name, size in (("crops", 256), ("aligned", 112)):
        with RecordSet(target / name) as records:
            assert records.size == size and len(records) == len(faces)
            assert records.track.tolist() == [track for track, _ in found.rows()]
            assert records.frame.tolist() == [face.frame for face in faces]
            assert records.shot.tolist() == [face.shot for face in faces]
            np.testing.assert_allclose(records.time, [f.time for f in faces], atol=1e-4)
            stored = next(records.faces(np.array([5])))
            image = records[5]
        np.testing.assert_allclose(stored.box, faces[5].box, atol=1e-3)
        # The points mark the same places of the square as in the frame.
        colour = COLOURS[0 if faces[5].box[0] < 90 else 1]
        for x, y in stored.landmarks5.round().astype(int):
            assert np.abs(image[y, x].astype(int) - colour).max() < 60


def test_the_preview_is_a_video_of_the_same_length(done):
    preview = Frames(done[0] / "preview.mp4")
    images = [one.image for one in preview]
    assert len(images) == FRAMES and preview.size == SIZE
    plain = frame(3).astype(int)
    assert np.abs(images[3].astype(int) - plain).max() > 60  # boxes are drawn in


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 9, 15, FRAMES - 1])
def test_an_interrupted_run_resumes_with_the_same_files(clip, done, tmp_path, stop):
    target, calls = tmp_path / "tracks", []

    def stopping(image):
        calls.append(1)
        if len(calls) == stop + 1:
            raise Stopped
        return detect(image)

    with pytest.raises(Stopped):
        run(clip, target, stopping)
    assert not target.exists()
    with (tmp_path / "tracks.part" / "faces.csv").open("a") as file:
        file.write("9,0.7")  # as a kill may leave it
    calls.clear()

    def counting(image):
        calls.append(1)
        return detect(image)

    found = run(clip, target, counting)
    assert len(calls) <= FRAMES - stop + 1  # of the last frame the rows were dropped
    assert found.tracklets == done[1].tracklets
    for name in ("tracks.csv", "about.json"):
        assert (target / name).read_bytes() == (done[0] / name).read_bytes()
    with RecordSet(target / "crops") as a, RecordSet(done[0] / "crops") as b:
        np.testing.assert_array_equal(a.digest, b.digest)


def test_other_options_do_not_resume(clip, tmp_path):
    def stopping(image):
        if len(calls) == 3:
            raise Stopped
        calls.append(1)
        return detect(image)

    calls = []
    with pytest.raises(Stopped):
        run(clip, tmp_path / "tracks", stopping)
    with pytest.raises(DataError, match=r"begun with score 0.6, not 0.9: repeat it"):
        track_video(
            *(Frames(clip), tmp_path / "tracks", detect, tracks.LinkedTracks()),
            {**OPTIONS, "score": 0.9},
        )


def test_a_smaller_detection_size_gives_boxes_of_the_source(clip, tmp_path):
    sizes = []

    def small(image):
        sizes.append(image.shape[:2])
        return detect(image)

    found = run(clip, tmp_path / "tracks", small, detect_size=100, preview=False)
    assert set(sizes) == {(60, 100)}
    face = found.faces[0]
    assert np.abs(face.box - (20, 40, SIDE, SIDE)).max() <= 3
    assert not (tmp_path / "tracks" / "preview.mp4").exists()


def test_a_folder_of_frames_is_a_video_in_the_order_of_its_numbers(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(FRAMES):
        bgr = cv2.cvtColor(frame(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"frame{number}.png"), bgr)
    frames = Frames(folder)
    for one in frames:
        np.testing.assert_array_equal(one.image, frame(one.number))
        assert one.time == one.number / 25
    assert frames.read == FRAMES and frames.break_off == ""
    found = run(folder, tmp_path / "tracks")
    assert [len(one) for one in found.tracklets] == [CUT, CUT, FRAMES - CUT]


def test_a_folder_that_changes_size_names_the_frame(tmp_path):
    for number, height in enumerate((64, 64, 80)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((height, 64, 3), "u1"))
    with pytest.raises(DataError, match="frame 2 has 64x80 pixels, those before"):
        list(Frames(tmp_path))


def test_a_truncated_video_gives_the_frames_up_to_the_break(tmp_path, done):
    """AVI has no index before its frames, so that a part of it can be read."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, SIZE)
    for number in range(FRAMES):
        writer.write(cv2.cvtColor(frame(number), cv2.COLOR_RGB2BGR))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = run(path, tmp_path / "tracks")
    assert 4 < found.num_frames < FRAMES
    assert f"ends after {found.num_frames} of {FRAMES} frames" in found.note


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("clip.mp4", None, "no such video"),
        ("clip.mp4", b"not a video" * 100, "not a video that OpenCV .* reads"),
        ("clip.mp4", b"", "not a video that OpenCV"),
        ("clip.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "not a video"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, match):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        Frames(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images; a folder of frames has some"):
        Frames(tmp_path)


def test_a_video_without_faces_leaves_nothing(clip, tmp_path):
    target = tmp_path / "tracks"
    with pytest.raises(DataError, match=r"no faces in 24 frames.*--smallest"):
        run(clip, target, lambda image: [])
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no faces in 24 frames"):
        run(clip, target, smallest=100.0)


def test_an_existing_target_is_refused(clip, done):
    with pytest.raises(DataError, match="exists; choose another folder"):
        run(clip, done[0])


def test_a_foreign_part_folder_is_refused(clip, tmp_path):
    (tmp_path / "tracks.part").mkdir()
    (tmp_path / "tracks.part" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is no unfinished folder of this command"):
        run(clip, tmp_path / "tracks")
    assert (tmp_path / "tracks.part" / "mine.txt").exists()


def test_a_window_at_the_edge_is_clipped():
    window = context_window(np.array([10.0, 20, 40, 50]), (200, 120))
    side = 227 / 195 * 2.2 * 50
    assert window[0] == 0 and window[1] == 0
    assert window[0] + window[2] == np.ceil(30 + side / 2)
    image = np.zeros((120, 200, 3), np.uint8)
    assert window_crop(image, window, 32).shape == (32, 32, 3)
