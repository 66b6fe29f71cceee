"""Files of 68 landmarks: .pts, .npy and .npz beside images, columns of labels.csv."""

import io
import os
import zipfile

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.readers import landmark_files
from data_pipelines.readers.image_folder import ImageFolder
from data_pipelines.readers.labelled_folder import LabelledFolder
from data_pipelines.vision import align, detect
from data_pipelines.vision.align_folder import align_folder
from tests.support.faces import encoded, picture

POINTS = np.stack([np.arange(68) + 0.5, 90.25 - np.arange(68)], 1).astype(np.float32)
LINES = [f"{x:.3f} {y:.3f}" for x, y in POINTS]
HEAD = ["version: 1", "n_points:  68", "{"]


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read(tmp_path, suffix, content):
    data = content if isinstance(content, bytes) else "\n".join(content).encode()
    (tmp_path / f"a{suffix}").write_bytes(data)
    return landmark_files.read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".pts", [*HEAD, *LINES, "}", ""]),
        (".pts", ["68", *LINES]),
        (".pts", LINES),
        (".npy", npy(POINTS.astype(np.float64))),
        (".npz", npz(landmarks68=POINTS, box=np.zeros(4))),
        (".npz", npz(points=POINTS)),
    ],
    ids=["iBUG", "count", "plain", "npy", "npz", "other name"],
)
def test_every_form_is_read(tmp_path, suffix, content):
    points = read(tmp_path, suffix, content)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, POINTS)


def test_written_landmarks_are_read_again(tmp_path):
    landmark_files.write(tmp_path / "a.pts", POINTS)
    np.testing.assert_array_equal(landmark_files.read(tmp_path / "a.pts"), POINTS)
    assert (tmp_path / "a.pts").read_text().splitlines()[:4] == [
        *("version: 1", "n_points: 68", "{"),
        LINES[0],
    ]


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("landmarks68.npy", bytes(100 << 20))
    return file.getvalue()


def huge() -> bytes:
    """Returns an array of terabytes, as its header says."""
    return npy(POINTS).replace(b"(68, 2), }" + b" " * 10, b"(999999999999, 2), }")


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        (".pts", [*HEAD, *LINES[:-1], "}"], "a.pts: 67 points, expected 68"),
        (".pts", [*HEAD, *LINES, LINES[0], "}"], "a.pts: line 72: more than 68"),
        (".pts", ["n_points: 29", *LINES], "line 1: '29' points, expected 68"),
        (".pts", [*HEAD, "1.0", *LINES], "line 4: '1.0' points, expected 68"),
        (".pts", [*HEAD, "1 nan", *LINES], "line 4: '1 nan' is not 'x y'"),
        (".pts", [*HEAD, "1 2 3", *LINES], "line 4: '1 2 3' is not 'x y'"),
        (".pts", ["1e9 0", *LINES[1:]], r"a.pts: point 1 is \(1e\+09, 0\)"),
        (".pts", b"\xff\xfe\0\0" * 9, "line 1: .* points, expected 68"),
        (".pts", b"0 0\n" * (1 << 17), "bytes"),
        (".npy", npy(POINTS[:5]), r"float32 \(5, 2\), expected numbers \(68, 2\)"),
        (".npy", npy(np.full((68, 2), "1")), "expected numbers"),
        (".npy", npy(np.full((68, 2), np.nan)), "point 1 is"),
        (".npy", npy(np.full((68, 2), 1e300)), "point 1 is"),
        (".npy", npy(POINTS)[:-9], "a damaged .npy"),
        (".npy", b"hello", "a damaged .npy"),
        (".npy", huge(), r"\(999999999999, 2\), expected numbers"),
        (".npz", npz(box=POINTS), "no array 'landmarks68' in it; 1 others"),
        (".npz", npz(points=POINTS)[:200], "a damaged .npz"),
        (".npz", bomb(), "a damaged .npy"),
        (".npz", b"hello", "a damaged .npz"),
    ],
    # Archives have the time: workers would collect tests of different names.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_files_are_refused(tmp_path, suffix, content, reason):
    with pytest.raises(DataError, match=reason):
        read(tmp_path, suffix, content)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    objects = io.BytesIO()
    np.save(objects, np.full((68, 2), None, object), allow_pickle=True)
    with pytest.raises(DataError, match="object .* expected numbers"):
        read(tmp_path, ".npy", objects.getvalue())


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.pts")
    with pytest.raises(DataError, match="a.pts: "):
        landmark_files.read(tmp_path / "a.pts")


