"""Stored evaluations: nothing is lost, and nothing but what was written is read."""

import json

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.evaluation import hardest, origin, results, stored
from fr_jax.report.runs import Curve, EvaluatedSet, Scores
from tests.support import evaluations


def write(folder, run):
    stored.save(folder, run)
    results.write(folder / stored.RESULTS, run.results | {"notes": run.notes})


def test_everything_is_read_as_written(tmp_path):
    scores = Scores(np.float32([0.1, 0.9]), np.array([False, True]))
    curve = Curve(np.arange(1.0, 4), np.array([0.5, 0.7, 0.7]), "rank", "rate", True)
    sets = (
        evaluations.evaluated_set("a/b", seen="a reason", seen_folds=(0, 3)),
        EvaluatedSet("A_b", "", {"nested": {"switch": [1, None]}}, scores),
        EvaluatedSet("a_b", "ff", {}, None, {"CMC": curve, "CMC 2": curve}),
        EvaluatedSet("\u00e9\u202e..", "ff", {}, unknown=True),
    )
    run = evaluations.run("a run", *sets, notes={"a/b/eer": "no impostor pairs"})
    write(tmp_path / "deep/er", run)
    read = stored.load(tmp_path / "deep/er")
    assert read._replace(sets=()) == run._replace(sets=())
    for one, other in zip(run.sets, read.sets, strict=True):
        np.testing.assert_equal(other, one)
        if one.scores is not None:
            assert other.scores.values.dtype == one.scores.values.dtype
    assert len(list((tmp_path / "deep/er/sets").iterdir())) == 4
    assert stored.load(tmp_path / "deep/er", name="other").name == "other"


def test_only_the_sets_of_the_last_evaluation_stay(tmp_path):
    write(tmp_path, evaluations.run("first"))
    (tmp_path / "sets/own.npz").write_text("of somebody else")
    write(tmp_path, evaluations.run("first", evaluations.evaluated_set("others")))
    assert {path.name for path in (tmp_path / "sets").iterdir()} == {
        *("own.npz", "others.npz")
    }
    assert [one.name for one in stored.load(tmp_path).sets] == ["others"]


def test_results_alone_are_a_run_without_sets(tmp_path):
    results.write(tmp_path / "mbf/results.json", {"lfw/accuracy": 0.9})
    run = stored.load(tmp_path / "mbf")
    assert (run.name, run.results, run.sets) == ("mbf", {"lfw/accuracy": 0.9}, ())


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, evaluations.run())
    return tmp_path


def edited(folder, **changes):
    """Changes evaluation.json, or with `faces` what it says of the set."""
    path = folder / "evaluation.json"
    content = json.loads(path.read_text())
    content["sets"]["faces"] |= changes.pop("faces", {})
    path.write_text(json.dumps(content | changes))


