"""Zip archives, read from their central directory with every number checked.

Written after PKWARE's APPNOTE 6.3. Entries are stored or deflated; what torch.save and
np.savez never write (encryption, several disks, names out of the archive, overlapping
or repeated entries) is refused.
"""

import re
import struct
import zlib
from typing import NamedTuple

from fr_jax.convert.readers.refusal import Refusal, shown

MAX_ENTRIES = 10_000
_MAX_NAME, _MAX_EXTRA = 1024, 256  # bytes of an entry in the directory
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_SIZES_FOLLOW = 1 << 3
_WIDE = 0xFFFFFFFF  # "see the zip64 field"
# Deflated entries may unfold to this much; trained weights hardly shrink at all.
_GROWTH = 4
_SMALL = 16 << 20


class Entry(NamedTuple):
    name: str
    deflated: bool
    checksum: int
    offset: int  # of the first byte of data, in the file
    stored: int  # bytes in the file
    size: int  # bytes once unfolded


class Archive:
    """The entries of a zip archive, by name.

    Raises:
      Refusal: for a damaged or hostile directory.
    """

    def __init__(self, data: memoryview):
        self._data = data
        start, length, count = self._end()
        self._directory = start
        self.entries: dict[str, Entry] = {}
        at = start
        starts = []
        for _ in range(count):
            header, entry, at = self._central(at, start + length)
            if entry.name in self.entries:
                raise Refusal(f"two entries are named {shown(entry.name)}", at)
            self.entries[entry.name] = entry
            starts.append((header, entry.offset + entry.stored))
        if at != start + length:
            raise Refusal(f"{start + length - at} stray bytes in the directory", at)
        unfolded = sum(entry.size for entry in self.entries.values())
        if unfolded > _GROWTH * len(data) + _SMALL:
            raise Refusal(
                f"the archive would unfold from {len(data):,} to {unfolded:,} bytes",
                remedy="save it without compression",
            )
        starts.sort()
        for (_, end), (header, _) in zip(starts, [*starts[1:], (start, 0)]):
            if end > header:
                raise Refusal("an entry reaches into the next", header)

    def read(self, name: str) -> memoryview:
        """Returns the bytes of an entry: of the file itself where they are stored.

        Raises:
          Refusal: for a wrong checksum, or for an entry that unfolds to more than it
            says or than a weight file does.
        """
        entry = self.entries[name]
        content = self._data[entry.offset : entry.offset + entry.stored]
        if entry.deflated:
            content = memoryview(_inflated(content, entry))
        # torch.save leaves the checksum out where it is told to, for speed.
        if entry.checksum and zlib.crc32(content) != entry.checksum:
            raise Refusal(f"the checksum of {shown(name)} is wrong", entry.offset)
        return content

    def _unpack(self, layout: struct.Struct, at: int, end: int, magic: bytes) -> tuple:
        if not 0 <= at <= end - layout.size:
            raise Refusal("a header of the zip archive lies outside it", min(at, end))
        fields = layout.unpack_from(self._data, at)
        if fields[0] != magic:
            raise Refusal(f"{shown(fields[0])} where {shown(magic)} belongs", at)
        return fields[1:]

    def _end(self) -> tuple[int, int, int]:
        """Returns where the directory starts, its length and the number of entries."""
        size = len(self._data)
        tail = bytes(self._data[max(0, size - _END.size - 0xFFFF) :])
        at = tail.rfind(b"PK\5\6")
        if at < 0:
            raise Refusal("no directory of the zip archive at its end", size)
        at += size - len(tail)
        found = self._unpack(_END, at, size, b"PK\5\6")
        disk, first_disk, here, count, length, start, comment = found
        if at + _END.size + comment != size:
            raise Refusal("bytes after the end of the zip archive", at)
        end = at
        if at >= _LOCATOR_64.size and self._data[at - 20 : at - 16] == b"PK\6\7":
            _, at, _ = self._unpack(_LOCATOR_64, at - 20, at, b"PK\6\7")
            found = self._unpack(_END_64, at, end - 20, b"PK\6\6")
            _, _, _, disk, first_disk, here, count, length, start = found
            end = at
        if disk or first_disk or here != count:
            raise Refusal("a zip archive of several disks", at)
        if not 0 < count <= MAX_ENTRIES:
            raise Refusal(f"a zip archive of {count:,} entries", at)
        if start + length != end:
            raise Refusal("the directory of the zip archive is not at its end", at)
        return start, length, count

    def _central(self, at: int, end: int) -> tuple[int, Entry, int]:
        """Returns where an entry's own header is, the entry, and where the next is."""
        fields = self._unpack(_CENTRAL, at, end, b"PK\1\2")
        _, _, flags, method, _, _, checksum, stored, size = fields[:9]
        name_length, extra_length, comment_length, disk, _, _, header = fields[9:]
        next_at = at + _CENTRAL.size + name_length + extra_length + comment_length
        if next_at > end:
            raise Refusal("a header of the zip archive lies outside it", at)
        if name_length > _MAX_NAME or extra_length > _MAX_EXTRA:
            raise Refusal(f"a header of {next_at - at:,} bytes", at)
        extra_at = at + _CENTRAL.size + name_length
        name = _name(bytes(self._data[at + _CENTRAL.size : extra_at]), at)
        size, stored, header = _widened(
            bytes(self._data[extra_at : extra_at + extra_length]),
            (size, stored, header),
            at,
        )
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED) or disk:
            raise Refusal(
                f"{shown(name)} is encrypted or packed by method {method}",
                at,
                "unpack the archive with the tool that made it and zip it without",
            )
        if method == _STORED and size != stored:
            raise Refusal(f"{shown(name)} has two sizes, {stored:,} and {size:,}", at)
        offset = self._local(header, fields, name)
        if offset + stored > self._directory:
            raise Refusal(f"{shown(name)}, {stored:,} bytes, exceeds the file", at)
        return (
            header,
            Entry(name, method == _DEFLATED, checksum, offset, stored, size),
            next_at,
        )

    def _local(self, at: int, central: tuple, name: str) -> int:
        """Returns where an entry's data start, if its own header agrees."""
        fields = self._unpack(_LOCAL, at, self._directory, b"PK\3\4")
        _, flags, method, _, _, checksum, *sizes, name_length, extra_length = fields
        start = at + _LOCAL.size
        agrees = (flags, method) == central[2:4]
        agrees &= name.encode() == self._data[start : start + name_length]
        if not flags & _SIZES_FOLLOW:
            agrees &= checksum == central[6]
            for here, there in zip(sizes, central[7:9]):
                agrees &= _WIDE in (here, there) or here == there
        if not agrees:
            raise Refusal(f"{shown(name)} is described in two ways", at)
        return start + name_length + extra_length


