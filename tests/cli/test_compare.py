"""`fr-jax compare`: the cosine of two faces, and the decision by a threshold."""

import json
import shutil
import tarfile

import numpy as np
import pytest

import fr_jax
from data_pipelines import images
from tests.support.faces import encoded, picture


def test_cosine_and_decision_for_two_aligned_faces(command, embedder, identities):
    first, second = identities / "p0/0.jpg", identities / "p1/0.jpg"
    words = ("compare", first, second, "--embedder", embedder)
    code, out, error = command(*words)
    assert code == 0, error
    one, other = fr_jax.load_embedder(embedder).embed([first, second], flip=True)
    assert f"cosine {one @ other:.4f}" in out
    assert "no decision: this embedder has no threshold" in out
    _, out, _ = command(*words, "--threshold", one @ other - 0.1)
    assert "same identity: at least" in out
    _, out, _ = command(*words, "--threshold", one @ other + 0.1)
    assert "different identities: below" in out


def test_images_of_any_size_are_compared_with_a_flag(command, embedder, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(".png", picture(128, 128, number)))
    words = ("compare", *paths, "--embedder", embedder)
    assert command(*words)[0] == 2
    code, out, error = command(*words, "--unaligned")
    assert code == 0, error
    assert "cosine" in out


def test_threshold_comes_from_results_next_to_the_embedder(
    command, embedder, identities, verification_bin, tmp_path
):
    network = tmp_path / "net"
    shutil.copytree(embedder, network)
    words = ("--set", f"toy={verification_bin}", "--to", network)
    assert command("evaluate", "--embedder", network, *words)[0] == 0
    results = json.loads((network / "results.json").read_text())
    faces = (identities / "p0/0.jpg", identities / "p0/1.jpg")
    _, out, _ = command("compare", *faces, "--embedder", network)
    assert f"{results['toy/cosine_threshold']:.4f} (threshold of toy" in out
    assert f"{100 * results['toy/accuracy']:.2f} %" in out
    _, out, _ = command("info", network)
    assert "toy" in out


def test_faces_in_photographs_are_detected_and_aligned(
    command, mistake, embedder, real, tmp_path
):
    detector = real("weights/face_detection_yunet_2026may.onnx")
    with tarfile.open(real("landmarks68.tar")) as archive:
        names = [n for n in sorted(archive.getnames()) if n.endswith(".jpg")][:2]
        archive.extractall(tmp_path, names, filter="data")
    photos = [tmp_path / name for name in names]
    words = ("--embedder", embedder, "--detector", detector)
    code, out, error = command("compare", *photos, *words)
    assert code == 0, error
    assert "cosine" in out
    mistake("not an aligned face", "compare", *photos, "--embedder", embedder)
    noise = tmp_path / "noise.png"
    noise.write_bytes(encoded(".png", picture(200, 200)))
    mistake("noise.png: no face found", "compare", photos[0], noise, *words)
    two = tmp_path / "two.png"
    wide = [images.decode(photo.read_bytes()) for photo in photos]
    height = min(image.shape[0] for image in wide)
    both = np.concatenate([image[:height] for image in wide], axis=1)
    two.write_bytes(encoded(".png", both))
    code, _, error = command("compare", photos[0], two, *words)
    assert code == 0, error
    assert "two.png: 2 faces; the largest is used" in error


@pytest.mark.parametrize(
    ("other", "words", "match"),
    [
        ("nowhere.jpg", (), "nowhere.jpg: no such image"),
        ("text.jpg", (), "text.jpg: no image"),
        ("photo.jpg", (), "photo.jpg: 200x250 pixels, not an aligned"),
        ("face.jpg", ("--threshold", "1.5"), "--threshold is 1.5; use -1 to 1"),
        ("face.jpg", ("--detector", "no.onnx"), "no such detector file"),
        ("face.jpg", ("--embedder", "."), "no embedder here"),
    ],
    ids=["no image", "text", "not aligned", "threshold", "no detector", "no embedder"],
)
def test_invalid_arguments_are_refused(
    mistake, monkeypatch, embedder, identities, tmp_path, other, words, match
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "photo.jpg").write_bytes(encoded(image=picture(250, 200)))
    face = identities / "p0/0.jpg"
    shutil.copy(face, tmp_path / "face.jpg")
    mistake(match, "compare", face, other, "--embedder", embedder, *words)
