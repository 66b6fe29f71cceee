"""The index of a set: shard, offset and labels of every record.

`index.npz`, in the folder of the TFRecords, holds shard, offset, length, checksum,
label, age, yaw, light, session, expression and digest of the pixels of every record in
order, those of videos also frame, time, shot and tracklet, the names of the labels, and
a SHA-256 digest of all these. Training streams read records by offset, so the batch of
any step is available without reading those before it.

That digest protects the index from damage. The checksum of every record, the CRC-32C at
its end, ties the index to its records: it is compared whenever one is read. Indexes
of earlier versions have neither; they are read, with all other checks.
"""

import hashlib
import json
import os
import struct
import zipfile
from typing import NamedTuple

import google_crc32c
import numpy as np
from etils import epath

from data_pipelines import DataError
from data_pipelines.names import written

FILE = "index.npz"
# A TFRecord: length, its masked CRC | payload | the payload's masked CRC.
_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
OTHER = "the index is that of other records; convert the set again"
# Columns that older indexes lack.
_UNKNOWN = {"yaw": np.float32(np.nan), "light": np.int32(-1), "session": np.int32(-1)}


class Index(NamedTuple):
    """Columns over the records of a set, in the order in which they were written.

    `identities[label]` is the name of a label, `shards[i]` a file in the same folder,
    `size` the side of the faces in pixels. Unknown yaws are NaN, lights and sessions
    -1, expressions ''. Expressions, checksums and the digests of the images' pixels
    (`data_pipelines.digests`) are None if the index is older than that column; frame,
    time, shot and track are None in sets that are of no video.
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
    checksum: np.ndarray | None = None
    frame: np.ndarray | None = None
    time: np.ndarray | None = None
    shot: np.ndarray | None = None
    track: np.ndarray | None = None

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
    """Returns the index of a folder.

    Raises:
      DataError: for an index that is damaged, or that does not fit its shards.
    """
    try:
        with (folder / FILE).open("rb") as file:
            members = zipfile.ZipFile(file).infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                raise ValueError("compressed columns")
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
        text, digest = str(arrays.pop("about")), arrays.pop("sha256", None)
        about = json.loads(text)
        size = len(arrays["shard"])
        unknown = {name: np.full(size, value) for name, value in _UNKNOWN.items()}
        if digest is None:  # of an earlier version, with names as they came
            about["identities"] = [written(name) for name in about["identities"]]
        index = Index(**about | unknown | arrays)
        reason = _fault(index, arrays)
        if digest is not None and str(digest) != _digest(text, arrays):
            reason = "its checksum is wrong"
    # NumPy, zipfile and json raise all kinds of errors for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder / FILE}: damaged index ({reason:.200})") from error
    if reason:
        raise DataError(
            f"{folder / FILE}: damaged index ({reason}); convert the set again"
        )
    _check_shards(folder, index)
    return index


def _fault(index: Index, arrays: dict[str, np.ndarray]) -> str:
    """Returns what is wrong with an index in itself, or ''."""
    if {array.shape for array in arrays.values()} != {(len(index),)} or not len(index):
        return "its columns do not agree"
    for name in ("shard", "offset", "length", "label"):
        if getattr(index, name).dtype.kind not in "iu":
            return f"{name} is no integer"
    if any(os.path.basename(shard) != shard for shard in index.shards):
        return "a shard outside the folder"
    if not 0 <= index.shard.min() <= index.shard.max() < len(index.shards):
        return f"shard {index.shard.max()} of {len(index.shards)} listed ones"
    if not -1 <= index.label.min() <= index.label.max() < len(index.identities):
        return f"label {index.label.max()} of {len(index.identities)} named identities"
    return ""


def _check_shards(folder: epath.Path, index: Index) -> None:
    """Raises a DataError if the records do not fill the shards in the folder."""
    present = {path.name for path in folder.glob("*.tfrecord*")}
    if unlisted := sorted(present - set(index.shards)):
        raise DataError(
            f"{folder / unlisted[0]}: not in {FILE}, which is that of other records; "
            "convert the set again"
        )
    starts = index.offset.astype(np.int64)
    ends = starts + index.length.astype(np.int64)
    for number, shard in enumerate(index.shards):
        rows = np.flatnonzero(index.shard == number)
        size = (folder / shard).stat().length if shard in present else 0
        expected = np.append(0, ends[rows])
        if size < expected[-1]:
            raise DataError(
                f"{folder / shard}: {size:,} bytes, the index states "
                f"{expected[-1]:,}; convert the set again"
            )
        wrong = np.flatnonzero(np.append(starts[rows], size) != expected)
        if len(wrong):
            raise DataError(
                f"{folder / shard}: byte {expected[wrong[0]]:,}: the index has no "
                "record there; it is that of other records: convert the set again"
            )


def save(folder: epath.Path, index: Index) -> None:
    """Writes an index into the folder of its records."""
    fields = index._asdict()
    arrays: dict = {k: v for k, v in fields.items() if isinstance(v, np.ndarray)}
    text = json.dumps({k: v for k, v in fields.items() if k not in arrays})
    digest = np.array(_digest(text, arrays))
    with (folder / FILE).open("wb") as file:
        np.savez(file, about=np.array(text), sha256=digest, **arrays)


def _digest(about: str, arrays: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of an index: of its text and its columns, by name."""
    digest = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def scan(path: epath.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (offset, length, checksum) of all records of a TFRecord file.

    The length includes the checksums.

    Raises:
      DataError: for a damaged length and a truncated record.
    """
    offsets, lengths, checksums = [], [], []
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
            file.seek(at - _TAIL.size)
            checksums += _TAIL.unpack(file.read(_TAIL.size))
    return (
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        np.array(checksums, np.uint32),
    )


def place(folder: epath.Path, index: Index, number: int) -> str:
    """Returns shard and offset of a record, for errors."""
    shard = folder / index.shards[index.shard[number]]
    return f"{shard}: byte {int(index.offset[number]):,}"


def payload(record: bytes | memoryview, index: Index, number: int, where: str) -> bytes:
    """Returns the payload of a whole TFRecord.

    Args:
      where: its file and offset, for errors.

    Raises:
      DataError: for a damaged record, and one of another set than the index.
    """
    body = bytes(record[_HEAD.size : -_TAIL.size])
    intact = (
        len(record) >= _HEAD.size + _TAIL.size
        and _HEAD.unpack_from(record)[0] == len(body)
        and _masked_crc(body) == record[-_TAIL.size :]
    )
    if not intact:
        raise DataError(f"{where}: damaged record (wrong checksum)")
    stored = _TAIL.unpack(record[-_TAIL.size :])[0]
    if index.checksum is not None and index.checksum[number] != stored:
        raise DataError(f"{where}: {OTHER}")
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
    return payload(record, index, number, place(folder, index, number))
