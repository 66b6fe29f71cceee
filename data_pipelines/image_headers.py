"""Formats of encoded images: recognised by content, bounded before they are decoded."""

import io
import logging
import math
import re
import struct
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from data_pipelines import DataError

# Of damaged tags, which do not matter or are reported as a DataError.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

MAX_SIDE = 8192
MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # of a progressive JPEG; each costs a pass over the whole image
HEAD = 32  # bytes that `recognise` needs

# Suffixes of the formats that are read.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm"),
)
READ = "JPEG, PNG, WebP, BMP, TIFF, GIF and PGM or PPM are read"

_MAX_METADATA = 2 << 20  # bytes before the image data of a JPEG
_MAX_COMMENTS = 4096  # bytes before the pixels of a PGM or PPM
_MAX_TAGS = 1000  # of a TIFF
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_ORIENTATION = 0x0112
_EXIF_FOLDERS = (0x8769, 0x8825, 0xA005)  # tags that point to further tags
# Bytes of a value, by type of a TIFF tag.
_TAG_SIZES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)))
_COMPRESSIONS = ("raw", "packbits", "jpeg", "tiff_lzw", "tiff_deflate")
_COMPRESSIONS += ("tiff_adobe_deflate",)
_FOREIGN = {
    b"ftypheic": "HEIC",
    b"ftypheix": "HEIC",
    b"ftypmif1": "HEIF",
    b"ftypavif": "AVIF",
    b"ftypavis": "AVIF",
    b"JXL \r\n\x87\n": "JPEG XL",
    b"jP  \r\n\x87\n": "JPEG 2000",
}


class Header(NamedTuple):
    """Format and size in pixels of an upright image.

    `format` is 'jpeg', 'png', 'webp', 'bmp', 'tiff', 'gif' or 'ppm'. `orientation` is
    the EXIF orientation of the stored pixels, 1 to 8; 1 if they are upright.
    """

    format: str
    width: int
    height: int
    orientation: int = 1


def recognise(head: bytes) -> str:
    """Returns the format of an image from its first `HEAD` bytes, '' if it has none."""
    if head[:2] == b"\xff\xd8":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:15] == b"WEBPVP8":
        return "webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    # Texts may begin with BM or P1 as well.
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "bmp"
    if re.match(rb"P[1-6](\s+\d|\s*#)", head):
        return "ppm"
    return ""


_BMP_HEADERS = [struct.pack("<I", n) for n in (12, 40, 52, 56, 64, 108, 124)]


def foreign(head: bytes) -> str:
    """Returns the name of a known format that is not read, or ''."""
    if head[:4] in (b"II+\0", b"MM\0+"):
        return "BigTIFF"
    if head[:2] == b"\xff\x0a":
        return "JPEG XL"
    return _FOREIGN.get(head[4:12], "")


def probe(data: bytes) -> Header:
    """Returns format and upright size of an encoded image, without decoding it.

    Raises:
      DataError: for other formats, a truncated file, more than 8192 pixels per side or
        50 million per image, 100 progressive scans, or 2 MiB of metadata before a JPEG.
    """
    name = recognise(data[:HEAD])
    if not name:
        other = foreign(data[:HEAD])
        what = f"a {other} image" if other else f"no image (begins {data[:4]!r})"
        raise DataError(f"{what}; {READ}")
    width, height, orientation = _READERS[name](data)
    if max(width, height) > MAX_SIDE:
        raise DataError(
            f"{width}x{height} pixels; at most {MAX_SIDE} per side are read"
        )
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read")
    if min(width, height) < 1:
        raise DataError(f"damaged {name.upper()}: {width}x{height} pixels")
    if orientation > 4:
        width, height = height, width
    return Header(name, width, height, orientation)


def opened(kind: Callable[[Any], Any], data: bytes) -> tuple[Any, int]:
    """Returns Pillow's image, with only the header read, and the offset of its end."""
    file = io.BytesIO(data)
    try:
        return kind(file), file.tell()
    # The readers of damaged files raise what their parsing happens to meet.
    except Exception as error:
        raise damaged(getattr(kind, "format", "image"), error) from None


def damaged(name: str, error: Exception) -> DataError:
    """Returns the error of a file that a decoder does not read, on one line."""
    text = " ".join(str(error).split())
    return DataError(f"damaged {name}: {text or type(error).__name__:.200}")


