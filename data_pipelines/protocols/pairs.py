"""Verification pairs: the published lists and protocols of face recognition."""

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.image_headers import SUFFIXES
from data_pipelines.images import EncodedImages
from data_pipelines.readers import verification_bin

# The first name may contain spaces: it ends with the suffix of an image.
_TWO_FILES = re.compile(
    rf"(.*?(?:{'|'.join(map(re.escape, sorted(SUFFIXES, reverse=True)))})) (.*)",
    re.IGNORECASE,
)


class Pairs(NamedTuple):
    """Verification pairs.

    Attributes:
      images: a sequence whose slices are uint8 RGB [n, H, W, 3].
      pairs: int [P, 2], numbers of images.
      same: bool [P], True for genuine pairs.
      folds: int [P], the official folds, or None.
      identities: name of the identity of each image, or None.
      skipped: number of corrupt lines that were skipped.
    """

    images: EncodedImages
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    identities: list[str] | None = None
    skipped: int = 0


class NamedPairs(NamedTuple):
    """Pairs of a list: two relative paths and True for a genuine pair."""

    first: list[str]
    second: list[str]
    same: list[bool]
    skipped: int = 0


def load(path: str | Path, *, root: str | Path = "", lag_mode: str = "drop") -> Pairs:
    """Returns the pairs of a set in any of the published formats.

    Args:
      path: insightface's .bin; a child-adult list (lines `label path path`); LFW's
        pairs.txt; or a folder of CFP's protocol, `Protocol/Split/FP`.
      root: folder of the images, except for .bin.
      lag_mode: treatment of corrupt lines; see `read_list`.

    Raises:
      DataError: for a missing or damaged file, naming it.
    """
    path = Path(path)
    if path.suffix == ".bin":
        images, same = verification_bin.read(path)
        names = EncodedImages(images, lambda number: f"{path}: image {number}")
        pairs = np.arange(2 * len(same)).reshape(-1, 2)
        return Pairs(names, pairs, same, _folds(len(same)))
    if not path.exists():
        raise DataError(f"{path}: no such verification set")
    if not root:
        raise DataError(f"{path} lists image files; give their folder: ,root=DIR")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"root={root}: no such folder")
    if path.is_dir():
        return _load_cfp(path, root)
    with lists.opened(path) as file:
        lfw = re.fullmatch(r"\d{1,9}\t\d{1,9}\n?", file.readline(30))
    if lfw:
        return _load_lfw(path, root)
    named = read_list(path, lag_mode)
    prefix = re.compile(r"^dataset/test/[^/]*/")  # the authors' folders
    files = [prefix.sub("", name) for name in (*named.first, *named.second)]
    return _assemble(path, root, files, named.same, None, named.skipped)


