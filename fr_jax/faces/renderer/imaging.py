"""Background, exposure, blur, resolution, noise and compression of an image."""

import einops
import jax
import jax.numpy as jnp

from fr_jax.faces.renderer.codes import IMAGING

Array = jax.Array
Colour = list[Array]


def named(codes: Array) -> dict[str, Array]:
    """Returns the named values of one imaging code."""
    return dict(zip(IMAGING, codes))


def hue(angle: Array, light: Array, strength: float) -> Colour:
    """Returns a colour, squares of display values, from hue and lightness, 0..1."""
    phase = 2 * jnp.pi * (angle + jnp.array([0.0, 1 / 3, 2 / 3]))
    display = light * (1 + strength * jnp.cos(phase))
    return list(jnp.square(jnp.clip(display, 0, 1)))


def seed(i: dict[str, Array]) -> Array:
    """Returns the random key of an image's noise and background."""
    whole = jax.lax.stop_gradient(i["grain"] * 16777216.0).astype(jnp.uint32)
    return jax.random.key(whole)


def background(i: dict[str, Array], x: Array, y: Array) -> Colour:
    """Returns the background's colour at points of the image plane, in decimetres."""
    key = jax.random.fold_in(seed(i), 1)
    a = jax.random.uniform(key, (6, 5), minval=-1.0)
    x, y = 0.3 * x, 0.3 * y
    waves = jnp.zeros_like(x)
    for k in range(6):
        scale = 1.5 + 2.2 * k
        edge = jnp.sin(scale * (a[k, 0] * x + a[k, 1] * y) * 3 + 3 * a[k, 2])
        waves = waves + a[k, 3] / (1 + 0.4 * k) * jnp.tanh(3 * a[k, 4] * edge)
    slope = 0.25 * (a[0, 3] * x + a[0, 4] * y)
    light = i["back_light"] * (1 + slope) + 0.30 * i["back_busy"] * waves
    base = hue(i["back_hue"], jnp.float32(1.0), 0.25)
    light = jnp.square(jnp.clip(light, 0.02, 1.0))
    tint = 0.4 * i["back_busy"] * jnp.tanh(2 * waves)
    tinted = base[0] * (1 + tint), base[1], base[2] * (1 - tint)
    return [light * channel for channel in tinted]


def pool(channel: Array, samples: int) -> Array:
    """Returns the mean of each pixel's samples, [S, S]."""
    return einops.reduce(channel, "(h a) (w b) -> h w", "mean", a=samples, b=samples)


def _lens(i: dict[str, Array], size: int, scale: Array) -> Array:
    """Returns the matrix [size, size] that blurs and downsamples one axis."""
    pixel = jnp.arange(size, dtype=jnp.float32)
    sigma = i["blur"] * scale + 0.05
    gauss = jnp.exp(-0.5 * jnp.square((pixel[:, None] - pixel[None, :]) * (1 / sigma)))
    gauss = gauss / gauss.sum(axis=1, keepdims=True)
    share = jnp.clip(i["resolution"] / jnp.minimum(scale, 1.0), 0.08, 1.0)
    low = pixel[:, None] * (1 / share)  # start of a coarse pixel
    end = jnp.minimum(pixel[None, :] + 1, low + 1 / share)
    down = jnp.clip(end - jnp.maximum(pixel[None, :], low), 0, 1) * share
    inside = (pixel < jnp.ceil(size * share))[None, :]
    away = jnp.abs((pixel[:, None] + 0.5) * share - 0.5 - pixel[None, :])
    up = jnp.where(inside, jnp.maximum(1 - away, 0), 0.0)
    both = up @ down
    both = both / jnp.maximum(both.sum(axis=1, keepdims=True), 1e-3)
    return both @ gauss


def _cosines() -> Array:
    k = jnp.arange(8)[:, None]
    matrix = jnp.cos(jnp.pi * (2 * jnp.arange(8)[None, :] + 1) * k / 16) / 2
    return matrix.at[0].divide(jnp.sqrt(2.0))


def compress(image: Colour, loss: Array) -> Colour:
    """Returns three channels [S, S] with quantised cosine transforms of 8x8 blocks.

    Quantisation steps grow linearly with frequency, a fit to JPEG's tables (ITU T.81,
    annex K); rounding passes gradients.

    Args:
      loss: 0 none .. 1 as JPEG at quality 5.
    """
    size = image[0].shape[0]
    blocks = -(-size // 8)
    with jax.ensure_compile_time_eval():
        cosines = jnp.kron(jnp.eye(blocks), _cosines())  # of all blocks along one axis
    pad = 8 * blocks - size
    frequency = jnp.tile(jnp.arange(8), blocks)
    frequency = frequency[:, None] + frequency[None, :]
    r, g, b = (jnp.pad(c, ((0, pad), (0, pad)), mode="edge") for c in image)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    planes = []
    blue, red = 0.564 * (b - luma), 0.713 * (r - luma)
    # Plane, its first quantisation step, growth of the step with frequency.
    for plane, first, slope in (
        (luma, 12.0, 7.5),
        (blue, 17.0, 14.0),
        (red, 17.0, 14.0),
    ):
        steps = (first + slope * frequency) * (0.05 + 9.95 * jnp.square(loss)) / 255
        spectrum = cosines @ plane @ cosines.T
        scaled = spectrum / steps
        rounded = scaled + jax.lax.stop_gradient(jnp.round(scaled) - scaled)
        spectrum = jnp.where(loss > 0.01, rounded * steps, spectrum)
        planes.append((cosines.T @ spectrum @ cosines)[:size, :size])
    luma, blue, red = planes
    r, b = luma + red / 0.713, luma + blue / 0.564
    return [r, (luma - 0.299 * r - 0.114 * b) / 0.587, b]


def expose(image: Colour, i: dict[str, Array]) -> Colour:
    """Returns display values of three channels of light after the colour settings."""
    display = []
    for channel in image:
        light = jnp.maximum(channel * jnp.exp2(i["exposure"]), 0.0)
        light = light / (1 + 0.18 * light) * 1.12  # compresses highlights, as film
        display.append((jnp.sqrt(light + 1e-5) - 0.5) * i["contrast"] + 0.5)
    grey = 0.299 * display[0] + 0.587 * display[1] + 0.114 * display[2]
    return [grey + i["saturation"] * (channel - grey) for channel in display]


def record(display: Colour, i: dict[str, Array], scale: Array) -> Array:
    """Returns the image [S, S, 3] in 0..1 after lens, noise and compression.

    Channels are separate until the end: XLA computes everything before a stack three
    times.

    Args:
      scale: size of the face, relative to an aligned image of 112 pixels.
    """
    size = display[0].shape[0]
    lens = _lens(i, size, scale)
    bits = jax.random.bits(jax.random.fold_in(seed(i), 2), (3, size, size), jnp.uint32)
    # The sum of four random bytes is nearly normal, at a tenth of the cost.
    total = jnp.stack([(bits >> shift) & 255 for shift in (0, 8, 16, 24)]).sum(axis=0)
    noise = i["noise"] * (total.astype(jnp.float32) - 510.0) / 147.8
    noisy = [lens @ channel @ lens.T + n for channel, n in zip(display, noise)]
    return jnp.clip(jnp.stack(compress(noisy, i["jpeg"]), axis=-1), 0.0, 1.0)
