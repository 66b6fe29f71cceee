"""insightface's RecordIO packs (train.rec, train.idx, property), without MXNet.

A record is magic, length word, payload, padding to four bytes; a payload that held the
magic was cut there into parts. A payload is a 24-byte header (flag, label, id, id2),
`flag` further labels, and the image. In insightface's packs record 0 has two labels
[a, b]: keys 1..a-1 are images, a..b-1 identities.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.images import MAX_BYTES
from data_pipelines.readers import Face

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_WORDS = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_WIDE_HEADER = struct.Struct("<I4xdQQ")
_IMAGES = (b"\xff\xd8", b"\x89P")  # how JPEG and PNG begin
_LENGTH_MASK = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class Record(NamedTuple):
    labels: np.ndarray  # float [1] or more
    image: bytes


class RecordIO:
    """A pack on disk, memory-mapped. Iterating yields its images as `Face`s.

    Args:
      path: the .rec file, or the folder that holds train.rec. The .idx of the same name
        and `property` lie beside it.

    Raises:
      DataError: for a missing file or an index that does not fit, here; for a damaged
        record when it is read, naming the byte offset.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        self.path = path / "train.rec" if path.is_dir() else path
        index = self.path.with_suffix(".idx")
        for needed in (self.path, index):
            if not needed.is_file() or not needed.stat().st_size:
                raise DataError(f"{needed}: no such file, or empty")
        with self.path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._offsets = self._read_index(index)
        self._keys, self._classes = self._image_keys()
        self.num_classes = self._property()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Face]:
        for key in self._keys:
            record = self.record(key)
            label = self._label(key, record.labels[0])
            source = f"{self.path.name}:{key}"
            yield Face(record.image, label, str(label), source)

    def _label(self, key: int, value: float) -> int:
        if not (0 <= value < 2**31 - 1 and float(value).is_integer()):
            raise self._error(self._offsets[key], f"label {value} of key {key}")
        return int(value)

    @property
    def identities(self) -> list[str]:
        """The labels as names, in order: 0..n-1 as text."""
        return [str(label) for label in range(self.num_classes)]

    def record(self, key: int) -> Record:
        """Returns the labels and the encoded image of one key of the index."""
        if key not in self._offsets:
            raise DataError(f"{self.path}: no key {key} in its index")
        offset = self._offsets[key]
        payload = self._payload(offset)
        if len(payload) < _HEADER.size:
            raise self._error(offset, f"a record of {len(payload)} bytes has no header")
        flag, label, _, _ = _HEADER.unpack_from(payload)
        if flag > (len(payload) - _HEADER.size) // 4:
            raise self._error(offset, f"{flag} labels do not fit into the record")
        labels = np.array([label])
        if flag:
            labels = np.frombuffer(payload, "<f4", flag, _HEADER.size)
        elif payload[24:26] not in _IMAGES and payload[32:34] in _IMAGES:
            # A dialect in the wild, for labels that float32 cannot count.
            _, label, _, _ = _WIDE_HEADER.unpack_from(payload)
            return Record(np.array([label]), payload[32:])
        return Record(labels, payload[_HEADER.size + 4 * flag :])

    def scan(self) -> Iterator[tuple[int, int]]:
        """Yields (offset, length) of every record in file order, parts as one record.

        Needs no index; length is that of the payload on disk.
        """
        size, at, start, total = len(self._data), 0, 0, 0
        while at < size:
            if size - at < 8:
                raise self._error(at, f"{size - at} stray bytes at the end")
            part, length = self._part(at)
            end = at + 8 + (length + 3 & ~3)
            if end > size:
                raise self._error(at, f"{length:,} bytes go beyond the end of the file")
            if part == _WHOLE:
                yield at, length
            elif part == _FIRST:
                start, total = at, length
            else:
                total += 4 + length
                if part == _LAST:
                    yield start, total
            at = end

    def _payload(self, offset: int) -> bytes:
        """The payload of the record at `offset`, its parts joined."""
        parts, at = [], offset
        while True:
            if at + 8 > len(self._data):
                raise self._error(at, "the record goes beyond the end of the file")
            part, length = self._part(at)
            if length > MAX_BYTES or at + 8 + length > len(self._data):
                raise self._error(at, f"a record of {length:,} bytes does not fit here")
            expected = (_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)
            if part not in expected:
                raise self._error(at, f"part flag {part}, expected one of {expected}")
            parts.append(self._data[at + 8 : at + 8 + length])
            if part in (_WHOLE, _LAST):
                return _MAGIC_BYTES.join(parts)
            at += 8 + (length + 3 & ~3)

    def _part(self, at: int) -> tuple[int, int]:
        """Which part of a record begins at a byte, and how long it is."""
        magic, word = _WORDS.unpack_from(self._data, at)
        if magic != MAGIC:
            raise self._error(at, f"magic 0x{magic:08X} instead of 0x{MAGIC:08X}")
        return word >> 29, word & _LENGTH_MASK

    def _read_index(self, path: Path) -> dict[int, int]:
        try:
            table = np.loadtxt(path, np.int64, delimiter="\t", ndmin=2)
        except ValueError as error:
            raise DataError(f"{path}: not lines of key<TAB>offset: {error}") from None
        if table.shape[1] != 2:
            raise DataError(
                f"{path}: {table.shape[1]} columns instead of key<TAB>offset"
            )
        keys, offsets = table.T
        outside = np.flatnonzero((offsets < 0) | (offsets > len(self._data) - 8))
        if len(outside):
            line = int(outside[0])
            raise DataError(
                f"{path}: line {line + 1}: offset {offsets[line]:,} of key "
                f"{keys[line]} lies outside {self.path.name}, {len(self._data):,} bytes"
            )
        return dict(zip(keys.tolist(), offsets.tolist()))

    def _image_keys(self) -> tuple[list[int], int | None]:
        """Keys of the images in order, and the number of identities if it is said."""
        first = self.record(0).labels if 0 in self._offsets else ()
        if len(first) != 2:
            return list(self._offsets), None
        # float32 cannot count beyond 2^24: near the limit the records themselves tell
        # images from identities, which have none.
        images, end = (self._label(0, label) for label in first)
        keys = [
            key
            for key in self._offsets
            if 0 < key < images - 64
            or (0 < key < images + 64 and self.record(key).image)
        ]
        if images < 2**24 and len(keys) != images - 1:
            raise DataError(
                f"{self.path.with_suffix('.idx')}: {len(keys):,} image keys, record 0 "
                f"announces {images - 1:,}; the index does not belong to this pack"
            )
        return keys, end - images

    def _property(self) -> int:
        path = self.path.with_name("property")
        stated = self._classes
        if path.is_file():
            with lists.opened(path) as file:
                fields = file.read(100).strip().split(",")
            if not all(field.strip().isdecimal() for field in fields):
                raise DataError(f"{path}: {fields!r} is not classes,height,width")
            stated = int(fields[0])
        if stated is None:
            labels = ((key, self.record(key).labels[0]) for key in self._keys)
            stated = 1 + max((self._label(*pair) for pair in labels), default=-1)
        return stated

    def _error(self, offset: int, reason: str) -> DataError:
        return DataError(f"{self.path}: byte {offset:,}: {reason}")
