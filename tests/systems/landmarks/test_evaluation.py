"""Landmarks of rendered faces and photographs: crops, detections, results, command."""

import tarfile
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.readers import landmark_files, landmark_photographs
from data_pipelines.vision import crop
from data_pipelines.vision.detect import Detection
from fr_jax import models
from fr_jax.augment import landmarks as of_device
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.landmarks import evaluation
from tests.support import landmark_faces
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables

POINTS = 60 + 25 * landmark_faces.template()  # in a photograph of 130x120 pixels


@pytest.fixture
def photographs(tmp_path):
    """A folder with two photographs; iBUG's files count pixels from 1."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for name, seed in (("b.jpg", 0), ("more/a.png", 1)):
        path = folder / name
        path.write_bytes(encoded(path.suffix, picture(120, 130, seed=seed)))
        landmark_files.write(path.with_suffix(".pts"), POINTS + seed + 1)
    return folder


# --- crops --------------------------------------------------------------------------


def test_crops_of_host_and_device_are_equal():
    """Of an upscaled, an unscaled square, and one beyond the image's edge."""
    image = landmark_faces.arrays(1, side=80)["image"]
    for box in ((30.0, 22.5, 20.0, 18.0), (9.5, 9.5, 43.0, 20.0), (-9, -9, 40, 40)):
        squares = of_device.boxed_squares(jnp.array([box], jnp.float32))
        expected = of_device.crop(jnp.asarray(image), squares, 56)[0]
        actual = crop.face_crop(image[0], np.array(box), 56)
        difference = np.abs(actual.image - np.asarray(expected))
        assert difference.max() < 4  # OpenCV rounds positions to 1/32 pixel
        points = POINTS[None].astype(np.float32)
        inside = of_device.into_crops(jnp.asarray(points), squares, 56)
        np.testing.assert_allclose(actual.into(POINTS), inside[0], atol=1e-3)
        np.testing.assert_allclose(actual.back(actual.into(POINTS)), POINTS)


def test_points_of_a_shrunk_crop_are_where_their_pixels_are():
    image = np.zeros((500, 400, 3), np.uint8)
    y, x = np.mgrid[:500, :400]
    image[(x - 220.0) ** 2 + (y - 260.0) ** 2 < 15**2] = 255
    face = crop.face_crop(image, np.array([100.0, 150.0, 200.0, 180.0]), 50)
    weights = face.image[..., 0].astype(float)
    rows, columns = np.mgrid[:50, :50]
    found = [(weights * axis).sum() / weights.sum() for axis in (columns, rows)]
    np.testing.assert_allclose(found, face.into(np.array([220.0, 260.0])), atol=0.05)


def test_boxes_and_their_overlap():
    assert crop.points_box(np.array([[3, 9], [5, 1]])).tolist() == [3, 1, 2, 8]
    box = np.array([0.0, 0.0, 4.0, 2.0])
    assert crop.overlap(box, box) == 1
    assert crop.overlap(box, box + (2, 0, 0, 0)) == pytest.approx(1 / 3)
    assert crop.overlap(box, box + (9, 0, 0, 0)) == 0
    with pytest.raises(ValueError, match="a face box of 0x0"):
        crop.face_crop(picture(), np.zeros(4), 8)


# --- photographs --------------------------------------------------------------------


def test_photographs_of_a_folder_and_of_its_archive(photographs, tmp_path):
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as file:
        file.add(photographs, "../../some/where")
        file.add(tmp_path / "photographs/b.jpg", "link.txt")
    one, other = (list(landmark_photographs.read(p)) for p in (photographs, archive))
    assert [photo.name for photo in one] == ["b.jpg", "more/a.png"]
    for photo, same, seed in zip(one, other, (0, 1), strict=True):
        assert photo.image.shape == (120, 130, 3)
        np.testing.assert_array_equal(photo.image, same.image)
        np.testing.assert_array_equal(photo.points, same.points)
        np.testing.assert_allclose(photo.points, POINTS + seed, atol=1e-3)
    assert not list(tmp_path.rglob("where*"))


