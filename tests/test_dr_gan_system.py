"""DR-GAN as a whole: whose turn it is, what a step moves, the same on every mesh.

Runs itself in a process with eight devices, where it prints what the test compares.
"""

import ast
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.errors import UserError
from fr_jax.models.dr_gan import trunk as dr_gan_trunk
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems import dr_gan
from fr_jax.systems.dr_gan import system as dr_gan_system
from fr_jax.training import loop as train
from fr_jax.training.streams import ArrayStream
from tests.conftest import on_eight_devices
from tests.networks import random_variables
from tests.toy import same

pytestmark = pytest.mark.xdist_group("dr_gan")  # they share `stepped`
PEOPLE, POSES, SIDE = 6, 3, 16
LAYOUTS = ((1, 1), (8, 1))  # devices on 'data' and 'model'
SMALL = {
    "poses": POSES,
    "image_size": SIDE,
    "canvas_size": None,
    "network": {"width": 0.0625},
    "generator": {"decoder_seed": 1, "noise": 4},
    "schedule": "fixed",
}
# Compiling takes longer than these few steps.
QUICK = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=QUICK)


def faces(rows=48, size=SIDE):
    """Every person has a colour, every pose a bright column; runs of 4 of each."""
    rng = np.random.default_rng(0)
    label = np.arange(rows) // 4 % PEOPLE
    pose = np.arange(rows) % POSES
    image = rng.integers(0, 60, (rows, size, size, 3))
    image += rng.integers(0, 120, (PEOPLE, 1, 1, 3))[label]
    for row, column in enumerate(pose):
        image[row, :, 4 * column : 4 * column + 4] += 70
    arrays = {"label": label, "pose": pose, "light": np.arange(rows) % 2}
    arrays = {name: array.astype(np.int32) for name, array in arrays.items()}
    return {"image": image.astype(np.uint8), **arrays}


def batch(rows=8, **options):
    arrays = {name: jnp.asarray(array[:rows]) for name, array in faces().items()}
    return arrays | {"seed": jnp.arange(rows, dtype=jnp.uint32)} | options


def paired(rows=8):
    arrays = batch(rows)
    other = (jnp.arange(rows) + 1) % 4 + jnp.arange(rows) // 4 * 4
    for name in ("image", "pose", "light"):
        arrays[f"target_{name}"] = arrays[name][other]
    return arrays


step = jit(dr_gan.make(PEOPLE, **SMALL).train_step)


@functools.cache
def stepped(steps):
    """States after 0 to `steps` steps of turns D, G, D, ..., and their metrics."""
    system = dr_gan.make(PEOPLE, **SMALL)
    states, found = [jit(system.init)(jax.random.key(0), batch())], []
    for number in range(steps):
        state, metrics = step(states[-1], batch(), jax.random.key(number))
        states.append(state)
        found.append({name: float(value) for name, value in metrics.items()})
    return states, found


def test_a_step_trains_one_network_and_leaves_the_other():
    (start, judged, made), metrics = stepped(2)
    assert same(start.generator.params, judged.generator.params)
    assert same(start.generator.opt_state, judged.generator.opt_state)
    assert not same(start.discriminator.params, judged.discriminator.params)
    assert same(judged.discriminator, made.discriminator)  # its statistics too
    assert not same(judged.generator.params, made.generator.params)
    for name in ("conv11", "conv53"):  # of real images, then of made ones
        mean = judged.discriminator.batch_stats["trunk"][name]["bn"]["mean"]
        assert np.abs(mean).max() > 0
    assert [m["discriminator_turn"] for m in metrics] == [1, 0]


