"""USynthFace: momentum contrast on faces without labels.

Boutros, Klemt, Fang, Kuijper, Damer: Unsupervised Face Recognition using Unlabeled
Synthetic Data (FG 2023, arXiv 2211.07371, DOI 10.1109/FG57933.2023.10042627).
Two images of one synthetic identity are a query and its positive key; the negatives are
a queue of keys of other identities. Keys are encoded by a moving average of the query
network (MoCo: He et al., CVPR 2020, arXiv 1911.05722). The loss is MarginNCE, InfoNCE
with a margin m and temperature T (`losses.contrastive`):

    -log(exp((s+ - m) / T) / (exp((s+ - m) / T) + sum_i exp(s_i / T)))

| here | the authors' code | to restore theirs |
|---|---|---|
| unfilled rows are masked | random negatives | `queue.mask_unfilled=False` |
| keys of the query's identity are masked | negatives | `queue.mask_identity=False` |
| gradients can be clipped | no effect | `optimizer.clip_norm=0` (default) |
| BatchNorm statistics: mean of groups | first device | `bn_first_group=True` |
| rate and stop: `plateau_metrics` | three test sets | name these sets |
| faces aligned as in evaluation | 8 px to the left | `data.records.template=train96` |
| face detector has RGB input | BGR | `fr-jax data align --legacy-bgr` |

`bn_first_group` is one of `backbone_options`; without `queue.mask_identity` a queue of
more than N / 2 keys also needs `queue.force=True`.

An epoch has every identity once, in random order. A queue of K keys of N identities
contains a key of the query's identity, of the previous epoch, for (K / N)^2 / 2 of all
queries (K <= N): 5 % for the paper's 32,768 of 100,000, 12.5 % for N / 2.

    fr-jax train --config=configs/usynthface.py:smoke --workdir=runs/smoke
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from fr_jax import augment, models
from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_names, check_options, check_range, named
from fr_jax.losses import contrastive
from fr_jax.losses.margin import length, unit
from fr_jax.models.preprocess import InputSpec, normalise, prepare, resize
from fr_jax.models.projection import Projection
from fr_jax.models.start import check_start
from fr_jax.optim import optimizers
from fr_jax.optim.ema import ema
from fr_jax.system import (
    Input,
    NetState,
    Network,
    System,
    check_given,
    check_kinds,
    check_variables,
)
from fr_jax.systems.usynthface import queue as queues

_OPTIMIZER = {
    "schedule": "plateau",
    "milestones": (8, 16, 24, 32),
    "mask": optimizers.all_but_frozen,
}
_AUGMENTATION = (("flip", {}), ("rand_augment", {"num_ops": 4, "magnitude": 16}))


class State(NamedTuple):
    """The query network, its moving average (the key network), and the queue."""

    query: NetState
    key_params: Any
    key_batch_stats: Any
    queue: queues.Queue
    plateau: optimizers.Plateau


def make(
    num_classes: int,
    *,
    backbone: str = "iresnet50",
    backbone_options: Mapping[str, Any] | None = None,
    projection: Mapping[str, Any] | None = None,
    image_size: int = 112,
    queue: Mapping[str, Any] | None = None,
    key_momentum: float = 0.999,
    shuffle_keys: bool = True,
    loss: str | Callable[[jax.Array, jax.Array], jax.Array] = "margin_nce",
    loss_options: Mapping[str, float] | None = None,
    symmetric: bool = False,
    optimizer: Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    plateau_metrics: Sequence[str] = (),
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = _AUGMENTATION,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system; the defaults are the paper's.

    Batches have `image` and `positive` uint8 [B, H, W, 3], two images of one identity
    or the same image twice, `label` int32 [B], the identity (-1: unknown), and `seed`
    uint32 [B]. Metrics: loss; chance_loss, ln(negatives + 1), the loss of equal cosines
    without a margin (which adds at most margin / temperature); top1 and top5, the share
    of queries whose positive, less the margin, ranks first or in the first five;
    positive_cosine, negative_cosine; embedding_spread, 1 for queries spread over the
    sphere, 0 for equal ones (a collapse); valid_negatives per query; queue_fill;
    learning_rate.

    Args:
      num_classes: identities that the batches are sampled from.
      backbone, backbone_options: see `models.create`. With `bn_groups` (4) BatchNorm
        has separate statistics for consecutive groups of rows, as on separate devices;
        with `bn_first_group` running statistics are those of the first group.
      projection: fields of `models.projection.Projection`, {} for its defaults; None
        for the loss on the embeddings.
      queue: options of `queue.Options`: size K, policy, masks.
      key_momentum: weight of the old key network in the average.
      shuffle_keys: encode keys in random order, so that the statistics of a group do
        not reveal the positive; no effect with one group.
      loss: 'margin_nce', or a function (logits of the positive [B], logits of the
        negatives [B, K], -inf if masked) -> loss [B]. A query without valid negatives,
        as in the first step, has the loss 0 and no gradient, whatever the function.
      loss_options: margin (0.1) and temperature (0.07) of the logits; with 0 and 1 they
        are cosines.
      symmetric: each image is the query once; keys of both are enqueued.
      optimizer: options of `optim.optimizers.sgd`, over the paper's. The learning rate
        is for a batch of `reference_batch` (512), and proportional to the batch size.
        Schedule 'plateau' lowers it with `plateau_metrics`; `plateau` has options of
        `optimizers.on_plateau`.
      learning_rate, schedule: of these options, for short.
      plateau_metrics: evaluation metrics, such as 'lfw/accuracy', of a whole set or its
        evaluated subset. Their mean lowers the learning rate and stops the run.
      augmentation: of each image; see `augment.augment`.
      num_steps, steps_per_epoch: of the run, if the schedule needs them.
      pretrained: the network passed to `init` as 'init', whose colour order and scale
        of pixels the run takes over.

    Raises:
      UserError: for a queue too long for the identities, unknown names and numbers out
        of range; from `init`, for a batch larger than the queue.
    """
    check_kinds(pretrained, {"init": ["embedding"], "generator": ["generator"]})
    initial = (pretrained or {}).get("init")
    check_range("image_size", image_size, 16)
    check_range("key_momentum", key_momentum, 0, 1)
    queue_options = queues.options(queue, num_classes)
    options = {"bn_groups": 4, **(backbone_options or {})}
    groups = options["bn_groups"]
    check_range("bn_groups", groups, 1)
    model = models.create(backbone, **options)
    if initial:
        check_start(initial, backbone, options, image_size)
    loss_of = named("contrastive loss", loss, contrastive.LOSSES)
    scaling = {"margin": 0.1, "temperature": 0.07, **(loss_options or {})}
    check_names("option of the loss", scaling, ("margin", "temperature"))
    check_range("temperature", scaling["temperature"], 1e-3)
    check_range("margin", scaling["margin"], 0, 2)
    head = None if projection is None else _projection(projection)
    spec = InputSpec(size=image_size)
    spec = spec.like(initial.input_spec) if initial else spec
    augment.check(augmentation)
    settings = {**_OPTIMIZER, **(optimizer or {})}
    if schedule is not None:
        settings["schedule"] = schedule
    plateau = dict(settings.pop("plateau", {}))
    reference_batch = settings.pop("reference_batch", 512)
    check_range("reference_batch", reference_batch, 1)
    check_options("the plateau", optimizers.on_plateau, plateau, given=2)
    lowers_rate = settings["schedule"] == "plateau"
    if lowers_rate and not plateau_metrics:
        raise UserError(
            "schedule 'plateau' needs evaluation metrics: name them in "
            "`plateau_metrics` (config.data.selection.sets), or choose another schedule"
        )
    feedback = optimizers.plateau_feedback(plateau_metrics, lowers_rate, **plateau)
    if lowers_rate:
        settings["schedule"] = "constant"
    optimiser = optimizers.from_options(
        settings,
        defaults={},
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
    )
    scale_per_image = settings.get("accumulate", 1) / reference_batch

    def init(key, batch, given=None):
        queues.check(queue_options, len(batch["image"]) * (1 + symmetric))
        given = check_given(given, ["init", "generator"])
        key_backbone, key_head, key_queue = jax.random.split(key, 3)
        image = jnp.zeros((groups, image_size, image_size, 3))
        variables = model.init(key_backbone, image)
        if "init" in given:
            check_variables("init", given["init"], dict(variables))
            variables = given["init"]
        params, statistics = {"backbone": variables["params"]}, variables["batch_stats"]
        features = options.get("embedding_size", 512)
        if head:
            embedding = jnp.zeros((1, features))
            params["projection"] = head.init(key_head, embedding)["params"]
            features = head.features
        return State(
            NetState.create(params, statistics, optimiser),
            jax.tree.map(jnp.copy, params),
            jax.tree.map(jnp.copy, statistics),
            queues.create(key_queue, queue_options.size, features),
            jax.tree.map(jnp.asarray, optimizers.Plateau()),
        )

    def encode(params, statistics, images, key):
        embeddings: Any
        embeddings, updated = model.apply(
            {"params": params["backbone"], "batch_stats": statistics},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        if head:
            embeddings = head.apply({"params": params["projection"]}, embeddings)
        return unit(embeddings), updated["batch_stats"]

    def encode_keys(params, statistics, images, key):
        if groups == 1 or not shuffle_keys:
            return encode(params, statistics, images, key)
        key_order, key_dropout = jax.random.split(key)
        order = jax.random.permutation(key_order, len(images))
        shuffled = sharding.rows_over_data(images[order])
        keys, statistics = encode(params, statistics, shuffled, key_dropout)
        return keys[jnp.argsort(order)], statistics

    def contrast(params, statistics, images, keys, negatives, valid, key):
        """Loss of images [P, B, ...] and keys [P, B, D]; P is 2 if symmetric, or 1."""
        count = jnp.sum(valid, axis=1)
        # A query without valid negatives, as all are in the first step, has no loss. It
        # keeps finite logits, for losses that are not defined without negatives.
        contrasts = count > 0  # [B]
        finite = valid | ~contrasts[:, None]
        parts = []
        for part, (image, positive_key) in enumerate(zip(images, keys)):
            query, statistics = encode(
                params, statistics, image, jax.random.fold_in(key, part)
            )
            positive = jnp.sum(query * positive_key, axis=1)  # [B]
            negative = query @ negatives.T  # [B, rows]
            logits = contrastive.margin_logits(
                positive, negative, **scaling, valid=finite
            )
            losses = jnp.where(contrasts, loss_of(*logits), 0)
            rank = jnp.where(contrasts, contrastive.rank(*logits), 0)
            total = jnp.sum(jnp.where(valid, negative, 0))
            parts.append(
                {
                    "loss": jnp.mean(losses),
                    "chance_loss": jnp.mean(jnp.log1p(count)),
                    "top1": jnp.mean(rank < 1),
                    "top5": jnp.mean(rank < 5),
                    "positive_cosine": jnp.mean(positive),
                    "negative_cosine": total / jnp.maximum(jnp.sum(count), 1),
                    "embedding_spread": jnp.sqrt(jnp.sum(jnp.var(query, axis=0))),
                    "valid_negatives": jnp.mean(count),
                }
            )
        metrics = jax.tree.map(lambda *values: sum(values) / len(values), *parts)
        return metrics["loss"], (statistics, metrics)

    def train_step(state, batch, key):
        key_views, key_queries, key_keys = jax.random.split(key, 3)

        def view(number, name):
            keys = jax.random.fold_in(key_views, number)
            images = resize(batch[name], image_size)
            keys = augment.example_keys(keys, batch["seed"])
            return normalise(augment.augment(keys, images, augmentation), spec)

        query = state.query
        views = [view(0, "image"), view(1, "positive")]
        key_params = ema(state.key_params, query.params, key_momentum)
        key_statistics, keys = state.key_batch_stats, []
        for part, image in enumerate(views[::-1] if symmetric else views[1:]):
            encoded, key_statistics = encode_keys(
                key_params, key_statistics, image, jax.random.fold_in(key_keys, part)
            )
            keys.append(encoded)
        gradients, (statistics, metrics) = jax.grad(contrast, has_aux=True)(
            query.params,
            query.batch_stats,
            views[: len(keys)],
            jax.lax.stop_gradient(keys),
            state.queue.keys,
            queues.valid(state.queue, queue_options, batch["label"]),
            key_queries,
        )
        scale = state.plateau.factor * len(batch["image"]) * scale_per_image
        metrics["learning_rate"] = optimiser.rate(query.updates) * scale
        query = optimizers.apply_gradients(
            query, gradients, statistics, optimiser, scale
        )
        labels = jnp.tile(batch["label"], len(keys))
        queue = queues.enqueue(
            state.queue, queue_options, jnp.concatenate(keys), labels
        )
        metrics["queue_fill"] = jnp.sum(queue.filled) / queue_options.size
        state = State(query, key_params, key_statistics, queue, state.plateau)
        return state, metrics

    def variables(state):
        return {
            "params": state.query.params["backbone"],
            "batch_stats": state.query.batch_stats,
        }

    def embed(state, batch):
        embeddings: Any = model.apply(variables(state), prepare(batch["image"], spec))
        return {"embedding": embeddings, "quality": length(embeddings)}

    def hand_over(state):
        network = Network(backbone, models.plain(options), variables(state), spec)
        return {"embedding": network}

    image = Input(np.uint8, (None, None, None, 3), multiple=groups)
    return System(
        init,
        train_step,
        embed,
        hand_over,
        feedback=feedback if plateau_metrics else None,
        partition=dict.fromkeys(("keys", "identity", "filled"), PartitionSpec("model")),
        expects={
            "image": image,
            "positive": image,
            "label": Input(np.int32, (None,), low=-1, below=num_classes),
            "seed": Input(np.uint32, (None,)),
        },
    )


def _projection(fields: Mapping[str, Any]) -> Projection:
    if not isinstance(fields, Mapping):
        raise UserError(f"projection is {fields!r}; use {{'features': 128}} or None")
    check_names("field of the projection", fields, ("features", "hidden"))
    for name, value in fields.items():
        check_range(f"the projection's {name}", value, name == "features")
    return Projection(**fields)
