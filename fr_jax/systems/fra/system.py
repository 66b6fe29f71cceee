"""FRA: face representation augmentation, embeddings of a face in other poses.

Hashemifar, Marefat, Hassannataj Joloudari, Hassanpour: FRA: A novel Face Representation
Augmentation algorithm for face recognition (ESWA 2023, arXiv 2301.11986).
From a face embedding f of a frozen embedder and a landmark map of another pose, the
network (`models.fra`) generates the embedding g of the same face in that pose: an
autoencoder gives a code of the map, and a vision transformer fuses code and embedding.
Both are trained jointly. With the reconstruction r of the map t, the true embedding f'
in that pose, and embeddings n of another identity, another pose and another expression,

    L = BCE(r, t) + sum over three n of max(0, ||g - f'|| - ||g - n|| + m)

| here | the authors' code | to restore theirs |
|---|---|---|
| m fits the embeddings, if their norms are unusual | 10 | `margin='published'` |
| cross-entropy of logits | of probabilities, clamped | `reconstruction_loss` |
| no dropout in validation | dropout | `dropout_in_validation=True` |
| plateau of the mean validation loss | the last batch's | `plateau_loss='last'` |
| patience 5, stop after 15 | 30, minimum 1e-7, no stop | `optimizer.plateau` |
| embeddings of any length | 512 | |

`reconstruction_loss` is then 'clamped_cross_entropy', and `optimizer.plateau` has
patience 30, min_factor 1e-4 and stop_after 0. The decoder is the published one; with
`network.decoder='sane'` its first map depends on the code everywhere and not only at
its centre.

    fr-jax train --config=configs/fra.py:smoke --workdir=runs/smoke
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.errors import UserError, check_names, check_options, check_range, named
from fr_jax.losses import reconstruction, triplet
from fr_jax.losses.margin import unit
from fr_jax.models.fra import SIZE
from fr_jax.models.preprocess import InputSpec
from fr_jax.models.start import check_start
from fr_jax.optim import optimizers
from fr_jax.system import (
    Input,
    Last,
    NetState,
    Network,
    System,
    check_given,
    check_kinds,
    check_variables,
)

NEGATIVES = ("identity", "pose", "expression")
MARGIN = 10.0  # of the published program
_SCALE = 0.4  # of the mean distance between identities: 10 for MobileFaceNet's 25
_USUAL_NORMS = 5.0, 100.0  # of embeddings for which the published margin is meant
_OPTIMIZER = {
    "name": "adam",
    "learning_rate": 1e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 1e-4,
    "schedule": "plateau",
    "mask": optimizers.all_parameters,
}
_PLATEAU = {"factor": 0.5, "patience": 5, "cooldown": 0, "stop_after": 15}
# Of networks given by name; the data use all but 'init'.
_KINDS = {"init": ["augmenter"], "embedder": ["embedding"], "landmarks": ["landmarks"]}
# White dots on black, in the box of the landmarks, as `convert` describes it.
_SPEC = InputSpec(SIZE, "GREY", mean=0.0, scale=255.0, template="landmark_box")


class State(NamedTuple):
    """The network, and the schedule of its learning rate."""

    network: NetState
    plateau: optimizers.Plateau


def make(
    *,
    embedding_size: int,
    embedding_distance: float,
    embedding_norm: float,
    network: Mapping[str, Any] | None = None,
    margin: float | str = "auto",
    triplet_loss: str | Callable[..., jax.Array] = "triplet_margin",
    reconstruction_loss: str | Callable[..., jax.Array] = "cross_entropy",
    weights: Mapping[str, float] | None = None,
    dropout_in_validation: bool = False,
    plateau_loss: str = "mean",
    optimizer: Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system; the defaults are the paper's, with the deviations above.

    Batches have `landmarks` uint8 [B, 112, 112, 1] of 0 and 1, the map of the target
    pose, and float32 [B, D], raw, of the frozen embedder: `embedding` of the input
    image, `target` of the true image in the target pose, `negative_identity`,
    `negative_pose` and `negative_expression`.

    Metrics: loss; reconstruction_loss; triplet_loss, the weighted sum of
    identity_triplet_loss, pose_triplet_loss and expression_triplet_loss;
    active_triplets, the share of triplets whose loss is not 0; target_cosine of
    generated and true embeddings; input_cosine of input and true ones, to compare;
    learning_rate. `eval_step` has the same, and with `plateau_loss='last'` last_loss.

    Args:
      embedding_size: D, of the frozen embedder.
      embedding_distance: mean Euclidean distance of training embeddings of different
        identities.
      embedding_norm: mean norm of the training embeddings.
      network: fields of `models.fra.FRA`: decoder, dropout, vit_dropout, vit_width, ...
      margin: of the triplets: a number; 'published', 10; 'scaled', 0.4 times
        `embedding_distance`; 'auto', 'published' if `embedding_norm` is between 5 and
        100, or 'scaled': unit embeddings, no farther than 2 from each other, can never
        satisfy a margin of 10.
      triplet_loss: 'triplet_margin', or a function (anchor, positive, negative, *,
        margin) -> loss [B], of embeddings [B, D].
      reconstruction_loss: 'cross_entropy', 'clamped_cross_entropy', or a function
        (logits, maps) -> loss [B], both [B, 112, 112, 1].
      weights: of the losses: reconstruction, identity, pose, expression; each 1.
      dropout_in_validation: `eval_step` keeps dropout.
      plateau_loss: 'mean' of the validation batches, or the 'last' batch's.
      optimizer: options of `optim.optimizers.adam` or `sgd`, over the paper's. Schedule
        'plateau' lowers the rate with the validation loss; `plateau` has options of
        `optimizers.on_plateau`. Whatever the schedule, the run stops after 15
        evaluations without a lower loss (`plateau.stop_after`; 0: never).
      learning_rate, schedule: of these options, for short.
      num_steps, steps_per_epoch: of the run, if the schedule needs them.
      pretrained: the network passed to `init` as 'init', an augmenter.

    Raises:
      UserError: for unknown names, numbers out of range, and an augmenter of other
        embeddings or sizes.
    """
    check_kinds(pretrained, _KINDS)
    check_range("embedding_size", embedding_size, 1)
    check_range("embedding_distance", embedding_distance, 1e-6)
    check_range("embedding_norm", embedding_norm, 1e-6)
    options = dict(network or {})
    if "embedding_size" in options:
        raise UserError("network.embedding_size is that of the embedder: leave it out")
    options["embedding_size"] = embedding_size
    model = models.create("fra", **options)
    _check_pretrained(pretrained, options)
    m = _margin(margin, embedding_distance, embedding_norm)
    triplet_of = named("triplet loss", triplet_loss, triplet.LOSSES)
    reconstruction_of = named(
        "reconstruction loss", reconstruction_loss, reconstruction.CROSS_ENTROPIES
    )
    factors: dict[str, float] = dict.fromkeys(("reconstruction", *NEGATIVES), 1.0)
    check_names("weight of a loss", weights or {}, factors)
    factors.update(weights or {})
    for name, value in factors.items():
        check_range(f"the weight of {name}", value, 0)
    check_names("plateau_loss", [plateau_loss], ("mean", "last"))
    optimiser, feedback = _optimiser(
        optimizer,
        "-validation/loss" if plateau_loss == "mean" else "-validation/last_loss",
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
        schedule=schedule,
    )

    def init(key, batch, given=None):
        del batch
        given = check_given(given, _KINDS)
        shapes = models.example_inputs(model, _SPEC)
        inputs = (jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
        variables = model.init(key, *inputs)
        if "init" in given:
            check_variables("init", given["init"], dict(variables))
            variables = given["init"]
        plateau = jax.tree.map(jnp.asarray, optimizers.Plateau())
        return State(NetState.create(variables["params"], {}, optimiser), plateau)

    def loss(params, batch, key, train):
        maps = batch["landmarks"].astype(jnp.float32)
        outputs: Any = model.apply(
            {"params": params},
            maps,
            batch["embedding"],
            train=train,
            rngs={"dropout": key},
        )
        generated, target = outputs["generated"], batch["target"]
        reconstructed = jnp.mean(reconstruction_of(outputs["logits"], maps))
        metrics, triplets, active = {}, 0.0, []
        for name in NEGATIVES:
            negative = batch[f"negative_{name}"]
            losses = triplet_of(generated, target, negative, margin=m)  # [B]
            metrics[f"{name}_triplet_loss"] = jnp.mean(losses)
            triplets += factors[name] * jnp.mean(losses)
            active.append(jnp.mean(losses > 0))
        total = factors["reconstruction"] * reconstructed + triplets
        metrics |= {
            "loss": total,
            "reconstruction_loss": reconstructed,
            "triplet_loss": triplets,
            "active_triplets": sum(active) / len(active),
            "target_cosine": _cosine(generated, target),
            "input_cosine": _cosine(batch["embedding"], target),
        }
        return total, metrics

    def train_step(state, batch, key):
        net, scale = state.network, state.plateau.factor
        gradients, metrics = jax.grad(loss, has_aux=True)(net.params, batch, key, True)
        metrics["learning_rate"] = optimiser.rate(net.updates) * scale
        net = optimizers.apply_gradients(net, gradients, {}, optimiser, scale)
        return state._replace(network=net), metrics

    def eval_step(state, batch, key):
        _, metrics = loss(state.network.params, batch, key, dropout_in_validation)
        if plateau_loss == "last":
            metrics["last_loss"] = Last(metrics["loss"])
        return metrics

    def embed(state, batch):
        if "landmarks" not in batch:
            raise UserError(
                "FRA augments embeddings and embeds no images: evaluate without sets "
                "of images (config.evaluation.sets)"
            )
        maps = batch["landmarks"].astype(jnp.float32)
        params = {"params": state.network.params}
        outputs: Any = model.apply(params, maps, batch["embedding"])
        return {"embedding": outputs["generated"]}

    def hand_over(state):
        variables = {"params": state.network.params}
        kept = models.plain(options)
        return {"augmenter": Network("fra", kept, variables, _SPEC, "augmenter")}

    embedding = Input(np.float32, (None, embedding_size))
    names = ("embedding", "target", *(f"negative_{name}" for name in NEGATIVES))
    maps = Input(np.uint8, (None, SIZE, SIZE, 1), low=0, below=2)
    return System(
        init,
        train_step,
        embed,
        hand_over,
        eval_step,
        feedback,
        expects={"landmarks": maps, **dict.fromkeys(names, embedding)},
    )


def _margin(margin: float | str, distance: float, norm: float) -> float:
    """Returns the margin of the triplets; see `make`."""
    if isinstance(margin, str):
        check_names("margin", [margin], ("auto", "published", "scaled"))
        low, high = _USUAL_NORMS
        if margin == "published" or (margin == "auto" and low <= norm <= high):
            return MARGIN
        return _SCALE * distance
    check_range("margin", margin, 0)
    return margin


def _check_pretrained(
    pretrained: Mapping[str, Network] | None, options: Mapping[str, Any]
) -> None:
    if not (start := (pretrained or {}).get("init")):
        return
    theirs, ours = (one.get("embedding_size", 512) for one in (start.options, options))
    if theirs != ours:
        raise UserError(
            f"--init-from: augments embeddings of {theirs} values, those of this run "
            f"have {ours}; train with the embedder it was made for"
        )
    check_start(start, "fra", options, SIZE, setting="network")


def _optimiser(
    options: Mapping[str, Any] | None, metric: str, **run: Any
) -> tuple[optimizers.Optimizer, Callable[..., Any] | None]:
    """Returns the optimiser, and `System.feedback`: None if nothing depends on it."""
    settings = {**_OPTIMIZER, **(options or {})}
    if settings["name"] != "adam" and "betas" not in (options or {}):
        del settings["betas"]
    if (schedule := run.pop("schedule")) is not None:
        settings["schedule"] = schedule
    plateau = {**_PLATEAU, **settings.pop("plateau", {})}
    check_options("the plateau", optimizers.on_plateau, plateau, given=2)
    lowers_rate = settings["schedule"] == "plateau"
    if lowers_rate:
        settings["schedule"] = "constant"
    optimiser = optimizers.from_options(settings, defaults={}, **run)
    if not (lowers_rate or plateau["stop_after"]):
        return optimiser, None
    steering = optimizers.plateau_feedback([metric], lowers_rate, **plateau)
    return optimiser, steering


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum(unit(a) * unit(b), axis=1))
