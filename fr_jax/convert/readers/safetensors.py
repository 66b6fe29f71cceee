"""Safetensors files: the package `safetensors` reads and checks the header."""

from pathlib import Path

import ml_dtypes
import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, size

# The package needs 12 times the memory of a header with many small tensors.
_MAX_HEADER = 4 << 20
_TYPES = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype("<c8"),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}


def read(path: Path, data: memoryview) -> dict[str, Stored]:
    """Returns the tensors of a file by name, ordered by offset.

    Raises:
      Refusal: for a header that is damaged or contradicts the file size.
    """
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER:
        raise Refusal(f"a header of {length:,} bytes in a file of {len(data):,}", 0)
    tensors = {}
    at = 8 + length
    try:
        with safe_open(path, framework="numpy") as file:
            # The package has checked that tensors are contiguous.
            for name in file.offset_keys():
                entry = file.get_slice(name)
                kind, shape = entry.get_dtype(), tuple(entry.get_shape())
                if kind not in _TYPES:
                    raise Refusal(f"tensor {shown(name)}: type {shown(kind)}", at)
                length = size(shape, _TYPES[kind].itemsize)
                tensors[name] = Stored(data, _TYPES[kind], at, shape)
                at += length
    except SafetensorError as error:
        reason = ascii(str(error).rpartition("header: ")[2])[1:-1]  # may quote names
        raise Refusal(f"the header: {reason[:200]}", 8) from None
    return tensors
