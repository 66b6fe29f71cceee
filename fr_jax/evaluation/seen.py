"""Whether an evaluation set has training identities: by images, names, or its name."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from fr_jax.provenance import RENDERED, is_number, same_data_set


class Evidence(NamedTuple):
    """What is known of the images of an evaluation set.

    Attributes:
      seen: bool [N], True for images of training identities.
      reason: the evidence, as a phrase; '' if nothing was seen.
      unknown: True if nothing shows that identities were seen or unseen.
    """

    seen: np.ndarray
    reason: str
    unknown: bool


def evidence(
    data_sets: Collection[str],
    num_images: int,
    identities: Sequence[str] | None,
    image_digests: Callable[[], np.ndarray] | None,
    trained: Mapping[str, Collection[str]],
    trained_digests: np.ndarray | None,
) -> Evidence:
    """Returns which images have training identities.

    Names are compared within a data set, and across sets unless they are numbers. In a
    set without names, one image of a training set proves that it was seen; so does the
    name of the set. That no image is in the training set proves nothing.

    Args:
      data_sets: names under which the set may be known.
      identities: of each image, or None.
      image_digests: returns uint64 [N].
      trained: names of the training identities, by data set; empty if unknown.
      trained_digests: of the training images, ascending, or None.
    """
    own = [t for t in trained if any(same_data_set(name, t) for name in data_sets)]
    seen, reasons = np.full(num_images, False), []
    if own and (identities is None or not all(trained[t] for t in own)):
        seen[:] = True
        reasons.append(f"it belongs to the training set {own[0]}")
    if identities is not None:
        names = _comparable(own, trained)
        by_name = np.array([identity in names for identity in identities], bool)
        if by_name.any():
            count = len(names.intersection(identities))
            reasons.append(f"{count} identities have the names of training identities")
        seen |= by_name
    if trained_digests is not None and len(trained_digests) and image_digests:
        by_image = np.isin(image_digests(), trained_digests)
        if by_image.any():
            reasons.append(f"{by_image.sum():,} images are training images")
        if identities is not None:
            shown = {name for name, match in zip(identities, by_image) if match}
            by_image = np.array([identity in shown for identity in identities], bool)
        seen |= by_image if identities is not None else by_image.any()
    unknown = not (own or seen.any() or _all_named(identities, trained))
    return Evidence(seen, " and ".join(reasons), unknown)


def of_set(
    one: Any,
    num_images: int,
    identities: Sequence[str] | None,
    trained: Mapping[str, Collection[str]],
    trained_digests: np.ndarray | None,
) -> Evidence:
    """Returns the `evidence` of a set, and logs it as a warning.

    Args:
      one: an evaluator with `name`, `data_sets` (default: its name) and `digests`.
    """
    names = one.data_sets or (one.name,)
    shown = evidence(
        names, num_images, identities, one.digests, trained, trained_digests
    )
    if shown.seen.any():
        logging.warning("%s: %s", one.name, shown.reason)
    return shown


def _comparable(
    own: Collection[str], trained: Mapping[str, Collection[str]]
) -> set[str]:
    """Returns the names of training identities that can be compared with a set's."""
    within = {name for t in own for name in trained[t]}
    across = {name for names in trained.values() for name in names}
    return within | {name for name in across if not is_number(name)}


def _all_named(
    identities: Sequence[str] | None, trained: Mapping[str, Collection[str]]
) -> bool:
    """Returns True if names show that no identity of a set was trained on."""
    real: Iterable = {
        t: names for t, names in trained.items() if t != RENDERED
    }.values()
    if not trained or not all(real):
        return False
    if not list(real):  # rendered faces alone
        return True
    names = {name for one in (identities or [""], *real) for name in one}
    return not any(is_number(name) or not name for name in names)
