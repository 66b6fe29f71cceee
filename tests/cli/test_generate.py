"""`fr-jax generate`, from the published files to training."""

import csv
import json

import cv2
import jax
import matplotlib
import numpy as np
import pytest

import fr_jax
from data_pipelines import DataError
from data_pipelines import index as indexes
from data_pipelines.readers import labelled_folder
from data_pipelines.vision import detect
from fr_jax.embedder.description import check_options
from tests.support import discofacegan as files
from tests.support import notebooks
from tests.support.paths import ROOT

_WIDTH = {"fmap_base": 128, "fmap_max": 2, "dlatent_size": 8, "mapping_fmaps": 8}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny generator's files: pickle and decoders."""
    root = tmp_path_factory.mktemp("published")
    files.write_generator(root / "network.pkl", _WIDTH)
    files.write_vae(root / "vae")
    np.save(root / "mean.npy", np.zeros(8, np.float32))
    return root


def _import(published, target, **options):
    paths = published / "network.pkl", published / "vae"
    options["mean_identity"] = published / "mean.npy"
    fr_jax.import_face_generator(*paths, **options).save(target)
    return target


@pytest.fixture(scope="module")
def generator(published, tmp_path_factory):
    return _import(published, tmp_path_factory.mktemp("imported") / "disco")


@pytest.fixture(scope="module")
def stored(published, tmp_path_factory):
    """A generator with coefficients of six identities, and these."""
    root = tmp_path_factory.mktemp("stored")
    coefficients = np.random.default_rng(0).standard_normal((6, 160))
    np.save(root / "six.npy", coefficients.astype(np.float32))
    options = {"identity_coefficients": root / "six.npy"}
    return _import(published, root / "disco", **options), coefficients


def _rows(folder):
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_imported_generator_states_its_licence(command, mistake, published, tmp_path):
    target = tmp_path / "disco"
    words = ("import", published / "network.pkl", "--vae", published / "vae", "--to")
    options = ("--mean-identity", published / "mean.npy")
    code, out, error = command(*words, target, *options)
    assert code == 0, error
    assert "discofacegan" in out and "research only" in out
    assert "is not the published decoder of id" in out
    code, out, _ = command(*words, target, *options)
    assert code == 0 and "already imported" in out and f"generator: {target}" in out
    provenance = fr_jax.load_embedder(target, check=False).provenance
    decoders = {f"decoder_{factor}" for factor in ("id", "exp", "gamma", "rot")}
    assert set(provenance["files"]) == {"generator", "mean_identity", *decoders}
    mistake("leave it out with --vae", *words, target, *options, "--licence", "MIT")


def test_other_coefficients_are_another_generator(command, mistake, published, stored):
    generator, coefficients = stored
    words = ("import", published / "network.pkl", "--vae", published / "vae", "--to")
    words += (generator, "--mean-identity", published / "mean.npy")
    words += ("--identity-coefficients", generator.with_name("six.npy"))
    assert "already imported" in command(*words)[1]
    np.save(generator.with_name("other.npy"), coefficients.astype("f4") + 1)
    mistake("holds something else", *words[:-1], generator.with_name("other.npy"))


def test_more_identities_than_other_options_may_count():
    check_options("discofacegan", {"identities": 70_000})
    for name, number in (("identities", (1 << 24) + 1), ("fmap_max", 70_000)):
        with pytest.raises(ValueError, match=f"option {name} is"):
            check_options("discofacegan", {name: number})


def test_folder_of_faces(command, generator, tmp_path):
    words = ("generate", "--generator", generator, "--identities", 2)
    words += ("--images-per-identity", 3, "--to", tmp_path / "faces")
    code, out, error = command(*words)
    assert code == 0, error
    assert "6 images" in out and "licence: research only" in out
    rows = _rows(tmp_path / "faces")
    assert [row["file"] for row in rows[:2]] == [
        "000000/000000_0001.jpg",
        "000000/000000_0002.jpg",
    ]
    for row in rows:
        image = cv2.imread(str(tmp_path / "faces" / row["file"]))
        assert image.shape == (112, 112, 3)
        pitch = -np.degrees(float(row["coefficient224"]))
        assert float(row["pitch"]) == pytest.approx(pitch, abs=1e-3)
    codes = [{row[f"z{n}"] for row in rows[:3]} for n in (0, 178)]
    assert [len(values) for values in codes] == [1, 3]
    assert "research only" in (tmp_path / "faces/LICENCE.txt").read_text()
    digest = fr_jax.load_embedder(generator, check=False).weights_sha256
    noted = json.loads((tmp_path / "faces/provenance.json").read_text())
    assert noted["settings"]["generator_sha256"] == digest
    provenance = labelled_folder.provenance(tmp_path / "faces")
    assert "research only" in provenance["licence"]
    source = f"DiscoFaceGAN {digest[:16]}, seed 42, truncation 0.7, factor 0"
    assert provenance["source"] == source
    (tmp_path / "faces/provenance.json").write_text('{"licence": 1}')
    with pytest.raises(DataError, match="restore the file"):
        labelled_folder.provenance(tmp_path / "faces")


