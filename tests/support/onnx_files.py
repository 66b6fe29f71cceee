"""ONNX files of published networks, as different exporters write them.

A `Network` of `published_networks` whose operations add nodes to a graph.
"""

from typing import NamedTuple

import numpy as np

from tests.support.published_networks import Network
from tests.support.weight_files import field, initialiser, onnx


class Style(NamedTuple):
    """What exporters do differently.

    Attributes:
      names: initialisers keep their names; otherwise they have numbers.
      fold: BatchNorms become part of the layer before them.
      norm: "BatchNormalization", or "Mul" and "Add".
      linear: "Gemm", "Gemm^T" (transB 0), "MatMul" and "Add", or "Conv".
      constants: weights are Constant nodes.
      listed: initialisers are inputs of the graph too.
      slopes: shape of the slopes: [C, 1, 1] by default, or [1, C, 1, 1].
      unit: the embedding is scaled to length 1.
      scaled: the graph subtracts 127.5 and divides by this number first.
      reordered: nodes are in another order of calculation.
      epsilon: of the BatchNorms.
    """

    names: bool = False
    fold: bool = True
    norm: str = "BatchNormalization"
    linear: str = "Gemm"
    constants: bool = False
    listed: bool = False
    slopes: tuple[int, ...] = (-1, 1, 1)
    unit: bool = False
    scaled: float = 0.0
    reordered: bool = False
    epsilon: float = 1e-5


