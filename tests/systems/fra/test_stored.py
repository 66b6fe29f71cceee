"""What FRA computes once: embeddings and landmarks, stored with their origin."""

import numpy as np
import pytest

from data_pipelines.builders import faces as builder
from fr_jax.errors import UserError
from fr_jax.systems.fra import stored
from tests.support.fra import RECORD_SIZE, FivePixels, Regressor, some_faces


def test_embeddings_are_stored_and_reused(load, tmp_path, capsys):
    first = FivePixels()
    one = load(embedder=first, workdir=tmp_path)
    assert first.calls > 0 and (tmp_path / "embeddings.npz").is_file()
    second = FivePixels()
    capsys.readouterr()
    two = load(embedder=second, workdir=tmp_path)
    assert second.calls == 0
    assert "are reused" in capsys.readouterr().err
    batches = [data.open().train.batch_at(0) for data in (one, two)]
    assert all((batches[0][name] == batches[1][name]).all() for name in batches[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"embedder": FivePixels(2.0)}, "by mobilefacenet "),  # of the same width
        ({"embedder": FivePixels(size=64)}, '"size": 64'),
        ({"embedder": FivePixels(colour="BGR")}, '"colour": "BGR"'),
        ({"split__held_out": 0}, " images "),
    ],
    ids=["weights", "size", "colour", "images"],
)
def test_embeddings_of_another_origin_are_computed_again(
    load, tmp_path, capsys, changes, named
):
    changes = dict(changes)
    load(workdir=tmp_path)
    before = (tmp_path / "embeddings.npz").read_bytes()
    capsys.readouterr()
    embedder = changes.pop("embedder", None) or FivePixels()
    data = load(embedder=embedder, workdir=tmp_path, **changes)
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "embeddings of" in x)
    assert line.endswith(": computed again")
    old, new = line.split("; this run needs those of ")
    assert "mobilefacenet" in old and named in new
    assert old.partition("embeddings of ")[2] != new.removesuffix(": computed again")
    assert (tmp_path / "embeddings.npz").read_bytes() != before
    assert embedder.calls == len(data.open().train._vectors) + len(
        data.open().validation._vectors
    )


@pytest.mark.parametrize("damage", ["cut", "values", "text"])
def test_damaged_embeddings_are_computed_again(load, tmp_path, capsys, damage):
    load(workdir=tmp_path)
    path = tmp_path / "embeddings.npz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("hello")
    else:
        with np.load(path) as file:
            arrays = dict(file)
        arrays["values"][0, 0] += 1
        np.savez(path, **arrays)
    capsys.readouterr()
    again = FivePixels()
    load(embedder=again, workdir=tmp_path)
    assert again.calls > 0 and "damaged" in capsys.readouterr().err


def test_embeddings_that_are_not_finite_are_an_error(load):
    with pytest.raises(UserError, match="image 0 of .* not finite; give another"):
        load(embedder=FivePixels(np.nan))


# --- landmarks ----------------------------------------------------------------------


def test_missing_landmarks_are_regressed_once(load, records, tmp_path, capsys):
    """Two records have none; the others keep their own."""
    first = Regressor()
    options = {"records__path": records["lacking"], "workdir": tmp_path}
    data = load(given={"landmarks": first}, **options)
    assert [len(images) for images in first.calls] == [2, 2]  # refined once
    assert "without 68 landmarks" not in capsys.readouterr().err
    assert data.provenance.details["landmarks"] == stored.identity(first)
    again = Regressor()
    two = load(given={"landmarks": again}, **options)
    assert not again.calls
    assert f"by {stored.identity(again)} are reused" in capsys.readouterr().err
    batches = [one.open().train.batch_at(0)["landmarks"] for one in (data, two)]
    assert (batches[0] == batches[1]).all()
    other = Regressor(radius=10.0)
    load(given={"landmarks": other}, **options)
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "landmarks of" in x)
    assert stored.identity(first) in line and stored.identity(other) in line
    assert line.endswith(": computed again") and other.calls


def test_records_without_landmarks_need_a_regressor(load, tmp_path):
    bare = (f._replace(landmarks68=np.zeros((0, 2), np.float32)) for f in some_faces())
    path = str(builder.build(bare, tmp_path, "bare", size=RECORD_SIZE)[0])
    with pytest.raises(UserError, match="give a regressor .--given landmarks=REGRESS"):
        load(records__path=path)
    data = load(records__path=path, given={"landmarks": Regressor()})
    assert len(np.unique(data.open().train._maps, axis=0)) > 1
    wrong = Regressor(kind="embedding")
    with pytest.raises(UserError, match="--given landmarks=: a network of kind 'embe"):
        load(records__path=path, given={"landmarks": wrong})
    with pytest.raises(UserError, match="rendered faces have exact landmarks"):
        load(source="rendered", given={"landmarks": Regressor()})
