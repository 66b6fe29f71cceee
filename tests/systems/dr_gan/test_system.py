"""DR-GAN end to end: updates of a step, resuming, and equality across meshes.

Runs itself in a process with eight devices, where it prints traces to compare.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fr_jax import models
from fr_jax.augment import diff_augment
from fr_jax.errors import TrainingStopped, UserError
from fr_jax.models import spectral
from fr_jax.models.preprocess import InputSpec
from fr_jax.optim import optimizers
from fr_jax.optim.ema import with_ema
from fr_jax.optim.update_schedule import Turn, fixed
from fr_jax.system import Mean, Network
from fr_jax.systems import dr_gan
from fr_jax.systems.dr_gan import objective as objectives
from fr_jax.systems.dr_gan.system import State
from fr_jax.training.batch_checks import check_batch, check_batch_size, check_stream
from fr_jax.training.loop import train
from fr_jax.training.streams import ArrayStream
from tests.support import dr_gan as small
from tests.support import steps
from tests.support.devices import on_eight_devices
from tests.support.dr_gan import (
    CHOICES,
    IDENTITIES,
    MULTI,
    POSES,
    PRESETS,
    SIDE,
    TARGETS,
    batch,
    paired,
    stepped,
)
from tests.support.networks import random_variables
from tests.support.steps import distance, jit
from tests.support.toy import same

pytestmark = [
    pytest.mark.usefixtures("shallow_networks"),
    pytest.mark.xdist_group("dr_gan"),  # they share `stepped`
]
LAYOUTS = ((1, 1), (8, 1))  # devices on 'data' and 'model'


def test_a_step_updates_one_network():
    (start, first, second), metrics = stepped(2)
    assert same(start.generator.params, first.generator.params)
    assert same(start.generator.opt_state, first.generator.opt_state)
    assert not same(start.discriminator.params, first.discriminator.params)
    assert same(first.discriminator, second.discriminator)  # its statistics too
    assert not same(first.generator.params, second.generator.params)
    for name in ("conv11", "conv53"):  # of real images, then of generated ones
        mean = first.discriminator.batch_stats["trunk"][name]["bn"]["mean"]
        assert np.abs(mean).max() > 0
    assert [m["discriminator_turn"] for m in metrics] == [1, 0]
    updates = [int(s.discriminator.updates) for s in (start, first, second)]
    assert updates == [0, 1, 1]
    assert [int(s.generator.updates) for s in (start, first, second)] == [0, 0, 1]


def value(mean: Mean) -> float:
    assert mean.count == 1
    return float(mean.total)


def test_losses_start_at_chance():
    _, (first, second) = stepped(2)
    chance = 2 * np.log(2) + np.log(IDENTITIES) + np.log(POSES)
    assert value(first["discriminator/loss"]) == pytest.approx(chance, rel=0.02)
    of_generator = pytest.approx(chance - np.log(2), rel=0.02)
    assert value(second["generator/loss"]) == of_generator
    accuracy = [first[f"discriminator/{n}_accuracy"] for n in ("identity", "pose")]
    mean = sum(map(value, accuracy)) + 2 * value(first["discriminator/real_accuracy"])
    running = pytest.approx(0.1 * mean / 4, rel=1e-5)
    assert first["discriminator/accuracy"] == running
    assert 0 < value(second["generator/spread"]) < 1


def test_metrics_are_means_of_the_steps_that_update_their_network():
    states, (first, second) = stepped(2)
    assert first.keys() == second.keys()
    scalars = {"discriminator/accuracy", "discriminator_turn"}
    for name in first.keys() - scalars:
        network = name.partition("/")[0]
        updated = first if network == "discriminator" else second
        other = second if network == "discriminator" else first
        assert isinstance(updated[name], Mean) and updated[name].count == 1
        assert other[name] == Mean(0, 0), name
    assert len(first) > 12
    # Metrics are no part of the State.
    fields = ("generator", "discriminator", "recogniser", "turn", "step")
    assert State._fields == fields
    assert isinstance(states[-1].turn, Turn) and states[-1].recogniser == ()


def test_unknown_labels_have_no_loss():
    """Without any labels only the loss of real and fake remains."""
    unknown = jnp.full(8, -1, jnp.int32)
    unlabelled = batch(label=unknown, pose=unknown)
    step = small.compiled_step()
    state, metrics = step(stepped(2)[0][0], unlabelled, jax.random.key(0))
    assert value(metrics["discriminator/identity_loss"]) == 0
    assert value(metrics["discriminator/pose_loss"]) == 0
    assert value(metrics["discriminator/gan_loss"]) > 1
    real = value(metrics["discriminator/real_accuracy"])
    assert state.turn.accuracy == pytest.approx(0.1 * real, rel=1e-5)
    _, metrics = step(state, unlabelled, jax.random.key(1))
    assert value(metrics["generator/identity_loss"]) == 0
    assert value(metrics["generator/pose_loss"]) > 1  # target poses are known


def test_auxiliary_images_change_only_the_pose_loss():
    """Their identity is unknown; the pose is their only label."""
    auxiliary = np.arange(8) >= 4

    def losses(pose):
        label = jnp.where(auxiliary, -1, batch()["label"])
        data = batch(label=label, pose=jnp.where(auxiliary, pose, -1))
        metrics = small.compiled_step()(stepped(2)[0][0], data, jax.random.key(0))[1]
        return jax.device_get(metrics)

    pose = batch()["pose"]
    first, other = losses(pose), losses((pose + 1) % POSES)
    moved = {name for name in first if first[name] != other[name]}
    must = {"discriminator/pose_loss", "discriminator/loss"}
    may = {"discriminator/pose_accuracy", "discriminator/accuracy"}
    assert must <= moved <= must | may
    assert value(first["discriminator/identity_loss"]) > 1


@pytest.mark.long
def test_a_run_resumes_within_a_cycle_bit_for_bit(tmp_path, quick_compilation):
    system = with_ema(small.make(update=fixed((1, 3))), 0.9)

    def run(folder, num_steps):
        stream = ArrayStream(small.faces(), 16, seed=0)
        folder = tmp_path / folder
        options = {"num_steps": num_steps, "save_every": 10, "guard": None}
        return train(system, stream, folder, **options).state

    with pytest.MonkeyPatch.context() as patch:
        steps.compile_once(patch)
        whole = run("whole", 7)
        run("parts", 2)
        state = run("parts", 7)
    turn = state.live.turn
    assert [int(x) for x in (turn.done, turn.discriminator, turn.generator)] == [
        3,
        1,
        3,
    ]
    assert same(whole, state)
    average = state.params, state.batch_stats
    assert not same(average, state.live.generator[:2])


@pytest.mark.long
def test_divergence_of_either_network_stops_the_run(tmp_path, quick_compilation):
    """A learning rate that trebles in every update, after a stable start."""

    def rate(updates):
        return 1e-4 * 3.0 ** jnp.clip(updates - 40, 0, 60)

    growing = optimizers.Optimizer(optax.adam(rate), rate)
    for name in ("generator", "discriminator"):
        system = small.make(
            objective={"adversarial": "hinge"},
            network=small.network(None, {"norm": "none", "conv_bias": True}),
            optimizer={"learning_rate": 1e-4, name: growing},
        )
        stream = ArrayStream(small.faces(), 8, seed=0)
        with pytest.raises(TrainingStopped, match=f"change of {name} is too high"):
            train(system, stream, tmp_path / name, num_steps=600, save_every=50)


def test_losses_of_both_networks_are_watched():
    assert small.make().watch == ["generator/loss", "discriminator/loss"]
    switched, _ = small.chosen("switched")
    assert switched.watch == ()
    paired = {"weights": dict.fromkeys(("identity", "gan", "pose"), 0.0)}
    targets = TARGETS._replace(paired=True)
    paired["weights"]["paired"] = 1.0
    assert small.make(objective=paired, targets=targets).watch == ["generator/loss"]


# --- devices ------------------------------------------------------------------------


def trace(layout) -> dict[str, list]:
    """Losses of steps of both networks; after the first two: first moments of Adam."""
    loss, gradients = [], []
    # Without the guard, which doubles the program and has separate tests.
    mesh = steps.make_mesh(layout)
    states = steps.run(system_of_four_groups(), _Stream(), mesh, 6, guard=None)
    for step, (state, metrics) in enumerate(states):
        part = "generator" if step % 2 else "discriminator"
        loss.append(metrics[f"{part}/loss"])
        if step < 2:
            moments = steps.momentum(getattr(state, part).opt_state[0].mu)
            gradients.append(np.concatenate(moments).tolist())
    return {"loss": loss, "gradients": gradients}


@functools.cache
def system_of_four_groups():
    return small.make(
        targets=MULTI,
        # Last maps of four pixels: BatchNorm over fewer values magnifies rounding.
        image_size=2 * SIDE,
        network=small.network(bn_groups=4),
        # Adam divides by values near 0 where gradients are rounding errors.
        optimizer={"learning_rate": 1e-6, "betas": (0.5, 0.9)},
    )


class _Stream:
    """Batches of eight identities with two images each."""

    batch_size = 16

    def __init__(self):
        self._arrays = small.faces(size=2 * SIDE)

    def batch_at(self, step):
        pairs = np.arange(48).reshape(-1, 2)
        rows = np.random.default_rng(step).permutation(pairs)[:8].ravel()
        batch = {name: array[rows] for name, array in self._arrays.items()}
        return batch | {"seed": np.arange(16, dtype=np.uint32)}


@pytest.mark.long
def test_one_device_equals_eight():
    """With four BatchNorm groups and two images per identity."""
    one, eight = on_eight_devices("tests.systems.dr_gan.test_system", LAYOUTS)
    assert distance(eight["loss"][:2], one["loss"][:2]) < 1e-5
    assert distance(eight["loss"], one["loss"]) < 1e-3
    for gradient, expected in zip(eight["gradients"], one["gradients"], strict=True):
        assert np.linalg.norm(expected) > 0
        assert distance(gradient, expected) < 1e-5


# --- every choice -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *PRESETS,
        "modern",  # with the presets it covers most options
        *[
            pytest.param(name, marks=pytest.mark.long)
            for name in CHOICES
            if name != "modern"
        ],
    ],
)
def test_every_choice_keeps_the_shape_of_the_state(name):
    system, data = small.chosen(name)
    check_batch(system.expects, data)
    state, key = small.shapes(name), jax.random.key(0)
    after, metrics = jax.eval_shape(system.train_step, state, data, key)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert all(leaf.shape == () for leaf in jax.tree.leaves(metrics))
    evaluated = jax.eval_shape(system.eval_step, state, data, key)
    assert {"pose_accuracy", "impostor_cosine", "spread"} <= evaluated.keys()
    assert all(leaf.shape == () for leaf in jax.tree.leaves(evaluated))
    embedded = jax.eval_shape(system.embed, state, data)
    assert embedded["embedding"].shape == (8, 320 if name in PRESETS else 20)
    assert embedded["quality"].shape == (8,)


@pytest.mark.long
@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_trains(name):
    system, data = small.chosen(name)
    state = jit(system.init)(jax.random.key(0), data)
    step = jit(system.train_step)
    first = {}
    for number in range(10):
        before = state
        state, metrics = step(state, data, jax.random.key(number))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        network = "generator" if number % 2 else "discriminator"
        loss = value(metrics[f"{network}/loss"])
        first.setdefault(network, loss)
        if network == "discriminator":
            last = loss
        if name == "modern" and number in (2, 4):  # R1 applies to every 16th update
            assert value(metrics["discriminator/r1_loss"]) == 0
        if name == "switched" and number == 1:
            encoder = state.generator.params["encoder"]["trunk"]
            assert same(encoder, before.discriminator.params["trunk"])
    assert last < first["discriminator"]
    if name == "modern":
        average = state.params, state.batch_stats
        assert not same(average, state.live.generator[:2])


@pytest.mark.long
def test_training_learns_identity_and_pose():
    """Coloured identities and bright columns, a few hundred steps."""
    system = small.make(
        targets=TARGETS._replace(paired=True),
        network=small.network(width=0.125),
        update=fixed((1, 2)),
        objective={"weights": {"paired": 10.0}},
        # At 2e-3 a generator of this size does not converge.
        optimizer={"learning_rate": 5e-4, "discriminator": {"learning_rate": 2e-4}},
    )
    data = ArrayStream(small.with_targets(small.faces(), "image", "pose"), 24, seed=0)
    state = jit(system.init)(jax.random.key(0), data.batch_at(0))
    step = jit(system.train_step)
    for number in range(480):
        state, metrics = step(state, data.batch_at(number), jax.random.key(number))
    assert metrics["discriminator/accuracy"] > 0.6
    assert value(metrics["generator/pose_accuracy"]) > 0.9
    assert value(metrics["generator/identity_accuracy"]) > 0.9
    evaluated = jit(system.eval_step)(state, data.batch_at(0), jax.random.key(0))
    assert evaluated["pose_accuracy"] > 0.9
    assert evaluated["spread"] > 0.5
    assert evaluated["impostor_cosine"] < evaluated["feature_cosine"]


def test_evaluation_normalises_kernels_and_does_not_augment(monkeypatch):
    system, data = small.chosen("modern")
    state, normalise, lengths = small.shapes("modern"), spectral.normalise, []

    def counted(params, vectors):
        lengths.append(len(vectors))
        return normalise(params, vectors)

    def never(key, images, policy):
        raise AssertionError("validation images are augmented")

    monkeypatch.setattr(spectral, "normalise", counted)
    monkeypatch.setattr(diff_augment, "diff_augment", never)
    monkeypatch.setattr("fr_jax.systems.dr_gan.networks.diff_augment", never)

    def evaluate(*arguments):  # a new function, so that it is traced again
        return system.eval_step(*arguments)

    jax.eval_shape(evaluate, state, data, jax.random.key(0))
    assert lengths == [len(state.live.discriminator.batch_stats["spectral"])]


# --- pretrained networks ------------------------------------------------------------


def test_both_networks_start_from_a_given_encoder():
    system, given = small.make(), {"init": small.encoder_variables()}
    start = jit(system.init)(jax.random.key(0), batch(), given)
    trunk = given["init"]["params"]["trunk"]
    assert same(start.generator.params["encoder"]["trunk"], trunk)
    assert same(start.discriminator.params["trunk"], trunk)
    assert same(
        start.discriminator.batch_stats["trunk"]["conv11"]["bn"],
        given["init"]["batch_stats"]["trunk"]["conv11"]["bn"],
    )
    networks = system.hand_over(start)
    assert networks["embedding"].architecture == "dr_gan_encoder"
    assert same(networks["embedding"].variables, given["init"])
    assert networks["generator"].kind == "generator"
    params = networks["discriminator"].variables["params"]
    assert same(params, start.discriminator.params)
    network = networks["generator"]
    model = models.create(network.architecture, **network.options)
    assert model.size == SIDE and model.poses == POSES


def initialised(**changes):
    """Returns the shapes of a State initialised from a generator."""
    options = small.generator_options()
    spec = InputSpec(size=SIDE)
    network = Network("dr_gan_generator", options, (), spec, "generator")
    system = small.make(pretrained={"init": network}, **changes)
    given = {"init": random_variables(small.generator(), SIDE)}
    return jax.eval_shape(system.init, jax.random.key(0), batch(), given)


def test_init_accepts_a_generator_of_other_poses_but_not_of_another_width():
    more = TARGETS._replace(angles=(-60, -30, 0, 30, 60))
    decoder = initialised(targets=more).generator.params["decoder"]
    assert len(decoder["fc"]["kernel"]) == 20 + 5 + 4
    with pytest.raises(UserError, match="'init': .* this network has"):
        initialised(network=small.network(width=0.125))


# --- the frozen recogniser ----------------------------------------------------------

TERMS = ("identity_preserving", "perceptual")


@functools.cache
def by_recogniser():
    """Returns a system, its first State, and a step that takes the loss weights."""
    objective = objectives.with_identity(objectives.generator_only(), 1.0, 1.0)

    def system(weights):
        return small.make(
            targets=TARGETS._replace(paired=True),
            objective=objective._replace(weights=weights),
            optimizer={"learning_rate": 3e-3},
            pretrained={"identity": small.encoder_network()},
        )

    @jit
    def step(weights, state, key):
        return system(weights).train_step(state, paired(), key)

    net = stepped(2)[0][0]  # of the same networks and optimisers
    return system({}), net._replace(recogniser=small.encoder_variables()), step


@pytest.mark.parametrize("term", TERMS)
def test_a_generator_learns_from_a_frozen_recogniser_alone(term):
    """Without adversarial losses the discriminator does not change."""
    system, start, step = by_recogniser()
    state, losses = start, []
    weights = dict.fromkeys(TERMS, 0.0) | {term: 1.0}
    for number in range(12):
        state, metrics = step(weights, state, jax.random.key(number))
        losses.append(float(metrics[f"generator/{term}_loss"]))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert losses[-1] == metrics["generator/loss"]
    assert not [name for name in metrics if name.startswith("discriminator")]
    for name in ("recogniser", "discriminator"):
        assert same(getattr(state, name), getattr(start, name))
    assert "discriminator" not in system.hand_over(state)


def test_without_a_discriminator_poses_are_not_evaluated():
    system, state, _ = by_recogniser()
    shape = functools.partial(jax.eval_shape, system.init, jax.random.key(0), paired())
    fresh = shape({"identity": small.encoder_variables()})
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, state)
    evaluated = jax.eval_shape(system.eval_step, state, paired(), jax.random.key(0))
    assert "pose_accuracy" not in evaluated and "paired_loss" in evaluated


def test_a_recogniser_in_adversarial_training_of_several_images():
    system = small.make(
        targets=MULTI._replace(paired=True),
        objective={"weights": dict.fromkeys(TERMS, 1.0), "interpolate": True},
        pretrained={"identity": small.encoder_network()},
    )
    given = {"identity": small.encoder_variables()}
    state = jax.eval_shape(system.init, jax.random.key(0), paired(), given)
    after, metrics = jax.eval_shape(
        system.train_step, state, paired(), jax.random.key(0)
    )
    assert after.recogniser.keys() == {"params", "batch_stats"}
    for name in (*TERMS, "gan"):
        assert f"generator/{name}_loss" in metrics


# --- mistakes -----------------------------------------------------------------------

OTHER_KIND = Network("dr_gan_generator", {}, (), InputSpec(size=SIDE), "generator")
OTHER_COLOUR = OTHER_KIND._replace(input_spec=InputSpec(size=SIDE, colour="BGR"))
OTHER_SCALE = OTHER_KIND._replace(input_spec=InputSpec(SIDE, mean=0.0, scale=255.0))
NONE = dict.fromkeys(("identity", "gan", "pose", "illumination"), 0.0)
ALONE = {"weights": NONE | {"paired": 1.0}}
PAIRED = TARGETS._replace(paired=True)
SWAP = {"direction": "swap", "every": 3}


def weighted(**weights):
    return {"objective": {"weights": weights}}


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("unknown given network 'teacher'", {"pretrained": {"teacher": OTHER_KIND}}),
        *(
            (
                rf"given as '{name}' take images of 16x16 BGR.*trains with .* RGB",
                {"pretrained": {name: OTHER_COLOUR._replace(kind=kind)}},
            )
            for name, kind in (("init", "generator"), ("discriminator",) * 2)
        ),
        (
            "pixel - 0.0. / 255.0.*pixel - 127.5. / 127.5",
            {"pretrained": {"init": OTHER_SCALE}},
        ),
        ("lit from the other side", {"flip": "keep", "targets": "lit"}),
        ("use flip='remap'", {"augmentation": (("flip", {}),)}),
        ("give --given identity=EMBEDDER", weighted(identity_preserving=1.0)),
        (
            "of kind 'generator'",
            weighted(identity_preserving=1.0)
            | {"pretrained": {"identity": OTHER_KIND}},
        ),
        (
            "give --given identity=EMBEDDER",
            weighted(perceptual=1.0) | {"targets": PAIRED},
        ),
        ("data are not paired", weighted(perceptual=1.0)),
        ("data are not paired", weighted(paired=1.0)),
        ("angles are .0,.: give two or more", {"targets": "one pose"}),
        ("flip 'remp'; did you mean 'remap'", {"flip": "remp"}),
        ("give direction and every", {"trunk_switching": {"direction": "swap"}}),
        ("did you mean 'every'", {"trunk_switching": {"evry": 3}}),
        (
            "trunk_switching needs a trained discriminator",
            {"trunk_switching": SWAP, "objective": ALONE, "targets": PAIRED},
        ),
        ("direction 'swp'", {"trunk_switching": {"direction": "swp", "every": 1}}),
        ("every is 0", {"trunk_switching": {"direction": "swap", "every": 0}}),
        (
            "trunks that are switched must have the same",
            {
                "trunk_switching": SWAP,
                "network": small.network(None, {"branch_heads": True}),
            },
        ),
        (
            "must have the same shapes: .* the same width, conv_bias",
            {"trunk_switching": SWAP, "network": small.network(None, {"width": 0.125})},
        ),
        ("'nose'", {"network": small.network({"nose": 4})}),
        ("image_size is -1; use 16 or more", {"image_size": -1}),
        ("canvas_size is 12, from which 16 pixels", {"canvas_size": 12}),
        ("'poses' follows from data", {"network": small.network({"poses": 5})}),
        ("'heads' follows from data", {"network": small.network(None, {"heads": []})}),
        ("'size' follows from data", {"network": small.network(size=16)}),
        ("unknown augmentation 'crp'", {"augmentation": (("crp", {}),)}),
        ("unknown option 'are' of 'crop'", {"degradation": (("crop", {"are": 1}),)}),
        ("give .name, options. of each", {"augmentation": ("crop",)}),
        ("did you mean 'group'", {"network": small.network(None, {"norm": "groups"})}),
        (
            "norm='batch' would undo spectral_norm",
            {"network": small.network(None, {"spectral_norm": True})},
        ),
        (
            "norm='group' needs channels in equal groups",
            {"network": small.network(None, {"norm": "group", "extra_channel": True})},
        ),
        (
            "features of 2 images per identity would be summed without weights",
            {
                "targets": MULTI,
                "network": small.network(
                    {"confidence_head": "none", "normalise_fusion": False}
                ),
            },
        ),
        ("did you mean 'learning_rate'", {"optimizer": {"learning_rat": 0.1}}),
        ("unknown update schedule 'stagd'", {"update": "stagd"}),
    ],
)
def test_invalid_arguments_are_refused(match, options):
    named = {
        "lit": TARGETS._replace(unsigned=True, angles=(0, 30), illuminations=2),
        "one pose": TARGETS._replace(angles=(0,)),
    }
    if isinstance(options.get("targets"), str):
        options = options | {"targets": named[options["targets"]]}
    with pytest.raises(UserError, match=match):
        system = small.make(**options)
        jax.eval_shape(system.init, jax.random.key(0), batch())


def test_init_refuses_unknown_and_missing_networks():
    with pytest.raises(UserError, match="unknown given network 'teacher'"):
        small.make().init(jax.random.key(0), batch(), {"teacher": {}})
    with pytest.raises(UserError, match="needs given=.'identity': variables."):
        by_recogniser()[0].init(jax.random.key(0), batch())


def test_a_single_identity_is_refused():
    with pytest.raises(UserError, match="num_classes is 1; use 2 or more"):
        dr_gan.make(1, **small.SMALL)


def test_a_plain_mean_of_several_images_is_accepted():
    network = small.network({"confidence_head": "none"})
    assert small.make(targets=MULTI, network=network).hand_over is not None


# --- batches ------------------------------------------------------------------------


def host_batch(**changes):
    return {name: np.asarray(x) for name, x in paired().items()} | changes


@pytest.mark.parametrize(
    ("match", "changes", "targets"),
    [
        ("no 'pose'", {"pose": None}, {}),
        ("'label' of a batch has 6, expected -1 to 5", {"label": 6}, {}),
        ("'label' of a batch has -2", {"label": -2}, {}),
        ("'pose' of a batch has 3, expected -1 to 2", {"pose": 3}, {}),
        ("'light' of a batch has 2", {"light": 2}, {"illuminations": 2}),
        ("no 'yaw'", {}, {"continuous": True}),
        ("'yaw' of a batch is float64", {"yaw": np.zeros(8)}, {"continuous": True}),
        ("no 'target_image'", {"target_image": None}, {"paired": True}),
        ("'target_pose' of a batch has 7", {"target_pose": 7}, {"paired": True}),
        ("'image' of a batch is float32", {"image": np.zeros((8, 4, 4, 3), "f4")}, {}),
        (
            "'image' of a batch is uint8 .8, 4, 4.",
            {"image": np.zeros((8, 4, 4), "u1")},
            {},
        ),
        ("'seed' of a batch is int64", {"seed": np.arange(8)}, {}),
    ],
)
def test_unexpected_batches_are_refused(match, changes, targets):
    targets = TARGETS._replace(**targets)
    system, arrays = small.make(targets=targets), host_batch()
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        elif isinstance(change, int):
            arrays[name] = np.full(8, change, np.int32)
        else:
            arrays[name] = change
    with pytest.raises(UserError, match=match):
        check_batch(system.expects, arrays)


def test_expected_batches_are_accepted():
    lit = TARGETS._replace(illuminations=2, paired=True, images_per_identity=2)
    check_batch(small.make(targets=lit).expects, host_batch())
    unknown = np.full(8, -1, np.int32)
    check_batch(small.make().expects, host_batch(label=unknown, pose=unknown))


def test_the_batch_is_a_multiple_of_images_and_groups():
    expects = small.make(targets=MULTI, network=small.network(bn_groups=4)).expects
    check_batch_size(expects, 16)
    with pytest.raises(UserError, match="a batch of 12 rows: 'image' .* multiple of 8"):
        check_batch_size(expects, 12)
    with pytest.raises(UserError, match="a batch of 7 rows"):
        check_batch_size(small.make(targets=MULTI).expects, 7)


def test_a_stream_of_more_identities_is_refused():
    arrays = small.faces() | {"label": np.arange(48, dtype=np.int32)}
    with pytest.raises(UserError, match="'label' of the data has 47, .* 6 classes"):
        check_stream(small.make().expects, ArrayStream(arrays, 8))
    check_stream(small.make().expects, ArrayStream(small.faces(), 8))


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as shallow:
        small.use_shallow_networks(shallow)
        steps.print_traces(trace)
