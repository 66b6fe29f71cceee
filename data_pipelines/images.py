"""Encoded images of unknown origin, with their headers checked before decoding."""

import collections
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, PpmImagePlugin, TiffImagePlugin
from PIL.WebPImagePlugin import WebPImageFile

from data_pipelines import DataError
from data_pipelines.image_headers import damaged, opened, probe

MAX_BYTES = 64 << 20

_AHEAD = 64  # images
_V = TypeVar("_V")
_R = TypeVar("_R")

# Formats that OpenCV does not decode here; Pillow's readers, none chosen by content.
_PILLOW = {
    "webp": WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}
# Pillow's modes with 8 bits or fewer per channel. Alpha channels are dropped.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
# EXIF orientation -> the same image, upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


def decode(data: bytes, *, upright: bool = True) -> np.ndarray:
    """Returns uint8 RGB [H, W, 3] of a JPEG, PNG, WebP, BMP, TIFF, GIF, PGM or PPM.

    JPEG by libjpeg's accurate DCT. An alpha channel is dropped, of 16 bits the upper 8
    are taken, CMYK is converted without a colour profile, and of several frames or
    pages the first is read.

    Args:
      upright: apply the EXIF orientation. Records store upright images, and training
        ignores EXIF data.

    Raises:
      DataError: as `probe`, and for data that do not decode.
    """
    header = probe(data)
    if header.format in _PILLOW:
        image = _by_pillow(data, header.format)
    else:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is None:
            raise DataError(f"{len(data)} bytes that do not decode as an image")
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if upright and header.orientation > 1:
        image = np.ascontiguousarray(_UPRIGHT[header.orientation](image))
    return image


def _by_pillow(data: bytes, name: str) -> np.ndarray:
    image, _ = opened(_PILLOW[name], data)
    try:
        image.load()
        mode = str(_PREMULTIPLIED.get(image.mode, image.mode))
        deep = mode.startswith("I;16") or (mode, name) == ("I", "ppm")
        if not deep and mode not in _MODES:
            raise DataError(f"pixels of Pillow's mode {mode!r}; save it as PNG")
        if deep:
            grey = np.asarray(image).astype(np.int64) >> 8
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        image.info.pop("transparency", None)  # would warn in the conversion
        return np.array(image.convert(mode).convert("RGB"))
    except DataError:
        raise
    # The decoders of damaged files raise what their parsing happens to meet.
    except Exception as error:
        raise damaged(image.format, error) from None


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Returns a uint8 RGB image [H, W, 3] as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encode_png(image: np.ndarray) -> bytes:
    """Returns a uint8 RGB image [H, W, 3] as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a file.

    Raises:
      DataError: the reason, without the path, for a file that is missing, unreadable or
        above the limit, and for pipes and devices, which are not opened.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError("not a regular file")
        if about.st_size > limit:
            raise DataError(f"{about.st_size:,} bytes; at most {limit:,} are read")
        return path.read_bytes()
    except FileNotFoundError:
        dangling = path.is_symlink()
        raise DataError("a dangling link" if dangling else "no such file") from None
    except OSError as error:
        raise DataError(f"unreadable: {error.strerror or error}") from None


def in_threads(function: Callable[[_V], _R], values: Iterable[_V]) -> Iterator[_R]:
    """Yields function(value) in order; a few values are taken ahead."""
    with ThreadPoolExecutor() as pool:
        pending: collections.deque[Future] = collections.deque()
        for value in values:
            pending.append(pool.submit(function, value))
            if len(pending) >= _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class EncodedImages(Sequence):
    """A sequence of encoded images that are decoded on access, in threads.

    `images[a:b]` is uint8 RGB [b - a, H, W, 3]; `images[i]` is one image. Images of
    different sizes in a slice are a DataError that names the image.

    Args:
      sources: bytes or path of each image.
      name: number -> name of the image in an error.
      upright: see `decode`.
      prepare: (number, decoded image) -> image, such as an alignment; DataError for one
        that is impossible.
    """

    def __init__(
        self,
        sources: Sequence[bytes | Path],
        name: Callable[[int], str] = str,
        *,
        upright: bool = True,
        prepare: Callable[[int, np.ndarray], np.ndarray] | None = None,
    ):
        self._sources, self._upright = sources, upright
        self._name, self._prepare = name, prepare
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
            data = source if isinstance(source, bytes) else read_file(source)
            image = decode(data, upright=self._upright)
            return self._prepare(number, image) if self._prepare else image
        except DataError as error:
            raise DataError(f"{self._name(number)}: {error}") from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
