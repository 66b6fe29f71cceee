"""Exact rank-1 of 10,000 probes against 100,000 gallery rows, 512-dimensional."""

import json
import subprocess
import sys
import time

import numpy as np

PROBES, GALLERY, DIMENSIONS = 10_000, 100_000, 512


def run(rounds: int) -> dict[str, float]:
    """Returns seconds of a search, in a process of its own."""
    del rounds
    command = [sys.executable, "-m", "benchmarks.search"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> dict[str, float]:
    """Returns wall and CPU seconds, compilation included."""
    from fr_jax.evaluation import search

    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((GALLERY, DIMENSIONS), np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    owners = rng.integers(0, GALLERY, PROBES)
    probes = gallery[owners] + 0.08 * rng.standard_normal(
        (PROBES, DIMENSIONS), np.float32
    )
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    results: dict[str, float] = {}
    for name, searched in (
        ("rank1", lambda: search.top_k(probes, gallery, 1).rows[:, 0]),
        ("mates", lambda: search.mates(probes, owners, gallery, np.arange(GALLERY))),
    ):
        begun = time.perf_counter(), time.process_time()
        found = searched()
        results[f"search/{name}_seconds"] = time.perf_counter() - begun[0]
        results[f"search/{name}_cpu_seconds"] = time.process_time() - begun[1]
        hits = found == owners if name == "rank1" else found.rank == 1
        results[f"search/{name}"] = float(np.mean(hits))
    return results


if __name__ == "__main__":
    print(json.dumps(measure()))
