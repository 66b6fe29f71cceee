"""Verification pairs of unseen rendered identities, in ten folds that share none.

numbered = pairs.number(0, people=100, images=3)
unseen = sets.arrays(sets.default(), people=100, images=3, first=sets.STRANGERS)
first, second = unseen["image"][numbered.pairs.T]
"""

import itertools
from typing import NamedTuple

import numpy as np

from fr_jax.errors import UserError
from fr_jax.faces import sets

FOLDS = 10


class Numbered(NamedTuple):
    """Pairs of images that are still to be drawn.

    Attributes:
      identities: [N] number of the identity of each image, from `sets.STRANGERS` on.
      images: [N] number of the image.
      pairs: [P, 2] places among the N; fold by fold, genuine ones first.
      same: bool [P].
      folds: [P], 0 .. 9.
    """

    identities: np.ndarray
    images: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray


def number(seed: int, people: int, images: int) -> Numbered:
    """Returns every two images of one person, and as many of strangers of a fold.

    No impostor pair comes twice, and none has both people of another one if there are
    enough of them.

    Raises:
      UserError: for people that are no multiple of ten or less than two a fold, and for
        less than two images of each.
    """
    each = people // FOLDS
    if people % FOLDS or each < 2:
        raise UserError(
            f"{people} people in {FOLDS} folds that share nobody; use a multiple of "
            f"{FOLDS}, at least {2 * FOLDS}"
        )
    if images < 2:
        raise UserError(f"{images} images of each person; a pair takes at least 2")
    rng = np.random.default_rng(seed)
    two = np.array(list(itertools.combinations(range(images), 2)))
    pairs = []
    for fold in range(FOLDS):
        who = np.arange(fold * each, (fold + 1) * each) * images
        genuine = (who[:, None, None] + two).reshape(-1, 2)
        strangers = np.array(list(itertools.combinations(who, 2)))
        # All couples of people once, in any order, then all of them again with other
        # images: a couple's n-th pair is the n-th of a random order of its images.
        rounds = -(-len(genuine) // len(strangers))
        choices = np.stack(
            [rng.permutation(images**2)[:rounds] for _ in strangers], axis=1
        )
        order = [rng.permutation(len(strangers)) for _ in range(rounds)]
        impostor = [
            strangers[o] + np.stack(np.divmod(c[o], images), axis=1)
            for o, c in zip(order, choices)
        ]
        pairs += [genuine, np.concatenate(impostor)[: len(genuine)]]
    same = np.concatenate([np.full(len(p), i % 2 == 0) for i, p in enumerate(pairs)])
    folds = np.concatenate([np.full(len(p), i // 2) for i, p in enumerate(pairs)])
    person, image = sets.rows(sets.default(), people, images)
    return Numbered(sets.STRANGERS + person, image, np.concatenate(pairs), same, folds)
