"""IJB-B and IJB-C: templates of images and video frames, from the published lists.

The release has a folder `meta` and the faces in `loose_crop`; `b` or `c` in the names:

| file of `meta` | a line |
|---|---|
| `ijbc_face_tid_mid.txt` | `image template media` |
| `ijbc_name_5pts_score.txt` | `image x1 y1 ... x5 y5 score`, the images in that order |
| `ijbc_template_pair_label.txt` | `template template label`, 1 for genuine pairs |
| `ijbc_1N_gallery_G1.csv`, `..._G2.csv`, S1, S2 | `TEMPLATE_ID`, `SUBJECT_ID` |
| `ijbc_1N_probe_mixed.csv` | the same columns |

IJB-C has 469,375 images, 23,124 templates and 15,658,489 pairs, a file of 200 MB, which
is read in blocks into nine bytes a pair.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.images import EncodedImages
from data_pipelines.protocols import lookup
from data_pipelines.vision import align

_IMAGES, _POINTS = "_face_tid_mid.txt", "_name_5pts_score.txt"
_PAIRS, _GALLERY, _PROBES = "_template_pair_label.txt", "_1N_gallery_", "_1N_probe_"
_BLOCK = 8 << 20  # bytes of a list that are parsed at once
_WHITESPACE = np.frombuffer(b" \t\r\n", np.uint8)


class Media(NamedTuple):
    """Images [N] of media [M], the images and videos of templates [T].

    Attributes:
      names: of the images, relative to `loose_crop`.
      media: int32 [N], the medium of each image; media are ordered by template.
      template: int32 [M], the template of each medium.
      ids: int64 [T], the published number of each template, ascending.
      points: float32 [N, 5, 2] of the faces in the loose crops, or None.
      detector: float32 [N], the score of the face detector, or None.
    """

    names: list[str]
    media: np.ndarray
    template: np.ndarray
    ids: np.ndarray
    points: np.ndarray | None = None
    detector: np.ndarray | None = None


class TemplatePairs(NamedTuple):
    """Pairs of templates: int32 [P], int32 [P], bool [P]."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


class Searches(NamedTuple):
    """A gallery and its probes: templates [G], [P], and the identities of all [T].

    Attributes:
      gallery, probes: int, numbers of templates.
      identity: int [T], -1 for a template that neither list has.
    """

    gallery: np.ndarray
    probes: np.ndarray
    identity: np.ndarray


def meta(path: str | Path) -> tuple[Path, str]:
    """Returns the folder of the lists below a release, and 'ijbb' or 'ijbc'.

    Raises:
      DataError: for a folder without the lists, and one with those of both sets.
    """
    path = Path(path)
    for folder in (path, path / "meta"):
        names = sorted(one.name for one in folder.glob(f"ijb?{_IMAGES}"))
        if len(names) > 1:
            raise DataError(f"{folder}: lists of several sets, {', '.join(names)}")
        if names:
            return folder, names[0].removesuffix(_IMAGES)
    raise DataError(
        f"{path}: no list ijbb{_IMAGES} or ijbc{_IMAGES} in this folder or its 'meta'; "
        "give the folder of the release"
    )


def load(path: str | Path, *, points: bool = True) -> Media:
    """Returns the images and templates of a release.

    Args:
      path: the folder of the release, or its `meta`.
      points: read the list of facial points and detector scores too.

    Raises:
      DataError: for a missing list, a line in another form, and two lists of different
        images.
    """
    folder, name = meta(path)
    file = folder / f"{name}{_IMAGES}"
    lines = lists.lines(file, "list of images")
    fields = [line.rsplit(maxsplit=2) for line in lines]
    numbers = np.zeros((len(lines), 2), np.int64)
    try:
        names = [image for image, _, _ in fields]
        numbers[:] = [(template, media) for _, template, media in fields]
    except (ValueError, OverflowError):
        for number, line in enumerate(lines, 1):
            parts = line.split()
            if len(parts) != 3 or not all(_is_number(part) for part in parts[1:]):
                raise _unreadable(file, number, line, "image template media") from None
        raise DataError(f"{file}: a number exceeds 64 bits") from None
    if not names:
        raise DataError(f"{file}: names no image")
    # A video in two templates is a medium of each.
    keys, media = np.unique(numbers, axis=0, return_inverse=True)
    ids, template = np.unique(keys[:, 0], return_inverse=True)
    loaded = Media(
        names, media.ravel().astype(np.int32), template.astype(np.int32), ids
    )
    if not points:
        return loaded
    return _with_points(loaded, folder / f"{name}{_POINTS}")


