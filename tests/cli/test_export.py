"""`fr-jax export`; the programs are tested in tests/embedder/test_export."""

import sys

import numpy as np
import pytest

import fr_jax
from fr_jax.embedder import export as exporting


@pytest.fixture
def exported_as(monkeypatch):
    """Returns a function that sets the loader of the format 'jax'."""

    def write(network, folder):
        (folder / "model.jax").write_text("a program")

    def set_load(load):
        monkeypatch.setitem(exporting.FORMATS, "jax", (write, load))

    return set_load


@pytest.fixture
def words(embedder, tmp_path):
    return ("export", embedder, "--to", tmp_path / "out", "--format")


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("saved_model", "did you mean 'savedmodel'"),
        ("onnx", "pip install '.[onnx]'"),
        ("savedmodel", "pip install '.[tensorflow]'"),
    ],
    ids=["format", "no jax2onnx", "no tensorflow"],
)
def test_unknown_format_and_missing_package_are_refused(
    mistake, monkeypatch, words, tmp_path, kind, match
):
    for name in ("jax2onnx", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    mistake(match, *words, kind)
    assert not list(tmp_path.iterdir())


def test_program_with_other_embeddings_is_deleted(
    command, exported_as, words, tmp_path
):
    exported_as(lambda folder: lambda images: np.ones((len(images), 8)))
    code, _, error = command(*words, "jax")
    assert code == 1
    assert error.startswith("fr-jax: jax: the exported network embeds with cosine")
    assert not list(tmp_path.iterdir())


def test_program_is_written_with_its_description(
    command, mistake, exported_as, embedder, words, tmp_path
):
    exported_as(lambda folder: fr_jax.load_embedder(embedder).embed)
    code, out, error = command(*words, "jax")
    assert code == 0, error
    assert "checked: cosine 1.000000" in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["embedder.json", "model.jax"]
    mistake("exists; choose another folder", *words, "jax")
