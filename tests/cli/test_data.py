"""`fr-jax data`: conversion, description and alignment of sets of faces."""

import os
import pickle
import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipelines import index as indexes
from data_pipelines import records
from data_pipelines.record_set import RecordSet
from data_pipelines.vision import align, detect
from fr_jax import embedder
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
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


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_every_format_is_converted_and_what_is_left_out_is_counted(command, tmp_path):
    kinds = (".jpg", ".jfif", ".bmp", ".webp", ".tif", ".ppm", ".gif", "", ".png")
    faces = tmp_path / "faces"
    for number, kind in enumerate(kinds):
        data = encoded({".jfif": ".jpg", "": ".jpg"}.get(kind, kind), flat(number))
        put(faces / f"p{number}/face{kind}", data)
    Image.fromarray(flat(6)).save(faces / "p6/face.gif")  # OpenCV dithers
    (faces / "linked").symlink_to(faces / "p0")
    (tmp_path / "p9").mkdir()
    put(tmp_path / "p9/1.jpg", encoded(".jpg", flat(9)))
    (faces / "p9").symlink_to(tmp_path / "p9")
    put(faces / "p0/notes.txt", b"hello")
    put(faces / "outside.jpg", encoded(".jpg", flat(1)))
    words = ("--to", tmp_path / "r", "--name", "faces")
    code, out, error = command("data", "convert", faces, *words)
    assert code == 0, error
    assert "10 images of 10 identities to" in out
    for text in ("1 .txt", "1 link to a listed folder", "1 images outside the folders"):
        assert text in out
    with RecordSet(tmp_path / "r/faces") as records_:
        stored = records_.serialized(np.arange(10))
        images = records_.images(np.arange(10))
    for number, (serialized, image) in enumerate(zip(stored, images)):
        assert np.abs(image.astype(int) - flat(number)).max() <= 8, number
        source = faces / f"p{number}" / f"face{(*kinds, '')[number]}"
        kept = records.image(serialized)
        if number < 9 and kinds[number] in (".jpg", ".jfif", "", ".png"):
            assert kept == source.read_bytes()
        elif number < 9:
            assert kept[:4] == b"\x89PNG"


def flat(number):
    return np.full((112, 112, 3), 20 * number + 40, np.uint8)


def test_rotated_and_cmyk_images_are_stored_as_they_are_seen(command, tmp_path):
    gradient = np.repeat(np.arange(112, dtype=np.uint8)[:, None, None], 112, 1)
    picture = Image.fromarray(gradient.repeat(3, 2) * 2)
    picture.getexif()[0x0112] = 6
    faces = tmp_path / "faces/p"
    faces.mkdir(parents=True)
    picture.save(faces / "1.jpg", exif=picture.getexif(), quality=95)
    Image.fromarray(flat(4)).convert("CMYK").save(faces / "2.jpg", quality=95)
    words = ("--to", tmp_path / "r", "--name", "faces")
    code, _, error = command("data", "convert", tmp_path / "faces", *words)
    assert code == 0, error
    with RecordSet(tmp_path / "r/faces") as stored:
        kept = [records.image(one)[:4] for one in stored.serialized(np.arange(2))]
        rotated, cmyk = stored.images(np.arange(2)).astype(int)
    assert kept == [b"\x89PNG"] * 2
    assert np.abs(rotated - np.rot90(np.asarray(picture), -1)).max() <= 4
    assert np.abs(cmyk - flat(4)).max() <= 4


def test_bad_bytes_are_found_wherever_they_are(command, identities, tmp_path):
    faces = tmp_path / "faces"
    shutil.copytree(identities, faces)
    png, jpeg = (
        bytearray(encoded(".png", picture(112, 112))),
        bytearray(encoded(image=picture(112, 112))),
    )
    for data in (png, jpeg):  # of such a JPEG OpenCV makes an image
        middle = len(data) // 2
        data[middle : middle + 50] = b"\xff" * 50
    put(faces / "p0/8.png", bytes(png))
    put(faces / "p0/9.jpg", bytes(jpeg))
    (faces / "p1/8.jpg").symlink_to("nothing")
    put(faces / "p1/9.jpg", b"")
    os.mkfifo(faces / "p2/8.jpg")
    put(faces / "p2/clip.mp4.jpg/8.jpg", encoded(image=picture(112, 112)))
    words = ("convert", faces, "--to", tmp_path / "r", "--name", "faces")
    code, out, error = command("data", *words)
    assert code == 0, error
    assert "19 images of 6 identities to" in out
    assert "left out: 1 pipe, socket or device" in out
    assert "4 unusable images skipped:" in out
    for text in ("p0/8.png: ", "p0/9.jpg: ", "p1/8.jpg: a dangling link", "p1/9.jpg: "):
        assert f"  {text}" in out
    with RecordSet(tmp_path / "r/faces") as stored:
        stored.check_images(np.arange(19))


