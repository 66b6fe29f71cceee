"""The layers of an ONNX graph as those of a known network, and its state dict."""

import collections
from collections.abc import Iterator

import numpy as np

from fr_jax.convert.dialect import Dialect
from fr_jax.convert.graphs.network import IMAGE, Feed, Layer
from fr_jax.convert.graphs.onnx import OnnxLayer, OnnxLayers, UnknownGraph
from fr_jax.convert.state_dict import layout_of, torch_name
from fr_jax.models import layers as modules

_MAX_TRIALS = 20_000
_FOLDED = -2  # in place of the number of an ONNX layer
# What may follow the last layer: scaling the embedding to length 1.
_NORMALISATION = {
    *("Abs", "Add", "Clip", "Div", "LpNormalization", "Max", "Pow", "ReduceL2"),
    *("ReduceSum", "ReduceSumSquare", "Sqrt", "relu", "scaled"),
}


class Match:
    """The layers of a network, each with the ONNX layer that has its parameters.

    Two layers match if they are of one kind and size and are fed by matching layers. A
    BatchNorm without a match is folded into the linear layer before or after it.

    Attributes:
      doubts: number of layers for which a similar network would fit better: another
        epsilon, a learned scale that is 1 and a learned offset that is 0.

    Raises:
      UnknownGraph: if the networks differ.
    """

    def __init__(self, layers: list[Layer], output: Feed, onnx: OnnxLayers):
        self._layers, self._onnx = layers, onnx.layers
        self._readers: dict[int, list[int]] = collections.defaultdict(list)
        for number, layer in enumerate(layers):
            for source in layer.feed.sources:
                self._readers[source].append(number)
        self._numbers: dict[tuple[str, frozenset[int]], list[int]] = {}
        for number, one in enumerate(onnx.layers):
            key = one.kind, one.feed.sources
            self._numbers.setdefault(key, []).append(number)
        self._chosen: list[int] = []  # ONNX layer of each layer, or _FOLDED
        self._feeds = {IMAGE: Feed(frozenset([IMAGE]))}  # of each layer's output
        self._search()
        if len(set(self._chosen) - {_FOLDED}) < len(onnx.layers):
            raise UnknownGraph("it has further layers")
        last = self._translated(output)
        extra = onnx.output.activations - last.activations
        if last.sources != onnx.output.sources or extra - _NORMALISATION:
            raise UnknownGraph(f"it ends otherwise ({', '.join(sorted(extra))})")
        self.doubts = sum(map(self._doubtful, range(len(layers))))

    def state_dict(self, dialect: Dialect) -> dict[str, np.ndarray]:
        """Returns the parameters with the names of a dialect, in PyTorch's layouts."""
        state: dict[str, np.ndarray] = {}
        shifts: dict[int, np.ndarray] = {}  # biases that the network has in its norms
        for number, layer in enumerate(self._layers):
            chosen = self._chosen[number]
            one = None if chosen == _FOLDED else self._onnx[chosen]
            if layer.kind == "linear" and one:
                arrays = {"params/kernel": one.weight}
                zeros = np.zeros(len(one.weight), np.float32)
                bias = zeros if one.bias is None else one.bias
                if layer.module.use_bias:
                    arrays["params/bias"] = bias
                else:
                    shifts[number] = bias
            elif layer.kind == "slope" and one:
                arrays = {"params/slope": one.weight}
            else:
                (source, *_) = layer.feed.sources
                shift = shifts.get(source) if len(layer.feed.sources) == 1 else None
                arrays = _norm(layer, one, shift)
            for name, array in arrays.items():
                collection, leaf = name.split("/")
                path = (collection, *layer.path, leaf)
                if layer.kind == "linear" and leaf == "kernel":
                    array = _kernel(array, layout_of(path, array.ndim, dialect), layer)
                state[torch_name(path, dialect)] = array
        return state

    def _search(self) -> None:
        """Chooses an ONNX layer for each layer, in turn; goes back where none fits."""
        trials = [self._choices(0)]
        for _ in range(_MAX_TRIALS):
            choice = next(trials[-1], None)
            if choice is None:
                trials.pop()
                if not trials:
                    break
                self._chosen.pop()
                continue
            number = len(self._chosen)
            self._chosen.append(choice)
            if choice == _FOLDED:
                self._feeds[number] = self._translated(self._layers[number].feed)
            else:
                self._feeds[number] = Feed(frozenset([choice]))
            if number + 1 == len(self._layers):
                return
            trials.append(self._choices(number + 1))
        raise UnknownGraph("its layers are connected otherwise")

    def _translated(self, feed: Feed) -> Feed:
        """Returns the feed in terms of ONNX layers."""
        parts = Feed.union([self._feeds[source] for source in feed.sources])
        return Feed(parts.sources, parts.activations | feed.activations)

    def _choices(self, number: int) -> Iterator[int]:
        layer = self._layers[number]
        feed = self._translated(layer.feed)
        used = set(self._chosen)
        for one in self._numbers.get((layer.kind, feed.sources), ()):
            same = self._onnx[one].feed.activations == feed.activations
            if same and one not in used and self._fits(number, self._onnx[one]):
                yield one
        if layer.kind == "norm" and self._may_fold(number):
            yield _FOLDED

    def _may_fold(self, number: int) -> bool:
        sources, readers = self._layers[number].feed.sources, self._readers[number]
        before = [self._chosen[source] for source in sources if source != IMAGE]
        if len(sources) == 1 and before and before[0] != _FOLDED:
            one = self._onnx[before[0]]
            if one.kind == "linear" and one.bias is not None:
                return True
        # Into the next layer only without padding, which is 0 before the norm.
        after = [self._layers[reader].module for reader in readers]
        return bool(after) and all(isinstance(m, modules.Dense) for m in after)

    def _fits(self, number: int, one: OnnxLayer) -> bool:
        layer = self._layers[number]
        if len(one.weight) != layer.outputs:
            return False
        if layer.kind != "linear":
            return True
        module, kernel = layer.module, one.weight.shape[2:]
        if not module.use_bias and one.bias is not None and one.bias.any():
            readers = [self._layers[reader] for reader in self._readers[number]]
            if not readers or any(reader.kind != "norm" for reader in readers):
                return False
        if isinstance(module, modules.Dense):
            return kernel in ((), (1, 1)) and one.stride == (1, 1)
        height, width, pads = module.geometry()
        # A kernel without padding may cover the whole map, whatever its size.
        whole = module.groups == layer.inputs and not any(one.padding)
        return (
            len(kernel) == 2
            and (kernel == (height, width) or (whole and not any(pads)))
            and one.weight.shape[1] * module.groups == layer.inputs
            and one.groups == module.groups
            and one.stride == (module.stride, module.stride)
            and one.padding == pads
        )

    def _doubtful(self, number: int) -> bool:
        layer, chosen = self._layers[number], self._chosen[number]
        if layer.kind != "norm" or chosen == _FOLDED:
            return False
        one = self._onnx[chosen]
        if one.epsilon and not _near(one.epsilon, layer.module.epsilon):
            return True
        plain = not (one.norm[0] != 1).any() and not one.norm[1].any()
        return plain == layer.module.use_affine


