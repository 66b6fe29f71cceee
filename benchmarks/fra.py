"""FRA with embeddings of 512 values: a training step against PyTorch.

The same network, losses and Adam with coupled weight decay, 1:1, batches of 256 tuples
as published, float32.
"""

import numpy as np

from benchmarks import contest
from benchmarks.training_step import stepping

BATCH, SIZE = 256, 512
_VECTORS = ("embedding", "target", "negative_identity", "negative_pose")
_VECTORS += ("negative_expression",)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    maps = rng.random((BATCH, 112, 112, 1)) < 0.05
    vectors = {name: rng.normal(size=(BATCH, SIZE)) for name in _VECTORS}
    return {"landmarks": maps.astype(np.uint8)} | {
        name: rows.astype(np.float32) for name, rows in vectors.items()
    }


def ours():
    from fr_jax.systems import fra

    system = fra.make(
        embedding_size=SIZE,
        embedding_distance=25.0,
        embedding_norm=17.0,
        schedule="constant",
        optimizer={"plateau": {"stop_after": 0}},
    )
    return stepping(system, batch())[0]


def pytorch():
    from benchmarks import torch_fra

    return torch_fra.training_step(batch())


def run(rounds: int) -> dict[str, float]:
    return contest.figures("fra", contest.contest("fra", rounds), BATCH, "tuples")
