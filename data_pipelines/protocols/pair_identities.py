"""Identities of the images of verification pairs, from a file that names them.

| set | lines of the file |
|---|---|
| images without names (.bin) | one identity per image, in the order of the images |
| | or the list of the same pairs, in a format of `pair_lists`: LFW's for lfw.bin |
| list of pairs | `path identity`, with the paths of the list |

Fields are separated by a tab, a comma or, last, spaces.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.protocols import pair_lists

_WHAT = "file of identities"


def in_names(names: Sequence[str]) -> list[str]:
    """Returns the identity in the name of each image of a list.

    It is the first folder where the images have several, else the identity in a name
    of FG-NET or AgeDB. Of an image without a folder it is the name before a final
    number, as in Ann_Lee_0001.jpg of CALFW and CPLFW.
    """
    several = len({name.partition("/")[0] for name in names if "/" in name}) > 1
    return [_identity(name, several) for name in names]


def _identity(name: str, of_folder: bool) -> str:
    folder, slash, _ = name.partition("/")
    if slash and of_folder:
        return folder
    if parts := identity_and_age(name):
        return parts[0]
    numbered = re.fullmatch(r"(.+)_\d+", Path(name).stem)
    return numbered[1] if numbered and not slash else folder


def identity_and_age(name: str) -> tuple[str, int] | None:
    """Returns the identity and age in a file name of FG-NET or AgeDB, else None."""
    stem = Path(name).stem
    for pattern in (r"(\d{3})[Aa](\d{2})[a-z]?", r"\d+_(.+)_(\d+)"):
        if match := re.fullmatch(pattern, stem):
            return match[1], int(match[2])
    return None


def of_images(path: str | Path, same: np.ndarray) -> list[str]:
    """Returns the identity of each image of pairs (0, 1), (2, 3), ...

    Args:
      same: bool [P], True for genuine pairs.

    Raises:
      DataError: for a missing file, and one in neither form above.
    """
    lines = lists.lines(path, _WHAT)
    listed = lines and pair_lists.is_image_and_label(lines[0].split())
    if len(lines) == 2 * len(same) and not listed:
        return [line.strip() for line in lines]
    try:
        named = pair_lists.read(path)
    except DataError:
        named = None
    if named is None or named.same != same.tolist():
        found = f"{len(lines):,} lines" if named is None else "other pairs"
        raise DataError(
            f"{path}: {found}; expected the identity of each of {2 * len(same):,} "
            "images, one a line, or the list of the same pairs"
        )
    both = zip(named.first, named.second)
    return in_names([name for pair in both for name in pair])


def of_names(path: str | Path, names: Sequence[str]) -> list[str]:
    """Returns the identity of each of the images with these names.

    Raises:
      DataError: for a missing file, a line in another form, and an image without an
        identity.
    """
    identities = named_values(path, _WHAT, "path identity")
    missing = [name for name in names if name not in identities]
    if missing:
        raise DataError(
            f"{path}: no identity of {len(missing):,} of {len(names):,} images, such "
            f"as {missing[0]!r:.200}"
        )
    return [identities[name] for name in names]


def named_values(path: str | Path, what: str, form: str) -> dict[str, str]:
    """Returns the values in the lines `name value` of a file, by name.

    Args:
      what: the file is, for errors.
      form: of its lines, for errors.

    Raises:
      DataError: for a missing file, and a line in another form.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(lists.lines(path, what), 1):
        separator = next((one for one in "\t," if one in line), None)
        parts = [part.strip() for part in line.strip().rsplit(separator, 1)]
        if len(parts) != 2 or not all(parts):
            raise DataError(f"{path}: line {number}: {line!r:.80} is not '{form}'")
        values[parts[0]] = parts[1]
    return values


def contradictions(
    identities: Sequence[str], pairs: np.ndarray, same: np.ndarray
) -> np.ndarray:
    """Returns the pairs whose label the identities contradict, int [n].

    Genuine pairs of two identities, and impostor pairs of one.
    """
    codes = np.unique(np.asarray(identities, str), return_inverse=True)[1]
    return np.flatnonzero((codes[pairs[:, 0]] == codes[pairs[:, 1]]) != same)


def check(
    path: str | Path, identities: Sequence[str], pairs: np.ndarray, same: np.ndarray
) -> None:
    """Raises a DataError for identities of a file that contradict labels of pairs."""
    wrong = contradictions(identities, pairs, same)
    if len(wrong):
        first = int(wrong[0])
        a, b = (identities[number] for number in pairs[first])
        kind = "genuine" if same[first] else "impostor"
        raise DataError(
            f"{path}: {len(wrong):,} of {len(same):,} pairs have other labels than "
            f"their identities: pair {first + 1} is {kind}, of {a!r:.80} and {b!r:.80}"
        )
