"""Classifiers of embeddings and their outcomes. NumPy, scikit-learn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fr_jax.errors import UserError

Array = np.ndarray
# SVC has no probabilities: curves need scores only, and Platt's cross-validation would
# multiply the time by five.
# By number of training rows.
CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "svm": lambda rows: SVC(C=1.0, kernel="rbf", gamma="scale"),
    "knn": lambda rows: KNeighborsClassifier(n_neighbors=min(5, rows)),
    "logistic": lambda rows: LogisticRegression(max_iter=1000),
}


class Outcome(NamedTuple):
    """Predictions of a classifier for a test set.

    Attributes:
      true, predicted: int [n] classes.
      scores: [n, K] of the classes in `classes` [K]; larger is more likely.
      train_accuracy: share of the training rows that are classified correctly; None if
        not measured.
    """

    true: Array
    predicted: Array
    scores: Array
    classes: Array
    train_accuracy: float | None = None


def scaled(rows: Array) -> Array:
    """Returns rows with mean 0 and deviation 1 in each column."""
    return np.asarray(StandardScaler().fit_transform(rows))


def scaling(kind: str, x: Array, y: Array) -> Callable[[Array, Array], Outcome]:
    """Returns a fitted classifier that scales as its training set is scaled."""
    scaler = StandardScaler().fit(x)
    model = fitted(kind, np.asarray(scaler.transform(x)), y)

    def classify(test: Array, classes: Array) -> Outcome:
        return outcome(model, np.asarray(scaler.transform(test)), classes)

    return classify


def fitted(kind: str, x: Array, y: Array) -> Any:
    """Returns a classifier of `CLASSIFIERS`, fitted to rows [N, D], classes [N]."""
    return CLASSIFIERS[kind](len(x)).fit(x, y)


def check_classes(name: str, classes: Array) -> None:
    """Raises a UserError for training rows of one class of the label `name`."""
    if len(np.unique(classes)) < 2:
        raise UserError(
            f"all training images of the classifier have one {name}; choose images of "
            "at least two"
        )


def outcome(model: Any, x: Array, y: Array) -> Outcome:
    """Returns the outcome for rows [n, D] of classes [n]."""
    if hasattr(model, "decision_function"):
        scores = model.decision_function(x)
    else:
        scores = model.predict_proba(x)
    if scores.ndim == 1:  # of two classes, the score of the second
        scores = np.stack([-scores, scores], axis=1)
    return Outcome(y, model.predict(x), scores, model.classes_)


def stratified(classes: Array, count: int, rng: np.random.Generator) -> Array:
    """Returns `count` positions, sorted, with the shares of the classes."""
    order = rng.permutation(len(classes))
    place = np.empty(len(classes))
    for one in np.unique(classes):
        rows = order[classes[order] == one]
        # Each class spreads evenly over [0, 1]: the lowest places have its share.
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.sort(np.argsort(place, kind="stable")[:count])
