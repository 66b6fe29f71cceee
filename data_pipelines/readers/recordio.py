"""insightface's RecordIO packs (train.rec, train.idx), read without MXNet.

A record is the magic, a length word, the payload, and padding to four bytes; a payload
that contains the magic is split there into parts. A payload is a 24-byte header (flag,
label, id, id2), `flag` further labels, and the image. In insightface's packs record 0
has two labels [a, b]: keys 1..a-1 are images, a..b-1 identities.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines.images import MAX_BYTES
from data_pipelines.names import written
from data_pipelines.readers import Face

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_WORDS = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_WIDE_HEADER = struct.Struct("<I4xdQQ")
_IMAGES = (b"\xff\xd8", b"\x89P")  # first bytes of JPEG and PNG
_LENGTH_MASK = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class Record(NamedTuple):
    labels: np.ndarray  # float [1] or more
    image: bytes


class RecordIO:
    """A memory-mapped pack; iteration yields its images as `Face` records.

    Args:
      path: the .rec file, or the folder of train.rec. The index, an .idx of the same
        name, is in the same folder.

    Raises:
      DataError: on opening, for a missing file or an index of another pack. A damaged
        record is yielded as a DataError that names its byte offset.
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
        self._keys = self._image_keys()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Face | DataError]:
        name = written(self.path.name)
        for key in self._keys:
            try:
                record = self.record(key)
                label = self._label(key, record.labels[0])
            except DataError as error:
                yield error
                continue
            yield Face(record.image, label, str(label), f"{name}:{key}")

    def _label(self, key: int, value: float) -> int:
        if not (0 <= value < 2**31 - 1 and float(value).is_integer()):
            raise self._error(self._offsets[key], f"label {value} of key {key}")
        return int(value)

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
            # A variant with a float64 label, for more classes than float32 can count.
            _, label, _, _ = _WIDE_HEADER.unpack_from(payload)
            return Record(np.array([label]), payload[32:])
        return Record(labels, payload[_HEADER.size + 4 * flag :])

    def scan(self) -> Iterator[tuple[int, int]]:
        """Yields (offset, length) of every record in file order; needs no index.

        The length is that of the payload on disk; the parts of a record count as one.
        """
        at, start, total = 0, 0, 0
        while at < len(self._data):
            part, length = self._part(at)
            if part in (_WHOLE, _FIRST):
                start, total = at, length
            else:
                total += 4 + length
            if part in (_WHOLE, _LAST):
                yield start, total
            at += 8 + (length + 3 & ~3)
        if at > len(self._data):
            raise self._error(start, "the padding goes beyond the end of the file")

    def _payload(self, offset: int) -> bytes:
        """Returns the payload of the record at `offset`, with its parts joined."""
        parts, at, total = [], offset, 0
        while True:
            part, length = self._part(at)
            expected = (_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)
            if part not in expected:
                raise self._error(at, f"part flag {part}, expected one of {expected}")
            total += length
            if total > MAX_BYTES:
                raise self._error(offset, f"a record above {MAX_BYTES:,} bytes")
            parts.append(self._data[at + 8 : at + 8 + length])
            if part in (_WHOLE, _LAST):
                return _MAGIC_BYTES.join(parts)
            at += 8 + (length + 3 & ~3)

    def _part(self, at: int) -> tuple[int, int]:
        """Returns the flag and the payload's length of the part at a byte offset."""
        if at + 8 > len(self._data):
            raise self._error(at, "the record goes beyond the end of the file")
        magic, word = _WORDS.unpack_from(self._data, at)
        if magic != MAGIC:
            raise self._error(at, f"magic 0x{magic:08X} instead of 0x{MAGIC:08X}")
        length = word & _LENGTH_MASK
        if length > MAX_BYTES or at + 8 + length > len(self._data):
            raise self._error(at, f"a record of {length:,} bytes does not fit")
        return word >> 29, length

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

    def _image_keys(self) -> list[int]:
        """Returns the keys of the images in order."""
        first = self.record(0).labels if 0 in self._offsets else ()
        if len(first) != 2:
            return list(self._offsets)
        # float32 is exact up to 2^24 only: near the limit a key belongs to an image if
        # its record contains one; those of identities do not.
        images, _ = (self._label(0, label) for label in first)
        keys = [
            key
            for key in self._offsets
            if 0 < key < images - 64 or (0 < key < images + 64 and self._has_image(key))
        ]
        if images < 2**24 and len(keys) != images - 1:
            raise DataError(
                f"{self.path.with_suffix('.idx')}: {len(keys):,} image keys, record 0 "
                f"announces {images - 1:,}; the index does not belong to this pack"
            )
        return keys

    def _has_image(self, key: int) -> bool:
        try:
            return bool(self.record(key).image)
        except DataError:
            return True  # damaged: counted when it is read

    def _error(self, offset: int, reason: str) -> DataError:
        return DataError(f"{self.path}: byte {offset:,}: {reason}")
