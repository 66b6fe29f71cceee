"""`fr-jax import` and `fr-jax info`: weight files, embedders and provenance."""

import json
import pickle
import shutil

import numpy as np
import pytest

import fr_jax
from fr_jax import models
from fr_jax.convert import to_state_dict
from tests.support.networks import random_variables
from tests.support.paths import read_npz


@pytest.fixture
def imported(command, weight_file, tmp_path):
    """The words of a command that imported a file, its target and its output."""
    target = tmp_path / "net"
    words = ("import", "--to", target, "--licence", "mine", "--source", "a friend")
    words += ("--data-set", "faces", "--data-set", "others", weight_file)
    code, out, error = command(*words)
    assert code == 0, error
    return words, target, out, error


def test_imported_embedder_has_the_provenance(command, imported, weight_file):
    _, target, out, error = imported
    assert "arcface_torch" in out
    assert "note: assumed to be arcface_torch; magface" in error
    code, out, _ = command("info", target)
    assert code == 0
    facts = ("iresnet18", "net.npz", "mine", "a friend", "faces; others", "32x32 RGB")
    for fact in facts:
        assert fact in out
    weights = read_npz(weight_file)
    parameters = sum(array.size for array in weights.values() if array.ndim)
    parameters -= sum(len(v) for k, v in weights.items() if "running" in k)
    assert f"{parameters:,}" in out
    provenance = fr_jax.load_embedder(target).provenance
    assert provenance["identities"] == {"faces": [], "others": []}


def test_info_prints_every_parameter_on_demand(command, imported):
    _, target, _, _ = imported
    _, out, _ = command("info", target, "--parameters")
    total = out.split("parameters")[1].split()[0]
    assert f"Total: {total}" in out and "Mean" in out
    assert "Total:" not in command("info", target)[1]


def test_repeated_import_changes_nothing(command, mistake, imported):
    words, target, _, _ = imported
    code, out, _ = command(*words)
    assert code == 0
    assert "already imported" in out
    mistake("holds something else; choose another --to", *words, "--colour", "BGR")
    assert fr_jax.load_embedder(target).network.input_spec.colour == "RGB"


@pytest.mark.parametrize(
    ("name", "words", "match"),
    [
        ("net.npz", ("--dialect", "magfase"), "did you mean 'magface'"),
        ("net.npz", ("--colour", "RBG"), "unknown --colour 'RBG'"),
        ("nowhere.pth", (), "nowhere.pth: no such file"),
        ("evil.pth", (), "evil.pth: "),
        ("net.npz", ("--dialct", "magface"), "did you mean '--dialect'"),
    ],
    ids=["dialect", "colour", "no file", "pickled code", "flag"],
)
def test_invalid_import_is_refused(mistake, weight_file, tmp_path, name, words, match):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print))
    shutil.copy(weight_file, tmp_path)
    target = tmp_path / "e"
    mistake(match, "import", tmp_path / name, "--to", target, *words)
    assert not target.exists()


SMALL = {"width": 0.125, "embedding_size": 8}
# Networks whose names several repositories use: dialect, architecture, prefix.
SHARED = {
    "AdaFace without its program's prefix": ("adaface", "adaface_ir18", ""),
    "a re-release of AdaFace": ("adaface", "adaface_ir18", "net."),
    "InsightFace_Pytorch or face.evoLVe": ("insightface_pytorch", "ir50", "module."),
    "three MobileFaceNets": (
        "insightface_pytorch_mobilefacenet",
        "mobilefacenet",
        "backbone.",
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_colour_order_is_asked_where_repositories_differ(
    mistake, command, tmp_path, case
):
    dialect, architecture, prefix = SHARED[case]
    variables = random_variables(models.create(architecture, **SMALL), 32)
    state = to_state_dict(variables, dialect)
    np.savez(tmp_path / "net.npz", **{prefix + k: a for k, a in state.items()})
    words = ("import", tmp_path / "net.npz", "--to", tmp_path / "net")
    mistake("BGR in ", *words)
    mistake("--colour", *words)
    assert not (tmp_path / "net").exists()
    if case.startswith("a re-release"):
        code, _, error = command(*words, "--colour", "RGB")
        assert code == 0, error
        assert fr_jax.load_embedder(tmp_path / "net").network.input_spec.colour == "RGB"


def test_control_characters_of_stored_text_are_escaped(command, embedder, tmp_path):
    shutil.copytree(embedder, tmp_path / "net")
    path = tmp_path / "net/embedder.json"
    description = json.loads(path.read_text())
    description["provenance"]["licence"] = "free\x1b[2J\nfile  other.pth"
    path.write_text(json.dumps(description))
    _, out, _ = command("info", tmp_path / "net")
    assert r"free\x1b[2J\nfile" in out