def test_damaged_records_of_a_pack_are_skipped(command, identities, tmp_path):
    images = [path.read_bytes() for path in sorted(identities.rglob("*.jpg"))]
    offsets = write_pack(tmp_path, [n // 3 for n in range(18)], images)
    pack = bytearray((tmp_path / "train.rec").read_bytes())
    pack[offsets[5] : offsets[5] + 4] = b"????"
    (tmp_path / "train.rec").write_bytes(pack)
    words = ("convert", tmp_path, "--to", tmp_path / "r", "--name", "faces")
    code, out, error = command("data", *words)
    assert code == 0, error
    assert "17 images of 6 identities" in out
    assert f"train.rec: byte {offsets[5]:,}: magic" in out


def test_names_that_are_not_utf8(command, identities, tmp_path):
    faces = os.fsencode(tmp_path / "faces")
    for number, name in enumerate((b"\xcd\xf5\xb7\xbc", b"a\\b", "Zoë".encode())):
        shutil.copytree(os.fsencode(identities / f"p{number}"), faces + b"/" + name)
    to = tmp_path / "r"
    words = ("convert", tmp_path / "faces", "--to", to, "--name", "faces")
    code, out, error = command("data", *words)
    assert code == 0, error
    assert "9 images of 3 identities to" in out
    expected = ["Zoë", r"\xcd\xf5\xb7\xbc", r"a\\b"]
    with RecordSet(to / "faces") as stored:
        assert stored.identities == expected
        stored.images(np.arange(9))  # compares names with the index
        face = records.decode(stored.serialized(np.array([3]))[0])
        assert (face.identity, face.source) == (expected[1], expected[1] + "/0.jpg")
    for typed in (expected[1], "Zoë", "a\\b"):
        assert len(RecordSet(to / "faces", identities=[typed])) == 3
    code, out, error = command("data", "info", to / "faces")
    assert code == 0, error
    assert "identities  3" in out


@pytest.mark.parametrize(
    ("levels", "options", "code", "text"),
    [
        ("lfw", (), 2, "a single identity: 1 folder holds images in 6 subfolders"),
        ("lfw", ("--identity-level", "2"), 0, "18 images of 6 identities"),
        ("lfw", ("--identity-level", "-1"), 0, "18 images of 6 identities"),
        ("lfw", ("--identity-level", "1"), 0, "18 images of 1 identities"),
        (
            "lfw",
            ("--identity-level", "0"),
            2,
            "--identity-level 0: use 1 for the first",
        ),
        ("lfw", ("--identity-level", "2", "--flat"), 2, "folders of identities only"),
        ("train val", (), 0, "2 folders hold images in 12 subfolders"),
        ("train val", ("--identity-level", "2"), 0, "36 images of 6 identities"),
    ],
)
def test_levels_of_folders(command, identities, tmp_path, levels, options, code, text):
    for name in levels.split():
        shutil.copytree(identities, tmp_path / "faces" / name)
    words = ("convert", tmp_path / "faces", "--to", tmp_path / "r", "--name", "a")
    left, out, error = command("data", *words, *options)
    assert left == code, error
    assert text in out + error


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


def test_align_takes_landmarks_of_a_regressor_only(
    mistake, monkeypatch, identities, tmp_path
):
    other = SimpleNamespace(network=Network("iresnet18", {}, {}, InputSpec()))
    monkeypatch.setattr(embedder, "load_embedder", lambda _: other)
    words = ("--detector", "any", "--landmarks", "mbf", "--to", tmp_path / "new")
    match = "--landmarks mbf: a network of kind 'embedding', not 'landmarks'"
    mistake(match, "data", "align", identities, *words)
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