def _with_points(loaded: Media, file: Path) -> Media:
    lines = lists.lines(file, "list of facial points")
    names, texts = [], []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 12:
            form = "image x1 y1 ... x5 y5 score"
            raise _unreadable(file, number, line, form)
        names.append(fields[0])
        texts.append(fields[1:])
    try:
        values = np.array(texts, np.float32)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    if not np.isfinite(values).all():
        number = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise _unreadable(file, number + 1, lines[number], "finite numbers")
    if names != loaded.names:
        pairs = zip(names, loaded.names)
        number = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), None)
        where = "" if number is None else f"; they differ from line {number} on"
        raise DataError(
            f"{file}: {len(names):,} images, and the list of templates has "
            f"{len(loaded.names):,}, which must be the same in order{where}"
        )
    points = values[:, :10].reshape(-1, 5, 2)
    return loaded._replace(points=points, detector=values[:, 10].copy())


def faces(
    loaded: Media,
    root: Path,
    *,
    aligned: bool = False,
    missing: str = "error",
    check: Callable[..., None] | None = None,
) -> tuple[EncodedImages, np.ndarray]:
    """Returns the faces of a release, and the numbers of their images, int [n].

    Args:
      loaded: with facial points, by which loose crops are aligned to 112 x 112 pixels.
      root: folder of the images.
      aligned: the images are aligned faces already.
      missing: 'error', or 'drop' to leave out missing images.
      check: of aligned images, called with (sources, number -> name).

    Raises:
      DataError: for missing images, with their number.
    """
    if missing not in ("error", "drop"):
        raise DataError(f"missing={missing}: use 'error' or 'drop'")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give that of the images as root=DIR")
    found = lookup.find(root, loaded.names).paths
    kept = np.flatnonzero([path is not None for path in found])
    if absent := len(found) - len(kept):
        first = next(n for n, path in zip(loaded.names, found) if path is None)
        text = (
            f"{absent:,} of {len(found):,} images are not below {root}, such as {first}"
        )
        if missing == "error" or not len(kept):
            raise DataError(f"{text}; missing=drop leaves them out")
    paths = [path for path in found if path]

    def name(number: int) -> str:
        return str(paths[number])

    if aligned:
        if check:
            check(paths, name)
        return EncodedImages(paths, name), kept
    if loaded.points is None:
        raise DataError(f"{root}: loose crops need the list of facial points")
    points = loaded.points[kept]
    return EncodedImages(
        paths, name, prepare=lambda number, image: align.crop(image, points[number])
    ), kept


def without(loaded: Media, kept: np.ndarray) -> tuple[Media, np.ndarray]:
    """Returns the set with some of its images, and the templates [t] that have any.

    Args:
      kept: int [n], numbers of images, ascending.
    """
    media, numbers = np.unique(loaded.media[kept], return_inverse=True)
    templates, template = np.unique(loaded.template[media], return_inverse=True)
    return Media(
        [loaded.names[number] for number in kept],
        numbers.astype(np.int32),
        template.astype(np.int32),
        loaded.ids[templates],
        None if loaded.points is None else loaded.points[kept],
        None if loaded.detector is None else loaded.detector[kept],
    ), templates


def pairs(path: str | Path, ids: np.ndarray) -> TemplatePairs:
    """Returns the pairs of templates of a release, in the order of the list.

    Args:
      path: as in `load`.
      ids: int64 [T], ascending, the published numbers of the templates.

    Raises:
      DataError: for a missing list, a line in another form, and templates without
        images, with their number.
    """
    folder, name = meta(path)
    file = folder / f"{name}{_PAIRS}"
    parts, missing, absent = [], 0, None
    for values in _blocks_of_numbers(file):
        numbers = np.searchsorted(ids, values[:, :2])
        unknown = ids[np.minimum(numbers, len(ids) - 1)] != values[:, :2]
        if unknown.any():
            missing += int(np.sum(unknown.any(axis=1)))
            absent = values[:, :2][unknown][0] if absent is None else absent
        columns = numbers.astype(np.int32)
        parts.append(TemplatePairs(columns[:, 0], columns[:, 1], values[:, 2] == 1))
    if missing:
        raise DataError(
            f"{file}: {missing:,} pairs have a template without images, such as "
            f"{absent}; the lists belong to different releases"
        )
    if not parts:
        raise DataError(f"{file}: no pairs")
    return TemplatePairs(*(np.concatenate(column) for column in zip(*parts)))


