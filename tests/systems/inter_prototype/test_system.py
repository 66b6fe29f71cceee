"""Inter-Prototype: its step, and equal numbers on every mesh.

Runs itself in a process with eight devices, which prints the compared numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.losses import margin
from fr_jax.models.preprocess import InputSpec
from fr_jax.optim import optimizers
from fr_jax.system import Network
from fr_jax.systems import inter_prototype
from fr_jax.training.batch_checks import check_batch, check_stream
from fr_jax.training.streams import ArrayStream
from tests.support import steps, toy
from tests.support.devices import on_eight_devices
from tests.support.networks import random_variables
from tests.support.steps import distance, jit, largest_change

CLASSES = 37  # not divisible by 2 or 8
LAYOUTS = ((1, 1), (2, 4))  # devices on 'data' and 'model'
MORE_LAYOUTS = ((1, 1), (1, 2), (8, 1), (4, 2), (1, 8))
BACKBONE = {"stage_sizes": (1, 1), "width": 0.125, "embedding_size": 16}
SMALL = {
    "backbone": "iresnet18",
    "backbone_options": BACKBONE,
    "image_size": 16,
    "optimizer": {"schedule": "constant", "learning_rate": 0.001},
}
STEPS = 10
KEY = jax.random.key(0)


def batch(rows=8, classes=5):
    rng = np.random.default_rng(1)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)),
        "label": jnp.asarray(rng.integers(0, classes, rows).astype(np.int32)),
        "seed": jnp.arange(rows, dtype=jnp.uint32),
    }


def trace(layout) -> dict[str, list]:
    """Losses of ten steps, and after the first: gradients (the momentum buffer)."""
    rng = np.random.default_rng(0)
    faces = {
        "image": rng.integers(0, 256, (64, 16, 16, 3), np.uint8),
        "label": rng.integers(0, CLASSES, 64).astype(np.int32),
    }
    system = inter_prototype.make(
        CLASSES,
        **SMALL | {"optimizer": SMALL["optimizer"] | {"weight_decay": 0.0}},
        child_classes=[1, 5, 36],
        head_options={"scale": 8.0},
    )
    mesh, loss = steps.make_mesh(layout), []
    stream = ArrayStream(faces, 16, seed=0, mesh=mesh)
    for state, metrics in steps.run(system, stream, mesh, STEPS):
        loss.append(metrics["loss"])
        if len(loss) == 1:
            assert state.params["prototypes"].shape == (128, 16)
            shards = state.params["prototypes"].sharding
            assert shards.shard_shape((128, 16)) == (128 // layout[1], 16)
            gradients = steps.momentum(state.opt_state)
    prototypes = np.asarray(state.params["prototypes"])
    assert (prototypes[CLASSES:] == 0).all()  # padding is never trained
    return {
        "loss": loss,
        "gradients": gradients,
        "prototypes": prototypes.ravel().tolist(),
    }


@pytest.mark.parametrize(
    "layouts",
    [LAYOUTS, pytest.param(MORE_LAYOUTS, marks=pytest.mark.long)],
    ids=["few", "more"],
)
def test_every_layout_of_devices_trains_alike(layouts):
    program = "tests.systems.inter_prototype.test_system"
    one, *others = on_eight_devices(program, layouts)
    assert len(others) == len(layouts) - 1
    whole = np.concatenate(one["gradients"])
    assert np.linalg.norm(whole) > 0
    for layout, other in zip(layouts[1:], others):
        assert distance(other["loss"][:1], one["loss"][:1]) < 1e-5, layout
        gradients = np.concatenate(other["gradients"])
        assert distance(gradients, whole) < 1e-5, layout
        assert distance(other["loss"], one["loss"]) < 1e-3, layout
        assert distance(other["prototypes"], one["prototypes"]) < 1e-3, layout


@pytest.mark.long
def test_accumulated_halves_are_one_step_on_the_whole_batch():
    """Two half batches equal two BatchNorm groups of one batch, in one update.

    A run of eight half batches has four updates; a schedule counting half batches
    would end half-way.
    """
    prototypes, rates = [], []
    for accumulate in (1, 2):
        system = inter_prototype.make(
            5,
            backbone="iresnet18",
            backbone_options=BACKBONE | {"bn_groups": 2 // accumulate},
            image_size=16,
            num_steps=4 * accumulate,
            optimizer={
                "learning_rate": 0.001,
                "schedule": "cosine",
                "accumulate": accumulate,
            },
            augmentation=(),
            head_options={"scale": 8.0},
        )
        state = jax.jit(system.init)(KEY, batch())
        step = jax.jit(system.train_step)
        for part in 2 * list(range(accumulate)):
            rows = slice(part * 8 // accumulate, (part + 1) * 8 // accumulate)
            piece = {name: value[rows] for name, value in batch().items()}
            state, metrics = step(state, piece, jax.random.key(1))
            rates.append(float(metrics["learning_rate"]))
        prototypes.append(state.params["prototypes"])
    np.testing.assert_allclose(prototypes[0], prototypes[1], atol=1e-5)
    later = (1 + np.cos(np.pi / 4)) / 2 * 0.001
    expected = [0.001, later, 0.001, 0.001, later, later]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


# --- heads --------------------------------------------------------------------------


def test_a_custom_head_trains():
    """SphereFace-like: the squared target cosine, with a scale."""

    def squared(cosines, labels, scale=8.0):
        target = margin.target_cosine(cosines, labels)
        target = jnp.where(target > 0, target**2, target)
        is_target = jax.nn.one_hot(labels, cosines.shape[1]) > 0
        return scale * jnp.where(is_target, target[:, None], cosines)

    system = inter_prototype.make(
        5,
        **SMALL | {"optimizer": {"schedule": "constant", "learning_rate": 0.05}},
        head=squared,
        head_options={"scale": 4.0},
        augmentation=(),
    )
    state = start = jit(system.init)(KEY, batch())
    step, losses = jit(system.train_step), []
    for number in range(12):
        state, metrics = step(state, batch(), jax.random.key(number))
        losses.append(float(metrics["loss"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert losses[-1] < 0.8 * losses[0]
    assert metrics["accuracy"] == 1
    assert max(largest_change(start.params, state.params)) > 1e-2
    assert int(state.updates) == 12


# --- networks -----------------------------------------------------------------------


def test_prototypes_are_as_long_as_the_embeddings():
    """DR-GAN's encoder has no embedding_size: its width sets the length."""
    options = {"backbone": "dr_gan_encoder", "backbone_options": {"width": 0.0625}}
    system = inter_prototype.make(5, **SMALL | options)
    state = jax.eval_shape(system.init, KEY, {})
    assert state.params["prototypes"].shape == (128, 20)