def test_metrics_begin_at_chance_and_are_kept_through_the_others_turn():
    _, (first, second) = stepped(2)
    chance = 2 * np.log(2) + np.log(PEOPLE) + np.log(POSES)
    assert first["discriminator/loss"] == pytest.approx(chance, rel=0.02)
    assert first["generator/loss"] == 0  # none yet
    assert second["generator/loss"] == pytest.approx(chance - np.log(2), rel=0.02)
    kept = [n for n in first if n.startswith("discriminator/")]
    assert all(first[name] == second[name] for name in kept)
    accuracy = [first[f"discriminator/{n}_accuracy"] for n in ("identity", "pose")]
    mean = (sum(accuracy) + 2 * first["discriminator/real_accuracy"]) / 4
    assert first["discriminator/accuracy"] == pytest.approx(0.1 * mean, rel=1e-5)
    assert 0 < second["generator/spread"] < 1


def test_labels_that_nobody_knows_cost_nothing():
    """With none at all, only real or fake is learnt."""
    state = stepped(2)[0][0]
    nobody = jnp.full(8, -1, jnp.int32)
    state, metrics = step(state, batch(label=nobody, pose=nobody), jax.random.key(0))
    assert metrics["discriminator/identity_loss"] == 0
    assert metrics["discriminator/pose_loss"] == 0
    assert metrics["discriminator/gan_loss"] > 1
    real = metrics["discriminator/real_accuracy"]
    assert state.accuracy == pytest.approx(0.1 * float(real), rel=1e-5)
    _, metrics = step(state, batch(label=nobody, pose=nobody), jax.random.key(1))
    assert metrics["generator/identity_loss"] == 0
    assert metrics["generator/pose_loss"] > 1  # what is asked for is always known


def stream(mesh=None):
    return ArrayStream(faces(), 16, seed=0, mesh=mesh)


def test_a_run_goes_on_within_a_cycle_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "compiler_options", lambda: QUICK)
    monkeypatch.setattr(cpu, "quick_compilation", lambda: QUICK)
    system = dr_gan.make(PEOPLE, **SMALL | {"ratio": (1, 3)}, generator_ema=0.9)

    def run(folder, steps):
        return train.train(system, stream(), folder, num_steps=steps, save_every=2)

    whole = run(tmp_path / "whole", 7).state
    run(tmp_path / "parts", 2)
    state = run(tmp_path / "parts", 7).state
    assert [int(x) for x in state.turn] == [3, 1, 3]
    assert same(whole, state)
    assert not same(state.average, state.generator[:2])


