"""Weight files -> networks: by names of tensors or, in ONNX files, by the graph."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fr_jax import models
from fr_jax.convert.graphs.match import Match
from fr_jax.convert.graphs.network import Feed, Layer, layers_of
from fr_jax.convert.graphs.onnx import OnnxLayers, UnknownGraph
from fr_jax.convert.readers import WeightFile
from fr_jax.convert.state_dict import DIALECTS, Converted, from_state_dict
from fr_jax.errors import UserError, unknown
from fr_jax.models.preprocess import InputSpec


def from_weights(
    file: WeightFile,
    dialect: str | None = None,
    *,
    prefix: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Converted:
    """Returns the network in a weight file.

    The graph of an ONNX file says what its tensors are, whatever they are called and
    whether BatchNorms are folded. For other networks than embedders, and with a
    `prefix`, names count as in other files. For arguments see `from_state_dict`.

    Raises:
      UserError: for an unknown, incomplete or damaged network.
    """
    unlike: UnknownGraph | None = None
    if file.graph is not None and not prefix:
        if dialect is not None and dialect not in DIALECTS:
            raise UserError(unknown("dialect", dialect, DIALECTS))
        try:
            return _from_graph(file, dialect, options or {})
        except UnknownGraph as error:
            unlike = error
        except UserError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            unlike = UnknownGraph(
                f"it is damaged ({' '.join(str(error).split()):.100})"
            )
    try:
        return from_state_dict(file.tensors, dialect, prefix=prefix, options=options)
    except UserError:
        if unlike is None:
            raise
        raise UserError(f"no known network has this graph: {unlike}") from None


def _from_graph(
    file: WeightFile, dialect: str | None, options: Mapping[str, Any]
) -> Converted:
    assert file.graph is not None
    onnx = OnnxLayers(file.graph, file.tensors)
    matches: dict[str, Match] = {}
    reasons = []
    for name, architecture in _candidates(onnx, dialect):
        try:
            matches[name] = Match(*_network(architecture, onnx), onnx)
        except UnknownGraph as error:
            reasons.append(f"unlike {architecture}, {error}")
    if not matches:
        layers = sum(layer.kind == "linear" for layer in onnx.layers)
        reasons.append(f"it has {layers} convolutions and linear layers")
        raise UnknownGraph(reasons[0])
    fewest = min(match.doubts for match in matches.values())
    best, *others = (name for name, one in matches.items() if one.doubts == fewest)
    state = matches[best].state_dict(DIALECTS[best])
    converted = from_state_dict(state, best, options=options)
    if not dialect and not DIALECTS[best].unambiguous(state):
        converted = converted._replace(alternatives=tuple(others))
    return converted._replace(input_spec=_preprocessed(converted.input_spec, onnx))


def _candidates(onnx: OnnxLayers, dialect: str | None) -> Iterator[tuple[str, str]]:
    """Yields (dialect, architecture) of networks with as many linear layers."""
    linear = [layer for layer in onnx.layers if layer.kind == "linear"]
    for name in [dialect] if dialect else DIALECTS:
        for architecture in DIALECTS[name].linear_layers.get(len(linear), ()):
            yield name, architecture


def _network(architecture: str, onnx: OnnxLayers) -> tuple[list[Layer], Feed]:
    """Returns the layers of a network with the sizes of the graph."""
    linear = [layer for layer in onnx.layers if layer.kind == "linear"]
    size = len(linear[-1].weight)
    layers, output = _traced(architecture, 1.0, size)
    width = len(linear[0].weight) / layers[0].outputs
    return (layers, output) if width == 1 else _traced(architecture, width, size)


@functools.lru_cache(maxsize=16)  # several dialects may have one architecture
def _traced(architecture: str, width: float, size: int) -> tuple[list[Layer], Feed]:
    model = models.create(architecture, width=width, embedding_size=size)
    return layers_of(model, InputSpec())


def _preprocessed(spec: InputSpec, onnx: OnnxLayers) -> InputSpec:
    """Returns the specification with the scaling that the graph itself applies."""
    mean, scale = (np.broadcast_to(value, 3) for value in (onnx.mean, onnx.scale))
    if not mean.any() and (scale == 1).all():
        return spec
    if not (mean >= 0).all() or not (mean <= 255).all() or not (scale >= 1).all():
        raise UnknownGraph("it scales its input, which is no image in 0 to 255")
    if spec.colour == "BGR":
        mean, scale = mean[::-1], scale[::-1]
    values = [
        float(value[0]) if len(set(value)) == 1 else tuple(map(float, value))
        for value in (mean, scale)
    ]
    return spec._replace(mean=values[0], scale=values[1])
