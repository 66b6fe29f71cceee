"""Verification pairs drawn from labelled records, against brute force."""

import itertools

import numpy as np
import pytest

from data_pipelines import DataError, aligned
from data_pipelines.builders import faces as builder
from data_pipelines.protocols import pairs, record_pairs
from tests.support.faces import picture, some_faces


def as_set(rows):
    chosen = {tuple(sorted(row)) for row in rows.tolist()}
    assert len(chosen) == len(rows)  # none occurs twice
    return chosen


def check_labels(label, drawn, same):
    assert ((label[drawn[:, 0]] == label[drawn[:, 1]]) == same).all()
    assert (label[drawn] >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_all_genuine_pairs_and_as_many_impostor_pairs(seed):
    label = np.random.default_rng(seed).integers(-1, 9, 60)
    drawn, same = record_pairs.draw(label, seed)
    check_labels(label, drawn, same)
    images = [n for n in range(60) if label[n] >= 0]
    every = itertools.combinations(images, 2)
    genuine = {(a, b) for a, b in every if label[a] == label[b]}
    assert as_set(drawn[same]) == genuine
    assert len(as_set(drawn[~same])) == len(genuine)
    again = record_pairs.draw(label, seed)
    assert (again[0] == drawn).all() and (again[1] == same).all()
    tenths = np.array_split(same, 10)  # contiguous folds have both kinds
    assert all(0.4 < part.mean() < 0.6 for part in tenths)


def test_fewer_impostor_than_genuine_pairs():
    label = np.array([0] * 30 + [1])
    drawn, same = record_pairs.draw(label)
    check_labels(label, drawn, same)
    assert (same.sum(), (~same).sum()) == (30 * 29 // 2, 30)
    as_set(drawn)


def test_large_sets_have_a_bounded_number_of_pairs(monkeypatch):
    """Pairs are as likely to be of any image: the mean number of an image is N / 2."""
    monkeypatch.setattr(record_pairs, "MAX_GENUINE", 20_000)
    label = np.repeat(np.arange(2000), 50)
    drawn, same = record_pairs.draw(label)
    check_labels(label, drawn, same)
    assert (same.sum(), (~same).sum()) == (20_000, 20_000)
    as_set(drawn)
    for kind in (same, ~same):
        assert abs(drawn[kind].mean() / len(label) - 0.5) < 0.01
    spread = drawn[same] % 50  # every pair of the fifty images of an identity
    assert len({tuple(sorted(row)) for row in spread.tolist()}) == 50 * 49 // 2


def test_pairs_are_found_by_their_number():
    """The root is exact up to the largest identities."""
    for second in (1, 2, 1000, 10**7):
        numbers = np.array([second * (second - 1) // 2 + k for k in (0, second - 1)])
        expected = [[0, second], [second - 1, second]]
        assert record_pairs._triangle(numbers).tolist() == expected


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2], [-1, -1], [0, 0, -1]])
def test_labels_without_pairs_of_both_kinds_are_refused(label):
    with pytest.raises(DataError, match="no pairs of both kinds"):
        record_pairs.draw(np.array(label))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "faces", size=20)[0]


def test_records_are_a_verification_set(built):
    """Images, names and numbers of the selected identities alone."""
    loaded = pairs.load(built, identities="p1:p3")
    assert loaded.records == "faces" and loaded.folds is None
    assert len(loaded.images) == 12 and set(loaded.identities) == {"p1", "p2", "p3"}
    assert loaded.same.sum() == 3 * 6 and (~loaded.same).sum() == 18
    names = np.array(loaded.identities)[loaded.pairs]
    assert ((names[:, 0] == names[:, 1]) == loaded.same).all()
    np.testing.assert_array_equal(loaded.images[2:3][0], picture(20, 20, seed=102))
    np.testing.assert_array_equal(loaded.images[2], picture(20, 20, seed=102))


def test_records_of_other_sizes_are_refused_as_unaligned(built):
    def check(sources, name):
        aligned.check(sources, name, ())

    with pytest.raises(DataError, match="20x20 pixels, expected 112x112"):
        pairs.load(built, check=check)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"identities": "p8:p9"}, "no identity in this range"),
        ({"identities": "p1:p1"}, "no pairs of both kinds"),
        ({"identities": "p1:p2", "root": "."}, "needs records"),
    ],
)
def test_selections_that_cannot_be_paired_are_refused(built, options, match):
    with pytest.raises(DataError, match=match):
        pairs.load(built, **options)


def test_a_folder_that_holds_no_records_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither records .* nor, without root=DIR"):
        pairs.load(tmp_path)
