"""Momentum contrast as a whole: its parts, and the same numbers on every mesh.

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
from fr_jax.evaluation.verification import EvaluationSet
from fr_jax.models.preprocess import InputSpec, normalise
from fr_jax.optim import ema as momentum
from fr_jax.systems import usynthface
from fr_jax.training import loop as train
from fr_jax.training.streams import ArrayStream
from tests import toy
from tests.conftest import on_eight_devices

pytestmark = pytest.mark.xdist_group("usynthface")  # they share `stepped`
PEOPLE = 300
LAYOUTS = ((1, 1), (2, 4))  # devices on 'data' and 'model'
MORE_LAYOUTS = ((1, 1), (8, 1))
SMALL = {
    "backbone": "iresnet18",
    "backbone_options": {
        "stage_sizes": (1, 1, 1, 1),
        "width": 0.125,
        "embedding_size": 16,
    },
    "image_size": 16,
    "queue_size": 100,  # no batch divides it, no mesh either: 128 rows
    "augmentation": (),
}
STEPS = 10
# Compiling takes longer than these few steps.
QUICK = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=QUICK)


def faces(rows=64):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    noise = rng.integers(-20, 20, image.shape)
    return {
        "image": image,
        "positive": np.clip(image + noise, 0, 255).astype(np.uint8),
        "label": np.arange(rows, dtype=np.int32) % PEOPLE,
    }


def seeded_faces(rows):
    return faces(rows) | {"seed": np.arange(rows, dtype=np.uint32)}


def batch(rows=16):
    return {name: jnp.asarray(array) for name, array in seeded_faces(rows).items()}


def calm():
    """A learner whose steps are small, so that roundings do not grow."""
    return usynthface.make(
        PEOPLE,
        **SMALL,
        learning_rate=0.01,
        weight_decay=0.0,
        temperature=0.2,
        mask_unfilled=False,
    )


@functools.cache
def stepped(steps=1, **options):
    """States before and after, and the metrics of every step on the same batch."""
    system = usynthface.make(PEOPLE, **SMALL | options)
    state = first = jit(system.init)(jax.random.key(0), batch())
    step, found = jit(system.train_step), []
    for number in range(steps):
        state, metrics = step(state, batch(), jax.random.key(number))
        found.append({name: float(value) for name, value in metrics.items()})
    return first, state, found


def trace(layout) -> dict[str, list]:
    """Losses of ten steps, and after the first: gradients (the momentum buffer)."""
    mesh = jax.make_mesh(
        layout,
        ("data", "model"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[: layout[0] * layout[1]],
    )
    system = calm()
    stream = ArrayStream(faces(), 32, seed=0, mesh=mesh)
    update = train._Update(system, stream, mesh, 0, {}, train.Guard())
    loop = update.initial()
    update.compile(loop)
    found: dict[str, list] = {"loss": []}
    for step in range(STEPS):
        loop, _ = update(loop, update.place(stream.batch_at(step)), step)
        scalars, loop = update.read(loop)
        found["loss"].append(scalars["loss"])
        if step == 0:
            shards = loop.state.queue.keys.sharding
            assert shards.shard_shape((128, 16)) == (128 // layout[1], 16)
            gradients = jax.tree.leaves(loop.state.opt_state)
            found["gradients"] = [
                np.asarray(g).ravel().tolist() for g in gradients if g.ndim
            ]
    queue = np.asarray(loop.state.queue.keys)
    assert (queue[100:] == 0).all()  # padding holds no key
    found["queue"] = queue.ravel().tolist()
    found["filled"] = np.asarray(loop.state.queue.filled).tolist()
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
    """With four BatchNorm groups, the queue whole and cut into four."""
    alone, *others = on_eight_devices("tests.test_usynthface_system", layouts)
    whole = np.concatenate(alone["gradients"])
    assert np.linalg.norm(whole) > 0
    assert sum(alone["filled"]) == 100
    for layout, other in zip(layouts[1:], others, strict=True):
        assert distance(other["loss"][:1], alone["loss"][:1]) < 1e-5, layout
        gradients = np.concatenate(other["gradients"])
        assert distance(gradients, whole) < 1e-5, layout
        assert distance(other["loss"], alone["loss"]) < 1e-3, layout
        assert distance(other["queue"], alone["queue"]) < 1e-3, layout
        assert other["filled"] == alone["filled"]


def test_the_key_network_follows_and_its_keys_are_enqueued():
    before, after, _ = stepped(2, key_momentum=0.5, learning_rate=1.0)
    for start, query, key in zip(
        *map(jax.tree.leaves, (before.params, after.params, after.key_params))
    ):
        assert start.shape == query.shape == key.shape
    # Twice brought up to date, before each key forward: with the first weights, which
    # change nothing, and with those after one update.
    once = stepped(1, key_momentum=0.5, learning_rate=1.0)[1]
    expected = momentum.ema(before.params, once.params, 0.5)
    for found, wanted in zip(*map(jax.tree.leaves, (after.key_params, expected))):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert int(after.queue.cursor) == 32
    assert after.queue.filled.sum() == 32
    assert after.queue.identity[:32].tolist() == 2 * list(range(16))
    lengths = np.linalg.norm(after.queue.keys[:100], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_metrics_tell_how_the_learner_is():
    _, _, (first, second, *_, last) = stepped(8)
    assert first["loss"] == first["chance_loss"] == 0  # nothing is enqueued yet
    assert first["valid_negatives"] == 0
    assert second["valid_negatives"] == 15  # of 16, one is its own
    assert second["chance_loss"] == pytest.approx(np.log(16))
    assert second["queue_fill"] == pytest.approx(0.32)
    assert last["queue_fill"] == 1
    assert 93 < last["valid_negatives"] < 94  # 100 keys of 16 people: 6 or 7 their own
    assert 0 <= second["top1"] <= second["top5"] <= 1
    assert 0 < second["embedding_spread"] < 1
    assert second["negative_cosine"] < second["positive_cosine"] <= 1
    assert second["learning_rate"] == pytest.approx(0.1 * 16 / 512)  # in proportion


def test_the_start_and_ones_own_identity_are_masked_or_not():
    _, _, (first, *_) = stepped(1, mask_unfilled=False)
    assert first["valid_negatives"] == 100 and first["queue_fill"] == pytest.approx(
        0.16
    )
    assert first["chance_loss"] == pytest.approx(np.log(101), rel=1e-5)
    _, _, (*_, second) = stepped(2, mask_identity=False)
    assert second["valid_negatives"] == 16
    assert second["chance_loss"] == pytest.approx(np.log(17))


def test_keys_are_shuffled_over_the_groups_and_put_back(monkeypatch):
    """Key i is of image i, but was normalised among others: those of the order."""
    order = np.random.default_rng(5).permutation(16)
    monkeypatch.setattr(jax.random, "permutation", lambda key, count: jnp.array(order))
    shuffled = stepped.__wrapped__()[1].queue  # not for other tests
    system = usynthface.make(PEOPLE, **SMALL, shuffle_keys=False)
    state = jit(system.init)(jax.random.key(0), batch())
    step = jit(system.train_step)
    plain, _ = step(state, batch(), jax.random.key(0))
    moved = batch() | {"positive": batch()["positive"][order]}
    expected, _ = step(state, moved, jax.random.key(0))
    found, expected = shuffled.keys[:16], expected.queue.keys[:16]
    np.testing.assert_allclose(found[order], expected, atol=1e-5)
    assert np.abs(found - plain.queue.keys[:16]).max() > 0.1
    assert shuffled.identity[:16].tolist() == list(range(16))


def test_statistics_of_the_first_group_alone_are_those_of_one_device():
    """As one of several processes keeps its own; nothing else changes."""
    before, after, (metrics,) = stepped(1, bn_first_group=True)
    _, usual, (other,) = stepped()
    images = normalise(batch()["image"].astype(jnp.float32), InputSpec(size=16))

    @jit
    def kept(images):
        variables = {
            "params": before.params["backbone"],
            "batch_stats": before.batch_stats,
        }
        model = models.create(SMALL["backbone"], **SMALL["backbone_options"])
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[1]

    groups = [kept(images[n : n + 4])["batch_stats"] for n in range(0, 16, 4)]
    mean = jax.tree.map(lambda *values: sum(values) / 4, *groups)
    apart = []
    for found, expected, averaged, of_all in zip(
        *map(jax.tree.leaves, (after.batch_stats, groups[0], usual.batch_stats, mean))
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(averaged, of_all, rtol=1e-4, atol=1e-6)
        apart.append(np.abs(found - averaged).max())
    assert max(apart) > 0.1
    assert metrics == pytest.approx(other, rel=1e-5)
    for found, expected in zip(*map(jax.tree.leaves, (after.params, usual.params))):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    system = usynthface.make(PEOPLE, **SMALL, bn_first_group=True)
    network = system.hand_over(after)["embedding"]
    assert toy.same(network.variables["batch_stats"], after.batch_stats)
    assert set(network.options) == set(SMALL["backbone_options"])


def test_another_loss_of_the_logits_may_take_the_place_of_marginnce():
    def decoupled(positive, negatives):
        """Without the positive in the denominator (Yeh et al. 2022)."""
        return jax.nn.logsumexp(negatives, axis=1) - positive

    _, other, (found,) = stepped(1, mask_unfilled=False, loss=decoupled)
    _, plain, (metrics,) = stepped(1, mask_unfilled=False)
    # With the positive in the denominator a loss x is softplus(x), which is convex.
    assert metrics["loss"] >= np.logaddexp(found["loss"], 0) - 1e-4
    assert metrics["loss"] > found["loss"]
    assert found["positive_cosine"] == metrics["positive_cosine"]
    changed = [
        np.abs(a - b).max()
        for a, b in zip(*map(jax.tree.leaves, (other.params, plain.params)))
    ]
    assert max(changed) > 0


def test_symmetric_takes_either_image_as_the_query_once():
    _, after, (first, *_) = stepped(1, symmetric=True, mask_unfilled=False, bn_groups=1)
    assert after.queue.filled.sum() == 32
    assert after.queue.identity[:32].tolist() == 2 * list(range(16))
    forth = stepped(1, mask_unfilled=False, bn_groups=1)
    back = usynthface.make(PEOPLE, **SMALL, mask_unfilled=False, bn_groups=1)
    swapped = batch()
    swapped |= {"image": swapped["positive"], "positive": swapped["image"]}
    _, metrics = jit(back.train_step)(forth[0], swapped, jax.random.key(0))
    both = (forth[2][0]["loss"] + float(metrics["loss"])) / 2
    assert first["loss"] == pytest.approx(both, rel=1e-4)
    np.testing.assert_allclose(
        after.queue.keys[:16], forth[1].queue.keys[:16], atol=1e-5
    )


def test_gradients_are_cut_to_a_length_only_where_that_is_asked_for():
    def length(clip_norm):
        options = {"mask_unfilled": False, "weight_decay": 0.0}
        state = stepped(1, clip_norm=clip_norm, **options)[1]
        leaves = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
        return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves))

    assert length(0.0) > 0.02  # as configurations have it: no clipping
    assert length(0.01) == pytest.approx(0.01, rel=1e-4)


def test_a_collapse_is_seen(monkeypatch):
    def alike(x):
        return jnp.zeros_like(x).at[:, 0].set(1.0)

    monkeypatch.setattr("fr_jax.systems.usynthface.system.unit", alike)
    system = usynthface.make(PEOPLE, **SMALL, margin=0.0)
    state = jit(system.init)(jax.random.key(0), batch())
    step = jit(system.train_step)
    for number in range(2):
        state, metrics = step(state, batch(), jax.random.key(number))
    assert metrics["embedding_spread"] < 1e-6
    assert metrics["positive_cosine"] == metrics["negative_cosine"] == 1
    assert metrics["loss"] == pytest.approx(float(metrics["chance_loss"]))


def test_a_projection_is_trained_and_left_behind():
    options = {"projection": {"features": 8, "hidden": 12}, "bn_groups": 1}
    system = usynthface.make(PEOPLE, **SMALL | options)
    state = jit(system.init)(jax.random.key(0), batch())
    assert state.queue.keys.shape == (128, 8)
    step = jit(system.train_step)
    after = state
    for number in range(2):
        after, _ = step(after, batch(), jax.random.key(number))
    moved = [
        np.abs(a - b).max()
        for a, b in zip(
            *(jax.tree.leaves(s.params["projection"]) for s in (state, after))
        )
    ]
    assert min(moved) > 0
    assert system.embed(after, batch())["embedding"].shape == (16, 16)
    network = system.hand_over(after)["embedding"]
    assert set(network.variables["params"]) == set(after.params["backbone"])


def test_the_score_that_is_watched_lowers_the_rate_and_stops_the_run():
    system = usynthface.make(
        PEOPLE,
        **SMALL,
        watch=("a/accuracy", "b/accuracy"),
        plateau={"patience": 1, "cooldown": 0, "stop_after": 4},
    )
    state = jit(system.init)(jax.random.key(0), batch())
    rates, stops = [], []
    step = jit(system.train_step)
    for score in (0.5, 0.6, 0.6, 0.6, 0.5, 0.5):
        metrics = {"a/accuracy": score - 0.1, "b:600/accuracy": score + 0.1}
        state, stop = system.feedback(state, metrics)
        state, metrics = step(state, batch(), jax.random.key(0))
        rates.append(float(metrics["learning_rate"]) / (0.1 * 16 / 512))
        stops.append(stop)
    np.testing.assert_allclose(rates, [1, 1, 1, 0.1, 0.1, 0.01], rtol=1e-5)
    assert stops == [False] * 5 + [True]
    with pytest.raises(UserError, match="metric to watch 'a/accuracy'"):
        system.feedback(state, {"b/accuracy": 1.0})


def test_a_run_in_parts_follows_the_plateau_as_the_run_in_one(tmp_path, monkeypatch):
    """To the bit: networks, queue, cursor, momentum, rate, what the plateau knows."""
    monkeypatch.setattr(cpu, "compiler_options", lambda: QUICK)
    monkeypatch.setattr(cpu, "quick_compilation", lambda: QUICK)
    system = usynthface.make(
        PEOPLE,
        **SMALL,
        watch=("toy/accuracy",),
        plateau={"patience": 0, "cooldown": 1, "threshold": 0.5},
    )
    rng = np.random.default_rng(0)
    places = rng.integers(0, 64, (40, 2))
    same = np.arange(40) % 2 == 0
    judged = EvaluationSet("toy", faces()["image"], places, same, np.arange(40) // 20)

    def run(folder, steps):
        return train.train(
            system,
            ArrayStream(faces(), 16, seed=0),
            tmp_path / folder,
            num_steps=steps,
            evaluation_sets=[judged],
            evaluate_every=2,
            log_every=2,
            save_every=5,
        ).state

    whole = run("whole", 9)
    for stop in (6, 9):  # the rate has fallen by then
        parts = run("parts", stop)
        assert float(parts.plateau.factor) < 1
    assert toy.same(parts, whole)
    assert (tmp_path / "parts/metrics.jsonl").read_text().count("learning_rate") == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bn_groups": 0}, "bn_groups is 0; use 1 or more"),
        ({"image_size": 5}, "image_size is 5; use 16 or more"),
        ({"temperature": 0.0}, "temperature is 0.0; use 0.001 or more"),
        ({"key_momentum": 1.5}, "key_momentum is 1.5; use 0 to 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; use 0 or more"),
        ({"accumulate": 0}, "accumulate is 0; use 1 or more"),
        ({"milestones": ("a",)}, "milestones: 'a' is no number"),
        ({"schedule": "platau"}, "did you mean 'plateau'"),
        ({"projection": "yes"}, "projection is 'yes'; use {'features': 128} or None"),
        ({"projection": {"features": 0}}, "the projection's features is 0; use 1"),
    ],
)
def test_numbers_that_make_no_sense(options, match):
    with pytest.raises(UserError, match=match):
        usynthface.make(PEOPLE, **SMALL | options)


def test_what_cannot_be_made():
    with pytest.raises(UserError, match="use queue_size <= 99, mask_identity=True"):
        usynthface.make(199, **SMALL, mask_identity=False)
    usynthface.make(199, **SMALL)
    usynthface.make(199, **SMALL, mask_identity=False, force=True)
    with pytest.raises(UserError, match="counts in epochs: give steps_per_epoch"):
        usynthface.make(PEOPLE, **SMALL, schedule="step")
    with pytest.raises(UserError, match="unknown queue policy 'simq'"):
        usynthface.make(PEOPLE, **SMALL, queue_policy="simq")
    with pytest.raises(UserError, match="did you mean 'patience'"):
        usynthface.make(PEOPLE, **SMALL, plateau={"patient": 1})
    with pytest.raises(UserError, match="did you mean 'hidden'"):
        usynthface.make(PEOPLE, **SMALL, projection={"hiden": 1})
    system = usynthface.make(PEOPLE, **SMALL)
    with pytest.raises(UserError, match="14 rows cannot be cut into 4 equal"):
        system.init(jax.random.key(0), batch(14))
    with pytest.raises(UserError, match="14 rows cannot be cut into 4 equal"):
        usynthface.make(PEOPLE, **SMALL, batch_size=14)
    with pytest.raises(UserError, match="112 keys a step into a queue of 100"):
        usynthface.make(PEOPLE, **SMALL, batch_size=56, symmetric=True)
    with pytest.raises(UserError, match="104 keys a step into a queue of 100"):
        system.init(jax.random.key(0), batch(104))
    with pytest.raises(UserError, match="unknown given network 'teacher'"):
        system.init(jax.random.key(0), batch(), {"teacher": {}})


if __name__ == "__main__":
    cpu.compiler_options = cpu.quick_compilation = lambda: QUICK
    print(json.dumps([trace(layout) for layout in ast.literal_eval(sys.argv[1])]))
