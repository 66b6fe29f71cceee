"""Verification pairs: the published lists and protocols of face recognition."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import index as indexes
from data_pipelines import text_files as lists
from data_pipelines.images import EncodedImages
from data_pipelines.names import written
from data_pipelines.protocols import (
    lookup,
    pair_identities,
    pair_lists,
    record_pairs,
)
from data_pipelines.protocols.pair_lists import NamedPairs
from data_pipelines.readers import verification_bin
from data_pipelines.record_set import RecordSet


class Pairs(NamedTuple):
    """Verification pairs.

    Attributes:
      images: a sequence whose slices are uint8 RGB [n, H, W, 3]; with `find`, the
        rows of the images.
      pairs: int [P, 2], numbers of images.
      same: bool [P], True for genuine pairs.
      folds: int [P], the official folds, or None.
      identities: name of the identity of each image, or None.
      skipped: number of truncated lines of the list, which were left out.
      dropped: number of pairs left out since an image is missing; None if a missing
        image is an error.
      notes: what was skipped, left out or found under another name.
      records: the name of the records from which the pairs were drawn, or ''.
      names: of the images in the list, or None for images without names.
    """

    images: EncodedImages | RecordSet | np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    identities: list[str] | None = None
    skipped: int = 0
    dropped: int | None = None
    notes: tuple[str, ...] = ()
    records: str = ""
    names: list[str] | None = None


class _Files(NamedTuple):
    """Where the images of a set are, and what they must be; see `load`."""

    root: Path
    missing: str
    identities: str
    check: Callable[..., None] | None
    find: Callable[[Sequence[str]], np.ndarray] | None


def load(
    path: str | Path,
    *,
    root: str | Path = "",
    lag_mode: str = "",
    missing: str = "",
    identities: str = "",
    check: Callable[..., None] | None = None,
    find: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> Pairs:
    """Returns the pairs of a set in any of the published formats, or of records.

    Args:
      path: insightface's .bin; a list in a format of `pair_lists`; a folder of CFP's
        protocol, `Protocol/Split/FP`; or a folder of records, whose pairs are drawn by
        `record_pairs.draw`.
      root: folder of the images, except for .bin and records.
      lag_mode: treatment of corrupt lines of a list, 'drop' by default; see
        `pair_lists.read_list`.
      missing: 'error' (default), or 'drop' to leave out pairs whose images are missing.
      identities: of records, 'first:last' or '@file', '' for all; of other sets, a file
        that names the identity of each image, see `pair_identities`.
      check: called with (sources, number -> name) of all images before they are used;
        see `aligned.check`.
      find: (names) -> rows of a file of embeddings, -1 for missing names; images are
        then not opened. Names are those of the list, and of a .bin FILE:NUMBER.

    Raises:
      DataError: for a missing or damaged file, naming it, for missing images, and for
        options that are of no use for this kind of set.
    """
    path = Path(path)
    if missing not in ("", "error", "drop"):
        raise DataError(f"missing={missing}: use 'error' or 'drop'")
    if path.is_dir() and not root and not find:
        refuse(path, "a folder without root=DIR", lag_mode=lag_mode, missing=missing)
        return _of_records(path, identities, check)
    if path.is_dir():
        refuse(path, "a folder", lag_mode=lag_mode)
    if path.suffix == ".bin":
        refuse(path, "a .bin set", root=root, lag_mode=lag_mode)
    if identities and not Path(identities).is_file():
        raise DataError(
            f"identities={identities}: no such file; a range A:B needs records, and no "
            "root=DIR"
        )
    if path.suffix == ".bin":
        images, same = verification_bin.read(path)

        def name(number: int) -> str:
            return f"{path}: image {number}"

        if check and not find:
            check(images, name)
        pairs = np.arange(2 * len(same)).reshape(-1, 2)
        folds = pair_lists.contiguous(len(same))
        dropped = 0 if missing == "drop" else None
        named = None
        if identities:
            named = pair_identities.of_images(identities, same)
            pair_identities.check(identities, named, pairs, same)
        faces = EncodedImages(images, name)
        if find:
            numbered = [f"{written(path.name)}:{n}" for n in range(len(images))]
            faces = find(numbered)
            if missing_rows := int(np.sum(faces < 0)):
                raise DataError(
                    f"{path}: {missing_rows:,} of {len(images):,} images have no "
                    f"embedding; make the file with `fr-jax embed {path}`"
                )
        return Pairs(faces, pairs, same, folds, named, dropped=dropped)
    if not path.exists():
        raise DataError(f"{path}: no such verification set")
    if not root and not find:
        raise DataError(f"{path} lists image files; give their folder: ,root=DIR")
    files = _Files(Path(root), missing, identities, check, find)
    if not find and not files.root.is_dir():
        raise DataError(f"root={root}: no such folder")
    named = _cfp(path) if path.is_dir() else pair_lists.read(path, lag_mode or "drop")
    return _assemble(path, files, named)


def refuse(path: Path, what: str, **options: str | Path) -> None:
    """Raises a DataError if one of these options is given: it would be ignored."""
    for option, value in options.items():
        if value:
            raise DataError(f"{path}: {option}={value} is of no use for {what}")


def _of_records(path: Path, identities: str, check: Callable | None) -> Pairs:
    """Returns pairs drawn from labelled records."""
    from data_pipelines import records  # loads TensorFlow

    try:
        indexes.find(path)
    except DataError:
        raise DataError(
            f"{path}: neither records of `fr-jax data convert` nor, without root=DIR, "
            "a list of pairs"
        ) from None
    faces = RecordSet(path, identities=identities or None)
    pairs, same = record_pairs.draw(faces.label)
    used, pairs = np.unique(pairs, return_inverse=True)
    faces = faces.subset(used)
    if check:  # all records of a set have one size
        check([records.image(faces.serialized(np.array([0]))[0])], lambda _: str(path))
    named = [faces.identities[label] for label in faces.label]
    return Pairs(
        faces, pairs.reshape(-1, 2), same, identities=named, records=faces.name
    )


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
    if parts := pair_identities.identity_and_age(name):
        return parts
    raise DataError(
        f"{name!r} has neither form <n>_<Name>_<age> (AgeDB) nor <PPP>A<AA> (FG-NET)"
    )


def _cfp(split: Path) -> NamedPairs:
    """Returns CFP's official folds: Split/{FF,FP}/01..10/{same,diff}.txt."""
    folder, profiles = split.parent.parent, "P" if split.name == "FP" else "F"
    if not (folder / "Pair_list_F.txt").exists():
        raise DataError(
            f"{split} is a folder, but none of CFP's protocol (.../Protocol/Split/FP, "
            f"with {folder / 'Pair_list_F.txt'}); give a list of pairs and its images "
            "as root=DIR"
        )
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
    first, second, same, folds = (list(column) for column in zip(*listed))
    return NamedPairs(first, second, same, folds=np.array(folds))