def read_list(path: str | Path, lag_mode: str = "drop") -> NamedPairs:
    """Returns the pairs of a child-adult list in order of sorted lines, as published.

    Args:
      lag_mode: LAG's list has 17 lines with file names truncated at a space. 'drop'
        skips them; 'original' combines their label with the two files of the previous
        line, as the authors' evaluation does.

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
        parts = _TWO_FILES.match(names)
        if not parts:
            skipped += 1
            if lag_mode == "drop" or not pairs:
                continue
        first, second = parts.groups() if parts else pairs[-1][:2]
        pairs.append((first, second, label == "1"))
    if not pairs:
        raise DataError(f"{path}: no pairs")
    first, second, same = (list(column) for column in zip(*pairs))
    return NamedPairs(first, second, same, skipped)


def child_adult_pairs(
    names: Iterable[str], gap: int, *, seed: int = 4885, child: int = 12
) -> NamedPairs:
    """Returns child-adult pairs of AgeDB or FG-NET by the rule of the published lists.

    Genuine pairs are all (a, b) of one identity with age(a) <= `child` and age(b) -
    age(a) >= `gap`. Impostor pairs are as many: a uniformly random child image that has
    a partner, and a uniformly random image of another identity with the same gap; no
    pair occurs twice. They differ from those of the authors, who published no seed.

    Args:
      names: file names, `<n>_<Name>_<age>.jpg` (AgeDB) or `<PPP>A<AA>[a-z].JPG`
        (FG-NET); folders in front of the name are kept and ignored.

    Raises:
      DataError: for a name in neither form.
    """
    names = sorted(set(names))
    identities, ages = zip(*(_identity_and_age(name) for name in names))
    identity, age = np.unique(identities, return_inverse=True)[1], np.array(ages)
    fits = (age[:, None] <= child) & (age[None] - age[:, None] >= gap)  # [N, N]
    other = identity[:, None] != identity[None]
    positives = np.argwhere(fits & ~other)
    rng = np.random.default_rng(seed)
    children = np.flatnonzero((fits & other).any(axis=1))
    if len(positives) > (fits & other).sum():
        raise DataError(f"{len(positives)} genuine pairs exceed the impostor pairs")
    negatives: dict[tuple[int, int], None] = {}
    while len(negatives) < len(positives):
        a = rng.choice(children)
        negatives[a, rng.choice(np.flatnonzero(fits[a] & other[a]))] = None
    pairs = [*map(tuple, positives), *negatives]
    same = [True] * len(positives) + [False] * len(negatives)
    return NamedPairs([names[a] for a, _ in pairs], [names[b] for _, b in pairs], same)


def _identity_and_age(name: str) -> tuple[str, int]:
    stem = Path(name).stem
    for pattern in (r"(\d{3})[Aa](\d{2})[a-z]?", r"\d+_(.+)_(\d+)"):
        if match := re.fullmatch(pattern, stem):
            return match[1], int(match[2])
    raise DataError(
        f"{name!r} has neither form <n>_<Name>_<age> (AgeDB) nor <PPP>A<AA> (FG-NET)"
    )


def _identity(name: str) -> str:
    """Returns the identity in a name of AgeDB or FG-NET, else the first folder."""
    try:
        return _identity_and_age(name)[0]
    except DataError:
        return name.split("/")[0]


def _load_cfp(split: Path, root: Path) -> Pairs:
    """Returns CFP's official folds: Split/{FF,FP}/01..10/{same,diff}.txt."""
    folder, profiles = split.parent.parent, "P" if split.name == "FP" else "F"
    first_table = _cfp_table(folder / "Pair_list_F.txt")
    second_table = _cfp_table(folder / f"Pair_list_{profiles}.txt")
    listed = []
    parts = sorted(path for path in split.iterdir() if path.is_dir())
    for (fold, part), kind in itertools.product(enumerate(parts), ("same", "diff")):
        path = part / f"{kind}.txt"
        for line in lists.lines(path):
            try:
                a, b = (int(number) for number in line.split(","))
                listed.append((first_table[a], second_table[b], kind == "same", fold))
            except (ValueError, KeyError):
                raise DataError(f"{path}: {line!r:.80} is not a pair") from None
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
    """Returns LFW's View 2.

    The header `folds<TAB>pairs` states the number of pairs of each kind per fold.
    """
    header, *rows = lists.lines(path)
    folds, per_fold = (int(number) for number in header.split("\t"))
    first, second, same = [], [], []
    for line in rows:
        fields = line.split("\t")
        same.append(len(fields) == 3)
        if same[-1]:
            fields.insert(2, fields[0])
        try:
            a, number_a, b, number_b = fields
            first.append(f"{a}/{a}_{int(number_a):04d}.jpg")
            second.append(f"{b}/{b}_{int(number_b):04d}.jpg")
        except ValueError:
            raise DataError(f"{path}: {line!r:.80} is not a pair of LFW") from None
    expected = 2 * folds * per_fold
    if len(same) != expected:
        raise DataError(f"{path}: {len(same)} pairs; its header states {expected}")
    return _assemble(path, root, [*first, *second], same, _folds(len(same), folds))


def _assemble(
    path: Path,
    root: Path,
    files: Sequence[str],
    same: Sequence[bool],
    folds: np.ndarray | None,
    skipped: int = 0,
) -> Pairs:
    """Returns the pairs of `files`, all first images, then all second ones."""
    unique, numbers = np.unique(files, return_inverse=True)
    names = unique.tolist()
    paths = [_find(root, name) for name in names]
    missing = [name for name, path in zip(names, paths) if path is None]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images are not below {root}, "
            f"first {missing[0]!r:.200}"
        )
    images = EncodedImages([place for place in paths if place], lambda i: str(paths[i]))
    pairs = numbers.reshape(2, -1).T  # [P, 2]
    identities = [_identity(name) for name in names]
    return Pairs(images, pairs, np.array(same, bool), folds, identities, skipped)


def _find(root: Path, name: str) -> Path | None:
    """Returns the file, or its form in aligned sets: 001/frontal_01 of frontal/01."""
    folder, _, last = name.rpartition("/")
    for candidate in (name, f"{folder}_{last}"):
        if os.path.isfile(root / candidate):  # False for names that are too long
            return root / candidate
    return None


def _folds(pairs: int, folds: int = 10) -> np.ndarray:
    """Returns the fold of each pair, int [P], of folds that follow one another."""
    return np.arange(pairs) * folds // pairs
