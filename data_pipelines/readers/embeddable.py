"""Aligned faces of any source, with their names, for embedding."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import DataError, aligned, images
from data_pipelines import index as indexes
from data_pipelines.readers import verification_bin


class Faces(NamedTuple):
    """Aligned faces: names, identities ('' if unknown), and images."""

    names: Sequence[str]
    identities: Sequence[str]
    images: images.EncodedImages


def open_faces(
    source: Path,
    sides: Collection[int] | None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Faces:
    """Returns the faces of a folder, an image, a set of records or a .bin file.

    The size of every image is checked before the first is embedded.

    Args:
      sides: valid sides in pixels besides 112; None accepts any size.
      progress: iterates over the images and shows the progress.

    Raises:
      DataError: for a source without faces, and for images that are damaged or have
        another size.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_dir() and (
        (source / indexes.FILE).exists() or list(source.glob(f"*/{indexes.FILE}"))
    ):
        return _records(source, sides)
    if source.suffix == ".bin" and source.is_file():
        encoded = verification_bin.read(source).images
        names = [f"{source.name}:{number}" for number in range(len(encoded))]
        identities = [""] * len(names)
    else:
        root = source.parent if source.is_file() else source
        encoded = [source] if source.is_file() else images.list_images(source)
        if not encoded:
            raise DataError(f"{source}: no .jpg, .jpeg or .png below it")
        names = [path.relative_to(root).as_posix() for path in encoded]
        identities = [name.split("/")[0] if "/" in name else "" for name in names]
    if sides is not None:
        shown = encoded if isinstance(encoded[0], Path) else names
        aligned.check(encoded, lambda number: str(shown[number]), sides, progress)
    return _faces(names, identities, encoded)


def _faces(names, identities, encoded) -> Faces:
    return Faces(names, identities, images.EncodedImages(encoded, lambda n: names[n]))


def _records(source: Path, sides: Collection[int] | None) -> Faces:
    from data_pipelines import records  # loads TensorFlow

    folder = indexes.find(source)
    index = indexes.load(folder)
    side = index.size
    if sides is not None and not aligned.is_aligned(side, side, sides):
        raise DataError(
            f"{source}: records of {side}x{side} pixels, expected {aligned.SIDE}x"
            f"{aligned.SIDE}; accept their size with --unaligned"
        )
    identities = [index.identities[n] if n >= 0 else "" for n in index.label]
    names = [f"{index.name}:{number}" for number in range(len(index))]

    class Encoded(Sequence):
        def __len__(self):
            return len(index)

        def __getitem__(self, number):
            face = records.decode(indexes.read(folder, index, number))
            names[number] = face.source or names[number]
            return face.image

    return _faces(names, identities, Encoded())
