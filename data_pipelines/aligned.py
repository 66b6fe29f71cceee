"""The check that images are aligned faces, by their size."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.image_headers import probe
from data_pipelines.images import read_file

SIDE = 112  # pixels of an aligned face


def is_aligned(width: int, height: int, sides: Collection[int]) -> bool:
    """Returns True for the size of an aligned face.

    Args:
      sides: valid sides in pixels besides 112, such as the input size of a network.
    """
    return width == height and width in (SIDE, *sides)


def check(
    sources: Sequence[bytes | Path],
    name: Callable[[int], str],
    sides: Collection[int],
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    *,
    unless: str = "--unaligned",
) -> None:
    """Raises a DataError unless all images have the size of an aligned face.

    Reads the headers of all images, so that the error has their number.

    Args:
      sources: bytes or path of each image.
      name: number -> name of the image in the error.
      sides: valid sides in pixels besides 112.
      progress: iterates over the numbers and shows the progress.
      unless: the setting that accepts other sizes, named in the error.
    """
    refused = []
    for number in progress(range(len(sources))):
        source = sources[number]
        try:
            data = source if isinstance(source, bytes) else read_file(source)
            _, width, height, _ = probe(data)
            reason = ""
            if not is_aligned(width, height, sides):
                reason = f"{width}x{height} pixels, expected {SIDE}x{SIDE}"
        except DataError as error:
            reason = str(error)
        if reason:
            refused.append(f"{name(number)}: {reason}")
    refuse(refused, len(sources), unless)


def refuse(refused: Sequence[str], count: int, unless: str = "--unaligned") -> None:
    """Raises a DataError if there are images without the size of aligned faces.

    Args:
      refused: a line for each of them.
      count: number of all images.
      unless: as in `check`.
    """
    if refused:
        raise DataError(
            f"{len(refused):,} of {count:,} images are no aligned faces, such as "
            f"{refused[0]}; align them with `fr-jax data align`, or accept their size "
            f"with {unless}"
        )