class Value:
    """A value in the graph, with the arithmetic of arrays."""

    def __init__(self, graph, name, shape):
        self.graph, self.name, self.shape = graph, name, shape
        self.ndim = len(shape)

    def __len__(self):
        return self.shape[0]

    def __add__(self, other):
        return self.graph.emit("Add", [self, other], self.shape)

    def __mul__(self, other):
        return self.graph.emit("Mul", [self, other], self.shape)

    def __getitem__(self, index):
        step = index[2].step
        if step == 1:
            return self
        batch, channels, height, width = self.shape
        shape = (batch, channels, -(-height // step), -(-width // step))
        sides = {"kernel_shape": (1, 1), "strides": (step, step)}
        return self.graph.emit("MaxPool", [self], shape, **sides)

    def mean(self, axes):
        shape = (*self.shape[:2], 1, 1)
        return self.graph.emit("GlobalAveragePool", [self], shape)

    def reshape(self, *shape):
        if shape[-1] == -1:
            shape = (len(self), int(np.prod(self.shape[1:])))
        if shape == self.shape:
            return self
        return self.graph.emit("Flatten", [self], shape, axis=1)


class Graph:
    """The operations of a network, which add nodes."""

    def __init__(self, style: Style):
        self.style = style
        self.nodes: list[tuple[list[str], str, bytes]] = []
        self.tensors: dict[str, np.ndarray] = {}

    def tensor(self, name, array) -> str:
        if not self.style.names or name in self.tensors:
            name = f"{len(self.tensors) + 685}"
        self.tensors[name] = np.ascontiguousarray(array, np.float32)
        return name

    def emit(self, operator, inputs, shape, **attributes) -> Value:
        taken = [x.name if isinstance(x, Value) else x for x in inputs]
        out = f"t{len(self.nodes)}"
        body = b"".join(field(1, name.encode()) for name in taken)
        body += field(2, out.encode()) + field(4, operator.encode())
        for name, value in attributes.items():
            body += field(5, field(1, name.encode()) + _attribute(value))
        self.nodes.append((taken, out, field(1, body)))
        return Value(self, out, shape)

    def convolution(self, x, name, weight, bias, stride=1, padding=0, groups=1):
        pads = _pads(padding)
        sides = [
            (x.shape[axis + 2] + pads[axis] + pads[axis + 2] - weight.shape[axis + 2])
            // stride
            + 1
            for axis in (0, 1)
        ]
        inputs = [x, self.tensor(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.tensor(f"{name}.weight_bias", bias))
        attributes = {
            "dilations": (1, 1),
            "group": groups,
            "kernel_shape": weight.shape[2:],
            "pads": pads,
            "strides": (stride, stride),
        }
        shape = (x.shape[0], len(weight), *sides)
        return self.emit("Conv", inputs, shape, **attributes)

    def relu(self, x):
        return self.emit("Relu", [x], x.shape)

    def clip(self, x, low, high):
        return self.emit("Clip", [x], x.shape, min=float(low), max=float(high))

    def sigmoid(self, x):
        return self.emit("Sigmoid", [x], x.shape)

    def join(self, parts):
        shape = list(parts[0].shape)
        shape[1] = sum(part.shape[1] for part in parts)
        return self.emit("Concat", parts, tuple(shape), axis=1)

    def pool(self, x):
        sides = {"kernel_shape": (3, 3), "strides": (2, 2)}
        shape = (*x.shape[:2], *((side - 3) // 2 + 1 for side in x.shape[2:]))
        return self.emit("MaxPool", [x], shape, **sides)

    def scale(self, x, number):
        return self.emit("Mul", [x, self.tensor("scale", np.array(number))], x.shape)


class OnnxNetwork(Network):
    """Adds the layers of a state dict to a graph, in a style."""

    def __init__(self, state, style: Style):
        self.style = style
        super().__init__(Graph(style), state)
        self._layers: dict[str, tuple] = {}  # linear layers not in the graph yet

    def conv(self, x, name, stride=1, padding=0, groups=1):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        options = {"stride": stride, "padding": padding, "groups": groups}
        return self._linear(x, name, weight, bias, options)

    def linear(self, x, name):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return self._linear(x.reshape(len(x), -1), name, weight, bias, None)

    def _linear(self, x, name, weight, bias, options):
        graph, kept = self.do, f"{name}.weight"
        before = len(graph.nodes), len(graph.tensors)
        shape, linear = (len(x), len(weight)), self.style.linear
        if options is not None:
            out = graph.convolution(x, name, weight, bias, **options)
        elif linear == "MatMul":
            inputs = [x, graph.tensor(kept, weight.T)]
            out = graph.emit("MatMul", inputs, shape)
            if bias is not None:
                added = graph.tensor(f"{name}.bias", bias)
                out = graph.emit("Add", [added, out], shape)
        elif linear == "Conv":
            maps = Value(graph, x.name, (*x.shape, 1, 1))
            out = graph.convolution(maps, name, weight[:, :, None, None], bias)
            out = out.reshape(*shape)
        else:
            flag = int(linear == "Gemm")
            inputs = [x, graph.tensor(kept, weight if flag else weight.T)]
            if bias is not None:
                inputs.append(graph.tensor(f"{name}.bias", bias))
            out = graph.emit("Gemm", inputs, shape, transB=flag, alpha=1.0)
        self._layers[out.name] = (x, name, weight, bias, options, before)
        return out

    def norm(self, x, name):
        leaves = ("weight", "bias", "running_mean", "running_var")
        mean, var = (self.state[f"{name}.{leaf}"] for leaf in leaves[2:])
        scale = self.state.get(f"{name}.weight", np.ones_like(mean))
        shift = self.state.get(f"{name}.bias", np.zeros_like(mean))
        factor = scale / np.sqrt(var + self.style.epsilon)
        offset = shift - mean * factor
        graph = self.do
        if self.style.fold and x.name in self._layers:
            source, name, weight, bias, options, before = self._layers.pop(x.name)
            del graph.nodes[before[0] :]
            graph.tensors = dict(list(graph.tensors.items())[: before[1]])
            bias = offset if bias is None else bias * factor + offset
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            return self._linear(source, name, weight, bias, options)
        if self.style.norm == "Mul":
            wide = (-1, *[1] * (x.ndim - 2))
            x = x * Value(graph, graph.tensor("factor", factor.reshape(wide)), ())
            return x + Value(graph, graph.tensor("offset", offset.reshape(wide)), ())
        values = [
            graph.tensor(f"{name}.{leaf}", array)
            for leaf, array in zip(leaves, (scale, shift, mean, var))
        ]
        epsilon = self.style.epsilon
        return graph.emit("BatchNormalization", [x, *values], x.shape, epsilon=epsilon)

    def prelu(self, x, name):
        slopes = self.state[f"{name}.weight"].reshape(self.style.slopes)
        kept = f"val_{len(self.do.tensors)}"
        return self.do.emit("PRelu", [x, self.do.tensor(kept, slopes)], x.shape)

    def sigmoid(self, x):
        return self.do.sigmoid(x)


def network_file(network, state, style=None, *, size=(112, 112)) -> bytes:
    """Returns an ONNX file; `network` is a function of `published_networks`."""
    style = style or Style()
    net = OnnxNetwork(state, style)
    graph = net.do
    image = x = Value(graph, "input.1", (1, 3, *size))
    if style.scaled:
        half = graph.tensor("mean", np.array(127.5))
        x = graph.emit("Sub", [x, half], x.shape)
        x = x * Value(graph, graph.tensor("scale", np.array(1 / style.scaled)), ())
    out = network(net, x)
    if style.unit:
        length = graph.emit("ReduceL2", [out], (1, 1), axes=(1,), keepdims=1)
        out = graph.emit("Div", [out, length], out.shape)
    nodes = _reordered(graph.nodes) if style.reordered else graph.nodes
    parts = [node for _, _, node in nodes]
    weights = [initialiser(*item) for item in graph.tensors.items()]
    if style.constants:
        parts = [_constant(*item) for item in graph.tensors.items()] + parts
    else:
        parts += [field(5, weight) for weight in weights]
    names = [image.name, *(graph.tensors if style.listed else ())]
    parts += [field(11, field(1, name.encode())) for name in names]
    return onnx(*parts, field(12, field(1, out.name.encode())))


def constant_outputs(arrays, size=320) -> bytes:
    """Returns a network whose outputs are these arrays, for any image."""
    graph = Graph(Style())
    image = Value(graph, "input", (1, 3, size, size))
    mean = graph.emit("ReduceMean", [image], (1, 1, 1, 1), axes=(1, 2, 3), keepdims=0)
    nothing = graph.tensor("zero", np.zeros(1))
    mean = graph.emit("Mul", [mean, nothing], (1,))
    parts, ends = [], []
    for name, array in arrays.items():
        inputs = field(1, mean.name.encode()) + field(
            1, graph.tensor("", array).encode()
        )
        node = inputs + field(2, name.encode()) + field(4, b"Add")
        parts.append(field(1, node))
        ends.append(field(12, _described(name, array.shape)))
    nodes = [node for _, _, node in graph.nodes]
    weights = [field(5, initialiser(*item)) for item in graph.tensors.items()]
    start = field(11, _described(image.name, image.shape))
    body = b"".join([*nodes, *parts, field(2, b"graph"), *weights, start, *ends])
    return field(1, 8) + field(7, body) + field(8, field(1, b"") + field(2, 11))


def _described(name, shape) -> bytes:
    sides = b"".join(field(1, field(1, length)) for length in shape)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, sides)))


def _constant(name, array) -> bytes:
    value = field(1, b"value") + field(5, initialiser("", array)) + field(20, 4)
    body = field(2, name.encode()) + field(4, b"Constant") + field(5, value)
    return field(1, body)


def _reordered(nodes):
    """The last of the nodes that could come next, always: a deep order."""
    made = {"input.1"} | {n for taken, _, _ in nodes for n in taken} - {
        out for _, out, _ in nodes
    }
    left, order = list(nodes), []
    while left:
        ready = [node for node in left if made.issuperset(node[0])]
        order.append(ready[-1])
        left.remove(ready[-1])
        made.add(ready[-1][1])
    return order


def _attribute(value) -> bytes:
    if isinstance(value, float):
        return b"\x15" + np.float32(value).tobytes() + field(20, 1)
    if isinstance(value, int):
        return field(3, value) + field(20, 2)
    return b"".join(field(8, int(number)) for number in value) + field(20, 7)


def _pads(padding):
    if isinstance(padding, int):
        return (padding,) * 4
    (top, bottom), (left, right) = padding
    return top, left, bottom, right
