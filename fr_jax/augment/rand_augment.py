"""USynthFace's RandAugment on the device: Pillow's operations on whole batches.

Boutros et al. (FG 2023, arXiv 2211.07371): RandAugment (Cubuk et al., 2019, arXiv
1909.13719) with 13 operations and a random magnitude. Computing all operations for
every row and selecting one would cost 13 times too much. Instead every row passes two
stages with parameters of its own, which are the identity for other operations:
resampling (ShearX, TranslateX, Rotate) and arithmetic on pixels. Equalize, the most
expensive, runs between the two on the rows that drew it alone.

Results differ from Pillow's, which `data_pipelines.vision.rand_augment` reproduces
exactly, by one level in some pixels: a blend may be rounded once instead of twice, and
AutoContrast divides integers. Random numbers are JAX's. The host augments images of the
stored size, before resizing; the device images of the network's size.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

Array = jax.Array

OPERATIONS = (
    "Identity",
    "ShearX",
    "TranslateX",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Grayscale",
)
_BINS = 30  # largest magnitude
_ONE = 1 << 16  # 1 in Pillow's fixed point


def rand_augment(
    keys: Array, images: Array, *, num_ops: int = 4, magnitude: int = 16
) -> Array:
    """Returns images after `num_ops` operations in turn, float32 of whole numbers.

    The operation is uniform in `OPERATIONS`, the bin in 1..`magnitude`, and so is the
    sign of signed operations.

    Args:
      keys: [B].
      images: [B, H, W, 3], pixels in 0..255, rounded first.
      magnitude: at most 30.
    """

    def draw(key):
        key_kind, key_bin, key_sign = jax.random.split(key, 3)
        return (
            jax.random.randint(key_kind, (num_ops,), 0, len(OPERATIONS)),
            jax.random.randint(key_bin, (num_ops,), 1, magnitude + 1),
            jax.random.rademacher(key_sign, (num_ops,), jnp.int32),
        )

    def local(keys, images):
        kinds, bins, signs = jax.vmap(draw)(keys)  # [B, num_ops]
        pixels = jnp.round(images).astype(jnp.int32)
        for n in range(num_ops):
            pixels = apply(pixels, kinds[:, n], bins[:, n], signs[:, n])
        return pixels.astype(jnp.float32)

    # Each device selects the rows of Equalize among its own.
    mesh = jax.typeof(images).sharding.mesh
    if mesh.shape.get("data", 1) == 1:
        return local(keys, images)
    rows = PartitionSpec("data")
    return jax.shard_map(
        local, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
    )(keys, images)


def apply(pixels: Array, kind: Array, number: Array, sign: Array) -> Array:
    """Returns images after one operation each, int32 [B, H, W, 3] in 0..255.

    Args:
      kind, number, sign: int32 [B]: index in `OPERATIONS`, bin, and 1 or -1.
    """
    pixels = _resampled(pixels, kind, number, sign)
    pixels = _equalized(pixels, kind == OPERATIONS.index("Equalize"))
    return _toned(pixels, kind, number, sign)


def _is(kind: Array, *names: str) -> Array:
    """Returns bool [B, 1, 1, 1]: whether the operation is one of `names`."""
    chosen = jnp.array([name in names for name in OPERATIONS])
    return chosen[kind].reshape(-1, 1, 1, 1)


@functools.lru_cache(maxsize=8)
def _matrices(height: int, width: int) -> np.ndarray:
    """Returns Pillow's affine transforms, int32 [operations, bins, 2, 6], fixed point.

    The source of pixel (x, y) is ((c + x a + y b) >> 16, (f + x d + y e) >> 16).
    """
    table = np.empty((len(OPERATIONS), _BINS + 1, 2, 6), np.int32)
    for operation, number, negative in np.ndindex(table.shape[:3]):
        kind, sign = OPERATIONS[operation], -1 if negative else 1
        a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
        if kind == "ShearX":
            b = 0.01 * sign * number
        elif kind == "TranslateX":
            c = -sign * int(number * (150 / 331 * width) / 30)
        elif kind == "Rotate":
            angle = -math.radians(sign * number)
            a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
            d, e = -b, a
            x, y = width / 2, height / 2
            c, f = x - a * x - b * y, y - d * x - e * y
        matrix = np.array([a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2])
        table[operation, number, negative] = np.floor(matrix * _ONE + 0.5)
    return table


def _resampled(pixels, kind, number, sign):
    """Returns images after ShearX, TranslateX or Rotate; black outside the source."""
    height, width = pixels.shape[1:3]
    table = jnp.asarray(_matrices(height, width))
    rows = table[kind, number, (sign < 0).astype(jnp.int32)]  # [B, 6]
    a, b, c, d, e, f = (rows[:, n].reshape(-1, 1, 1) for n in range(6))
    y, x = (grid[None] for grid in jnp.indices((height, width)))  # [1, H, W]
    from_x, from_y = (c + x * a + y * b) >> 16, (f + x * d + y * e) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    source = jnp.where(inside, from_y * width + from_x, 0).reshape(len(pixels), -1, 1)
    flat = pixels.reshape(len(pixels), -1, 3)
    moved = jnp.take_along_axis(flat, source, axis=1).reshape(pixels.shape)
    return jnp.where(inside[..., None], moved, 0)


def _equalized(pixels, chosen):
    """Returns images with the chosen rows equalised, an eighth of the rows at a time.

    On average one row in 13 is chosen.
    """
    rows = len(pixels)
    some = -(-rows // 8)
    order, count = jnp.argsort(~chosen), jnp.sum(chosen)  # the chosen come first

    def more(carry):
        start, out = carry
        slot = start + jnp.arange(some)
        # Slots past the last chosen row get an index past the end, which is dropped.
        row = jnp.where(slot < count, order[jnp.minimum(slot, rows - 1)], rows)
        equalised = _equalize(pixels.at[row].get(mode="clip"))
        return start + some, out.at[row].set(equalised, mode="drop")

    return jax.lax.while_loop(lambda carry: carry[0] < count, more, (0, pixels))[1]


def _equalize(pixels):
    """Returns Pillow's equalize of each channel: a lookup table from its histogram."""
    flat = pixels.reshape(len(pixels), -1, 3)
    levels = jnp.arange(256).reshape(1, 1, 1, -1)
    # Cumulative counts by comparison: a histogram by scattering is slow.
    below = jnp.sum(flat[..., None] < levels, axis=1)  # [B, 3, 256]
    highest = jnp.max(flat, axis=1)[..., None]  # [B, 3, 1]
    # Pillow's step excludes the pixels of the highest level.
    step = jnp.take_along_axis(below, highest, axis=2) // 255
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, table, levels[0])
    mapped = jnp.take_along_axis(table, jnp.swapaxes(flat, 1, 2), axis=2)
    return jnp.swapaxes(mapped, 1, 2).reshape(pixels.shape)


