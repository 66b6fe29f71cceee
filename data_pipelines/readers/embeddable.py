"""Aligned faces of any source, with their names, for embedding."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import DataError, aligned, images, names
from data_pipelines import index as indexes
from data_pipelines import listing as listings
from data_pipelines.readers import verification_bin
from data_pipelines.readers.image_folder import no_images


class Faces(NamedTuple):
    """Aligned faces.

    Attributes:
      names, identities ('' if unknown): of each face, as text.
      bad: a line for every unusable image that was skipped.
      skipped: number of the files that are no images, by kind.
      note: a doubt about the form of the folder, or ''.
    """

    names: Sequence[str]
    identities: Sequence[str]
    images: images.EncodedImages
    bad: Sequence[str] = ()
    skipped: Mapping[str, int] = Counter()
    note: str = ""


def open_faces(
    source: Path,
    sides: Collection[int] | None,
    progress: Callable[..., Iterable] = lambda values, **_: values,
    *,
    level: int | None = None,
    max_bad: int = 100,
) -> Faces:
    """Returns the faces of a folder, an image, a set of records or a .bin file.

    Every file of a folder is decoded before the first is embedded.

    Args:
      sides: valid sides in pixels besides 112; None accepts any size.
      progress: iterates over values of a number `total`, and shows the progress.
      level: the folder that names the identity; see `listing.identities`.
      max_bad: number of unusable images that are skipped; more are an error.

    Raises:
      DataError: for a source without faces, too many unusable images, and images of
        another size.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    is_records = (source / indexes.FILE).exists() or any(
        source.glob(f"*/{indexes.FILE}")
    )
    if level is not None and (is_records or not source.is_dir()):
        raise DataError("--identity-level is for folders of identities only")
    if is_records:
        return _records(source, sides)
    if source.suffix == ".bin" and not source.is_dir():
        encoded = verification_bin.read(source).images
        name = names.written(source.name)
        numbered = [f"{name}:{number}" for number in range(len(encoded))]
        if sides is not None:
            aligned.check(encoded, lambda number: numbered[number], sides, progress)
        return _faces(numbered, [""] * len(encoded), encoded)
    if not source.is_dir():
        return _files(source.parent, [source.name], sides, progress, max_bad=0)
    found, skipped = listings.list_images(source)
    if not found:
        raise DataError(no_images(source, skipped))
    faces = _files(source, found, sides, progress, level=level, max_bad=max_bad)
    return faces._replace(skipped=skipped)


def _faces(names, identities, encoded) -> Faces:
    wrapped = images.EncodedImages(encoded, lambda n: names[n])
    return Faces(names, identities, wrapped)


def _files(
    root: Path,
    found: list[str],
    sides: Collection[int] | None,
    progress,
    *,
    level=None,
    max_bad: int,
) -> Faces:
    def checked(name: str) -> tuple[str, bool]:
        """Returns what is wrong with a file, and whether it is its size."""
        try:
            image = images.decode(images.read_file(root / name))
        except DataError as error:
            return f"{names.written(name)}: {error}", False
        height, width = image.shape[:2]
        if sides is None or aligned.is_aligned(width, height, sides):
            return "", False
        wanted = f"expected {aligned.SIDE}x{aligned.SIDE}"
        return f"{names.written(name)}: {width}x{height} pixels, {wanted}", True

    checks = images.in_threads(checked, found)
    results = list(progress(checks, total=len(found)))
    unaligned = [line for line, of_size in results if of_size]
    bad = [line for line, of_size in results if line and not of_size]
    aligned.refuse(unaligned, len(found))
    if len(bad) > max_bad or len(bad) == len(found):
        raise DataError(
            f"{len(bad):,} of {len(found):,} images are unusable, such as {bad[0]}; "
            f"--max-bad allows {max_bad}"
        )
    used = [name for name, (line, _) in zip(found, results) if not line]
    owners, note, _ = listings.identities(used, level)
    shown = [names.written(name) for name in used]
    faces = _faces(shown, owners, [root / name for name in used])
    return faces._replace(bad=bad, note=note)


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
    numbered = [f"{index.name}:{number}" for number in range(len(index))]

    class Encoded(Sequence):
        def __len__(self):
            return len(index)

        def __getitem__(self, number):
            face = records.decode(indexes.read(folder, index, number))
            numbered[number] = face.source or numbered[number]
            return face.image

    def where(number: int) -> str:
        return f"{indexes.place(folder, index, number)}: {numbered[number]}"

    # As in training, which ignores EXIF data.
    encoded = images.EncodedImages(Encoded(), where, upright=False)
    return Faces(numbered, identities, encoded)
