"""Differentiable augmentation of the discriminator's input.

Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training (NeurIPS 2020,
arXiv 2006.10738): real and generated images are augmented alike, in the steps of both
networks. No operation mirrors or rotates a face, which would change its pose.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fr_jax.errors import check_names

Array = jax.Array


def diff_augment(key: Array, images: Array, policy: Sequence[str]) -> Array:
    """Returns images [B, H, W, C] in [-1, 1] after the operations of `policy` in turn.

    Every image has its own random numbers. Raises UserError for an unknown operation.
    """
    check_names("kind of diff_augment", policy, KINDS)
    for number, name in enumerate(policy):
        keys = jax.random.split(jax.random.fold_in(key, number), len(images))
        images = jax.vmap(KINDS[name])(keys, images)
    return images


def colour(key: Array, image: Array) -> Array:
    """Returns an image of random brightness, saturation and contrast.

    Brightness changes by up to 0.5, saturation is multiplied by 0 to 2, contrast by 0.5
    to 1.5.
    """
    shift, saturation, contrast = jax.random.uniform(key, (3,))
    image = image + shift - 0.5
    grey = jnp.mean(image, axis=2, keepdims=True)
    image = grey + 2 * saturation * (image - grey)
    middle = jnp.mean(image)
    return middle + (0.5 + contrast) * (image - middle)


def translation(key: Array, image: Array, *, share: float = 0.125) -> Array:
    """Returns an image shifted by up to `share` of each side, padded with grey."""
    height, width, channels = image.shape
    most = (round(height * share), round(width * share))
    padded = jnp.pad(image, ((most[0],) * 2, (most[1],) * 2, (0, 0)))
    start = jax.random.randint(key, (2,), 0, 2 * jnp.array(most) + 1)
    return jax.lax.dynamic_slice(padded, (*start, 0), (height, width, channels))


def cutout(key: Array, image: Array, *, share: float = 0.5) -> Array:
    """Returns an image with a grey square of side `share`, centred at random."""
    height, width, _ = image.shape
    top, left = jax.random.uniform(key, (2,), minval=-share / 2, maxval=1 - share / 2)
    y, x = (jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width
    rows = (y >= top) & (y < top + share)
    columns = (x >= left) & (x < left + share)
    return jnp.where((rows[:, None] & columns[None])[..., None], 0.0, image)


KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}
