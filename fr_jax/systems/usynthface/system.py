"""USynthFace: momentum contrast on faces without labels.

Boutros, Klemt, Fang, Kuijper, Damer: Unsupervised Face Recognition using Unlabeled
Synthetic Data (FG 2023). Two images of one generated person are pulled together; a
queue of the keys of other people, encoded by a slowly moving average of the network,
is pushed away (MoCo v1), and the positive must win by a margin (`losses.margin_nce`).

| here | the authors' code | as there |
|---|---|---|
| random rows of the queue are no negatives | they are, for the first K / B steps | `mask_unfilled=False` |
| keys of the query's own person are no negatives | they are, where an earlier epoch left them | `mask_identity=False`, above K = N / 2 `force=True` too |
| gradients can be clipped | a call that clips the last step's, to no effect | `clip_norm=None` (default) |
| statistics of BatchNorm averaged over the groups | those of the first device | `bn_first_group=True` |
| rate and stop follow the metrics in `watch` | accuracies on three test sets | name those |
| faces lie where those of evaluation sets do | 8 px to the left of them | `data.template=train96` |
| the detector of alignment sees RGB | BGR, though theirs was trained on RGB | `fr-jax data align --legacy-bgr` |

An epoch has every person once, in an order of its own, so a queue of K keys of N people
holds the query's own key of the epoch before in (K / N)^2 / 2 of all queries (K <= N):
5 % with the paper's 32,768 of 100,000, 12.5 % at N / 2. Such a key would be pushed away
like a stranger's; masked, it is one negative less.

    fr-jax train --config=configs/usynthface.py:smoke --workdir=runs/smoke
"""  # noqa: E501 - a table

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from fr_jax import augment, models
from fr_jax.backend import sharding
from fr_jax.errors import UserError, unknown
from fr_jax.losses.contrastive import margin_logits, margin_nce, rank
from fr_jax.losses.margin import length, unit
from fr_jax.models.preprocess import InputSpec, normalise, prepare, resize
from fr_jax.models.projection import Projection
from fr_jax.optim import optimizers
from fr_jax.optim.ema import ema
from fr_jax.system import Network, System, check_given, partition_named, score
from fr_jax.systems.usynthface import queue

_SCHEDULES = ("plateau", *optimizers.SCHEDULES)


class State(NamedTuple):
    """The query network (what is trained), the key network that follows, the queue."""

    params: Any
    batch_stats: Any
    opt_state: Any
    key_params: Any
    key_batch_stats: Any
    queue: queue.Queue
    plateau: optimizers.Plateau
    step: jax.Array


