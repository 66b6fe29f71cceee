"""The initialisers (weights) and the graph of an ONNX file.

A reader of protobuf's wire format that decodes the required fields of onnx.proto and
skips the others. The package `onnx` 1.23 is not used: it needs 290 MiB for a hostile
file with 4 MiB of empty nodes (the bound is 64 MiB), and it silently merges two graphs,
or two values of one tensor.

Exporters fold BatchNorm into the preceding convolution and name the result
`onnx::Conv_529`. Such an initialiser is renamed after its module
(`features.0.conv.0.0.weight`), which the name of its node contains. The graph tells
what a tensor is for without any names; `convert.graphs` compares it with the networks.
"""

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.convert.readers.tensors import Stored, size

# Bounds on the number of fields; a node has about 20.
_MIN_LIMIT, _MAX_LIMIT, _BYTES_PER_FIELD = 20_000, 200_000, 64
_PER_NODE = 8  # further fields that a node counts as, for the objects made of it
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes
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
# Names of a module's inputs after the first.
_INPUTS = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "PRelu": ("weight",),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}


_MAX_INTEGERS = 16  # in an attribute


class Span(NamedTuple):
    start: int
    end: int


class Node(NamedTuple):
    """An operation, with its attributes that are numbers."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, tuple[int | float, ...]]


class Graph(NamedTuple):
    """The operations of a network in order, and the values that they start from.

    `constants` are tensors of Constant nodes, by the name of their output.
    """

    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Any]


def read(data: memoryview) -> tuple[dict[str, Stored], Graph]:
    """Returns the initialisers by name, and the graph with the same names.

    Raises:
      Refusal: for damaged bytes, and for weights stored in other files.
    """
    reader = _Reader(data)
    graphs = reader.grouped(Span(0, len(data)))[7]
    if len(graphs) != 1:
        raise Refusal(f"an ONNX model of {len(graphs)} graphs", 0)
    tensors: dict[str, Stored] = {}
    names: dict[str, str] = {}
    graph = Graph([], (), (), {})
    ends: dict[int, list[str]] = {11: [], 12: []}
    for number, value, at in reader.fields(reader.span(graphs[0])):
        if number == 1:
            names |= _add_node(reader, reader.span(value), graph)
        elif number == 5:
            name, tensor = _tensor(reader, reader.span(value))
            if name in tensors:
                raise Refusal(f"two initialisers are named {shown(name)}", at)
            tensors[name] = tensor
        elif number in ends:
            ends[number].append(reader.text(reader.grouped(reader.span(value))[1]))
        elif number == 15:
            raise Refusal("a sparse initialiser", at, "export it with dense weights")
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        renamed, names = tensors, {}
    nodes = [
        node._replace(inputs=tuple(names.get(name, name) for name in node.inputs))
        for node in graph.nodes
    ]
    constants = {k: v for k, v in graph.constants.items() if k and k not in renamed}
    return renamed, Graph(nodes, tuple(ends[11]), tuple(ends[12]), constants)


class _Reader:
    """Reads protobuf fields within the bounds of their message."""

    def __init__(self, data: memoryview):
        self.data = data
        self._limit = min(_MIN_LIMIT + len(data) // _BYTES_PER_FIELD, _MAX_LIMIT)
        self._left = self._limit

    def fields(self, span: Span) -> Iterator[tuple[int, Any, int]]:
        """Yields (field number, int or Span, first byte of the field)."""
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
            elif kind == _BYTES or kind in _FIXED:
                length = _FIXED.get(kind)
                if length is None:
                    length, at = self.varint(at, span.end)
                if length > (left := span.end - at):
                    reason = f"a field of {length:,} bytes where {left:,} are left"
                    raise Refusal(reason, begin)
                value, at = Span(at, at + length), at + length
            else:
                raise Refusal(f"protobuf wire type {kind}", begin)
            yield number, value, begin

    def grouped(self, span: Span) -> dict[int, list[Any]]:
        """Returns the values of a message by field number."""
        values = collections.defaultdict(list)
        for number, value, _ in self.fields(span):
            values[number].append(value)
        return values

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Returns an unsigned number of up to 64 bits and the byte after it."""
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

    def spend(self, at: int, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise Refusal(f"over {self._limit:,} protobuf fields", at)

    def span(self, value: Any) -> Span:
        if not isinstance(value, Span):
            raise Refusal("a number where a message belongs")
        return value

    def texts(self, values: list[Any]) -> list[str]:
        """Returns the names in a repeated field."""
        spans = [self.span(value) for value in values]
        for start, end in spans:
            if end - start > 1024:
                raise Refusal(f"a name of {end - start:,} bytes", start)
        return [str(self.data[start:end], "utf-8", "replace") for start, end in spans]

    def text(self, values: list[Any]) -> str:
        """Returns the last name in a field, '' by default."""
        return ["", *self.texts(values)][-1]

    def numbers(self, values: list[Any]) -> list[int]:
        """Returns the signed 64-bit integers in a repeated field, packed or not."""
        numbers = []
        for value in values:
            if not isinstance(value, Span):
                numbers.append(value)
                continue
            at = value.start
            while at < value.end:
                self.spend(at)
                number, at = self.varint(at, value.end)
                numbers.append(number)
        return [number - (number >> 63 << 64) for number in numbers]


def _tensor(reader: _Reader, span: Span) -> tuple[str, Stored]:
    """Returns name and content of a TensorProto."""
    fields = reader.grouped(span)
    if fields[13] or 1 in fields[14]:
        raise Refusal(
            "its weights are in another file",
            span.start,
            "export it as one file: torch.onnx.export(..., external_data=False), or "
            "onnx.save(onnx.load(FILE), NEW)",
        )
    if unsupported := [number for number in (3, 5, 6, 11) if fields[number]]:
        reason = f"TensorProto field {unsupported[0]}"
        raise Refusal(reason, span.start, "export it as float32")
    name = reader.text(fields[8])
    kind = fields[2][-1] if fields[2] else 0
    shape = tuple(reader.numbers(fields[1]))
    integers = reader.numbers(fields[7])
    # float_data, raw_data, double_data
    contents = [(field, value) for field in (4, 9, 10) for value in fields[field]]
    if len(contents) + bool(integers) > 1:
        raise Refusal(f"{shown(name)} is in {len(contents)} pieces", span.start)
    if kind not in _TYPES:
        reason = f"{shown(name)} is of ONNX type {shown(kind)}"
        raise Refusal(reason, span.start, "export float32")
    if not all(0 <= length < 1 << 48 for length in shape):
        raise Refusal(f"{shown(name)} has shape {shown(str([*shape]))}", span.start)
    dtype = _TYPES[kind]
    expected = size(shape, dtype.itemsize)
    data, start, length, stored_kind = reader.data, span.start, 0, kind
    if contents:
        field, content = contents[0]
        start, end = reader.span(content)
        length, stored_kind = end - start, {4: 1, 10: 11}.get(field, kind)
    elif kind == 7:
        data = memoryview(np.array(integers, "<i8").tobytes())
        start, length = 0, len(data)
    if length != expected or stored_kind != kind:
        reason = f"{shown(name)} holds {length:,} bytes, not {dtype} {shape}"
        raise Refusal(reason, span.start)
    return name, Stored(data, dtype, start, shape)


def _add_node(reader: _Reader, span: Span, graph: Graph) -> dict[str, str]:
    """Adds a node; returns names in its module for its anonymous initialisers."""
    reader.spend(span.start, _PER_NODE)
    fields = reader.grouped(span)
    inputs = tuple(reader.texts(fields[1]))
    outputs = tuple(reader.texts(fields[2]))
    operator = reader.text(fields[4])
    attributes = {}
    for value in fields[5]:
        parts = reader.grouped(reader.span(value))
        if operator == "Constant" and parts[5] and len(outputs) == 1:
            graph.constants[outputs[0]] = _tensor(reader, reader.span(parts[5][-1]))[1]
        attributes[reader.text(parts[1])] = _numbers(reader, parts)
    graph.nodes.append(Node(operator, inputs, outputs, attributes))
    # "/features/features.0/conv/conv.0/Conv": a level may repeat the one above.
    levels = reader.text(fields[3]).split("/")[1:-1]
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


def _numbers(reader: _Reader, parts: dict[int, list[Any]]) -> tuple[int | float, ...]:
    """Returns the number or the integers of an attribute; () for other values."""
    if parts[2]:
        start, end = reader.span(parts[2][-1])
        if end - start == 4:
            return (float(np.frombuffer(reader.data[start:end], "<f4")[0]),)
        return ()
    if parts[3]:
        return tuple(reader.numbers(parts[3][-1:]))
    packed = [value for value in parts[8] if isinstance(value, Span)]
    if any(end - start > 10 * _MAX_INTEGERS for start, end in packed):
        return ()
    return tuple(reader.numbers(parts[8]))
