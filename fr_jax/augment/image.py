"""Augmentation on the device: pure functions of one key per example.

Images are float32 RGB [B, H, W, 3] with pixels in 0..255. The result for an example
depends on its key alone, not on its batch, device or process.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from fr_jax.augment import degrade
from fr_jax.augment.rand_augment import rand_augment
from fr_jax.errors import UserError, check_names, check_options

Array = jax.Array
Policy = Sequence[tuple[str, Mapping[str, Any]]]

_LUMA = (0.299, 0.587, 0.114)


def example_keys(key: Array, seeds: Array) -> Array:
    """Returns one key per example from a step's key and the stream's `seed` [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, seeds)


def augment(keys: Array, images: Array, policy: Policy) -> Array:
    """Returns images after every (name, options) of `policy` in turn.

    Raises:
      UserError: see `check`.
    """
    check(policy)
    for index, (name, options) in enumerate(policy):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        images = AUGMENTATIONS[name](step_keys, images, **options)
    return images


def check(policy: Sequence[Any]) -> None:
    """Raises a UserError for a malformed policy and for unknown names or options."""
    for entry in policy:
        if isinstance(entry, str) or len(entry) != 2:
            raise UserError(f"augmentation {entry!r}: give (name, options) of each")
        name, options = entry
        check_names("augmentation", [name], AUGMENTATIONS)
        check_options(f"{name!r}", AUGMENTATIONS[name], options, given=2)


def flip(keys: Array, images: Array, *, probability: float = 0.5) -> Array:
    """Returns images mirrored left to right with the given probability."""
    chosen = jax.vmap(jax.random.bernoulli, (0, None))(keys, probability)
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def crop(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.2,
    area: tuple[float, float] = (0.2, 1.0),
    aspect: tuple[float, float] = (0.75, 4 / 3),
) -> Array:
    """Returns images that are black outside a random rectangle.

    AdaFace (Kim et al., CVPR 2022, arXiv 2204.00964): a RandomResizedCrop pasted back
    in place, so that the face stays aligned.

    Args:
      area: range of the rectangle's share of the image's area.
      aspect: range of its width / height.
    """
    height, width = images.shape[1:3]

    def window(key):
        key_area, key_aspect, key_y, key_x, key_use = jax.random.split(key, 5)
        part = jax.random.uniform(key_area, (), minval=area[0], maxval=area[1])
        low, high = jnp.log(aspect[0]), jnp.log(aspect[1])
        ratio = jnp.exp(jax.random.uniform(key_aspect, (), minval=low, maxval=high))
        tall = jnp.minimum(jnp.sqrt(part / ratio), 1.0) * height
        wide = jnp.minimum(jnp.sqrt(part * ratio), 1.0) * width
        top = jax.random.uniform(key_y) * (height - tall)
        left = jax.random.uniform(key_x) * (width - wide)
        y, x = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
        rows = (y >= top) & (y < top + tall)
        columns = (x >= left) & (x < left + wide)
        kept = rows[:, None] & columns[None]
        return kept | ~jax.random.bernoulli(key_use, probability)

    return images * jax.vmap(window)(keys)[..., None]


