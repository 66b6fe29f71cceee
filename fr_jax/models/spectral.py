"""Spectral normalisation: kernels divided by their largest singular value.

Miyato et al., Spectral Normalization for Generative Adversarial Networks (ICLR 2018):
it bounds the Lipschitz constant of a discriminator. Pure functions of a tree of
parameters. For a discriminator without BatchNorm, which would change the scale again.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any


def vectors(key: Array, params: PyTree) -> dict[str, Array]:
    """Returns a random unit vector [K] for each kernel [..., K], by path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [(_name(path), leaf) for path, leaf in leaves if _is_kernel(path)]
    return {
        name: _unit(jax.random.normal(jax.random.fold_in(key, number), leaf.shape[-1:]))
        for number, (name, leaf) in enumerate(kernels)
    }


def normalise(
    params: PyTree, vectors: dict[str, Array]
) -> tuple[PyTree, dict[str, Array]]:
    """Returns the normalised parameters, and the vectors after one power iteration.

    Gradients flow through the kernel and its norm, not through the iteration.
    """
    updated = {}

    def visit(path, leaf):
        if not _is_kernel(path):
            return leaf
        matrix = leaf.reshape(-1, leaf.shape[-1])  # [inputs, K]
        fixed = jax.lax.stop_gradient(matrix)
        left = _unit(fixed @ vectors[_name(path)])
        right = updated[_name(path)] = _unit(left @ fixed)
        return leaf / jnp.maximum(left @ matrix @ right, 1e-12)

    return jax.tree_util.tree_map_with_path(visit, params), updated


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_kernel(path) -> bool:
    return path[-1].key in ("kernel", "fc_identity")


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)