def _cfp_table(path: Path) -> dict[int, str]:
    table = {}
    for line in lists.lines(path):
        number, _, name = line.partition(" ")
        try:
            table[int(number)] = name.strip().removeprefix("../Data/Images/")
        except ValueError:
            raise DataError(f"{path}: {line!r:.80} is not 'number path'") from None
    return table


def _assemble(path: Path, files: _Files, named: NamedPairs) -> Pairs:
    """Returns the pairs of the files: all first images, then all second ones."""
    prefix = re.compile(r"^dataset/test/[^/]*/")  # the authors' folders
    listed = [prefix.sub("", name) for name in (*named.first, *named.second)]
    unique, numbers = np.unique(listed, return_inverse=True)
    names, root = unique.tolist(), files.root
    if files.find:
        rows = files.find(names).tolist()
        found: list[Any] = [None if row < 0 else row for row in rows]
        renamed, place = [], "in the file of embeddings"
    else:
        found, renamed = lookup.find(root, names)
        place = f"below {root}"
    pairs = numbers.reshape(2, -1).T  # [P, 2]
    same, folds, dropped, notes = np.array(named.same, bool), named.folds, None, []
    if named.skipped:
        notes.append(f"skipped {named.skipped} truncated lines")
    if renamed:
        listed_as, file = renamed[0]
        notes.append(
            f"{len(renamed):,} of {len(names):,} images have another suffix than in "
            f"the list, such as {file} for {listed_as}"
        )
    exists = np.array([path is not None for path in found])
    complete = np.all(exists[pairs], axis=1)
    if not exists.all():
        first = names[int(np.argmin(exists))]
        text = (
            f"{np.sum(~exists):,} of {len(names):,} images, in "
            f"{np.sum(~complete):,} of {len(pairs):,} pairs, are not {place}, "
            f"such as {first!r:.200}"
        )
        some = bool(np.any(complete))
        if files.missing != "drop" or not some:
            remedy = _remedy(None if files.find else root, first, some)
            raise DataError(f"{path}: {text}{remedy}")
        notes.append(f"dropped the pairs of missing images: {text}")
    if files.missing == "drop":
        dropped = int(np.sum(~complete))
        same, folds = same[complete], None if folds is None else folds[complete]
        used, pairs = np.unique(pairs[complete], return_inverse=True)
        pairs = pairs.reshape(-1, 2)
        found, names = [found[n] for n in used], [names[n] for n in used]
    paths = [path for path in found if path is not None]
    if files.find:
        images = np.array(paths, np.int64)
    else:
        if files.check:
            files.check(paths, lambda number: str(paths[number]))
        images = EncodedImages(paths, lambda number: str(paths[number]))
    if files.identities:
        identities = pair_identities.of_names(files.identities, names)
        pair_identities.check(files.identities, identities, pairs, same)
    else:
        identities = pair_identities.in_names(names)
    return Pairs(
        images,
        pairs,
        same,
        folds,
        identities,
        named.skipped,
        dropped,
        tuple(notes),
        names=names,
    )


def _remedy(root: Path | None, name: str, some: bool) -> str:
    """Returns the remedy for a missing image, with the right root if it is near.

    Args:
      some: whether pairs are left without those of missing images.
    """
    near = []
    if root is not None:
        near = [root.parent, root / name.split("/")[0], *sorted(root.iterdir())[:9]]
    for folder in near:
        with contextlib.suppress(DataError):  # of two files that could be meant
            if not folder.is_dir() or not lookup.find(folder, [name]).paths[0]:
                continue
            return f"; did you mean root={folder}?"
    return "; missing=drop leaves these pairs out" if some else ""
