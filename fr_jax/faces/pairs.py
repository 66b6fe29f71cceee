"""Verification pairs of unseen rendered identities in ten disjoint folds.

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
    """Returns all genuine pairs, and equally many impostor pairs in each fold.

    No impostor pair occurs twice; two identities form a second impostor pair only after
    all couples of the fold have formed one.

    Raises:
      UserError: if the number of identities is not a multiple of ten, at least twenty,
        or that of images is below two.
    """
    each = num_identities // FOLDS
    if num_identities % FOLDS or each < 2:
        raise UserError(
            f"{num_identities} identities for {FOLDS} disjoint folds; use a multiple "
            f"of {FOLDS}, at least {2 * FOLDS}"
        )
    if images < 2:
        raise UserError(f"{images} images per identity; a pair needs at least 2")
    rng = np.random.default_rng(seed)
    two = np.array(list(itertools.combinations(range(images), 2)))
    pairs = []
    for fold in range(FOLDS):
        first_images = np.arange(fold * each, (fold + 1) * each) * images
        genuine = (first_images[:, None, None] + two).reshape(-1, 2)
        couples = np.array(list(itertools.combinations(first_images, 2)))
        # Rounds over all couples of identities in random order; in round n a couple has
        # the n-th image pair of its own random order.
        rounds = -(-len(genuine) // len(couples))
        choices = np.array([rng.permutation(images**2)[:rounds] for _ in couples])
        orders = [rng.permutation(len(couples)) for _ in range(rounds)]
        impostor = [
            couples[order] + np.stack(np.divmod(choices[order, n], images), axis=1)
            for n, order in enumerate(orders)
        ]
        pairs += [genuine, np.concatenate(impostor)[: len(genuine)]]
    same = np.concatenate([np.full(len(p), i % 2 == 0) for i, p in enumerate(pairs)])
    folds = np.concatenate([np.full(len(p), i // 2) for i, p in enumerate(pairs)])
    identity, image = sets.rows(sets.default(), num_identities, images)
    return Numbered(
        sets.FIRST_UNSEEN + identity, image, np.concatenate(pairs), same, folds
    )
