"""Stage I: the encoder of identities learns from triplets of real faces.

SymTriplet: Zhang et al., Tracking Persons-of-Interest via Adaptive Discriminative
Features (ECCV 2016).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fr_jax.optim import optimizers
from fr_jax.system import Network, System, check_given, check_kinds
from fr_jax.systems.self_augmentation.encoders import (
    AUGMENTATION,
    encoder_of,
    expects,
    learning,
    started,
    variables_of,
)

_KINDS = {"init": ["embedding"]}

Array = jax.Array


def make(
    *,
    backbone: str | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    head: str = "dense",
    embedding_size: int = 64,
    image_size: int | None = None,
    unit_length: bool = False,
    slow: Sequence[str] = ("network",),
    slow_factor: float = 0.1,
    loss: str | Callable[..., Array] = "sym_triplet",
    margin: float = 1.0,
    optimizer: Mapping[str, Any] | optimizers.Optimizer | None = None,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = AUGMENTATION,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system of Stage I.

    Batches have `image` (the anchor), `positive` and `negative`, uint8 [B, H, W, 3],
    and `seed` uint32 [B]. Metrics: loss; active_triplets, the share whose loss is not
    0; positive_distance and negative_distance, Euclidean means; embedding_length, whose
    growth or fall announces an explosion or a collapse; learning_rate.

    Args:
      backbone, backbone_options: see `models.create`; None: those of the network given
        as 'init', or a MobileFaceNet.
      head: 'dense', a new linear layer of `embedding_size` outputs, as Zhang et al.; or
        'none'. An encoder of an earlier run keeps what it has.
      image_size: side of the images; None: that of the given network, or 112.
      unit_length: embeddings have length 1; a margin of 0.2 then suits.
      slow, slow_factor: parameters whose path begins with one of these names learn at
        this share of the learning rate; 'network' is what precedes the new layer.
      loss, margin: a name in `losses.triplet.LOSSES`, or a function (anchor, positive,
        negative, *, margin) -> [B].
      optimizer: options of `optim.optimizers.sgd` or `adam`.
      augmentation: of each image; see `augment.augment`.
      num_steps, steps_per_epoch: of the run, if the schedule needs them.
      pretrained: 'init', the network that training begins with.

    Raises:
      UserError: for unknown names, numbers out of range, and networks that do not fit.
    """
    check_kinds(pretrained, _KINDS)
    begins = (pretrained or {}).get("init")
    architecture = begins.architecture if begins else ""
    encoder = encoder_of(
        begins,
        backbone,
        backbone_options,
        head=head,
        embedding_size=embedding_size,
        image_size=image_size,
        unit_length=unit_length,
        slow=slow,
        slow_factor=slow_factor,
    )
    learns = learning(
        encoder,
        loss=loss,
        margin=margin,
        augmentation=augmentation,
        optimizer=optimizer,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
    )

    def init(key, batch, given=None):
        del batch
        given = check_given(given, _KINDS)
        variables = dict(encoder.model.init(key, jnp.zeros((1, *encoder.spec.shape))))
        if "init" in given:
            variables = started(variables, given["init"], architecture)
        return learns.start(variables)

    def train_step(state, batch, key):
        views, key_dropout = learns.views(batch, key)
        return learns.update(state, views, jnp.zeros(len(views[0])), key_dropout)

    def embed(state, batch):
        return {"embedding": encoder.embed(variables_of(state), batch["image"])}

    def hand_over(state):
        return {"embedding": encoder.network(variables_of(state))}

    return System(init, train_step, embed, hand_over, expects=expects())
