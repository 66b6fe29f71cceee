"""Output of an evaluation: results.json, figures, a printed table."""

import json

import numpy as np
import pytest
from etils import epath

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.evaluation import results as written
from fr_jax.evaluation import stored
from fr_jax.evaluation.verification import Verification
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from tests.support.networks import random_variables

PEOPLE = [f"{letter}nn_Lee" for letter in "ABCDEFGHIJKLMNOPQRST"]


@pytest.fixture(scope="module")
def embedder():
    """A network trained on the identities of the first five folds of `faces`."""
    options = {"width": 0.125, "embedding_size": 8, "stage_sizes": [1, 1]}
    variables = random_variables(models.create("iresnet18", **options), 16)
    network = Network("iresnet18", options, variables, InputSpec(size=16))
    provenance = {
        "identities": {"train": PEOPLE[:10]},
        "note": "a note",
        "selection": {"kind": "clean", "sets": ["faces"]},
    }
    return Embedder(network, provenance)


def faces(name="faces", identities=True):
    rng = np.random.default_rng(0)
    pairs = np.arange(80).reshape(-1, 2)
    return Verification(
        name,
        images=rng.integers(0, 256, (80, 16, 16, 3), np.uint8),
        pairs=pairs,
        same=np.arange(40) % 4 < 2,
        folds=np.arange(40) // 4,
        identities=[PEOPLE[n // 4] for n in range(80)] if identities else None,
    )


class Drawing:
    """An evaluator with a figure."""

    metric_names = ("answer",)

    def __call__(self, trained):
        assert "embedding" in trained.networks
        return {"answer": 42.0}

    def draw(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answer.png").write_text("42")
        return [folder / "answer.png"]


def test_results_figures_and_table_are_written(embedder, tmp_path, capsys):
    evaluators = [faces(), faces("others", identities=False), Drawing()]
    folder = epath.Path(tmp_path / "to")
    done = written.evaluate_and_write(evaluators, {"embedding": embedder}, folder)
    curves = done.curves
    results = json.loads((folder / "results.json").read_text())
    # Sets with training identities have other keys.
    assert {"faces_seen/accuracy", "faces_heldout/accuracy"} <= results.keys()
    assert "others/accuracy" in results
    low, high = (results[f"others/accuracy_{end}"] for end in ("low", "high"))
    assert 0 <= low <= high <= 1
    assert results["others/resampled_pairs"] == 40
    # Labels of `faces` contradict its names, which are no identities then.
    assert results["faces_seen/resampled_pairs"] == 40
    assert results["answer"] == 42
    assert not any(name.startswith("selection") for name in results)
    assert curves.keys() == {"faces_seen", "others"}
    scores, same = curves["others"]
    assert scores.shape == (40,)
    assert (same == faces().same).all()
    for name in ("roc", "cosines"):
        figure = folder / f"figures/{name}.png"
        assert figure.read_bytes()[:4] == b"\x89PNG"
    out = capsys.readouterr().out
    assert f"{100 * results['others/accuracy']:.2f} %" in out
    assert "note: a note" in out
    assert "note: cannot tell whether identities of others were trained on" in out
    assert f"results: {folder}/results.json" in out
    assert f"figure: {folder}/figures/answer.png" in out
    assert not list(folder.glob("*.part"))
    run = stored.load(folder, name="to")
    assert run.results == {k: v for k, v in results.items() if k != "notes"}
    assert run.notes == results.get("notes", {})
    one, other = run.sets
    np.testing.assert_array_equal(other.scores.values, scores)
    assert other.scores.hardest is None  # no faces unless they are asked for
    assert (one.seen_folds, other.seen_folds) == ((0, 1, 2, 3, 4), ())
    assert one.seen and other.unknown
    assert one.protocol["why_pairs"].startswith("names of identities contradict")


def test_results_without_verification_have_no_curves(embedder, tmp_path):
    folder = epath.Path(tmp_path)
    done = written.evaluate_and_write([Drawing()], {"embedding": embedder}, folder)
    assert done.curves == {}
    assert json.loads((folder / "results.json").read_text()) == {"answer": 42}
    assert [path.name for path in (folder / "figures").iterdir()] == ["answer.png"]


class Undefined:
    """An evaluator with results that are no numbers."""

    metric_names = ("a", "b", "c")

    def __call__(self, trained):
        return {"a": 1.0, "b": float("nan"), "c": float("inf")}


def test_undefined_results_are_left_out_by_name(embedder, tmp_path, capsys):
    folder = epath.Path(tmp_path)
    written.evaluate_and_write([Undefined()], {"embedding": embedder}, folder)
    reason = "undefined for these images"
    results = json.loads((folder / "results.json").read_text())
    assert results == {"a": 1, "notes": {"b": reason, "c": reason}}
    assert f"note: b, c: {reason}\n" in capsys.readouterr().out


def test_results_are_strict_json_and_written_atomically(tmp_path):
    path = tmp_path / "deep/results.json"
    written.write(path, {"a": 1.0})
    with pytest.raises(ValueError):
        written.write(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1.0}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"lfw/accuracy": 0.5}', {"lfw/accuracy": 0.5}),
        ('{"a": 1, "notes": {"b": "no pairs"}}', {"a": 1}),
        (None, {}),
        ("{", {}),
        ('{"a": "text"}', {}),
        ("[1]", {}),
    ],
    ids=["results", "notes", "no file", "truncated file", "text", "list"],
)
@pytest.mark.parametrize("owner", ["net", "run/embedder", "run"])
def test_stored_results_of_an_embedder_are_returned(tmp_path, content, expected, owner):
    network = tmp_path / ("run/embedder" if owner == "run" else owner)
    network.mkdir(parents=True)
    if content is not None:
        (tmp_path / owner / "results.json").write_text(content)
    assert written.stored_results(str(network)) == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"kind": "legacy", "sets": ["a", "b"]}, {"selection_legacy/accuracy": 0.8}),
        ({"kind": "clean", "sets": ["a"]}, {"selection_clean/accuracy": 0.7}),
        ({"kind": "clean", "sets": []}, {}),
        ({"kind": "clean", "sets": ["a", "other"]}, {}),
        (None, {}),
    ],
    ids=["legacy", "clean", "no sets", "set not evaluated", "no selection"],
)
def test_mean_accuracy_of_selection_sets_has_their_kind_as_key(selection, expected):
    results = {"a/accuracy": 0.7, "b/accuracy": 0.9, "c/accuracy": 0.1}
    assert written._selected(selection, results) == pytest.approx(expected)


