"""Small DR-GAN systems, batches and networks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.models.dr_gan import generator as layers
from fr_jax.models.preprocess import InputSpec
from fr_jax.optim.ema import with_ema
from fr_jax.system import Network, System
from fr_jax.systems import dr_gan
from fr_jax.systems.dr_gan import presets
from fr_jax.systems.dr_gan.targets import Targets
from tests.support.networks import random_variables
from tests.support.steps import jit

IDENTITIES, SIDE = 6, 16
TARGETS = Targets(angles=(-30, 0, 30))
POSES = TARGETS.poses
MULTI = TARGETS._replace(images_per_identity=2)
GENERATOR = {"decoder_seed": 1, "noise": 4}
WIDTH = {"width": 0.0625}
SMALL = {
    "targets": TARGETS,
    "image_size": SIDE,
    "canvas_size": None,
    "network": WIDTH | {"generator": GENERATOR},
    "update": "fixed",
}


def use_shallow_networks(patch: pytest.MonkeyPatch) -> None:
    """Removes most layers of stride 1 from encoders, discriminators and decoders."""
    trunk = (layers.TRUNK[0], *_halving(layers.TRUNK), *layers.TRUNK[-2:])
    decoder = (layers.DECODER[0], *_halving(layers.DECODER), layers.DECODER[-1])
    patch.setattr(layers, "Trunk", functools.partial(layers.Trunk, plan=trunk))
    patch.setattr(layers, "TRUNK", trunk)
    patch.setattr(layers, "DECODER", decoder)


def _halving(plan):
    return [(name, features, stride) for name, features, stride in plan if stride == 2]


def network(generator=None, discriminator=None, **shared) -> dict[str, Any]:
    """Returns the small networks with other options."""
    generator = GENERATOR | (generator or {})
    discriminator = discriminator or {}
    own = {"generator": generator, "discriminator": discriminator}
    return WIDTH | shared | own


def make(**changes) -> System:
    """Returns the small system with other arguments."""
    return dr_gan.make(IDENTITIES, **SMALL | changes)


# Systems that together cover all options of a step.
CHOICES = {
    "cvpr": {
        **presets.cvpr_2017(),
        "targets": MULTI._replace(illuminations=2),
        "objective": {"name": "cvpr", "interpolate": True},
        "network": network({"channels": 1}),
        "canvas_size": None,
    },
    "authors": {
        **presets.authors_2018(),
        "targets": Targets(angles=(-90, 0, 90), continuous=True),
        "canvas_size": 20,
        "network": network(
            {"pose_features": 6, "seed_bn": True},
            {"branch_heads": True},
            conv_bias=True,
            final_elu=False,
            dropout=0.4,
        ),
        "update": "fixed",
        "augmentation": (),
    },
    "kayamin": {
        **presets.kayamin(multi=True),
        "targets": MULTI,
        "network": network({"normalise_fusion": False}),
        "update": "fixed",
    },
    "modern": {
        "objective": {
            "adversarial": "hinge",
            "r1": {"weight": 1.0},
            "diff_augmentation": ("colour", "translation", "cutout"),
        },
        "network": network(
            None, {"norm": "none", "conv_bias": True, "spectral_norm": True}
        ),
        "optimizer": {"discriminator": {"learning_rate": 1e-4}},
    },
    "switched": {
        "targets": TARGETS._replace(paired=True),
        "objective": {"weights": {"paired": 10.0}, "r1": {"weight": 1.0}},
        "trunk_switching": {"direction": "swap", "every": 2},
    },
}


# Published programs at full size, 96 pixels.
PRESETS = {
    "cvpr_2017": {
        **presets.cvpr_2017(),
        "targets": MULTI._replace(illuminations=2),
    },
    "authors_2018": {
        **presets.authors_2018(),
        "targets": Targets(angles=(-90, 0, 90), continuous=True),
    },
}


def faces(rows: int = 48, size: int = SIDE) -> dict[str, np.ndarray]:
    """Returns images in runs of four per identity.

    Every identity has a colour, every pose a bright column.
    """
    rng = np.random.default_rng(0)
    label = np.arange(rows) // 4 % IDENTITIES
    pose = np.arange(rows) % POSES
    image = rng.integers(0, 60, (rows, size, size, 3))
    image += rng.integers(0, 120, (IDENTITIES, 1, 1, 3))[label]
    for row, column in enumerate(pose):
        image[row, :, 4 * column : 4 * column + 4] += 70
    arrays = {"label": label, "pose": pose, "light": np.arange(rows) % 2}
    arrays = {name: array.astype(np.int32) for name, array in arrays.items()}
    return {"image": image.astype(np.uint8), **arrays}


def with_targets(arrays: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns arrays with ground truth: the next image of the same run."""
    rows = np.arange(len(arrays["image"]))
    other = (rows + 1) % 4 + rows // 4 * 4
    return arrays | {f"target_{name}": arrays[name][other] for name in names}


def batch(rows: int = 8, **changes) -> dict[str, Any]:
    """Returns a batch of the first faces."""
    arrays = {name: jnp.asarray(array[:rows]) for name, array in faces().items()}
    return arrays | {"seed": jnp.arange(rows, dtype=jnp.uint32)} | changes


def paired(rows: int = 8) -> dict[str, Any]:
    """Returns a batch with ground truth."""
    return with_targets(batch(rows), "image", "pose", "light")


@functools.cache
def chosen(name: str) -> tuple[System, dict[str, Any]]:
    """Returns one of `CHOICES` or `PRESETS`, and a batch for it."""
    if name in PRESETS:
        system = dr_gan.make(IDENTITIES, **PRESETS[name])
    else:
        system = make(**CHOICES[name])
    if name == "modern":
        return with_ema(system, 0.99), batch()
    if name.startswith("authors"):
        arrays = batch(yaw=jnp.linspace(-90, 90, 8).at[0].set(jnp.nan))
        del arrays["pose"]
        return system, arrays
    return system, paired() if name == "switched" else batch()


@functools.cache
def shapes(name: str) -> Any:
    """Returns the shapes of the State of one of `CHOICES` or `PRESETS`."""
    system, arrays = chosen(name)
    return jax.eval_shape(system.init, jax.random.key(0), arrays)


@functools.cache
def compiled_step():
    """Returns the compiled step of the small system."""
    return jit(make().train_step)


@functools.cache
def stepped(steps: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """Returns the States after 0 to `steps` steps, D, G, D, ..., and their metrics."""
    states, metrics = [jit(make().init)(jax.random.key(0), batch())], []
    for number in range(steps):
        state, found = compiled_step()(states[-1], batch(), jax.random.key(number))
        states.append(state)
        metrics.append(jax.device_get(found))
    return states, metrics


def encoder_variables() -> Any:
    """Returns variables of a small encoder."""
    return random_variables(models.create("dr_gan_encoder", **WIDTH), SIDE)


def encoder_network() -> Network:
    """Returns the `Network` of a small encoder, for `make`."""
    return Network("dr_gan_encoder", WIDTH, (), InputSpec(size=SIDE))


def generator_options(**changes) -> dict[str, Any]:
    """Returns options of a generator that fits the small system."""
    return {"poses": POSES, "size": SIDE, **WIDTH, **GENERATOR, **changes}


def generator(**changes) -> Any:
    """Returns the module of a small generator."""
    return models.create("dr_gan_generator", **generator_options(**changes))
