"""Batches of faces from arrays, image files, or iterables of either."""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.errors import UserError

FACE_SIDE = 112  # of an aligned face, in pixels
# Of the flag that goes on where a command checks that images are aligned faces.
UNALIGNED: Any = {
    "action": "store_true",
    "help": "accept images of any size; faces that are not aligned give poor results",
}


def batched(
    images: Any, count: int, *, sides: Collection[int] | None = ()
) -> Iterator[np.ndarray]:
    """Yields batches uint8 RGB [n, H, W, 3], n = `count` except in the last.

    Args:
      images: uint8 RGB [N, H, W, 3]; or the path of an aligned face; or an iterable of
        paths, faces [H, W, 3] and batches of faces, consumed lazily. Files are decoded
        in threads; see `data_pipelines.images.decode` for their formats.
      sides: valid sides of files in pixels, besides 112; None accepts any size.

    Raises:
      UserError: for arrays that are not uint8 RGB, faces of different sizes, no faces,
        and a file that is missing, not a complete image, or not an aligned face.
    """
    if isinstance(images, str | os.PathLike):
        images = [images]
    elif hasattr(images, "ndim"):
        images = [_checked(images, 4)]
    shape = None
    faces = _each(images)
    with ThreadPoolExecutor() as pool:
        while chunk := list(itertools.islice(faces, count)):
            decoded = list(pool.map(lambda face: _face(face, sides), chunk))
            shape = shape or decoded[0].shape
            for source, face in zip(chunk, decoded):
                if face.shape != shape:
                    name = "a face" if isinstance(source, np.ndarray) else source
                    raise UserError(
                        f"{name} has {_size(face.shape)} pixels, the first face "
                        f"{_size(shape)}; resize the faces to one size"
                    )
            yield np.stack(decoded)
    if shape is None:
        raise UserError("no images to embed")


def _each(images: Iterable[Any]) -> Iterator[Any]:
    for image in images:
        if not isinstance(image, str | os.PathLike) and np.ndim(image) == 4:
            yield from _checked(image, 4)
        else:
            yield image


def _face(image: Any, sides: Collection[int] | None) -> np.ndarray:
    if not isinstance(image, str | os.PathLike):
        return _checked(image, 3)
    face = read_image(image)
    if sides is not None:
        check_aligned(face, sides, str(image))
    return face


def _checked(images: Any, ndim: int) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != ndim or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"images are {images.dtype} {images.shape}, not uint8 RGB [N, H, W, 3]"
        )
    return images


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Returns an image of any size, upright, uint8 RGB [H, W, 3].

    For errors see `batched`.
    """
    # The bounded reader of untrusted images; it imports OpenCV, not TensorFlow.
    from data_pipelines import DataError
    from data_pipelines import images as encoded

    if not os.path.lexists(path):
        raise UserError(f"{path}: no such image")
    try:
        return encoded.decode(encoded.read_file(Path(path)))
    except DataError as error:
        raise UserError(f"{path}: {error}") from None


def check_aligned(face: np.ndarray, sides: Collection[int], name: str) -> None:
    """Raises a UserError for an image without the size of an aligned face.

    Args:
      sides: valid sides in pixels besides 112.
    """
    from data_pipelines import aligned

    height, width, _ = face.shape
    if not aligned.is_aligned(width, height, sides):
        raise UserError(
            f"{name}: {_size(face.shape)} pixels, not an aligned face of "
            f"{FACE_SIDE}x{FACE_SIDE}; align it with `fr-jax data align` or `fr-jax "
            "compare --detector FILE`, or accept its size with --unaligned"
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
