"""The trunk that DR-GAN's encoder and discriminator have in common, moved between them.

Pure functions of trees. A network is a NamedTuple of `params`, `batch_stats` and
`opt_state`; the generator's encoder lies under 'encoder'.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
DIRECTIONS = ("none", "encoder_to_discriminator", "discriminator_to_encoder", "swap")


def switch(direction: str, generator: Any, discriminator: Any) -> tuple[Any, Any]:
    """Returns both networks after the trunk of one went to the other (TPAMI, 3.4).

    Parameters and running statistics go together. The optimiser's moments of a trunk
    that was replaced begin anew.
    """
    encoders = generator.params["encoder"], generator.batch_stats["encoder"]
    ours = [tree["trunk"] for tree in encoders]
    theirs = [discriminator.params["trunk"], discriminator.batch_stats["trunk"]]
    if direction in ("discriminator_to_encoder", "swap"):
        params, statistics = (
            {**tree, "encoder": {**tree["encoder"], "trunk": trunk}}
            for tree, trunk in zip((generator.params, generator.batch_stats), theirs)
        )
        generator = type(generator)(params, statistics, _begun(generator.opt_state))
    if direction in ("encoder_to_discriminator", "swap"):
        params, statistics = (
            {**tree, "trunk": trunk}
            for tree, trunk in zip(
                (discriminator.params, discriminator.batch_stats), ours
            )
        )
        opt_state = _begun(discriminator.opt_state)
        discriminator = type(discriminator)(params, statistics, opt_state)
    return generator, discriminator


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
    kept = [new if len(new) != len(old) else old for old, new in zip(*rows)]
    decoder = decoder | {"fc": decoder["fc"] | {"kernel": jnp.concatenate(kept)}}
    shapes = [jax.tree.map(jnp.shape, tree.get("pose")) for tree in (decoder, ours)]
    if None not in shapes and shapes[0] != shapes[1]:
        decoder["pose"] = ours["pose"]
    return {**given, "params": {**given["params"], "decoder": decoder}}


def _begun(opt_state: PyTree) -> PyTree:
    def zero(path, leaf):
        names = [getattr(entry, "key", None) for entry in path]
        return jnp.zeros_like(leaf) if "trunk" in names else leaf

    return jax.tree_util.tree_map_with_path(zero, opt_state)
