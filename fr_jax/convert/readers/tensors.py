"""Tensors as byte ranges of a file, and their conversion to arrays."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown

MAX_DIMENSIONS = 32
MAX_NAME = 1024
# Bounds on the memory of all arrays: half types become float32, and views may repeat
# values.
_GROWTH = 4
_SMALL = 16 << 20


class Stored(NamedTuple):
    """A tensor in `data`; the reader has checked that all its values are inside."""

    data: memoryview
    dtype: np.dtype
    offset: int  # bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None  # bytes, none negative; None: row-major


def size(shape: tuple[int, ...], itemsize: int) -> int:
    """Returns the number of bytes of an array.

    Raises:
      Refusal: for an invalid shape.
    """
    wrong = [length for length in shape if not 0 <= length < 1 << 48]
    if wrong or len(shape) > MAX_DIMENSIONS:
        longest = shown(max(shape, key=abs))
        raise Refusal(f"a tensor of {len(shape)} dimensions, {longest} long")
    return math.prod(shape) * itemsize


def arrays(stored: Mapping[str, Stored], file_size: int) -> dict[str, np.ndarray]:
    """Returns an array for every tensor: a native, aligned, contiguous copy.

    Floating types become float32: float16, bfloat16 and float8 exactly, float64
    rounded. Other types stay. Several names of one tensor share one array.

    Raises:
      Refusal: for names that are not one printable line, for more memory than a file of
        `file_size` bytes may need, and for float64 values beyond float32.
    """
    for name in stored:
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise Refusal(f"a tensor is named {shown(name)}")
    unique = {_identity(tensor): tensor for tensor in stored.values()}
    # An axis of length 0 counts as 1, so that it does not hide the length of others.
    total = sum(
        size(tuple(max(length, 1) for length in shape), _target(dtype).itemsize)
        for _, dtype, _, shape, _ in unique.values()
    )
    if total > _GROWTH * file_size + _SMALL:
        raise Refusal(
            f"the tensors expand to {total:,} bytes from a file of {file_size:,}",
            remedy="save them with .contiguous(), without optimizer or expanded views",
        )
    copies = {identity: _array(tensor) for identity, tensor in unique.items()}
    return {name: copies[_identity(tensor)] for name, tensor in stored.items()}


def _identity(tensor: Stored) -> tuple:
    return id(tensor.data), *tensor[1:]


def _target(dtype: np.dtype) -> np.dtype:
    # Types of ml_dtypes have kind "V" or "f".
    return np.dtype(np.float32) if dtype.kind in "fV" else dtype.newbyteorder("=")


def _array(tensor: Stored) -> np.ndarray:
    data, dtype, offset, shape, strides = tensor
    view = np.ndarray(shape, dtype, data, offset, strides)
    if dtype.kind == "b":  # a byte may hold any value
        return view.view(np.uint8) != 0
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return np.array(view, _target(dtype), order="C")
    except FloatingPointError:
        raise Refusal("a float64 tensor holds values beyond float32") from None
