"""Inter-Prototype: margin softmax with separated prototypes of child identities.

Lee, Yun, Park, Kim, Choo: Improving Face Recognition with Large Age Gaps by Learning
to Distinguish Children (BMVC 2021, arXiv 2110.11630). A child and an adult of one
identity are hard to match because embeddings of children are close to each other. The
prototypes, the classifier rows, of identities with child images are pushed towards
right angles:

    L = L_m + lambda L_ip,    L_ip = mean over i, j of (cos_ij - [i = j])^2

with L_m a margin softmax loss (`losses.margin`) and cos_ij the cosines of prototypes of
child identities (`losses.inter_prototype`). Without child identities it is L_m alone.

| here | the authors' code |
|---|---|
| cosines clipped to 1 - 1e-7 before the square root | to 1: NaN gradients |
| batches of one size | a last batch of one row breaks BatchNorm |
| evaluation at the end of an epoch | one step into the next, never the last |
| raw embeddings handed over | normalised inside the network |

    fr-jax train --config=configs/inter_prototype.py:smoke --workdir=runs/smoke
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from fr_jax import augment, models
from fr_jax.errors import UserError, check_range
from fr_jax.losses import margin as margins
from fr_jax.losses.inter_prototype import inter_prototype
from fr_jax.models.preprocess import InputSpec, normalise, prepare, resize
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

# Classifier rows are padded to a multiple of this, so that a checkpoint fits 1, 2, 4, 8
# devices.
_ROW_MULTIPLE = 128
_OPTIMIZER = {"schedule": "step", "milestones": (28, 38, 46)}


def make(
    num_classes: int,
    *,
    backbone: str = "ir_se50",
    backbone_options: Mapping[str, Any] | None = None,
    image_size: int = 112,
    head: str | Callable[..., jax.Array] = "arcface",
    head_options: Mapping[str, Any] | None = None,
    child_classes: Sequence[int] = (),
    lambda_child: float = 1.0,
    optimizer: Mapping[str, Any] | optimizers.Optimizer | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = (("flip", {}),),
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system; the defaults are the paper's for CASIA-WebFace.

    Batches have `image` uint8 [B, H, W, 3], `label` int32 [B] in [0, num_classes) and
    `seed` uint32 [B]. Metrics: loss, margin_loss, inter_prototype_loss, accuracy (of
    the batch, without margin), target_cosine, learning_rate.

    Args:
      backbone, backbone_options: see `models.create`.
      head, head_options: see `losses.margin.make_head`; a name, or a function (cosines,
        labels) -> logits.
      child_classes: labels of the child identities.
      lambda_child: lambda, the weight of L_ip.
      optimizer: options of `optim.optimizers.sgd` or `adam`, over the paper's.
      learning_rate, schedule: of these options, for short.
      augmentation: see `augment.augment`.
      num_steps, steps_per_epoch: of the run, if the schedule needs them.
      pretrained: the network passed to `init` as 'init', whose colour order and scale
        of pixels the run takes over.

    Raises:
      UserError: for fewer than two classes, a child class or number out of range, and
        unknown names.
    """
    check_kinds(pretrained, {"init": ["embedding"], "generator": ["generator"]})
    initial = (pretrained or {}).get("init")
    if num_classes < 2:
        raise UserError(
            f"{num_classes} identity: margin softmax separates identities; at least 2 "
            "are needed"
        )
    for child in child_classes:
        if not 0 <= child < num_classes:
            raise UserError(f"child class {child} is not in 0..{num_classes - 1}")
    check_range("image_size", image_size, 16)
    check_range("lambda_child", lambda_child, 0)
    options = dict(backbone_options or {})
    model = models.create(backbone, **options)
    if initial:
        check_start(initial, backbone, options, image_size)
    spec = InputSpec(size=image_size)
    spec = spec.like(initial.input_spec) if initial else spec
    margin_head = margins.make_head(head, **(head_options or {}))
    children = jnp.array(child_classes, jnp.int32)
    optimiser = optimizers.from_options(
        optimizer,
        defaults=_OPTIMIZER,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
        schedule=schedule,
    )
    augment.check(augmentation)

    def init(key, batch, given=None):
        del batch
        given = check_given(given, ["init", "generator"])
        key_backbone, key_prototypes = jax.random.split(key)
        image = jnp.zeros((1, image_size, image_size, 3))
        variables = model.init(key_backbone, image)
        if "init" in given:
            check_variables("init", given["init"], dict(variables))
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
        return NetState.create(params, statistics, optimiser)

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
        target = margins.target_cosine(cosines, labels)
        highest = jnp.max(cosines[:, :num_classes], axis=1)
        metrics = {
            "margin_loss": margin_loss,
            "accuracy": jnp.mean(target >= highest),
            "target_cosine": jnp.mean(target),
        }
        total = margin_loss + penalty
        if len(children):
            separation = inter_prototype(params["prototypes"][children])
            metrics["inter_prototype_loss"] = separation
            total += lambda_child * separation
        metrics["loss"] = total
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
        metrics["learning_rate"] = optimiser.rate(state.updates)
        state = optimizers.apply_gradients(state, gradients, statistics, optimiser)
        return state, metrics

    def variables(state):
        return {
            "params": state.params["backbone"],
            "batch_stats": state.batch_stats["backbone"],
        }

    def embed(state, batch):
        images = prepare(batch["image"], spec)
        embeddings: Any = model.apply(variables(state), images)
        return {"embedding": embeddings, "quality": margins.length(embeddings)}

    def hand_over(state):
        network = Network(backbone, models.plain(options), variables(state), spec)
        return {"embedding": network}

    expects = {
        "image": Input(np.uint8, (None, None, None, 3)),
        "label": Input(np.int32, (None,), low=0, below=num_classes),
        "seed": Input(np.uint32, (None,)),
    }
    partition = {"prototypes": PartitionSpec("model")}
    return System(
        init, train_step, embed, hand_over, partition=partition, expects=expects
    )
