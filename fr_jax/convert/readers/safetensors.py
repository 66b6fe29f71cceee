"""Safetensors files: a length, a JSON table of tensors, their bytes.

The table is {name: {"dtype", "shape", "data_offsets"}}, with an optional entry
"__metadata__" of text; the tensors fill the rest of the file without gap or overlap.
"""

import json
from typing import Any

import ml_dtypes
import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, contiguous, size

MAX_HEADER = 100_000_000
# A value of JSON takes far more memory than its text: a header may have this many.
_MAX_VALUES = 250_000
_TYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "C64": "<c8",
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "i1",
        "U64": "<u8",
        "U32": "<u4",
        "U16": "<u2",
        "U8": "u1",
        "BOOL": "?",
    }.items()
}


def read(data: memoryview) -> dict[str, Stored]:
    """Returns the tensors of a file by name.

    Raises:
      Refusal: for a table that is damaged, or that does not fit the file.
    """
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER or length > len(data) - 8:
        raise Refusal(f"a header of {length:,} bytes in a file of {len(data):,}", 0)
    table = _table(bytes(data[8 : 8 + length]))
    start = 8 + length
    found = {}
    spans = []
    for name, entry in table.items():
        try:
            tensor, span = _tensor(data, start, entry)
        except Refusal as refusal:
            raise Refusal(f"tensor {shown(name)}: {refusal}", 8) from None
        found[name] = tensor
        spans.append(span)
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise Refusal(f"tensors overlap or leave a gap, {begin:,}", start + at)
        at = end
    if start + at != len(data):
        raise Refusal(f"{len(data) - start - at:,} stray bytes at the end", start + at)
    return found


def _table(header: bytes) -> dict[str, Any]:
    if header.count(b",") + header.count(b"[") + header.count(b"{") > _MAX_VALUES:
        raise Refusal(f"over {_MAX_VALUES:,} values in the header", 8)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise Refusal("a name stands twice in the header", 8)
        return made

    try:
        table = json.loads(header.decode(), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise Refusal("the header is not UTF-8", 8 + error.start) from None
    except json.JSONDecodeError as error:
        raise Refusal(f"the header is not JSON: {error.msg}", 8 + error.pos) from None
    except (RecursionError, ValueError) as error:  # nested deeply, or a long number
        raise Refusal(f"the header is not a table: {type(error).__name__}", 8) from None
    if not isinstance(table, dict):
        raise Refusal("the header is not a table", 8)
    table.pop("__metadata__", None)
    return table


def _tensor(data: memoryview, start: int, entry: Any) -> tuple[Stored, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise Refusal("is no table")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise Refusal(f"type {shown(dtype)}")
    shape, offsets = _counts(entry, "shape"), _counts(entry, "data_offsets")
    if len(offsets) != 2:
        raise Refusal(f"{len(offsets)} data_offsets")
    begin, end = offsets
    due = size(shape, _TYPES[dtype].itemsize)
    if end - begin != due or start + end > len(data):
        raise Refusal(
            f"bytes {begin:,} to {end:,} of {len(data) - start:,}, {due:,} due"
        )
    return contiguous(data, _TYPES[dtype], start + begin, shape), (begin, end)


def _counts(entry: dict[str, Any], key: str) -> tuple[int, ...]:
    numbers = entry.get(key)
    if not isinstance(numbers, list) or not all(
        type(number) is int and 0 <= number < 1 << 48 for number in numbers
    ):
        raise Refusal(f"{key} is no list of counts")
    return tuple(numbers)
