"""Pairs: who is paired with what, the same for any number of processes, refusals."""

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.builders import faces as builder
from data_pipelines.images import decode
from data_pipelines.pair_stream import PairStream, shifted_left
from data_pipelines.stream import RecordStream
from data_pipelines.vision import rand_augment as randaugment
from tests.support.faces import some_faces

LABELS = np.random.default_rng(0).permutation(
    np.repeat([3, 5, 8, 9, 11], [4, 2, 6, 3, 5])
)


def fetch(numbers):
    """Images that say which they are."""
    return np.broadcast_to(
        np.asarray(numbers, np.uint8).reshape(-1, 1, 1, 1), (len(numbers), 4, 4, 3)
    )


def stream(batch_size=3, **options):
    return PairStream(fetch, LABELS, batch_size=batch_size, **{"seed": 4} | options)


def drawn(pairs, steps):
    batches = [pairs.batch_at(step) for step in range(steps)]
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def test_two_images_of_one_identity_with_replacement():
    rows = drawn(stream(), 500)
    first, second = (rows[name][:, 0, 0, 0] for name in ("image", "positive"))
    people = np.array([3, 5, 8, 9, 11])
    np.testing.assert_array_equal(LABELS[first], people[rows["label"]])
    np.testing.assert_array_equal(LABELS[second], people[rows["label"]])
    for run in rows["label"].reshape(-1, 5):  # every identity once in each run
        assert sorted(run) == [0, 1, 2, 3, 4]
    assert set(first) == set(second) == set(range(20))
    for number, count in enumerate((4, 2, 6, 3, 5)):
        same = (first == second)[rows["label"] == number].mean()
        assert abs(same - 1 / count) < 0.1
    assert len(np.unique(rows["seed"])) == 1500
    assert rows["label"].dtype == np.int32 and rows["seed"].dtype == np.uint32


def test_the_same_image_twice_or_every_image_an_identity():
    twice = drawn(stream(pairing="disco_HF"), 10)
    first = twice["image"][:, 0, 0, 0]
    np.testing.assert_array_equal(twice["image"], twice["positive"])
    wanted = [np.flatnonzero(label == LABELS)[0] for label in (3, 5, 8, 9, 11)]
    np.testing.assert_array_equal(first, np.array(wanted)[twice["label"]])
    flat = PairStream(fetch, np.full(20, -1), batch_size=4, pairing="flat")
    assert flat.num_classes == 20
    rows = drawn(flat, 5)
    np.testing.assert_array_equal(rows["image"], rows["positive"])
    np.testing.assert_array_equal(rows["image"][:, 0, 0, 0], rows["label"])
    assert sorted(rows["label"]) == list(range(20))


def test_only_the_first_identities():
    rows = drawn(stream(2, num_identities=2), 20)
    assert set(LABELS[rows["image"][:, 0, 0, 0]]) == {3, 5}
    assert set(rows["label"]) == {0, 1}


def test_a_batch_is_a_function_of_seed_and_step_and_processes_share_it():
    whole = stream(augment=randaugment.augment)
    halves = [stream(augment=randaugment.augment, rows=r) for r in ((0, 1), (1, 3))]
    for step in (7, 2, 3, 4):
        batch = whole.batch_at(step)
        parts = [half.batch_at(step) for half in halves]
        for name, values in batch.items():
            np.testing.assert_array_equal(
                np.concatenate([part[name] for part in parts]), values
            )
    other = stream(seed=5).batch_at(7)
    assert (other["seed"] != stream().batch_at(7)["seed"]).any()


def test_views_are_augmented_each_on_its_own():
    def mark(image, rng):
        return image + np.uint8(rng.integers(20, 200))

    pairs = stream(pairing="disco_HF", augment=mark)
    rows, plain = drawn(pairs, 10), drawn(stream(pairing="disco_HF"), 10)
    added = [rows[n] - plain[n] for n in ("image", "positive")]
    assert all(view.min() > 0 for view in added)
    assert (added[0] != added[1]).any(axis=(1, 2, 3)).mean() > 0.9


def test_an_error_of_a_thread_comes_out_where_the_batch_is_wanted():
    def broken(numbers):
        raise DataError("cannot be read")

    pairs = PairStream(broken, LABELS, batch_size=2)
    with pytest.raises(DataError, match="cannot be read"):
        pairs.batch_at(0)


def test_what_cannot_be_paired():
    with pytest.raises(DataError, match="6 pairs of distinct people out of 5"):
        stream(6)
    with pytest.raises(DataError, match="use one of disco, disco_HF, flat"):
        stream(pairing="disko")
    with pytest.raises(DataError, match="9 identities wanted of 5"):
        stream(num_identities=9)
    lonely = np.concatenate([np.repeat(np.arange(8), 2), [8, 9]])
    with pytest.raises(DataError, match="2 of 10 identities have a single image"):
        PairStream(fetch, lonely, batch_size=2)
    assert PairStream(fetch, lonely[:-1], batch_size=2, num_identities=8)
    assert PairStream(fetch, lonely, batch_size=2, pairing="disco_HF").num_classes == 10
    with pytest.raises(DataError, match="3 of the images belong to nobody known"):
        PairStream(fetch, np.array([-1, -1, -1, 0, 0]), batch_size=1)


def test_records_are_read_by_number(tmp_path):
    folder, _ = builder.build(some_faces(), tmp_path, "faces", size=20)
    reader = RecordStream(folder, batch_size=2, identities=["p1", "p4"])
    chosen = [face.image for face in some_faces() if face.identity in ("p1", "p4")]
    expected = np.stack([decode(image) for image in chosen])
    found = reader.images(np.array([0, 5, 2]))
    np.testing.assert_array_equal(found, expected[[0, 5, 2]])
    assert reader.classes.tolist() == [0] * 4 + [1] * 4
    pairs = PairStream(reader.images, reader.classes, batch_size=2, seed=1)
    identity, images = pairs.numbers(3)
    batch = pairs.batch_at(3)
    np.testing.assert_array_equal(batch["positive"], expected[images[:, 1]])
    assert (reader.classes[images] == identity[:, None]).all()


def test_shifted_faces():
    faces = np.random.default_rng(0).integers(1, 256, (2, 112, 112, 3), np.uint8)
    moved = shifted_left(faces)
    np.testing.assert_array_equal(moved[:, :, :104], faces[:, :, 8:])
    assert (moved[:, :, 104:] == 0).all()
