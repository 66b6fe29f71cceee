"""Fixed inputs whose outputs tell whether a network does elsewhere what it did here."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Arrays = dict[str, np.ndarray]

ROWS = 2
OUTPUT = "embeddings"  # the name under which outputs are stored
LEAST = 0.9999  # cosine below which two outputs are not the same


@functools.cache
def faces(side: int, count: int = ROWS) -> np.ndarray:
    """Returns smooth colour patterns, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    shape = (count, side, side, 3)
    return np.asarray(jax.image.resize(coarse, shape, "linear")).astype(np.uint8)


def noise(shapes: Sequence[jax.ShapeDtypeStruct]) -> Arrays:
    """Returns normal float32 numbers of each shape, for what does not take faces."""
    rng = np.random.default_rng(0)
    return {
        f"input{number}": rng.standard_normal(shape.shape).astype(np.float32)
        for number, shape in enumerate(shapes)
    }


def rows(outputs: Any) -> np.ndarray:
    """Returns all arrays of a tree of outputs as one [ROWS, n]."""
    leaves = [np.asarray(leaf).reshape(ROWS, -1) for leaf in jax.tree.leaves(outputs)]
    return np.concatenate(leaves, axis=1)


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the least cosine between rows; 0 where the shapes differ."""
    if found.shape != expected.shape:
        return 0.0
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.min(np.sum(found * expected, axis=1) / lengths))
