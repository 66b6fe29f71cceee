"""FRA's evaluation: protocols, nearness, the augmenter, figures, the command."""

import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure
from sklearn.svm import SVC

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.results import evaluate_and_write
from fr_jax.faces.landmark_maps import SIZE
from fr_jax.models.preprocess import InputSpec
from fr_jax.report import figures as report
from fr_jax.system import Network
from fr_jax.systems.fra import (
    augment_embeddings,
    comparison,
    embeddings,
    evaluation,
    evaluator,
    figures,
    nearness,
)
from fr_jax.systems.fra import augmenter as fra_augmenter
from fr_jax.systems.fra import classifiers as kinds
from fr_jax.systems.fra.augmenter import Augmenter, check_embedder
from fr_jax.systems.fra.evaluation import Samples
from fr_jax.systems.fra.faces import Faces
from fr_jax.systems.fra.tuples import Images, Tuples, original
from tests.support import steps
from tests.support.networks import random_variables

PERSONS, POSES, EXPRESSIONS, D = 8, 3, 2, 24
RNG = np.random.default_rng(0)
OF_PERSON = RNG.normal(0, 1.0, (PERSONS, D))
OF_POSE = RNG.normal(0, 1.5, (POSES, D))
OF_EXPRESSION = RNG.normal(0, 1.0, (EXPRESSIONS, D))


def factors(repeats: int = 2, sessions: bool = True, frontal: bool = True) -> Samples:
    """Embeddings that are the sum of person, pose, expression and noise.

    With `frontal` the last persons have only frontal images in their first session: a
    classifier never sees these persons in another pose.
    """
    grid = np.indices((PERSONS, POSES, EXPRESSIONS, 2, repeats)).reshape(5, -1)
    person, pose, expression, session, _ = grid
    if frontal:
        lacking = (person >= 2) & (session == 0) & (pose != 1)
        person, pose, expression, session = grid[:4, ~lacking]
    rng = np.random.default_rng(1)
    rows = OF_PERSON[person] + OF_POSE[pose] + OF_EXPRESSION[expression]
    rows = rows + rng.normal(0, 0.5, rows.shape)
    maps = np.zeros((len(person), SIZE, SIZE, 1), np.uint8)
    maps[np.arange(len(person)), pose, expression] = 1
    return Samples(
        rows.astype(np.float32),
        maps,
        {"identity": person, "pose": pose, "expression": expression},
        session if sessions else np.full(len(person), -1),
        {
            "identity": [f"p{n}" for n in range(PERSONS)],
            "pose": ["-45", "0", "45"],
            "expression": ["happy", "sad"],
        },
    )


def turned(samples: Samples, given, picture):
    """A perfect augmenter: the pose of the input is replaced by that of the map."""
    pose = samples.labels["pose"]
    return samples.embedding[given] + (OF_POSE[pose[picture]] - OF_POSE[pose[given]])


def shuffled(samples: Samples, given, picture):
    """A control: embeddings in the target poses, of other persons."""
    return turned(samples, np.random.default_rng(2).permutation(given), picture)


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
    found = evaluation.first_images(samples.embedding, tuples)
    assert [one.tolist() for one in found] == [train, test]
    used = len(set(tuples.input) | set(tuples.target))
    assert 0 < len(train) + len(test) < used  # some are refused by a coordinate
    outcomes = evaluation.original(samples, tuples, generate)
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
    train, test = evaluation.first_images(rows, tuples)
    assert train.tolist() == [0, 2] and test.tolist() == [0, 1]


def test_images_that_share_a_coordinate_are_refused():
    rows = np.array([[1, 2], [3, 4], [1, 9], [9, 4], [5, 9]], np.float32)
    tuples = Tuples(*np.array([[0, 0, 0], [0, 2, 3], [1, 3, 4]]))
    train, test = evaluation.first_images(rows, tuples)
    assert train.tolist() == [0] and test.tolist() == [1, 4]


# --- nearness -----------------------------------------------------------------------


def fitted_maps(samples: Samples) -> nearness.LinearMaps:
    tuples = nearness.pairs(samples, limit=100_000)
    return nearness.fit(
        samples.embedding[tuples.input],
        samples.embedding[tuples.target],
        samples.labels["pose"][tuples.target],
        samples.labels["identity"][tuples.target],
        samples.names["pose"],
        "an embedder",
    )


