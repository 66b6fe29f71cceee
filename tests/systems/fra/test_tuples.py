"""Tuples of FRA against brute force, their negatives, and splits without leaks."""

import itertools
from collections import Counter

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.systems.fra import splits
from fr_jax.systems.fra.tuples import Images, Negatives, Tuples, Uniform, original

NAMES = ["ann", "bob", "eve"]


def grid(persons=2, expressions=2, poses=2, images=1) -> Images:
    """Returns images of all persons, expressions and poses, in order of files."""
    axes = (range(persons), range(expressions), range(poses), range(images))
    return Images(*np.array(list(itertools.product(*axes))).T[:3])


def uneven() -> Images:
    """Returns 60 images, in no order, of 3 persons x 2 expressions x 4 poses."""
    rng = np.random.default_rng(3)
    return Images(*(rng.integers(high, size=60) for high in (3, 2, 4)))


def all_tuples(images: Images) -> list[tuple[int, int, int]]:
    """Returns every tuple, input and target equal as well, by three nested loops."""
    rows = list(zip(*(column.tolist() for column in images)))
    numbers = range(len(rows))
    return [
        (picture, given, target)
        for picture in numbers
        for given in numbers
        for target in numbers
        if rows[given][0] == rows[target][0]
        if rows[picture][1] == rows[given][1] == rows[target][1]
        if rows[picture][2] == rows[target][2]
    ]


def as_list(tuples: Tuples) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in tuples)))


@pytest.mark.parametrize("images", [grid(), grid(2, 2, 2, 2), uneven()])
def test_enumeration_is_complete_without_repetition(images):
    found = as_list(original(images, 10**6))
    assert sorted(found) == sorted(all_tuples(images))


def test_enumeration_of_the_toy_set_in_the_published_order():
    """Images 0-3 are of person 0: expression 0 in poses 0, 1, expression 1 in 0, 1."""
    found = as_list(original(grid(), 10**6))
    assert len(found) == 8 * 2 * 2  # pictures x persons x inputs; one target each
    assert found[:6] == [
        *((0, 0, 0), (0, 1, 0)),  # person 0: both inputs, also the target itself
        *((0, 4, 4), (0, 5, 4)),  # person 1
        *((1, 0, 1), (1, 1, 1)),  # the next picture
    ]


@pytest.mark.parametrize(
    ("limit", "count"), [(1, 2), (2, 2), (3, 4), (5, 6), (32, 32), (33, 32)]
)
def test_enumeration_stops_after_the_person_that_reaches_the_limit(limit, count):
    everything = as_list(original(grid(), 10**6))
    assert as_list(original(grid(), limit)) == everything[:count]


def test_a_limit_below_one_is_refused():
    with pytest.raises(UserError, match="num_tuples is 0; use 1 or more"):
        original(grid(), 0)


def test_persons_come_in_the_order_of_their_first_image():
    images = Images(*np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]]))
    found = as_list(original(images, 10**6))
    assert [row[0] for row in found[::4]] == [0, 2, 1, 3]  # the donor's images first
    assert found[:2] == [(0, 0, 0), (0, 2, 0)]


@pytest.mark.parametrize("images", [grid(2, 2, 2, 1), uneven()], ids=["toy", "uneven"])
def test_uniform_draws_have_equal_frequencies(images):
    expected = [row for row in all_tuples(images) if row[1] != row[2]]
    uniform = Uniform(images)
    assert uniform.total == len(expected)
    draws = 60 * len(expected)
    found = as_list(uniform.draw(draws, np.random.default_rng(0)))
    counts = Counter(found)
    assert counts.keys() == set(expected)
    # Pearson's statistic, of chi-square with len(expected) - 1 degrees of freedom.
    chi = sum((counts[row] - 60) ** 2 / 60 for row in expected)
    freedom = len(expected) - 1
    assert abs(chi - freedom) < 4 * (2 * freedom) ** 0.5


def test_uniform_draws_follow_the_generator():
    one, two, other = (
        as_list(Uniform(uneven()).draw(50, np.random.default_rng(seed)))
        for seed in (7, 7, 8)
    )
    assert one == two != other


def test_no_tuple_of_two_images_is_an_error():
    images = grid(persons=3, expressions=2, poses=1)
    assert Uniform(images).total == 0
    with pytest.raises(UserError, match="no person has two images with the same"):
        Uniform(images).draw(1, np.random.default_rng(0))