def test_invalid_photographs_are_refused(photographs, tmp_path):
    def refused(match, path):
        with pytest.raises(DataError, match=match):
            list(landmark_photographs.read(path))

    refused("no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("no photographs", tmp_path / "empty")
    (tmp_path / "damaged.tar").write_bytes(b"no archive" * 100)
    refused("a damaged .tar", tmp_path / "damaged.tar")
    (photographs / "more/a.pts").write_text("version: 1\nn_points: 5\n")
    refused("5.* points, expected 68", photographs)
    (photographs / "more/a.pts").unlink()
    refused("more/a.png has no .pts", photographs)
    (photographs / "b.jpg").write_text("junk")
    refused("b.jpg: ", photographs)


def test_the_detection_that_overlaps_the_points_is_cropped(photographs):
    own = crop.points_box(POINTS)

    def detector(image):
        assert image.shape == (120, 130, 3)
        boxes = own + (40, 9, 0, 0), own + (2.5, 0.5, 4, 0), own * 0 + (0, 0, 3, 3)
        return [Detection(box, np.zeros((5, 2)), 0.9) for box in boxes]

    faces = evaluation.photographs(str(photographs), detector)
    assert faces.found.all() and faces.images.shape == (2, 112, 112, 3)
    # Edges of detections are at integers, those of pixels at halves.
    expected = crop.face_crop(picture(120, 130), own + (2, 0, 4, 0), 112)
    np.testing.assert_allclose(faces.points[0], expected.into(POINTS), atol=1e-2)
    own_boxes = evaluation.photographs(str(photographs))
    low, high = own_boxes.points.min(axis=(0, 1)), own_boxes.points.max(axis=(0, 1))
    middle = (low + high) / 2
    np.testing.assert_allclose(middle, 55.5, atol=0.01)
    assert (high - low).max() == pytest.approx(112 / 1.3, abs=0.01)
    missed = evaluation.photographs(str(photographs), lambda image: [])
    assert not missed.found.any()


def test_real_photographs(real):
    faces = evaluation.photographs(str(real("landmarks68.tar")))
    assert faces.images.shape == (120, 112, 112, 3)
    assert faces.points.min() > 12 and faces.points.max() < 99
    eyes = faces.points[:, 36:48].mean(axis=1)
    mouths = faces.points[:, 48:].mean(axis=1)
    assert (eyes[:, 1] < mouths[:, 1]).all()


# --- results ------------------------------------------------------------------------


def answering(points):
    network = SimpleNamespace(points=lambda images: points)
    return Trained(lambda *_: {}, {"landmarks": network})


def test_results_count_faces_that_were_not_found():
    truth = 50 + 40 * np.repeat(landmark_faces.template()[None], 4, axis=0)
    eyes = np.linalg.norm(truth[0, 36] - truth[0, 45])
    answers = truth + np.array([eyes, 0]) * np.array([0, 0.04, 0.5, 0])[:, None, None]
    found = np.array([True, True, True, False])
    images = np.zeros((4, 112, 112, 3), np.uint8)
    faces = evaluation.Cropped(images, truth, found, ["a", "b", "c", "d"])
    evaluator = evaluation.Landmarks("set", faces)
    results = evaluator(answering(answers))
    assert list(results) == evaluator.metric_names
    assert results == {
        "set/nme": pytest.approx((0 + 0.04 + 0.5 + 1) / 4),
        "set/nme:mean_shape": pytest.approx(1 / 4),
        "set/auc@nme=0.08": pytest.approx((1 + 0.5) / 4),
        "set/failure_rate@nme=0.08": 0.5,
        "set/missed": 0.25,
    }
    few = evaluator.subset(2)
    assert few.name == "set:2" and len(few.faces.images) == 2
    assert evaluator.subset(4) is evaluator


# --- the command --------------------------------------------------------------------


@pytest.fixture
def regressor(monkeypatch):
    options = {"width": 0.125}
    spec = InputSpec(size=32)
    variables = random_variables(models.create("landmark_regressor", **options), spec)
    network = Network("landmark_regressor", options, variables, spec, "landmarks")
    embedder = Embedder(network)
    monkeypatch.setattr(
        "fr_jax.systems.landmarks.commands.load_embedder", lambda path: embedder
    )
    return embedder


def test_the_command_writes_results_and_figures(
    command, regressor, photographs, tmp_path, quick_compilation
):
    words = ("landmarks", photographs, "--regressor", "any", "--to", tmp_path / "out")
    code, out, error = command(*words)
    assert code == 0, error
    assert "photographs_points_box" in out and "mean shape" in out
    assert "2 photographs" in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["examples.png", "landmark_errors.png", "results.json"]


def test_the_command_explains_mistakes(mistake, regressor, photographs, tmp_path):
    words = ("--regressor", "any", "--to", tmp_path / "out")
    mistake("no such folder", "landmarks", tmp_path / "nowhere", *words)
    mistake("no such detector", "landmarks", photographs, *words, "--detector", "no")
    mistake("--examples is -1", "landmarks", photographs, *words, "--examples", "-1")
    regressor.network = regressor.network._replace(kind="embedding")
    mistake("of kind 'embedding', not 'lan", "landmarks", photographs, *words)


def test_a_detector_needs_photographs():
    assert evaluation.photograph_sets("", "") == []
    with pytest.raises(UserError, match="a detector, but no photographs"):
        evaluation.photograph_sets("", "detector.onnx")
