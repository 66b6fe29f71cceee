"""Networks with random weights that need no compilation."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(model, size: int, seed: int = 0):
    """Returns NumPy variables of a model: sensible scales, drawn without JAX."""
    rng = np.random.default_rng(seed)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(np.float32)
        middle = {"var": 1.0, "scale": 1.0, "slope": 0.25}.get(name, 0.0)
        return rng.normal(middle, 0.05, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
