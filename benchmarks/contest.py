"""Times contestants in turn, each in a process of its own, and reports ratios.

A shared machine drifts; pairs of neighbouring runs drift together. The ratio of a pair
is what is quoted, as the median over all rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from fr_jax.backend import cpu
from fr_jax.progress import progress_bar

Seconds = Mapping[str, list[float]]
KEEPING = "_keeping_memory"
# What `cpu.keep_freed_memory` sets, for an opponent that does not set it.
_KEEP_FREED_MEMORY = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
    f"glibc.malloc.top_pad=67108864:glibc.malloc.arena_max={cpu.arenas()}"
)
AGAINST_PYTORCH = ("ours", "pytorch", f"pytorch{KEEPING}")


def contest(
    module: str, rounds: int, names: Sequence[str] = AGAINST_PYTORCH
) -> dict[str, list[float]]:
    """Returns the seconds of each round of each contestant.

    Every contestant runs as `python -m benchmarks.MODULE NAME`, which ends in a call of
    `serve`; `module` may hold arguments of its own. NAME_keeping_memory runs as NAME,
    in a process that keeps freed memory as ours do.
    """
    workers = {}
    for name in names:
        environment = dict(os.environ)
        if name.endswith(KEEPING):
            environment["GLIBC_TUNABLES"] = _KEEP_FREED_MEMORY
        command = [*f"benchmarks.{module}".split(), name.removesuffix(KEEPING)]
        workers[name] = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        _hear(workers[name], name)  # ready: neighbours do not warm up together
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in progress_bar(range(rounds), module.split()[0], leave=False):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            seconds[name].append(_hear(worker, name))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return seconds


def _hear(worker, name: str) -> float:
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} died; run it alone to see why")
    return json.loads(line)


def serve(run: Callable[[], object]) -> None:
    """Warms `run` up, then times it once for every line on standard input."""
    run()
    run()
    print(json.dumps(0.0), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(json.dumps(time.perf_counter() - began), flush=True)


def ratio(other: list[float], ours: list[float]) -> float:
    """How many times faster we were, as the median of neighbouring pairs."""
    return statistics.median(a / b for a, b in zip(other, ours))


def figures(
    part: str, seconds: Seconds, rows: int, unit: str = "images"
) -> dict[str, float]:
    """Returns rows a second of each contestant, and how many times faster ours is."""
    rates = {
        f"{part}/{name}_{unit}_per_second": rows / statistics.median(times)
        for name, times in seconds.items()
    }
    return rates | {
        f"{part}/times_{name}": ratio(times, seconds["ours"])
        for name, times in seconds.items()
        if name != "ours"
    }