def test_interrupted_folder_resumes(command, mistake, generator, tmp_path, monkeypatch):
    from fr_jax.faces import files as face_files

    words = ("generate", "--generator", generator, "--identities", 3)
    words += ("--images-per-identity", 2, "--to")
    assert command(*words, tmp_path / "whole")[0] == 0
    count, add = 0, face_files.LabelledFolder.add

    def cut(self, *arguments):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(face_files.LabelledFolder, "add", cut)
        code, _, error = command(*words, tmp_path / "parts")
    assert code == 130 and "the same call resumes" in error
    message = "seed is 5, there 42; truncation is 0.5, there 0.7"
    mistake(message, *words, tmp_path / "parts", "--seed", 5, "--truncation", 0.5)
    code, out, error = command(*words, tmp_path / "parts")
    assert code == 0 and "resumed after 3 images" in out, error
    assert "\n6 images" in out
    for one, other in zip(_rows(tmp_path / "whole"), _rows(tmp_path / "parts")):
        assert one == other
        paths = [tmp_path / name / one["file"] for name in ("whole", "parts")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_stored_identities_are_generated(command, mistake, stored, tmp_path):
    generator, coefficients = stored
    words = ("generate", "--generator", generator, "--images-per-identity", 2)
    target = tmp_path / "faces"
    mistake("coefficients of 6 identities", *words, "--identities", 7, "--to", target)
    words += ("--identities", 4, "--shard", "1/2", "--batch-size", 3)
    code, _, error = command(*words, "--to", target)
    assert code == 0, error
    first = [float(row["coefficient0"]) for row in _rows(target)]
    expected = coefficients[[2, 2, 3, 3], 0]
    np.testing.assert_allclose(first, expected, rtol=1e-5)


def test_shards_have_different_identities(command, generator, tmp_path):
    words = ("generate", "--generator", generator, "--identities", 2)
    words += ("--images-per-identity", 1)

    def codes(name, *options):
        code, _, error = command(*words, *options, "--to", tmp_path / name)
        assert code == 0, error
        return [row["z0"] for row in _rows(tmp_path / name)]

    whole = codes("whole")
    shards = [codes(f"s{n}", "--shard", f"{n}/2") for n in (0, 1)]
    assert shards == [[value] for value in whole]
    published = codes("p", "--shard", "1/2", "--as-published")
    assert published == whole[:1]


def test_controls_in_degrees(command, generator, tmp_path):
    words = ("generate", "--generator", generator, "--identities", 1)
    words += ("--images-per-identity", 3, "--yaw=-30:30", "--pitch", 5)
    words += ("--interpolate", "light", "--frame", "whole", "--to", tmp_path / "faces")
    code, _, error = command(*words)
    assert code == 0, error
    image = cv2.imread(str(tmp_path / "faces/000000/000000_0001.jpg"))
    assert image.shape == (256, 256, 3)
    rows = _rows(tmp_path / "faces")
    assert [float(row["yaw"]) for row in rows] == pytest.approx([-30, 0, 30], abs=1e-3)
    assert [float(row["pitch"]) for row in rows] == pytest.approx([5] * 3, abs=1e-3)
    light = np.array([float(row["coefficient240"]) for row in rows])
    assert light[1] == pytest.approx((light[0] + light[2]) / 2, rel=1e-4)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--truncation", 2), "--truncation is 2"),
        (("--identities", 0), "--identities is 0"),
        (("--yaw=200",), "--yaw is 200"),
        (("--yaw=a:b",), "expected DEGREES or FROM:TO"),
        (("--shard", "3/2"), "shards count from 0"),
        (("--frame", "whole", "--size", 64), "it has no --size"),
        (("--name", "x"), "--name needs --format records"),
        (("--yaw=10:",), "expected DEGREES or FROM:TO"),
        (("--interpolate", "light", "--factor", 3), "use --factor 0 or 2"),
        (
            ("--interpolate", "expression", "--images-per-identity", 1),
            "--factor 0 or 1 and at least 2 images",
        ),
    ],
)
def test_wrong_options_are_refused(mistake, generator, tmp_path, words, message):
    target = tmp_path / "faces"
    base = ("generate", "--generator", generator, "--identities", 2, "--to", target)
    mistake(message, *base, *words)
    assert not target.exists()


