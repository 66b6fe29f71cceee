"""Classifiers of embeddings with and without FRA's augmentation. NumPy, scikit-learn.

Three objectives, as in the authors' program (Hashemifar et al. 2023, arXiv 2301.11986):
a classifier of real embeddings is tested on generated ones (1), a classifier of real
embeddings is tested on real ones (2), and a classifier of real and generated embeddings
is tested on the same real ones (3). The gain is 3 less 2. The classes are identity,
pose and expression; a generated embedding has the target pose.

| protocol | real embeddings | scaler of |
|---|---|---|
| `original` | inputs and targets of tuples, see `published` | each set |
| `clean` | train and test are different images, see `split` | the training set |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_names
from fr_jax.metrics import classification
from fr_jax.systems.fra import classifiers
from fr_jax.systems.fra.classifiers import CLASSIFIERS, Outcome
from fr_jax.systems.fra.tuples import Tuples

Array = np.ndarray
Labels = dict[str, Array]
# (rows of input images [M], rows of landmark maps [M]) -> generated [M, D].
Generate = Callable[[Array, Array], Array]

LABELS = ("identity", "pose", "expression")
PROTOCOLS = ("clean", "original")
OBJECTIVES = (1, 2, 3)
MAX_ROWS = 4000  # of the training set of a classifier, with protocol 'clean'
TEST_SHARE = 0.2  # of an identity's images, if there is only one session


class Samples(NamedTuple):
    """Real embeddings with their labels.

    Attributes:
      embedding: float32 [N, D], raw.
      maps: uint8 [N, 112, 112, 1] of 0 and 1, the landmarks of each image.
      labels: int [N] by name, one for each of `LABELS`.
      session: int [N], -1 where unknown.
      names: of the classes, by label.
    """

    embedding: Array
    maps: Array
    labels: Mapping[str, Array]
    session: Array
    names: Mapping[str, Sequence[str]]


# By label, classifier and objective.
Outcomes = dict[tuple[str, str, int], Outcome]


def clean(
    samples: Samples,
    generate: Generate,
    seed: int,
    *,
    kinds: Sequence[str] = ("svm",),
    labels: Sequence[str] = LABELS,
    max_rows: int = MAX_ROWS,
) -> Outcomes:
    """Returns the outcomes of one repetition, without a test image in training.

    Each training image is generated in every other pose, with landmarks of a random
    training image in that pose, of the same expression. In objective 1 the generated
    embeddings are those of test images. The scaler is that of the training set.

    Args:
      seed: of the split (if images are split), of the landmarks and of the rows.
      max_rows: of a training set. If real and generated rows are more, the real ones
        are at most half of them, drawn stratified by class; they are the same in
        objectives 2 and 3, and generated rows follow from these only.

    Raises:
      UserError: for samples that cannot be split, and fewer than two classes.
    """
    train, test = split(samples, seed)
    rng = np.random.default_rng([seed, 31])
    of_train = wanted(samples, train, train, rng)
    of_test = wanted(samples, test, train, rng)
    made, made_test = (generate(one.input, one.picture) for one in (of_train, of_test))
    outcomes: Outcomes = {}
    for name in labels:
        label, drawn = samples.labels[name], np.random.default_rng([seed, 32])
        classes, classes_test = (
            classes_of(samples, name, one) for one in (of_train, of_test)
        )
        real, rows = train, np.arange(len(made))
        if len(real) + len(rows) > max_rows:
            real = real[
                classifiers.stratified(
                    label[real], min(len(real), max_rows // 2), drawn
                )
            ]
            rows = np.flatnonzero(np.isin(of_train.input, real))
            left = min(max_rows - len(real), len(rows))
            rows = rows[classifiers.stratified(classes[rows], left, drawn)]
        classifiers.check_classes(name, label[real])
        x, y = samples.embedding[real], label[real]
        both = np.concatenate([x, made[rows]]), np.concatenate([y, classes[rows]])
        for kind in kinds:
            plain, augmented = (
                classifiers.scaling(kind, *part) for part in ((x, y), both)
            )
            real_test = samples.embedding[test], label[test]
            if len(made_test):
                outcomes[name, kind, 1] = plain(made_test, classes_test)
            outcomes[name, kind, 2] = plain(*real_test)
            outcomes[name, kind, 3] = augmented(*real_test)
    return outcomes


def split(samples: Samples, seed: int) -> tuple[Array, Array]:
    """Returns rows of training and of test images; no image is in both.

    With two sessions the first trains and the second tests. Otherwise a fifth of each
    identity's images, stratified by pose, tests. Test images of identities without
    training images are left out.

    Raises:
      UserError: if no test image is left.
    """
    identity, pose = samples.labels["identity"], samples.labels["pose"]
    sessions = np.unique(samples.session[samples.session >= 0])
    if len(sessions) >= 2:
        train, test = (np.flatnonzero(samples.session == s) for s in sessions[:2])
    else:
        rng = np.random.default_rng([seed, 30])
        chosen = []
        for one in np.unique(identity):
            rows = rng.permutation(np.flatnonzero(identity == one))
            count = round(TEST_SHARE * len(rows))
            if len(rows) > 1:
                chosen.append(
                    rows[classifiers.stratified(pose[rows], max(count, 1), rng)]
                )
        test = np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
        train = np.setdiff1d(np.arange(len(identity)), test)
    test = test[np.isin(identity[test], identity[train])]
    if not len(test):
        raise UserError(
            "no identity has images to train and to test a classifier: at least two "
            "images of each, and of both sessions if there are sessions, are needed"
        )
    return train, test


def wanted(
    samples: Samples, inputs: Array, donors: Array, rng: np.random.Generator
) -> Tuples:
    """Returns each input in every other pose, as far as donors show that pose.

    Args:
      inputs, donors: rows of images, and of those whose landmarks may be used. A donor
        has the same expression, and is another image.

    Returns:
      Tuples whose `target` is the donor, the number of an image in the target pose.
    """
    pose, expression = samples.labels["pose"], samples.labels["expression"]
    given, picture = [], []
    for shown in np.unique(expression[inputs]):
        rows = inputs[expression[inputs] == shown]
        for target in np.unique(pose[donors]):
            of_pose = (expression[donors] == shown) & (pose[donors] == target)
            moved = rows[pose[rows] != target]
            if of_pose.any() and len(moved):
                given.append(moved)
                picture.append(rng.choice(donors[of_pose], len(moved)))
    nothing = np.zeros(0, np.int64)
    given = np.concatenate([nothing, *given])
    picture = np.concatenate([nothing, *picture])
    return Tuples(picture, given, picture)


def results(
    repetitions: Sequence[Outcomes], *, prefix: str = "fra"
) -> dict[str, float]:
    """Returns accuracies and gains of all repetitions, with 95 % intervals.

    PREFIX/identity_accuracy:svm@objective=3 and PREFIX/identity_gain:svm, and so on for
    each label and classifier; identity_accuracy_low and _high, identity_gain_low and
    _high. Over repetitions intervals are Student's; of a single one, over its test
    rows (Wilson's for accuracies). identity_accuracy_train if it was measured.
    """
    flat: dict[str, float] = {}

    def put(name: str, variant: str, estimate: classification.Estimate) -> None:
        for end, value in zip(("", "_low", "_high"), estimate):
            flat[f"{prefix}/{name}{end}:{variant}"] = value

    for name, kind, objective in repetitions[0]:
        key, variant = (name, kind, objective), f"{kind}@objective={objective}"
        several = [one[key] for one in repetitions]
        put(f"{name}_accuracy", variant, _estimate(several))
        if several[0].train_accuracy is not None:
            accuracy = several[0].train_accuracy
            flat[f"{prefix}/{name}_accuracy_train:{variant}"] = accuracy
        if objective == 3:
            base = [one[name, kind, 2] for one in repetitions]
            hits = (_hits(some) for some in (several, base))
            put(f"{name}_gain", kind, classification.paired_difference(*hits))
    return flat


def check_protocol(protocol: str, kinds: Sequence[str]) -> None:
    """Raises a UserError for an unknown protocol or classifier, and for none."""
    check_names("protocol", [protocol], PROTOCOLS)
    check_names("classifier", kinds, CLASSIFIERS)
    if not kinds:
        raise UserError(f"name a classifier: {', '.join(CLASSIFIERS)}")


def _estimate(several: Sequence[Outcome]) -> classification.Estimate:
    if len(several) == 1:
        return classification.top1(several[0].predicted, several[0].true)
    return classification.mean_interval(_hits(several))


def _hits(several: Sequence[Outcome]) -> Array:
    """Returns the accuracy of each repetition, or the hits of a single one."""
    hits = [one.predicted == one.true for one in several]
    return hits[0] if len(hits) == 1 else np.array([one.mean() for one in hits])


def classes_of(samples: Samples, name: str, tuples: Tuples) -> Array:
    """Returns the classes of generated embeddings: only the pose is the donor's."""
    of = tuples.picture if name == "pose" else tuples.input
    return samples.labels[name][of]
