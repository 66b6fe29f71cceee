"""Flat drawn faces with known identity, made on the device: a stand-in for photographs.

Enough for a laptop to see training, evaluation and resuming work without downloading
anything. An identity is a vector of shapes and colours; every image of it is moved,
turned, lit and noised anew. Strangers differ far more plainly than real people do, so
an accuracy on them says nothing about photographs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_SHAPES, _TONES = 16, 5


def sample_identities(key: Array, count: int) -> Array:
    """Returns identity vectors [count, 21] in [0, 1]."""
    return jax.random.uniform(key, (count, _SHAPES + _TONES))


def draw(key: Array, identity: Array, size: int = 112) -> Array:
    """Returns one uint8 RGB image [size, size, 3] of an identity vector [21]."""
    key_pose, key_light, key_noise, key_back, key_mouth = jax.random.split(key, 5)
    shape, tones = identity[:_SHAPES], identity[_SHAPES:]
    turn, dx, dy, zoom = jax.random.normal(key_pose, (4,)) * jnp.array(
        [0.12, 0.05, 0.05, 0.06]
    )
    span = jnp.linspace(-1.0, 1.0, size)
    y, x = jnp.meshgrid(span, span, indexing="ij")
    c, s = jnp.cos(turn), jnp.sin(turn)
    x, y = (c * x - s * y) * (1 + zoom) - dx, (s * x + c * y) * (1 + zoom) - dy

    def between(index, low, high):
        return low + (high - low) * shape[index]

    def ellipse(cx, cy, rx, ry, soft=0.04):
        """Coverage in [0, 1] of an ellipse, with a soft edge."""
        distance = jnp.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 1e-9)
        return jax.nn.sigmoid((1 - distance) * jnp.minimum(rx, ry) / soft * 2)

    def paint(image, cover, colour):
        colour = jnp.broadcast_to(jnp.asarray(colour), (3,)).reshape(1, 1, 3)
        return image + cover[..., None] * (colour - image)

    def mix(index, first, second):
        low, high = jnp.array(first), jnp.array(second)
        return low + (high - low) * tones[index]

    skin = mix(0, (0.36, 0.22, 0.16), (0.96, 0.80, 0.70))
    hair = mix(1, (0.06, 0.05, 0.05), (0.45, 0.27, 0.12)) + 0.35 * tones[2] ** 4
    iris = mix(3, (0.15, 0.08, 0.04), (0.30, 0.50, 0.60))
    lips = skin * mix(4, (0.85, 0.45, 0.45), (0.95, 0.75, 0.75))
    backdrop, shirt = jax.random.uniform(key_back, (2, 3))
    image = jnp.broadcast_to(backdrop.reshape(1, 1, 3), (size, size, 3))
    wide, tall = between(0, 0.55, 0.8), between(1, 0.7, 0.95)
    image = paint(image, ellipse(0, 1.25, 0.9, 0.5), shirt)
    image = paint(
        image, ellipse(0, between(2, -0.35, -0.1), wide + 0.13, tall + 0.1), hair
    )
    image = paint(image, ellipse(0, 0.05, wide, tall), skin)
    image = paint(image, ellipse(0, -tall, wide * 1.1, between(3, 0.1, 0.45)), hair)
    apart, height = between(4, 0.2, 0.36), between(5, -0.3, -0.05)
    for side in (-1, 1):
        eye = (side * apart, height)
        image = paint(
            image, ellipse(*eye, between(6, 0.08, 0.16), between(7, 0.04, 0.1)), 1.0
        )
        image = paint(image, ellipse(*eye, 0.055, 0.055, 0.02), iris)
        brow = ellipse(
            side * apart,
            height - between(8, 0.13, 0.25),
            between(9, 0.1, 0.2),
            between(10, 0.02, 0.06),
        )
        image = paint(image, brow, hair)
    nose = ellipse(
        0, between(11, 0.05, 0.2), between(12, 0.04, 0.12), between(13, 0.12, 0.28)
    )
    image = paint(image, 0.5 * nose, skin * 0.7)
    open_ = 1 + 0.5 * jax.random.uniform(key_mouth)
    mouth = ellipse(0, 0.52, between(14, 0.12, 0.34), between(15, 0.03, 0.1) * open_)
    image = paint(image, mouth, lips)
    gain, tilt = jax.random.uniform(key_light, (2,), minval=-1.0, maxval=1.0)
    image = image * (1 + 0.25 * gain + 0.2 * tilt * x)[..., None]
    image += 0.04 * jax.random.normal(key_noise, image.shape)
    return (jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)


def draw_set(
    seed: int, identities: int, images_per_identity: int, size: int = 112
) -> dict[str, np.ndarray]:
    """Returns `image` uint8 [N, size, size, 3] and `label` int32 [N], by identity."""
    key_people, key_images = jax.random.split(jax.random.key(seed))
    people = sample_identities(key_people, identities)
    labels = np.repeat(np.arange(identities, dtype=np.int32), images_per_identity)
    keys = jax.random.split(key_images, len(labels))
    render = jax.jit(jax.vmap(functools.partial(draw, size=size)))
    return {"image": np.asarray(render(keys, people[labels])), "label": labels}


def draw_pairs(
    seed: int, count: int, size: int = 112
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images, pairs [count, 2] and same [count]: one person a pair of pairs.

    Pair 2k shows person k twice, pair 2k + 1 person k and the next one.
    """
    people = count // 2
    images = draw_set(seed, people, 3, size)["image"]
    first = 3 * np.arange(people)
    genuine = np.stack([first, first + 1], axis=1)
    impostor = np.stack([first, np.roll(first, -1) + 2], axis=1)
    pairs = np.stack([genuine, impostor], axis=1).reshape(-1, 2)
    return images, pairs, np.arange(len(pairs)) % 2 == 0
