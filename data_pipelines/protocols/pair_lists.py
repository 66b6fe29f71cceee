"""Text lists of verification pairs, in the formats of the field.

| format | lines |
|---|---|
| LFW, View 2 | `folds pairs`, then per fold as many genuine and impostor pairs |
| LFW, View 1 | `pairs`, then as many genuine and as many impostor pairs |
| label first | `label path path` |
| label last | `path path label` |
| CALFW, CPLFW | `image label`, two lines per pair |

Pairs of LFW are `name n n` and `name n name n`. A label is 1 for genuine and 0 or -1
for impostor pairs; in CALFW's list that of a genuine pair is its fold, from 1. Fields
are separated by tabs or spaces, with a label also by commas; paths with spaces need
tabs, commas or the suffix of an image.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.image_headers import SUFFIXES

_LABELS = {"0": False, "1": True, "-1": False}
_SUFFIX = "|".join(suffix[1:] for suffix in SUFFIXES)
_PATHS = re.compile(rf"(.*?\.(?:{_SUFFIX}))[ \t]+(.*)", re.IGNORECASE)
_HEADER = re.compile(r"\s*(\d{1,9})(?:\s+(\d{1,9}))?\s*")


class NamedPairs(NamedTuple):
    """Pairs of a list: two relative paths, True for a genuine pair, official folds."""

    first: list[str]
    second: list[str]
    same: list[bool]
    skipped: int = 0
    folds: np.ndarray | None = None


def read(path: str | Path, lag_mode: str = "drop") -> NamedPairs:
    """Returns the pairs of a list in any of the formats above.

    Args:
      lag_mode: treatment of truncated lines; see `read_list`.

    Raises:
      DataError: for a missing file, one in another format, with the nearest of the
        known formats, and a line that differs from the others.
    """
    if lag_mode not in ("drop", "original"):
        raise DataError(f"lag_mode={lag_mode}: use 'drop' or 'original'")
    lines = lists.lines(path, "list of pairs")
    if not lines:
        raise DataError(f"{path}: no pairs")
    if header := _HEADER.fullmatch(lines[0]):
        return _lfw(path, lines, *(int(n) for n in header.groups() if n))
    fields = _fields(lines[0])
    if fields[0] in _LABELS:
        return read_list(path, lag_mode)
    if is_image_and_label(fields):
        return _two_lines(path, lines)
    if fields[-1] in _LABELS and not _is_lfw(fields):
        return _label_last(path, lines)
    raise _not_understood(path, lines[0], lines)


def read_list(path: str | Path, lag_mode: str = "drop") -> NamedPairs:
    """Returns the pairs of lines `label path path`, in order of sorted lines.

    The published order of child-adult lists.

    Args:
      lag_mode: LAG's list has 17 lines with file names truncated at a space. 'drop'
        skips them; 'original' combines their label with the two files of the previous
        line, as the authors' evaluation does.

    Raises:
      DataError: for a missing file, or a line that starts with no label.
    """
    pairs, skipped = [], 0
    lines = sorted(lists.lines(path, "list of pairs"))
    labelled = [re.match(r"(0|1|-1)(?:[ \t]+|,)(.*)", line) for line in lines]
    # A path without the suffix of an image is a truncated one, if others have it.
    suffixes = any(match and _PATHS.match(match[2]) for match in labelled)
    for line, match in zip(lines, labelled):
        if not match:
            raise _not_understood(path, line, lines)
        by_comma = line[match.end(1)] == "," and match[2].count(",") == 1
        parts = _two_paths(match[2], suffixes, "," if by_comma else "\t")
        if not parts:
            skipped += 1
            if lag_mode == "drop" or not pairs:
                continue
        first, second = parts or pairs[-1][:2]
        pairs.append((first, second, _LABELS[match[1]]))
    return _named(path, pairs, skipped)


def _two_paths(text: str, suffixes: bool, separator: str = "\t") -> Sequence[str]:
    """Returns the two paths in a text, or () if it is truncated."""
    if text.count(separator) == 1:
        return [part.strip() for part in text.split(separator)]
    if match := _PATHS.match(text):
        return [match[1], match[2]]
    parts = text.split()
    return parts if len(parts) == 2 and not suffixes else ()


def _label_last(path: str | Path, lines: Sequence[str]) -> NamedPairs:
    pairs = []
    for line in lines:
        separator = "\t" if "\t" in line else ","
        fields = [part.strip() for part in line.split(separator)]
        if len(fields) != 3:
            *paths, label = line.rsplit(maxsplit=1)
            fields = [*_two_paths("".join(paths), False), label]
        if len(fields) != 3 or fields[2] not in _LABELS:
            raise _not_understood(path, line, lines)
        pairs.append((fields[0], fields[1], _LABELS[fields[2]]))
    return _named(path, pairs, 0)


def _two_lines(path: str | Path, lines: Sequence[str]) -> NamedPairs:
    """Returns the pairs of CALFW's and CPLFW's lists, two lines of one label each.

    CALFW numbers the folds of genuine pairs alone; its impostor pairs are divided into
    as many contiguous folds, in the order of the list.
    """
    parts = [line.strip().rsplit(maxsplit=1) for line in lines if line.strip()]
    for part, line in zip(parts, lines):
        if len(part) != 2 or not part[1].isdecimal() or len(part[1]) > 4:
            raise _not_understood(path, line, lines)
    images, numbers = [part[0] for part in parts], [int(part[1]) for part in parts]
    first, second = numbers[::2], numbers[1::2]
    if first != second:
        count = min(len(first), len(second))
        pair = next((n for n in range(count) if first[n] != second[n]), count)
        raise DataError(
            f"{path}: line {2 * pair + 1}: {' '.join(parts[2 * pair])!r:.80}: the two "
            "lines of a pair must have one label"
        )
    labels, folds = np.array(first), None
    same = labels > 0
    count = int(labels.max())
    if count > 1:
        if set(labels[same].tolist()) != set(range(1, count + 1)):
            raise DataError(f"{path}: the genuine pairs are not of folds 1 to {count}")
        folds = labels - 1
        folds[~same] = contiguous(int(np.sum(~same)), count)
    return NamedPairs(images[::2], images[1::2], same.tolist(), 0, folds)


def _named(path: str | Path, pairs: Sequence[tuple], skipped: int) -> NamedPairs:
    if not pairs:
        raise DataError(f"{path}: no pairs")
    first, second, same = (list(column) for column in zip(*pairs))
    return NamedPairs(first, second, same, skipped)


def _lfw(
    path: str | Path, lines: Sequence[str], count: int, per_fold: int | None = None
) -> NamedPairs:
    """Returns the pairs of LFW's View 2, or of View 1, which has no folds.

    Args:
      count, per_fold: the numbers in the header: of folds, and of pairs of each kind
        per fold; or of pairs of each kind.
    """
    first, second, same = [], [], []
    for line in lines[1:]:
        fields = [field.strip() for field in line.strip().split("\t")]
        if len(fields) not in (3, 4):
            fields = line.split()
        same.append(len(fields) == 3)
        if same[-1]:
            fields.insert(2, fields[0])
        try:
            a, number_a, b, number_b = fields
            first.append(f"{a}/{a}_{int(number_a):04d}.jpg")
            second.append(f"{b}/{b}_{int(number_b):04d}.jpg")
        except ValueError:
            raise DataError(
                f"{path}: {line!r:.80} is not a pair of LFW, 'name n n' or "
                "'name n name n'"
            ) from None
    expected = 2 * count * (1 if per_fold is None else per_fold)
    if len(same) != expected or not same:
        raise DataError(f"{path}: {len(same)} pairs; its header states {expected}")
    folds = None if per_fold is None else contiguous(len(same), count)
    return NamedPairs(first, second, same, 0, folds)


def contiguous(pairs: int, folds: int = 10) -> np.ndarray:
    """Returns the fold of each pair, int [P], of folds that follow one another.

    Of unequal folds the first ones have a pair more, as in insightface's evaluation.
    """
    sizes = [len(part) for part in np.array_split(range(pairs), folds)]
    return np.repeat(np.arange(folds), sizes)


def _fields(line: str) -> list[str]:
    return re.split(r"[\s,]+", line.strip())


def _is_lfw(fields: Sequence[str]) -> bool:
    numbers = fields[1:] if len(fields) == 3 else fields[1::2]
    return len(fields) in (3, 4) and all(field.isdecimal() for field in numbers)


def is_image_and_label(fields: Sequence[str]) -> bool:
    """Returns True for the fields of a line of CALFW's and CPLFW's lists."""
    is_image = fields[0].lower().endswith(SUFFIXES)
    return len(fields) == 2 and is_image and fields[1].isdecimal()


def _is_path(field: str) -> bool:
    return bool(re.search(r"[./\\]", field))


# Known formats, with a test of the fields of a line, whatever its label is.
_KNOWN = {
    "LFW's pairs.txt, which begins with a line 'folds<TAB>pairs' (View 2) or 'pairs' "
    "(View 1)": _is_lfw,
    "'label path path' with the label 0 or 1": lambda fields: (
        len(fields) > 2 and [_is_path(fields[n]) for n in (0, 1, -1)] == [0, 1, 1]
    ),
    "'path path label' with the label 0 or 1": lambda fields: (
        len(fields) > 2 and [_is_path(fields[n]) for n in (0, -2, -1)] == [1, 1, 0]
    ),
    "'image label' in two lines per pair, as of CALFW and CPLFW": lambda fields: (
        len(fields) == 2 and fields[0].lower().endswith(SUFFIXES)
    ),
}


def _not_understood(path: str | Path, line: str, lines: Sequence[str]) -> DataError:
    """Returns an error about a line, with the known format nearest to the list."""
    fields = [_fields(line) for line in lines[:1000]]
    counts = {name: sum(map(fits, fields)) for name, fits in _KNOWN.items()}
    nearest = max(counts, key=lambda name: counts[name])
    hint = f"the nearest known format is {nearest}"
    if not counts[nearest]:
        hint = "known are LFW's pairs.txt, 'label path path' and 'path path label'"
    return DataError(f"{path}: {line!r:.80} is not understood; {hint}")
