"""Spectral normalisation: kernels divided by their greatest singular value.

Miyato et al., Spectral Normalization for Generative Adversarial Networks (ICLR 2018): a
discriminator whose layers stretch nothing is gentle to its generator. Pure functions of
a tree of parameters; use a discriminator without BatchNorm, which would scale again.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any


def vectors(key: Array, params: PyTree) -> dict[str, Array]:
    """Returns a unit vector [K] for each kernel [..., K], under the kernel's path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [(_name(path), leaf) for path, leaf in leaves if _is_kernel(path)]
    return {
        name: _unit(jax.random.normal(jax.random.fold_in(key, number), leaf.shape[-1:]))
        for number, (name, leaf) in enumerate(kernels)
    }


def normalise(
    params: PyTree, known: dict[str, Array]
) -> tuple[PyTree, dict[str, Array]]:
    """Returns the normalised parameters, and the vectors after a power iteration.

    Gradients go through the kernel and its norm, not through the iteration.
    """
    found = {}

    def visit(path, leaf):
        if not _is_kernel(path):
            return leaf
        matrix = leaf.reshape(-1, leaf.shape[-1])  # [inputs, K]
        fixed = jax.lax.stop_gradient(matrix)
        left = _unit(fixed @ known[_name(path)])
        right = _unit(left @ fixed)
        found[_name(path)] = right
        return leaf / jnp.maximum(left @ matrix @ right, 1e-12)

    normal = jax.tree_util.tree_map_with_path(visit, params)
    return normal, found


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_kernel(path) -> bool:
    return path[-1].key in ("kernel", "fc_identity")


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)
