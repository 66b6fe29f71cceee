"""Random codes distributed as in photographs: mostly frontal, mostly well lit."""

import jax
import jax.numpy as jnp

from fr_jax.faces.renderer import imaging, light
from fr_jax.faces.renderer.codes import (
    EXPRESSIONS,
    IDENTITY_SIZE,
    IMAGING,
    MOVEMENTS,
    STYLE_SIZE,
    Codes,
    expression,
)

Array = jax.Array


def sample_identities(key: Array, n: int) -> Array:
    """Returns n identity vectors [n, IDENTITY_SIZE], standard normal."""
    return jax.random.normal(key, (n, IDENTITY_SIZE))


def sample_codes(key: Array, n: int, *, identity: Array | None = None) -> Codes:
    """Returns n codes, each row sampled from its own key: it does not depend on n.

    Args:
      identity: [n, IDENTITY_SIZE]; by default every row has a new identity.
    """
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(n))
    codes = jax.vmap(_sample)(keys)
    return codes if identity is None else codes._replace(identity=identity)


def sample_light(key: Array) -> Array:
    """Returns light [9, 3]: of a room and of one or two lamps or windows."""
    keys = jax.random.split(key, 8)
    warm = 0.10 * jax.random.normal(keys[0])
    tint = jnp.array([1.0, 0.0, -1.0]) * warm + 1
    room = jax.random.uniform(keys[1], minval=0.15, maxval=0.75)
    lights = light.ambient(room * tint)
    for k, low, high in ((2, 0.1, 0.95), (5, -0.3, 0.5)):
        azimuth = 1.1 * jax.random.normal(keys[k])
        height = 0.45 + 0.45 * jax.random.normal(keys[k + 1])
        strength = jax.random.uniform(keys[k + 2], minval=low, maxval=high)
        colour = jnp.maximum(strength, 0) * tint[::-1]
        lights = lights + light.lamp(light.towards(azimuth, height), colour)
    # Automatic exposure.
    mean = jnp.maximum(lights[0].mean() * 0.282095, 0.1)
    return lights * (0.95 / (0.35 + 0.65 * (mean + 0.25)))


def sample_expression(key: Array) -> Array:
    """Returns movements [EXPRESSION_SIZE]: one of the seven, scaled, with noise."""
    keys = jax.random.split(key, 5)
    presets = jnp.stack([expression(name) for name in EXPRESSIONS])
    shares = jnp.array([0.34, 0.38, 0.06, 0.05, 0.04, 0.04, 0.09])
    chosen = presets[jax.random.choice(keys[0], len(shares), p=shares)]
    strength = jax.random.uniform(keys[1], minval=0.2, maxval=1.0)
    noise = 0.12 * jax.random.normal(keys[2], (len(MOVEMENTS),))
    gaze = jnp.array([name.startswith("gaze") for name in MOVEMENTS])
    noise = jnp.where(gaze, 3.0 * noise, noise)
    both_ways = ("smile", "brows_inner", "brows_outer", "eyes_wide")
    signed = jnp.array([name in both_ways for name in MOVEMENTS])
    moved = strength * chosen + noise
    return jnp.clip(jnp.where(signed | gaze, moved, jnp.maximum(moved, 0)), -1.0, 1.0)


def _sample(key: Array) -> Codes:
    keys = jax.random.split(key, 12)
    wide = jax.random.bernoulli(keys[0], 0.3)
    anywhere = jax.random.uniform(keys[1], minval=-90.0, maxval=90.0)
    yaw = jnp.where(wide, anywhere, 20.0 * jax.random.normal(keys[2]))
    pitch, roll = jax.random.normal(keys[3], (2,)) * jnp.array([8.0, 7.0])
    pose = jnp.stack([jnp.clip(yaw, -90, 90), jnp.clip(pitch, -40, 40), roll])
    distance = jnp.clip(jnp.exp(3.2 + 0.5 * jax.random.normal(keys[4])), 5.0, 100.0)
    shift = jax.random.uniform(keys[5], (2,), minval=-0.06, maxval=0.06)
    age = jnp.clip(36 + 15 * jax.random.normal(keys[6]), 4.0, 85.0)
    style = 0.4 * jax.random.normal(keys[7], (STYLE_SIZE,))
    return Codes(
        identity=jax.random.normal(keys[8], (IDENTITY_SIZE,)),
        expression=sample_expression(keys[9]),
        pose=pose,
        camera=jnp.concatenate([distance[None], shift]),
        light=sample_light(keys[10]),
        age=age,
        style=jnp.clip(style, -1, 1),
        imaging=_sample_imaging(keys[11]),
    )


def _sample_imaging(key: Array) -> Array:
    u = imaging.named(jax.random.uniform(key, (len(IMAGING),)))
    key_normal = jax.random.fold_in(key, 1)
    z = imaging.named(jax.random.normal(key_normal, (len(IMAGING),)))

    def sometimes(name, share):
        """Returns 1.0 in a share of the images, else 0.0."""
        return (u[name] < share).astype(jnp.float32)

    saturation = 1.15 + 0.2 * z["saturation"]
    values = {
        "blur": 0.6 * jnp.abs(z["blur"]) * u["blur"] + 0.1,
        "noise": 0.02 * u["noise"] ** 2,
        "jpeg": 0.35 * u["jpeg"] ** 2,
        "resolution": jnp.where(u["resolution"] < 0.75, 1.0, 0.5 * u["resolution"]),
        "exposure": 0.3 * z["exposure"],
        "contrast": 1.12 + 0.12 * z["contrast"],
        "saturation": jnp.where(u["saturation"] < 0.08, 0.0, saturation),
        "glasses": sometimes("glasses", 0.12),
        "glasses_dark": sometimes("glasses_dark", 0.15) * 0.9,
        "glasses_shape": u["glasses_shape"],
        "mask": sometimes("mask", 0.015),
        "hand": sometimes("hand", 0.015),
        "hand_x": 2 * u["hand_x"] - 1,
        "hand_y": 2 * u["hand_y"] - 1,
    }
    return jnp.stack([values.get(name, u[name]) for name in IMAGING])
