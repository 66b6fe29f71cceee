"""Times implementations in turn, each in its own process, and reports ratios.

The speed of a shared machine drifts, but consecutive runs drift together: the reported
ratio is the median over all rounds of the ratio of consecutive runs.
"""

import importlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from fr_jax.backend import cpu
from fr_jax.progress import progress_bar

KEEPING = "_keeping_memory"
# The settings of `cpu.keep_freed_memory`, for an implementation without them.
_KEEP_FREED_MEMORY = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
    f"glibc.malloc.top_pad=67108864:glibc.malloc.arena_max={cpu.arenas()}"
)
AGAINST_PYTORCH = ("ours", "pytorch", f"pytorch{KEEPING}")


def contest(
    module: str,
    rounds: int,
    names: Sequence[str] = AGAINST_PYTORCH,
    arguments: Sequence[str] = (),
) -> dict[str, list[float]]:
    """Returns the seconds of each round of each implementation.

    Implementation NAME is the function that `benchmarks.MODULE.NAME(*arguments)`
    returns. NAME_keeping_memory is NAME in a process that keeps freed memory.
    """
    workers = {}
    for name in names:
        environment = dict(os.environ)
        if name.endswith(KEEPING):
            environment["GLIBC_TUNABLES"] = _KEEP_FREED_MEMORY
        command = ["benchmarks.contest", module, name.removesuffix(KEEPING), *arguments]
        workers[name] = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        _read(workers[name])  # warmed up before the next one starts
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in progress_bar(range(rounds), module, leave=False):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            seconds[name].append(_read(worker))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return seconds


def _read(worker) -> float:
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"{shlex.join(worker.args)} failed; run it to see the error")
    return json.loads(line)


def serve(run: Callable[[], object]) -> None:
    """Runs a function twice, then times one run per line of standard input."""
    run()
    run()
    print(json.dumps(0.0), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(json.dumps(time.perf_counter() - began), flush=True)


def ratio(other: Sequence[float], ours: Sequence[float]) -> float:
    """Returns our speedup over another: the median ratio of consecutive runs."""
    return statistics.median(a / b for a, b in zip(other, ours))


def figures(
    part: str, seconds: Mapping[str, list[float]], rows: int, unit: str = "images"
) -> dict[str, float]:
    """Returns rows per second of each implementation, and our speedup over each."""
    rates = {
        f"{part}/{name}_{unit}_per_second": rows / statistics.median(times)
        for name, times in seconds.items()
    }
    return rates | {
        f"{part}/times_{name}": ratio(times, seconds["ours"])
        for name, times in seconds.items()
        if name != "ours"
    }


if __name__ == "__main__":
    module, name, *arguments = sys.argv[1:]
    serve(getattr(importlib.import_module(f"benchmarks.{module}"), name)(*arguments))