def test_other_networks_generate_no_faces(mistake, embedder, tmp_path):
    base = ("generate", "--identities", 2, "--to", tmp_path / "faces")
    message = "expected a DiscoFaceGAN generator, got iresnet18"
    mistake(message, *base, "--generator", embedder)


def test_a_detector_without_faces_writes_nothing(
    mistake, generator, tmp_path, monkeypatch
):
    monkeypatch.setattr(detect, "YuNet", lambda _: lambda image: [])
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    words = ("generate", "--generator", generator, "--identities", 1)
    words += ("--images-per-identity", 2, "--detector", tmp_path / "yunet.onnx")
    mistake("found no face in any image", *words, "--to", tmp_path / "faces")
    assert [path.name for path in tmp_path.iterdir()] == ["yunet.onnx"]


@pytest.mark.long
def test_notebook_with_stored_identities(stored, tmp_path):
    matplotlib.use("Agg")
    path = ROOT / "colabs/discofacegan.ipynb"
    with jax.numpy_rank_promotion("allow"):  # as for users
        text = notebooks.run(path, tmp_path, {"GENERATOR": str(stored[0])})
    assert "parameters" in text


@pytest.mark.long
def test_from_the_files_to_training(command, published, tmp_path):
    """20 identities as records, 50 steps on them and on the generated stream."""
    target = tmp_path / "disco"
    words = ("import", published / "network.pkl", "--vae", published / "vae", "--to")
    assert command(*words, target)[0] == 0
    words = ("generate", "--generator", target, "--identities", 20, "--to", tmp_path)
    words += ("--images-per-identity", 8, "--format", "records", "--name", "disco")
    code, out, error = command(*words)
    assert code == 0, error
    assert "160 images" in out
    words = ("generate", "--generator", target, "--identities", 2, "--to")
    words += (tmp_path / "folder", "--images-per-identity", 2)
    assert command(*words)[0] == 0
    words = ("data", "convert", tmp_path / "folder", "--to", tmp_path)
    assert command(*words, "--name", "converted")[0] == 0
    for name in ("disco", "converted"):
        index = indexes.load(indexes.find(tmp_path / name))
        assert "research only" in index.licence
        assert "truncation 0.7" in index.source
    train = (
        f"--config={ROOT}/configs/usynthface.py:smoke",
        "--config.train.num_steps=50",
    )
    train += ("--config.data.batch_size=8", "--config.evaluation.subset=0")
    train += ("--config.system.queue.size=64", "--config.train.evaluate_every=25")
    code, _, error = command(
        "train",
        *train,
        f"--workdir={tmp_path}/records_run",
        "--config.data.source=records",
        f"--config.data.records.path={tmp_path}/disco",
        "--config.data.records.held_out=0",
        "--config.data.selection.sets=()",
        "--config.train.evaluate_every=0",
    )
    assert code == 0, error
    provenance = fr_jax.load_embedder(tmp_path / "records_run/embedder").provenance
    assert "research only" in provenance["licences"]["disco"]
    code, _, error = command(
        "train",
        *train,
        f"--workdir={tmp_path}/generated_run",
        "--config.data.source=discofacegan",
        "--config.data.discofacegan.num_identities=20",
        "--config.data.discofacegan.num_unseen=20",
        "--given",
        f"generator={target}",
    )
    assert code == 0, error
    provenance = fr_jax.load_embedder(tmp_path / "generated_run/embedder").provenance
    assert "research only" in provenance["licences"]["network.pkl"]
    results = json.loads((tmp_path / "generated_run/results.json").read_text())
    assert 0 <= results["unseen/accuracy"] <= 1
