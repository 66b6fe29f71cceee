"""A verification set of pictures whose first pixel is their embedding."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fr_jax.evaluation.verification import Verification

PAIRS = 200


def make_set(name="toy", **options):
    """Images whose first pixel encodes an angle; genuine pairs have similar angles."""
    rng = np.random.default_rng(0)
    angle = rng.integers(0, 256, PAIRS)
    same = np.arange(PAIRS) % 20 < 10
    other = np.where(
        same, angle + rng.integers(-25, 26, PAIRS), rng.integers(0, 256, PAIRS)
    )
    values = np.stack([angle, other % 256], 1).reshape(-1)
    images = np.zeros((2 * PAIRS, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = values
    folds = np.arange(PAIRS) // 20
    pairs = np.arange(2 * PAIRS).reshape(-1, 2)
    return Verification(name, images, pairs, same, **{"folds": folds, **options})


def embed(state, batch):
    angle = batch["image"][:, 0, 0, 0].astype(jnp.float32) * (jnp.pi / 256)
    mirrored = batch["image"][:, 0, 3, 0].astype(jnp.float32) * (jnp.pi / 256)
    angle = angle + mirrored
    return {"embedding": state * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)}


def named_set(**options):
    """Thirty identities; impostor pairs are of different ones."""
    toy = make_set(**options)
    person = np.arange(PAIRS) % 30
    other = np.where(toy.same, person, (person + 7) % 30)
    names = [f"p{n}" for n in np.stack([person, other], 1).reshape(-1)]
    return dataclasses.replace(toy, identities=names)
