"""Triplets of faces that a video alone determines.

Two faces of one tracklet are one person (must-link); two tracklets that share a frame
are two persons (cannot-link). Zhang et al.: Tracking Persons-of-Interest via Adaptive
Discriminative Features (ECCV 2016).
"""

from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError

Array = np.ndarray

POSITIVES = NEGATIVES = 10  # of an anchor, of a positive, in the enumeration
VALIDATION = 0.2  # share of the enumerated triplets
NAMES = ("image", "positive", "negative")


def cannot_links(track: Array, frame: Array) -> Array:
    """Returns bool [T, T]: whether two tracklets share a frame.

    Args:
      track: int [N], every number from 0 to T - 1.
      frame: int [N]; those of different videos are different.

    >>> cannot_links(np.array([0, 1, 2]), np.array([5, 5, 6]))[0]
    array([False,  True, False])
    """
    count = int(track.max()) + 1
    order = np.argsort(frame, kind="stable")
    starts = np.flatnonzero(np.diff(frame[order], prepend=-1))
    apart = np.zeros((count, count), bool)
    for together in np.split(track[order], starts[1:]):
        if len(together) > 1:
            apart[np.ix_(together, together)] = True
    np.fill_diagonal(apart, False)
    return apart


class Members(NamedTuple):
    """The faces of every tracklet.

    Attributes:
      order: [N] faces sorted by tracklet.
      first, count: [T] start in `order`, and number of faces.
    """

    order: Array
    first: Array
    count: Array

    @classmethod
    def of(cls, track: Array) -> "Members":
        order = np.argsort(track, kind="stable")
        count = np.bincount(track)
        return cls(order, np.cumsum(count) - count, count)

    def faces(self, number: int) -> Array:
        first = self.first[number]
        return self.order[first : first + self.count[number]]


def linked_pairs(track: Array, apart: Array) -> Array:
    """Returns int [P, 2]: (A, B), tracklets of anchors and negatives, both ways.

    A has at least two faces, for an anchor and a positive.

    Raises:
      UserError: for a video in which no two faces are seen together.
    """
    pairs = np.argwhere(apart)
    if not len(pairs):
        raise UserError(
            f"no two of {len(apart)} tracklets share a frame, so nothing says which "
            "faces are different persons: use a video in which several are seen "
            "together, or cluster the features of an embedder: fr-jax cluster"
        )
    pairs = pairs[np.bincount(track, minlength=len(apart))[pairs[:, 0]] >= 2]
    if not len(pairs):
        raise UserError(
            "the tracklets that share frames have a single face each, so there are no "
            "pairs of one person; use longer shots, or fr-jax video tracks with a "
            "lower --score"
        )
    return pairs


def sampler(track: Array, apart: Array, batch_size: int, *, seed: int = 0) -> Any:
    """Returns a `Sampler` of triplets: 'image' (the anchor), 'positive', 'negative'.

    A cannot-linked pair of tracklets first, all alike, then two faces of one and one of
    the other: the distribution of `enumerated`, but that long tracklets have no more
    weight than short ones. An epoch has as many triplets as there are faces.

    Raises:
      UserError: as `linked_pairs`.
    """
    from data_pipelines.samplers import Sampler

    pairs, members = linked_pairs(track, apart), Members.of(track)

    def numbers(step: int) -> dict[str, Array]:
        rng = np.random.default_rng([seed, 1, step])
        a, b = pairs[rng.integers(len(pairs), size=batch_size)].T
        anchor = rng.integers(members.count[a])
        positive = rng.integers(members.count[a] - 1)
        positive += positive >= anchor
        negative = rng.integers(members.count[b])
        rows = (
            *(members.first[a] + anchor, members.first[a] + positive),
            members.first[b] + negative,
        )
        return {name: members.order[row] for name, row in zip(NAMES, rows)}

    return Sampler(numbers, batch_size, len(track), "triplets")


def enumerated(
    track: Array, apart: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Returns triplets [M, 3] for training and [V, 3] for validation.

    As the program of Zhang et al.: of each cannot-linked pair, both ways, every face of
    the shuffled first tracklet but the last is an anchor; up to 10 random later ones
    are its positives, and each has up to 10 random negatives. A fifth is held out.
    """
    members, triplets = Members.of(track), [np.zeros((0, 3), int)]
    for a, b in linked_pairs(track, apart):
        anchors = rng.permutation(members.faces(a))
        others = members.faces(b)
        for at, anchor in enumerate(anchors[:-1], 1):
            later = anchors[at:]
            count = min(POSITIVES, len(later))
            for positive in rng.choice(later, count, replace=False):
                count = min(NEGATIVES, len(others))
                negatives = rng.choice(others, count, replace=False)
                pair = np.tile((anchor, positive), (count, 1))
                triplets.append(np.column_stack([pair, negatives]))
    shuffled = rng.permutation(np.concatenate(triplets))
    held_out = round(VALIDATION * len(shuffled))
    return shuffled[held_out:], shuffled[:held_out]


def listed(triplets: Array, batch_size: int, *, seed: int = 0) -> Any:
    """Returns a `Sampler` of listed triplets [M, 3], each once per epoch."""
    from data_pipelines.samplers import Sampler, permuted

    order = permuted(len(triplets), seed, 0)

    def numbers(step: int) -> dict[str, Array]:
        rows = triplets[order(step, batch_size)]
        return dict(zip(NAMES, rows.T))

    return Sampler(numbers, batch_size, len(triplets), "triplets")
