"""The layers of a Flax network, and which of them feed which."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from fr_jax import models
from fr_jax.models import layers
from fr_jax.models.preprocess import InputSpec

IMAGE = -1  # stands for the input among the sources
_KINDS = {
    layers.Conv: "linear",
    layers.Dense: "linear",
    layers.BatchNorm: "norm",
    layers.PReLU: "slope",
}
_ACTIVATIONS = ("relu", "relu6")


class Feed(NamedTuple):
    """Where a value comes from.

    Attributes:
      sources: numbers of the layers whose outputs reach it, without a layer between;
        IMAGE for the input of the network.
      activations: operations between the sources and the value that change it: 'relu',
        'relu6', 'sigmoid', 'scaled' by a number.
    """

    sources: frozenset[int] = frozenset()
    activations: frozenset[str] = frozenset()

    @staticmethod
    def union(feeds: "list[Feed]", activation: str = "") -> "Feed":
        """Returns the feed of a value computed from several."""
        sources = frozenset().union(*(feed.sources for feed in feeds))
        names = frozenset().union(*(feed.activations for feed in feeds))
        # An activation of constants is none.
        return Feed(sources, names | {activation} if activation and sources else names)


class Layer(NamedTuple):
    """A layer with parameters. `kind` is 'linear', 'norm' or 'slope'."""

    path: tuple[str, ...]
    kind: str
    module: Any
    inputs: int  # channels
    outputs: int
    feed: Feed


def layers_of(model: nn.Module, spec: InputSpec) -> tuple[list[Layer], Feed]:
    """Returns the layers in the order of their calls, and the feed of the output.

    Nothing is computed: the network is traced.
    """
    called: dict[str, tuple[Any, int, int]] = {}

    def mark(call, inputs, options, context):
        module = context.module
        if type(module) not in _KINDS or context.method_name != "__call__":
            return call(*inputs, **options)
        name = "/".join(module.path)
        out = call(checkpoint_name(inputs[0], f"in:{name}"), *inputs[1:], **options)
        called[name] = (module, inputs[0].shape[-1], out.shape[-1])
        return checkpoint_name(out, f"out:{name}")

    def run(*inputs):
        with nn.intercept_methods(mark):
            return model.init_with_output(jax.random.key(0), *inputs)[0]

    jaxpr = jax.make_jaxpr(run)(*models.example_inputs(model, spec)).jaxpr
    numbers = {name: number for number, name in enumerate(called)}
    feeds: dict[Any, Feed] = {v: Feed(frozenset([IMAGE])) for v in jaxpr.invars}
    at_layers: dict[str, Feed] = {}
    for equation in jaxpr.eqns:
        feed = Feed.union(_feeds(equation.invars, feeds), _activation(equation))
        end, _, name = str(equation.params.get("name", "")).partition(":")
        if equation.primitive.name == "name" and name in numbers:
            at_layers.setdefault(name, feed)
            if end == "out":
                feed = Feed(frozenset([numbers[name]]))
        feeds |= dict.fromkeys(equation.outvars, feed)
    found = [
        Layer(module.path, _KINDS[type(module)], module, width, out, at_layers[name])
        for name, (module, width, out) in called.items()
    ]
    return found, Feed.union(_feeds(jaxpr.outvars, feeds))


def _feeds(variables: list[Any], feeds: Mapping[Any, Feed]) -> list[Feed]:
    named = (one for one in variables if not isinstance(one, Literal))
    return [feeds[variable] for variable in named if variable in feeds]


def _activation(equation: Any) -> str:
    if equation.primitive.name == "logistic":
        return "sigmoid"
    if equation.primitive.name == "custom_jvp_call":
        inner = equation.params["call_jaxpr"].eqns
        names = [str(one.params.get("name")) for one in inner]
        return next((name for name in names if name in _ACTIVATIONS), "")
    literal = any(isinstance(value, Literal) for value in equation.invars)
    return "scaled" if equation.primitive.name == "mul" and literal else ""
