"""Verification pairs: the published lists and protocols of face recognition."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.images import EncodedImages
from data_pipelines.readers import verification_bin

_EXTENSIONS = (".png", ".jpg", ".JPG")


class Pairs(NamedTuple):
    """Pairs of images: `images` slices to uint8 RGB, `pairs` [P, 2] numbers into it.

    `folds` [P] are the official ones or None, `identities` names that of each image
    or is None, `skipped` counts lines that could not be used.
    """

    images: EncodedImages
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    identities: list[str] | None = None
    skipped: int = 0


class NamedPairs(NamedTuple):
    """Pairs as a list states them: two relative paths and whether they match."""

    first: list[str]
    second: list[str]
    same: list[bool]
    skipped: int = 0


def load(path: str | Path, *, root: str | Path = "", lag_mode: str = "drop") -> Pairs:
    """Returns the pairs of a set, whatever it is.

    Args:
      path: insightface's .bin; a child-adult list (`label path path` a line); LFW's
        pairs.txt; or a folder of CFP's protocol, `Protocol/Split/FP`.
      root: folder of the images, for all but .bin.
      lag_mode: of a list's corrupt lines; see `read_list`.

    Raises:
      DataError: for anything missing or damaged, naming it.
    """
    path = Path(path)
    if path.suffix == ".bin":
        images, same = verification_bin.read(path)
        names = EncodedImages(images, lambda number: f"{path}: image {number}")
        pairs = np.arange(2 * len(same)).reshape(-1, 2)
        return Pairs(names, pairs, same, _ten_folds(len(same)))
    if not path.exists():
        raise DataError(f"{path}: no such verification set")
    if not root:
        raise DataError(f"{path} lists images by name; say where they are: ,root=DIR")
    if not Path(root).is_dir():
        raise DataError(f"root={root}: no such folder")
    if path.is_dir():
        return _load_cfp(path, Path(root))
    with lists.opened(path) as file:
        lfw = re.fullmatch(r"\d{1,9}\t\d{1,9}\n?", file.readline(30))
    if lfw:
        return _load_lfw(path, Path(root))
    named = read_list(path, lag_mode)
    files = [_without_prefix(name) for name in (*named.first, *named.second)]
    return _assemble(path, Path(root), files, named.same, None, named.skipped)


def read_list(path: str | Path, lag_mode: str = "drop") -> NamedPairs:
    """Returns the pairs of a child-adult list, lines sorted as its authors do.

    Args:
      lag_mode: LAG's list has 17 lines whose file names were cut at a space. 'drop'
        leaves them out; 'original' pairs the two files of the line before with the
        label of this one, as the authors' evaluation does without noticing.

    Raises:
      DataError: for a missing file, or a line that starts with neither 0 nor 1.
    """
    if lag_mode not in ("drop", "original"):
        raise DataError(f"lag_mode={lag_mode}: use 'drop' or 'original'")
    pairs, skipped = [], 0
    for line in sorted(lists.lines(path, "list of pairs")):
        label, _, names = line.partition(" ")
        if label not in ("0", "1"):
            raise DataError(f"{path}: {line!r:.80} is not 'label path path'")
        parts = _split_names(names)
        if parts is None:
            skipped += 1
            if lag_mode == "drop" or not pairs:
                continue
            parts = pairs[-1][:2]
        pairs.append((*parts, label == "1"))
    if not pairs:
        raise DataError(f"{path}: no pairs")
    first, second, same = (list(column) for column in zip(*pairs))
    return NamedPairs(first, second, same, skipped)


def _split_names(names: str) -> tuple[str, str] | None:
    for extension in _EXTENSIONS:
        head, found, tail = names.partition(extension + " ")
        if found:
            return head + extension, tail
    return None


def child_adult_pairs(
    names: Iterable[str], gap: int, *, seed: int = 4885, child: int = 12
) -> NamedPairs:
    """Returns child-adult pairs of AgeDB or FG-NET, made by the rule of the lists.

    Positives are all (a, b) of one person with age(a) <= `child` and age(b) - age(a) >=
    `gap`. As many negatives: a child image drawn evenly from those that have a partner,
    an image of someone else with the same gap drawn evenly, no pair twice. The authors'
    seed is not known, so their negatives are others than these.

    Args:
      names: file names, `<n>_<Name>_<age>.jpg` (AgeDB) or `<PPP>A<AA>[a-z].JPG`
        (FG-NET); folders before the name are kept but not read.

    Raises:
      DataError: for a name of neither form.
    """
    names = sorted(set(names))
    people, ages = zip(*(_person_and_age(name) for name in names))
    numbers = {person: number for number, person in enumerate(sorted(set(people)))}
    who, age = np.array([numbers[person] for person in people]), np.array(ages)
    fits = (age[:, None] <= child) & (age[None] - age[:, None] >= gap)
    other = who[:, None] != who[None]
    positives = np.argwhere(fits & ~other)
    rng = np.random.default_rng(seed)
    children = np.flatnonzero((fits & other).any(axis=1))
    if len(positives) > (fits & other).sum():
        raise DataError(f"{len(positives)} positives, but fewer negatives exist")
    negatives: dict[tuple[int, int], None] = {}
    while len(negatives) < len(positives):
        a = rng.choice(children)
        negatives[a, rng.choice(np.flatnonzero(fits[a] & other[a]))] = None
    pairs = [*map(tuple, positives), *negatives]
    same = [True] * len(positives) + [False] * len(negatives)
    return NamedPairs([names[a] for a, _ in pairs], [names[b] for _, b in pairs], same)


def _person_and_age(name: str) -> tuple[str, int]:
    stem = Path(name).stem
    if match := re.fullmatch(r"(\d{3})[Aa](\d{2})[a-z]?", stem):
        return match[1], int(match[2])
    if match := re.fullmatch(r"\d+_(.+)_(\d+)", stem):
        return match[1], int(match[2])
    raise DataError(
        f"{name!r} is named neither <n>_<Name>_<age> (AgeDB) nor <PPP>A<AA> (FG-NET)"
    )


def _person(name: str) -> str:
    """Who a listed file shows: by AgeDB's or FG-NET's name, else its first folder."""
    try:
        return _person_and_age(name)[0]
    except DataError:
        return name.split("/")[0]


def _without_prefix(name: str) -> str:
    """A listed path without the authors' own folders, `dataset/test/<set>-aligned/`."""
    return re.sub(r"^dataset/test/[^/]*/", "", name)