def test_negatives_are_all_others_equally_often():
    images = uneven()
    negatives = Negatives(images, NAMES)
    person, expression, pose = images
    rng = np.random.default_rng(0)
    for target in (0, 17, 59):
        rows = np.full(4000, target)
        drawn = negatives.draw(Tuples(rows, rows, rows), rows, rng)
        same = person == person[target]
        valid = {
            "identity": ~same,
            "pose": same & (pose != pose[target]),
            "expression": same & (expression != expression[target]),
        }
        assert drawn.keys() == valid.keys()
        for name, mask in valid.items():
            counts = np.bincount(drawn[name], minlength=len(person))
            assert (counts[~mask] == 0).all()
            mean = 4000 / mask.sum()
            assert np.abs(counts[mask] - mean).max() < 6 * mean**0.5


def test_faithful_negatives_are_inputs_of_other_tuples():
    """As published: the pose is that of the input, so it may be the wanted one."""
    images = uneven()
    tuples = original(images, 900)
    person, expression, pose = images
    negatives = Negatives(images, NAMES, tuples, faithful=True)
    owner = person[tuples.target]
    aim, shown = pose[tuples.target], expression[tuples.target]
    rng, wanted = np.random.default_rng(0), 0
    for row in (0, 400, len(owner) - 1):
        rows = np.full(3000, row)
        drawn = negatives.draw(tuples.take(rows), rows, rng)
        same = owner == owner[row]
        candidates = {
            "identity": ~same,
            "pose": same & (aim != aim[row]),
            "expression": same & (shown != shown[row]),
        }
        for name, mask in candidates.items():
            expected = Counter(tuples.input[mask].tolist())
            counts = Counter(drawn[name].tolist())
            assert counts.keys() <= expected.keys()
            for number, share in expected.items():
                mean = 3000 * share / mask.sum()
                assert abs(counts[number] - mean) < 6 * mean**0.5 + 3
        wanted += np.sum(pose[drawn["pose"]] == aim[row])
    assert wanted > 0


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (grid(1), "ann is the only person of the split: .* choose more identities"),
        (grid(3, 2, 1), r"ann: no image with another pose .*and for 2 others\); leave"),
        (grid(2, 1, 2), r"ann: no image with another expression .*for 1 others\)"),
        (
            Images(*np.array([[0, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 0]])),
            "bob: no image with another pose for the negatives; leave the person out",
        ),
    ],
)
def test_a_person_without_negatives_is_named(images, match):
    with pytest.raises(UserError, match=match):
        Negatives(images, NAMES)


def test_few_tuples_have_no_faithful_negatives():
    tuples = original(grid(2, 2, 2), 4)  # of one picture, so one expression and pose
    with pytest.raises(
        UserError, match=r"ann: no tuple .* pose .*num_tuples\), or set"
    ):
        Negatives(grid(2, 2, 2), NAMES, tuples, faithful=True)
    Negatives(grid(2, 2, 2), NAMES, tuples)
    with pytest.raises(UserError, match="faithful_negatives draws from a list"):
        Negatives(grid(), NAMES, faithful=True)


def test_a_split_by_person_has_no_person_twice():
    person = np.repeat(np.arange(10), 7)
    split = splits.by_person(person, 0, validation=2, held_out=3)
    parts = [set(person[part].tolist()) for part in split]
    assert [len(part) for part in parts] == [5, 2, 3]
    assert set().union(*parts) == set(range(10))
    assert sum(map(len, split)) == 70
    again = splits.by_person(person, 0, validation=2, held_out=3)
    other = splits.by_person(person, 1, validation=2, held_out=3)
    assert again.train.tolist() == split.train.tolist() != other.train.tolist()
    with pytest.raises(UserError, match="10 persons, 5 .* and 4 held out, leave 1 to"):
        splits.by_person(person, 0, validation=5, held_out=4)


def test_a_split_by_image_has_a_share_of_each_person():
    person = np.repeat(np.arange(4), 10)
    split = splits.by_image(person, 0, 0.2)
    assert np.bincount(person[split.validation]).tolist() == [2] * 4
    assert not set(split.train) & set(split.validation) and not len(split.held_out)
    assert len(split.train) == 32
    with pytest.raises(UserError, match="validation_share is 1; use 0 to 0.9"):
        splits.by_image(person, 0, 1)


def test_a_split_by_tuple_has_two_thirds():
    train, validation = splits.by_tuple(10_000, 0)
    assert (len(train), len(validation)) == (6667, 3333)
    assert sorted([*train, *validation]) == list(range(10_000))