def low_resolution(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.2,
    side: tuple[float, float] = (0.2, 1.0),
) -> Array:
    """Returns images [B, S, S, 3] downsampled and upsampled again.

    AdaFace's second augmentation. Each direction uses one of four filters at random:
    antialiased triangle, cubic, Lanczos, or nearest neighbour.

    Args:
      side: range of the intermediate side, as a share of S.
    """
    size = images.shape[1]

    def resampling(source, target, choice):
        """Returns [size, size]: resamples the first `source` to `target` pixels."""
        scale = target / source
        unit = jnp.eye(size)
        smooth = [
            jax.image.scale_and_translate(
                unit, (size, size), (0,), scale[None], jnp.zeros(1), method
            )
            for method in ("linear", "cubic", "lanczos3")
        ]
        centres = jnp.floor((jnp.arange(size) + 0.5) / scale)
        nearest = jax.nn.one_hot(centres.astype(jnp.int32), size)
        matrix = jnp.stack([*smooth, nearest])[choice]
        # Zero outside the pixels of either size.
        pixels = jnp.arange(size)
        matrix = matrix * (pixels < source)[None] * (pixels < target)[:, None]
        return matrix / jnp.maximum(jnp.sum(matrix, 1, keepdims=True), 1e-6)

    def both_ways(key):
        key_side, key_down, key_up, key_use = jax.random.split(key, 4)
        part = jax.random.uniform(key_side, (), minval=side[0], maxval=side[1])
        small, full = jnp.maximum(jnp.round(part * size), 1.0), jnp.float32(size)
        down = resampling(full, small, jax.random.randint(key_down, (), 0, 4))
        up = resampling(small, full, jax.random.randint(key_up, (), 0, 4))
        use = jax.random.bernoulli(key_use, probability)
        return jnp.where(use, up @ down, jnp.eye(size))

    matrices = jax.vmap(both_ways)(keys)
    images = jnp.einsum("bij,bjwc->biwc", matrices, images)
    return jnp.clip(jnp.einsum("bij,bhjc->bhic", matrices, images), 0, 255)


def colour_jitter(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.2,
    brightness: float = 0.5,
    contrast: float = 0.5,
    saturation: float = 0.5,
) -> Array:
    """Returns images with random brightness, contrast and saturation, in random order.

    Each factor is uniform in [1 - x, 1 + x]. AdaFace's third augmentation, as
    torchvision's ColorJitter.
    """
    reach = jnp.array([brightness, contrast, saturation])

    def adjust(image, kind, factor):
        grey = jnp.dot(image, jnp.array(_LUMA))[..., None]
        black = jnp.zeros_like(image)
        towards = jnp.stack(jnp.broadcast_arrays(black, jnp.mean(grey), grey))[kind]
        return jnp.clip(towards + factor * (image - towards), 0, 255)

    def one(key, image):
        key_order, key_factor, key_use = jax.random.split(key, 3)
        order = jax.random.permutation(key_order, 3)
        factors = 1 + reach * jax.random.uniform(key_factor, (3,), minval=-1, maxval=1)
        out = image
        for kind in order:
            out = adjust(out, kind, factors[kind])
        return jnp.where(jax.random.bernoulli(key_use, probability), out, image)

    return jax.vmap(one)(keys, images)


def similarity(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.5,
    degrees: float = 8.0,
    scale: float = 0.1,
    shift: float = 0.05,
) -> Array:
    """Returns images rotated, scaled and shifted at random, as by alignment errors.

    The angle is uniform in +-`degrees`, the factor in 1 +- `scale`, the shift in
    +-`shift` of the side along each axis. Bilinear, about the centre; pixels outside
    the image repeat its edge.
    """

    def one(key, image):
        key_angle, key_scale, key_shift = jax.random.split(key, 3)
        size = jnp.array(image.shape[:2])
        angle = jnp.radians(degrees) * jax.random.uniform(key_angle, (), minval=-1)
        factor = 1 + scale * jax.random.uniform(key_scale, (), minval=-1)
        offset = shift * size * jax.random.uniform(key_shift, (2,), minval=-1)
        centre = (size - 1) / 2
        y, x = jnp.indices(image.shape[:2])
        y, x = y - centre[0] - offset[0], x - centre[1] - offset[1]
        cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
        source = [y * cosine - x * sine + centre[0], y * sine + x * cosine + centre[1]]

        def sample(channel):
            return map_coordinates(channel, source, order=1, mode="nearest")

        moved = jax.vmap(sample, in_axes=2, out_axes=2)(image)
        use = jax.random.bernoulli(jax.random.fold_in(key, 3), probability)
        return jnp.where(use, moved, image)

    return jax.vmap(one)(keys, images)


AUGMENTATIONS: dict[str, Callable[..., Array]] = {
    "flip": flip,
    "similarity": similarity,
    "crop": crop,
    "low_resolution": low_resolution,
    "colour_jitter": colour_jitter,
    "rand_augment": rand_augment,
    "grey": degrade.grey,
    "blur": degrade.blur,
    "jpeg": degrade.jpeg,
    "noise": degrade.noise,
    "cover": degrade.cover,
}
