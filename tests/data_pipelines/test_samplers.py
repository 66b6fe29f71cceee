"""Samplers: the record numbers of a batch, as functions of (seed, step)."""

import numpy as np
import pytest

from data_pipelines import DataError, samplers

LABELS = np.random.default_rng(0).permutation(
    np.repeat([3, 5, 8, 9, 11], [4, 2, 6, 3, 5])
)


def collect(sampler, steps, name="image"):
    return np.concatenate([sampler(step)[name] for step in range(steps)])


def grid(identities=5, angles=4, lights=2):
    """Returns columns of every identity in every pose and light."""
    number = np.arange(identities * angles * lights)
    return samplers.Posed(
        number // (angles * lights) * 10,  # gaps in the labels
        number // lights % angles,
        number % lights,
    )


SAMPLERS = {
    "epochs": lambda seed: samplers.epochs(20, 6, seed=seed),
    "identities": lambda seed: samplers.identities(LABELS, 6, 2, seed=seed),
    "pairs": lambda seed: samplers.pairs(LABELS, 3, seed=seed),
    "posed": lambda seed: samplers.posed(grid(), 8, paired=True, seed=seed),
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_batch_is_a_function_of_seed_and_step(make):
    first, again, other = make(4), make(4), make(5)
    far = 2_000_000_000
    batches = {step: first(step) for step in (0, 1, 2, far)}
    for step in (far, 1, 0, 2):
        for name, numbers in again(step).items():
            assert numbers.shape == (first.batch_size,)
            np.testing.assert_array_equal(numbers, batches[step][name])
    assert any((other(7)[name] != first(7)[name]).any() for name in first(7))


def test_every_image_once_per_epoch_and_batches_span_epochs():
    numbers = collect(samplers.epochs(24, 10, seed=5), 12).reshape(5, 24)
    assert all(sorted(epoch) == list(range(24)) for epoch in numbers.tolist())
    assert (numbers[0] != numbers[1]).any()
    huge = samplers.epochs(24, 100, seed=5)(0)["image"][:96].reshape(4, 24)
    assert all(sorted(epoch) == list(range(24)) for epoch in huge.tolist())


def test_identities_times_images():
    labels = np.repeat(np.arange(6), 4)
    numbers = collect(samplers.identities(labels, 9, 3, seed=2), 4).reshape(-1, 3)
    assert all(len(set(row)) == 3 for row in numbers.tolist())
    assert (labels[numbers] == labels[numbers[:, :1]]).all()
    seen = labels[numbers[:, 0]].tolist()
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    many = samplers.identities(labels, 16, 8)(0)["image"].reshape(2, 8)
    assert (labels[many] == labels[many[:, :1]]).all()


def test_pairs_of_one_identity_with_replacement():
    sampler = samplers.pairs(LABELS, 3, seed=4)
    assert (sampler.epoch, sampler.unit) == (5, "pairs")
    first, second = (collect(sampler, 500, name) for name in ("image", "positive"))
    np.testing.assert_array_equal(LABELS[first], LABELS[second])
    for epoch in LABELS[first].reshape(-1, 5).tolist():
        assert sorted(epoch) == [3, 5, 8, 9, 11]
    assert set(first) == set(second) == set(range(20))
    for label, count in zip((3, 5, 8, 9, 11), (4, 2, 6, 3, 5)):
        same = (first == second)[LABELS[first] == label].mean()
        assert abs(same - 1 / count) < 0.1


def test_pairing_of_one_image_and_pairing_without_labels():
    twice = samplers.pairs(LABELS, 5, pairing="disco_HF")(3)
    np.testing.assert_array_equal(twice["image"], twice["positive"])
    first = [np.flatnonzero(label == LABELS)[0] for label in (3, 5, 8, 9, 11)]
    assert sorted(twice["image"]) == sorted(first)
    flat = samplers.pairs(np.full(20, -1), 4, pairing="flat")
    assert (
        sorted(collect(flat, 5))
        == list(range(20))
        == sorted(collect(flat, 5, "positive"))
    )
    assert samplers.pair_labels(LABELS, "disco").max() == 4
    assert samplers.pair_labels(np.full(20, -1), "flat").tolist() == list(range(20))


def test_num_identities_selects_the_first():
    labels = LABELS[collect(samplers.pairs(LABELS, 2, num_identities=2), 20)]
    assert set(labels) == {3, 5}


def test_targets_have_the_identity_and_light_of_the_image():
    faces, sampler = grid(), samplers.posed(grid(), 10, paired=True)
    image, target = (collect(sampler, 4, name) for name in ("image", "target_image"))
    assert sorted(image) == list(range(40))
    np.testing.assert_array_equal(faces.label[target], faces.label[image])
    np.testing.assert_array_equal(faces.light[target], faces.light[image])
    assert set(faces.pose[target]) == {0, 1, 2, 3}


def test_several_images_of_each_identity():
    faces = grid()
    numbers = collect(samplers.posed(faces, 12, images=3), 5).reshape(-1, 3)
    assert all(len(set(row)) == 3 for row in numbers.tolist())
    labels = faces.label[numbers]
    assert (labels == labels[:, :1]).all()
    assert sorted(labels[:, 0]) == sorted(4 * [0, 10, 20, 30, 40])


def test_target_poses_are_uniform():
    """Ten frontal images and one from each side: all poses are equally frequent."""
    pose = np.array([*10 * [0], 1, 2, -1])
    sampler = samplers.posed(samplers.Posed(0 * pose, pose), 13, paired=True)
    target = collect(sampler, 60, "target_image")
    shares = np.bincount(pose[target]) / len(target)
    assert np.abs(shares - 1 / 3).max() < 0.08
    assert set(target) == set(range(12))  # all except the image without a pose


def test_auxiliary_images_follow_without_targets():
    unposed = grid()._replace(pose=np.full(40, -1))
    sampler = samplers.posed(unposed, 8, paired=True, auxiliary=[(20, 3)])
    numbers = np.stack([sampler(step)["image"] for step in range(20)])
    assert (numbers[:, :5] < 40).all()
    np.testing.assert_array_equal(np.unique(numbers[:, 5:]), np.arange(40, 60))
    assert (sampler(0)["target_image"] == -1).all()
    yaws = unposed._replace(pose=np.linspace(-90, 90, 40))
    target = samplers.posed(yaws, 8, paired=True, auxiliary=[(20, 3)])(0)[
        "target_image"
    ]
    assert (target[:5] >= 0).all() and (target[5:] == -1).all()


SINGLE = np.concatenate([np.repeat(np.arange(8), 2), [8, 9]])


@pytest.mark.parametrize(
    "match, make",
    [
        ("a batch of 0 rows from 5 records", lambda: samplers.epochs(5, 0)),
        ("8 cannot be 3 images", lambda: samplers.identities(LABELS, 8, 3)),
        (
            "out of 5; use a multiple of 2, at most 10",
            lambda: samplers.identities(LABELS, 14, 2),
        ),
        (
            "6 pairs of distinct identities out of 5",
            lambda: samplers.pairs(LABELS, 6),
        ),
        (
            "use one of disco, disco_HF, flat",
            lambda: samplers.pairs(LABELS, 3, pairing="disko"),
        ),
        (
            "9 identities requested, of 5",
            lambda: samplers.pairs(LABELS, 3, num_identities=9),
        ),
        (
            "2 of 10 identities have a single image",
            lambda: samplers.pairs(SINGLE, 2),
        ),
        (
            "3 of the images have no label",
            lambda: samplers.pairs(np.array([-1, -1, -1, 0, 0]), 1),
        ),
        (
            "use a multiple of 3, at most 15",
            lambda: samplers.posed(grid(), 8, images=3),
        ),
        ("out of 5; .* at most 10", lambda: samplers.posed(grid(), 16, images=2)),
        (
            "41 auxiliary images, of 40",
            lambda: samplers.posed(grid(), 50, auxiliary=[(40, 41)]),
        ),
    ],
)
def test_invalid_batches(match, make):
    with pytest.raises(DataError, match=match):
        make()


def test_identities_with_a_single_image():
    assert samplers.pairs(SINGLE[:-1], 2, num_identities=8).epoch == 8
    assert samplers.pairs(SINGLE, 2, pairing="disco_HF").epoch == 10
