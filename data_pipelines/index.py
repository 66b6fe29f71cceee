"""Where each record of a set lies: the file that makes a batch a list of numbers.

`index.npz` stands beside the TFRecords and holds, for every record in order, its shard,
offset, length, label, age, yaw, light, session and expression, and the names of the
labels. A training stream reads records by offset from it, so any batch of any step can
be had at once.
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
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class Index(NamedTuple):
    """Columns over the records of a set, in the order they were written.

    `identities[label]` is the name of a label, `shards[i]` a file beside the index,
    `size` the side of the faces in pixels. Older indexes know no yaw (NaN), light or
    session (-1), or expression (''); theirs are None.
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
    yaw: np.ndarray | None = None
    light: np.ndarray | None = None
    session: np.ndarray | None = None
    expression: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.shard)


def find(path: str | os.PathLike) -> epath.Path:
    """Returns the folder that holds the index: `path` or its newest version below.

    Raises DataError where there is none.
    """
    root = epath.Path(path)
    if (root / FILE).exists():
        return root
    versions = sorted(root.glob(f"*/{FILE}")) if root.exists() else []
    if not versions:
        raise DataError(
            f"{path}: no face records here; make them with "
            "`fr-jax data convert SRC --to DIR --name NAME` and give DIR/NAME"
        )
    return versions[-1].parent


def load(folder: epath.Path) -> Index:
    """Returns the index of a folder; DataError where its files do not fit it."""
    try:
        with (folder / FILE).open("rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
        about = json.loads(str(arrays.pop("about")))
        index = Index(**arrays, **about)
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
                f"{folder / shard}: {max(size, 0):,} bytes, and the index counts on "
                f"{ends.max():,}; convert the set again"
            )
    return index


def save(folder: epath.Path, index: Index) -> None:
    """Writes the index of records into their folder."""
    fields = index._asdict()
    arrays: dict = {k: v for k, v in fields.items() if isinstance(v, np.ndarray)}
    about = {k: v for k, v in fields.items() if k not in arrays}
    with (folder / FILE).open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def scan(path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (offset, length) of every record of a TFRecord file, head and tail in.

    Raises DataError for a file that ends inside a record or a damaged length.
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
    """Returns the payload of a whole TFRecord; DataError where its CRCs do not hold.

    `where` names file and offset for the error.
    """
    body = bytes(record[_HEAD.size : -_TAIL.size])
    intact = (
        len(record) >= _HEAD.size + _TAIL.size
        and _HEAD.unpack_from(record)[0] == len(body)
        and _masked_crc(body) == record[-_TAIL.size :]
    )
    if not intact:
        raise DataError(f"{where}: damaged record (its checksum does not hold)")
    return body


def _masked_crc(data: bytes) -> bytes:
    """TFRecord's CRC-32C, rotated and shifted so that it may stand in data itself."""
    crc = google_crc32c.value(data)
    return _TAIL.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def read(folder: epath.Path, index: Index, number: int) -> bytes:
    """Returns the serialized record of a number; DataError where it is damaged."""
    shard, start = folder / index.shards[index.shard[number]], int(index.offset[number])
    with shard.open("rb") as file:
        file.seek(start)
        record = file.read(int(index.length[number]))
    return payload(record, f"{shard}: byte {start:,}")