def test_the_network_starts_from_given_variables():
    given = {"init": random_variables(models.create("iresnet18", **BACKBONE), 16)}
    system = inter_prototype.make(5, **SMALL)
    state = jit(system.init)(KEY, {}, given)
    network = system.hand_over(state)["embedding"]
    assert toy.same(network.variables, given["init"])
    assert network.architecture == "iresnet18" and network.options == BACKBONE


def test_colour_order_and_scale_of_the_start_are_taken_over():
    spec = InputSpec(size=32, colour="BGR", mean=0.0, scale=255.0)
    start = Network("iresnet18", BACKBONE, (), spec)
    system = inter_prototype.make(5, **SMALL, pretrained={"init": start})
    state = jax.eval_shape(system.init, KEY, batch())
    handed_over = system.hand_over(state)["embedding"].input_spec
    assert handed_over == InputSpec(size=16, colour="BGR", mean=0.0, scale=255.0)


@pytest.mark.parametrize(
    "spec",
    [InputSpec(112, crop=(112, 96)), InputSpec(16, colour="GREY")],
    ids=["a crop", "grey"],
)
def test_a_start_with_another_kind_of_image_is_refused(spec):
    start = Network("iresnet18", BACKBONE, (), spec)
    height, width, _ = spec.shape
    both = f"{height}x{width} {spec.colour}.* this system trains with 16x16 RGB"
    with pytest.raises(UserError, match=both):
        inter_prototype.make(5, **SMALL, pretrained={"init": start})


