"""FRA: its step, its feedback, and equal numbers on every mesh.

Runs itself in a process with eight devices, which prints the compared numbers. The
trace of the published program is in tests/end_to_end/test_traces.py.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.optim.optimizers import Plateau
from fr_jax.system import Network
from fr_jax.systems import fra
from fr_jax.systems.fra.system import State
from fr_jax.training.batch_checks import check_batch
from fr_jax.training.data import Streams
from fr_jax.training.loop import train
from fr_jax.training.streams import GeneratedStream
from tests.support import steps, toy
from tests.support.devices import on_eight_devices
from tests.support.networks import random_variables
from tests.support.steps import distance, jit

pytestmark = pytest.mark.xdist_group("fra")  # they share compiled steps
NAMES = ("identity", "pose", "expression")
ROWS, SIZE = 8, 128
NETWORK = {"width": 0.125, "inner_size": 192, "vit_width": 32, "vit_depth": 1}
DATA = {"embedding_size": SIZE, "embedding_distance": 25.0, "embedding_norm": 17.0}
SMALL = {"network": NETWORK}
LAYOUTS = ((1, 1), (2, 4))  # devices on 'data' and 'model'
KEY = jax.random.key(0)


def make(**options):
    return fra.make(**DATA | SMALL | options)


def random_batch(key):
    keys = jax.random.split(key, 6)
    names = ("embedding", "target", *(f"negative_{name}" for name in NAMES))
    vectors = {
        name: jax.random.normal(one, (ROWS, SIZE)) for name, one in zip(names, keys)
    }
    maps = jax.random.bernoulli(keys[5], 0.05, (ROWS, 112, 112, 1))
    return vectors | {"landmarks": maps.astype(jnp.uint8)}


@functools.cache
def batch():
    return jit(random_batch)(KEY)


@functools.cache
def compiled():
    """Returns (system, initial state, train step, evaluation step)."""
    system = make(learning_rate=0.01)
    state = jit(system.init)(KEY, batch())
    return system, state, jit(system.train_step), jit(system.eval_step)


def trace(layout) -> dict[str, list]:
    """Losses of five steps with dropout, and the weights after them."""
    mesh, loss = steps.make_mesh(layout), []
    stream = GeneratedStream(random_batch, ROWS, mesh=mesh)
    system = make(optimizer={"learning_rate": 1e-4, "weight_decay": 0.0})
    first = []
    for state, metrics in steps.run(system, stream, mesh, 5):
        loss.append(metrics["loss"])
        if len(loss) == 1:
            first = steps.momentum(state.network.opt_state)  # moments: gradients
    head = np.asarray(state.network.params["adapter_out"]["kernel"])
    return {"loss": loss, "gradients": first, "head": head.ravel().tolist()}


@pytest.mark.long
def test_every_layout_of_devices_trains_alike():
    one, other = on_eight_devices("tests.systems.fra.test_system", LAYOUTS)
    whole, gradients = (np.concatenate(each["gradients"]) for each in (one, other))
    assert np.linalg.norm(whole) > 0
    assert distance(other["loss"][:1], one["loss"][:1]) < 1e-5
    assert distance(gradients, whole) < 1e-5
    assert distance(other["loss"], one["loss"]) < 1e-3
    assert distance(other["head"], one["head"]) < 1e-3


# --- a step -------------------------------------------------------------------------


def test_training_lowers_every_loss_with_adapters():
    _, state, step, evaluate = compiled()
    params = state.network.params
    assert params["adapter_in"]["kernel"].shape == (SIZE, 192)
    assert params["adapter_out"]["kernel"].shape == (192, SIZE)
    before = evaluate(state, batch(), KEY)
    for number in range(15):
        state, metrics = step(state, batch(), jax.random.key(number))
    after = evaluate(state, batch(), KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    for name in ("reconstruction_loss", *(f"{name}_triplet_loss" for name in NAMES)):
        assert after[name] < 0.95 * before[name], name
    assert after["target_cosine"] > before["target_cosine"] + 0.1
    assert int(state.network.updates) == 15
    assert metrics["learning_rate"] == pytest.approx(0.01)
    plateau = state.plateau._replace(factor=jnp.float32(0.5))
    lowered, metrics = step(state._replace(plateau=plateau), batch(), KEY)
    assert metrics["learning_rate"] == pytest.approx(0.005)
    whole, _ = step(state, batch(), KEY)
    start, half, full = (
        s.network.params["adapter_out"]["bias"] for s in (state, lowered, whole)
    )
    np.testing.assert_allclose(half - start, (full - start) / 2, rtol=1e-3, atol=1e-7)


def test_metrics_match_numpy_on_the_network_handed_over():
    system, state, _, evaluate = compiled()
    metrics = evaluate(state, batch(), KEY)
    network = system.hand_over(state)["augmenter"]
    assert (network.architecture, network.kind) == ("fra", "augmenter")
    assert network.options == {**NETWORK, "embedding_size": SIZE}
    assert network.input_spec.template == "landmark_box"
    model = models.create(network.architecture, **network.options)
    arrays = {name: np.asarray(x, np.float64) for name, x in batch().items()}
    maps = arrays["landmarks"]
    outputs = jit(model.apply)(
        network.variables, maps.astype(np.float32), batch()["embedding"]
    )
    generated = np.asarray(outputs["generated"], np.float64)

    def far(a, b):
        return np.linalg.norm(a - b + 1e-6, axis=1)

    p = np.asarray(outputs["reconstruction"], np.float64)
    total = -np.mean(maps * np.log(p) + (1 - maps) * np.log(1 - p))
    assert metrics["reconstruction_loss"] == pytest.approx(total, rel=1e-4)
    active = []
    for name in NAMES:
        negative = arrays[f"negative_{name}"]
        gap = far(generated, arrays["target"]) - far(generated, negative) + 10
        loss = np.maximum(gap, 0).mean()
        assert metrics[f"{name}_triplet_loss"] == pytest.approx(loss, rel=1e-4)
        active.append(gap > 0)
        total += loss
    assert metrics["loss"] == pytest.approx(total, rel=1e-4)
    triplets = metrics["loss"] - metrics["reconstruction_loss"]
    assert metrics["triplet_loss"] == pytest.approx(float(triplets), rel=1e-5)
    assert metrics["active_triplets"] == pytest.approx(np.mean(active))
    embedded = jax.eval_shape(system.embed, state, batch())["embedding"]
    assert embedded.shape == (ROWS, SIZE)
    with pytest.raises(UserError, match="FRA augments embeddings and embeds no image"):
        system.embed(state, {"image": np.zeros((1, 112, 112, 3), np.uint8)})


def test_evaluation_has_dropout_only_if_asked_for():
    _, state, step, evaluate = compiled()
    one, other = (evaluate(state, batch(), jax.random.key(k)) for k in (1, 2))
    assert all(one[name] == other[name] for name in one)
    noisy = jit(make(dropout_in_validation=True).eval_step)
    one, other = (noisy(state, batch(), jax.random.key(k)) for k in (1, 2))
    # Not of the reconstruction: the narrow decoder's last map may be inactive.
    assert one["pose_triplet_loss"] != other["pose_triplet_loss"]
    # Training has the dropout of that evaluation: its loss is before the update.
    _, trained = step(state, batch(), jax.random.key(1))
    assert trained["loss"] == pytest.approx(float(one["loss"]), rel=1e-5)


def test_losses_of_ones_own_are_weighted():
    """And the share of active triplets follows from the values of the loss."""

    def triplet(anchor, positive, negative, *, margin):
        del anchor, positive
        return jnp.where(negative[:, 0] > 0, margin, 0.0)

    def reconstruction(logits, maps):
        assert logits.shape == maps.shape == (ROWS, 112, 112, 1)
        return jnp.mean(maps, axis=(1, 2, 3))

    system = make(
        margin=3.0,
        triplet_loss=triplet,
        reconstruction_loss=reconstruction,
        weights={"reconstruction": 5.0, "pose": 2.0, "expression": 0.0},
    )
    _, state, _, _ = compiled()
    metrics = jit(system.eval_step)(state, batch(), KEY)
    maps = 5 * np.mean(batch()["landmarks"])
    positive = [np.mean(batch()[f"negative_{name}"][:, 0] > 0) for name in NAMES]
    expected = maps + 3 * positive[0] + 2 * 3 * positive[1]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["expression_triplet_loss"] == pytest.approx(3 * positive[2])
    assert metrics["active_triplets"] == pytest.approx(np.mean(positive))


@pytest.mark.parametrize(
    ("options", "norm", "expected"),
    [
        ({}, 17.0, 10.0),
        ({}, 1.0, 0.4 * 1.25),  # unit embeddings
        ({}, 101.0, 0.5),
        ({"margin": "published"}, 1.0, 10.0),
        ({"margin": "scaled"}, 17.0, 0.5),
        ({"margin": 0.2}, 17.0, 0.2),
    ],
)
def test_the_margin_follows_the_embeddings(options, norm, expected):
    margins = []

    def triplet(anchor, positive, negative, *, margin):
        margins.append(margin)
        return jnp.sum(anchor, axis=1)

    data = {"embedding_distance": 1.25, "embedding_norm": norm}
    system = make(**data, **options, triplet_loss=triplet)
    state = jax.eval_shape(system.init, KEY, {})
    jax.eval_shape(system.eval_step, state, batch(), KEY)
    assert margins == [pytest.approx(expected)] * 3


@pytest.mark.parametrize("kind", ["augmenter", "landmarks"])
def test_the_augmenter_is_saved_and_loaded(kind, tmp_path, monkeypatch):
    """Also a folder of 0.2.0, which named the kind by the input."""
    outputs = {"embeddings": np.ones((2, 1), np.float32)}  # the canary compiles long
    monkeypatch.setattr(Embedder, "_canary", lambda self: outputs)
    system, state, _, _ = compiled()
    network = system.hand_over(state)["augmenter"]
    Embedder(network._replace(kind=kind)).save(tmp_path)
    loaded = load_embedder(tmp_path, check=False).network
    assert toy.same(loaded.variables, network.variables)
    assert loaded._replace(variables=()) == network._replace(variables=())


# --- plateau, early stopping --------------------------------------------------------


def steered(losses, metric="validation/loss", **options):
    """Returns the factors of the rate and the decisions to stop after each loss."""
    feedback = make(**options).feedback
    state, factors, stops = State((), Plateau()), [], []
    for loss in losses:
        state, stop = feedback(state, {metric: loss})
        factors.append(float(state.plateau.factor))
        stops.append(stop)
    return factors, stops


def test_the_rate_is_halved_after_six_and_the_run_stops_after_fifteen_losses():
    losses = [3.0, 2.0] + 16 * [2.5]
    factors, stops = steered(losses)
    assert factors == 7 * [1] + 6 * [0.5] + 5 * [0.25]
    assert stops == 16 * [False] + 2 * [True]
    falling, stops = steered(np.linspace(5, 1, 60))
    assert set(falling) == {1.0} and not any(stops)


def test_the_published_plateau_follows_the_last_batch_and_never_stops():
    plateau = {"patience": 30, "min_factor": 1e-4, "stop_after": 0}
    options = {"optimizer": {"plateau": plateau}, "plateau_loss": "last"}
    factors, stops = steered(500 * [2.0], "validation/last_loss", **options)
    assert factors[30:33] == [1, 0.5, 0.5] and not any(stops)
    assert factors[-1] == pytest.approx(1e-4)  # 1e-7 of 1e-3


def test_other_schedules_keep_early_stopping_only_if_asked_for():
    factors, stops = steered(17 * [2.0], schedule="constant")
    assert set(factors) == {1.0} and stops.index(True) == 15
    plateau = {"stop_after": 0}
    assert make(schedule="constant", optimizer={"plateau": plateau}).feedback is None
    with pytest.raises(UserError, match="metric 'validation/loss' of the plateau"):
        steered([1.0], metric="lfw/accuracy")


@pytest.mark.long
def test_a_resumed_run_follows_the_plateau_of_the_last_batch(
    tmp_path, quick_compilation
):
    """Bit for bit; and the last loss is that of the last batch, not a mean."""
    system = make(
        plateau_loss="last",
        optimizer={"plateau": {"patience": 0, "threshold": 0.9}},
    )

    def run(folder, num_steps):
        training, validation = (GeneratedStream(random_batch, ROWS) for _ in range(2))
        return train(
            system,
            Streams(training, validation),
            tmp_path / folder,
            num_steps=num_steps,
            evaluate_every=1,
            validation_steps=2,
            log_every=1,
            save_every=2,
        ).state

    with pytest.MonkeyPatch.context() as patch:
        steps.compile_once(patch)
        whole = run("whole", 3)
        for stop in (2, 3):
            parts = run("parts", stop)
    assert float(parts.plateau.factor) == 0.25  # two evaluations without progress
    assert toy.same(parts, whole)
    lines = (tmp_path / "parts/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "validation/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    stream = GeneratedStream(random_batch, ROWS)
    losses = [
        float(compiled()[3](whole, stream.batch_at(number), KEY)["loss"])
        for number in range(2)
    ]
    assert rows[-1]["validation/last_loss"] == pytest.approx(losses[1], rel=1e-4)
    assert rows[-1]["validation/loss"] == pytest.approx(np.mean(losses), rel=1e-4)


# --- pretrained networks ------------------------------------------------------------


def start(**options):
    options = {**NETWORK, "embedding_size": SIZE, **options}
    return Network("fra", options, (), InputSpec(), "augmenter")


def test_the_network_starts_from_given_variables():
    system = make(pretrained={"init": start(dropout=0.1, decoder="sane")})
    model = models.create("fra", **NETWORK, embedding_size=SIZE)
    given = {"init": random_variables(model, 112)}
    state = jit(system.init)(KEY, {}, given)
    assert toy.same(system.hand_over(state)["augmenter"].variables, given["init"])


@pytest.mark.parametrize(
    ("match", "given"),
    [
        ("augments embeddings of 512 values, .* have 128", start(embedding_size=512)),
        ("set --config.system.network.positions=33$", start(positions=33)),
        ("needs one of kind 'augmenter'", Network("iresnet18", {}, (), InputSpec())),
    ],
)
def test_other_starts_are_refused(match, given):
    with pytest.raises(UserError, match=match):
        make(pretrained={"init": given})


def test_the_optimizer_may_be_sgd():
    system = make(optimizer={"name": "sgd", "momentum": 0.0, "weight_decay": 0.0})
    state = jax.eval_shape(system.init, KEY, {})
    assert len(jax.tree.leaves(state.network.opt_state)) < 5  # Adam: two per parameter


# --- invalid arguments --------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("unknown margin 'publishd'; did you mean", {"margin": "publishd"}),
        ("margin is -1; use 0 or more", {"margin": -1}),
        ("unknown triplet loss 'triplet'; did you", {"triplet_loss": "triplet"}),
        ("'clamped_cross_entropy'", {"reconstruction_loss": "clamped"}),
        ("unknown weight 'bce' of a loss", {"weights": {"bce": 1.0}}),
        ("weight of pose is -1; use 0 or more", {"weights": {"pose": -1}}),
        ("unknown plateau_loss 'first'", {"plateau_loss": "first"}),
        ("did you mean 'dropout'", {"network": {"dropot": 0.1}}),
        ("that of the embedder: leave it", {"network": {"embedding_size": 512}}),
        ("embedding_size is 0; use 1 or more", {"embedding_size": 0}),
        ("embedding_distance is 0", {"embedding_distance": 0}),
        ("did you mean 'patience'", {"optimizer": {"plateau": {"patient": 1}}}),
        ("schedule 'cosin'; did you mean", {"schedule": "cosin"}),
        ("unknown given network 'teacher'", {"pretrained": {"teacher": start()}}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        make(**options)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (
            "'landmarks' of a batch has 255, expected 0 to 1$",
            {"landmarks": np.full((8, 112, 112, 1), 255, np.uint8)},
        ),
        (r"expected float32 \(any, 128\)", {"target": np.zeros((8, 512), "f4")}),
        ("no 'negative_pose', which the system", {"negative_pose": None}),
    ],
)
def test_unexpected_batches_are_refused(match, changes):
    arrays = {name: np.asarray(x) for name, x in batch().items()} | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=match):
        check_batch(make().expects, arrays)


if __name__ == "__main__":
    steps.print_traces(trace)
