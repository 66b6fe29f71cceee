"""USynthFace: its step, and equal numbers on every mesh.

Runs itself in a process with eight devices, which prints the compared numbers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.evaluation.verification import Verification
from fr_jax.models.preprocess import InputSpec, normalise
from fr_jax.optim.ema import ema
from fr_jax.system import Network
from fr_jax.systems import usynthface
from fr_jax.training.batch_checks import check_batch, check_batch_size, check_stream
from fr_jax.training.data import Streams
from fr_jax.training.loop import train
from fr_jax.training.streams import ArrayStream
from tests.support import steps, toy
from tests.support import usynthface as small
from tests.support.devices import on_eight_devices
from tests.support.networks import random_variables
from tests.support.steps import distance, jit, largest_change
from tests.support.usynthface import SMALL, UNMASKED, Compiled, batch

pytestmark = pytest.mark.xdist_group("usynthface")  # they share compiled steps
LAYOUTS = ((1, 1), (2, 4))  # devices on 'data' and 'model'
MORE_LAYOUTS = ((1, 1), (8, 1))
STEPS = 10


@functools.cache
def fast():
    """Large updates of the query, and a key network that follows quickly."""
    return Compiled(key_momentum=0.5, optimizer={"learning_rate": 1.0})


@functools.cache
def unmasked():
    """The first step has negatives, and the momentum buffer is the gradient."""
    return Compiled(**UNMASKED, optimizer={"weight_decay": 0.0})


def trace(layout) -> dict[str, list]:
    """Losses of ten steps, and after the first: gradients (the momentum buffer)."""
    mesh, loss = steps.make_mesh(layout), []
    stream = ArrayStream(small.faces(), 32, seed=0, mesh=mesh)
    for state, metrics in steps.run(small.calm(), stream, mesh, STEPS):
        loss.append(metrics["loss"])
        if len(loss) == 1:
            shards = state.queue.keys.sharding
            assert shards.shard_shape((128, 16)) == (128 // layout[1], 16)
            gradients = steps.momentum(state.query.opt_state)
    queue = np.asarray(state.queue.keys)
    assert (queue[100:] == 0).all()  # padding holds no key
    return {
        "loss": loss,
        "gradients": gradients,
        "queue": queue.ravel().tolist(),
        "filled": np.asarray(state.queue.filled).tolist(),
    }


@pytest.mark.parametrize(
    "layouts",
    [LAYOUTS, pytest.param(MORE_LAYOUTS, marks=pytest.mark.long)],
    ids=["few", "more"],
)
def test_every_layout_of_devices_trains_alike(layouts):
    """With four BatchNorm groups, the queue whole and in four shards."""
    one, *others = on_eight_devices("tests.systems.usynthface.test_system", layouts)
    whole = np.concatenate(one["gradients"])
    assert np.linalg.norm(whole) > 0
    assert sum(one["filled"]) == 100
    for layout, other in zip(layouts[1:], others, strict=True):
        assert distance(other["loss"][:1], one["loss"][:1]) < 1e-5, layout
        gradients = np.concatenate(other["gradients"])
        assert distance(gradients, whole) < 1e-5, layout
        assert distance(other["loss"], one["loss"]) < 1e-3, layout
        assert distance(other["queue"], one["queue"]) < 1e-3, layout
        assert other["filled"] == one["filled"]


# --- a step -------------------------------------------------------------------------


def test_the_key_network_follows_and_its_keys_are_enqueued():
    before, once, after = fast().run(2).states
    for start, query, key in zip(
        *map(
            jax.tree.leaves, (before.query.params, after.query.params, after.key_params)
        )
    ):
        assert start.shape == query.shape == key.shape
    # Updated before each key forward: first with the initial weights, which change
    # nothing, then with those after one update.
    expected = ema(before.query.params, once.query.params, 0.5)
    for actual, value in zip(*map(jax.tree.leaves, (after.key_params, expected))):
        np.testing.assert_allclose(actual, value, atol=1e-6)
    assert max(largest_change(after.key_params, before.key_params)) > 0
    assert int(after.queue.cursor) == 32
    assert after.queue.filled.sum() == 32
    assert after.queue.identity[:32].tolist() == 2 * list(range(16))
    lengths = np.linalg.norm(after.queue.keys[:100], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert int(after.query.updates) == 2


def test_metrics_of_the_first_steps():
    first, second, *_, last = fast().run(8).metrics
    assert first["loss"] == first["chance_loss"] == 0  # nothing is enqueued yet
    assert first["valid_negatives"] == 0
    assert second["valid_negatives"] == 15  # of 16; one has the query's identity
    assert second["chance_loss"] == pytest.approx(np.log(16))
    assert second["queue_fill"] == pytest.approx(0.32)
    assert last["queue_fill"] == 1
    # 100 keys of 16 identities: 6 or 7 have the query's.
    assert 93 < last["valid_negatives"] < 94
    assert 0 <= second["top1"] <= second["top5"] <= 1
    assert 0 < second["embedding_spread"] < 1
    assert second["negative_cosine"] < second["positive_cosine"] <= 1
    assert second["learning_rate"] == pytest.approx(16 / 512)  # in proportion


COUNTS = ("valid_negatives", "queue_fill", "chance_loss")


def test_unfilled_rows_are_masked_or_not():
    actual = small.metrics_of(small.make(**UNMASKED), small.initial(), COUNTS)
    assert actual["valid_negatives"] == 100
    assert actual["queue_fill"] == pytest.approx(0.16)
    assert actual["chance_loss"] == pytest.approx(np.log(101), rel=1e-5)


def test_keys_of_the_querys_identity_are_masked_or_not():
    system, state = small.make(queue={"mask_identity": False}), fast().run(1).states[1]
    actual = small.metrics_of(system, state, COUNTS)
    assert actual["valid_negatives"] == 16
    assert actual["chance_loss"] == pytest.approx(np.log(17))


def test_keys_are_shuffled_over_the_groups_and_restored(monkeypatch):
    """Key i belongs to image i, but was normalised with other images."""
    order = np.random.default_rng(5).permutation(16)
    monkeypatch.setattr(jax.random, "permutation", lambda key, count: jnp.array(order))
    shuffled = small.queue_after(small.make(), small.initial(), batch())
    in_order = jit(
        lambda data: (
            small.make(shuffle_keys=False)
            .train_step(small.initial(), data, small.KEY)[0]
            .queue
        )
    )
    plain = in_order(batch())
    moved = batch() | {"positive": batch()["positive"][order]}
    actual, expected = shuffled.keys[:16], in_order(moved).keys[:16]
    np.testing.assert_allclose(actual[order], expected, atol=1e-5)
    assert np.abs(actual - plain.keys[:16]).max() > 0.1
    assert shuffled.identity[:16].tolist() == list(range(16))


def test_bn_first_group_keeps_the_statistics_of_the_first_group():
    """As in the published program, on several devices; nothing else changes."""
    options = {"backbone_options": {"bn_first_group": True}}
    of_first = Compiled(**UNMASKED, **options, optimizer={"weight_decay": 0.0})
    before, after = (state.query for state in of_first.run().states)
    metrics = of_first.run().metrics[0]
    usual, other = unmasked().run().states[1].query, unmasked().run().metrics[0]
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
    for actual, expected, averaged, of_all in zip(
        *map(jax.tree.leaves, (after.batch_stats, groups[0], usual.batch_stats, mean))
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(averaged, of_all, rtol=1e-4, atol=1e-6)
    assert max(largest_change(after.batch_stats, usual.batch_stats)) > 0.05
    assert metrics == pytest.approx(other, rel=1e-5)
    for actual, expected in zip(*map(jax.tree.leaves, (after.params, usual.params))):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    network = of_first.system.hand_over(of_first.run().states[1])["embedding"]
    assert toy.same(network.variables["batch_stats"], after.batch_stats)
    assert set(network.options) == set(SMALL["backbone_options"])


def decoupled(positive, negatives):
    """Without the positive in the denominator (Yeh et al., ECCV 2022)."""
    return jax.nn.logsumexp(negatives, axis=1) - positive


def test_a_custom_loss_trains():
    own = Compiled(loss=decoupled, **UNMASKED, optimizer={"weight_decay": 0.0})
    other, plain = own.run().states[1].query, unmasked().run().states[1].query
    actual, metrics = own.run().metrics[0], unmasked().run().metrics[0]
    # With the positive in the denominator a loss x is softplus(x), which is convex.
    assert metrics["loss"] >= np.logaddexp(actual["loss"], 0) - 1e-4
    assert metrics["loss"] > actual["loss"]
    assert actual["positive_cosine"] == metrics["positive_cosine"]
    assert max(largest_change(other.params, plain.params)) > 0
    later = own.run(8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(later.states[-1]))
    # Its loss on the enqueued keys is lower than that of the initial network.
    start = later.states[-1]._replace(query=later.states[0].query)
    loss = functools.partial(small.metrics_of, own.system, names=("loss",))
    assert loss(later.states[-1])["loss"] < loss(start)["loss"]


def test_a_loss_that_needs_negatives_trains_from_the_first_step():
    """Without negatives a plain contrastive loss is minus infinity, or not a number."""
    own = Compiled(loss=decoupled, optimizer={"weight_decay": 0.0}, queue={"size": 100})
    run = own.run(3)
    first, second, _ = run.metrics
    assert (first["valid_negatives"], first["loss"], first["top1"]) == (0, 0, 1)
    before, after = (state.query.params for state in run.states[:2])
    assert max(largest_change(before, after)) == 0
    assert second["valid_negatives"] > 0
    assert second["loss"] != 0
    assert max(largest_change(after, run.states[2].query.params)) > 0
    for values in (*run.metrics, *map(jax.tree.leaves, run.states)):
        values = values.values() if isinstance(values, dict) else values
        assert all(np.isfinite(value).all() for value in values)


def test_symmetric_uses_each_image_as_the_query_once():
    one_group = {"backbone_options": {"bn_groups": 1}}
    both_ways = small.make(**UNMASKED, **one_group, symmetric=True)
    one_way = small.make(**UNMASKED, **one_group)

    def forward(system):
        def queue_and_loss(data):
            state, metrics = system.train_step(small.initial(), data, small.KEY)
            return state.queue, metrics["loss"]

        return jit(queue_and_loss)

    queue, loss = forward(both_ways)(batch())
    assert queue.filled.sum() == 32
    assert queue.identity[:32].tolist() == 2 * list(range(16))
    once = forward(one_way)
    swapped = batch()
    swapped |= {"image": swapped["positive"], "positive": swapped["image"]}
    (forth, first), (_, second) = once(batch()), once(swapped)
    assert float(loss) == pytest.approx(float(first + second) / 2, rel=1e-4)
    # The keys of the positives come last: the images are the second queries.
    np.testing.assert_allclose(queue.keys[:16], forth.keys[:16], atol=1e-5)


def test_gradients_are_clipped_only_on_request():
    def length(state):
        leaves = steps.momentum(state.query.opt_state)
        return np.linalg.norm(np.concatenate(leaves))

    assert length(unmasked().run().states[1]) > 0.02  # no clipping by default
    options = {"weight_decay": 0.0, "clip_norm": 0.01}
    clipped = Compiled(**UNMASKED, optimizer=options)
    start = jit(clipped.system.init)(small.KEY, batch())
    after = clipped.run(state=start).states[1]
    assert length(after) == pytest.approx(0.01, rel=1e-4)


def test_a_collapse_shows_in_the_metrics(monkeypatch):
    def constant(x):
        return jnp.zeros_like(x).at[:, 0].set(1.0)

    monkeypatch.setattr("fr_jax.systems.usynthface.system.unit", constant)
    system = small.make(loss_options={"margin": 0.0})
    queue = small.queue_after(system, small.initial(), batch())
    state = small.initial()._replace(queue=queue)
    names = ("embedding_spread", "positive_cosine", "negative_cosine", "loss")
    metrics = small.metrics_of(system, state, (*names, "chance_loss"))
    assert metrics["embedding_spread"] < 1e-6
    assert metrics["positive_cosine"] == metrics["negative_cosine"] == 1
    assert metrics["loss"] == pytest.approx(float(metrics["chance_loss"]))
    assert metrics["loss"] > 2


def test_a_projection_is_trained_and_not_handed_over():
    options = {"projection": {"features": 8, "hidden": 12}}
    projected = Compiled(**options, backbone_options={"bn_groups": 1})
    start = jit(projected.system.init)(small.KEY, batch())
    assert start.queue.keys.shape == (128, 8)
    state = projected.run(2, start).states[-1]
    params = [s.query.params["projection"] for s in (start, state)]
    assert min(largest_change(*params)) > 0
    embedded = jax.eval_shape(projected.system.embed, state, batch())
    assert embedded["embedding"].shape == (16, 16)
    network = projected.system.hand_over(state)["embedding"]
    assert set(network.variables["params"]) == set(state.query.params["backbone"])


def test_the_network_starts_from_given_variables():
    options = {**SMALL["backbone_options"], "bn_groups": 4}
    model = models.create(SMALL["backbone"], **options)
    given = {"init": random_variables(model, 16)}
    system = small.make()
    state = jit(system.init)(small.KEY, batch(), given)
    handed_over = system.hand_over(state)["embedding"]
    assert toy.same(handed_over.variables, given["init"])
    assert toy.same(state.key_params["backbone"], given["init"]["params"])
    other = random_variables(models.create("iresnet18", width=0.25), 16)
    with pytest.raises(UserError, match="weights given as 'init': .*, this network"):
        jax.eval_shape(system.init, small.KEY, batch(), {"init": other})


def test_colour_order_and_scale_of_the_start_are_taken_over():
    spec = InputSpec(size=32, colour="BGR", mean=0.0, scale=255.0)
    start = Network("iresnet18", SMALL["backbone_options"], (), spec)
    system = small.make(pretrained={"init": start})
    state = jax.eval_shape(system.init, small.KEY, batch())
    handed_over = system.hand_over(state)["embedding"].input_spec
    assert handed_over == InputSpec(size=16, colour="BGR", mean=0.0, scale=255.0)


@pytest.mark.parametrize(
    "spec",
    [InputSpec(112, crop=(112, 96)), InputSpec(16, colour="GREY")],
    ids=["a crop", "grey"],
)
def test_a_start_with_another_kind_of_image_is_refused(spec):
    start = Network("iresnet18", SMALL["backbone_options"], (), spec)
    height, width, _ = spec.shape
    both = f"{height}x{width} {spec.colour}.* this system trains with 16x16 RGB"
    with pytest.raises(UserError, match=both):
        small.make(pretrained={"init": start})


# --- plateau ------------------------------------------------------------------------


def test_the_plateau_lowers_the_rate_and_stops_the_run():
    system = small.make(
        plateau_metrics=("a/accuracy", "b/accuracy"),
        optimizer={
            "schedule": "plateau",
            "plateau": {"patience": 1, "cooldown": 0, "stop_after": 4},
        },
    )
    state, rates, stops = small.initial(), [], []
    step = jit(lambda s: system.train_step(s, batch(), small.KEY)[1]["learning_rate"])
    for score in (0.5, 0.6, 0.6, 0.6, 0.5, 0.5):
        metrics = {"a/accuracy": score - 0.1, "b:600/accuracy": score + 0.1}
        state, stop = system.feedback(state, metrics)
        rates.append(float(step(state)) / (0.1 * 16 / 512))
        stops.append(stop)
    np.testing.assert_allclose(rates, [1, 1, 1, 0.1, 0.1, 0.01], rtol=1e-5)
    assert stops == [False] * 5 + [True]
    with pytest.raises(UserError, match="metric 'a/accuracy' of the plateau"):
        system.feedback(state, {"b/accuracy": 1.0})


def test_other_schedules_stop_with_the_score_but_keep_their_rate():
    system = small.make(
        plateau_metrics=("a/accuracy",),
        optimizer={"plateau": {"patience": 0, "cooldown": 0, "stop_after": 2}},
    )
    state, stops = small.initial(), []
    for score in (0.5, 0.4, 0.3):
        state, stop = system.feedback(state, {"a/accuracy": score})
        stops.append(stop)
    assert stops == [False, False, True] and state.plateau.factor == 1


def test_without_plateau_metrics_there_is_no_feedback():
    assert small.make().feedback is None


def test_a_resumed_run_follows_the_plateau_like_an_uninterrupted_one(
    tmp_path, quick_compilation
):
    """Bit for bit: networks, queue, cursor, momentum, rate, plateau."""
    plateau = {"patience": 0, "cooldown": 1, "threshold": 0.5}
    system = small.make(
        plateau_metrics=("toy/accuracy",),
        optimizer={"schedule": "plateau", "plateau": plateau},
    )
    pairs = np.random.default_rng(0).integers(0, 64, (40, 2))
    same, folds = np.arange(40) % 2 == 0, np.arange(40) // 20
    evaluator = Verification("toy", small.faces()["image"], pairs, same, folds)

    def run(folder, num_steps):
        stream = ArrayStream(small.faces(), 16, seed=0)
        return train(
            system,
            Streams(stream, evaluators=[evaluator]),
            tmp_path / folder,
            num_steps=num_steps,
            evaluate_every=2,
            log_every=2,
            save_every=5,
        ).state

    with pytest.MonkeyPatch.context() as patch:
        steps.compile_once(patch)
        whole = run("whole", 9)
        for stop in (6, 9):  # the rate has fallen by then
            parts = run("parts", stop)
            assert float(parts.plateau.factor) < 1
    assert toy.same(parts, whole)
    assert (tmp_path / "parts/metrics.jsonl").read_text().count("learning_rate") == 5


# --- invalid arguments --------------------------------------------------------------

OTHER = Network("iresnet18", {}, (), InputSpec(size=16))


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("bn_groups is 0; use 1 or more", {"backbone_options": {"bn_groups": 0}}),
        ("image_size is 5; use 16 or more", {"image_size": 5}),
        (
            "temperature is 0.0; use 0.001 or more",
            {"loss_options": {"temperature": 0.0}},
        ),
        ("did you mean 'temperature'", {"loss_options": {"temperatur": 0.1}}),
        ("contrastive loss 'margin_nc'; did you mean", {"loss": "margin_nc"}),
        ("key_momentum is 1.5; use 0 to 1", {"key_momentum": 1.5}),
        ("clip_norm is -1.0; use 0 or more", {"optimizer": {"clip_norm": -1.0}}),
        ("accumulate is 0; use 1 or more", {"optimizer": {"accumulate": 0}}),
        ("reference_batch is 0; use 1", {"optimizer": {"reference_batch": 0}}),
        ("milestones: 'a' is not a number", {"optimizer": {"milestones": ("a",)}}),
        ("unknown schedule 'platau'", {"optimizer": {"schedule": "platau"}}),
        ("needs evaluation metrics: name them", {"optimizer": {"schedule": "plateau"}}),
        ("did you mean 'patience'", {"optimizer": {"plateau": {"patient": 1}}}),
        ("counts in epochs: give steps_per_epoch", {"optimizer": {"schedule": "step"}}),
        (
            "projection is 'yes'; use {'features': 128} or None",
            {"projection": "yes"},
        ),
        ("projection's features is 0; use 1", {"projection": {"features": 0}}),
        ("did you mean 'hidden'", {"projection": {"hiden": 1}}),
        ("queue policy 'simq'; did you mean 'simQ'", {"queue": {"policy": "simq"}}),
        ("the queue's size is 0; use 1", {"queue": {"size": 0}}),
        ("margin is -1; use 0 to 2", {"loss_options": {"margin": -1}}),
        ("learning_rate is -0.1; use 0", {"learning_rate": -0.1}),
        ("schedule 'cosin'; did you mean", {"schedule": "cosin"}),
        ("option 'sizes' of the queue", {"queue": {"sizes": 100}}),
        ("unknown given network 'teacher'", {"pretrained": {"teacher": OTHER}}),
        ("unknown augmentation 'crp'", {"augmentation": (("crp", {}),)}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        small.make(**options)


def test_a_queue_of_more_keys_than_half_the_identities_must_be_masked_or_forced():
    def queue(**options):
        return {"queue": {"size": 100, **options}}

    with pytest.raises(UserError, match="use size <= 99, mask_identity=True"):
        usynthface.make(199, **SMALL | queue(mask_identity=False))
    usynthface.make(199, **SMALL)
    usynthface.make(199, **SMALL | queue(mask_identity=False, force=True))


def test_init_refuses_unknown_networks_and_batches_above_the_queue():
    init = functools.partial(jax.eval_shape, small.make().init, small.KEY)
    with pytest.raises(UserError, match="unknown given network 'teacher'"):
        init(batch(), {"teacher": {}})
    with pytest.raises(UserError, match="104 keys a step exceed a queue of 100"):
        init(batch(104))
    both = small.make(symmetric=True).init
    with pytest.raises(UserError, match="112 keys a step exceed a queue of 100"):
        jax.eval_shape(both, small.KEY, batch(56))


# --- batches ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("no 'positive', which the system needs", {"positive": None}),
        ("'label' of a batch has 300, expected -1 to 299", {"label": 300}),
        ("'label' of a batch has -2", {"label": -2}),
        ("'image' of a batch is float32", {"image": np.zeros((16, 8, 8, 3), "f4")}),
        ("is uint8 .16, 8, 8, 1., expected", {"image": np.zeros((16, 8, 8, 1), "u1")}),
        ("'seed' of a batch is int64", {"seed": np.arange(16)}),
    ],
)
def test_unexpected_batches_are_refused(match, changes):
    arrays = small.seeded_faces(16)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        elif isinstance(change, int):
            arrays[name] = np.full(16, change, np.int32)
        else:
            arrays[name] = change
    with pytest.raises(UserError, match=match):
        check_batch(small.make().expects, arrays)


def test_expected_batches_are_accepted():
    unknown = np.full(16, -1, np.int32)
    check_batch(small.make().expects, small.seeded_faces(16) | {"label": unknown})


def test_the_batch_is_a_multiple_of_the_groups():
    expects = small.make().expects
    check_batch_size(expects, 16)
    with pytest.raises(UserError, match="a batch of 14 rows: 'image' .* multiple of 4"):
        check_batch_size(expects, 14)
    check_batch_size(small.make(backbone_options={"bn_groups": 1}).expects, 14)


def test_a_stream_of_more_identities_is_refused():
    arrays = small.faces() | {"label": np.arange(290, 354, dtype=np.int32)}
    with pytest.raises(UserError, match="'label' of the data has 353, .* 300 classes"):
        check_stream(small.make().expects, ArrayStream(arrays, 16))


if __name__ == "__main__":
    steps.print_traces(trace)