def test_the_optimizer_may_be_adam_or_a_custom_one():
    for optimizer in ({"name": "adam", "schedule": "constant"}, optimizers.adam()):
        system = inter_prototype.make(5, **SMALL | {"optimizer": optimizer})
        state = jax.eval_shape(system.init, KEY, {})
        assert hasattr(state.opt_state[0], "mu")


# --- invalid arguments --------------------------------------------------------------

OTHER = Network("iresnet18", {}, (), InputSpec(size=16))


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("counts in epochs: give steps_per_epoch", {"optimizer": {}}),
        ("ends with the run: give num_s", {"optimizer": {"schedule": "cosine"}}),
        ("optimizer 'sdg'; did you mean", {"optimizer": {"name": "sdg"}}),
        ("head 'arcfac'; did you mean 'arcface'", {"head": "arcfac"}),
        ("'margn'", {"head_options": {"margn": 0.5}}),
        ("child class 4 is not in 0..3", {"child_classes": [0, 4]}),
        ("child class -1 is not in 0..3", {"child_classes": [-1]}),
        ("unknown given network 'teacher'", {"pretrained": {"teacher": OTHER}}),
        ("unknown augmentation 'crp'", {"augmentation": (("crp", {}),)}),
        ("'iresnet19'", {"backbone": "iresnet19"}),
        ("image_size is 0; use 16", {"image_size": 0}),
        ("lambda_child is -1; use 0", {"lambda_child": -1}),
        ("scale of head arcface is -3; use 0.001", {"head_options": {"scale": -3}}),
        ("margin of head arcface is -1; use 0", {"head_options": {"margin": -1}}),
        ("learning_rate is -0.1; use 0", {"learning_rate": -0.1}),
        ("schedule 'cosin'; did you mean", {"schedule": "cosin"}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        inter_prototype.make(4, **SMALL | options)


def test_a_single_identity_is_refused():
    with pytest.raises(UserError, match="1 identity: .* at least 2 are needed"):
        inter_prototype.make(1, **SMALL)


def test_init_refuses_unknown_networks_and_other_shapes():
    system = inter_prototype.make(4, **SMALL)
    with pytest.raises(UserError, match="unknown given network 'teacher'"):
        jax.eval_shape(system.init, KEY, {}, {"teacher": {}})
    other = random_variables(models.create("iresnet18", width=0.25), 16)
    with pytest.raises(UserError, match="weights given as 'init': .*, this network"):
        jax.eval_shape(system.init, KEY, {}, {"init": other})


# --- batches ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("no 'seed', which the system needs; they have image", {"seed": None}),
        ("'label' of a batch has 5, expected 0 to 4", {"label": np.full(8, 5, "i4")}),
        ("'label' of a batch has -1", {"label": np.full(8, -1, "i4")}),
        ("'label' of a batch is int64", {"label": np.zeros(8, "i8")}),
        ("'image' of a batch is float32", {"image": np.zeros((8, 4, 4, 3), "f4")}),
        ("uint8 .8, 4, 4., expected uint8 .any", {"image": np.zeros((8, 4, 4), "u1")}),
    ],
)
def test_unexpected_batches_are_refused(match, changes):
    arrays = {name: np.asarray(x) for name, x in batch().items()} | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=match):
        check_batch(inter_prototype.make(5, **SMALL).expects, arrays)


def test_expected_batches_are_accepted():
    expects = inter_prototype.make(5, **SMALL).expects
    check_batch(expects, batch())  # on the device
    check_batch(expects, {name: np.asarray(x) for name, x in batch().items()})


def test_a_stream_of_more_identities_is_refused():
    stream = ArrayStream(batch(classes=9), 8)
    with pytest.raises(UserError, match="'label' of the data has 8, .* 5 classes"):
        check_stream(inter_prototype.make(5, **SMALL).expects, stream)


if __name__ == "__main__":
    steps.print_traces(trace)
