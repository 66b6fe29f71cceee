"""The trunk of DR-GAN's encoder and discriminator: initialisation and switching.

Pure functions of variables and NetStates; a generator has its encoder under 'encoder'.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fr_jax import models
from fr_jax.errors import UserError, check_names, check_options, check_range
from fr_jax.system import NetState, System, check_variables

PyTree = Any
DIRECTIONS = ("encoder_to_discriminator", "discriminator_to_encoder", "swap")


def switch(
    direction: str, generator: NetState, discriminator: NetState
) -> tuple[NetState, NetState]:
    """Returns both networks, the trunk of one copied to the other (TPAMI, 3.4).

    Parameters and running statistics are copied together. The optimiser's moments of a
    replaced trunk are reset to 0.
    """
    encoder, trunk = _trunks(generator, discriminator)
    if direction != "encoder_to_discriminator":
        encoders = [
            {**tree["encoder"], "trunk": part} for tree, part in zip(generator, trunk)
        ]
        generator = _replaced(generator, "encoder", encoders)
    if direction != "discriminator_to_encoder":
        discriminator = _replaced(discriminator, "trunk", encoder)
    return generator, discriminator


def _trunks(generator: NetState, discriminator: NetState) -> tuple[list, list]:
    """Returns [parameters, statistics] of both trunks; None for missing ones."""
    return (
        [tree["encoder"]["trunk"] for tree in generator[:2]],
        [tree.get("trunk") for tree in discriminator[:2]],
    )


def _replaced(net: NetState, name: str, parts: Sequence[PyTree]) -> NetState:
    """Returns a network with other [parameters, statistics] of a part."""

    def reset(path, leaf):
        names = [getattr(entry, "key", None) for entry in path]
        return jnp.zeros_like(leaf) if "trunk" in names else leaf

    params, statistics = ({**tree, name: part} for tree, part in zip(net, parts))
    opt_state = jax.tree_util.tree_map_with_path(reset, net.opt_state)
    return net._replace(params=params, batch_stats=statistics, opt_state=opt_state)


def from_recogniser(encoder: PyTree, discriminator: PyTree) -> PyTree:
    """Returns a discriminator's variables with the trunk of an encoder.

    With `branch_heads`, the two last convolutions of 'identity' are the encoder's; the
    other heads stay. Layers of other shapes stay too.
    """
    trunk, params = encoder["params"]["trunk"], discriminator["params"]
    parts = {"trunk", "tail_identity"} & params.keys()
    copied = {
        (part, name)
        for part in parts
        for name, layer in params[part].items()
        if jax.tree.map(jnp.shape, layer) == jax.tree.map(jnp.shape, trunk.get(name))
    }
    out = {kind: dict(tree) for kind, tree in discriminator.items()}
    for kind, tree in out.items():
        for part in parts & tree.keys():
            tree[part] = {
                name: encoder[kind]["trunk"][name] if (part, name) in copied else layer
                for name, layer in tree[part].items()
            }
    return out


def from_generator(
    given: PyTree, fresh: PyTree, given_lengths: tuple, lengths: tuple
) -> PyTree:
    """Returns a given generator's variables for a generator with other code lengths.

    The decoder's first layer has rows for the feature and for each code. Rows of codes
    of unchanged length are kept; the others are from `fresh`, as is a pose layer of
    another shape.

    Args:
      given_lengths, lengths: `models.dr_gan.Generator.code_lengths` of both.
    """
    decoder, other = given["params"]["decoder"], fresh["params"]["decoder"]
    if given_lengths[0] != lengths[0]:
        return given  # another width: `check_variables` refuses it
    rows = [
        jnp.split(tree["fc"]["kernel"], list(itertools.accumulate(sizes))[:-1])
        for tree, sizes in ((decoder, given_lengths), (other, lengths))
    ]
    if rows[0][0].shape != rows[1][0].shape:
        return given
    kept = [old if len(old) == len(new) else new for old, new in zip(*rows)]
    decoder = decoder | {"fc": decoder["fc"] | {"kernel": jnp.concatenate(kept)}}
    shapes = [jax.tree.map(jnp.shape, tree.get("pose")) for tree in (decoder, other)]
    if None not in shapes and shapes[0] != shapes[1]:
        decoder["pose"] = other["pose"]
    return {**given, "params": {**given["params"], "decoder": decoder}}


def start(
    generator: Any,
    of_generator: PyTree,
    of_discriminator: PyTree,
    given: Mapping[str, PyTree],
    pretrained: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Returns variables of generator and discriminator, initialised from given ones.

    Args:
      generator: the module.
      given: variables 'init' and 'discriminator'; see `systems.dr_gan.make`.
      pretrained: their networks; without that of 'init' its codes must have this
        generator's lengths.

    Raises:
      UserError: for variables of other shapes.
    """
    if initial := given.get("init"):
        if "encoder" not in initial["params"]:
            initial = {
                kind: {**tree, "encoder": initial.get(kind, {})}
                for kind, tree in of_generator.items()
            }
        elif network := pretrained.get("init"):
            other: Any = models.create(network.architecture, **network.options)
            lengths = other.code_lengths, generator.code_lengths
            initial = from_generator(initial, of_generator, *lengths)
        check_variables("init", initial, of_generator)
        of_generator = initial
        encoder = {kind: tree["encoder"] for kind, tree in initial.items()}
        of_discriminator = from_recogniser(encoder, of_discriminator)
        of_discriminator = jax.tree.map(jnp.copy, of_discriminator)  # no shared buffers
    if "discriminator" in given:
        check_variables("discriminator", given["discriminator"], of_discriminator)
        of_discriminator = given["discriminator"]
    return of_generator, of_discriminator


