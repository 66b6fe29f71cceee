"""FRA's classifiers: the clean protocol and that of the authors' program."""

import functools

import numpy as np
import pytest
from sklearn.svm import SVC

from fr_jax.errors import UserError
from fr_jax.systems.fra import classifiers as kinds
from fr_jax.systems.fra import evaluation, published
from fr_jax.systems.fra.evaluation import Samples
from fr_jax.systems.fra.tuples import Images, Tuples, original
from tests.support.fra import OF_POSE, PERSONS, factors, shuffled, turned

# --- protocol 'clean' ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["svm", "knn", "logistic"])
def test_augmentation_improves_a_classifier_and_a_shuffled_control_does_not(kind):
    samples = factors()
    rates = {}
    for make in (turned, shuffled):
        generate = functools.partial(make, samples)
        several = [
            evaluation.clean(samples, generate, seed, kinds=[kind], labels=["identity"])
            for seed in (0, 1)
        ]
        rates[make] = evaluation.results(several)
    gain = rates[turned][f"fra/identity_gain:{kind}"]
    assert gain > 0.05 and rates[turned][f"fra/identity_gain_low:{kind}"] <= gain
    assert rates[shuffled][f"fra/identity_gain:{kind}"] < 0.02
    accuracy = f"fra/identity_accuracy:{kind}@objective="
    base, augmented = (rates[turned][f"{accuracy}{n}"] for n in (2, 3))
    assert augmented - base == pytest.approx(gain)
    assert base == rates[shuffled][f"{accuracy}2"]


def test_generated_embeddings_have_the_class_of_the_pose_wanted():
    samples = factors(frontal=False)
    generate = functools.partial(turned, samples)
    outcomes = evaluation.clean(samples, generate, 0)
    for label in evaluation.LABELS:
        one = outcomes[label, "svm", 1]
        assert np.mean(one.predicted == one.true) > 0.6, label
        assert one.scores.shape == (len(one.true), len(one.classes))
    # Each test image in every pose but its own.
    assert len(one.true) == 2 * len(evaluation.split(samples, 0)[1])


def test_sessions_are_train_and_test():
    samples = factors()
    train, test = evaluation.split(samples, 0)
    assert set(samples.session[train]) == {0} and set(samples.session[test]) == {1}
    only = samples._replace(session=np.where(samples.labels["identity"] == 3, 1, 0))
    with pytest.raises(UserError, match="no identity has images to train and to test"):
        evaluation.split(only, 0)


def test_without_sessions_a_fifth_of_each_identity_tests_stratified_by_pose():
    samples = factors(repeats=5, sessions=False, frontal=False)
    train, test = evaluation.split(samples, 0)
    assert not set(train) & set(test)
    assert len(train) + len(test) == len(samples.session)
    for person in range(PERSONS):
        rows = test[samples.labels["identity"][test] == person]
        assert np.bincount(samples.labels["pose"][rows]).tolist() == [4, 4, 4]  # of 20
    other = evaluation.split(samples, 1)[1]
    assert set(test) != set(other)
    assert (test == evaluation.split(samples, 0)[1]).all()


def test_landmarks_are_those_of_training_images_with_the_same_expression():
    samples = factors()
    train, test = evaluation.split(samples, 0)
    used = []

    def generate(given, picture):
        used.append((given, picture))
        return turned(samples, given, picture)

    evaluation.clean(samples, generate, 0, labels=["pose"])
    for given, picture in used:
        assert set(picture) <= set(train)
        shown = samples.labels["expression"]
        assert (shown[given] == shown[picture]).all()
        assert (samples.labels["pose"][given] != samples.labels["pose"][picture]).all()
    assert set(used[0][0]) <= set(train) and set(used[1][0]) <= set(test)


@pytest.mark.parametrize("max_rows", [40, 10_000])
def test_caps_keep_the_same_real_rows(monkeypatch, max_rows):
    fitted, scaling = [], kinds.scaling
    monkeypatch.setattr(
        kinds, "scaling", lambda *args: fitted.append(args) or scaling(*args)
    )
    samples = factors(frontal=False)
    generate = functools.partial(turned, samples)
    for seed in (0, 0, 1):
        evaluation.clean(
            samples, generate, seed, labels=["identity"], max_rows=max_rows
        )
    bases, both = fitted[::2], fitted[1::2]
    for (_, x, y), (_, augmented, classes) in zip(bases, both):
        assert (augmented[: len(x)] == x).all() and (classes[: len(y)] == y).all()
        assert len(augmented) <= max_rows
        if max_rows == 40:
            assert len(x) == 20 and len(augmented) == 40
            assert np.ptp(np.bincount(y)) <= 1  # stratified
            assert np.ptp(np.bincount(classes[20:])) <= 1
            # Generated rows follow from the kept real ones only.
            pose = OF_POSE[:, None] - OF_POSE
            near = np.abs(augmented[20:, None, None, None] - (x[:, None, None] + pose))
            assert near.sum(-1).min((1, 2, 3)).max() < 1e-4
        else:
            assert len(x) == len(samples.session) / 2 and len(augmented) == 3 * len(x)
    assert (bases[0][1] == bases[1][1]).all()
    if max_rows == 40:
        assert (bases[0][1] != bases[2][1]).any()


