"""The whole system on meshes: prototypes cut over devices, classes that do not divide.

Runs itself in a process with eight devices, where it prints what the test compares.
"""

import ast
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.backend import cpu
from fr_jax.errors import UserError
from fr_jax.systems import inter_prototype
from fr_jax.training import loop as train
from fr_jax.training.streams import ArrayStream
from tests.conftest import on_eight_devices

CLASSES = 37  # neither 2 nor 8 divides it
LAYOUTS = ((1, 1), (2, 4))  # devices on 'data' and 'model'
MORE_LAYOUTS = ((1, 1), (1, 2), (8, 1), (4, 2), (1, 8))
SMALL = {
    "backbone": "iresnet18",
    "backbone_options": {
        "stage_sizes": (1, 1, 1, 1),
        "width": 0.125,
        "embedding_size": 16,
    },
    "image_size": 16,
}
STEPS = 10
QUICK = {"xla_backend_optimization_level": 0}  # few steps: compiling takes longer


def trace(layout) -> dict[str, list]:
    """Losses of ten steps, and after the first: gradients (the momentum buffer)."""
    mesh = jax.make_mesh(
        layout,
        ("data", "model"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[: layout[0] * layout[1]],
    )
    rng = np.random.default_rng(0)
    faces = {
        "image": rng.integers(0, 256, (64, 16, 16, 3), np.uint8),
        "label": rng.integers(0, CLASSES, 64).astype(np.int32),
    }
    system = inter_prototype.make(
        CLASSES,
        **SMALL,
        learning_rate=0.001,
        schedule="constant",
        weight_decay=0.0,
        child_classes=[1, 5, 36],
        head_options={"scale": 8.0},
    )
    stream = ArrayStream(faces, 16, seed=0, mesh=mesh)
    update = train._Update(system, stream, mesh, 0, {}, train.Guard())
    loop = update.initial()
    update.compile(loop)
    assert loop.state.params["prototypes"].shape == (128, 16)
    found: dict[str, list] = {"loss": []}
    for step in range(STEPS):
        loop, _ = update(loop, update.place(stream.batch_at(step)), step)
        scalars, loop = update.read(loop)
        found["loss"].append(scalars["loss"])
        if step == 0:
            shards = loop.state.params["prototypes"].sharding
            assert shards.shard_shape((128, 16)) == (128 // layout[1], 16)
            gradients = jax.tree.leaves(loop.state.opt_state)
            found["gradients"] = [
                np.asarray(g).ravel().tolist() for g in gradients if g.ndim
            ]
    prototypes = np.asarray(loop.state.params["prototypes"])
    assert (prototypes[CLASSES:] == 0).all()  # padding is never trained
    found["prototypes"] = prototypes.ravel().tolist()
    return found


def distance(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
    "layouts",
    [LAYOUTS, pytest.param(MORE_LAYOUTS, marks=pytest.mark.long)],
    ids=["few", "more"],
)
def test_every_layout_of_devices_trains_alike(layouts):
    alone, *others = on_eight_devices("tests.test_inter_prototype_system", layouts)
    assert len(others) == len(layouts) - 1
    whole = np.concatenate(alone["gradients"])
    assert np.linalg.norm(whole) > 0
    for layout, other in zip(layouts[1:], others):
        assert distance(other["loss"][:1], alone["loss"][:1]) < 1e-5, layout
        gradients = np.concatenate(other["gradients"])
        assert distance(gradients, whole) < 1e-5, layout
        assert distance(other["loss"], alone["loss"]) < 1e-3, layout
        assert distance(other["prototypes"], alone["prototypes"]) < 1e-3, layout


@pytest.mark.long
def test_accumulated_halves_are_one_step_on_the_whole_batch():
    """Two halves are two BatchNorm groups of one batch, in one update of the schedule.

    An epoch of four half batches has two updates; a schedule that counted its parts
    would end half-way.
    """
    rng = np.random.default_rng(1)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (8, 16, 16, 3), np.uint8)),
        "label": jnp.asarray(rng.integers(0, 5, 8).astype(np.int32)),
        "seed": jnp.arange(8, dtype=jnp.uint32),
    }
    prototypes, rates = [], []
    for accumulate in (1, 2):
        options = {**SMALL["backbone_options"], "bn_groups": 2 // accumulate}
        system = inter_prototype.make(
            5,
            **{**SMALL, "backbone_options": options},
            steps_per_epoch=2 * accumulate,
            epochs=2,
            learning_rate=0.001,
            schedule="cosine",
            accumulate=accumulate,
            augmentation=(),
            head_options={"scale": 8.0},
        )
        state = jax.jit(system.init)(jax.random.key(0), batch)
        step = jax.jit(system.train_step)
        for part in 2 * list(range(accumulate)):
            rows = slice(part * 8 // accumulate, (part + 1) * 8 // accumulate)
            piece = {name: value[rows] for name, value in batch.items()}
            state, metrics = step(state, piece, jax.random.key(1))
            rates.append(float(metrics["learning_rate"]))
        prototypes.append(state.params["prototypes"])
    np.testing.assert_allclose(prototypes[0], prototypes[1], atol=1e-5)
    later = (1 + np.cos(np.pi / 4)) / 2 * 0.001
    expected = [0.001, later, 0.001, 0.001, later, later]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_prototypes_are_as_long_as_the_embeddings():
    """DR-GAN's encoder has no size of its own: a recogniser to begin that with."""
    options = {"backbone": "dr_gan_encoder", "backbone_options": {"width": 0.0625}}
    system = inter_prototype.make(5, **options, image_size=16, schedule="constant")
    state = jax.eval_shape(system.init, jax.random.key(0), {})
    assert state.params["prototypes"].shape == (128, 20)


def test_what_cannot_be_made():
    with pytest.raises(UserError, match="counts in epochs: give steps_per_epoch"):
        inter_prototype.make(4, **SMALL)
    system = inter_prototype.make(4, **SMALL, schedule="constant")
    with pytest.raises(UserError, match="unknown given network 'teacher'"):
        system.init(jax.random.key(0), {}, {"teacher": {}})


if __name__ == "__main__":
    cpu.compiler_options = cpu.quick_compilation = lambda: QUICK
    print(json.dumps([trace(layout) for layout in ast.literal_eval(sys.argv[1])]))
