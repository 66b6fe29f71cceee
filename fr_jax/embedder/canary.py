"""Fixed inputs, whose stored outputs check a network after it was copied."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Arrays = dict[str, np.ndarray]

ROWS = 2
OUTPUT = "embeddings"  # name of the stored outputs
MIN_COSINE = 0.9999  # between equal outputs


@functools.cache
def faces(side: int, count: int = ROWS) -> np.ndarray:
    """Returns smooth colour patterns, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    shape = (count, side, side, 3)
    return np.asarray(jax.image.resize(coarse, shape, "linear")).astype(np.uint8)


def noise(shapes: Sequence[jax.ShapeDtypeStruct]) -> Arrays:
    """Returns normal float32 arrays of these shapes, for networks without images."""
    rng = np.random.default_rng(0)
    return {
        f"input{number}": rng.standard_normal(shape.shape).astype(np.float32)
        for number, shape in enumerate(shapes)
    }


def rows(outputs: Any) -> np.ndarray:
    """Returns all arrays of a tree of outputs as one array [ROWS, n]."""
    leaves = [np.asarray(leaf).reshape(ROWS, -1) for leaf in jax.tree.leaves(outputs)]
    return np.concatenate(leaves, axis=1)


def min_cosine(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Returns the minimum cosine between rows; 0 for different shapes."""
    if outputs.shape != expected.shape:
        return 0.0
    lengths = np.linalg.norm(outputs, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.min(np.sum(outputs * expected, axis=1) / lengths))
