"""The initialisers of an ONNX network: its weights, without the network.

A reader of protobuf's wire format that knows the few fields it needs of onnx.proto and
steps over the others. The package `onnx` 1.23 is not used: a hostile file of 4 MiB of
empty nodes takes it 290 MiB, where 64 MiB are the bound, and it merges two graphs, or
two pieces of a tensor, without a word.

Exporters fold BatchNorm into the convolution before it and call the result
`onnx::Conv_529`; such an initialiser is named after the module that takes it
(`features.0.conv.0.0.weight`), which its node's name tells.
"""

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, contiguous, size

# A node takes about 20 fields; of a larger file more are read.
_FEW, _MOST, _BYTES_EACH = 20_000, 200_000, 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    16: np.dtype(ml_dtypes.bfloat16),
}
# What a module calls its inputs after the first.
_INPUTS = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "PRelu": ("weight",),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}


class Span(NamedTuple):
    start: int
    end: int


def read(data: memoryview) -> dict[str, Stored]:
    """Returns the initialisers by name.

    Raises:
      Refusal: for damaged bytes, and for weights in other files.
    """
    reader = _Reader(data)
    graphs = [
        reader.span(value)
        for number, value, _ in reader.fields(Span(0, len(data)))
        if number == 7
    ]
    if len(graphs) != 1:
        raise Refusal(f"an ONNX model of {len(graphs)} graphs", 0)
    found: dict[str, Stored] = {}
    names: dict[str, str] = {}
    for number, value, at in reader.fields(graphs[0]):
        if number == 1:
            names |= _node_names(reader, reader.span(value))
        elif number == 5:
            name, tensor = _tensor(reader, reader.span(value))
            if name in found:
                raise Refusal(f"two initialisers are named {shown(name)}", at)
            found[name] = tensor
        elif number == 15:
            raise Refusal("a sparse initialiser", at, "export it with dense weights")
    renamed = {names.get(name, name): tensor for name, tensor in found.items()}
    return renamed if len(renamed) == len(found) else found


class _Reader:
    """Protobuf fields of a message, all of it within its bounds."""

    def __init__(self, data: memoryview):
        self.data = data
        self._limit = min(_FEW + len(data) // _BYTES_EACH, _MOST)
        self._left = self._limit

    def fields(self, span: Span) -> Iterator[tuple[int, Any, int]]:
        """Yields (field number, int or Span, byte where it starts)."""
        at = span.start
        while at < span.end:
            self.spend(at)
            begin = at
            tag, at = self.varint(at, span.end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise Refusal(f"protobuf field {number:,}", begin)
            if kind == _VARINT:
                value, at = self.varint(at, span.end)
            else:
                if kind == _BYTES:
                    length, at = self.varint(at, span.end)
                elif kind in (_FIXED32, _FIXED64):
                    length = 4 if kind == _FIXED32 else 8
                else:
                    raise Refusal(f"protobuf wire type {kind}", begin)
                if length > span.end - at:
                    raise Refusal(
                        f"a field of {length:,} bytes where {span.end - at:,} are left",
                        begin,
                    )
                value, at = Span(at, at + length), at + length
            yield number, value, begin

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Returns an unsigned number of up to 64 bits and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128 and value < 1 << 64:
                return value, at
        raise Refusal("a protobuf number without an end", at)

    def spend(self, at: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise Refusal(f"over {self._limit:,} protobuf fields", at)

    def span(self, value: Any) -> Span:
        if not isinstance(value, Span):
            raise Refusal("a number where a message belongs")
        return value

    def text(self, value: Any) -> str:
        start, end = self.span(value)
        if end - start > 1024:
            raise Refusal(f"a name of {end - start:,} bytes", start)
        return str(self.data[start:end], "utf-8", "replace")

    def numbers(self, value: Any) -> list[int]:
        """Returns a repeated integer, packed or not, as 64 bits with their sign."""
        found = []
        if isinstance(value, Span):
            at = value.start
            while at < value.end:
                self.spend(at)
                number, at = self.varint(at, value.end)
                found.append(number)
        else:
            found.append(value)
        return [number - (number >> 63 << 64) for number in found]


def _tensor(reader: _Reader, span: Span) -> tuple[str, Stored]:
    """Returns name and place of a TensorProto."""
    fields = collections.defaultdict(list)
    for number, value, _ in reader.fields(span):
        fields[number].append(value)
    if fields[13] or 1 in fields[14]:
        raise Refusal(
            "its weights lie in another file",
            span.start,
            "save it as one file (save_as_external_data=False)",
        )
    if odd := [number for number in (3, 5, 6, 11) if fields[number]]:
        raise Refusal(f"TensorProto field {odd[0]}", span.start, "export it as float32")
    name = reader.text(fields[8][-1]) if fields[8] else ""
    kind = fields[2][-1] if fields[2] else 0
    shape = [length for value in fields[1] for length in reader.numbers(value)]
    integers = [number for value in fields[7] for number in reader.numbers(value)]
    # float_data, raw_data, double_data
    places = [(field, value) for field in (4, 9, 10) for value in fields[field]]
    if len(places) + bool(integers) > 1:
        raise Refusal(f"{shown(name)} is in {len(places)} pieces", span.start)
    dtype = _TYPES.get(kind)
    if dtype is None:
        raise Refusal(
            f"{shown(name)} is of ONNX type {shown(kind)}", span.start, "export float32"
        )
    if not all(0 <= length < 1 << 48 for length in shape):
        raise Refusal(f"{shown(name)} has shape {shown(str(shape))}", span.start)
    due = size(tuple(shape), dtype.itemsize)
    content, start, length, typed = reader.data, span.start, 0, kind
    if places:
        field, place = places[0]
        start, end = reader.span(place)
        length, typed = end - start, {4: 1, 10: 11}.get(field, kind)
    elif kind == 7:
        content = memoryview(np.array(integers, "<i8").tobytes())
        start, length = 0, len(content)
    if length != due or typed != kind:
        raise Refusal(
            f"{shown(name)} holds {length:,} bytes, not {dtype} {tuple(shape)}",
            span.start,
        )
    return name, contiguous(content, dtype, start, tuple(shape))


def _node_names(reader: _Reader, span: Span) -> dict[str, str]:
    """Returns anonymous initialisers with the names that the module of a node gives."""
    inputs, scope, operator = [], "", ""
    for number, value, _ in reader.fields(span):
        if number == 1:
            inputs.append(reader.text(value))
        elif number == 3:
            scope = reader.text(value)
        elif number == 4:
            operator = reader.text(value)
    # "/features/features.0/conv/conv.0/Conv": each level repeats those it goes through.
    levels = scope.split("/")[1:-1]
    module = ".".join(
        level
        for level, below in zip(levels, [*levels[1:], ""])
        if not below.startswith(f"{level}.")
    )
    return {
        name: f"{module}.{leaf}"
        for name, leaf in zip(inputs[1:], _INPUTS.get(operator, ()))
        if module and name.startswith("onnx::")
    }