def test_table_and_summary_show_accuracies():
    results = {
        "lfw/accuracy": 0.9912,
        "lfw/accuracy_std": 0.004,
        "lfw/accuracy_low": 0.98,
        "lfw/accuracy_high": 0.99,
        "lfw/tar@far=1e-2": 0.95,
        "lfw/tar@far=1e-3": 0.9,
        "lfw/impostor_pairs": 3000.0,
        "list/accuracy:paper": 0.8,
        "lfw/auc": 0.99,
        "few/accuracy:kfold": 0.5,
        "few/stratified_folds:kfold": 3.0,
        "few/dropped_pairs": 2.0,
        "few/accuracy_std:kfold": 0.01,
        "few/tar@far=0.5:kfold": 0.7,
        "few/tar@far=0.5_low:kfold": 0.6,
        "few/impostor_pairs": 40.0,
    }
    lines = [" ".join(row.split()) for row in written.table(results).splitlines()]
    assert lines == [
        "lfw accuracy 99.12 % +- 0.40 TAR@FAR=1e-2 95.00 % TAR@FAR=1e-3 90.00 %*",
        "list:paper accuracy 80.00 %",
        "few:kfold accuracy 50.00 % +- 1.00 TAR@FAR=0.5 70.00 % (3 stratified folds, "
        "2 pairs dropped)",
        "* fewer than 10/FAR impostor pairs",
    ]
    assert written.summary(results) == (
        "lfw/accuracy 0.9912  list/accuracy:paper 0.8000  few/accuracy:kfold 0.5000"
    )
