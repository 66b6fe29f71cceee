"""Aligned faces of any source, with their names, for embedding."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import DataError, images
from data_pipelines import index as indexes
from data_pipelines.readers import verification_bin

SIDE = 112  # pixels of an aligned face


class Faces(NamedTuple):
    """Aligned faces: names, identities ('' if unknown), and images."""

    names: Sequence[str]
    identities: Sequence[str]
    images: images.EncodedImages


def open_faces(
    source: Path, side: int, progress: Callable[[list[Path]], Iterable[Path]] = iter
) -> Faces:
    """Returns the faces of a folder, an image, a set of records or a .bin file.

    Every file of a folder is checked before the first is embedded.

    Args:
      side: size in pixels that is valid besides 112.
      progress: iterates over the files and shows the progress.

    Raises:
      DataError: for a source without faces, and for images that are damaged or have
        another size.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_file():
        if source.suffix == ".bin":
            encoded = verification_bin.read(source).images
            names = [f"{source.name}:{number}" for number in range(len(encoded))]
            return _faces(names, [""] * len(names), encoded)
        return _files(source.parent, [source], side, progress)
    if (source / indexes.FILE).exists() or list(source.glob(f"*/{indexes.FILE}")):
        return _records(source)
    paths = images.list_images(source)
    if not paths:
        raise DataError(f"{source}: no .jpg, .jpeg or .png below it")
    return _files(source, paths, side, progress)


def _faces(names, identities, encoded) -> Faces:
    return Faces(names, identities, images.EncodedImages(encoded, lambda n: names[n]))


def _files(root: Path, paths: list[Path], side: int, progress) -> Faces:
    refused = []
    for path in progress(paths):
        try:
            width, height = images.probe(images.read_file(path))
            if (width, height) not in ((SIDE, SIDE), (side, side)):
                raise DataError(f"{width}x{height} pixels, expected {SIDE}x{SIDE}")
        except (DataError, OSError) as error:
            refused.append(f"{path}: {error}")
    if refused:
        raise DataError(
            f"{len(refused):,} of {len(paths):,} images are no aligned faces, such as "
            f"{refused[0]}; align them with `fr-jax data align`"
        )
    names = [path.relative_to(root).as_posix() for path in paths]
    identities = [name.split("/")[0] if "/" in name else "" for name in names]
    return _faces(names, identities, paths)


def _records(source: Path) -> Faces:
    from data_pipelines import records  # loads TensorFlow

    folder = indexes.find(source)
    index = indexes.load(folder)
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
