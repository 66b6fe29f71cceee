"""Exported embedders, loaded with the libraries of each format."""

import json
import sys

import numpy as np
import pytest

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.embedder import export as exporting
from fr_jax.embedder.calibration import Calibration
from fr_jax.embedder.export import export
from fr_jax.errors import CheckFailed, UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from tests.support.networks import random_variables

FACES = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def embedder():
    """A small embedder whose preprocessing has a resize and BGR."""
    options = {"width": 0.125, "embedding_size": 8, "stage_sizes": [1, 1, 1, 1]}
    spec = InputSpec(size=32, colour="BGR", mean=100.0, scale=50.0)
    variables = random_variables(models.create("iresnet18", **options), 32)
    network = Network("iresnet18", options, variables, spec)
    return Embedder(network, {"licence": "none needed"}, batch_size=5)


def run_jax(folder):
    import jax
    from jax import export as jax_export

    program = jax_export.deserialize(bytearray((folder / "model.jax").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    return jax.jit(program.call)


def run_savedmodel(folder):
    tf = pytest.importorskip("tensorflow")
    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    return lambda images: next(iter(serve(images=tf.constant(images)).values()))


def run_tflite(folder):
    tf = pytest.importorskip("tensorflow")
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    signature = interpreter.get_input_details()[0]["shape_signature"]
    assert signature.tolist() == [-1, 112, 112, 3]

    def run(images):
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, images.shape, strict=True)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


@pytest.mark.filterwarnings("ignore")  # of TensorFlow
@pytest.mark.parametrize(
    ("kind", "flip_sum"),
    [
        ("jax", False),
        ("savedmodel", False),
        ("tflite", False),
        ("jax", True),
        pytest.param("savedmodel", True, marks=pytest.mark.long),
        pytest.param("tflite", True, marks=pytest.mark.long),
    ],
)
def test_exported_program_gives_equal_embeddings_at_any_batch_size(
    embedder, kind, flip_sum, tmp_path
):
    if kind != "jax":
        pytest.importorskip("tensorflow")
    folder = tmp_path / "out"
    assert export(embedder, kind, folder, flip_sum=flip_sum) >= 0.9999
    run = globals()[f"run_{kind}"](folder)
    expected = embedder.embed(FACES, flip=flip_sum)
    assert np.abs(expected - embedder.embed(FACES, flip=not flip_sum)).max() > 0.01
    np.testing.assert_allclose(np.asarray(run(FACES)), expected, atol=2e-5)
    stored = json.loads((folder / "embedder.json").read_text())
    assert stored["provenance"] == {"licence": "none needed"}
    assert stored["flip_sum"] is flip_sum
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("flip_sum", [True, False])
def test_threshold_is_exported_with_the_embeddings_it_is_for(
    embedder, tmp_path, monkeypatch, flip_sum
):
    def write(graphs, folder):
        (folder / "model.jax").write_text("a program")

    def load(folder):
        return lambda images: embedder.embed(images, flip=flip_sum)

    monkeypatch.setitem(exporting.FORMATS, "jax", (write, load))
    counts = {"impostors_accepted": 2, "impostor_pairs": 20, "genuine_pairs": 7}
    calibration = Calibration(
        *(0.25, 0.2, 0.3, 0.1, flip_sum, 0.8), **counts, resampled="pairs", pairs="own"
    )
    monkeypatch.setattr(embedder, "calibration", calibration)
    export(embedder, "jax", tmp_path / "out", flip_sum=flip_sum)
    stored = json.loads((tmp_path / "out/calibration.json").read_text())
    assert (stored["threshold"], stored["flip_sum"]) == (0.25, flip_sum)
    other = calibration._replace(flip_sum=not flip_sum)
    monkeypatch.setattr(embedder, "calibration", other)
    export(embedder, "jax", tmp_path / "other", flip_sum=flip_sum)
    names = sorted(path.name for path in (tmp_path / "other").iterdir())
    assert names == ["embedder.json", "model.jax"]


def test_program_with_other_embeddings_is_not_kept(embedder, tmp_path, monkeypatch):
    def wrong(folder):
        run = exporting._load_jax(folder)
        return lambda images: run(images[..., ::-1])  # as if colours were swapped

    monkeypatch.setitem(exporting.FORMATS, "jax", (exporting._write_jax, wrong))
    with pytest.raises(CheckFailed, match=r"cosine -?0\.\d+ .*nothing was kept"):
        export(embedder, "jax", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "match"),
    [
        ("tflit", "out", "did you mean 'tflite'"),
        ("jax", "taken", "taken exists; choose another folder"),
        ("onnx", "out", r"onnx/bin/pip install '\.\[onnx\]'"),
    ],
    ids=["format", "taken path", "missing package"],
)
def test_invalid_export_is_refused(embedder, tmp_path, monkeypatch, kind, name, match):
    (tmp_path / "taken").mkdir()
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=match):
        export(embedder, kind, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
