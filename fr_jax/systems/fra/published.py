"""The protocol of the program of FRA's authors, with its faults; see `evaluation`."""

from collections.abc import Sequence

import numpy as np

from fr_jax.errors import UserError
from fr_jax.systems.fra import classifiers
from fr_jax.systems.fra.evaluation import LABELS, Generate, Outcomes, Samples
from fr_jax.systems.fra.tuples import Tuples

Array = np.ndarray


def original(
    samples: Samples,
    tuples: Tuples,
    generate: Generate,
    *,
    kinds: Sequence[str] = ("svm",),
    labels: Sequence[str] = LABELS,
) -> Outcomes:
    """Returns the outcomes of the authors' protocol, with its faults.

    Training and test set have a scaler each; inputs occur once per tuple in objective
    1; one image is in the training or in the test set by the order of the tuples.

    Args:
      tuples: of image numbers of `samples`; no number of rows is too large.

    Raises:
      UserError: for tuples whose images are all in one of the two sets.
    """
    train, test = first_images(samples.embedding, tuples)
    if not len(test):
        raise UserError("the tuples have no test image; enumerate more tuples")
    made = generate(tuples.input, tuples.picture)
    scaled_made, scaled_test = (
        classifiers.scaled(made),
        classifiers.scaled(samples.embedding[test]),
    )
    inputs = classifiers.scaled(samples.embedding[tuples.input])
    base = classifiers.scaled(samples.embedding[train])
    augmented = classifiers.scaled(np.concatenate([samples.embedding[train], made]))
    outcomes: Outcomes = {}
    for name in labels:
        label = samples.labels[name]
        classifiers.check_classes(name, label[train])
        # The class of a generated embedding is that of its target.
        wanted = label[tuples.target]
        tasks = {
            1: (inputs, label[tuples.input], scaled_made, wanted),
            2: (base, label[train], scaled_test, label[test]),
            3: (
                augmented,
                np.concatenate([label[train], wanted]),
                scaled_test,
                label[test],
            ),
        }
        for kind in kinds:
            for objective, (x, y, test_x, test_y) in tasks.items():
                model = classifiers.fitted(kind, x, y)
                found = classifiers.outcome(model, test_x, test_y)
                accuracy = float(np.mean(model.predict(x) == y))
                found = found._replace(train_accuracy=accuracy)
                outcomes[name, kind, objective] = found
    return outcomes


def first_images(embedding: Array, tuples: Tuples) -> tuple[Array, Array]:
    """Returns the image numbers of the authors' training and test set, in order.

    The tuples are gone through in order. An input is added to the training set, and a
    target to the test set, unless one of its coordinates equals that of a row in either
    set. The first input and the first target are always added. An image is thus in the
    set in which it occurs first.
    """
    known: list[set[float]] = [set() for _ in range(embedding.shape[1])]
    sets: tuple[list[int], list[int]] = ([], [])
    refused: set[int] = set()
    stream = np.stack([tuples.input, tuples.target], axis=1).ravel().tolist()
    for place, number in enumerate(stream):
        # What is in a set, or was refused, is refused from then on.
        if place > 1 and number in refused:
            continue
        row = embedding[number].tolist()
        if place > 1 and any(x in column for x, column in zip(row, known)):
            refused.add(number)
            continue
        sets[place % 2].append(number)
        refused.add(number)
        for x, column in zip(row, known):
            column.add(x)
    train, test = (np.array(one, np.int64) for one in sets)
    return train, test
