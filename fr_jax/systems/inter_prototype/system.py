"""Inter-Prototype: margin softmax whose child prototypes are pushed apart.

Lee, Yun, Park, Kim, Choo: Improving Face Recognition with Large Age Gaps by Learning
to Distinguish Children (BMVC 2021). A child and an adult of one person are hard to
match because children crowd together; the classifier rows of the identities known to
own child photos are pushed towards right angles. Without child identities this is
plain margin softmax, so it serves every margin loss in `losses.margin`.

| here | the authors' code |
|---|---|
| cosines clipped at 1 - 1e-7 before the square root | at 1: NaN gradients |
| batches of one size | a last batch of one row breaks BatchNorm |
| evaluated at the end of an epoch | one step into the next, never the last |
| embedding handed over raw | normalised inside the network |

    fr-jax train --config=configs/inter_prototype.py:smoke --workdir=runs/smoke
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from fr_jax import augment, models
from fr_jax.errors import UserError, unknown
from fr_jax.losses import margin as margins
from fr_jax.losses.inter_prototype import inter_prototype
from fr_jax.models.preprocess import InputSpec, normalise, prepare, resize
from fr_jax.optim import optimizers
from fr_jax.system import (
    NetState,
    Network,
    System,
    check_given,
    partition_named,
)

# Rows of the classifier are padded to a multiple of this, so that they can be cut over
# any mesh that anyone has; a checkpoint of 8 devices then fits 1.
_ROW_MULTIPLE = 128


def make(
    num_classes: int,
    *,
    steps_per_epoch: float | None = None,
    backbone: str = "ir_se50",
    backbone_options: Mapping[str, Any] | None = None,
    image_size: int = 112,
    head: str | Callable[..., jax.Array] = "arcface",
    head_options: Mapping[str, Any] | None = None,
    child_classes: Sequence[int] = (),
    lambda_child: float = 1.0,
    learning_rate: float = 0.1,
    schedule: str = "step",
    epochs: float = 50,
    milestones: Sequence[float] = (28, 38, 46),
    warmup_epochs: float = 0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    clip_norm: float | None = None,
    accumulate: int = 1,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = (("flip", {}),),
) -> System:
    """Returns the system; the defaults are the paper's for CASIA-WebFace.

    Batches have `image` uint8 [B, H, W, 3], `label` int32 [B] in [0, num_classes) and
    `seed` uint32 [B]. Metrics: loss, margin_loss, inter_prototype_loss, accuracy (of
    the batch, without margin), target_cosine, learning_rate.

    Args:
      steps_per_epoch: batches in an epoch, which turn the schedule's epochs into
        steps; needed by every schedule but 'constant'.
      backbone, backbone_options: see `models.create`.
      head, head_options: see `losses.margin.make_head`; a function of your own
        (cosines, labels) -> logits will do.
      child_classes: labels of the identities whose prototypes are pushed apart.
      schedule, milestones: see `optimizers.schedule`; milestones in epochs.
      clip_norm: largest norm of all gradients together; None or 0 leaves them.
      accumulate: steps whose gradients are averaged into one update.
      augmentation: see `augment.augment`.

    Raises:
      UserError: for fewer than two classes, a child class that is none of them, and
        unknown names.
    """
    if num_classes < 2:
        raise UserError(
            f"{num_classes} identity: margin softmax tells people apart; one identity "
            "alone is not enough"
        )
    for child in child_classes:
        if not 0 <= child < num_classes:
            raise UserError(f"child class {child} is not in 0..{num_classes - 1}")
    if steps_per_epoch is None:
        if schedule != "constant":
            raise UserError(
                f"schedule {schedule!r} counts in epochs: give steps_per_epoch, the "
                "number of batches in one, or schedule='constant'"
            )
        steps_per_epoch = 1
    options = dict(backbone_options or {})
    model = models.create(backbone, **options)
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"]).name
    spec = InputSpec(size=image_size)
    margin_head = margins.make_head(head, **(head_options or {}))
    children = jnp.array(child_classes, jnp.int32) if len(child_classes) else None
    updates_per_epoch = steps_per_epoch / accumulate
    rate = optimizers.schedule(
        schedule,
        learning_rate,
        total_steps=round(epochs * updates_per_epoch),
        milestones=[round(epoch * updates_per_epoch) for epoch in milestones],
        warmup_steps=round(warmup_epochs * updates_per_epoch),
    )
    optimizer = optimizers.sgd(
        rate,
        momentum=momentum,
        weight_decay=weight_decay,
        clip_norm=clip_norm or None,
        accumulate=accumulate,
    )

    def init(key, batch, given=None):
        del batch
        for name in given or {}:
            if name != "init":
                raise UserError(unknown("given network", name, ["init"]))
        key_backbone, key_prototypes = jax.random.split(key)
        image = jnp.zeros((1, image_size, image_size, 3))
        variables = model.init(key_backbone, image)
        if given and "init" in given:
            check_given("init", given["init"], dict(variables))
            variables = given["init"]
        embedded: Any = jax.eval_shape(model.apply, variables, image)
        shape = (num_classes, embedded.shape[1])
        rows = jax.random.uniform(key_prototypes, shape, minval=-1, maxval=1)
        padding = -num_classes % _ROW_MULTIPLE
        params = {
            "backbone": variables["params"],
            "prototypes": jnp.pad(margins.unit(rows), ((0, padding), (0, 0))),
        }
        statistics = {
            "backbone": variables["batch_stats"],
            "head": jax.tree.map(jnp.asarray, margin_head.memory),
        }
        return NetState(params, statistics, optimizer.init(params))

    def loss(params, statistics, images, labels, key):
        embeddings: Any
        embeddings, updated = model.apply(
            {"params": params["backbone"], "batch_stats": statistics["backbone"]},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        cosines = margins.cosine_matrix(embeddings, params["prototypes"])
        logits, penalty, memory = margin_head.apply(
            cosines, labels, margins.length(embeddings), statistics["head"]
        )
        margin_loss = jnp.mean(margins.cross_entropy(logits, labels, num_classes))
        total = margin_loss + penalty
        metrics = {"margin_loss": margin_loss}
        if children is not None:
            metrics["inter_prototype_loss"] = inter_prototype(
                params["prototypes"][children]
            )
            total += lambda_child * metrics["inter_prototype_loss"]
        own = margins.target_cosine(cosines, labels)
        highest = jnp.max(cosines[:, :num_classes], axis=1)
        metrics |= {
            "loss": total,
            "accuracy": jnp.mean(own >= highest),
            "target_cosine": jnp.mean(own),
        }
        statistics = {"backbone": updated["batch_stats"], "head": memory}
        return total, (statistics, metrics)

    def train_step(state, batch, key):
        key_images, key_dropout = jax.random.split(key)
        keys = augment.example_keys(key_images, batch["seed"])
        images = resize(batch["image"], image_size)
        images = normalise(augment.augment(keys, images, augmentation), spec)
        gradients, (statistics, metrics) = jax.grad(loss, has_aux=True)(
            state.params, state.batch_stats, images, batch["label"], key_dropout
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = optax.tree.get(state.opt_state, "count")
        metrics["learning_rate"] = rate(count)
        return NetState(params, statistics, opt_state), metrics

    def backbone_variables(state):
        return {
            "params": state.params["backbone"],
            "batch_stats": state.batch_stats["backbone"],
        }

    def embed(state, batch):
        images = prepare(batch["image"], spec)
        embeddings: Any = model.apply(backbone_variables(state), images)
        return {"embedding": embeddings, "quality": margins.length(embeddings)}

    def partition(state):
        return partition_named(state, {"prototypes": PartitionSpec("model")})

    def hand_over(state):
        network = Network(backbone, options, backbone_variables(state), spec)
        return {"embedding": network}

    return System(init, train_step, embed, partition=partition, hand_over=hand_over)
