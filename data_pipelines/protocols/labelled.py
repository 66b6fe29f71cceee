"""Faces with identities, for identification and clustering."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import DataError, listing
from data_pipelines import index as indexes
from data_pipelines import text_files as lists
from data_pipelines.images import EncodedImages
from data_pipelines.names import written
from data_pipelines.protocols import lookup
from data_pipelines.protocols.pairs import refuse
from data_pipelines.record_set import RecordSet

_COLUMNS = ("file", "identity")


class Labelled(NamedTuple):
    """Faces [N] with identities.

    Attributes:
      names: of the images, as text; those of records are their numbers.
      identities: the name of each image's identity.
      images: slices to uint8 RGB [n, H, W, 3]; None if only the names were asked for.
      notes: what was left out.
      records: the name of the records, or ''.
      dropped: number of missing images that were left out.
    """

    names: list[str]
    identities: list[str]
    images: Any
    notes: tuple[str, ...] = ()
    records: str = ""
    dropped: int = 0


def load(
    path: str | Path,
    *,
    root: str | Path = "",
    identities: str = "",
    missing: str = "",
    check: Callable[..., None] | None = None,
    images: bool = True,
) -> Labelled:
    """Returns the labelled faces of a folder, of records, or of a table.

    Args:
      path: a folder of <identity>/*.jpg; a folder of records; or a CSV with the columns
        `file` and `identity`.
      root: folder of the files of a table.
      identities: of records, 'first:last' or '@file'; '' for all.
      missing: 'error' (default), or 'drop' to leave out missing files of a table.
      check: called with (sources, number -> name) of all images before they are used;
        see `aligned.check`.
      images: False to return names only, for stored embeddings.

    Raises:
      DataError: for a missing or damaged source, one without identities, missing files,
        and options that are of no use for this kind of source.
    """
    path = Path(path)
    if missing not in ("", "error", "drop"):
        raise DataError(f"missing={missing}: use 'error' or 'drop'")
    if path.is_dir():
        # Of a folder, embeddings of images may be missing, though no images are.
        refuse(path, "a folder", root=root, missing=missing if images else "")
    if path.is_dir() and _is_records(path):
        if not images:
            raise DataError(
                f"{path}: images of records have no names that a file of embeddings "
                "could have; give the file itself as the set"
            )
        return _of_records(path, identities, check)
    if identities:
        raise DataError(f"identities={identities} needs records")
    if path.is_dir():
        return _of_folder(path, check, images)
    if not path.exists():
        raise DataError(f"{path}: no such set of labelled faces")
    return _of_table(path, Path(root) if root else path.parent, missing, check, images)


def clusters(path: str | Path, names: Sequence[str]) -> np.ndarray:
    """Returns the cluster of each name, int [N], of a CSV of `file` and `cluster`.

    Raises:
      DataError: for a missing table or column, two clusters of a file, and names that
        the table lacks, with their number.
    """
    assigned: dict[str, str] = {}
    for line, row in lists.table(path, ("file", "cluster")):
        file, cluster = row["file"], row["cluster"]
        if not file or not cluster:
            raise DataError(f"{path}: line {line}: an empty cell")
        if assigned.setdefault(file, cluster) != cluster:
            raise DataError(f"{path}: line {line}: {file!r:.80} is in two clusters")
    absent = [name for name in names if name not in assigned]
    if absent:
        raise DataError(
            f"{path}: {len(absent):,} of {len(names):,} images have no cluster, such "
            f"as {absent[0]!r:.80}"
        )
    return np.unique([assigned[name] for name in names], return_inverse=True)[1]


def _is_records(path: Path) -> bool:
    return (path / indexes.FILE).exists() or any(path.glob(f"*/{indexes.FILE}"))


def _of_records(path: Path, identities: str, check: Callable | None) -> Labelled:
    from data_pipelines import records  # loads TensorFlow

    faces = RecordSet(path, identities=identities or None)
    labelled = np.flatnonzero(faces.label >= 0)
    notes = _left_out(len(faces) - len(labelled))
    if not len(labelled):
        raise DataError(f"{path}: no record has an identity")
    faces = faces.subset(labelled)
    if check:  # all records of a set have one size
        check([records.image(faces.serialized(np.array([0]))[0])], lambda _: str(path))
    names = [f"{faces.name}:{number}" for number in labelled.tolist()]
    named = [faces.identities[label] for label in faces.label]
    return Labelled(names, named, faces, notes, faces.name)


def _of_folder(path: Path, check: Callable | None, images: bool) -> Labelled:
    found, skipped = listing.list_images(path)
    owners, note, _ = listing.identities(found, None) if found else ([], "", None)
    kept = [number for number, owner in enumerate(owners) if owner]
    if not kept:
        raise DataError(
            f"{path}: neither records nor a folder of <identity>/*.jpg: "
            f"{len(found):,} images, none in a folder of its identity"
        )
    notes = [*_left_out(len(found) - len(kept)), *([note] if note else [])]
    notes += [listing.summary(skipped)] if skipped else []
    names = [found[number] for number in kept]
    paths = [path / name for name in names]
    shown = [written(name) for name in names]
    return Labelled(
        shown,
        [owners[number] for number in kept],
        _opened(paths, check) if images else None,
        tuple(notes),
    )


def _of_table(
    path: Path, root: Path, missing: str, check: Callable | None, images: bool
) -> Labelled:
    rows = lists.table(path, _COLUMNS)
    if not rows:
        raise DataError(f"{path}: names no image")
    for line, row in rows:
        if not all(row[name] for name in _COLUMNS):
            raise DataError(f"{path}: line {line}: an empty cell")
    names, owners = ([str(row[column]) for _, row in rows] for column in _COLUMNS)
    repeated = len(names) - len(set(names))
    if repeated:
        raise DataError(f"{path}: {repeated:,} files are named more than once")
    if not images:
        return Labelled(names, owners, None)
    if not root.is_dir():
        raise DataError(f"root={root}: no such folder")
    found = lookup.find(root, names).paths
    kept = [number for number, file in enumerate(found) if file]
    notes: list[str] = []
    if len(kept) < len(names):
        first = names[next(n for n, file in enumerate(found) if not file)]
        text = (
            f"{len(names) - len(kept):,} of {len(names):,} images are not below "
            f"{root}, such as {first!r:.200}"
        )
        if missing != "drop" or not kept:
            raise DataError(f"{path}: {text}; give their folder as root=DIR")
        notes.append(f"dropped missing images: {text}")
    paths = [file for file in found if file]
    names, owners = ([column[n] for n in kept] for column in (names, owners))
    dropped = len(found) - len(kept)
    faces = _opened(paths, check)
    return Labelled(names, owners, faces, tuple(notes), dropped=dropped)


def _opened(paths: list[Path], check: Callable | None) -> EncodedImages:
    def name(number: int) -> str:
        return str(paths[number])

    if check:
        check(paths, name)
    return EncodedImages(paths, name)


def _left_out(count: int) -> tuple[str, ...]:
    return (f"left out {count:,} images without an identity",) if count else ()
