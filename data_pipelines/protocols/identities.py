"""Selection of identities by name, and identities with child images."""

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.names import normal

# Published (identities, children) of the two training sets of Inter-Prototype:
# https://github.com/leebebeto/Inter-Prototype/issues/5.
PUBLISHED_CHILDREN = {"casia": (10_575, 229), "ms1m": (85_742, 1_148)}


def select(names: Sequence[str], selection: str | Sequence[str]) -> np.ndarray:
    """Returns the labels of the selected identities, int [n].

    Args:
      names: name of each label.
      selection: names, 'first:last' in sorted order (both included), or '@file' with
        one name per line.

    Raises:
      DataError: for an unknown name, with the nearest one, and an empty range.
    """
    labels = {name: label for label, name in enumerate(names)}
    if isinstance(selection, str) and selection.startswith("@"):
        lines = lists.lines(selection[1:], "list of identities")
        selection = [line.strip() for line in lines]
    elif isinstance(selection, str):
        first, colon, last = selection.partition(":")
        if not colon:
            raise DataError(
                f"identities {selection!r}: use 'first:last', '@file' or a list"
            )
        selected = [label for name, label in labels.items() if first <= name <= last]
        if not selected:
            raise DataError(
                f"identities {selection!r}: no identity in this range; names run from "
                f"{min(names, default='')!r} to {max(names, default='')!r}"
            )
        return np.array(selected)
    # Names that are not UTF-8 are typed as `names.written` shows them.
    selection = [name if name in labels else normal(name) for name in selection]
    for name in selection:
        if name not in labels:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"no identity {name!r:.80} in this set{hint}")
    return np.array([labels[name] for name in selection], int)


def child_labels(
    path: str | Path, *, child_filter: int = 10, age_below: float = 13.0
) -> list[int]:
    """Returns the labels with at least `child_filter` images of children, ascending.

    Lines of the file are `id path age gender`; the second component of the path is the
    label, and ages below `age_below` are those of children. Images that are missing on
    disk count, as in the code of Lee et al. (2021).

    Raises:
      DataError: for a missing file, and a line in another format, with its number.
    """
    counts: Counter[int] = Counter()
    with lists.opened(path, "age file") as file:
        for number, line in enumerate(file, 1):
            try:
                _, image, age, _ = line.split(" ")
                label = int(image.split("/")[1])
                child = float(age) < age_below
            except (ValueError, IndexError):
                raise DataError(
                    f"{path}: line {number}: {line.strip()!r:.80} is not "
                    "'id root/identity/image age gender'"
                ) from None
            counts[label] += child
    return sorted(label for label, count in counts.items() if count >= child_filter)


def seeded_labels(num_classes: int, count: int, seed: int) -> list[int]:
    """Returns `count` random labels, ascending, as stand-ins for those of children.

    Raises DataError if there are fewer classes.
    """
    if count > num_classes:
        raise DataError(
            f"{count} stand-in children exceed the {num_classes} identities"
        )
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(num_classes, count, replace=False).tolist())
