"""The layers of an ONNX graph, whatever exporters call their tensors.

BatchNorm may be folded into the layer before it or be a product and a sum, weights may
be constants, transposed or behind a cast, a linear layer may be Gemm, MatMul or a
convolution.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fr_jax.convert.graphs.network import IMAGE, Feed
from fr_jax.convert.readers.onnx import Graph, Node
from fr_jax.errors import UserError

_MAX_SOURCES = 256
# Operations that leave the values between layers as they are, or join them.
_PASSING = {
    *("Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"),
    *("Concat", "Slice", "Expand", "MaxPool", "Add", "Mul"),
    *("ReduceMean", "GlobalAveragePool", "AveragePool"),
}
# Operations on the input that leave its channels in their order.
_INITIAL = ("Identity", "Cast", "Transpose")
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid"}
_RESHAPING = ("Unsqueeze", "Squeeze", "Reshape", "Flatten")  # of constants
_SIGNS = {"Add": 1, "Sub": -1}


class OnnxLayer(NamedTuple):
    """A layer with parameters.

    Attributes:
      kind: 'linear', 'norm' or 'slope'.
      weight: kernel [out, in / groups, height, width] or [out, in], or slopes [C].
      bias: [out] of a linear layer, or None.
      norm: scale, bias, mean and variance [C] of a BatchNorm.
      epsilon: of a BatchNorm; 0 for a product and a sum.
      stride, padding: of a convolution; padding before and after each axis.
    """

    kind: str
    feed: Feed
    weight: np.ndarray
    bias: np.ndarray | None = None
    norm: tuple[np.ndarray, ...] = ()
    epsilon: float = 0.0
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0, 0, 0)
    groups: int = 1


class UnknownGraph(UserError):
    """A graph that is no known network."""


class OnnxLayers:
    """Finds the layers of a graph.

    Attributes:
      layers: in the order of the file.
      output: feed of the graph's output.
      mean, scale: of the preprocessing in the graph: (input - mean) / scale.

    Raises:
      UnknownGraph: for a graph that no known network has.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, np.ndarray]):
        self.layers: list[OnnxLayer] = []
        self.mean, self.scale = np.zeros(1), np.ones(1)
        self._constants = {**graph.constants, **tensors}
        images = [name for name in graph.inputs if name not in self._constants]
        if len(images) != 1:
            raise UnknownGraph(f"a graph with {len(images)} inputs instead of one")
        self._feeds = {images[0]: Feed(frozenset([IMAGE]))}
        self._raw = {images[0]}  # the input, and the input with its preprocessing
        for node in graph.nodes:
            if node.outputs and (feed := self._visit(node)):
                self._feeds[node.outputs[0]] = feed
        outputs = (self._feeds.get(name, Feed()) for name in graph.outputs)
        self.output = next((feed for feed in outputs if feed.sources), Feed())

    def _visit(self, node: Node) -> Feed | None:
        """Returns the feed of the output; None for constants."""
        given = [name for name in node.inputs if name]
        values = [name for name in given if name in self._feeds]
        if len(values) < len(given):
            known = self._feeds, self._constants
            unknown = [n for n in given if not any(n in one for one in known)]
            if unknown:
                raise UnknownGraph(f"{unknown[0]!r:.60} is used before it is computed")
        if not values or node.operator == "Shape":
            return self._constant(node, given)
        feed = Feed.union([self._feeds[name] for name in values])
        if len(feed.sources) > _MAX_SOURCES:
            raise UnknownGraph(f"a value that depends on over {_MAX_SOURCES} layers")
        operator = node.operator
        layer = None
        if operator in _READERS and len(values) == 1 and given[0] == values[0]:
            layer = _READERS[operator](self, node, feed)
        elif operator in ("Add", "Sub", "Mul", "Div") and len(values) < len(given):
            return self._arithmetic(node, feed, values[0])
        elif values[0] in self._raw and operator in _INITIAL:
            self._raw.add(node.outputs[0])
        elif operator == "Clip":
            return Feed.union([feed], self._clip(node))
        elif operator not in _PASSING or values[0] in self._raw:
            return Feed.union([feed], _ACTIVATIONS.get(operator, operator[:40]))
        if layer is None:
            return feed
        self.layers.append(layer)
        return Feed(frozenset([len(self.layers) - 1]))

    def _constant(self, node: Node, given: list[str]) -> None:
        """Follows weights through changes of their shape; other results are no data."""
        output, result = node.outputs[0], np.zeros(0, np.float32)
        if node.operator in ("Identity", "Cast") and given:
            result = self._constants[given[0]]
        elif node.operator in _RESHAPING and given:
            result = self._constants[given[0]].reshape(-1)  # slopes and biases
        elif node.operator == "Transpose" and given:
            array = self._constants[given[0]]
            result = array.T if array.ndim == 2 else result
        self._constants.setdefault(output, result)

    def _array(self, node: Node, index: int) -> np.ndarray:
        array = (
            self._constants.get(node.inputs[index])
            if index < len(node.inputs)
            else None
        )
        if array is None or array.dtype != np.float32 or not array.size:
            raise UnknownGraph(f"a {node.operator} whose input {index} is no weight")
        return array

    def _bias(self, node: Node, length: int) -> np.ndarray | None:
        if len(node.inputs) < 3 or not node.inputs[2]:
            return None
        bias = self._array(node, 2).reshape(-1)
        if len(bias) not in (1, length):
            raise UnknownGraph(f"a {node.operator} of {length} with {len(bias)} biases")
        return np.broadcast_to(bias, length)

    def _convolution(self, node: Node, feed: Feed) -> OnnxLayer:
        weight, numbers = self._array(node, 1), node.attributes
        if weight.ndim != 4 or set(numbers.get("dilations", ())) - {1}:
            raise UnknownGraph("a dilated convolution, or one of other than two axes")
        if "auto_pad" in numbers and "pads" not in numbers:
            raise UnknownGraph("a convolution with automatic padding")
        return OnnxLayer(
            "linear",
            feed,
            weight,
            self._bias(node, len(weight)),
            stride=_integers(numbers.get("strides") or (1, 1)),
            padding=_integers(numbers.get("pads") or (0, 0, 0, 0)),
            groups=_integers(numbers.get("group") or (1,))[0],
        )

    def _matrix(self, node: Node, feed: Feed) -> OnnxLayer:
        weight, numbers = self._array(node, 1), node.attributes
        if weight.ndim != 2 or any(numbers.get("transA") or ()):
            raise UnknownGraph(f"a {node.operator} of other than rows and a matrix")
        alpha, beta = (
            np.float32((numbers.get(n) or (1,))[0]) for n in ("alpha", "beta")
        )
        weight = weight if any(numbers.get("transB") or ()) else weight.T
        bias = self._bias(node, len(weight))
        weight = weight if alpha == 1 else alpha * weight
        bias = bias if bias is None or beta == 1 else beta * bias
        return OnnxLayer("linear", feed, weight, bias)

    def _slopes(self, node: Node, feed: Feed) -> OnnxLayer:
        return OnnxLayer("slope", feed, self._array(node, 1).reshape(-1))

    def _norm(self, node: Node, feed: Feed) -> OnnxLayer:
        norm = tuple(self._array(node, index).reshape(-1) for index in range(1, 5))
        if len({len(array) for array in norm}) > 1:
            raise UnknownGraph("a BatchNormalization with arrays of several lengths")
        epsilon = float((node.attributes.get("epsilon") or (1e-5,))[0])
        return OnnxLayer("norm", feed, norm[0], None, norm, epsilon)

    def _arithmetic(self, node: Node, feed: Feed, value: str) -> Feed:
        """A sum or product with a constant: bias, BatchNorm, preprocessing, number."""
        constant = next(name for name in node.inputs if name not in self._feeds)
        array = self._constants[constant]
        if array.dtype != np.float32 or not array.size:
            return feed  # of shapes
        if max(array.shape, default=1) < array.size:
            raise UnknownGraph(
                f"a {node.operator} of maps and a constant {array.shape}"
            )
        array = array.reshape(-1)
        if node.inputs[0] == constant and node.operator in ("Sub", "Div"):
            return Feed.union([feed], f"{node.operator} from a constant")
        factor, offset = np.float32(1), np.float32(0)
        if node.operator in _SIGNS:
            offset = _SIGNS[node.operator] * array
        else:
            factor = array if node.operator == "Mul" else 1 / array
        if value in self._raw and not self.layers:
            self.mean = self.mean - offset * self.scale / factor
            self.scale = self.scale / factor
            self._raw = {node.outputs[0]}  # the others are no input of the network
            return feed
        if array.size == 1:
            return Feed.union(
                [feed], "scaled" if node.operator == "Mul" else node.operator
            )
        last = len(self.layers) - 1
        if self._feeds[value] == Feed(frozenset([last])):  # of the last layer alone
            layer = self.layers[last]
            if layer.kind == "linear" and node.operator in _SIGNS:
                if len(layer.weight) == array.size:
                    bias = offset if layer.bias is None else layer.bias + offset
                    self.layers[last] = layer._replace(bias=bias)
                    return feed
            elif layer.kind == "norm" and not layer.epsilon:
                scale, bias, *rest = layer.norm
                if len(scale) == array.size:
                    norm = (factor * scale, factor * bias + offset, *rest)
                    self.layers[last] = layer._replace(norm=norm, weight=norm[0])
                    return feed
        ones, zeros = np.ones_like(array), np.zeros_like(array)
        norm = (factor * ones, offset * ones, zeros, ones)
        self.layers.append(OnnxLayer("norm", feed, norm[0], None, norm))
        return Feed(frozenset([last + 1]))

    def _clip(self, node: Node) -> str:
        """Returns the activation of a Clip."""
        ends = []
        for index, name in enumerate(("min", "max"), 1):
            number = node.attributes.get(name) or ()
            if index < len(node.inputs) and node.inputs[index]:
                array = self._constants.get(node.inputs[index], np.zeros(0))
                number = tuple(array.reshape(-1)[:2])
            ends.append(number[0] if len(number) == 1 else None)
        if ends[0] == 0 and (ends[1] is None or ends[1] > 1e30):
            return "relu"
        return "relu6" if ends == [0, 6] else "Clip"


_READERS = {
    "Conv": OnnxLayers._convolution,
    "Gemm": OnnxLayers._matrix,
    "MatMul": OnnxLayers._matrix,
    "BatchNormalization": OnnxLayers._norm,
    "PRelu": OnnxLayers._slopes,
}


def _integers(numbers: tuple[int | float, ...]) -> tuple[int, ...]:
    return tuple(map(int, numbers))
