"""The names that a pickled state dict may use, and their replacements.

A tensor in a PyTorch pickle is a call of `_rebuild_tensor_v2` with a storage (given by
a persistent id), an offset, a shape and strides. These are checked against the stated
length of the storage, and the storage against the file.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown
from fr_jax.convert.readers.tensors import MAX_DIMENSIONS, MAX_NAME, Stored


class Type(NamedTuple):
    """A storage class or torch.dtype. Not callable."""

    dtype: np.dtype


@dataclass
class Storage:
    """Values in the file. In the legacy format the offset follows the objects."""

    dtype: np.dtype
    length: int
    offset: int | None = None  # in the file, in bytes


class Part(NamedTuple):
    """A range of a storage: all of it, except for views in the legacy format."""

    storage: Storage
    first: int
    length: int


class Tensor(NamedTuple):
    part: Part
    dtype: np.dtype
    offset: int  # elements of dtype from the start of the part
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    def stored(self, data: memoryview, big_endian: bool) -> Stored:
        """Returns the tensor as bytes of the file."""
        storage = self.part.storage
        assert storage.offset is not None  # set by the readers
        if big_endian and self.dtype.kind == "V":
            raise Refusal(f"big-endian {self.dtype}", storage.offset, RESAVE)
        start = storage.offset + self.part.first * storage.dtype.itemsize
        step = self.dtype.itemsize
        return Stored(
            data,
            self.dtype.newbyteorder(">") if big_endian else self.dtype,
            start + self.offset * step,
            self.shape,
            tuple(stride * step for stride in self.strides),
        )


_TYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}
# Types with equal names in torch and in NumPy or ml_dtypes.
_DTYPES = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz"),
)


def _ordered_dict(arguments: tuple) -> dict:
    pairs = arguments[0] if arguments else []
    if type(pairs) is not list or not all(
        type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str
        for pair in pairs
    ):
        raise Refusal("an OrderedDict of something other than pairs")
    items = {name: value for name, value in pairs if len(name) <= MAX_NAME}
    pairs.clear()  # bounds the work if a pickle passes one list many times
    return items


def _rebuild(arguments: tuple, dtype: np.dtype | None = None) -> Tensor:
    if len(arguments) < 4 or not isinstance(arguments[0], Part):
        raise Refusal("a tensor without a storage")
    part, offset, shape, strides = arguments[:4]
    if type(shape) is not tuple or type(strides) is not tuple:
        raise Refusal("a tensor whose shape or strides are no tuple")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise Refusal(f"a tensor of {len(shape)} dimensions and {len(strides)} strides")
    for number in (offset, *shape, *strides):
        if type(number) is not int or not 0 <= number < 1 << 48:
            raise Refusal(f"{shown(number)} as offset, shape or stride of a tensor")
    dtype = dtype or part.storage.dtype
    if 0 in shape:  # has no values to be out of bounds
        return Tensor(part, dtype, 0, shape, (0,) * len(shape))
    steps = sum((length - 1) * stride for length, stride in zip(shape, strides))
    end = (offset + steps + 1) * dtype.itemsize
    size = part.length * part.storage.dtype.itemsize
    if end > size:
        raise Refusal(f"a tensor reaches to byte {end:,} of a storage of {size:,}")
    return Tensor(part, dtype, offset, shape, strides)


def _rebuild_v3(arguments: tuple) -> Tensor:
    if len(arguments) < 7 or not isinstance(arguments[6], Type):
        raise Refusal("a tensor without a type")
    return _rebuild(arguments, arguments[6].dtype)


def _parameter(arguments: tuple) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise Refusal("a parameter without a tensor")
    return arguments[0]


def _size(arguments: tuple) -> tuple:
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        raise Refusal("a torch.Size of something other than numbers")
    return arguments[0]


NAMES: dict[tuple[str, str], Any] = {
    **{
        (module, f"{name}Storage"): Type(np.dtype(dtype))
        for module in ("torch", "torch.cuda")
        for name, dtype in _TYPES.items()
    },
    ("torch.storage", "UntypedStorage"): Type(np.dtype(np.uint8)),
    **{("torch", name): Type(np.dtype(name)) for name in _DTYPES},
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _ordered_dict,
}
