"""Rendered faces per second, their operations, compilation time and memory."""

import math
import statistics
import time

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fr_jax import faces
from fr_jax.backend import cpu

SIZE = 112
_ROWS = 64


def operations(jaxpr: Jaxpr) -> float:
    """Returns the floating-point operations of a program, one per result.

    A matrix product counts two per multiplication, a loop its number of iterations.
    Comparisons, selections, gathers and copies are not counted.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [
            part.jaxpr if isinstance(part, ClosedJaxpr) else part
            for value in equation.params.values()
            for part in (value if isinstance(value, (tuple, list)) else [value])
            if isinstance(part, (ClosedJaxpr, Jaxpr))
        ]
        if inner:
            iterations = equation.params.get("length", 1)
            total += iterations * sum(operations(part) for part in inner)
            continue
        result = equation.outvars[0].aval
        if not jnp.issubdtype(getattr(result, "dtype", jnp.int32), jnp.floating):
            continue
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            first = equation.invars[0].aval.shape
            depth = math.prod(first[axis] for axis in contracted)
            total += 2 * depth * result.size
        elif equation.primitive.name in _ARITHMETIC:
            total += result.size
        elif equation.primitive.name.startswith("reduce_"):
            source = equation.invars[0]
            total += 0 if isinstance(source, Literal) else source.aval.size
    return total


_ARITHMETIC = {
    *("add", "add_any", "sub", "mul", "div", "neg", "max", "min", "abs", "sign"),
    *("floor", "round", "square", "integer_pow", "pow", "sqrt", "rsqrt", "exp", "exp2"),
    *("expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "logistic", "erf", "atan2"),
}


def run(rounds: int) -> dict[str, float]:
    cpu.keep_freed_memory()
    codes = faces.sample_codes(jax.random.key(0), _ROWS)
    one = jax.tree.map(lambda field: field[:1], codes)
    programs, results = {}, {}
    for quality in ("fast", "full"):

        def render(codes, quality=quality):
            return faces.render(codes, SIZE, quality=quality).image

        count = operations(jax.make_jaxpr(render)(one).jaxpr)
        results[f"faces, {quality}: thousand operations a pixel"] = (
            count / SIZE**2 / 1e3
        )
        results[f"faces, {quality}: million operations an image"] = count / 1e6
        start = time.perf_counter()
        program = jax.jit(render).lower(codes).compile()
        results[f"faces, {quality}: compiling, s"] = time.perf_counter() - start
        temporary = program.memory_analysis().temp_size_in_bytes
        results[f"faces, {quality}: MiB beside the pictures"] = temporary / 2**20
        programs[quality] = program
        jax.block_until_ready(program(codes))
    speeds: dict[str, list[float]] = {quality: [] for quality in programs}
    for _ in range(rounds):
        for quality, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(codes))
            speeds[quality].append(_ROWS / (time.perf_counter() - start))
    for quality, values in speeds.items():
        speed = results[f"faces, {quality}: images/s"] = statistics.median(values)
        millions = results[f"faces, {quality}: million operations an image"]
        results[f"faces, {quality}: GFLOP/s"] = millions * speed / 1e3
    return results