def with_trunk_switching(system: System, direction: str, every: int) -> System:
    """Returns the system with `switch` after every `every`-th step (TPAMI, 3.4).

    It watches no metric: a switch changes the weights, and then the losses, as much as
    a divergence does.

    Args:
      direction: 'encoder_to_discriminator', 'discriminator_to_encoder' or 'swap'.

    Raises:
      UserError: for another direction; from `init`, for trunks of different shapes.
    """
    check_names("direction", [direction], DIRECTIONS)
    check_range("every", every, 1)

    def init(key, batch, given=None):
        state = system.init(key, batch, given)
        trunks: Any = _trunks(state.generator, state.discriminator)
        encoder, trunk = jax.tree.map(jnp.shape, trunks)
        if encoder != trunk:
            raise UserError(
                "trunks that are switched must have the same shapes: no "
                "confidence_head='channel', branch_heads or extra_channel, "
                "norm='batch', and the same width, conv_bias, final_elu and alignment"
            )
        return state

    def train_step(state, batch, key):
        state, metrics = system.train_step(state, batch, key)
        generator, discriminator = jax.lax.cond(
            state.step % every == 0,
            functools.partial(switch, direction),
            lambda *pair: pair,
            state.generator,
            state.discriminator,
        )
        return state._replace(generator=generator, discriminator=discriminator), metrics

    return system._replace(init=init, train_step=train_step, watch=())


def from_options(
    options: Mapping[str, Any], adversarial: bool
) -> Callable[[System], System]:
    """Returns `with_trunk_switching` of options, or without options the identity.

    Args:
      adversarial: the discriminator is trained.

    Raises:
      UserError: for unknown or missing options, and without adversarial training.
    """
    if not options:
        return lambda system: system
    check_options("trunk_switching", with_trunk_switching, options, given=1)
    if len(options) < 2:
        raise UserError(f"trunk_switching is {dict(options)}: give direction and every")
    if not adversarial:
        raise UserError(
            "trunk_switching needs a trained discriminator: raise weight 'gan', "
            "'identity' or 'pose'"
        )
    return functools.partial(with_trunk_switching, **options)