def _blocks_of_numbers(file: Path) -> Iterator[np.ndarray]:
    """Yields the lines of a list as int64 [n, 3], the last column 0 or 1."""
    lists.opened(file, "list of template pairs").close()  # for its errors
    before, rest = 0, b""
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            end = block.rfind(b"\n") + 1
            text, rest = (
                (rest + block[:end], block[end:]) if end else (b"", rest + block)
            )
            if len(rest) > _BLOCK:
                raise DataError(f"{file}: a line of more than {_BLOCK:,} bytes")
            if text:
                yield _numbers(file, text, before)
                before += text.count(b"\n")
    if rest.strip():
        yield _numbers(file, rest + b"\n", before)


def _numbers(file: Path, text: bytes, before: int) -> np.ndarray:
    """Returns the lines of a text as int64 [n, 3]; `before` lines precede it."""
    values = np.zeros(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of text that is no number
        try:
            values = np.fromstring(text, np.int64, sep=" ")  # much faster than loadtxt
            invalid = len(values) == 0 and bool(text.strip())
        except (DeprecationWarning, ValueError):
            invalid = True
    if not invalid:
        space = np.isin(np.frombuffer(text, np.uint8), _WHITESPACE)
        starts = ~space & np.concatenate([[True], space[:-1]])
        lines = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        columns = np.add.reduceat(
            starts, np.concatenate([[0], lines[:-1] + 1]), dtype=int
        )
        if len(values) == columns.sum() and np.isin(columns, (0, 3)).all():
            values = values.reshape(-1, 3)
            if np.isin(values[:, 2], (0, 1)).all():
                return values
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        valid = len(fields) == 3 and all(_is_number(field) for field in fields)
        if fields and not (valid and fields[2] in ("0", "1")):
            form = "template template label, with label 0 or 1"
            raise _unreadable(file, before + number, line, form)
    raise DataError(f"{file}: a number near line {before + 1:,} exceeds 64 bits")


def searches(path: str | Path, ids: np.ndarray) -> dict[str, Searches]:
    """Returns the galleries of a release with their probes, by name (G1, G2; S1, S2).

    Every probe is searched in every gallery: it is mated in the gallery that has its
    identity, and a non-mated search of the other one. The published tables have a line
    per image; templates are counted once.

    Args:
      path, ids: as in `pairs`.

    Raises:
      DataError: for missing tables, a template of two identities, and templates without
        images.
    """
    folder, name = meta(path)
    tables = {
        file.stem.rpartition(_GALLERY)[2]: file
        for file in sorted(folder.glob(f"{name}{_GALLERY}*.csv"))
    }
    probes = sorted(folder.glob(f"{name}{_PROBES}mixed.csv"))
    if not tables or not probes:
        missing = (
            f"{name}{_GALLERY}*.csv" if not tables else f"{name}{_PROBES}mixed.csv"
        )
        raise DataError(f"{folder}: no {missing}, the tables of identification")
    owners: dict[int, str] = {}
    columns = {
        key: _templates(file, ids, owners)
        for key, file in {**tables, "": probes[0]}.items()
    }
    subjects = {owner: code for code, owner in enumerate(sorted(set(owners.values())))}
    identity = np.full(len(ids), -1)
    identity[list(owners)] = [subjects[owner] for owner in owners.values()]
    return {
        key: Searches(numbers, columns[""], identity)
        for key, numbers in columns.items()
        if key
    }


def _templates(file: Path, ids: np.ndarray, owners: dict[int, str]) -> np.ndarray:
    """Returns the templates of a table, and enters their identities in `owners`."""
    template, subject = "TEMPLATE_ID", "SUBJECT_ID"
    numbers: dict[int, None] = {}
    for line, row in lists.table(file, (template, subject)):
        text, owner = (row[template] or "").strip(), (row[subject] or "").strip()
        if not _is_number(text) or not owner:
            raise DataError(
                f"{file}: line {line}: template {text!r:.80}, subject {owner!r:.80}"
            )
        number = int(np.searchsorted(ids, int(text)))
        if number == len(ids) or ids[number] != int(text):
            raise DataError(f"{file}: line {line}: template {text} has no images")
        numbers[number] = None
        if owners.setdefault(number, owner) != owner:
            raise DataError(
                f"{file}: line {line}: template {text} is of {owner!r:.80} and of "
                f"{owners[number]!r:.80}"
            )
    if not numbers:
        raise DataError(f"{file}: no templates")
    return np.array(list(numbers))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _unreadable(file: Path, number: int, line: str, form: str) -> DataError:
    return DataError(f"{file}: line {number:,}: {line.strip()!r:.80} is not '{form}'")
