"""Networks with random weights that need no compilation."""

import jax
import numpy as np

from fr_jax import models
from fr_jax.models.preprocess import InputSpec


def random_variables(model, size: int | InputSpec, seed: int = 0):
    """Returns NumPy variables of a model: He-normal kernels, the rest near defaults."""
    spec = InputSpec(size=size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    inputs = models.example_inputs(model, spec)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)

    def sample(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(np.float32)
        mean = {"var": 1.0, "scale": 1.0, "slope": 0.25}.get(name, 0.0)
        return rng.normal(mean, 0.05, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(sample, shapes)