def _load_cfp(split: Path, root: Path) -> Pairs:
    """CFP's official folds: Split/{FF,FP}/01..10/{same,diff}.txt."""
    profiles = "P" if split.name == "FP" else "F"
    tables = [
        _cfp_table(split.parent.parent / f"Pair_list_{kind}.txt")
        for kind in ("F", profiles)
    ]
    listed = []
    parts = sorted(path for path in split.iterdir() if path.is_dir())
    for fold, part in enumerate(parts):
        for label, name in ((True, "same.txt"), (False, "diff.txt")):
            for line in lists.lines(part / name):
                try:
                    a, b = (int(number) for number in line.split(","))
                    listed.append((tables[0][a], tables[1][b], label, fold))
                except (ValueError, KeyError):
                    raise DataError(
                        f"{part / name}: {line!r:.80} is not a pair"
                    ) from None
    if not listed:
        raise DataError(f"{split}: no folds 01, 02, ... with same.txt and diff.txt")
    first, second, same, folds = zip(*listed)
    return _assemble(split, root, [*first, *second], same, np.array(folds))


def _cfp_table(path: Path) -> dict[int, str]:
    table = {}
    for line in lists.lines(path):
        number, _, name = line.partition(" ")
        try:
            table[int(number)] = name.strip().removeprefix("../Data/Images/")
        except ValueError:
            raise DataError(f"{path}: {line!r:.80} is not 'number path'") from None
    return table


def _load_lfw(path: Path, root: Path) -> Pairs:
    """LFW's View 2: a header `folds<TAB>pairs`, then that many of each kind a fold."""
    header, *rows = lists.lines(path)
    folds, each = (int(number) for number in header.split("\t"))
    first, second, same = [], [], []
    for line in rows:
        fields = line.split("\t")
        if len(fields) == 3:
            fields.insert(2, fields[0])
        try:
            a, number_a, b, number_b = fields
            first.append(f"{a}/{a}_{int(number_a):04d}.jpg")
            second.append(f"{b}/{b}_{int(number_b):04d}.jpg")
        except ValueError:
            raise DataError(f"{path}: {line!r:.80} is not a pair of LFW") from None
        same.append(line.count("\t") == 2)
    if len(same) != 2 * folds * each:
        raise DataError(
            f"{path}: {len(same)} pairs where its header has {2 * folds * each}"
        )
    return _assemble(path, root, [*first, *second], same, _ten_folds(len(same), folds))


def _assemble(
    path: Path,
    root: Path,
    files: Sequence[str],
    same: Sequence[bool],
    folds: np.ndarray | None,
    skipped: int = 0,
) -> Pairs:
    """Pairs of `files`, the first halves then the second ones, each image once."""
    unique, numbers = np.unique(files, return_inverse=True)
    found = [_find(root, str(name)) for name in unique]
    missing = [str(name) for name, place in zip(unique, found) if place is None]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(unique)} images are not below {root}, "
            f"first {missing[0]!r:.200}"
        )
    images = EncodedImages([place for place in found if place], lambda i: str(found[i]))
    people = [_person(str(name)) for name in unique]
    pairs = numbers.reshape(2, -1).T
    return Pairs(images, pairs, np.array(same, bool), folds, people, skipped)


def _find(root: Path, name: str) -> Path | None:
    """The file itself, or as aligned sets rename it: 001/frontal_01 for frontal/01."""
    folder, _, last = name.rpartition("/")
    for candidate in (name, f"{folder}_{last}"):
        if os.path.isfile(root / candidate):  # False of names too long, too
            return root / candidate
    return None


def _ten_folds(pairs: int, folds: int = 10) -> np.ndarray:
    return np.arange(pairs) * folds // pairs
