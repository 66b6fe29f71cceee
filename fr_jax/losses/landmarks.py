"""Wing loss of landmark regression.

Feng, Kittler, Awais, Huber, Wu: Wing Loss for Robust Facial Landmark Localisation with
Convolutional Neural Networks (CVPR 2018, arXiv 1711.06753), equation 5.
"""

import math

import jax.numpy as jnp
from jax import Array

from fr_jax.errors import check_range


def wing(differences: Array, *, width: float = 10.0, curvature: float = 2.0) -> Array:
    """Returns the mean wing loss [B] of differences [B, ...] of coordinates.

    With w = `width` and e = `curvature`, for a difference x:

        w ln(1 + |x| / e)                     if |x| < w
        |x| - C,  C = w - w ln(1 + w / e)     otherwise

    Small differences have larger gradients, up to w / e, than with the absolute value.
    The defaults are the paper's, for pixels of an image of 224.

    Raises:
      UserError: for a width or curvature that is not positive.

    >>> print(wing(jnp.array([[0.0], [1.0], [20.0]])))
    [ 0.      4.0547 27.9176]
    """
    check_range("width of the wing loss", width, 1e-6)
    check_range("curvature of the wing loss", curvature, 1e-6)
    size = jnp.abs(differences)
    constant = width - width * math.log1p(width / curvature)
    inner = width * jnp.log1p(jnp.minimum(size, width) / curvature)
    values = jnp.where(size < width, inner, size - constant)
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
