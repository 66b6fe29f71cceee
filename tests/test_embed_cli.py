"""Weight file in, embeddings, comparisons and exports out, on the command line."""

import json
import pickle
import shutil
import sys

import numpy as np
import pytest

import fr_jax
from fr_jax import models
from fr_jax.convert import to_state_dict
from fr_jax.embedder import export as exporting
from tests.conftest import read_npz
from tests.networks import random_variables
from tests.test_images import encoded, picture

OPTIONS = {"width": 0.125, "embedding_size": 8}


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    variables = random_variables(models.create("iresnet18", **OPTIONS), 32)
    path = tmp_path_factory.mktemp("published") / "net.npz"
    np.savez(path, **to_state_dict(variables, "arcface_torch"))
    return path


@pytest.fixture(scope="module")
def embedder(weight_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("imported") / "net"
    fr_jax.import_weights(weight_file).save(path)
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three people with four faces each, <identity>/<number>.jpg."""
    root = tmp_path_factory.mktemp("people")
    for person in range(3):
        for number in range(4):
            path = root / f"p{person}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(image=picture(112, 112, 10 * person + number)))
    return root


# --- import, info -------------------------------------------------------------------


def test_import_keeps_where_it_comes_from(command, mistake, weight_file, tmp_path):
    target = tmp_path / "net"
    words = ("import", weight_file, "--to", target, "--licence", "mine")
    facts = ("--source", "a friend", "--data-set", "faces", "others")
    code, out, error = command(*words, *facts)
    assert code == 0
    assert "arcface_torch" in out
    assert "note: taken for arcface_torch; magface" in error
    code, out, _ = command("info", target)
    assert code == 0
    wanted = ("iresnet18", "net.npz", "mine", "a friend", "faces; others", "32x32 RGB")
    for expected in wanted:
        assert expected in out
    parameters = sum(
        leaf.size for leaf in read_npz(weight_file).values() if leaf.ndim
    ) - sum(len(v) for k, v in read_npz(weight_file).items() if "running" in k)
    assert f"{parameters:,}" in out
    code, out, _ = command(*words, *facts)
    assert code == 0
    assert "has it already" in out
    mistake("holds something else; choose another --to", *words, "--colour", "BGR")
    assert fr_jax.load_embedder(target).network.input_spec.colour == "RGB"


def test_mistakes_with_import(mistake, weight_file, tmp_path):
    target = tmp_path / "e"

    def refused(match, path, *words):
        mistake(match, "import", path, "--to", target, *words)
        assert not target.exists()

    refused("did you mean 'magface'", weight_file, "--dialect", "magfase")
    refused("invalid choice: 'RBG'", weight_file, "--colour", "RBG")
    refused("nowhere.pth: no such file", tmp_path / "nowhere.pth")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print))
    refused("evil.pth: ", tmp_path / "evil.pth")
    refused("did you mean '--dialect'", weight_file, "--dialct", "magface")


# --- embed --------------------------------------------------------------------------


def test_embed_a_folder(command, mistake, embedder, people, tmp_path):
    to = tmp_path / "deep/er/faces.npz"
    words = ("embed", people, "--embedder", embedder, "--to", to)
    code, out, error = command(*words)
    assert code == 0
    assert "12 embeddings of 8 numbers" in out
    assert "12/12" in error
    with np.load(to, allow_pickle=False) as file:
        found = dict(file)
    paths = sorted(people.rglob("*.jpg"))
    assert found["names"].tolist() == [f"p{n // 4}/{n % 4}.jpg" for n in range(12)]
    assert found["identities"].tolist() == [f"p{n // 4}" for n in range(12)]
    expected = fr_jax.load_embedder(embedder).embed(paths, normalize=False)
    whole = found["embeddings"] * found["norms"][:, None]
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)
    assert json.loads(str(found["about"]))["provenance"]["file"] == "net.npz"
    mistake("exists; choose another file", *words)
    assert [path.name for path in to.parent.iterdir()] == ["faces.npz"]


def test_embed_to_parquet_and_with_flips(command, embedder, people, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    words = ("embed", people / "p1", "--embedder", embedder, "--flip")
    code, _, _ = command(*words, "--to", tmp_path / "faces.parquet")
    assert code == 0
    table = parquet.read_table(tmp_path / "faces.parquet")
    assert table["name"].to_pylist() == [f"{n}.jpg" for n in range(4)]
    assert table["identity"].to_pylist() == [""] * 4
    paths = sorted((people / "p1").iterdir())
    expected = fr_jax.load_embedder(embedder).embed(paths, flip=True)
    found = np.array(table["embedding"].to_pylist())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert json.loads(table.schema.metadata[b"fr_jax"])["flip"] is True


def test_embed_one_image_a_bin_and_records(command, embedder, people, tmp_path):
    pytest.importorskip("tensorflow")
    paths = sorted(people.rglob("*.jpg"))
    contents = [path.read_bytes() for path in paths]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((contents, [True] * 6)))
    command("data", "convert", people, "--to", tmp_path / "r", "--name", "faces")
    expected = fr_jax.load_embedder(embedder).embed(paths)

    def embedded(source):
        to = tmp_path / "out.npz"
        code, _, error = command("embed", source, "--embedder", embedder, "--to", to)
        assert code == 0, error
        with np.load(to) as file:
            found = dict(file)
        to.unlink()
        return found

    one = embedded(paths[5])
    assert one["names"].tolist() == ["1.jpg"]
    np.testing.assert_allclose(one["embeddings"], expected[5:6], atol=1e-6)
    bin_set = embedded(tmp_path / "set.bin")
    assert bin_set["names"][3] == "set.bin:3"
    np.testing.assert_allclose(bin_set["embeddings"], expected, atol=1e-6)
    records = embedded(tmp_path / "r/faces")
    names = records["names"].tolist()
    order = [names.index(path.relative_to(people).as_posix()) for path in paths]
    assert records["identities"][order].tolist() == [f"p{n // 4}" for n in range(12)]
    np.testing.assert_allclose(records["embeddings"][order], expected, atol=1e-6)


def test_mistakes_with_embed(mistake, embedder, people, tmp_path, monkeypatch):
    def refused(match, source, to="out.npz", network=embedder):
        words = ("--embedder", network, "--to", tmp_path / to)
        mistake(match, "embed", source, *words)
        assert not list(tmp_path.glob("out*"))

    refused("must end in .npz or .parquet", people, to="out.csv")
    refused("nowhere: no such file or folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("no .jpg, .jpeg or .png below it", tmp_path / "empty")
    refused("no embedder here", people, network=tmp_path / "empty")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.jpg").write_bytes(encoded(image=picture(112, 112)))
    (mixed / "b.jpg").write_bytes(encoded(image=picture(250, 250)))
    (mixed / "c.jpg").write_text("hello")
    refused("2 of 3 images are no aligned faces", mixed)
    refused("b.jpg: 250x250 pixels", mixed)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("pip install '.[parquet]', or choose .npz", people, to="out.parquet")


# --- compare ------------------------------------------------------------------------


def test_compare_two_aligned_faces(command, embedder, people):
    first, second = people / "p0/0.jpg", people / "p1/0.jpg"
    words = ("compare", first, second, "--embedder", embedder)
    code, out, _ = command(*words)
    assert code == 0
    one, other = fr_jax.load_embedder(embedder).embed([first, second], flip=True)
    assert f"cosine {one @ other:.4f}" in out
    assert "no verdict: no threshold is known" in out
    _, out, _ = command(*words, "--threshold", one @ other - 0.1)
    assert "the same person: at least" in out
    _, out, _ = command(*words, "--threshold", one @ other + 0.1)
    assert "different people: below" in out


def test_compare_takes_thresholds_from_results(command, embedder, people, tmp_path):
    contents = [path.read_bytes() for path in sorted(people.rglob("*.jpg"))] * 4
    (tmp_path / "set.bin").write_bytes(pickle.dumps((contents, [True, False] * 12)))
    network = tmp_path / "net"
    shutil.copytree(embedder, network)
    judged = ("--set", f"toy={tmp_path}/set.bin", "--to", network)
    assert command("evaluate", "--embedder", network, *judged)[0] == 0
    results = json.loads((network / "results.json").read_text())
    faces = (people / "p0/0.jpg", people / "p0/1.jpg")
    _, out, _ = command("compare", *faces, "--embedder", network)
    assert f"{results['toy/cosine_threshold']:.4f} by the threshold of toy" in out
    assert f"{100 * results['toy/accuracy']:.2f} %" in out
    _, out, _ = command("info", network)
    assert "toy" in out


def test_compare_finds_and_aligns_faces(command, mistake, embedder, real, tmp_path):
    import tarfile

    detector = real("weights/face_detection_yunet_2026may.onnx")
    with tarfile.open(real("landmarks68.tar")) as archive:
        names = [n for n in sorted(archive.getnames()) if n.endswith(".jpg")][:2]
        archive.extractall(tmp_path, names, filter="data")
    photos = [tmp_path / name for name in names]
    words = ("--embedder", embedder, "--detector", detector)
    code, out, _ = command("compare", *photos, *words)
    assert code == 0
    assert "cosine" in out
    mistake("not an aligned face", "compare", *photos, "--embedder", embedder)
    noise = tmp_path / "noise.png"
    noise.write_bytes(encoded(".png", picture(200, 200)))
    mistake("noise.png: no face found", "compare", photos[0], noise, *words)
    two = tmp_path / "two.png"
    wide = [images_of(photo) for photo in photos]
    height = min(image.shape[0] for image in wide)
    two.write_bytes(
        encoded(".png", np.concatenate([image[:height] for image in wide], axis=1))
    )
    code, _, error = command("compare", photos[0], two, *words)
    assert code == 0
    assert "two.png: 2 faces; the largest is taken" in error


def images_of(path):
    from data_pipelines import images

    return images.decode(path.read_bytes())


def test_mistakes_with_compare(mistake, embedder, people, tmp_path):
    face = people / "p0/0.jpg"

    def refused(match, other, *words, network=embedder):
        mistake(match, "compare", face, other, "--embedder", network, *words)

    refused("nowhere.jpg: no such image", tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    refused("text.jpg: neither JPEG nor PNG", tmp_path / "text.jpg")
    (tmp_path / "photo.jpg").write_bytes(encoded(image=picture(250, 200)))
    refused("photo.jpg: 200x250 pixels, not an aligned", tmp_path / "photo.jpg")
    refused("a cosine lies in -1 .. 1", face, "--threshold", "1.5")
    refused("no such detector file", face, "--detector", tmp_path / "no.onnx")
    refused("no embedder here", face, network=tmp_path)


# --- export -------------------------------------------------------------------------


def test_export_and_its_mistakes(command, mistake, embedder, tmp_path, monkeypatch):
    """The programs themselves are tested in test_export."""

    def write(network, folder):
        (folder / "model.jax").write_text("a program")

    def as_if(load):
        monkeypatch.setitem(exporting.FORMATS, "jax", (write, load))

    words = ("export", embedder, "--to", tmp_path / "out", "--format")
    mistake("did you mean 'savedmodel'", *words, "saved_model")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "jax2onnx", None)
        without.setitem(sys.modules, "tensorflow", None)
        mistake("pip install '.[onnx]'", *words, "onnx")
        mistake("pip install '.[tensorflow]'", *words, "savedmodel")
    assert not list(tmp_path.iterdir())
    as_if(lambda folder: lambda images: np.ones((len(images), 8)))
    code, _, error = command(*words, "jax")
    assert code == 1
    assert error.startswith("fr-jax: jax: the exported network embeds with cosine")
    assert not list(tmp_path.iterdir())
    as_if(lambda folder: fr_jax.load_embedder(embedder).embed)
    code, out, _ = command(*words, "jax")
    assert code == 0
    assert "embeds with cosine 1.000000" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "embedder.json",
        "model.jax",
    ]
    mistake("exists; choose another folder", *words, "jax")


def test_what_a_stranger_wrote_cannot_steer_the_terminal(command, embedder, tmp_path):
    shutil.copytree(embedder, tmp_path / "net")
    path = tmp_path / "net/embedder.json"
    description = json.loads(path.read_text())
    description["provenance"]["licence"] = "free\x1b[2J\nfile  other.pth"
    path.write_text(json.dumps(description))
    _, out, _ = command("info", tmp_path / "net")
    assert r"free\x1b[2J\nfile" in out