def trace(layout) -> dict[str, list]:
    """Losses of steps of both networks; after the first two: first moments of Adam."""
    mesh = jax.make_mesh(
        layout,
        ("data", "model"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[: layout[0] * layout[1]],
    )
    # Maps of four pixels in the end: BatchNorm over fewer values magnifies rounding.
    side = 2 * SIDE
    options = SMALL | {
        "image_size": side,
        "network": {"width": 0.0625, "bn_groups": 4},
    }
    # Adam divides by what is near zero where gradients are rounding errors.
    system = dr_gan.make(
        PEOPLE, **options, images_per_identity=2, learning_rate=1e-6, betas=(0.5, 0.9)
    )
    arrays = faces(size=side)
    order = np.arange(48).reshape(-1, 2)
    update = train._Update(system, _Fixed(arrays, order), mesh, 0, {}, train.Guard())
    loop = update.initial()
    update.compile(loop)
    found: dict[str, list] = {"loss": [], "gradients": []}
    for step in range(6):
        batch = update.place(update_batch(arrays, order, step))
        loop, _ = update(loop, batch, step)
        scalars, loop = update.read(loop)
        part = "generator" if step % 2 else "discriminator"
        found["loss"].append(scalars[f"{part}/loss"])
        if step < 2:
            moments = getattr(loop.state, part).opt_state[0].mu
            gradients = [np.asarray(g).ravel() for g in jax.tree.leaves(moments)]
            found["gradients"].append(np.concatenate(gradients).tolist())
    return found


def update_batch(arrays, order, step):
    rows = np.random.default_rng(step).permutation(order)[:8].ravel()
    chosen = {name: array[rows] for name, array in arrays.items()}
    return chosen | {"seed": np.arange(16, dtype=np.uint32)}


class _Fixed:
    batch_size = 16

    def __init__(self, arrays, order):
        self.batch_at = functools.partial(update_batch, arrays, order)


def distance(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_one_device_trains_as_eight_do():
    """With four BatchNorm groups, two images of each person."""
    alone, eight = on_eight_devices("tests.test_dr_gan_system", LAYOUTS)
    assert distance(eight["loss"][:2], alone["loss"][:2]) < 1e-5
    assert distance(eight["loss"], alone["loss"]) < 1e-3
    for mine, theirs in zip(eight["gradients"], alone["gradients"], strict=True):
        assert np.linalg.norm(theirs) > 0
        assert distance(mine, theirs) < 1e-5


# What a step must be able to do, by turns of both networks.
MULTI = {"images_per_identity": 2, "interpolate": True}
CHOICES = {
    "cvpr": MULTI | {"loss": "cvpr", "illuminations": 2, "channels": 1},
    "authors": {
        "pose_mode": "continuous",
        "flip": "remap",
        "canvas_size": 20,
        "real_target": 0.999,
        "am_softmax": {"margin": 0.35, "scale": 30.0},
        "network": {
            "width": 0.0625,
            "conv_bias": True,
            "final_elu": False,
            "dropout": 0.4,
        },
        "generator": {"decoder_seed": 1, "pose_features": 6, "seed_bn": True},
        "discriminator": {"branch_heads": True},
    },
    "kayamin": MULTI
    | {
        "interpolate": False,
        "fused_weight": "sum",
        "discriminate_fused": False,
        "discriminator_stats_in_generator_step": True,
    },
    "modern": {
        "gan_loss": "hinge",
        "spectral_norm": True,
        "r1_weight": 1.0,
        "diff_augmentation": ("colour", "translation", "cutout"),
        "generator_ema": 0.99,
        "discriminator_learning_rate": 1e-4,
        "discriminator": {"norm": "none", "conv_bias": True},
    },
    "switched": {
        "switch": "swap",
        "switch_every": 2,
        "weights": {"paired": 10.0},
        "r1_weight": 1.0,
    },
}


def chosen(name):
    data = paired() if name == "switched" else batch()
    if name == "authors":
        yaw = {"yaw": jnp.linspace(-90, 90, 8).at[0].set(jnp.nan)}
        data = {k: v for k, v in data.items() if k != "pose"} | yaw
    return dr_gan.make(PEOPLE, **SMALL | CHOICES[name]), data


FEW = ("cvpr", "modern")  # between them most of what there is
SHAPED = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.long)
    for name in CHOICES
]


@pytest.mark.parametrize("name", SHAPED)
def test_every_choice_keeps_the_shape_of_the_state(name):
    system, data = chosen(name)
    state = jax.eval_shape(system.init, jax.random.key(0), data)
    after, metrics = jax.eval_shape(system.train_step, state, data, jax.random.key(0))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert all(value.shape == () for value in metrics.values())
    found = jax.eval_shape(system.eval_step, state, data, jax.random.key(0))
    assert {"pose_accuracy", "strangers_cosine", "spread"} <= found.keys()
    embedded = jax.eval_shape(system.embed, state, data)
    assert embedded["embedding"].shape == (8, 20)
    assert embedded["quality"].shape == (8,)


@pytest.mark.long
@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_trains(name):
    system, data = chosen(name)
    state = jit(system.init)(jax.random.key(0), data)
    step = jit(system.train_step)
    first = {}
    for number in range(6):
        before = state
        state, metrics = step(state, data, jax.random.key(number))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        turn = "generator" if number % 2 else "discriminator"
        first.setdefault(turn, float(metrics[f"{turn}/loss"]))
        if name == "switched" and number == 1:
            encoder = state.generator.params["encoder"]["trunk"]
            assert same(encoder, before.discriminator.params["trunk"])
    assert float(metrics["discriminator/loss"]) < first["discriminator"]
    if name == "modern":
        assert metrics["discriminator/r1_loss"] == 0  # every 16th of its steps
        assert not same(state.average, state.generator[:2])


