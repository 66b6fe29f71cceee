"""TensorFlow's checkpoints (tensor bundles), read without TensorFlow.

PREFIX.index is a table of keys and entries in the format of LevelDB; every entry has
type, shape, shard, offset, size and checksum of a tensor in
PREFIX.data-00000-of-00001. (tensorflow/core/protobuf/tensor_bundle.proto,
tensorflow/core/lib/io/format.h)
"""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from fr_jax.convert.readers.network_pickle import looks_downloaded
from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import MAX_DIMENSIONS, MAX_NAME, size

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # bytes after a block: kind of compression and checksum
_MAX_INDEX, _MAX_DATA = 4 << 20, 64 << 20  # the published files have 2 kB and 17 MB
_MAX_TENSORS = 100_000
_TYPES = {1: np.dtype("<f4"), 3: np.dtype("<i4")}


class Entry(NamedTuple):
    """A tensor in the data file.

    Attributes:
      checksum: masked CRC-32C of its bytes.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


def data_file(prefix: Path) -> Path:
    """Returns the file with the values of a checkpoint."""
    return prefix.with_name(f"{prefix.name}.data-00000-of-00001")


def read(prefix: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Returns tensors of a checkpoint PREFIX.index, PREFIX.data-00000-of-00001.

    Args:
      names: tensors to read, of which missing ones are left out; by default, all.

    Raises:
      Refusal: for missing or damaged files, several shards, tensors that share bytes,
        and tensors that are neither float32 nor int32. Its text begins with the name of
        the file.
    """
    entries = index(prefix)
    data_path = data_file(prefix)
    data = _content(data_path, _MAX_DATA)
    before = 0
    for at, length, name in sorted((e.offset, e.size, n) for n, e in entries.items()):
        if at < before:
            text = f"byte {at:,}: {shown(name)} overlaps another tensor"
            raise Refusal(f"{data_path.name}: {text}")
        before = at + length
    tensors = {}
    for name, entry in entries.items():
        if names is not None and name not in names:
            continue
        if (end := entry.offset + entry.size) > len(data):
            text = f"{shown(name)} ends at byte {end:,} of {len(data):,}"
            raise Refusal(f"{data_path.name}: {text}")
        raw = data[entry.offset : end]
        if _masked(google_crc32c.value(raw)) != entry.checksum:
            text = f"byte {entry.offset:,}: the checksum of {shown(name)} differs"
            raise Refusal(f"{data_path.name}: {text}")
        tensors[name] = np.frombuffer(raw, entry.dtype).reshape(entry.shape)
    return tensors


def index(prefix: Path) -> dict[str, Entry]:
    """Returns the entries of PREFIX.index by name; see `read`."""
    path = prefix.with_name(f"{prefix.name}.index")
    data = _content(path, _MAX_INDEX)
    try:
        return _entries(data)
    except Refusal as refusal:
        at = "" if refusal.offset is None else f"byte {refusal.offset:,}: "
        raise Refusal(f"{path.name}: {at}{refusal}", remedy=refusal.remedy) from None


