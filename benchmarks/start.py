"""Seconds before the first step: imports, and compilation of IR-50 and IR-100."""

import subprocess
import sys

import numpy as np

_IMPORT = (
    "import time; a = time.perf_counter(); import {}; print(time.perf_counter() - a)"
)
_COMPILATION = (
    "from benchmarks import training_step; print(training_step.compiled({!r})[1])"
)
_SYSTEM = "fr_jax.systems.inter_prototype.system"


def seconds(code: str) -> float:
    """Returns the number that a program prints last, in its own process."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def run(rounds: int) -> dict[str, float]:
    results = {}
    for module in ("fr_jax", "fr_jax.training.loop", _SYSTEM):
        times = [seconds(_IMPORT.format(module)) for _ in range(rounds)]
        results[f"start/import_{module}_seconds"] = float(np.median(times))
    for backbone in ("iresnet50", "iresnet100"):
        results[f"start/compile_{backbone}_seconds"] = seconds(
            _COMPILATION.format(backbone)
        )
    return results