@pytest.mark.long
def test_it_learns_who_and_in_what_pose():
    """Coloured people and bright columns, a few hundred steps, true images given."""
    system = dr_gan.make(
        PEOPLE,
        **SMALL | {"network": {"width": 0.125}, "ratio": (1, 2)},
        weights={"paired": 10.0},
        # At 2e-3 so small a generator forgets as fast as it learns.
        learning_rate=5e-4,
        discriminator_learning_rate=2e-4,
    )
    arrays = faces()
    other = (np.arange(48) + 1) % 4 + np.arange(48) // 4 * 4
    for name in ("image", "pose"):
        arrays[f"target_{name}"] = arrays[name][other]
    data = ArrayStream(arrays, 24, seed=0)
    state = jit(system.init)(jax.random.key(0), data.batch_at(0))
    step = jit(system.train_step)
    for number in range(480):
        state, metrics = step(state, data.batch_at(number), jax.random.key(number))
    assert metrics["discriminator/accuracy"] > 0.6
    assert metrics["generator/pose_accuracy"] > 0.9
    assert metrics["generator/identity_accuracy"] > 0.9
    judged = jit(system.eval_step)(state, data.batch_at(0), jax.random.key(0))
    assert judged["pose_accuracy"] > 0.9
    assert judged["spread"] > 0.5
    assert judged["strangers_cosine"] < judged["feature_cosine"]


def recogniser():
    model = models.create("dr_gan_encoder", **SMALL["network"])
    return random_variables(model, SIDE)


def test_it_begins_with_what_it_is_given():
    system = dr_gan.make(PEOPLE, **SMALL)
    start = jit(system.init)(jax.random.key(0), batch(), {"init": recogniser()})
    trunk = recogniser()["params"]["trunk"]
    assert same(start.generator.params["encoder"]["trunk"], trunk)
    assert same(start.discriminator.params["trunk"], trunk)
    assert same(
        start.discriminator.batch_stats["trunk"]["conv11"]["bn"],
        recogniser()["batch_stats"]["trunk"]["conv11"]["bn"],
    )
    left = system.hand_over(start)
    assert left["embedding"].architecture == "dr_gan_encoder"
    assert same(left["embedding"].variables, recogniser())
    assert left["generator"].kind == "generator"
    judge = left["discriminator"]
    assert same(judge.variables["params"], start.discriminator.params)
    known = {"init": left["generator"].variables}
    again = jit(system.init)(jax.random.key(1), batch(), known)
    assert same(again.generator.params, start.generator.params)
    assert same(again.discriminator.params["trunk"], trunk)
    other = jax.tree.map(lambda leaf: leaf + 1, judge.variables)
    known["discriminator"] = other
    again = jit(system.init)(jax.random.key(1), batch(), known)
    assert same(again.discriminator.params, other["params"])
    model = models.create(left["generator"].architecture, **left["generator"].options)
    assert model.size == SIDE and model.poses == POSES
    with pytest.raises(UserError, match="unknown given network 'teacher'"):
        system.init(jax.random.key(0), batch(), {"teacher": {}})


def generator(**changes):
    fields = {"poses": POSES, "size": SIDE, **SMALL["network"], **SMALL["generator"]}
    return models.create("dr_gan_generator", **fields | changes)


