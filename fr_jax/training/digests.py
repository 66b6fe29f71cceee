"""Digests of what a run follows from: start weights, first batch, update."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core

from fr_jax.backend import sharding
from fr_jax.backend.convolution import traced_for
from fr_jax.system import PyTree, System

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def of_weights(given: Mapping[str, PyTree]) -> dict[str, str]:
    """Returns a digest of each tree of arrays: their names, types and bytes."""
    digests = {}
    for name, tree in given.items():
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            digest.update(f"{jax.tree_util.keystr(path)} {_array(leaf)}\n".encode())
        digests[name] = digest.hexdigest()[:16]
    return digests


def of_batch(batch: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Returns what can be compared of a global batch.

    The types and shapes of its arrays, a digest of the columns of integers, such as
    labels and seeds, and the mean of each image of the first 32 rows.
    """
    arrays, integers, means = [], hashlib.sha256(), []
    for name in sorted(batch):
        array = sharding.to_host(batch[name])
        arrays.append(f"{name} {array.dtype}{array.shape}")
        if array.ndim == 1 and array.dtype.kind in "iu":
            integers.update(name.encode() + array.tobytes())
        elif array.ndim > 1:
            rows = array[:32].reshape(min(len(array), 32), -1)
            means += np.nan_to_num(rows.mean(1, dtype=np.float64)).round(2).tolist()
    return {
        "arrays": ", ".join(arrays),
        "labels_and_seeds": integers.hexdigest()[:16],
        "mean_pixels": means,
    }


def trace(
    system: System, key: jax.Array, batch: PyTree, given: Mapping[str, PyTree]
) -> tuple[PyTree, dict[str, Any], str]:
    """Returns the shapes of a State and of the metrics of an update, and its digest.

    The digest is equal on all machines: the update is traced without a mesh and with
    XLA's convolutions.

    Args:
      batch: a global batch; its values do not matter.
    """
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    state = jax.eval_shape(system.init, key, batch, given)
    # The metadata keep the functions traced here apart from those of the compiled
    # update, whose convolutions may have another form, in JAX's caches of traces.
    with set_xla_metadata(traced_for="identity"), traced_for("plain"):
        step = jax.make_jaxpr(system.train_step, return_shape=True)
        jaxpr, (_, metrics) = step(state, batch, key)
    return state, metrics, of_jaxpr(jaxpr)


def of_jaxpr(closed: core.ClosedJaxpr) -> str:
    """Returns a digest of operations, types and constants, without names.

    Variables are numbered within their jaxpr, and a jaxpr inside is replaced by its
    digest, so that sharing between jaxprs does not matter.
    """
    known: dict[int, tuple[core.Jaxpr, str]] = {}  # kept, so that no id is used twice

    def of(jaxpr: core.Jaxpr) -> str:
        if id(jaxpr) in known:
            return known[id(jaxpr)][1]
        numbers: dict[Any, int] = {}
        digest = hashlib.sha256()

        def named(variables: Sequence[Any]) -> list[Any]:
            return [
                (value(v.val), str(v.aval))
                if isinstance(v, core.Literal)
                else (numbers.setdefault(v, len(numbers)), str(v.aval))
                for v in variables
            ]

        def put(*parts: Any) -> None:
            digest.update(repr(parts).encode())

        put(named(jaxpr.constvars), named(jaxpr.invars))
        for one in jaxpr.eqns:
            name, params = one.primitive.name, one.params
            if name == "jit":  # the rest is a name, layouts and shardings
                params = {"jaxpr": params["jaxpr"]}
            put(name, named(one.invars), value(params), named(one.outvars))
        put(named(jaxpr.outvars))
        known[id(jaxpr)] = jaxpr, digest.hexdigest()
        return digest.hexdigest()

    def value(x: Any) -> Any:
        if isinstance(x, core.ClosedJaxpr):
            return of(x.jaxpr), [value(constant) for constant in x.consts]
        if isinstance(x, core.Jaxpr):
            return of(x)
        if isinstance(x, Mapping):
            return sorted((str(name), value(one)) for name, one in x.items())
        if isinstance(x, set | frozenset):
            return sorted(repr(value(one)) for one in x)
        if isinstance(x, list | tuple):
            return type(x).__name__, [value(one) for one in x]
        return _array(x) if hasattr(x, "__array__") else _ADDRESS.sub("", repr(x))

    return hashlib.sha256(repr(value(closed)).encode()).hexdigest()[:16]


def _array(x: Any) -> str:
    """Returns type, shape and a digest of the bytes of an array."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x)
    return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
