"""Verification pairs of unseen rendered identities, in ten folds that share none.

numbered = pairs.number(0, num_identities=100, images=3)
first = sets.FIRST_UNSEEN
unseen = sets.arrays(sets.default(), num_identities=100, images=3, first=first)
left, right = unseen["image"][numbered.pairs.T]
"""

import itertools
from typing import NamedTuple

import numpy as np

from fr_jax.errors import UserError
from fr_jax.faces import sets

FOLDS = 10


class Numbered(NamedTuple):
    """Pairs of images, before rendering.

    Attributes:
      identities: [N] identity number of each image, from `sets.FIRST_UNSEEN` on.
      images: [N] image number.
      pairs: [P, 2] indices into the N; fold by fold, genuine pairs first.
      same: bool [P].
      folds: [P], 0 .. 9.
    """

    identities: np.ndarray
    images: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray


def number(seed: int, num_identities: int, images: int) -> Numbered:
    """Returns all genuine pairs, and as many impostor pairs within each fold.

    No impostor pair occurs twice; two identities form a second impostor pair only when
    all couples of the fold have one.

    Raises:
      UserError: if the identities are no multiple of ten or fewer than two a fold, or
        have fewer than two images.
    """
    each = num_identities // FOLDS
    if num_identities % FOLDS or each < 2:
        raise UserError(
            f"{num_identities} identities for {FOLDS} disjoint folds; use a multiple "
            f"of {FOLDS}, at least {2 * FOLDS}"
        )
    if images < 2:
        raise UserError(f"{images} images of each identity; a pair takes at least 2")
    rng = np.random.default_rng(seed)
    two = np.array(list(itertools.combinations(range(images), 2)))
    pairs = []
    for fold in range(FOLDS):
        first_images = np.arange(fold * each, (fold + 1) * each) * images
        genuine = (first_images[:, None, None] + two).reshape(-1, 2)
        couples = np.array(list(itertools.combinations(first_images, 2)))
        # All couples of identities once, in random order, then again with other images:
        # a couple's n-th pair is the n-th of a random order of its image pairs.
        rounds = -(-len(genuine) // len(couples))
        choices = np.stack(
            [rng.permutation(images**2)[:rounds] for _ in couples], axis=1
        )
        order = [rng.permutation(len(couples)) for _ in range(rounds)]
        impostor = [
            couples[o] + np.stack(np.divmod(c[o], images), axis=1)
            for o, c in zip(order, choices)
        ]
        pairs += [genuine, np.concatenate(impostor)[: len(genuine)]]
    same = np.concatenate([np.full(len(p), i % 2 == 0) for i, p in enumerate(pairs)])
    folds = np.concatenate([np.full(len(p), i // 2) for i, p in enumerate(pairs)])
    identity, image = sets.rows(sets.default(), num_identities, images)
    return Numbered(
        sets.FIRST_UNSEEN + identity, image, np.concatenate(pairs), same, folds
    )
