"""Photographs with a .pts of 68 landmarks beside each: a folder, or a .tar of one."""

import contextlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError, images
from data_pipelines.names import written
from data_pipelines.readers import landmark_files

_IMAGES = (".jpg", ".jpeg", ".png")
_MOST = 100_000  # members of an archive


class Photograph(NamedTuple):
    """A photograph and its landmarks.

    Attributes:
      name: path within the folder or archive.
      image: uint8 RGB [H, W, 3]. Not turned upright: points are of the stored pixels.
      points: float32 [68, 2], (x, y) with pixel centres at integers, from 0.
    """

    name: str
    image: np.ndarray
    points: np.ndarray


def read(path: str | Path) -> Iterator[Photograph]:
    """Yields the photographs of a folder and its subfolders, or of a .tar, by name.

    iBUG counts pixels from 1, as Matlab does: 1 is subtracted from the points.

    Raises:
      DataError: for a missing path, a damaged archive, no photographs, an image without
        landmarks, and invalid images and landmarks; see `images.decode` and
        `landmark_files.read`.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.suffix.lower() in _IMAGES)
        named = {one.relative_to(path).as_posix(): one for one in found}
        yield from _read(path, named)
    elif path.is_file():
        with _extracted(path) as named:
            yield from _read(path, named)
    else:
        raise DataError(f"{written(str(path))}: no such folder or .tar")


def _read(source: Path, named: dict[str, Path]) -> Iterator[Photograph]:
    if not named:
        kinds = ", ".join(_IMAGES)
        raise DataError(f"{written(str(source))}: no photographs in it ({kinds})")
    for name, image in named.items():
        shown = f"{written(str(source))}: {written(name)}"
        points = landmark_files.beside(image, (".pts",))
        if not points:
            raise DataError(f"{shown} has no .pts beside it")
        try:
            pixels = images.decode(images.read_file(image), upright=False)
        except DataError as error:
            raise DataError(f"{shown}: {error}") from None
        yield Photograph(name, pixels, landmark_files.read(points) - np.float32(1))


@contextlib.contextmanager
def _extracted(path: Path) -> Iterator[dict[str, Path]]:
    """Yields the images of a .tar by name, extracted with their .pts.

    Only plain files are read, under names of this function, one at a time and none
    above the limit of an image: a name in the archive never becomes a path.
    """
    shown = written(str(path))
    with tempfile.TemporaryDirectory(prefix="fr_jax_") as folder:
        stems: dict[str, Path] = {}
        named: dict[str, Path] = {}
        try:
            with tarfile.open(path) as archive:
                for number, member in enumerate(archive):
                    if number == _MOST:
                        raise DataError(f"{shown}: more than {_MOST:,} members")
                    name = PurePosixPath(member.name)
                    suffix = name.suffix.lower()
                    if not member.isreg() or suffix not in (*_IMAGES, ".pts"):
                        continue
                    if member.size > images.MAX_BYTES:
                        raise DataError(
                            f"{shown}: {written(member.name)} has {member.size:,} "
                            f"bytes; up to {images.MAX_BYTES:,} are read"
                        )
                    stem = Path(folder) / f"{len(stems):06}"
                    stem = stems.setdefault(str(name.with_suffix("")), stem)
                    file = archive.extractfile(member)
                    assert file is not None  # of a regular member
                    target = stem.with_suffix(suffix)
                    target.write_bytes(file.read())
                    if suffix != ".pts":
                        named[member.name] = target
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{shown}: a damaged .tar ({error!s:.100})") from None
        yield dict(sorted(named.items()))