def make(
    num_classes: int,
    *,
    batch_size: int | None = None,
    steps_per_epoch: float | None = None,
    backbone: str = "iresnet50",
    backbone_options: Mapping[str, Any] | None = None,
    bn_groups: int = 4,
    bn_first_group: bool = False,
    shuffle_keys: bool = True,
    projection: Mapping[str, Any] | None = None,
    image_size: int = 112,
    queue_size: int = 32_768,
    queue_policy: str = "normal",
    mask_unfilled: bool = True,
    mask_identity: bool = True,
    force: bool = False,
    key_momentum: float = 0.999,
    temperature: float = 0.07,
    margin: float = 0.1,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = margin_nce,
    symmetric: bool = False,
    learning_rate: float = 0.1,
    reference_batch: int = 512,
    schedule: str = "plateau",
    epochs: float = 200,
    milestones: Sequence[float] = (8, 16, 24, 32),
    warmup_epochs: float = 0,
    watch: Sequence[str] = (),
    plateau: Mapping[str, Any] | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    clip_norm: float | None = None,
    accumulate: int = 1,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = (
        ("flip", {}),
        ("rand_augment", {"num_ops": 4, "magnitude": 16}),
    ),
) -> System:
    """Returns the system; the defaults are the paper's.

    Batches have `image` and `positive` uint8 [B, H, W, 3], two images of one identity
    or the same one twice, `label` int32 [B], that identity's number (-1: nobody
    knows), and `seed` uint32 [B]. Metrics: loss; chance_loss, ln(negatives
    + 1), the loss where the network knows nothing, to which the margin adds at most
    margin / temperature; top1 and top5 of picking the positive,
    with the margin taken off it; positive_cosine, negative_cosine; embedding_spread,
    1 where queries lie all over the sphere and 0 where they are all the same (a
    collapse); valid_negatives of a query; queue_fill; learning_rate.

    Args:
      num_classes: identities that the batches are drawn from.
      batch_size: rows of a batch, to learn at once whether it will do.
      steps_per_epoch: batches in an epoch; needed by every schedule that counts in
        epochs, that is all but 'plateau' and 'constant'.
      backbone, backbone_options: see `models.create`.
      bn_groups: BatchNorm's statistics are those of each of this many runs of rows, as
        of one device each; 1 for those of the whole batch.
      bn_first_group: the statistics that are judged and handed over follow the first
        group alone; else the mean of all.
      shuffle_keys: keys are encoded in another order, so that a query and its key do
        not share statistics by which the one could be told from the other; only where
        there are groups.
      projection: fields of `models.projection.Projection`, {} for its defaults; None
        contrasts the embeddings themselves.
      queue_size: K, the number of negatives.
      queue_policy: see `queue.enqueue`.
      mask_unfilled: rows never enqueued are no negatives.
      mask_identity: keys of the query's own identity are no negatives.
      force: allow a queue that holds more than half as many keys as there are people
        though the own ones among them are not masked.
      key_momentum: weight of the old key network in the average.
      loss: of logits of the positive [B] and of the negatives [B, K], minus infinity
        where they are none: the loss [B]. See `losses.margin_nce`; a margin of 0 and a
        temperature of 1 make cosines of the logits.
      symmetric: either image is the query once; keys of both are enqueued.
      learning_rate: for batches of `reference_batch`, and in proportion to the batch.
      schedule, milestones: 'plateau', or see `optimizers.schedule`; in epochs.
      watch: evaluation metrics, such as 'lfw/accuracy', of the whole set or of the
        subset that is judged. Their mean is the score that 'plateau' follows and that
        stops the run.
      plateau: keywords of `optimizers.on_plateau`.
      clip_norm: largest norm of all gradients together; None or 0 leaves them.
      accumulate: steps whose gradients are averaged into one update.
      augmentation: of each image on its own; see `augment.augment`.

    Raises:
      UserError: for a queue too long for the people, a batch that the groups do not
        divide or the queue cannot hold (from `init` if none was given), unknown names,
        numbers that make no sense.
    """
    _check_range("bn_groups", bn_groups, 1)
    _check_range("image_size", image_size, 16)
    _check_range("queue_size", queue_size, 1)
    _check_range("temperature", temperature, 1e-3)
    _check_range("key_momentum", key_momentum, 0, 1)
    _check_range("reference_batch", reference_batch, 1)
    _check_range("clip_norm", clip_norm or 0, 0)
    _check_range("accumulate", accumulate, 1)
    for value in milestones:
        _check_range("milestones", value, 0)
    if queue_size > num_classes / 2 and not (mask_identity or force):
        raise UserError(
            f"a queue of {queue_size:,} keys for {num_classes:,} people would often "
            f"hold the query's own person among its negatives: use queue_size <= "
            f"{num_classes // 2:,}, mask_identity=True, or force=True"
        )

    def check(rows):
        if rows % bn_groups:
            raise UserError(
                f"a batch of {rows} rows cannot be cut into {bn_groups} equal "
                "BatchNorm groups; choose a batch size that bn_groups divides"
            )
        queue.check(queue_size, rows * (1 + symmetric), queue_policy)

    check(batch_size or bn_groups)
    if schedule not in _SCHEDULES:
        raise UserError(unknown("schedule", schedule, _SCHEDULES))
    follows = schedule == "plateau"
    if steps_per_epoch is None and not (follows or schedule == "constant"):
        raise UserError(
            f"schedule {schedule!r} counts in epochs: give steps_per_epoch, the number "
            "of batches in one, or schedule='plateau' or 'constant'"
        )
    steps = steps_per_epoch or 1
    rate_at = optimizers.schedule(
        "constant" if follows else schedule,
        learning_rate,
        total_steps=round(epochs * steps),
        milestones=[round(epoch * steps) for epoch in milestones],
        warmup_steps=round(warmup_epochs * steps),
    )
    options = dict(backbone_options or {})
    grouped = dict(options)
    if bn_groups > 1:
        grouped["bn_groups"] = bn_groups
    if bn_first_group:
        grouped["bn_first_group"] = True
    model = models.create(backbone, **grouped)
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"]).name
    if not isinstance(projection, Mapping | None):
        raise UserError(
            f"projection is {projection!r}; use {{'features': 128}} or None"
        )
    _check_names("field of the projection", projection, ("features", "hidden"))
    for name, value in (projection or {}).items():
        _check_range(f"the projection's {name}", value, name == "features")
    _check_names("setting of the plateau", plateau, optimizers.PLATEAU_SETTINGS)
    head = None if projection is None else Projection(**projection)
    spec = InputSpec(size=image_size)
    optimizer = optimizers.sgd(  # without the rate, which the state knows
        1.0,
        momentum=momentum,
        weight_decay=weight_decay,
        mask=optimizers.all_but_frozen,
        clip_norm=clip_norm or None,
        accumulate=accumulate,
    )

    def init(key, batch, given=None):
        check(len(batch["image"]))
        for name in given or {}:
            if name != "init":
                raise UserError(unknown("given network", name, ["init"]))
        key_backbone, key_head, key_queue = jax.random.split(key, 3)
        image = jnp.zeros((bn_groups, image_size, image_size, 3))
        variables = model.init(key_backbone, image)
        if given and "init" in given:
            check_given("init", given["init"], dict(variables))
            variables = given["init"]
        params, statistics = {"backbone": variables["params"]}, variables["batch_stats"]
        features = options.get("embedding_size", 512)
        if head:
            embedding = jnp.zeros((1, features))
            params["projection"] = head.init(key_head, embedding)["params"]
            features = head.features
        key_params, key_statistics = jax.tree.map(jnp.copy, (params, statistics))
        return State(
            params,
            statistics,
            optimizer.init(params),
            key_params,
            key_statistics,
            queue.create(key_queue, queue_size, features),
            jax.tree.map(jnp.asarray, optimizers.Plateau()),
            jnp.int32(0),
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
        if bn_groups == 1 or not shuffle_keys:
            return encode(params, statistics, images, key)
        key_order, key_dropout = jax.random.split(key)
        order = jax.random.permutation(key_order, len(images))
        shuffled = sharding.rows_over_data(images[order])
        keys, statistics = encode(params, statistics, shuffled, key_dropout)
        return keys[jnp.argsort(order)], statistics

    def objective(params, statistics, images, keys, negatives, valid, key):
        """Of images [P, B, ...] and keys [P, B, D]: P is 2 if symmetric, else 1."""
        parts = []
        for part, (image, positive) in enumerate(zip(images, keys)):
            query, statistics = encode(
                params, statistics, image, jax.random.fold_in(key, part)
            )
            own = jnp.sum(query * positive, axis=1)
            others = query @ negatives.T  # [B, rows]
            logits = margin_logits(
                own, others, margin=margin, temperature=temperature, valid=valid
            )
            place = rank(*logits)
            counted = jnp.sum(valid, axis=1)
            parts.append(
                {
                    "loss": jnp.mean(loss(*logits)),
                    "chance_loss": jnp.mean(jnp.log1p(counted)),
                    "top1": jnp.mean(place < 1),
                    "top5": jnp.mean(place < 5),
                    "positive_cosine": jnp.mean(own),
                    "negative_cosine": jnp.sum(jnp.where(valid, others, 0))
                    / jnp.maximum(jnp.sum(counted), 1),
                    "embedding_spread": jnp.sqrt(jnp.sum(jnp.var(query, axis=0))),
                    "valid_negatives": jnp.mean(counted),
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

        views = [view(0, "image"), view(1, "positive")]
        key_params = ema(state.key_params, state.params, key_momentum)
        key_statistics, keys = state.key_batch_stats, []
        for part, image in enumerate(views[::-1] if symmetric else views[1:]):
            made, key_statistics = encode_keys(
                key_params, key_statistics, image, jax.random.fold_in(key_keys, part)
            )
            keys.append(made)
        valid = queue.valid(
            state.queue,
            queue_size,
            batch["label"],
            unfilled=not mask_unfilled,
            own_identity=not mask_identity,
        )
        gradients, (statistics, metrics) = jax.grad(objective, has_aux=True)(
            state.params,
            state.batch_stats,
            views[: len(keys)],
            jax.lax.stop_gradient(keys),
            state.queue.keys,
            valid,
            key_queries,
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        scale = len(batch["image"]) * accumulate / reference_batch
        rate = rate_at(state.step) * state.plateau.factor * scale
        params = optax.apply_updates(
            state.params, jax.tree.map(lambda update: rate * update, updates)
        )
        enqueued = queue.enqueue(
            state.queue,
            queue_size,
            jnp.concatenate(keys),
            jnp.tile(batch["label"], len(keys)),
            queue_policy,
        )
        metrics["queue_fill"] = jnp.sum(enqueued.filled) / queue_size
        metrics["learning_rate"] = rate
        return State(
            params,
            statistics,
            opt_state,
            key_params,
            key_statistics,
            enqueued,
            state.plateau,
            state.step + 1,
        ), metrics

    def feedback(state, metrics):
        found = score(metrics, watch, "metric to watch")
        new, stop = optimizers.on_plateau(state.plateau, found, **(plateau or {}))
        if not follows:
            new = new._replace(factor=np.float32(1.0))
        return state._replace(plateau=new), stop

    def variables(state):
        return {"params": state.params["backbone"], "batch_stats": state.batch_stats}

    def embed(state, batch):
        images = prepare(batch["image"], spec)
        embeddings: Any = model.apply(variables(state), images)
        return {"embedding": embeddings, "quality": length(embeddings)}

    def partition(state):
        rows = PartitionSpec("model")
        return partition_named(state, {"keys": rows, "identity": rows, "filled": rows})

    def hand_over(state):
        return {"embedding": Network(backbone, options, variables(state), spec)}

    return System(
        init,
        train_step,
        embed,
        feedback=feedback if watch else None,
        partition=partition,
        hand_over=hand_over,
    )


def _check_range(name, value, low, high=None):
    if not isinstance(value, int | float):
        raise UserError(f"{name}: {value!r} is no number")
    if not low <= value <= (value if high is None else high):
        most = "or more" if high is None else f"to {high}"
        raise UserError(f"{name} is {value}; use {low:g} {most}")


def _check_names(what, given, known):
    for name in given or {}:
        if name not in known:
            raise UserError(unknown(what, name, known))
