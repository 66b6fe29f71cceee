"""Embedding a set with IResNet-50: `Embedder.embed` against PyTorch inference."""

import numpy as np

from benchmarks import contest
from benchmarks.training_step import random_batch

IMAGES, BATCH = 64, 8


def faces() -> np.ndarray:
    return random_batch(IMAGES, 112)["image"]


def ours():
    import jax
    import jax.numpy as jnp

    from fr_jax import models
    from fr_jax.backend import cpu
    from fr_jax.embedder import Embedder
    from fr_jax.models.preprocess import InputSpec
    from fr_jax.system import Network

    cpu.keep_freed_memory()
    model = models.create("iresnet50")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 112, 112, 3)))
    rng = np.random.default_rng(0)

    def filled(leaf):
        if leaf.ndim > 1:
            return rng.normal(0, 0.03, leaf.shape).astype(np.float32)
        return np.ones(leaf.shape, np.float32)

    variables = jax.tree.map(filled, shapes)
    network = Network("iresnet50", {}, variables, InputSpec())
    embedder = Embedder(network, batch_size=BATCH)
    images = faces()
    return lambda: embedder.embed(images)


def pytorch():
    from benchmarks import torch_iresnet

    return torch_iresnet.embed(torch_iresnet.IResNet(), faces(), BATCH)


def run(rounds: int) -> dict[str, float]:
    return contest.figures("embedding", contest.contest("embedding", rounds), IMAGES)
