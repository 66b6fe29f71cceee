"""Settings that make XLA's CPU backend train at the speed of the hardware.

Each is worth measuring again with a new jaxlib: `python -m benchmarks training_step`.
"""

import ctypes
import functools
import os
import platform
from typing import Any

import jax

_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD, _ARENA_MAX = -4, -1, -2, -8  # glibc's malloc.h


def arenas() -> int:
    """Returns how many arenas `keep_freed_memory` asks for."""
    mine = getattr(os, "sched_getaffinity", None)  # of the machine's, where it is known
    return (len(mine(0)) if mine else os.cpu_count() or 1) + 1


def keep_freed_memory() -> bool:
    """Tells the C library to keep the memory that a step frees; returns whether it did.

    XLA asks for a step's scratch memory anew each time. glibc would map it and give it
    back at once, and the page faults then cost as much time as the arithmetic. Call
    this before JAX starts its backend. An arena for each core and one more: of the
    usual eight for each core every one would keep its own, and hardly any would find
    what it needs; threads that share a single one wait for each other (a step of
    DR-GAN's at 64 pixels then took 1.7 times as long on two cores, one of IR-18's 1.1
    times). Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    settings = (
        (_ARENA_MAX, arenas()),
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, -1),
        (_TOP_PAD, 64 << 20),
    )
    done = [set_option(name, value) == 1 for name, value in settings]
    return all(done)


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Returns options for `jax.jit` on this backend; {} anywhere but on a CPU.

    XLA:CPU sends convolutions to YNNPACK, which runs those of 64 channels on one thread
    and their weight gradients far from cache. Its older path, through Eigen, does not;
    YNNPACK keeps the matrix products and the sums, where it is the faster one.
    """
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return _on_cpu({"xla_cpu_experimental_ynn_fusion_type": kinds})


@functools.cache
def quick_compilation() -> dict[str, Any]:
    """Returns options for what runs once, such as drawing the first weights."""
    return _on_cpu({"xla_backend_optimization_level": 1})


def _on_cpu(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options on a CPU whose jaxlib knows them, else {}."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except Exception:  # another jaxlib may not know them: then do without
        return {}
    return options
