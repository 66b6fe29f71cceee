"""Training tuples of FRA and their negatives, by image number. NumPy.

A tuple is a landmark picture, an input image and a target image. Input and target are
of one person with one expression; the picture, of any donor with that expression, is in
the pose of the target (Hashemifar et al. 2023, arXiv 2301.11986).
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_range

Array = np.ndarray


class Images(NamedTuple):
    """Columns of images in the order of their files, int [N], numbered from 0."""

    person: Array
    expression: Array
    pose: Array

    def take(self, numbers: Array) -> "Images":
        """Returns the columns of some images."""
        return Images(*(column[numbers] for column in self))


class Tuples(NamedTuple):
    """Image numbers of tuples, int [T]: landmark picture, input, target."""

    picture: Array
    input: Array
    target: Array

    def take(self, rows: Array) -> "Tuples":
        """Returns some of the tuples."""
        return Tuples(*(column[rows] for column in self))


def original(images: Images, limit: int) -> Tuples:
    """Returns the first tuples in the order of the authors' program.

    For each person, each of its images as the picture, and each person in turn (the
    donor as well), all inputs x targets are added; the enumeration stops after the
    person with which there are `limit` or more. An input may be its own target. With
    few tuples, few donors give pictures.

    Raises:
      UserError: for a limit below 1.
    """
    check_range("config.data.num_tuples", limit, 1)
    of_person, inputs, targets = (defaultdict(list) for _ in range(3))
    for number, row in enumerate(zip(*(column.tolist() for column in images))):
        person, expression, pose = row
        of_person[person].append((number, expression, pose))
        inputs[person, expression].append(number)
        targets[person, expression, pose].append(number)
    rows: list[tuple[int, int, int]] = []
    for donor in of_person.values():
        for picture, expression, pose in donor:
            for person in of_person:
                cell = inputs.get((person, expression), ())
                outputs = targets.get((person, expression, pose), ())
                rows += [(picture, given, out) for given in cell for out in outputs]
                if len(rows) >= limit:
                    return _columns(rows)
    return _columns(rows)


def _columns(rows: list[tuple[int, int, int]]) -> Tuples:
    return Tuples(*np.array(rows, np.int64).reshape(-1, 3).T)


class Uniform:
    """Uniform draws from all tuples whose input is not their target.

    A draw takes constant time: a target by an alias table (Walker 1977) with the number
    of its tuples as its weight, then an input and a picture.

    Attributes:
      total: number of tuples.
    """

    def __init__(self, images: Images):
        self._inputs = _Groups.of(images.person, images.expression)
        self._donors = _Groups.of(images.expression, images.pose)
        weights = (self._inputs.count - 1) * self._donors.count
        self.total = int(weights.sum())
        self._keep, self._alias = _alias_table(weights)

    def draw(self, count: int, rng: np.random.Generator) -> Tuples:
        """Returns `count` tuples.

        Raises:
          UserError: if there are none.
        """
        if not self.total:
            raise UserError(
                "no person has two images with the same expression, so there is no "
                "tuple of input and target"
            )
        target = rng.integers(len(self._keep), size=count)
        rejected = rng.random(count) >= self._keep[target]
        target = np.where(rejected, self._alias[target], target)
        cell, donors = self._inputs, self._donors
        rank = rng.integers(cell.count[target] - 1)
        rank += rank >= cell.rank[target]  # skips the target
        given = cell.order[cell.first[target] + rank]
        rank = rng.integers(donors.count[target])
        return Tuples(donors.order[donors.first[target] + rank], given, target)


def _alias_table(weights: Array) -> tuple[Array, Array]:
    """Returns the probability to keep each number [N], and its replacement [N]."""
    keep = weights * (len(weights) / max(weights.sum(), 1))
    alias = np.arange(len(weights))
    small = np.flatnonzero(keep < 1).tolist()
    large = np.flatnonzero(keep >= 1).tolist()
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        keep[high] -= 1 - keep[low]
        if keep[high] < 1:
            small.append(large.pop())
    keep[small + large] = 1.0  # what rounding left over
    # A number of weight 0 is never kept, whatever rounding left over.
    none = weights == 0
    keep[none] = 0.0
    alias[none & (alias == np.arange(len(weights)))] = int(np.argmax(weights))
    return keep, alias


class _Groups(NamedTuple):
    """Rows by group: `order` [N] sorts them, the other columns [N] are by row.

    `first` and `count` are the start in `order` and the size of a row's group, `rank`
    its place in the group.
    """

    order: Array
    first: Array
    count: Array
    rank: Array

    @classmethod
    def of(cls, *columns: Array) -> "_Groups":
        """Returns the groups of rows with equal columns, sorted by the first column."""
        table = np.stack(columns, axis=1)
        group = np.unique(table, axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(group, kind="stable")
        ordered = group[order]
        first = np.searchsorted(ordered, group)
        count = np.searchsorted(ordered, group, side="right") - first
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(order, first, count, rank - first)


class _Others:
    """Draws, in constant time, from the rows of a row's group in another subgroup.

    Args:
      group, subgroup: int [N].

    Attributes:
      count: number of these rows, for each row.
    """

    def __init__(self, group: Array, subgroup: Array):
        whole, part = _Groups.of(group), _Groups.of(group, subgroup)
        self._order, self._first = part.order, whole.first
        self._skip, self._skipped = part.first, part.count
        self.count = whole.count - part.count

    def draw(self, rows: Array, rng: np.random.Generator) -> Array:
        """Returns a row for each of `rows`."""
        place = self._first[rows] + rng.integers(self.count[rows])
        place += np.where(place >= self._skip[rows], self._skipped[rows], 0)
        return self._order[place]


class Negatives:
    """Negatives of tuples, one each of another identity, pose and expression.

    An image of another person; one of the same person in another pose than the
    target's; one of the same person with another expression.

    Args:
      images: columns of all images of a split.
      names: of the persons.
      faithful: as in the authors' program: the input of a random tuple that has another
        person, or the same person and another target pose or another expression. Its
        pose may thus be the wanted one. Needs the tuples.

    Raises:
      UserError: naming a person without such an image, and the remedy.
    """

    def __init__(
        self,
        images: Images,
        names: list[str],
        tuples: Tuples | None = None,
        *,
        faithful: bool = False,
    ):
        if faithful and tuples is None:
            raise UserError(
                "config.data.faithful_negatives draws from a list of tuples: use it "
                "with config.data.sampling='original'"
            )
        self._inputs, rows = None, np.arange(len(images.person))
        person, expression, pose = images
        if tuples is not None:
            rows = np.unique(tuples.target)
        if tuples is not None and faithful:
            person, expression, pose = images.take(tuples.target)
            self._inputs, rows = tuples.input, np.arange(len(tuples.target))
        everyone = np.zeros_like(person)
        self._others = {
            "identity": _Others(everyone, person),
            "pose": _Others(person, pose),
            "expression": _Others(person, expression),
        }
        for name, others in self._others.items():
            without = rows[others.count[rows] == 0]
            if not len(without):
                continue
            who = names[person[without[0]]]
            what = "tuple" if faithful else "image"
            several = len(np.unique(person[without])) - 1
            more = f" (and for {several} others)" if several else ""
            if name == "identity":
                raise UserError(
                    f"{who} is the only person of the split: an identity negative "
                    "needs two; choose more identities"
                )
            remedy = "leave the person out, or add such images"
            if faithful:
                remedy = (
                    "enumerate more tuples (config.data.num_tuples), or set "
                    "config.data.faithful_negatives=False"
                )
            raise UserError(
                f"{who}: no {what} with another {name} for the negatives{more}; "
                f"{remedy}"
            )

    def draw(
        self, tuples: Tuples, rows: Array, rng: np.random.Generator
    ) -> dict[str, Array]:
        """Returns image numbers [B] by kind of negative.

        Args:
          tuples: B tuples.
          rows: their numbers in the list, for faithful negatives.
        """
        rows = tuples.target if self._inputs is None else rows
        drawn = {name: one.draw(rows, rng) for name, one in self._others.items()}
        if self._inputs is None:
            return drawn
        return {name: self._inputs[numbers] for name, numbers in drawn.items()}
