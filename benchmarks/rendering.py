"""Rendered faces per second, their operations, compilation time and memory."""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax

from fr_jax import faces
from fr_jax.backend import cpu

SIZE = 112
_ROWS = 64


def operations(render: Callable[[faces.Codes], jax.Array], codes: faces.Codes) -> float:
    """Returns the floating-point operations of a program, as XLA counts them.

    Before optimisation, which merges and repeats operations. XLA counts the body of a
    loop once, so loops over the steps of a ray are unrolled.
    """

    def unrolled(first, last, body, carry):
        for step in range(first, last):
            carry = body(step, carry)
        return carry

    jax.clear_caches()
    with mock.patch("jax.lax.fori_loop", unrolled):
        counts = jax.jit(render).lower(codes).cost_analysis()
    jax.clear_caches()
    return counts["flops"] + counts["transcendentals"]


def run(rounds: int) -> dict[str, float]:
    cpu.keep_freed_memory()
    codes = faces.sample_codes(jax.random.key(0), _ROWS)
    one = jax.tree.map(lambda field: field[:1], codes)
    programs, results = {}, {}
    for quality in ("fast", "full"):

        def render(codes, quality=quality):
            return faces.render(codes, SIZE, quality=quality).image

        count = operations(render, one)
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
