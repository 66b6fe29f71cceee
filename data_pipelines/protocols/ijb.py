"""IJB-B and IJB-C: templates of images and video frames, from the published lists.

The release has a folder `meta` and the faces in `loose_crop`; `b` or `c` in the names:

| file of `meta` | a line |
|---|---|
| `ijbc_face_tid_mid.txt` | `image template media` |
| `ijbc_name_5pts_score.txt` | `image x1 y1 ... x5 y5 score`, the images in that order |
| `ijbc_template_pair_label.txt` | `template template label`, 1 for genuine pairs |
| `ijbc_1N_gallery_G1.csv`, `..._G2.csv`, S1, S2 | `TEMPLATE_ID`, `SUBJECT_ID` |
| `ijbc_1N_probe_mixed.csv` | the same columns |

The last three lists are read by `ijb_protocols`. IJB-C has 469,375 images, 23,124
templates and 15,658,489 pairs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.images import EncodedImages
from data_pipelines.protocols import lookup
from data_pipelines.vision import align

_IMAGES, _POINTS = "_face_tid_mid.txt", "_name_5pts_score.txt"


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
            if len(parts) != 3 or not all(is_number(part) for part in parts[1:]):
                raise unreadable(file, number, line, "image template media") from None
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
            raise unreadable(file, number, line, form)
        names.append(fields[0])
        texts.append(fields[1:])
    try:
        values = np.array(texts, np.float32)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    if not np.isfinite(values).all():
        number = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise unreadable(file, number + 1, lines[number], "finite numbers")
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


def is_number(text: str) -> bool:
    """Returns whether a text is a number of at most 18 digits."""
    return text.isascii() and text.isdigit() and len(text) < 19


def unreadable(file: Path, number: int, line: str, form: str) -> DataError:
    """Returns the error of a line that has not the form of its list."""
    return DataError(f"{file}: line {number:,}: {line.strip()!r:.80} is not '{form}'")
