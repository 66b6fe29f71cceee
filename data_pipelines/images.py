"""Encoded images from strangers: looked at before they are decoded."""

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines import DataError

MAX_SIDE = 8192
MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # of a progressive JPEG; each costs a pass over the whole image
MAX_BYTES = 64 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


class Header(NamedTuple):
    format: str  # 'jpeg' or 'png'
    width: int
    height: int


def probe(data: bytes) -> Header:
    """Returns what a JPEG or PNG says of itself, without decoding it.

    Raises:
      DataError: for anything else, a truncated file, more than 8192 pixels a side, 50
        million in all, or 100 progressive scans.
    """
    if data[:2] == b"\xff\xd8":
        header = _probe_jpeg(data)
    elif data[:8] == _PNG:
        header = _probe_png(data)
    else:
        raise DataError(f"neither JPEG nor PNG (begins {bytes(data[:4])!r})")
    width, height = header.width, header.height
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise DataError(f"{width}x{height} pixels; at most {MAX_SIDE} a side are read")
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read")
    return header


def _probe_jpeg(data: bytes) -> Header:
    at, size = 2, len(data)
    frame = None
    while at + 4 <= size:
        if data[at] != 0xFF:
            raise DataError(f"damaged JPEG: no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        # Markers without a length, which decoders skip: a size could hide behind them.
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            raise DataError(f"damaged JPEG: marker 0x{marker:02X} at byte {at}")
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_FRAMES and at + 9 <= size:
            if frame is not None:
                raise DataError(f"damaged JPEG: a second frame at byte {at}")
            frame = struct.unpack_from(">HH", data, at + 5)
        if marker == 0xDA:
            if frame is None:
                break
            if data.find(_END_OF_IMAGE, at) < 0:
                raise DataError(f"truncated JPEG: {size} bytes and no end marker")
            if data.count(_START_OF_SCAN, at) > MAX_SCANS:
                raise DataError(f"JPEG of more than {MAX_SCANS} scans")
            return Header("jpeg", width=frame[1], height=frame[0])
        if length < 2:
            raise DataError(f"damaged JPEG: segment of length {length} at byte {at}")
        at += 2 + length
    raise DataError(f"truncated JPEG: {size} bytes and no image data")


def _probe_png(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise DataError(f"damaged PNG: {len(data)} bytes and no header")
    width, height = struct.unpack_from(">II", data, 16)
    if b"IEND" not in data[-64:]:
        raise DataError(f"truncated PNG: {len(data)} bytes and no end chunk")
    return Header("png", width, height)


def decode(data: bytes, *, upright: bool = False) -> np.ndarray:
    """Returns uint8 RGB [H, W, 3] of a JPEG or PNG, as libjpeg's accurate DCT has it.

    An EXIF rotation is applied if `upright`, as photographs need it; aligned faces are
    stored as they are shown.

    Raises:
      DataError: for whatever `probe` refuses and for data that does not decode.
    """
    probe(data)
    flags = cv2.IMREAD_COLOR
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise DataError(f"{len(data)} bytes that do not decode as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_file(path: Path) -> bytes:
    """Returns a file's bytes; DataError above 64 MiB, before anything is read."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: {size:,} bytes; images of at most {MAX_BYTES:,} are read"
        )
    return path.read_bytes()


class EncodedImages(Sequence):
    """Encoded faces that decode when they are sliced.

    `images[a:b]` is uint8 RGB [b - a, H, W, 3]; `images[i]` is one image. Decoding runs
    in threads. A slice whose images differ in size is a DataError naming the image.

    Args:
      sources: each the bytes of an image or the path of one.
      name: source index -> how to call it in an error.
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
        if not isinstance(index, slice):
            return self._decode(range(len(self))[index])
        numbers = range(len(self))[index]
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


def list_images(root: Path) -> Iterator[Path]:
    """Yields every .jpg, .jpeg and .png below `root`, sorted, hidden ones left out."""
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and not hidden:
            yield path
