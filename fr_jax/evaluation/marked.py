"""What evaluators share that are seen or unseen as a whole, unlike folds of pairs."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from fr_jax.evaluation.seen import of_set

Self = TypeVar("Self", bound="Marked")


@dataclasses.dataclass
class Marked:
    """A set of faces, marked as seen if it has training identities.

    Attributes:
      faces: with `name`, the first part of the key of every result, and `images`.
      names: the identity of each image, or None.
      data_sets: names under which the set may be known; default: that of `faces`.
      digests: returns the digests of the images' pixels, uint64 [N], or None.
      dropped: what is left out since images are missing, by name, part of the results.
      seen, evidence, unknown: of `mark_seen`.
      notes: reasons for metrics that the last evaluation could not define.
    """

    faces: Any
    _: dataclasses.KW_ONLY
    names: Sequence[str] | None = None
    data_sets: tuple[str, ...] = ()
    digests: Callable[[], np.ndarray] | None = None
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seen: bool = False
    evidence: str = ""
    unknown: bool = False
    notes: dict[str, str] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )

    @property
    def name(self) -> str:
        return self.faces.name

    @property
    def key(self) -> str:
        """The first part of result keys, with '_seen' if the set was trained on."""
        return f"{self.name}_seen" if self.seen else self.name

    def mark_seen(
        self: Self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> Self:
        """Returns the set, marked as seen if it has training identities.

        See `seen.of_set`.

        Args:
          trained: names of the training identities, by data set.
          digests: of the training images, ascending.
        """
        count = len(self.faces.images)
        shown = of_set(self, count, self.names, trained, digests)
        return dataclasses.replace(
            self,
            seen=bool(shown.seen.any()),
            evidence=shown.reason,
            unknown=shown.unknown,
        )
