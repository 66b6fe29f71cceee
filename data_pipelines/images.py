"""Encoded images of unknown origin, with their headers checked before decoding."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from data_pipelines import DataError

MAX_SIDE = 8192
MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # of a progressive JPEG; each costs a pass over the whole image
MAX_BYTES = 64 << 20

_MAX_METADATA = 2 << 20  # bytes before the image data of a JPEG
_Image = TypeVar("_Image", JpegImageFile, PngImageFile)
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def probe(data: bytes) -> tuple[int, int]:
    """Returns width and height of a JPEG or PNG, without decoding it.

    Raises:
      DataError: for other formats, a truncated file, more than 8192 pixels per side or
        50 million per image, 100 progressive scans, or 2 MiB of metadata before a JPEG.
    """
    if data[:2] == b"\xff\xd8":
        width, height = _jpeg(data).size
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = _png(data).size
    else:
        raise DataError(f"neither JPEG nor PNG (begins {bytes(data[:4])!r})")
    if max(width, height) > MAX_SIDE:
        raise DataError(
            f"{width}x{height} pixels; at most {MAX_SIDE} per side are read"
        )
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read")
    return width, height


def _jpeg(data: bytes) -> JpegImageFile:
    # Hides Exif data, whose contents Pillow would read, with warnings of errors.
    header = data[:_MAX_METADATA].replace(b"Exif\0\0", b"Exif\0\1")
    image, at = _opened(JpegImageFile, header)
    if not image.tile:
        raise DataError(f"truncated JPEG: {len(header):,} bytes and no image data")
    if len(image.layer) != image.layers:
        raise DataError("damaged JPEG: a second frame")
    if data.find(_END_OF_IMAGE, at) < 0:
        raise DataError(f"truncated JPEG: {len(data):,} bytes and no end marker")
    if data.count(_START_OF_SCAN, at) >= MAX_SCANS:  # the first precedes `at`
        raise DataError(f"JPEG of more than {MAX_SCANS} scans")
    return image


def _png(data: bytes) -> PngImageFile:
    # The header and a start of image data: Pillow would decompress chunks in between.
    image, _ = _opened(PngImageFile, data[:33] + b"\0\0\0\0IDAT")
    at = 8
    while data[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        at += 12 + length
        if at > len(data) - 12:  # OpenCV would allocate the stated length of a chunk
            raise DataError(f"truncated PNG: {len(data):,} bytes and no end chunk")
    return image


def _opened(kind: type[_Image], data: bytes) -> tuple[_Image, int]:
    """Returns an image, with only the header read, and the offset of its end."""
    file = io.BytesIO(data)
    try:
        return kind(file), file.tell()
    except (SyntaxError, OSError, ValueError) as error:
        raise DataError(f"damaged {kind.format}: {error}") from None


def decode(data: bytes, *, upright: bool = False) -> np.ndarray:
    """Returns uint8 RGB [H, W, 3] of a JPEG or PNG, by libjpeg's accurate DCT.

    `upright` applies the EXIF rotation of photographs; aligned faces have none.

    Raises:
      DataError: as `probe`, and for data that do not decode.
    """
    probe(data)
    ignored = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    pixels = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(pixels, cv2.IMREAD_COLOR | ignored)
    if image is None:
        raise DataError(f"{len(data)} bytes that do not decode as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a file; a file above the limit is a DataError, not read."""
    if (size := path.stat().st_size) > limit:
        raise DataError(f"{path}: {size:,} bytes; at most {limit:,} are read")
    return path.read_bytes()


class EncodedImages(Sequence):
    """A sequence of encoded faces that are decoded on access, in threads.

    `images[a:b]` is uint8 RGB [b - a, H, W, 3]; `images[i]` is one image. Images of
    different sizes in a slice are a DataError that names the image.

    Args:
      sources: bytes or path of each image.
      name: number -> name of the image in an error.
    """

    def __init__(
        self, sources: Sequence[bytes | Path], name: Callable[[int], str] = str
    ):
        self._sources = sources
        self._name = name
        self._pool = ThreadPoolExecutor()

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index):
        numbers = range(len(self))[index]
        if not isinstance(index, slice):
            return self._decode(numbers)
        decoded = list(self._pool.map(self._decode, numbers))
        for number, image in zip(numbers, decoded):
            if image.shape != decoded[0].shape:
                raise DataError(
                    f"{self._name(number)}: {_size(image)} pixels, the others have "
                    f"{_size(decoded[0])}; align the faces to one size first"
                )
        return np.stack(decoded) if decoded else np.zeros((0, 0, 0, 3), np.uint8)

    def _decode(self, number: int) -> np.ndarray:
        source = self._sources[number]
        try:
            return decode(source if isinstance(source, bytes) else read_file(source))
        except (DataError, OSError) as error:
            raise DataError(f"{self._name(number)}: {error}") from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def list_images(root: Path) -> list[Path]:
    """Returns every .jpg, .jpeg and .png below `root`, sorted, except hidden ones.

    Raises DataError for a missing folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        and "/." not in f"/{path.relative_to(root).as_posix()}"
    ]
