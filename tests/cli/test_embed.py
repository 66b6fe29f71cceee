"""`fr-jax embed`: names and embeddings of folders, images, records and .bin sets."""

import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

import fr_jax
from tests.support.faces import encoded, picture
from tests.support.paths import read_npz


def test_folder_is_embedded(command, mistake, embedder, identities, tmp_path):
    to = tmp_path / "deep/er/faces.npz"
    words = ("embed", identities, "--embedder", embedder, "--to", to)
    code, out, error = command(*words)
    assert code == 0, error
    assert "18 embeddings of 8 dimensions" in out
    assert "18/18" in error
    stored = read_npz(to)
    paths = sorted(identities.rglob("*.jpg"))
    assert stored["names"].tolist() == [f"p{n // 3}/{n % 3}.jpg" for n in range(18)]
    assert stored["identities"].tolist() == [f"p{n // 3}" for n in range(18)]
    expected = fr_jax.load_embedder(embedder).embed(paths, normalize=False)
    whole = stored["embeddings"] * stored["norms"][:, None]
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)
    assert json.loads(str(stored["about"]))["provenance"]["file"] == "net.npz"
    mistake("exists; choose another file", *words)
    assert [path.name for path in to.parent.iterdir()] == ["faces.npz"]


def test_parquet_with_flip(command, embedder, identities, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    words = ("embed", identities / "p1", "--embedder", embedder, "--flip")
    code, _, error = command(*words, "--to", tmp_path / "faces.parquet")
    assert code == 0, error
    table = parquet.read_table(tmp_path / "faces.parquet")
    assert table["name"].to_pylist() == [f"{n}.jpg" for n in range(3)]
    assert table["identity"].to_pylist() == [""] * 3
    paths = sorted((identities / "p1").iterdir())
    expected = fr_jax.load_embedder(embedder).embed(paths, flip=True)
    stored = np.array(table["embedding"].to_pylist())
    np.testing.assert_allclose(stored, expected, atol=1e-6)
    assert json.loads(table.schema.metadata[b"fr_jax"])["flip"] is True


def test_embeddings_for_the_projector(command, mistake, embedder, identities, tmp_path):
    words = ("embed", identities, "--embedder", embedder, "--to", tmp_path / "f.npz")
    folder = tmp_path / "projector"
    mistake("--no-images needs --projector", *words, "--no-images")
    code, out, error = command(*words, "--projector", folder)
    assert code == 0, error
    assert f"tensorboard --logdir {folder}" in out
    stored = read_npz(tmp_path / "f.npz")
    tensors = np.loadtxt(folder / "tensors.tsv", dtype=np.float32)
    np.testing.assert_array_equal(tensors, stored["embeddings"])
    lines = (folder / "metadata.tsv").read_text().splitlines()
    assert lines[1].split("\t")[:2] == ["p0/0.jpg", "p0"]
    assert len(lines) == 19
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    face = np.asarray(Image.open(identities / "p0/1.jpg").resize((64, 64), Image.BOX))
    shown = sprite[:64, 64:128].astype(int)
    assert np.abs(shown - face).mean() < 3  # decoders of JPEG differ a little
    words = (*words[:-1], tmp_path / "g.npz", "--projector")
    mistake("has a projector; choose another folder", *words, folder)
    code, _, error = command(*words, tmp_path / "bare", "--no-images")
    assert code == 0, error
    assert not (tmp_path / "bare/sprite.png").exists()


@pytest.fixture(scope="module")
def expected(embedder, identities):
    """Paths of all faces, and their embeddings."""
    paths = sorted(identities.rglob("*.jpg"))
    return paths, fr_jax.load_embedder(embedder).embed(paths)


@pytest.fixture
def embedded(command, embedder, tmp_path):
    """Returns a function: source -> arrays that the command writes."""

    def run(source):
        to = tmp_path / "out.npz"
        code, _, error = command("embed", source, "--embedder", embedder, "--to", to)
        assert code == 0, error
        return read_npz(to)

    return run


def test_one_image_is_embedded(embedded, expected):
    paths, embeddings = expected
    stored = embedded(paths[4])
    assert stored["names"].tolist() == ["1.jpg"]
    np.testing.assert_allclose(stored["embeddings"], embeddings[4:5], atol=1e-6)


def test_bin_is_embedded(embedded, expected, tmp_path):
    paths, embeddings = expected
    contents = [path.read_bytes() for path in paths]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((contents, [True] * 9)))
    stored = embedded(tmp_path / "set.bin")
    assert stored["names"][3] == "set.bin:3"
    np.testing.assert_allclose(stored["embeddings"], embeddings, atol=1e-6)


