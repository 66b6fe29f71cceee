"""The trunk that DR-GAN's encoder and discriminator share: initialised and switched.

Pure functions of variables and NetStates; the generator's encoder lies under 'encoder'.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
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
    """Returns both networks after the trunk of one went to the other (TPAMI, 3.4).

    Parameters and running statistics go together. The optimiser's moments of a trunk
    that was replaced begin anew.
    """
    ours, theirs = _trunks(generator, discriminator)
    if direction in ("discriminator_to_encoder", "swap"):
        trees = (
            {**tree, "encoder": {**tree["encoder"], "trunk": trunk}}
            for tree, trunk in zip(generator[:2], theirs)
        )
        generator = _replaced(generator, *trees)
    if direction in ("encoder_to_discriminator", "swap"):
        trees = (
            {**tree, "trunk": trunk} for tree, trunk in zip(discriminator[:2], ours)
        )
        discriminator = _replaced(discriminator, *trees)
    return generator, discriminator


def _trunks(generator: NetState, discriminator: NetState) -> tuple[list, list]:
    """Parameters and statistics of both trunks; None where one has none."""
    return (
        [tree["encoder"]["trunk"] for tree in generator[:2]],
        [tree.get("trunk") for tree in discriminator[:2]],
    )


def from_recogniser(encoder: PyTree, discriminator: PyTree) -> PyTree:
    """Returns a discriminator's variables with the trunk of an encoder's.

    Where each head has two last convolutions of its own, 'identity' takes the
    encoder's; pose, light and reality begin anew. Layers that are not alike stay.
    """
    trunk, own = encoder["params"]["trunk"], discriminator["params"]
    parts = {"trunk", "tail_identity"} & set(own)
    alike = {
        (part, name)
        for part in parts
        for name, layer in own[part].items()
        if jax.tree.map(jnp.shape, layer) == jax.tree.map(jnp.shape, trunk.get(name))
    }
    out = {}
    for kind, tree in discriminator.items():
        out[kind] = dict(tree)
        for part in parts & set(tree):
            out[kind][part] = {
                name: encoder[kind]["trunk"][name] if (part, name) in alike else layer
                for name, layer in tree[part].items()
            }
    return out


def from_generator(
    given: PyTree, own: PyTree, given_lengths: tuple, own_lengths: tuple
) -> PyTree:
    """Returns a given generator's variables for one whose codes have other lengths.

    The decoder's first layer has rows for the feature and for each code: those of codes
    that are as long as they were are kept, the others are `own`. So is the layer of a
    pose, where there is one and it does not fit.

    Args:
      given_lengths, own_lengths: `models.dr_gan.Generator.code_lengths` of both.
    """
    decoder, ours = given["params"]["decoder"], own["params"]["decoder"]
    if given_lengths[0] != own_lengths[0]:
        return given  # of another width: nothing fits
    rows = [
        jnp.split(tree["fc"]["kernel"], list(itertools.accumulate(lengths))[:-1])
        for tree, lengths in ((decoder, given_lengths), (ours, own_lengths))
    ]
    if rows[0][0].shape != rows[1][0].shape:
        return given
    kept = [old if len(old) == len(new) else new for old, new in zip(*rows)]
    decoder = decoder | {"fc": decoder["fc"] | {"kernel": jnp.concatenate(kept)}}
    shapes = [jax.tree.map(jnp.shape, tree.get("pose")) for tree in (decoder, ours)]
    if None not in shapes and shapes[0] != shapes[1]:
        decoder["pose"] = ours["pose"]
    return {**given, "params": {**given["params"], "decoder": decoder}}


def start(
    generator: Any,
    of_generator: PyTree,
    of_discriminator: PyTree,
    given: Mapping[str, PyTree],
    pretrained: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Returns the variables of both networks, initialised from given ones.

    Args:
      generator: the module.
      given: see `systems.dr_gan.make`; 'init' and 'discriminator' are used.
      pretrained: their networks; without that of 'init' its codes must have the lengths
        of this generator's.

    Raises:
      UserError: for variables of another network.
    """
    initial = given.get("init")
    if initial and "encoder" in initial["params"]:
        if network := pretrained.get("init"):
            other: Any = models.create(network.architecture, **network.options)
            lengths = other.code_lengths, generator.code_lengths
            initial = from_generator(initial, of_generator, *lengths)
        check_variables("init", initial, of_generator)
        of_generator = initial
        initial = {kind: tree["encoder"] for kind, tree in initial.items()}
    elif initial:
        encoder = {kind: tree["encoder"] for kind, tree in of_generator.items()}
        check_variables("init", initial, encoder)
        of_generator = {
            kind: {**tree, "encoder": initial[kind]}
            for kind, tree in of_generator.items()
        }
    if initial:
        of_discriminator = from_recogniser(initial, of_discriminator)
        of_discriminator = jax.tree.map(jnp.copy, of_discriminator)  # two buffers
    if "discriminator" in given:
        check_variables("discriminator", given["discriminator"], of_discriminator)
        of_discriminator = given["discriminator"]
    return of_generator, of_discriminator


def check_alike(generator: Any, discriminator: Any) -> None:
    """Raises a UserError where the trunks of two NetStates have other shapes."""
    ours, theirs = jax.tree.map(jnp.shape, _trunks(generator, discriminator))
    if ours != theirs:
        raise UserError(
            "trunks that are switched must be alike: no confidence_head='channel', "
            "branch_heads or extra_channel, norm='batch', and the same width, "
            "conv_bias, final_elu and alignment"
        )


def _replaced(net: NetState, params: PyTree, statistics: PyTree) -> NetState:
    def moments(path, leaf):
        names = [getattr(entry, "key", None) for entry in path]
        return jnp.zeros_like(leaf) if "trunk" in names else leaf

    opt_state = jax.tree_util.tree_map_with_path(moments, net.opt_state)
    return net._replace(params=params, batch_stats=statistics, opt_state=opt_state)


def with_trunk_switching(system: System, direction: str, every: int) -> System:
    """Returns the system whose trunks are switched every so many steps (TPAMI, 3.4).

    Args:
      direction: 'encoder_to_discriminator', 'discriminator_to_encoder' or 'swap'.

    Raises:
      UserError: for another direction; from `init`, for trunks that are not alike.
    """
    check_names("direction", [direction], DIRECTIONS)
    check_range("every", every, 1)

    def init(key, batch, given=None):
        state = system.init(key, batch, given)
        check_alike(state.generator, state.discriminator)
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

    return system._replace(init=init, train_step=train_step)


def from_options(
    options: Mapping[str, Any], adversarial: bool
) -> Callable[[System], System]:
    """Returns `with_trunk_switching` of options, or the identity where there are none.

    Args:
      adversarial: whether there is a discriminator that learns.

    Raises:
      UserError: for unknown or missing options, and without such a discriminator.
    """
    if not options:
        return lambda system: system
    check_options("trunk_switching", with_trunk_switching, options, given=1)
    if len(options) < 2:
        raise UserError(f"trunk_switching is {dict(options)}: give direction and every")
    if not adversarial:
        raise UserError(
            "trunk_switching needs a discriminator that learns: raise weight 'gan', "
            "'identity' or 'pose'"
        )
    return functools.partial(with_trunk_switching, **options)
