"""Training steps for tests: compiled quickly, on any layout of devices."""

import ast
import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from fr_jax.backend import cpu
from fr_jax.system import System
from fr_jax.training import loop as training_loop
from fr_jax.training.guard import Guard
from fr_jax.training.update import Update

# Compiles in half of the time that the optimisation level alone would leave; the
# programs are slow, so they suit a few steps of small networks.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
jit = functools.partial(jax.jit, compiler_options=QUICK)


def distance(a: Any, b: Any) -> float:
    """Returns |a - b| / |b|."""
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def largest_change(before: Any, after: Any) -> list[float]:
    """Returns the largest absolute difference in each array of two trees."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return [float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs]


def make_mesh(layout: tuple[int, int]) -> jax.sharding.Mesh:
    """Returns a mesh of the first devices, in a layout (data, model)."""
    return jax.make_mesh(
        layout,
        ("data", "model"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[: layout[0] * layout[1]],
    )


def run(
    system: System,
    stream: Any,
    mesh: jax.sharding.Mesh,
    num_steps: int,
    guard: Guard | None = Guard(),  # noqa: B008 - immutable
) -> Iterator[tuple[Any, dict[str, float]]]:
    """Yields (State, metrics) after each step, as the training loop runs it."""
    update = Update(system, stream, mesh, 0, {}, guard)
    loop = update.initial()
    update.compile(loop)
    for step in range(num_steps):
        loop, _ = update(loop, update.place(stream.batch_at(step)), step)
        metrics, loop = update.read(loop)
        yield loop.state, metrics


def momentum(opt_state: Any) -> list[list[float]]:
    """Returns the arrays of a momentum buffer; after one step they are gradients."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(opt_state)]
    return [leaf.ravel().tolist() for leaf in leaves if leaf.ndim]


def print_traces(trace: Callable[[tuple[int, int]], Any]) -> None:
    """Prints trace(layout) of the layouts in the first argument of the program."""
    cpu.compiler_options = cpu.quick_compilation = lambda: QUICK
    print(json.dumps([trace(layout) for layout in ast.literal_eval(sys.argv[1])]))


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """Lets all runs of a system share one compiled step, if their streams are equal."""
    shared: dict[Any, Update] = {}

    class Shared(Update):
        def compile(self, loop):
            return 0.0 if self._advance else super().compile(loop)

    def update(system, stream, mesh, seed, given, guard):
        key = id(system), mesh, seed, guard
        if key not in shared:
            shared[key] = Shared(system, stream, mesh, seed, given, guard)
        return shared[key]

    patch.setattr(training_loop, "Update", update)
