"""A regressor of 68 landmarks, trained on rendered faces alone.

FRA (`systems.fra`) needs the landmarks of a face; no freely usable detector of 68
points exists. The renderer knows its points exactly, as in Wood et al., Fake It Till
You Make It (ICCV 2021, arXiv 2109.15102), whose landmark networks are trained on
rendered faces. The loss is the wing loss of Feng et al. (CVPR 2018, arXiv 1711.06753),
of differences as percentages of the distance of the outer eye corners.

| here | Feng et al. |
|---|---|
| rendered faces, 68 points on the head | photographs with annotated points |
| differences over the distance of the eye corners | pixels of a crop of 224 |
| a residual network of 112 pixels | CNN-6 of 64, then CNN-7 of 128 |
| every batch cropped at random | pose-based data balancing |

A batch has uncropped faces with their points. Every step takes from each a square
around the points, placed as a face detector may place it, rotated and mirrored at
random, and degrades the crop (`augment.landmarks`, `augment.degrade`).

    fr-jax train --config=configs/landmarks.py:smoke --workdir=runs/smoke
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import augment, models
from fr_jax.augment import landmarks as crops
from fr_jax.errors import UserError, check_options, check_range, named
from fr_jax.losses import landmarks as losses
from fr_jax.models.landmarks import NUM_POINTS, to_shares
from fr_jax.models.preprocess import InputSpec, normalise, prepare
from fr_jax.models.start import check_start
from fr_jax.optim import optimizers
from fr_jax.system import (
    Input,
    NetState,
    Network,
    System,
    check_given,
    check_kinds,
    check_variables,
)

LOSSES: dict[str, Callable[..., jax.Array]] = {"wing": losses.wing}
_OPTIMIZER = {"name": "adam", "schedule": "cosine"}
_AUGMENTATION = (
    ("colour_jitter", {"probability": 0.7}),
    ("grey", {}),
    ("cover", {}),
    ("blur", {}),
    ("noise", {}),
    ("jpeg", {}),
)
_OUTER_CORNERS = np.array([36, 45])
# In a profile the eye corners are close to each other: the differences are divided by
# no less than this share of the crop's side.
_LEAST = 0.2


def make(
    *,
    backbone: str = "landmark_regressor",
    backbone_options: Mapping[str, Any] | None = None,
    image_size: int = 112,
    crop: Mapping[str, float] | None = None,
    loss: str | Callable[..., jax.Array] = "wing",
    loss_options: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | optimizers.Optimizer | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = _AUGMENTATION,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system.

    Batches have `image` uint8 [B, H, W, 3], faces with background around them,
    `landmarks68` float32 [B, 68, 2], their points (x, y) in pixels, and `seed` uint32
    [B]. Metrics: loss; error, the mean distance of the points of the batch over the
    distance of the outer eye corners; learning_rate.

    Args:
      backbone, backbone_options: see `models.create`; a network with 136 outputs, as of
        `models.landmarks`.
      image_size: side of the crops.
      crop: options of `augment.landmarks.random_squares`.
      loss, loss_options: 'wing', see `losses.landmarks`; or a function of differences
        [B, 68, 2], in percent of the distance of the eye corners -> [B].
      optimizer: options of `optim.optimizers.adam` or `sgd`, over the defaults.
      learning_rate, schedule: of these options, for short.
      augmentation: of the crops; see `augment.augment`. It moves no pixels.
      num_steps, steps_per_epoch: of the run, if the schedule needs them.
      pretrained: the network passed to `init` as 'init'.

    Raises:
      UserError: for numbers out of range, unknown names, and augmentation that moves
        pixels.
    """
    check_kinds(pretrained, {"init": ["landmarks"]})
    check_range("image_size", image_size, 16)
    options, placing = dict(backbone_options or {}), dict(crop or {})
    model = models.create(backbone, **options)
    if pretrained:
        check_start(pretrained["init"], backbone, options, image_size)
    spec = InputSpec(size=image_size)
    check_options("crop", crops.random_squares, placing, given=2)
    for name, value in placing.items():
        check_range(f"crop.{name}", value, 0.5 if name == "margin" else 0)
    penalty = named("loss", loss, LOSSES)
    check_options(f"loss {loss!r}", penalty, loss_options or {}, given=1)
    augment.check(augmentation)
    for name, _ in augmentation:
        if name in ("flip", "similarity", "rand_augment"):
            raise UserError(
                f"augmentation {name!r} moves pixels and not landmarks; crop.mirrored, "
                "crop.degrees, crop.scale and crop.shift move both"
            )
    optimiser = optimizers.from_options(
        optimizer,
        defaults=_OPTIMIZER,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
        schedule=schedule,
    )

    def init(key, batch, given=None):
        del batch
        given = check_given(given, ["init"])
        variables = model.init(key, jnp.zeros((1, *spec.shape)))
        outputs: Any = jax.eval_shape(
            model.apply, variables, jnp.zeros((1, *spec.shape))
        )
        if outputs.shape != (1, 2 * NUM_POINTS):
            raise UserError(
                f"backbone {backbone!r} has {outputs.shape[1]} outputs, landmarks "
                f"need {2 * NUM_POINTS}: set backbone_options.embedding_size"
            )
        if "init" in given:
            check_variables("init", given["init"], dict(variables))
            variables = given["init"]
        return NetState.create(variables["params"], variables["batch_stats"], optimiser)

    def loss_of(params, statistics, images, points, key):
        outputs: Any
        outputs, updated = model.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        shares = to_shares(points, image_size).reshape(-1, NUM_POINTS, 2)
        first, second = (shares[:, corner] for corner in _OUTER_CORNERS)
        eyes = jnp.linalg.norm(first - second, axis=1)  # [B], shares of the side
        differences = outputs.reshape(-1, NUM_POINTS, 2) - shares
        percent = 100 * differences / jnp.maximum(eyes, _LEAST)[:, None, None]
        total = jnp.mean(penalty(percent, **(loss_options or {})))
        distances = jnp.mean(jnp.linalg.norm(differences, axis=2), axis=1)
        error = jnp.mean(distances / jnp.maximum(eyes, _LEAST))
        return total, (updated["batch_stats"], {"loss": total, "error": error})

    def train_step(state, batch, key):
        key_images, key_dropout = jax.random.split(key)
        keys = augment.example_keys(key_images, batch["seed"])
        key_square = jax.vmap(jax.random.fold_in, (0, None))(keys, len(augmentation))
        squares = crops.random_squares(key_square, batch["landmarks68"], **placing)
        points = crops.into_crops(batch["landmarks68"], squares, image_size)
        images = crops.crop(batch["image"], squares, image_size)
        images = normalise(augment.augment(keys, images, augmentation), spec)
        gradients, (statistics, metrics) = jax.grad(loss_of, has_aux=True)(
            state.params, state.batch_stats, images, points, key_dropout
        )
        metrics["learning_rate"] = optimiser.rate(state.updates)
        state = optimizers.apply_gradients(state, gradients, statistics, optimiser)
        return state, metrics

    def variables(state):
        return {"params": state.params, "batch_stats": state.batch_stats}

    def embed(state, batch):
        outputs: Any = model.apply(variables(state), prepare(batch["image"], spec))
        return {"embedding": outputs}

    def hand_over(state):
        network = Network(backbone, models.plain(options), variables(state), spec)
        return {"landmarks": network._replace(kind="landmarks")}

    expects = {
        "image": Input(np.uint8, (None, None, None, 3)),
        "landmarks68": Input(np.float32, (None, NUM_POINTS, 2)),
        "seed": Input(np.uint32, (None,)),
    }
    return System(init, train_step, embed, hand_over, expects=expects)
