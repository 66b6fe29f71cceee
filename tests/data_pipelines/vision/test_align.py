"""Detection and alignment, compared with golden numbers and real landmarks."""

import csv
import io
import tarfile

import cv2
import numpy as np
import pytest

from data_pipelines import DataError, images
from data_pipelines.vision import align, detect
from tests.support.onnx_files import constant_outputs

POINTS = np.array([(120, 150), (190, 140), (160, 185), (135, 230), (185, 222)], float)


def test_golden_similarity_transforms():
    expected = [
        [0.50719264, -0.04499405, -15.76838024],
        [0.04499405, 0.50719264, -29.24179681],
    ]
    np.testing.assert_allclose(
        align.similarity(POINTS, align.template()), expected, atol=1e-6
    )
    expected = [
        [0.50956879, -0.04520485, -16.10472986],
        [0.04520485, 0.50956879, -29.7156388],
    ]
    inverse = align.similarity(POINTS, align.template(), method="inverse_ls")
    np.testing.assert_allclose(inverse, expected, atol=1e-6)


def test_similarity_recovers_a_transform_and_never_mirrors():
    angle, scale = 0.3, 1.7
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    moved = scale * POINTS @ rotation.T + (5, -3)
    matrix = align.similarity(POINTS, moved)
    np.testing.assert_allclose(matrix, np.column_stack([scale * rotation, (5, -3)]))
    mirrored = align.similarity(POINTS, POINTS * (-1, 1))
    assert np.linalg.det(mirrored[:, :2]) > 0
    with pytest.raises(DataError, match="coincide"):
        align.similarity(np.ones((5, 2)), POINTS)
    with pytest.raises(DataError, match="umeyama"):
        align.similarity(POINTS, POINTS, method="affine")


def test_templates_of_other_sizes():
    np.testing.assert_allclose(align.template(224), 2 * align.ARCFACE)
    np.testing.assert_allclose(align.template(128), align.ARCFACE + np.array([8, 0]))
    np.testing.assert_allclose(
        align.template(256), 2 * align.ARCFACE + np.array([16, 0])
    )


def test_residual_is_small_for_a_face_and_large_for_random_points():
    rotated = align.template() @ np.array([[0.9, -0.4], [0.4, 0.9]]) + 40
    assert align.residual(rotated) < 1e-6
    assert align.residual(np.random.default_rng(0).uniform(0, 100, (5, 2))) > 0.1


def test_crop_aligns_the_points_with_the_template():
    image = np.zeros((300, 300, 3), np.uint8)
    for x, y in POINTS.astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
    face = align.crop(image, POINTS)
    assert face.shape == (112, 112, 3)
    for x, y in np.rint(align.template()).astype(int):
        assert face[y - 2 : y + 3, x - 2 : x + 3].max() > 200


@pytest.fixture(scope="module")
def photographs(real):
    """Returns ten photographs with their 68 landmarks."""
    annotated = []
    with tarfile.open(real("landmarks68.tar")) as archive:
        names = archive.getnames()
        for name in [n for n in sorted(names) if n.endswith(".jpg")][:10]:
            image = images.decode(archive.extractfile(name).read())
            text = archive.extractfile(name[:-4] + ".pts").read().decode()
            rows = text.split()
            annotated.append((image, np.array(rows, float).reshape(68, 2)))
    return annotated


def test_yunet_detects_the_eyes_and_mouths_of_photographs(real, photographs):
    detector = detect.YuNet(real("weights/face_detection_yunet_2026may.onnx"))
    errors = []
    for image, landmarks in photographs:
        five = np.array(
            [
                landmarks[36:42].mean(0),
                landmarks[42:48].mean(0),
                landmarks[30],
                landmarks[48],
                landmarks[54],
            ]
        )
        faces = detect.detect_or_pad(detector, image)
        assert faces
        eyes = np.linalg.norm(five[0] - five[1])
        errors.append(
            min(np.linalg.norm(f.points - five, axis=1).mean() / eyes for f in faces)
        )
        assert align.residual(faces[0].points) < 0.2
    assert np.median(errors) < 0.13  # nose and mouth differ in the 68 points