def _near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-3 * b  # ONNX stores it as float32


def _norm(
    layer: Layer, one: OnnxLayer | None, shift: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns the arrays of a BatchNorm; without ONNX layer, of an identity.

    `shift` is a bias that the layer before it has in the graph alone.
    """
    epsilon = layer.module.epsilon
    ones, zeros = (
        np.ones(layer.outputs, np.float32),
        np.zeros(layer.outputs, np.float32),
    )
    scale, bias, mean, var = one.norm if one else (ones, zeros, zeros, ones)
    stated = one.epsilon if one else 0.0
    if shift is not None and shift.any():
        if one or not layer.module.use_affine:
            mean = mean - shift
        else:
            bias = shift
    if not _near(stated, epsilon):
        var = var + np.float32(stated - epsilon)
    if not layer.module.use_affine:
        if (scale <= 0).any():
            raise UnknownGraph("its last BatchNorm has a scale of 0 or less")
        deviation = np.sqrt(var + np.float32(epsilon))
        if (scale != 1).any() or bias.any():
            mean = mean - bias * deviation / scale
            var = (deviation / scale) ** 2 - np.float32(epsilon)
        return {"batch_stats/mean": mean, "batch_stats/var": var}
    affine = {"params/scale": scale, "params/bias": bias}
    return affine | {"batch_stats/mean": mean, "batch_stats/var": var}


def _kernel(array: np.ndarray, layout: str, layer: Layer) -> np.ndarray:
    if not isinstance(layer.module, modules.Dense):
        return array
    array = array.reshape(array.shape[:2])
    return array[:, :, None, None] if layout == "one_cell" else array
