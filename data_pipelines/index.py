"""The index of a set: shard, offset and labels of every record.

`index.npz`, in the folder of the TFRecords, holds shard, offset, length, label, age,
yaw, light, session, expression and digest of every record in order, and the names of
the labels. Training streams read records by offset, so the batch of any step is
available without reading those before it.
"""

import json
import os
import struct
import zipfile
from typing import NamedTuple

import google_crc32c
import numpy as np
from etils import epath

from data_pipelines import DataError

FILE = "index.npz"
# A TFRecord: length, its masked CRC | payload | the payload's masked CRC.
_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
# Columns that older indexes lack.
_UNKNOWN = {"yaw": np.float32(np.nan), "light": np.int32(-1), "session": np.int32(-1)}
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class Index(NamedTuple):
    """Columns over the records of a set, in the order in which they were written.

    `identities[label]` is the name of a label, `shards[i]` a file in the same folder,
    `size` the side of the faces in pixels. Unknown yaws are NaN, lights and sessions
    -1, expressions ''. Expressions, and the digests of the images' pixels
    (`data_pipelines.digests`), are None if the index is older than these columns.
    """

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    age: np.ndarray
    shards: list[str]
    identities: list[str]
    size: int
    name: str
    licence: str
    source: str
    yaw: np.ndarray
    light: np.ndarray
    session: np.ndarray
    expression: np.ndarray | None = None
    digest: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.shard)


def find(path: str | os.PathLike) -> epath.Path:
    """Returns the folder of the index: `path` or the newest version below it.

    Raises DataError if there is no index.
    """
    root = epath.Path(path)
    if (root / FILE).exists():
        return root
    versions = sorted(root.glob(f"*/{FILE}")) if root.exists() else []
    if not versions:
        raise DataError(
            f"{path}: no face records here; convert images with "
            "`fr-jax data convert SRC --to DIR --name NAME` and give DIR/NAME"
        )
    return versions[-1].parent


def load(folder: epath.Path) -> Index:
    """Returns the index of a folder; DataError if it or a shard is damaged."""
    try:
        with (folder / FILE).open("rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
        about = json.loads(str(arrays.pop("about")))
        size = len(arrays["shard"])
        unknown = {name: np.full(size, value) for name, value in _UNKNOWN.items()}
        index = Index(**about | unknown | arrays)
    except _DAMAGED as error:
        raise DataError(f"{folder / FILE}: damaged index ({error})") from error
    lengths = {len(column) for column in arrays.values()}
    if len(lengths) > 1 or any(os.path.basename(s) != s for s in index.shards):
        raise DataError(f"{folder / FILE}: damaged index (its columns do not agree)")
    for number, shard in enumerate(index.shards):
        ends = (index.offset + index.length)[index.shard == number]
        size = (folder / shard).stat().length if (folder / shard).exists() else -1
        if len(ends) and size < ends.max():
            raise DataError(
                f"{folder / shard}: {max(size, 0):,} bytes, the index states "
                f"{ends.max():,}; convert the set again"
            )
    return index


def save(folder: epath.Path, index: Index) -> None:
    """Writes an index into the folder of its records."""
    fields = index._asdict()
    arrays: dict = {k: v for k, v in fields.items() if isinstance(v, np.ndarray)}
    about = {k: v for k, v in fields.items() if k not in arrays}
    with (folder / FILE).open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def scan(path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (offset, length) of all records of a TFRecord file, checksums included.

    Raises DataError for a damaged length and a truncated record.
    """
    offsets, lengths = [], []
    size, at = path.stat().length, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or _masked_crc(head[:8]) != head[8:]:
                raise DataError(f"{path}: byte {at:,}: damaged record length")
            length = _HEAD.size + _HEAD.unpack(head)[0] + _TAIL.size
            if at + length > size:
                raise DataError(f"{path}: byte {at:,}: the record goes beyond the file")
            offsets.append(at)
            lengths.append(length)
            at += length
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def payload(record: bytes | memoryview, where: str) -> bytes:
    """Returns the payload of a whole TFRecord; DataError if its checksum is wrong.

    `where` names file and offset in the error.
    """
    body = bytes(record[_HEAD.size : -_TAIL.size])
    intact = (
        len(record) >= _HEAD.size + _TAIL.size
        and _HEAD.unpack_from(record)[0] == len(body)
        and _masked_crc(body) == record[-_TAIL.size :]
    )
    if not intact:
        raise DataError(f"{where}: damaged record (wrong checksum)")
    return body


def _masked_crc(data: bytes) -> bytes:
    """Returns TFRecord's CRC-32C, rotated and shifted (data may contain a CRC)."""
    crc = google_crc32c.value(data)
    return _TAIL.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def read(folder: epath.Path, index: Index, number: int) -> bytes:
    """Returns a serialized record; DataError if it is damaged."""
    shard, start = folder / index.shards[index.shard[number]], int(index.offset[number])
    with shard.open("rb") as file:
        file.seek(start)
        record = file.read(int(index.length[number]))
    return payload(record, f"{shard}: byte {start:,}")
