"""np.savez archives. NumPy reads only the headers of .npy entries.

`np.load` would allocate the size that a header states before it checks the file.
"""

import io
import warnings

import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, size
from fr_jax.convert.readers.zip_archive import Archive

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_TEXT = 64 << 20  # bytes of a value: a description may list all identities
_MAX_HEADER = 1024  # bytes; a header with 32 axes has 600


def read(archive: Archive, *, text: bool = False) -> dict[str, Stored]:
    """Returns the arrays of an archive by name.

    Args:
      text: whether arrays of text are accepted too.

    Raises:
      Refusal: for arrays of objects (pickles), and for headers that contradict the size
        of the entry.
    """
    return {
        name.removesuffix(".npy"): _array(archive, name, text)
        for name in archive.entries
    }


def _array(archive: Archive, name: str, text: bool) -> Stored:
    data = archive.read(name)
    offset = archive.entries[name].offset
    header = io.BytesIO(data[: 2 * _MAX_HEADER])
    try:
        read_header = _READERS[np.lib.format.read_magic(header)]
        # The warnings are about integers of Python 2, such as 3L.
        with warnings.catch_warnings(action="ignore"):
            shape, fortran, dtype = read_header(header, max_header_size=_MAX_HEADER)
    except Exception:  # includes SyntaxError and MemoryError of Python's parser
        reason = f"{shown(name)} has a header that NumPy does not write"
        raise Refusal(reason, offset) from None
    number = dtype.kind in "fiub" and dtype.itemsize <= 8
    if not number and not (text and dtype.kind == "U" and dtype.itemsize <= _MAX_TEXT):
        raise Refusal(
            f"{shown(name)} is an array of {dtype.str}, not of numbers",
            offset,
            "save arrays of float32 (npz has no bfloat16, and objects are pickles)",
        )
    start = header.tell()
    if size(shape, dtype.itemsize) != len(data) - start:
        raise Refusal(
            f"{shown(name)} holds {len(data) - start:,} bytes, not {dtype} {shape}",
            offset,
        )
    order = "F" if fortran else "C"
    view = np.ndarray(shape, dtype, data, start, order=order)
    return Stored(data, dtype, start, shape, view.strides)