def test_small_images_are_enlarged_for_detection(real, photographs):
    detector = detect.YuNet(real("weights/face_detection_yunet_2026may.onnx"))
    for image, _ in photographs[:3]:
        small = cv2.resize(image, (200, 133), interpolation=cv2.INTER_AREA)
        enlarged = cv2.resize(small, (640, 426), interpolation=cv2.INTER_CUBIC)
        ratio = np.array([640 / 200, 426 / 133])
        faces, enlarged_faces = detector(small), detector(enlarged)
        assert len(faces) == len(enlarged_faces) > 0
        for one, other in zip(faces, enlarged_faces):
            points = (other.points + 0.5) / ratio - 0.5
            np.testing.assert_allclose(one.points, points, atol=1e-3)
            np.testing.assert_allclose(one.box, other.box / [*ratio, *ratio], atol=1e-3)


def test_a_face_that_fills_the_image_is_detected_with_a_margin(real):
    detector = detect.YuNet(real("weights/face_detection_yunet_2026may.onnx"))
    with tarfile.open(real("lfw_aligned112.tar")) as archive:
        member = next(m for m in archive if m.name.endswith(".jpg"))
        face = images.decode(archive.extractfile(member).read())
    tight = face[28:100, 20:92]
    faces = detect.detect_or_pad(detector, tight)
    assert faces
    assert np.abs(faces[0].points - (align.template() - (20, 28))).mean() < 6


def test_missing_and_invalid_detector_files(tmp_path):
    with pytest.raises(DataError, match="no such detector file"):
        detect.YuNet(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk\.onnx: OpenCV .* cannot load"):
        detect.YuNet(tmp_path / "junk.onnx")


YUNET = {
    f"{name}_{stride}": np.zeros((1, (320 // stride) ** 2, values), np.float32)
    for name, values in {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}.items()
    for stride in (8, 16, 32)
}
RECOGNISER = {"embedding": np.zeros((1, 512), np.float32)}
OTHERS = {
    "a recogniser": (RECOGNISER, "its outputs are embedding"),
    "another detector": (
        {f"score_{n}": np.zeros((1, 100, 1), np.float32) for n in range(9)},
        "its outputs are score_0, score_1",
    ),
    "outputs that are too short": (
        {name: array[:, :4] for name, array in YUNET.items()},
        r"its output cls_8 is not float32 \(1, 1600, 1\)",
    ),
    "other values per cell": (
        YUNET | {"kps_32": np.zeros((1, 100, 14), np.float32)},
        r"its output kps_32 is not float32 \(1, 100, 10\)",
    ),
    "outputs for one size of image": (
        YUNET,
        r"its output cls_8 is not float32 \(1, 1344, 1\)",
    ),
    "non-finite values": (
        YUNET | {"bbox_8": np.full((1, 1600, 4), np.nan, np.float32)},
        "its output bbox_8 has non-finite values",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_network_is_no_detector(tmp_path, capfd, other):
    """A blank image shows it, before OpenCV reads beyond its outputs."""
    arrays, reason = OTHERS[other]
    path = tmp_path / "other.onnx"
    path.write_bytes(constant_outputs(arrays))
    match = rf"other\.onnx: OpenCV .* cannot load it as a YuNet detector \({reason}"
    with pytest.raises(DataError, match=match) as caught:
        detect.YuNet(path)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


def test_published_landmarks_align_to_the_published_crops(real):
    """The published aligned sets used this transform."""
    rows = csv.DictReader(io.StringIO(real("lfw_landmarks5.csv").read_text()))
    residuals = []
    for _, row in zip(range(200), rows):
        values = [float(v) for k, v in row.items() if k != "file"]
        residuals.append(align.residual(np.array(values).reshape(5, 2)))
    assert np.median(residuals) < 0.05