def _jpeg(data: bytes) -> tuple[int, int, int]:
    # Hides EXIF data, whose contents Pillow would read, with warnings of errors.
    header = data[:_MAX_METADATA].replace(b"Exif\0\0", b"Exif\0\1")
    image, at = opened(JpegImageFile, header)
    if not image.tile:
        raise DataError(f"truncated JPEG: {len(header):,} bytes and no image data")
    if len(image.layer) != image.layers:
        raise DataError("damaged JPEG: a second frame")
    if data.find(_END_OF_IMAGE, at) < 0:
        raise DataError(f"truncated JPEG: {len(data):,} bytes and no end marker")
    if data.count(_START_OF_SCAN, at) >= MAX_SCANS:  # the first precedes `at`
        raise DataError(f"JPEG of more than {MAX_SCANS} scans")
    exif = (content for _, content in image.applist if content[:6] == b"Exif\0\1")
    return *image.size, _orientation(next(exif, b"")[6:])


def _png(data: bytes) -> tuple[int, int, int]:
    # The header and a start of image data: Pillow would decompress chunks in between.
    image, _ = opened(PngImageFile, data[:33] + b"\0\0\0\0IDAT")
    at, exif = 8, b""
    while data[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            exif = data[at + 8 : at + 8 + length]
        at += 12 + length
        if at > len(data) - 12:  # OpenCV would allocate the stated length of a chunk
            raise DataError(f"truncated PNG: {len(data):,} bytes and no end chunk")
    if length := int.from_bytes(data[at : at + 4], "big"):
        raise DataError(f"damaged PNG: an end chunk of {length:,} bytes")
    return *image.size, _orientation(exif)


def _webp(data: bytes) -> tuple[int, int, int]:
    """Reads the header itself: Pillow allocates the canvas on opening."""
    kind, at, exif = data[12:16], 12, b""
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (
            1 + int.from_bytes(data[n : n + 3], "little") for n in (24, 27)
        )
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and len(data) >= 30:
        width, height = (n & 0x3FFF for n in struct.unpack_from("<HH", data, 26))
    else:
        raise DataError(f"damaged WebP: {len(data):,} bytes, first chunk {kind!r}")
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
        at += 8 + length + length % 2
    return width, height, _orientation(exif)


def _gif(data: bytes) -> tuple[int, int, int]:
    return *opened(GifImageFile, data)[0].size, 1


def _bmp(data: bytes) -> tuple[int, int, int]:
    return *opened(BmpImageFile, data)[0].size, 1


def _ppm(data: bytes) -> tuple[int, int, int]:
    return *opened(PpmImageFile, data[:_MAX_COMMENTS])[0].size, 1


def _tiff(data: bytes) -> tuple[int, int, int]:
    """The orientation is 1: Pillow turns the pixels itself."""
    _check_tags(data)
    image, _ = opened(TiffImageFile, data)
    compression = image.info.get("compression")
    if compression not in _COMPRESSIONS:
        raise DataError(f"TIFF with compression {compression!r:.80}; save it as PNG")
    tiles = [image.tag_v2.get(tag, 1) for tag in (0x0142, 0x0143)]  # width, length
    valid = all(isinstance(n, int) and 0 < n <= 2 * MAX_SIDE for n in tiles)
    if not valid or math.prod(tiles) > 2 * MAX_PIXELS:
        raise DataError(f"damaged TIFF: tiles of {tiles!r:.80} pixels")
    return *image.size, 1


def _check_tags(data: bytes) -> None:
    """Raises a DataError for tags with more data than the file has.

    Pillow reads the data of all tags; overlapping ones would fill any memory.
    """
    order = "<" if data[:2] == b"II" else ">"
    folders, total, count = [4], 0, 0
    try:
        while folders:
            (at,) = struct.unpack_from(f"{order}I", data, folders.pop())
            (entries,) = struct.unpack_from(f"{order}H", data, at)
            count += entries
            if count > _MAX_TAGS:
                raise DataError(f"TIFF of more than {_MAX_TAGS} tags")
            for place in range(at + 2, at + 2 + 12 * entries, 12):
                tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
                total += _TAG_SIZES.get(kind, 0) * length
                if tag in _EXIF_FOLDERS:
                    folders.append(place + 8)
    except struct.error:
        raise DataError(f"truncated TIFF: {len(data):,} bytes") from None
    if total > len(data):
        raise DataError(f"damaged TIFF: {total:,} bytes of tags in {len(data):,}")


def _orientation(exif: bytes) -> int:
    """Returns the orientation in EXIF data (a TIFF header and its tags), 1 to 8."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4) if order else (0,)
        (entries,) = struct.unpack_from(f"{order}H", exif, at) if order else (0,)
        for place in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if tag == _ORIENTATION and kind == 3 and 1 <= value <= 8:
                return value
    except struct.error:
        pass  # of damaged EXIF data, as all viewers do
    return 1


_READERS = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "gif": _gif,
    "bmp": _bmp,
    "ppm": _ppm,
    "tiff": _tiff,
}