def replaced(folder, **arrays):
    """Replaces arrays of the set, with a digest that fits; None removes one."""
    import hashlib

    path = folder / "sets/faces.npz"
    with np.load(path) as file:
        content = dict(file) | arrays
    content = {name: array for name, array in content.items() if array is not None}
    np.savez(path, **content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edited(folder, faces={"sha256": digest})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: (f / "results.json").unlink(), "no results.json here"),
        (
            lambda f: (f / "results.json").write_text('{"faces/accuracy": 0.5}'),
            "of different evaluations; evaluate again",
        ),
        (
            lambda f: (f / "results.json").write_text('{"faces/accuracy": NaN}'),
            "results.json: damaged (NaN is no number",
        ),
        (
            lambda f: (f / "results.json").write_text('{"faces/accuracy": 1e999}'),
            "'faces/accuracy' is no finite number",
        ),
        (lambda f: (f / "evaluation.json").write_text("[]"), "no JSON object"),
        (lambda f: edited(f, format=2), "another version of fr_jax"),
        (lambda f: edited(f, faces={"file": "../faces.npz"}), "no file name of a set"),
        (lambda f: edited(f, faces={"seen_folds": ["1"]}), "are not whole numbers"),
        (lambda f: edited(f, faces={"curves": {"CMC": ["x", "y", False]}}), "no curve"),
        (lambda f: (f / "sets/faces.npz").unlink(), "faces.npz is missing"),
        (
            lambda f: (f / "sets/faces.npz").write_bytes(b"PK\3\4"),
            "faces.npz: damaged (altered or cut short)",
        ),
        (lambda f: replaced(f, same=None), "no labels"),
        (lambda f: replaced(f, same=np.ones(200)), "same are float64"),
        (lambda f: replaced(f, same=np.ones(3, bool)), "labels of shape (3,)"),
        (lambda f: replaced(f, scores=np.full(200, np.nan)), "200 values are not fin"),
        (lambda f: replaced(f, folds=np.full(200, 1 << 40)), "not numbered from 0"),
        (lambda f: replaced(f, pairs=np.full((200, 2), 48)), "for image 48"),
        (lambda f: replaced(f, rows=np.full(4, 200)), "not in the set"),
        (lambda f: replaced(f, thumbnails=np.zeros((4, 2), np.uint8)), "thumbnails"),
        (
            lambda f: replaced(f, scores=np.array([{}], object)),
            "not of numbers",
        ),
    ],
)
def test_damaged_and_foreign_files_are_refused(folder, change, match):
    stored.load(folder)
    change(folder)
    with pytest.raises(UserError) as caught:
        stored.load(folder)
    assert match in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_that_do_not_fit_are_not_written(tmp_path):
    good = evaluations.evaluated_set()
    scores = good.scores._replace(folds=np.arange(3))
    with pytest.raises(ValueError, match=r"faces: folds of shape \(3,\)"):
        stored.save(
            tmp_path,
            evaluations.run()
            ._replace(sets=(good, good)[:0])
            ._replace(sets=(good._replace(scores=scores),)),
        )
    with pytest.raises(ValueError, match="two sets have one name"):
        stored.save(tmp_path, evaluations.run()._replace(sets=(good, good)))
    assert not list(tmp_path.rglob("*.json"))


def test_digest_depends_on_images_pairs_labels_and_folds():
    pairs, same = evaluations.pairs_of(6)
    images, folds = np.arange(48), np.arange(6) % 2
    digests = {
        stored.set_digest(images, pairs, same, folds),
        stored.set_digest(images + 1, pairs, same, folds),
        stored.set_digest(images, pairs[:, ::-1], same, folds),
        stored.set_digest(images, pairs, ~same, folds),
        stored.set_digest(images, pairs, same),
        stored.set_digest(images, pairs, same, 1 - folds),
    }
    assert len(digests) == 6
    again = stored.set_digest(images.astype(np.uint64), pairs.tolist(), same, folds)
    assert again in digests


def test_hardest_pairs_are_the_errors_of_both_kinds():
    scores = np.array([0.9, 0.1, 0.5, 0.5, 0.8, 0.2])
    same = np.array([True, True, True, False, False, False])
    pairs = np.arange(12).reshape(6, 2)
    images = np.zeros((12, 40, 20, 3), np.uint8) + np.arange(12)[:, None, None, None]
    shown = hardest.hardest(
        images.astype(np.uint8), pairs, scores, same, count=2, side=20
    )
    assert shown.rows.tolist() == [1, 2, 4, 3]
    assert shown.images.shape == (4, 2, 20, 20, 3)
    # Half as wide as high, so that a quarter on either side is padding.
    assert shown.images[0, 1, 10, :, 0].tolist() == [128] * 5 + [3] * 10 + [128] * 5
    every = hardest.hardest(
        images.astype(np.uint8), pairs, scores, same, count=99, side=20
    )
    assert sorted(every.rows.tolist()) == list(range(6))


def test_origin_has_counts_instead_of_names_of_identities():
    class Described:
        class network:
            variables = {"params": {"w": np.ones(3, np.float32)}}  # noqa: RUF012

        @staticmethod
        def describe():
            names = {"cfp": ["001", "002"]}
            return {"provenance": {"identities": names, "steps": 3}}

    about = origin.about("mbf", Described)
    assert about["provenance"] == {"identities": {"cfp": 2}, "steps": 3}
    Described.network.variables["params"]["w"][0] = 2
    assert origin.about("mbf", Described)["digest"] != about["digest"]
    assert origin.versions()["numpy"] == np.__version__
