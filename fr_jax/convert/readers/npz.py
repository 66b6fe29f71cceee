"""np.savez archives: NumPy reads the headers of the .npy entries, never their data.

`np.load` would allocate what a header promises before it looks at the file.
"""

import io
import warnings

import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, contiguous, size
from fr_jax.convert.readers.zip_archive import Archive

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_HEADER = 1024  # bytes: that of 32 axes takes 600


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
    header = io.BytesIO(data[: 2 * _MAX_HEADER])
    try:
        read_header = _READERS[np.lib.format.read_magic(header)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Python 2's numbers, as 3L
            shape, fortran, dtype = read_header(header, max_header_size=_MAX_HEADER)
    except Exception:  # also of Python's parser: SyntaxError, MemoryError, ...
        reason = f"{shown(name)} has a header that NumPy does not write"
        raise Refusal(reason, offset) from None
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise Refusal(
            f"{shown(name)} is an array of {dtype.str}, not of numbers",
            offset,
            "save arrays of float32 (bfloat16 has no type there, objects are pickles)",
        )
    start = header.tell()
    if size(shape, dtype.itemsize) != len(data) - start:
        raise Refusal(
            f"{shown(name)} holds {len(data) - start:,} bytes, not {dtype} {shape}",
            offset,
        )
    if fortran:
        turned = contiguous(data, dtype, start, shape[::-1])
        return turned._replace(shape=shape, strides=turned.strides[::-1])
    return contiguous(data, dtype, start, shape)
