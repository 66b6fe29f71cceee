"""np.savez archives: .npy entries whose header is matched, never evaluated."""

import re

import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, contiguous, size
from fr_jax.convert.readers.zip_archive import Archive

# NumPy writes the keys sorted; Python 2 wrote an L after numbers.
_HEADER = re.compile(
    rb"\{'descr': (?:'([!-&(-~]{1,40})'|\[.*\]), *'fortran_order': (True|False), *"
    rb"'shape': \(((?:\d{1,15}L?(?:, ?|(?=\)))){0,32})\),? *\} *\n?",
    re.ASCII,
)
_TYPES = {
    kind + length: np.dtype(kind + length)
    for kind, lengths in {"f": "248", "i": "1248", "u": "1248", "b": "1"}.items()
    for length in lengths
}
_MAX_HEADER = 10_000


def read(archive: Archive) -> dict[str, Stored]:
    """Returns the arrays of an archive by name.

    Raises:
      Refusal: for arrays of objects (pickles), and for headers that promise other than
        the entry holds.
    """
    return {
        name.removesuffix(".npy"): _array(archive, name) for name in archive.entries
    }


def _array(archive: Archive, name: str) -> Stored:
    data = archive.read(name)
    offset = archive.entries[name].offset
    major = data[6] if data[:6] == b"\x93NUMPY" and len(data) >= 12 else 0
    if major not in (1, 2, 3):
        raise Refusal(f"{shown(name)} is no NumPy array", offset)
    start = 10 if major == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    header = bytes(data[start : start + min(length, _MAX_HEADER)])
    match = _HEADER.fullmatch(header)
    if len(header) != length or not match:
        raise Refusal(f"{shown(name)} has a header that NumPy does not write", offset)
    described, fortran, lengths = match.groups()
    described = "fields" if described is None else described.decode()
    dtype = _TYPES.get(described.lstrip("|=<>"))
    if dtype is None:
        raise Refusal(
            f"{shown(name)} is an array of {described}, not of numbers",
            offset,
            "save arrays of float32 (bfloat16 has no type there, objects are pickles)",
        )
    dtype = dtype.newbyteorder(">" if described.startswith(">") else "<")
    shape = tuple(int(number) for number in re.findall(rb"\d+", lengths))
    start += length
    if size(shape, dtype.itemsize) != len(data) - start:
        raise Refusal(
            f"{shown(name)} holds {len(data) - start:,} bytes, not {dtype} {shape}",
            offset,
        )
    if fortran == b"True":
        turned = contiguous(data, dtype, start, shape[::-1])
        return turned._replace(shape=shape, strides=turned.strides[::-1])
    return contiguous(data, dtype, start, shape)