@pytest.mark.parametrize(
    ("before", "after", "lengths", "kept"),  # of feature, pose, light, noise
    [
        ({}, {"poses": 5}, (20, 5, 0, 4), (1, 0, 0, 1)),
        ({}, {"illuminations": 2}, (20, 3, 2, 4), (1, 1, 0, 1)),
        # As many rows in all, but they mean something else.
        ({}, {"poses": 2, "noise": 5}, (20, 2, 0, 5), (1, 0, 0, 0)),
        # A pose that has a layer of its own.
        ({"pose_features": 6}, {"poses": 5}, (20, 6, 0, 4), (1, 1, 0, 1)),
    ],
)
def test_a_generator_of_other_codes_is_gone_on_with(before, after, lengths, kept):
    both = generator(**before), generator(**before | after)
    trees = [random_variables(model, SIDE, seed) for seed, model in enumerate(both)]
    were, are = (model.code_lengths for model in both)
    assert are == lengths
    whole = dr_gan_trunk.from_generator(*trees, were, are)
    given, own, found = (tree["params"]["decoder"] for tree in (*trees, whole))
    old, new, rows = (tree["fc"]["kernel"] for tree in (given, own, found))
    ends = np.cumsum(were), np.cumsum(are)
    for was, now, length, keep in zip(*ends, lengths, kept):
        expected = old[was - length : was] if keep else new[now - length : now]
        assert same(rows[now - length : now], expected)
    assert same(found["fc"]["bias"], given["fc"]["bias"])
    if "pose" in own:
        assert same(found["pose"], own["pose"])
    rest = [name for name in given if name not in ("fc", "pose")]
    assert all(same(found[name], given[name]) for name in rest) and len(rest) > 10
    assert same(whole["params"]["encoder"], trees[0]["params"]["encoder"])
    assert same(whole["batch_stats"], trees[0]["batch_stats"])


def test_a_generator_of_another_width_is_refused():
    fields = {"poses": POSES, "size": SIDE, **SMALL["network"], **SMALL["generator"]}
    known = Network("dr_gan_generator", fields, (), InputSpec(size=SIDE), "generator")

    def begun(**changes):
        make = functools.partial(dr_gan.make, given_networks={"init": known})
        init = make(PEOPLE, **SMALL | changes).init
        init = functools.partial(init, jax.random.key(0), batch())
        return jax.eval_shape(init, {"init": random_variables(generator(), SIDE)})

    decoder = begun(poses=POSES + 2).generator.params["decoder"]
    assert len(decoder["fc"]["kernel"]) == 20 + POSES + 2 + 4
    with pytest.raises(UserError, match="'init': .* this network has"):
        begun(network={"width": 0.125})


@pytest.mark.parametrize("term", ["identity_preserving", "perceptual"])
def test_a_frozen_recogniser_says_what_is_lost(term):
    """Alone, without a game: the generator learns from it, and nobody else learns."""
    network = Network("dr_gan_encoder", SMALL["network"], (), InputSpec(size=SIDE))
    system = dr_gan.make(
        PEOPLE,
        **SMALL,
        learning_rate=3e-3,
        weights=dict.fromkeys(("identity", "gan", "pose"), 0.0) | {term: 1.0},
        given_networks={"identity": network},
    )
    state = jit(system.init)(jax.random.key(0), paired(), {"identity": recogniser()})
    start, alone, found = state, jit(system.train_step), []
    for number in range(12):
        state, metrics = alone(state, paired(), jax.random.key(number))
        found.append(float(metrics[f"generator/{term}_loss"]))
    assert np.mean(found[-3:]) < 0.8 * np.mean(found[:3])
    assert found[-1] == metrics["generator/loss"]
    assert not [name for name in metrics if name.startswith("discriminator")]
    for name in ("recogniser", "discriminator"):
        assert same(getattr(state, name), getattr(start, name))
    assert "discriminator" not in system.hand_over(state)
    judged = system.eval_step(state, paired(), jax.random.key(0))
    assert "pose_accuracy" not in judged


