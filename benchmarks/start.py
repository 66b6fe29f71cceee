"""Seconds before the first step: imports, and compilation of IR-50 and IR-100."""

import json
import subprocess
import sys

import numpy as np

_IMPORT = (
    "import time; a = time.perf_counter(); import {}; print(time.perf_counter() - a)"
)
_SYSTEM = "fr_jax.systems.inter_prototype.system"


def seconds(*command: str) -> float:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def run(rounds: int) -> dict[str, float]:
    results = {}
    for module in ("fr_jax", "fr_jax.training.loop", _SYSTEM):
        times = [seconds("-c", _IMPORT.format(module)) for _ in range(rounds)]
        results[f"start/import_{module}_seconds"] = float(np.median(times))
    for backbone in ("iresnet50", "iresnet100"):
        results[f"start/compile_{backbone}_seconds"] = seconds(
            "-W", "ignore", "-m", "benchmarks.start", backbone
        )
    return results


if __name__ == "__main__":
    from benchmarks import training_step

    print(json.dumps(training_step.compiled(sys.argv[1])[1]))
