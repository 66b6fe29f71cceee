"""The shared trunk: initialisation from given networks, and switching."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import NetState, Network, System
from fr_jax.systems.dr_gan import trunk
from tests.support import dr_gan as small
from tests.support.networks import random_variables
from tests.support.toy import same


def net(value, wrap):
    tree = {"trunk": {"kernel": jnp.full(2, value)}}
    params = {**wrap(tree), "fc": jnp.full(3, value)}
    moments = jax.tree.map(lambda x: x + 10, params)
    opt_state = {"count": jnp.int32(5), "mu": moments}
    return NetState(params, wrap(tree), opt_state, jnp.int32(5))


def pair():
    """Returns a generator of ones and a discriminator of twos."""
    return net(1.0, lambda tree: {"encoder": tree}), net(2.0, lambda tree: tree)


def trunks(generator, discriminator):
    for of_g, of_d in zip(generator[:2], discriminator[:2]):
        actual = of_g["encoder"]["trunk"]["kernel"][0], of_d["trunk"]["kernel"][0]
        yield [float(x) for x in actual]


@pytest.mark.parametrize(
    ("direction", "values", "kept_moments"),
    [
        ("swap", [2, 1], [0, 0]),
        ("encoder_to_discriminator", [1, 1], [11, 0]),
        ("discriminator_to_encoder", [2, 2], [0, 12]),
    ],
)
def test_trunks_are_switched_and_their_moments_reset(direction, values, kept_moments):
    g, d = trunk.switch(direction, *pair())
    assert list(trunks(g, d)) == [values, values]  # parameters, statistics
    moments = g.opt_state["mu"]["encoder"], d.opt_state["mu"]
    kept = [float(tree["trunk"]["kernel"][0]) for tree in moments]
    assert kept == kept_moments
    assert g.opt_state["mu"]["fc"][0] == 11 and d.opt_state["mu"]["fc"][0] == 12
    assert g.opt_state["count"] == 5 and g.params["fc"][0] == 1
    assert g.updates == d.updates == 5


class ToyState(NamedTuple):
    generator: NetState
    discriminator: NetState
    step: jax.Array


def toy(discriminator=None):
    """Returns a system that counts its steps and trains nothing."""

    def init(key, batch, given=None):
        return ToyState(pair()[0], discriminator or pair()[1], jnp.int32(0))

    def train_step(state, batch, key):
        return state._replace(step=state.step + 1), {"loss": jnp.float32(0)}

    return System(init, train_step, lambda *_: {}, lambda state: {})


def test_with_trunk_switching_switches_every_nth_step():
    system = trunk.with_trunk_switching(toy(), "swap", 2)
    state = system.init(jax.random.key(0), {})
    actual = []
    for _ in range(5):
        state, metrics = jax.jit(system.train_step)(state, {}, jax.random.key(0))
        actual.append(next(trunks(state.generator, state.discriminator)))
    assert actual == [[1, 2], [2, 1], [2, 1], [1, 2], [1, 2]]
    assert metrics == {"loss": 0}


@pytest.mark.parametrize(
    ("match", "direction", "every"),
    [("direction 'swp'; did you mean 'swap'", "swp", 1), ("every is 0", "swap", 0)],
)
def test_invalid_directions_and_intervals_are_refused(match, direction, every):
    with pytest.raises(UserError, match=match):
        trunk.with_trunk_switching(toy(), direction, every)


def test_trunks_of_different_shapes_cannot_be_switched():
    other = net(2.0, lambda tree: {"trunk": {"kernel": jnp.zeros(5)}})
    system = trunk.with_trunk_switching(toy(other), "swap", 2)
    with pytest.raises(UserError, match="trunks that are switched must have the same"):
        system.init(jax.random.key(0), {})


# --- initialised --------------------------------------------------------------------


def test_the_discriminator_gets_the_trunk_of_an_encoder():
    encoder = {"params": {"trunk": {"conv11": 1, "conv52": 2, "conv53": 3}}}
    joined = {"params": {"trunk": {"conv11": 0, "conv52": 0, "conv53": 0}, "fc": 0}}
    actual = trunk.from_recogniser(encoder, joined)
    assert actual["params"] == {"trunk": encoder["params"]["trunk"], "fc": 0}
    tail = {"conv52": 0, "conv53": 0}
    branches = {
        "params": {
            "trunk": {"conv11": 0},
            "tail_identity": tail,
            "tail_pose": tail,
            "fc_pose": 0,
        }
    }
    actual = trunk.from_recogniser(encoder, branches)["params"]
    assert actual["trunk"] == {"conv11": 1}
    assert actual["tail_identity"] == {"conv52": 2, "conv53": 3}
    assert actual["tail_pose"] == tail


def test_layers_of_other_shapes_keep_their_statistics():
    def tree(**kernels):
        params = {name: {"kernel": np.full(n, n)} for name, n in kernels.items()}
        means = {name: np.full(3, n) for name, n in kernels.items()}
        return {"params": {"trunk": params}, "batch_stats": {"trunk": means}}

    encoder, discriminator = tree(conv11=4, conv12=5), tree(conv11=4, conv12=6)
    discriminator["batch_stats"]["trunk"]["conv11"] = np.zeros(3)
    actual = trunk.from_recogniser(encoder, discriminator)
    assert actual["batch_stats"]["trunk"]["conv11"].tolist() == [4] * 3
    assert actual["batch_stats"]["trunk"]["conv12"].tolist() == [6] * 3
    assert actual["params"]["trunk"]["conv12"]["kernel"].size == 6


@pytest.mark.parametrize(
    ("before", "after", "lengths", "kept"),  # of feature, pose, light, noise
    [
        ({}, {"poses": 5}, (20, 5, 0, 4), (1, 0, 0, 1)),
        ({}, {"illuminations": 2}, (20, 3, 2, 4), (1, 1, 0, 1)),
        # The same number of rows with other meanings.
        ({}, {"poses": 2, "noise": 5}, (20, 2, 0, 5), (1, 0, 0, 0)),
        # A pose layer.
        ({"pose_features": 6}, {"poses": 5}, (20, 6, 0, 4), (1, 1, 0, 1)),
    ],
    ids=["poses", "lights", "noise", "pose layer"],
)
def test_rows_of_unchanged_codes_are_kept(before, after, lengths, kept):
    both = small.generator(**before), small.generator(**before | after)
    trees = [
        random_variables(model, small.SIDE, seed) for seed, model in enumerate(both)
    ]
    old_lengths, new_lengths = (model.code_lengths for model in both)
    assert new_lengths == lengths
    whole = trunk.from_generator(*trees, old_lengths, new_lengths)
    given, fresh, joined = (tree["params"]["decoder"] for tree in (*trees, whole))
    old, new, rows = (tree["fc"]["kernel"] for tree in (given, fresh, joined))
    ends = np.cumsum(old_lengths), np.cumsum(new_lengths)
    for end, new_end, length, keep in zip(*ends, lengths, kept):
        new_rows = slice(new_end - length, new_end)
        expected = old[end - length : end] if keep else new[new_rows]
        assert same(rows[new_rows], expected)
    assert same(joined["fc"]["bias"], given["fc"]["bias"])
    if "pose" in fresh:
        assert same(joined["pose"], fresh["pose"])
    rest = [name for name in given if name not in ("fc", "pose")]
    assert all(same(joined[name], given[name]) for name in rest) and len(rest) > 10
    assert same(whole["params"]["encoder"], trees[0]["params"]["encoder"])
    assert same(whole["batch_stats"], trees[0]["batch_stats"])


@pytest.fixture(scope="module")
def networks():
    """Returns the module of a generator, and variables of it and a discriminator."""
    heads = [["identity", 6], ["real", 1], ["pose", 3]]
    model = models.create("dr_gan_discriminator", heads=heads, **small.WIDTH)
    image = jnp.zeros((1, small.SIDE, small.SIDE, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    discriminator = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, "f4"), shapes)
    generator = small.generator()
    return generator, random_variables(generator, small.SIDE), discriminator


def start(networks, given, pretrained=None):
    generator, *variables = networks
    return trunk.start(generator, *variables, given, pretrained or {})


def test_both_networks_start_from_a_given_generator(networks):
    given = random_variables(networks[0], small.SIDE, seed=5)
    generator, discriminator = start(networks, {"init": given})
    assert same(generator, given)
    for kind in ("params", "batch_stats"):
        encoder = given[kind]["encoder"]["trunk"]
        assert same(discriminator[kind]["trunk"], encoder)
    assert same(discriminator["params"]["fc"], networks[2]["params"]["fc"])


def test_a_given_discriminator_has_precedence(networks):
    given = random_variables(networks[0], small.SIDE, seed=5)
    other = jax.tree.map(lambda leaf: leaf + 1, networks[2])
    actual = start(networks, {"init": given, "discriminator": other})
    assert same(actual, (given, other))


def test_initialised_networks_share_no_memory(networks):
    given = random_variables(networks[0], small.SIDE, seed=5)
    generator, discriminator = start(networks, {"init": given})
    kernels = [
        np.asarray(tree["trunk"]["conv11"]["conv"]["kernel"])
        for tree in (generator["params"]["encoder"], discriminator["params"])
    ]
    assert not np.may_share_memory(*kernels)


def test_without_given_networks_variables_are_unchanged(networks):
    assert same(start(networks, {}), networks[1:])


def test_a_generator_of_other_poses_needs_its_network_options(networks):
    other = small.generator(poses=5)
    given = {"init": random_variables(other, small.SIDE)}
    options = small.generator_options(poses=5)
    spec = InputSpec(size=small.SIDE)
    pretrained = {"init": Network("dr_gan_generator", options, (), spec, "generator")}
    generator, _ = start(networks, given, pretrained)
    assert generator["params"]["decoder"]["fc"]["kernel"].shape[0] == 20 + 3 + 4
    with pytest.raises(UserError, match="decoder/fc/kernel is .29, 20., this network"):
        start(networks, given)


@pytest.mark.parametrize("name", ["init", "discriminator"])
def test_variables_of_another_network_are_refused(networks, name):
    kernel = {"conv11": {"conv": {"kernel": np.zeros((3, 3, 3, 99))}}}
    wrong = {"params": {"trunk": kernel}, "batch_stats": {}}
    with pytest.raises(UserError, match=f"weights given as '{name}': "):
        start(networks, {name: wrong})
