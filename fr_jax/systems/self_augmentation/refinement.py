"""Stage III: the encoder of identities learns from triplets with generated negatives.

Lee et al. (ICRA 2020): in a share of the triplets the negative has the identity of the
real negative and the appearance of the anchor, so that the encoder must not judge by
appearance:

    x^ = G(E0(x_n), mean of E_CVAE(x_a, E0(x_a)))

with E0, the encoder of Stage I, and the networks of Stage II frozen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fr_jax import models
from fr_jax.errors import UserError, check_range
from fr_jax.losses import triplet
from fr_jax.models import self_augmentation as networks
from fr_jax.models.preprocess import resize
from fr_jax.optim import optimizers
from fr_jax.system import NetState, Network, System, check_given, check_kinds
from fr_jax.systems.self_augmentation.encoders import (
    AUGMENTATION,
    check_codes,
    encoder_of,
    expects,
    learning,
    variables_of,
    wrapped,
)

_KINDS = {"identity": ["embedding"], "augmentation": ["augmentation"]}

Array = jax.Array


class State(NamedTuple):
    """Stage III: the encoder, and the frozen variables of Stages I and II."""

    encoder: NetState
    first: Any
    augmentation: Any


def make(
    *,
    augmented_share: float = 0.5,
    gate: bool = True,
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
    """Returns the system of Stage III.

    Batches and metrics as Stage I, and gated, the share of chosen negatives that stayed
    real. negative_distance is that of real negatives.

    Args:
      augmented_share: of the triplets, whose negative is generated; 1 is the figure of
        the paper.
      gate: a generated negative that E0 puts nearer to the anchor than to the real
        negative is not used.
      pretrained: 'identity', the encoder of Stage I, and 'augmentation', the network of
        Stage II.
      Others: see `identity.make`.

    Raises:
      UserError: as `identity.make`, and for missing networks and codes of another size.
    """
    check_kinds(pretrained, _KINDS)
    pretrained = dict(pretrained or {})
    for name, made_by, folder in (
        ("identity", "identity", "WORKDIR/embedder"),
        ("augmentation", "augment", "WORKDIR/embedder_augmentation"),
    ):
        if name not in pretrained:
            raise UserError(
                f"stage refine needs the network of stage {made_by}: --given "
                f"{name}={folder}"
            )
    check_range("augmented_share", augmented_share, 0, 1)
    encoder = encoder_of(
        pretrained["identity"],
        None,
        None,
        head="none",
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
    generating = pretrained["augmentation"]
    check_codes(pretrained["identity"], generating)
    model = models.create(generating.architecture, **generating.options)
    side = generating.input_spec.size

    def init(key, batch, given=None):
        del key, batch
        given = check_given(given, _KINDS)
        if missing := sorted(_KINDS.keys() - given.keys()):
            raise UserError(f"stage refine needs given={{{missing[0]!r}: variables}}")
        first = wrapped(given["identity"], pretrained["identity"].architecture)
        start = jax.tree.map(jnp.copy, first)
        return State(learns.start(start), first, given["augmentation"])

    def generated(state, anchor, negative):
        """Returns negatives [B, H, W, 3] in 0..255, and which of them pass the gate."""
        of_anchor, of_negative = (
            encoder.embed(state.first, images) for images in (anchor, negative)
        )
        conditions = networks.condition(of_anchor), networks.condition(of_negative)
        small = resize(anchor, side) / 127.5 - 1
        appearance, _ = model.apply(
            state.augmentation, small, conditions[0], method="encode"
        )
        drawn: Any = model.apply(
            state.augmentation, conditions[1], appearance, method="decode"
        )
        images = 127.5 * (drawn + 1)
        code = encoder.embed(state.first, images)
        near = triplet.squared_distance(code, of_negative)
        passes = near < triplet.squared_distance(code, of_anchor)
        return images, passes if gate else jnp.ones_like(passes)

    def train_step(state, batch, key):
        views, key_dropout = learns.views(batch, key)
        anchor, positive, negative = views
        count = round(augmented_share * len(anchor))
        chosen = jnp.arange(len(anchor)) < count
        images, passes = jax.lax.stop_gradient(generated(state, anchor, negative))
        used = chosen & passes
        images = resize(images, negative.shape[1])
        negative = jnp.where(used[:, None, None, None], images, negative)
        net, metrics = learns.update(
            state.encoder, (anchor, positive, negative), used, key_dropout
        )
        rejected = jnp.sum(chosen & ~passes) / max(count, 1)
        metrics["gated"] = rejected
        return state._replace(encoder=net), metrics

    def embed(state, batch):
        return {"embedding": encoder.embed(variables_of(state.encoder), batch["image"])}

    def hand_over(state):
        return {"embedding": encoder.network(variables_of(state.encoder))}

    return System(init, train_step, embed, hand_over, expects=expects())