def test_pairs_are_of_a_person_in_two_poses_with_another_persons_landmarks():
    samples = factors(repeats=1, frontal=False)
    tuples = nearness.pairs(samples)
    assert len(tuples.target) == PERSONS * EXPRESSIONS * POSES * (POSES - 1) * 2 * 2
    given, target, picture = (
        {name: label[rows] for name, label in samples.labels.items()}
        for rows in (tuples.input, tuples.target, tuples.picture)
    )
    for name in ("identity", "expression"):
        assert (given[name] == target[name]).all()
    assert (given["pose"] != target["pose"]).all()
    assert (picture["pose"] == target["pose"]).all()
    assert (picture["expression"] == target["expression"]).all()
    assert (picture["identity"] != target["identity"]).all()
    some = nearness.pairs(samples, limit=50)
    assert len(some.target) == 50
    alone = samples.labels | {"identity": np.zeros(len(samples.session), int)}
    tuples = nearness.pairs(samples._replace(labels=alone), limit=50)
    assert (tuples.picture == tuples.target).all()


def test_linear_maps_learn_what_is_linear(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 5))
    slopes, pose = rng.normal(size=(2, 5, 5)), np.arange(600) % 2
    y = np.einsum("nd,nde->ne", x, slopes[pose]) + pose[:, None]
    maps = nearness.fit(x, y, pose, np.arange(600) // 10, ["left", "right", "up"])
    assert maps.poses == ["left", "right"]  # no tuple has the third
    path = tmp_path / "new" / nearness.FILE
    assert nearness.load(path) is None
    maps.save(path)
    maps = nearness.load(path)
    moved = maps.apply(x.astype(np.float32), np.array(maps.poses)[pose].tolist())
    assert np.abs(moved - y).max() < 0.01
    assert np.isnan(maps.apply(x[:2], ["up", "left"])[0]).all()
    # Without anything to learn, the input is left as it is.
    noise = nearness.fit(
        x, x + rng.normal(0, 3, x.shape), 0 * pose, np.arange(600) // 10, ["left"]
    )
    assert np.abs(noise.slope).max() < 0.2


def test_a_baseline_that_wins_is_named():
    samples = factors(frontal=False)
    maps, tuples = fitted_maps(samples), nearness.pairs(samples)
    perfect = functools.partial(turned, samples)
    lines = {}
    for name, generate in (
        ("perfect", perfect),
        ("copy", lambda given, picture: samples.embedding[given]),
    ):
        cosines = nearness.measure(samples, tuples, generate, maps)
        flat = nearness.results(cosines, samples.names["pose"])
        lines[name] = nearness.verdict(flat)
        means = [flat[f"fra/cosine:{n}"] for n in ("generated", "input", "linear")]
        assert means[2] > means[1]
        assert flat["fra/nearer:input"] == (cosines.generated > cosines.input).mean()
        by_person = [
            (cosines.generated - cosines.linear)[cosines.person == n].mean()
            for n in range(PERSONS)
        ]
        assert flat["fra/cosine_gain:linear"] == pytest.approx(np.mean(by_person))
        assert flat["fra/cosine_gain_low:linear"] < np.mean(by_person)
        assert flat["fra/cosine:input@pose=45"] == pytest.approx(
            cosines.input[cosines.pose == 2].mean()
        )
    assert lines["perfect"][0].startswith("the generated embedding is nearer")
    assert lines["copy"][1].startswith("a linear map for each pose is nearer")
    without = nearness.measure(samples, tuples, perfect, None)
    assert "fra/nearer:linear" not in nearness.results(without, samples.names["pose"])


# --- the augmenter ------------------------------------------------------------------

TINY = {"width": 0.0625, "inner_size": 32, "patch": 4}
TINY |= {"vit_width": 8, "vit_depth": 2, "vit_heads": 2}


class Stub:
    """An embedder whose embedding of an image is its first D pixels."""

    def __init__(self, weight: float = 1.0, size: int = D):
        weights = {"w": np.full(3, weight, np.float32)}
        options = {"embedding_size": size}
        self.network = Network("mobilefacenet", options, weights, InputSpec())

    def embed(self, images, normalize=True):
        assert not normalize
        return np.asarray(images)[:, 0, :, 0].astype(np.float32)[:, :D]


def network(embedder=None, **options) -> Embedder:
    """An untrained augmenter, that states its embedder if one is given."""
    options = {"embedding_size": D, **TINY, **options}
    model = models.create("fra", **options)
    spec = InputSpec(size=SIZE)
    variables = random_variables(model, spec)
    provenance = {"embedder": embeddings.identity(embedder)} if embedder else {}
    return Embedder(Network("fra", options, variables, spec, "augmenter"), provenance)


@pytest.fixture(scope="module")
def trained(quick_compilation):
    return network(Stub())


@pytest.fixture(scope="module")
def augmenter(trained):
    return Augmenter(trained, batch_size=16)


@pytest.fixture(scope="module")
def outputs(trained):
    """Of the network, for the first 20 samples with their own maps."""
    samples, model = factors(), models.create("fra", **trained.network.options)
    apply = jax.jit(model.apply, compiler_options=steps.QUICK)
    maps = samples.maps[:20].astype(np.float32)
    return apply(trained.variables, maps, samples.embedding[:20])


@pytest.fixture
def shared(monkeypatch, augmenter):
    """Compiled once: the augmenter that the package makes of `trained`."""
    for module in (evaluator, fra_augmenter):
        monkeypatch.setattr(module, "Augmenter", lambda _: augmenter)
    return augmenter


def test_batches_are_padded_and_rows_chosen(outputs, augmenter):
    samples = factors()
    rows, maps = samples.embedding[:20], samples.maps[:20]
    made = augmenter.generate(rows, maps)
    assert made.shape == (20, D) and made.dtype == np.float32
    np.testing.assert_allclose(made, outputs["generated"], atol=1e-4)
    given, picture = np.array([3, 3, 0]), np.array([1, 7, 19])
    several = augmenter.generate(rows, maps, given, picture)
    np.testing.assert_allclose(
        several, augmenter.generate(rows[given], maps[picture]), atol=1e-5
    )
    decoded = augmenter.reconstruct(maps[:3])
    np.testing.assert_allclose(decoded, outputs["reconstruction"][:3], atol=1e-4)
    nothing = np.zeros(0, int)
    assert augmenter.generate(rows, maps, nothing, nothing).shape == (0, D)


def test_attention_of_the_class_token(trained, outputs, augmenter):
    """By hand in the first layer: token 0 to the four patches."""
    samples = factors()
    rows, maps = samples.embedding[:3], samples.maps[:3]
    weights = augmenter.attention(rows, maps)
    assert weights.shape == (3, 2, 2, 2, 2)
    p = trained.network.variables["params"]

    def norm(x, by):
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * by["scale"]
            + (by["bias"])
        )

    def dense(x, by):
        return x @ by["kernel"] + by["bias"]

    joined = np.concatenate([outputs["code"][:3], dense(rows, p["adapter_in"])], axis=1)
    image = norm(joined, p["normalizer"]).reshape(3, 8, 8)
    patches = image.reshape(3, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(3, 4, 16)
    vit = p["vit"]
    first = np.broadcast_to(vit["cls_token"], (3, 1, 8))
    tokens = np.concatenate([first, dense(patches, vit["input_layer"])], axis=1)
    layer = vit["transformer_0"]
    x = norm(tokens + vit["pos_embedding"][:, :5], layer["layer_norm_1"])
    joint = dense(x, layer["attn"]["in_proj"])
    query, key, _ = np.split(joint, 3, axis=-1)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = np.einsum("nd,ntd->nt", query[:, 0, part], key[:, :, part]) / 2
        expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(
            weights[:, 0, head].reshape(3, 4), expected[:, 1:], atol=1e-4
        )


def test_embeddings_are_augmented_image_by_image(trained, shared):
    images = np.random.default_rng(5).integers(0, 9, (3, 30, 30, 3)).astype(np.uint8)
    maps = factors().maps[[0, 40, 80, 5]]
    made = augment_embeddings(Stub(), trained, images, maps)
    assert made.shape == (12, D) and made.dtype == np.float32
    rows = Stub().embed(images, normalize=False)
    one = shared.generate(rows[[1]], maps[[3]])
    np.testing.assert_allclose(made[1 * 4 + 3], one[0], atol=1e-5)


def test_another_embedder_is_refused_with_both_names(trained):
    other, maps = Stub(2.0), factors().maps[:2]
    images = np.zeros((1, 30, 30, 3), np.uint8)
    with pytest.raises(UserError) as raised:
        augment_embeddings(other, trained, images, maps)  # of equal length
    for one in (Stub(), other):
        assert embeddings.identity(one) in str(raised.value)
    assert embeddings.identity(Stub()) != embeddings.identity(other)
    spec = other.network.input_spec._replace(colour="BGR")
    other = Stub()
    other.network = other.network._replace(input_spec=spec)
    with pytest.raises(UserError, match='"colour": "BGR"'):
        check_embedder(Augmenter(trained), other)


def test_an_imported_augmenter_states_no_embedder():
    imported = Augmenter(network())
    assert not check_embedder(imported, Stub())
    with pytest.raises(UserError, match=f"of {D} values; the given .* returns 7"):
        check_embedder(imported, Stub(size=7))


@pytest.mark.parametrize(
    ("match", "rows", "maps"),
    [
        ("embeddings \\[N, 24\\], got \\[2, 7\\]", np.zeros((2, 7)), None),
        ("2 embeddings and 3 landmark maps", np.zeros((2, D)), None),
        ("not finite", np.full((3, D), np.nan), None),
        ("maps are \\[N, 112, 112, 1\\], got", np.zeros((3, D)), np.zeros((3, 9, 9))),
        ("values 0 and 1", np.zeros((3, D)), np.full((3, SIZE, SIZE, 1), 255)),
    ],
)
def test_unsuitable_arrays_are_refused(augmenter, match, rows, maps):
    maps = np.zeros((3, SIZE, SIZE, 1)) if maps is None else maps
    with pytest.raises(UserError, match=match):
        augmenter.generate(rows, maps)


def test_other_kinds_are_refused():
    with pytest.raises(UserError, match="kind 'embedding' .* augments no embeddings"):
        Augmenter(SimpleNamespace(network=Stub().network))


# --- the evaluator ------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Figures instead of files, by name."""
    made = {}

    def save(figure, path):
        made[path.name] = figure

    for module in (report, figures):
        monkeypatch.setattr(module, "save", save)
    return made


@pytest.mark.parametrize("protocol", evaluation.PROTOCOLS)
def test_an_evaluation_with_its_figures(
    trained, shared, drawn, tmp_path, protocol, capsys
):
    samples, calls = factors(repeats=1), []
    one = evaluator.AugmenterEvaluator(
        lambda: calls.append(1) or samples,
        lambda: fitted_maps(samples),
        protocol=protocol,
        classifiers=("svm", "knn"),
        repeats=2,
        num_tuples=150,
        show_progress=True,
    )
    results = one(Trained(trained.embed_raw, {"augmenter": trained}))
    assert results.keys() >= set(one.metric_names)
    assert all(np.isfinite(list(results.values())))
    assert ("fra/pose_accuracy_train:knn@objective=1" in results) == (
        protocol == "original"
    )
    assert "a linear map for each pose is nearer to the true" in capsys.readouterr().err
    paths = one.draw(tmp_path)
    assert len(calls) == 1
    assert sorted(path.name for path in paths) == sorted(drawn)
    assert all(isinstance(figure, Figure) for figure in drawn.values())
    assert len(drawn["fra_roc_identity.png"].axes) == 3
    assert len(drawn["fra_tsne.png"].axes) == 2
    attention = drawn["fra_attention.png"].axes
    assert len(attention) == 4 and attention[0].images[0].get_array().shape == (2, 2)
    confusion = drawn["fra_confusion_pose.png"].axes[1].images[0].get_array()
    shares = confusion.sum(axis=1)  # 0 for classes without test rows
    np.testing.assert_allclose(shares[shares > 0], 1)
    assert shares.any()
    sheet = drawn["fra_reconstructions.png"].axes[0].images[0].get_array()
    assert set(np.unique(sheet)) == {0, 255}


def test_results_of_networks_without_embeddings_are_written(trained, tmp_path):
    """As after training, which hands over the augmenter only."""
    found = []

    def stub(networks):
        found.append(networks.networks["augmenter"])
        return {"fra/nearer:input": 0.5}

    evaluate_and_write([stub], {"augmenter": trained}, epath.Path(tmp_path))
    assert found == [trained]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == {"fra/nearer:input": 0.5}


def test_curves_leave_out_classes_without_test_rows(drawn, tmp_path):
    true = np.array([0, 0, 2, 2])
    scores = np.array([[2, 0, 1], [3, 0, 1], [0, 0, 4], [2.5, 9, 2]])
    one = kinds.Outcome(true, scores.argmax(1), scores, np.arange(3))
    for kind in ("roc", "precision_recall"):
        path = tmp_path / f"{kind}.png"
        figures.curves({2: one}, ["a", "b", "c"], path, kind=kind)
        (axes,) = drawn[path.name].axes
        labels = axes.get_legend_handles_labels()[1]
        assert [label[0] for label in labels[:2]] == ["a", "c"]
        assert not any(label.startswith("b") for label in labels)
    assert labels[1] == "c (1.000)"
    assert "AUC 0.8750" in drawn["roc.png"].axes[0].get_legend().get_title().get_text()


def test_a_run_is_evaluated_on_held_out_persons_only():
    options = {"protocol": "clean", "classifiers": ("svm",), "repeats": 2}

    def of(held_out, **changes):
        config = SimpleNamespace(
            evaluation=SimpleNamespace(**{**options, **changes}),
            landmark_frame="loose",
            faithful_landmarks=False,
            num_tuples=100,
        )
        context = SimpleNamespace(seed=3, show_progress=False, workdir="")
        args = config, context, Stub(), None, None, None, held_out
        return evaluator.of_run(*args)

    assert not of(None) and not of(lambda: None, protocol="")
    (one,) = of(lambda: None)
    assert (one.protocol, one.repeats, one.seed) == ("clean", 2, 3)
    (one,) = of(None, protocol="original")  # the training images, as published
    assert one.num_tuples == 100


# --- fr-jax evaluate --augmenter ----------------------------------------------------


@pytest.fixture
def evaluate(monkeypatch, tmp_path, trained, shared, drawn):
    """The command, with networks and records in memory."""
    samples = factors(repeats=1)
    images = np.zeros((len(samples.session), 4, 4, 3), np.uint8)
    faces = Faces(
        "mine",
        "none",
        4,
        *(list(samples.names[n]) for n in ("identity", "expression", "pose")),
        *(samples.labels[n] for n in ("identity", "expression", "pose")),
        samples.session,
        np.random.default_rng(0).uniform(1, 3, (len(images), 68, 2)),
        lambda numbers: images[numbers],
        np.arange(len(images)),
    )
    networks = {"mbf": Stub(), "other": Stub(2.0)}
    networks["embedder_augmenter"] = trained
    monkeypatch.setattr(
        comparison, "load_embedder", lambda path: networks[str(path).split("/")[-1]]
    )
    monkeypatch.setattr(comparison.faces, "of_records", lambda _: (faces, {"bad": 2}))
    monkeypatch.setattr(
        comparison.embeddings, "of_faces", lambda *_: [samples.embedding]
    )

    def run(words):
        from fr_jax.cli.main import main

        with pytest.raises(SystemExit) as left:
            main(["evaluate", "--to", str(tmp_path / "out"), *words.split()])
        return left.value.code

    return run


def test_the_command_writes_results(evaluate, trained, tmp_path, capsys, monkeypatch):
    augmenter = f"--augmenter {tmp_path}/embedder_augmenter --given embedder=mbf"
    assert evaluate(f"{augmenter} --set a=records,classifiers=knn,repeats=2") == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert "fra/identity_gain:knn" in results and "fra/cosine:input" in results
    assert "fra/cosine:linear" not in results
    out = capsys.readouterr().out
    assert "fra/identity_gain:knn" in out and "dropped: 2 bad" in out
    assert "nearness is not compared with linear maps" in out
    monkeypatch.setitem(trained.provenance, "identities", {"mine": ["p3"]})
    assert evaluate(f"{augmenter} --set a=records") == 2
    assert "trained on, such as p3; choose others" in capsys.readouterr().err
    words = f"{augmenter} --set a=records,protocol=original,classifiers=knn,tuples=150"
    assert evaluate(words) == 0  # as published, on what was trained on
    maps = fitted_maps(factors())
    maps.save(tmp_path / nearness.FILE)
    assert evaluate(words) == 2
    error = capsys.readouterr().err
    assert "of an embedder; the given" in error and embeddings.identity(Stub()) in error


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--augmenter {a}", "--given embedder=EMBEDDER"),
        ("--augmenter {a} --given mbf=mbf", "--given embedder=EMBEDDER"),
        ("--augmenter {a} --given embedder=other", "was trained for embeddings of"),
        ("--augmenter {a} --given embedder=mbf --set a=r,protocol=paper",
         "unknown protocol 'paper'"),
        ("--augmenter {a} --given embedder=mbf --set a=r,classifiers=svn",
         "did you mean 'svm'"),
        ("--augmenter {a} --given embedder=mbf --set a=r,repeats=no", "repeats=no"),
        ("--augmenter {a} --given embedder=mbf --set a=rendered,identities=1",
         "identities=1: give 2 or more"),
        ("--augmenter {a} --given embedder=mbf --set a=r --set b=r", "one set at a"),
        ("--augmenter {a} --augmenter {a} --given embedder=mbf", "the same name"),
        ("--augmenter {a} --embedder mbf", "give either"),
        ("--embedder mbf --given embedder=mbf", "--given needs --augmenter"),
        ("--augmenter {a} --given embedder=mbf --unaligned", "needs --embedder"),
        ("--augmenter {a} --given embedder=mbf --recogniser mbf",
         "--recogniser needs --generator"),
    ],
)  # fmt: skip
def test_unsuitable_commands_are_refused(evaluate, tmp_path, capsys, words, match):
    assert evaluate(words.format(a=f"{tmp_path}/embedder_augmenter")) == 2
    assert match in capsys.readouterr().err
