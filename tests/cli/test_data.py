"""`fr-jax data`: conversion, description and alignment of sets of faces."""

import pickle
import shutil
import tarfile

import numpy as np
import pytest

from data_pipelines import index as indexes
from data_pipelines.vision import align, detect
from tests.support.faces import encoded, picture
from tests.support.recordio import write_pack


@pytest.fixture(scope="module")
def folders(identities, tmp_path_factory):
    """Folders of faces with one defect each."""
    root = tmp_path_factory.mktemp("folders")
    (root / "empty").mkdir()
    for name in ("truncated", "text"):
        shutil.copytree(identities, root / name)
    path = root / "truncated/p1/1.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    (root / "text/p0/0.jpg").write_text("hello")
    return root


def test_folder_is_converted_and_described(command, identities, tmp_path):
    options = ("--licence", "mine", "--source", "here")
    words = ("data", "convert", identities, "--to", tmp_path, "--name", "faces")
    code, out, error = command(*words, *options)
    assert code == 0, error
    assert "18 images of 6 identities to" in out
    code, out, error = command("data", "info", tmp_path / "faces")
    assert code == 0, error
    for text in (
        "18, 112x112 pixels",
        "identities  6",
        "images each 3 to 3",
        "mine",
        "here",
    ):
        assert text in out
    sheet = tmp_path / "faces/contact_sheet.png"
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    assert f"figure      {sheet}" in out


@pytest.mark.parametrize("kind", ["pack", "bin"])
def test_recordio_pack_and_bin_are_converted(command, identities, tmp_path, kind):
    images = [path.read_bytes() for path in sorted(identities.rglob("*.jpg"))]
    labels = [n // 3 for n in range(18)]
    source = tmp_path
    if kind == "pack":
        write_pack(tmp_path, labels, images)
    else:
        source = tmp_path / "set.bin"
        source.write_bytes(pickle.dumps((images, [True] * 9)))
        labels = [-1] * 18
    words = ("convert", source, "--to", tmp_path / "r", "--name", "a")
    code, _, error = command("data", *words)
    assert code == 0, error
    index = indexes.load(indexes.find(tmp_path / "r/a"))
    assert index.label.tolist() == labels


def test_unusable_images_are_skipped_and_listed(command, folders, tmp_path):
    words = ("--to", tmp_path, "--name", "faces")
    code, out, error = command("data", "convert", folders / "truncated", *words)
    assert code == 0, error
    assert "17 images of 6 identities to" in out
    assert "1 unusable images skipped:" in out
    assert "p1/1.jpg: truncated JPEG" in out


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        ("nowhere", (), "nowhere: no such folder"),
        ("empty", (), "no images found"),
        ("whole", ("--name", "My-Faces"), "lower-case letters"),
        ("whole", ("--size", "64"), "112x112 pixels, expected 64x64"),
        ("truncated", ("--max-bad", "0"), "p1/1.jpg: truncated JPEG"),
        ("text", ("--max-bad", "0"), "p0/0.jpg: no image"),
    ],
    ids=["no folder", "no images", "name", "size", "truncated", "text"],
)
def test_invalid_folder_or_option_is_refused(
    mistake, identities, folders, tmp_path, source, options, match
):
    path = identities if source == "whole" else folders / source
    words = ("convert", path, "--to", tmp_path, "--name", "faces", *options)
    mistake(match, "data", *words)
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_folder_without_records_is_refused(mistake, tmp_path):
    mistake("no face records here", "data", "info", tmp_path)


def test_missing_detector_is_refused(mistake, identities, tmp_path):
    words = ("--detector", tmp_path / "no.onnx", "--to", tmp_path / "aligned")
    mistake("no such detector file", "data", "align", identities, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exists", [True, False], ids=["target exists", "no source"])
def test_align_refuses_existing_target_and_missing_source(
    mistake, monkeypatch, identities, tmp_path, exists
):
    monkeypatch.setattr(detect, "YuNet", lambda _: None)
    source, target = (identities, "") if exists else (tmp_path / "nowhere", "new")
    match = "exists; choose another" if exists else "no such folder"
    words = ("--detector", "any", "--to", tmp_path / target)
    mistake(match, "data", "align", source, *words)
    assert not list(tmp_path.iterdir())


def test_align_writes_faces_and_reports_misfits(command, mistake, real, tmp_path):
    model = real("weights/face_detection_yunet_2026may.onnx")
    photos = tmp_path / "photos"
    with tarfile.open(real("landmarks68.tar")) as archive:
        names = [n for n in sorted(archive.getnames()) if n.endswith(".jpg")][:4]
        archive.extractall(photos, names, filter="data")
    (photos / "landmarks68/none.png").write_bytes(encoded(".png", picture(200, 200)))
    (photos / "landmarks68/junk.jpg").write_text("junk")
    aligned = tmp_path / "aligned"
    words = ("data", "align", photos, "--detector", model, "--to", aligned)
    code, out, error = command(*words)
    assert code == 0, error
    assert "4 of 6 images aligned" in out
    assert "none.png: no face found" in out
    assert "junk.jpg: no image" in out
    assert len(list(aligned.rglob("*.jpg"))) == 4
    rows = (aligned / "alignment.csv").read_text().splitlines()
    assert len(rows) == 7
    mistake("exists; choose another", *words)


def test_legacy_bgr_changes_the_detector_input_but_not_the_faces(
    command, monkeypatch, tmp_path
):
    """USynthFace detected faces in BGR."""
    inputs = []

    def detector(_):
        def detections(image):
            inputs.append(image.copy())
            box = np.array([0, 0, 100, 100])
            return [detect.Detection(box, align.template() + (5, 9), 1.0)]

        return detections

    monkeypatch.setattr(detect, "YuNet", detector)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(encoded(".png", image := picture(130, 140)))
    words = ("data", "align", tmp_path / "photos", "--detector", "any")
    for folder, flag in (("plain", ()), ("legacy", ("--legacy-bgr",))):
        code, _, error = command(*words, "--to", tmp_path / folder, *flag)
        assert code == 0, error
    assert (image != image[..., ::-1]).any()
    np.testing.assert_array_equal(inputs, [image, image[..., ::-1]])
    plain, legacy = (tmp_path / f"{n}/a.jpg" for n in ("plain", "legacy"))
    assert plain.read_bytes() == legacy.read_bytes()