def test_a_recogniser_watches_a_game_of_several_images():
    network = Network("dr_gan_encoder", SMALL["network"], (), InputSpec(size=SIDE))
    system = dr_gan.make(
        PEOPLE,
        **SMALL | MULTI,
        weights={"identity_preserving": 1.0, "perceptual": 1.0},
        given_networks={"identity": network},
    )
    given = {"identity": recogniser()}
    state = jax.eval_shape(system.init, jax.random.key(0), paired(), given)
    after, metrics = jax.eval_shape(
        system.train_step, state, paired(), jax.random.key(0)
    )
    assert after.recogniser.keys() == {"params", "batch_stats"}
    for name in ("identity_preserving", "perceptual", "gan"):
        assert f"generator/{name}_loss" in metrics


def test_what_cannot_be_made():
    def refused(match, **options):
        with pytest.raises(UserError, match=match):
            dr_gan.make(PEOPLE, **SMALL | options)

    refused("did you mean 'tpami'", loss="tpam")
    none = dict.fromkeys(dr_gan_system.WEIGHTS, 0.0)
    refused("nothing would be learnt", weights=none)
    refused("nothing would be learnt", weights=none | {"illumination": 1.0})
    alone = none | {"paired": 1.0}
    refused("interpolate needs a discriminator", weights=alone, interpolate=True)
    moved = {"switch": "swap", "switch_every": 3}
    refused("switch_every needs a discriminator", weights=alone, **moved)
    refused("unknown weight 'pairs'", weights={"pairs": 1.0})
    refused("am_softmax goes with loss='tpami'", loss="cvpr", am_softmax={})
    refused("lit from the other side", flip="keep", illuminations=2)
    refused("use flip='remap'", augmentation=(("flip", {}),))
    refused("give both or neither", switch="swap")
    refused("give both or neither", switch_every=3)
    refused(
        "trunks that are switched must be alike",
        switch="swap",
        switch_every=3,
        discriminator={"branch_heads": True},
    )
    turner = Network("dr_gan_generator", {}, (), InputSpec(size=SIDE), "generator")
    for name in ("identity_preserving", "perceptual"):
        asked = {"weights": {name: 1.0}}
        refused("give --given identity=EMBEDDER", **asked)
        refused("not a generator", given_networks={"identity": turner}, **asked)
    refused("6 identities in 1 poses", poses=1)
    refused("7 images cannot be 2 of each person", batch_size=7, **MULTI)
    refused("dr_gan_generator option 'nose'", generator={"nose": 4})
    system = dr_gan.make(PEOPLE, **SMALL, weights={"paired": 1.0})
    state = jax.eval_shape(system.init, jax.random.key(0), batch())
    with pytest.raises(UserError, match="true images in the pose that is asked for"):
        jax.eval_shape(system.train_step, state, batch(), jax.random.key(0))


def test_images_beside_move_the_pose_loss_alone():
    """Nobody knows who is on them: what they are labelled with is the pose."""
    state, step = stepped(2)[0][0], jit(dr_gan.make(PEOPLE, **SMALL).train_step)
    beside = np.arange(8) >= 4

    def found(pose):
        data = batch()
        label = jnp.where(beside, -1, data["label"])
        data |= {"label": label, "pose": jnp.where(beside, pose, -1)}
        metrics = step(state, data, jax.random.key(0))[1]
        return {name: float(value) for name, value in metrics.items()}

    pose = batch()["pose"]
    first, other = found(pose), found((pose + 1) % POSES)
    moved = {name for name in first if first[name] != other[name]}
    must = {"discriminator/pose_loss", "discriminator/loss"}
    may = {"discriminator/pose_accuracy", "discriminator/accuracy"}
    assert must <= moved <= must | may
    assert first["discriminator/identity_loss"] > 1


if __name__ == "__main__":
    cpu.compiler_options = cpu.quick_compilation = lambda: QUICK
    print(json.dumps([trace(layout) for layout in ast.literal_eval(sys.argv[1])]))
