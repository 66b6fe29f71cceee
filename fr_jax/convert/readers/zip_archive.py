"""Zip archives: `zipfile` reads the directory, and every entry is checked.

Features that torch.save and np.savez never use (encryption, several disks, paths out of
the archive, overlapping or repeated entries, contradictory headers) are refused. Stored
entries are views of the file.
"""

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from fr_jax.convert.readers.refusal import Refusal, shown

MAX_ENTRIES = 10_000
_MAX_DIRECTORY = 1 << 20  # bytes, for that many entries
_END = struct.Struct("<4s4H2IH")
_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_SIZES_FOLLOW, _UTF_8 = 1 << 3, 1 << 11
_WIDE = 0xFFFFFFFF  # the value is in the zip64 field
# Bounds on the inflated size; trained weights hardly compress.
_GROWTH = 4
_SMALL = 16 << 20


class Entry(NamedTuple):
    name: str
    deflated: bool
    checksum: int
    offset: int  # of the first byte of data, in the file
    stored: int  # bytes in the file
    size: int  # bytes when inflated


class _Capped(io.FileIO):
    """A file that refuses to read a directory beyond the size limit."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise Refusal(f"a zip archive with a directory of {size:,} bytes")
        return super().read(size)


class Archive:
    """The entries of a zip archive, by name.

    Raises:
      Refusal: for a damaged or hostile directory.
    """

    def __init__(self, path: Path, data: memoryview):
        self._data = data
        try:
            with _Capped(path) as file, zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                directory, comment = archive.start_dir, archive.comment
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise Refusal(f"a damaged zip archive: {error}", len(data)) from None
        self._check_end(len(data) - _END.size - len(comment), len(infos))
        self.entries: dict[str, Entry] = {}
        spans = []
        for info in infos:
            entry = self._entry(info, directory)
            if entry.name in self.entries:
                at = info.header_offset
                raise Refusal(f"two entries are named {shown(entry.name)}", at)
            self.entries[entry.name] = entry
            spans.append((info.header_offset, entry.offset + entry.stored))
        inflated = sum(entry.size for entry in self.entries.values())
        if inflated > _GROWTH * len(data) + _SMALL:
            sizes = f"from {len(data):,} to {inflated:,} bytes"
            remedy = "save it without compression"
            raise Refusal(f"the archive would inflate {sizes}", remedy=remedy)
        spans.sort()
        for (_, end), (start, _) in zip(spans, [*spans[1:], (directory, 0)]):
            if end > start:
                raise Refusal("an entry reaches into the next", start)

    def read(self, name: str) -> memoryview:
        """Returns the bytes of an entry; a view of the file if it is not compressed.

        Raises:
          Refusal: for a wrong checksum or inflated size.
        """
        entry = self.entries[name]
        content = self._data[entry.offset : entry.offset + entry.stored]
        if entry.deflated:
            content = memoryview(_inflated(content, entry))
        # torch.save can omit checksums, for speed.
        if entry.checksum and zlib.crc32(content) != entry.checksum:
            raise Refusal(f"the checksum of {shown(name)} is wrong", entry.offset)
        return content

    def _check_end(self, at: int, count: int) -> None:
        """Raises a Refusal if the end record contradicts the directory's `count`."""
        magic, disk, first_disk, here, total, *_ = _END.unpack_from(self._data, at)
        if magic != b"PK\5\6":
            raise Refusal("bytes after the end of the zip archive", at)
        if disk or first_disk or here != total:
            raise Refusal("a zip archive of several disks", at)
        if self._data[max(at - 20, 0) : at][:4] == b"PK\6\7" and total == 0xFFFF:
            total = count  # zipfile reads the number of entries from the zip64 record
        if total != count or not 0 < count <= MAX_ENTRIES:
            listed = f"{total:,} entries; {count:,} are listed"
            raise Refusal(f"a zip archive of {listed}", at)

    def _entry(self, info: zipfile.ZipInfo, directory: int) -> Entry:
        name, at, method = info.orig_filename, info.header_offset, info.compress_type
        _check_name(name)
        deflated = method == zipfile.ZIP_DEFLATED
        supported = deflated or method == zipfile.ZIP_STORED
        if info.flag_bits & _ENCRYPTED or not supported:
            reason = f"{shown(name)} is encrypted or packed by method {method}"
            remedy = "unpack it with the tool that wrote it and zip it without"
            raise Refusal(reason, remedy=remedy)
        stored, size = info.compress_size, info.file_size
        if not deflated and stored != size:
            raise Refusal(f"{shown(name)} has two sizes, {stored:,} and {size:,}")
        if not 0 <= at <= directory - _LOCAL.size:
            raise Refusal(f"the header of {shown(name)} is outside the archive")
        return Entry(name, deflated, info.CRC, self._offset(info), stored, size)

    def _offset(self, info: zipfile.ZipInfo) -> int:
        """Returns the offset of an entry's data after checking its local header."""
        at = info.header_offset
        header = _LOCAL.unpack_from(self._data, at)
        magic, _, flags, method, _, _, *counts, name_length, extra_length = header
        start = at + _LOCAL.size
        name = info.orig_filename.encode("utf-8" if flags & _UTF_8 else "cp437")
        agrees = magic == b"PK\3\4" and name == self._data[start : start + name_length]
        agrees &= (flags, method) == (info.flag_bits, info.compress_type)
        if not flags & _SIZES_FOLLOW:
            expected = info.CRC, info.compress_size, info.file_size
            agrees &= all(n in (value, _WIDE) for n, value in zip(counts, expected))
        if not agrees:
            raise Refusal(f"{shown(info.orig_filename)} is described in two ways", at)
        return start + name_length + extra_length


def _check_name(name: str) -> None:
    # The entry of a folder ends in a slash.
    parts = name.removesuffix("/").split("/")
    if (
        re.search(r"^[A-Za-z]:|\\", name)
        or not name.isprintable()
        or not all(part and part not in (".", "..") for part in parts)
    ):
        raise Refusal(f"an entry is named {shown(name)}")


def _inflated(content: memoryview, entry: Entry) -> bytes:
    decoder = zlib.decompressobj(-15)
    try:
        inflated = decoder.decompress(content, entry.size + 1)
    except zlib.error as error:
        raise Refusal(f"{shown(entry.name)}: {error}", entry.offset) from None
    if len(inflated) != entry.size or not decoder.eof:
        reason = f"{shown(entry.name)} does not inflate to its {entry.size:,} bytes"
        raise Refusal(reason, entry.offset)
    return inflated