def test_records_are_embedded(command, embedded, expected, identities, tmp_path):
    pytest.importorskip("tensorflow")
    paths, embeddings = expected
    command("data", "convert", identities, "--to", tmp_path / "r", "--name", "faces")
    stored = embedded(tmp_path / "r/faces")
    names = stored["names"].tolist()
    order = [names.index(path.relative_to(identities).as_posix()) for path in paths]
    assert stored["identities"][order].tolist() == [f"p{n // 3}" for n in range(18)]
    np.testing.assert_allclose(stored["embeddings"][order], embeddings, atol=1e-6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An empty folder, and one with an aligned face, an unaligned one, and text."""
    root = tmp_path_factory.mktemp("folders")
    for name in ("empty", "mixed"):
        (root / name).mkdir()
    (root / "mixed/a.jpg").write_bytes(encoded(image=picture(112, 112)))
    (root / "mixed/b.jpg").write_bytes(encoded(image=picture(250, 250)))
    (root / "mixed/c.jpg").write_text("hello")
    return root


@pytest.mark.parametrize(
    ("source", "to", "match"),
    [
        ("", "out.csv", "must end in .npz or .parquet"),
        ("nowhere", "out.npz", "nowhere: no such file or folder"),
        ("empty", "out.npz", "no image below it"),
        ("mixed", "out.npz", "1 of 3 images are no aligned faces"),
        ("mixed", "out.npz", "b.jpg: 250x250 pixels"),
        ("", "out.parquet", "pip install '.[parquet]', or choose .npz"),
    ],
    ids=["suffix", "no source", "no images", "not aligned", "listed", "no pyarrow"],
)
def test_invalid_source_or_target_is_refused(
    mistake, monkeypatch, embedder, folders, tmp_path, source, to, match
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ("--embedder", embedder, "--to", tmp_path / to)
    mistake(match, "embed", folders / source, *words)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Faces of 128 x 128 as a .bin, as a folder and as records."""
    root = tmp_path_factory.mktemp("crops")
    faces = [encoded(image=picture(128, 128, n)) for n in range(4)]
    (root / "crops.bin").write_bytes(pickle.dumps((faces, [True, False])))
    for number, face in enumerate(faces):
        path = root / f"folder/p{number // 2}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(face)
    return root


@pytest.mark.parametrize("source", ["crops.bin", "folder", "records/crops"])
def test_other_sizes_than_of_aligned_faces_need_a_flag(
    command, mistake, embedder, crops, tmp_path, source
):
    if source == "records/crops":
        pytest.importorskip("tensorflow")
        words = ("--to", tmp_path / "records", "--name", "crops", "--size", 128)
        assert command("data", "convert", crops / "folder", *words)[0] == 0
        source = tmp_path / source
    to = tmp_path / "out.npz"
    words = ("embed", crops / source, "--embedder", embedder, "--to", to)
    mistake("128x128 pixels, expected 112x112", *words)
    assert not to.exists()
    code, _, error = command(*words, "--unaligned")
    assert code == 0, error
    assert read_npz(to)["embeddings"].shape == (4, 8)


def test_folder_without_an_embedder_is_refused(mistake, folders, tmp_path):
    words = ("--embedder", folders / "empty", "--to", tmp_path / "out.npz")
    mistake("no embedder here", "embed", folders / "mixed", *words)
    assert not list(tmp_path.iterdir())