def test_landmarks_beside_images(tmp_path):
    for name in ("p/1.png", "p/2.png", "q/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(".png"))
    landmark_files.write(tmp_path / "p/1.pts", POINTS)
    landmark_files.write(tmp_path / "p/left.pts", POINTS)
    (tmp_path / "q/1.npy").write_bytes(npy(POINTS[:3]))
    reader = ImageFolder(tmp_path)
    first, second, third = reader
    np.testing.assert_array_equal(first.landmarks68, POINTS)
    assert second.landmarks68.shape == (0, 2)
    assert isinstance(third, DataError) and "q/1.npy" in str(third)
    assert reader.skipped == {".pts": 1}  # the one of no image


def test_landmarks_in_a_table(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(".png"))
    names = [f"{axis}{n}" for n in range(68) for axis in "xy"]
    cells = [f"{value:g}" for value in POINTS.ravel()]

    def table(cells):
        text = f"file,{','.join(names)}\n1.png,{','.join(cells)}\n"
        (tmp_path / "labels.csv").write_text(text)
        return next(iter(LabelledFolder(tmp_path)))

    np.testing.assert_array_equal(table(cells).landmarks68, POINTS)
    assert table([""] * 136).landmarks68.shape == (0, 2)
    for wrong in (["", *cells[1:]], ["left", *cells[1:]], ["nan", *cells[1:]]):
        with pytest.raises(DataError, match="line 2: the landmarks .* not 136 numbers"):
            table(wrong)


def test_alignment_moves_landmarks_with_the_image(tmp_path):
    photos, aligned = tmp_path / "photos", tmp_path / "aligned"
    photos.mkdir()
    for name in ("a", "b"):
        (photos / f"{name}.png").write_bytes(encoded(".png", picture(300, 300)))
    five = 2 * align.template() + (30, 10)  # template: half of it, shifted

    def detector(_):
        return [detect.Detection(np.array([0, 0, 200, 200]), five, 1.0)]

    landmark_files.write(photos / "a.pts", 2 * POINTS + np.float32([[30, 10]]))
    rows, skipped = align_folder(photos, aligned, detector)
    assert len(rows) == 2 and not skipped
    moved = landmark_files.read(aligned / "a.pts")
    np.testing.assert_allclose(moved, POINTS, atol=2e-3)
    assert not (aligned / "b.pts").exists()


def test_alignment_finds_landmarks_of_photographs_without(tmp_path):
    """In batches, from crops around the detected box, moved with the image."""
    photos, aligned = tmp_path / "photos", tmp_path / "aligned"
    photos.mkdir()
    for number in range(70):
        (photos / f"{number}.png").write_bytes(encoded(".png", picture(300, 300)))
    (photos / "0.bad").write_bytes(encoded(".png", picture(300, 300)))
    landmark_files.write(photos / "1.pts", 2 * POINTS + np.float32([[30, 10]]))
    five, batches = 2 * align.template() + (30, 10), []

    def detector(_):
        return [detect.Detection(np.array([50.5, 40.5, 80, 100]), five, 1.0)]

    def find(crops):
        batches.append(crops.shape)
        return np.broadcast_to(np.float32([55.5, 55.5]), (len(crops), 68, 2))

    rows, skipped = align_folder(photos, aligned, detector, landmarks=find)
    assert len(rows) == 70 and skipped == {"images marked .bad": 1}
    assert not (aligned / "0.bad.jpg").exists()
    assert batches == [(64, 112, 112, 3), (5, 112, 112, 3)]
    centre = (np.array([90.0, 90.0]) - (30, 10)) / 2  # of the box
    for number in (0, 2, 69):
        found = landmark_files.read(aligned / f"{number}.pts")
        np.testing.assert_allclose(found, np.tile(centre, (68, 1)), atol=2e-3)
    given = landmark_files.read(aligned / "1.pts")
    np.testing.assert_allclose(given, POINTS, atol=2e-3)
