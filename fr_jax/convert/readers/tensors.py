"""Tensors as bytes of a file, and the arrays made of them once all are checked."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown

MAX_DIMENSIONS = 32
MAX_NAME = 1024
# Arrays may take this much more memory than the file has bytes: half types widen to
# float32, and few tensors are honest repetitions of one number.
_GROWTH = 4
_SMALL = 16 << 20


class Stored(NamedTuple):
    """Where a tensor's numbers lie: within `data`, as its reader has checked."""

    data: memoryview
    dtype: np.dtype
    offset: int  # bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes, none negative


def contiguous(
    data: memoryview, dtype: np.dtype, offset: int, shape: tuple[int, ...]
) -> Stored:
    """Returns a tensor whose last axis runs fastest."""
    strides = [dtype.itemsize]
    for length in shape[:0:-1]:
        strides.append(strides[-1] * length)
    return Stored(data, dtype, offset, shape, tuple(strides[::-1][: len(shape)]))


def size(shape: tuple[int, ...], itemsize: int) -> int:
    """Returns how many bytes an array takes.

    Raises:
      Refusal: for a shape that no array has.
    """
    wrong = [length for length in shape if not 0 <= length < 1 << 48]
    if wrong or len(shape) > MAX_DIMENSIONS:
        longest = shown(max(shape, key=abs))
        raise Refusal(f"a tensor of {len(shape)} dimensions, {longest} long")
    return math.prod(shape) * itemsize


def arrays(stored: Mapping[str, Stored], file_size: int) -> dict[str, np.ndarray]:
    """Returns an array of its own for every tensor, native, aligned and contiguous.

    Floating types become float32, in which every network here computes: float16,
    bfloat16 and the float8 types exactly, float64 rounded. Other types stay. Names for
    the same tensor share one array.

    Raises:
      Refusal: for names that are not text of one line, for more memory than
        `file_size` warrants, and for float64 beyond float32.
    """
    total = 0
    for name in stored:
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise Refusal(f"a tensor is named {shown(name)}")
    unique = {_identity(tensor): tensor for tensor in stored.values()}
    for tensor in unique.values():
        target = _target(tensor.dtype)
        # Beside an axis of length 0 others may be of any length: they count too.
        total += size(tuple(max(length, 1) for length in tensor.shape), target.itemsize)
    if total > _GROWTH * file_size + _SMALL:
        raise Refusal(
            f"the tensors unfold to {total:,} bytes from a file of {file_size:,}",
            remedy="save them with .contiguous(), without optimizer or expanded views",
        )
    made = {identity: _array(tensor) for identity, tensor in unique.items()}
    return {name: made[_identity(tensor)] for name, tensor in stored.items()}


def _identity(tensor: Stored) -> tuple:
    return id(tensor.data), *tensor[1:]


def _target(dtype: np.dtype) -> np.dtype:
    # NumPy takes the types of ml_dtypes for raw bytes ("V") or for odd floats.
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
        raise Refusal("a float64 tensor holds numbers beyond float32") from None
