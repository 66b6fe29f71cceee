"""Settings for fast training with XLA's CPU backend.

Measure each again with a new jaxlib: `python -m benchmarks training_step`.
"""

import ctypes
import functools
import os
import platform
from typing import Any

import jax

_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD, _ARENA_MAX = -4, -1, -2, -8  # glibc's malloc.h


def arenas() -> int:
    """Returns the number of arenas set by `keep_freed_memory`: cores + 1; on Linux."""
    return len(os.sched_getaffinity(0)) + 1


def keep_freed_memory() -> bool:
    """Returns True if the C library was set to keep the memory that a step frees.

    XLA allocates the scratch memory of a step anew each time. By default glibc maps it
    and unmaps it at once, and the page faults cost as much time as the arithmetic. Call
    this before JAX starts its backend.

    The number of arenas is a compromise: with the default, eight per core, freed memory
    is spread over arenas that rarely have the size needed; with a single one, threads
    wait for each other (steps took 1.7 times as long for DR-GAN at 64 pixels on two
    cores, 1.1 times for IR-18). Does nothing if the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    options = {_ARENA_MAX: arenas(), _MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
    options[_TOP_PAD] = 64 << 20
    results = [set_option(name, value) for name, value in options.items()]
    return results == [1] * len(options)


def compiler_options() -> dict[str, Any]:
    """Returns options for `jax.jit` on this backend; {} if it is not a CPU.

    By default XLA:CPU uses YNNPACK for convolutions, which runs those with 64 channels
    on one thread and their weight gradients with many cache misses. With these options
    it uses Eigen, and YNNPACK only for matrix products and sums, where that is faster.
    """
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return _on_cpu(xla_cpu_experimental_ynn_fusion_type=kinds)


def quick_compilation() -> dict[str, Any]:
    """Returns options for programs that run once, such as initialisation."""
    return _on_cpu(xla_backend_optimization_level=1)


@functools.cache
def _on_cpu(**options: Any) -> dict[str, Any]:
    """Returns the options on a CPU if this jaxlib supports them, else {}."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except Exception:  # another jaxlib may not have them
        return {}
    return options
