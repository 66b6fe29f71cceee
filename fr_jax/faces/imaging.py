"""What a camera does to a picture: background, blur, resolution, noise, compression."""

import jax
import jax.numpy as jnp

from fr_jax.faces.codes import IMAGING

Array = jax.Array


def named(codes: Array) -> dict[str, Array]:
    """Returns the named values of one imaging code."""
    return dict(zip(IMAGING, codes))


def hue(angle: Array, light: Array, strength: float) -> list[Array]:
    """Returns a colour, squares of display values, of a hue 0..1 and a light 0..1."""
    turn = 2 * jnp.pi * (angle + jnp.array([0.0, 1 / 3, 2 / 3]))
    display = light * (1 + strength * jnp.cos(turn))
    return list(jnp.square(jnp.clip(display, 0, 1)))


def seed(i: dict[str, Array]) -> Array:
    """Returns the random key of a picture's grain."""
    whole = jax.lax.stop_gradient(i["grain"] * 16777216.0).astype(jnp.uint32)
    return jax.random.key(whole)


def background(i: dict[str, Array], x: Array, y: Array) -> list[Array]:
    """Returns the colour behind the head, for places in shares of the frame."""
    key = jax.random.fold_in(seed(i), 1)
    a = jax.random.uniform(key, (6, 5), minval=-1.0)
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
    return [
        light * (base[0] * (1 + tint)),
        light * base[1],
        light * (base[2] * (1 - tint)),
    ]


def _lens(i: dict[str, Array], size: int) -> Array:
    """Returns the matrix [size, size] that blurs and coarsens one axis."""
    place = jnp.arange(size, dtype=jnp.float32)
    sigma = i["blur"] * size / 112 + 0.05
    gauss = jnp.exp(-0.5 * jnp.square((place[:, None] - place[None, :]) / sigma))
    gauss = gauss / gauss.sum(axis=1, keepdims=True)
    share = jnp.clip(i["resolution"], 0.08, 1.0)
    low = place[:, None] / share  # where a coarse pixel begins
    cover = jnp.clip(
        jnp.minimum(place[None, :] + 1, low + 1 / share)
        - jnp.maximum(place[None, :], low),
        0,
        1,
    )
    down = cover * share
    inside = (place < jnp.ceil(size * share))[None, :]
    up = jnp.maximum(
        1 - jnp.abs((place[:, None] + 0.5) * share - 0.5 - place[None, :]), 0
    )
    up = jnp.where(inside, up, 0.0)
    both = up @ down
    both = both / jnp.maximum(both.sum(axis=1, keepdims=True), 1e-3)
    return both @ gauss


def _cosines() -> Array:
    k = jnp.arange(8)[:, None]
    matrix = jnp.cos(jnp.pi * (2 * jnp.arange(8)[None, :] + 1) * k / 16) / 2
    return matrix.at[0].divide(jnp.sqrt(2.0))


def compress(image: Array, loss: Array) -> Array:
    """Returns image [S, S, 3] after quantising the cosines of 8x8 blocks.

    Steps grow with frequency like JPEG's tables (ITU T.81, annex K, to a straight
    line); rounding passes gradients.

    Args:
      loss: 0 none .. 1 as JPEG at quality 5.
    """
    size = image.shape[0]
    pad = -size % 8
    padded = jnp.pad(image, ((0, pad), (0, pad), (0, 0)), mode="edge")
    to_ycc = jnp.array(
        [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
    )
    ycc = padded @ to_ycc.T
    blocks = (size + pad) // 8
    ycc = ycc.reshape(blocks, 8, blocks, 8, 3)
    cosines = _cosines()
    spectrum = jnp.einsum("ij,ajbkc,lk->aiblc", cosines, ycc, cosines)
    frequency = jnp.arange(8)[:, None] + jnp.arange(8)[None, :]
    luma = 12.0 + 7.5 * frequency
    chroma = 17.0 + 14.0 * frequency
    table = jnp.stack([luma, chroma, chroma], axis=-1)[None, :, None]  # [1,8,1,8,3]
    steps = table * (0.05 + 9.95 * jnp.square(loss)) / 255
    scaled = spectrum / steps
    rounded = scaled + jax.lax.stop_gradient(jnp.round(scaled) - scaled)
    spectrum = jnp.where(loss > 0.01, rounded * steps, spectrum)
    ycc = jnp.einsum("ij,aiblc,lk->ajbkc", cosines, spectrum, cosines)
    back = ycc.reshape(size + pad, size + pad, 3) @ jnp.linalg.inv(to_ycc).T
    return back[:size, :size]


def expose(image: Array, i: dict[str, Array]) -> Array:
    """Returns display values [S, S, 3] of squared light, exposed and coloured."""
    light = jnp.maximum(image * jnp.exp2(i["exposure"]), 0.0)
    light = light / (1 + 0.18 * light) * 1.12  # film's shoulder
    display = jnp.sqrt(light + 1e-5)
    display = (display - 0.5) * i["contrast"] + 0.5
    grey = display @ jnp.array([0.299, 0.587, 0.114])
    return grey[..., None] + i["saturation"] * (display - grey[..., None])


def record(display: Array, i: dict[str, Array]) -> Array:
    """Returns the picture [S, S, 3] in 0..1 as a camera keeps it."""
    lens = _lens(i, display.shape[0])
    display = jnp.einsum("ij,jkc,lk->ilc", lens, display, lens)
    bits = jax.random.bits(jax.random.fold_in(seed(i), 2), display.shape, jnp.uint32)
    # Four bytes summed are nearly normal, at a tenth of the cost.
    total = sum((bits >> shift) & 255 for shift in (0, 8, 16, 24))
    noise = (total.astype(jnp.float32) - 510.0) / 147.8
    display = display + i["noise"] * noise
    return jnp.clip(compress(display, i["jpeg"]), 0.0, 1.0)