def _toned(pixels, kind, number, sign):
    """Returns images after an operation on pixel values."""
    number, sign = (value.reshape(-1, 1, 1, 1) for value in (number, sign))
    bits = 8 - jnp.round(number / 7.5).astype(jnp.int32)
    kept = jnp.where(_is(kind, "Posterize"), -(1 << (8 - bits)), -1)
    inverted = _is(kind, "Solarize") & (2 * pixels >= 510 - 17 * number)
    low = jnp.min(pixels, axis=(1, 2), keepdims=True)
    width = jnp.max(pixels, axis=(1, 2), keepdims=True) - low
    stretched = _is(kind, "AutoContrast") & (width > 0)
    out = jnp.where(inverted, 255 - pixels, pixels & kept)
    out = jnp.where(stretched, (pixels - low) * 255 // jnp.maximum(width, 1), out)
    return _blended(out, kind, number, sign)


def _blended(pixels, kind, number, sign):
    """Returns towards + factor * (pixels - towards), clipped to 0..255."""
    weights = jnp.array([19595, 38470, 7471]).reshape(1, 1, 1, 3)
    luma = (jnp.sum(pixels * weights, axis=3, keepdims=True) + 0x8000) >> 16
    count = pixels.shape[1] * pixels.shape[2]
    mean = (2 * jnp.sum(luma, axis=(1, 2), keepdims=True) + count) // (2 * count)
    towards = jnp.where(_is(kind, "Sharpness"), _smooth(pixels), 0)
    towards = jnp.where(_is(kind, "Contrast"), mean, towards)
    towards = jnp.where(_is(kind, "Color", "Grayscale"), luma, towards)
    blends = _is(kind, "Brightness", "Color", "Contrast", "Sharpness")
    factor = jnp.where(blends, 1 + 0.03 * (sign * number), 1.0)
    factor = jnp.where(_is(kind, "Grayscale"), 0.0, factor)
    mixed = towards + factor * (pixels - towards)
    return jnp.clip(mixed, 0, 255).astype(jnp.int32)


def _smooth(pixels):
    """Returns Pillow's SMOOTH: 3 x 3 ones, 5 in the middle, over 13; edges kept."""
    height, width = pixels.shape[1:3]
    sums = 4 * pixels[:, 1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            sums += pixels[:, y : height - 2 + y, x : width - 2 + x]
    return pixels.at[:, 1:-1, 1:-1].set((2 * sums + 13) // 26)