def _content(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise Refusal(f"{path.name}: no such file", remedy="fetch it")
    length = path.stat().st_size
    if length > limit:
        raise Refusal(
            f"{path.name}: {length:,} bytes", remedy=f"up to {limit:,} are read"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refusal(f"{path.name}: {error.strerror}", remedy="allow access") from None
    if reason := looks_downloaded(data[:200]):
        raise Refusal(
            f"{path.name}: {reason} ({length:,} bytes)", remedy="fetch it again"
        )
    return data


def _entries(data: bytes) -> dict[str, Entry]:
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise Refusal("no table of a TensorFlow checkpoint")
    footer = _Cursor(data, len(data) - _FOOTER, len(data) - 8)
    for _ in range(2):  # the index of meta blocks, which are not needed
        footer.varint()
    where = footer.varint(), footer.varint()
    entries: dict[str, Entry] = {}
    has_header, before, block_end = False, None, 0
    for _, handle, at in _records(data, *where):
        cursor = _Cursor(handle, 0, len(handle), at)
        start, length = cursor.varint(), cursor.varint()
        if start < block_end:
            raise Refusal("blocks overlap or are out of order", at)
        block_end = start + length + _TRAILER
        for key, value, at in _records(data, start, length):
            if before is not None and key <= before:
                raise Refusal(f"the key {shown(key)} is out of order", at)
            before = key
            if not key:
                _check_header(value, at)
                has_header = True
                continue
            if len(entries) == _MAX_TENSORS:
                raise Refusal(f"over {_MAX_TENSORS:,} tensors", at)
            entries[_name(key, at)] = _entry(value, at)
    if not has_header or not entries:
        raise Refusal("a checkpoint without header or tensors")
    return entries


def _name(key: bytes, at: int) -> str:
    try:
        name = key.decode()
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not name:
        raise Refusal(f"a tensor is named {shown(key)}", at)
    return name


def _records(
    data: bytes, start: int, length: int
) -> Iterator[tuple[bytes, bytes, int]]:
    """Yields key, value and position of each record of a block; checks its CRC."""
    end = start + length
    if end + _TRAILER > len(data) - _FOOTER:
        raise Refusal(f"a block of {length:,} bytes is cut short", start)
    kind, stored = data[end], struct.unpack("<I", data[end + 1 : end + 5])[0]
    if _masked(google_crc32c.value(data[start : end + 1])) != stored:
        raise Refusal("the checksum of a block differs", start)
    if kind:
        raise Refusal(f"a block with compression {kind}", end, "save it uncompressed")
    if length < 4:
        raise Refusal("a block without records", start)
    (restarts,) = struct.unpack("<I", data[end - 4 : end])
    if 4 * (restarts + 1) > length:
        raise Refusal(f"a block with {restarts:,} restarts", end - 4)
    cursor = _Cursor(data, start, end - 4 * (restarts + 1))
    if cursor.at == cursor.end:
        raise Refusal("a block without records", start)
    key = b""
    while cursor.at < cursor.end:
        at = cursor.at
        shared, suffix, value = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key) or shared + suffix > MAX_NAME:
            raise Refusal(f"a key of {shared + suffix:,} bytes", at)
        key = key[:shared] + cursor.take(suffix)
        yield key, cursor.take(value), at


def _check_header(value: bytes, at: int) -> None:
    fields = dict(_fields(value, at))
    shards, big_endian = fields.get(1, 0), fields.get(2, 0)
    if shards != 1 or big_endian:
        order = "big-endian" if big_endian else "little-endian"
        text = f"{shown(shards)} shards, {order}"
        raise Refusal(text, at, "save it as one little-endian shard")


def _entry(value: bytes, at: int) -> Entry:
    fields: dict[int, int | bytes] = {}
    for number, content in _fields(value, at):
        if number == 7:
            raise Refusal("a tensor in slices", at, "save it unsliced")
        fields[number] = content
    numbers = [n for n in (fields.get(k, 0) for k in (1, 3, 4, 5, 6)) if type(n) is int]
    if len(numbers) < 5:
        raise Refusal("a damaged entry", at)
    kind, shard, offset, length, checksum = numbers
    if kind not in _TYPES or shard:
        text = f"a tensor of type {kind} in shard {shard}"
        raise Refusal(text, at, "float32 and int32 in one shard are read")
    shape = []
    message = fields.get(2, b"")
    for number, dimension in _fields(
        message if isinstance(message, bytes) else b"", at
    ):
        if number == 2 and isinstance(dimension, bytes):
            shape.append(dict(_fields(dimension, at)).get(1, 0))
    if len(shape) > MAX_DIMENSIONS or not all(isinstance(n, int) for n in shape):
        raise Refusal("a tensor with a damaged shape", at)
    dtype = _TYPES[kind]
    # An axis of length 0 counts as 1, so that it does not hide the length of others.
    largest = size(tuple(max(n, 1) for n in shape), dtype.itemsize)
    if largest > _MAX_DATA or size(tuple(shape), dtype.itemsize) != length:
        raise Refusal(f"{length:,} bytes for a tensor of shape {tuple(shape)}", at)
    return Entry(dtype, tuple(shape), offset, length, checksum)


def _fields(message: bytes, at: int) -> Iterator[tuple[int, int | bytes]]:
    """Yields number and value of the fields of a protocol buffer."""
    cursor = _Cursor(message, 0, len(message), at)
    while cursor.at < cursor.end:
        tag = cursor.varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, cursor.varint()
        elif kind == 2:
            yield tag >> 3, cursor.take(cursor.varint())
        elif kind in (1, 5):
            yield tag >> 3, int.from_bytes(cursor.take(8 if kind == 1 else 4), "little")
        else:
            raise Refusal(f"a field of kind {kind}", at)


class _Cursor:
    """Reads numbers and bytes from a part of the file.

    Args:
      shift: position in the file that errors name, for bytes taken out of it.
    """

    def __init__(self, data: bytes, at: int, end: int, shift: int = 0):
        self._data, self.at, self.end, self._shift = data, at, end, shift

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            left = self.end - self.at
            raise Refusal(f"{count:,} bytes expected, {left:,} left", self._where())
        self.at += count
        return self._data[self.at - count : self.at]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Refusal("a number beyond 64 bits", self._where())

    def _where(self) -> int:
        return self._shift or self.at


def _masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