def test_one_class_is_refused():
    samples = factors()
    labels = {**samples.labels, "expression": np.zeros(len(samples.session), int)}
    generate = functools.partial(turned, samples)
    with pytest.raises(UserError, match="one expression; choose images of at least"):
        evaluation.clean(samples._replace(labels=labels), generate, 0)
    with pytest.raises(UserError, match="unknown protocol 'cleen'.*mean 'clean'"):
        evaluation.check_protocol("cleen", ["svm"])
    with pytest.raises(UserError, match="unknown classifier 'tree'"):
        evaluation.check_protocol("clean", ["tree"])
    with pytest.raises(UserError, match="name a classifier"):
        evaluation.check_protocol("clean", [])


# --- protocol 'original' ------------------------------------------------------------


def columns(samples: Samples) -> Images:
    return Images(*(samples.labels[n] for n in ("identity", "expression", "pose")))


def literal(samples, tuples, generate):
    """The authors' program, tuple by tuple: labels and rows of its sets."""
    train, test = [], []
    for t, (given, target) in enumerate(zip(tuples.input, tuples.target)):
        for number, group in ((given, train), (target, test)):
            x = samples.embedding[number]
            stored = [samples.embedding[n] for n in train + test]
            if t == 0 or not any((x == row).any() for row in stored):
                group.append(int(number))
    made = generate(tuples.input, tuples.picture)

    def scaled(rows):
        rows = np.asarray(rows, np.float64)
        return (rows - rows.mean(0)) / rows.std(0)

    predicted = {}
    for name, label in samples.labels.items():
        real, wanted = samples.embedding[train], label[tuples.target]

        def svm(x, y, test_x):
            return SVC(gamma=1 / (x.shape[1] * x.var())).fit(x, y).predict(test_x)

        inputs, of_inputs = samples.embedding[tuples.input], label[tuples.input]
        predicted[name, 1] = svm(scaled(inputs), of_inputs, scaled(made))
        scaled_test = scaled(samples.embedding[test])
        predicted[name, 2] = svm(scaled(real), label[train], scaled_test)
        rows = scaled(np.concatenate([real, made]))
        classes = np.concatenate([label[train], wanted])
        predicted[name, 3] = svm(rows, classes, scaled_test)
    return train, test, predicted


def test_the_original_protocol_is_the_authors_program():
    samples = factors(repeats=1, frontal=False)
    rows = np.round(samples.embedding, 2)  # rare coordinates are equal
    samples = samples._replace(embedding=rows)
    tuples = original(columns(samples), 300)
    generate = functools.partial(turned, samples)
    train, test, predicted = literal(samples, tuples, generate)
    found = published.first_images(samples.embedding, tuples)
    assert [one.tolist() for one in found] == [train, test]
    used = len(set(tuples.input) | set(tuples.target))
    assert 0 < len(train) + len(test) < used  # some are refused by a coordinate
    outcomes = published.original(samples, tuples, generate)
    for (name, objective), expected in predicted.items():
        one = outcomes[name, "svm", objective]
        assert (one.predicted == expected).all()
        label = samples.labels[name]
        assert (one.true == label[tuples.target if objective == 1 else test]).all()
    flat = evaluation.results([outcomes])
    hits = predicted["identity", 3] == samples.labels["identity"][test]
    base = predicted["identity", 2] == samples.labels["identity"][test]
    assert flat["fra/identity_accuracy:svm@objective=3"] == hits.mean()
    assert flat["fra/identity_gain:svm"] == hits.mean() - base.mean()
    low, high = (flat[f"fra/identity_gain_{end}:svm"] for end in ("low", "high"))
    assert low <= flat["fra/identity_gain:svm"] <= high
    assert 0 < flat["fra/identity_accuracy_train:svm@objective=2"] <= 1


def test_the_first_input_and_target_are_both_kept():
    """Even if they are one image, as in the first tuple of the enumeration."""
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    one = np.array([0, 0, 1, 2])
    tuples = Tuples(one, one, np.array([0, 1, 0, 2]))
    train, test = published.first_images(rows, tuples)
    assert train.tolist() == [0, 2] and test.tolist() == [0, 1]


def test_images_that_share_a_coordinate_are_refused():
    rows = np.array([[1, 2], [3, 4], [1, 9], [9, 4], [5, 9]], np.float32)
    tuples = Tuples(*np.array([[0, 0, 0], [0, 2, 3], [1, 3, 4]]))
    train, test = published.first_images(rows, tuples)
    assert train.tolist() == [0] and test.tolist() == [1, 4]