def _inflated(content: memoryview, entry: Entry) -> bytes:
    decoder = zlib.decompressobj(-15)
    try:
        unfolded = decoder.decompress(content, entry.size + 1)
    except zlib.error as error:
        raise Refusal(f"{shown(entry.name)}: {error}", entry.offset) from None
    if len(unfolded) != entry.size or not decoder.eof:
        raise Refusal(
            f"{shown(entry.name)} unfolds to other than its {entry.size:,} bytes",
            entry.offset,
        )
    return unfolded


def _name(raw: bytes, at: int) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise Refusal(f"an entry is named {shown(raw)}", at) from None
    # A folder's own entry ends in a slash.
    parts = name.removesuffix("/").split("/")
    if (
        re.search(r"^[A-Za-z]:|\\", name)
        or not name.isprintable()
        or not all(part and part not in (".", "..") for part in parts)
    ):
        raise Refusal(f"an entry is named {shown(name)}", at)
    return name


def _widened(extra: bytes, fields: tuple[int, ...], at: int) -> list[int]:
    """Returns sizes and offset, with those that do not fit 32 bits from `extra`."""
    wide = b""
    while len(extra) >= 4 and not wide:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    values = []
    for field in fields:
        if field == _WIDE:
            if len(wide) < 8:
                raise Refusal("a zip64 field is missing", at)
            field, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        values.append(field)
    return values
