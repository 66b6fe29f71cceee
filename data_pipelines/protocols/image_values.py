"""A value of each image of verification pairs, from a file: its quality, or its group.

Lines `name value`, separated by a tab, a comma or, last, spaces; the name is that of an
image in the list of pairs, or of an identity, which stands for all its images. Of
images without names (.bin, records) there may be one value a line, in their order.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.protocols.pair_identities import named_values
from data_pipelines.protocols.pairs import Pairs

MOST_GROUPS = 50
# Names are parts of result keys, whose ends have a meaning.
_GROUP = re.compile(r"[\w .+-]{1,40}(?<!_low)(?<!_high)(?<!_std)")


def qualities(path: str | Path, pairs: Pairs) -> np.ndarray:
    """Returns the quality of each image, float64 [N].

    Raises:
      DataError: for a file in another form, images without a value, and values that are
        no finite numbers.
    """
    texts = _of_images(path, pairs, "file of qualities", "name quality")
    try:
        values = np.array([float(text) for text in texts])
    except ValueError as error:
        raise DataError(f"{path}: a quality is no number ({error!s:.100})") from None
    if count := int(np.sum(~np.isfinite(values))):
        raise DataError(
            f"{path}: {count:,} of {len(values):,} qualities are not finite"
        )
    return values


def groups(path: str | Path, pairs: Pairs) -> list[str]:
    """Returns the group of each image.

    Raises:
      DataError: for a file in another form, images without a group, one group alone,
        more than 50, and names with other characters than letters, digits and ` .+-_`.
    """
    values = _of_images(path, pairs, "file of groups", "name group")
    names = sorted(set(values))
    if not 2 <= len(names) <= MOST_GROUPS:
        raise DataError(
            f"{path}: {len(names):,} groups, such as {names[0]!r:.80}; 2 to "
            f"{MOST_GROUPS} can be compared"
        )
    if wrong := [name for name in names if not _GROUP.fullmatch(name)]:
        raise DataError(
            f"{path}: group {wrong[0]!r:.80}: use up to 40 letters, digits, spaces "
            "and . + - _, and no _low, _high or _std at the end"
        )
    return values


def _of_images(path: str | Path, pairs: Pairs, what: str, form: str) -> list[str]:
    count = len(pairs.images)
    if pairs.names is None:
        lines = lists.lines(path, what)
        if len(lines) == count:
            return [line.strip() for line in lines]
        if pairs.identities is None:
            raise DataError(
                f"{path}: {len(lines):,} lines; expected the value of each of "
                f"{count:,} images, one a line, or, with identities=FILE, '{form}'"
            )
    values = named_values(path, what, form)
    columns: list[Sequence[str]] = [
        column for column in (pairs.names, pairs.identities) if column
    ]
    found = [
        next((values[column[n]] for column in columns if column[n] in values), None)
        for n in range(count)
    ]
    if missing := [n for n, value in enumerate(found) if value is None]:
        raise DataError(
            f"{path}: no value of {len(missing):,} of {count:,} images, such as "
            f"{columns[0][missing[0]]!r:.200}"
        )
    return [value for value in found if value is not None]
