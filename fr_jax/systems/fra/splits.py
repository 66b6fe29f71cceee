"""Splits of FRA's images: by person, by image, and by tuple as published. NumPy."""

from typing import NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_range

Array = np.ndarray
PUBLISHED_SHARE = 1 / 3  # of the tuples that the authors' program validates on


class Split(NamedTuple):
    """Numbers of the images of each part; none is in two of them."""

    train: Array
    validation: Array
    held_out: Array


def by_person(person: Array, seed: int, *, validation: int, held_out: int) -> Split:
    """Returns a split without a person in two parts, chosen by the seed.

    Args:
      validation, held_out: number of persons.

    Raises:
      UserError: if fewer than two persons are left to train on.
    """
    check_range("config.data.split.validation_identities", validation, 0)
    check_range("config.data.split.held_out", held_out, 0)
    persons = np.unique(person)
    left = len(persons) - validation - held_out
    if left < 2:
        raise UserError(
            f"{len(persons)} persons, {validation} of them for validation and "
            f"{held_out} held out, leave {max(left, 0)} to train on, at least 2 are "
            "needed: reduce config.data.split.validation_identities or held_out"
        )
    order = np.random.default_rng([seed, 11]).permutation(persons)
    parts = np.split(order, [left, left + validation])
    return Split(*(np.flatnonzero(np.isin(person, part)) for part in parts))


def by_image(person: Array, seed: int, share: float) -> Split:
    """Returns a split of each person's images; a `share` of them is for validation.

    Raises:
      UserError: for a share outside 0 to 0.9.
    """
    check_range("config.data.split.validation_share", share, 0, 0.9)
    rng = np.random.default_rng([seed, 12])
    chosen = []
    for one in np.unique(person):
        numbers = rng.permutation(np.flatnonzero(person == one))
        chosen.append(numbers[: round(share * len(numbers))])
    validation = np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
    train = np.setdiff1d(np.arange(len(person)), validation)
    return Split(train, validation, np.zeros(0, np.int64))


def by_tuple(count: int, seed: int) -> tuple[Array, Array]:
    """Returns the numbers of tuples to train on, two thirds, and to validate on.

    As published, where the order follows Python's hashes instead of a seed; images and
    persons are in both.
    """
    order = np.random.default_rng([seed, 13]).permutation(count)
    first = count - round(PUBLISHED_SHARE * count)
    return np.sort(order[:first]), np.sort(order[first:])
