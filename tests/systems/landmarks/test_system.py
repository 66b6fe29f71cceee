"""The landmark regressor: its step, what it hands over, equal numbers on every mesh.

Runs itself in a process with eight devices, which prints the compared numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.models.landmarks import to_pixels, to_shares
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems import landmarks
from fr_jax.training.batch_checks import check_batch
from fr_jax.training.streams import ArrayStream
from tests.support import landmark_faces, steps, toy
from tests.support.devices import on_eight_devices
from tests.support.networks import random_variables
from tests.support.steps import distance, jit

LAYOUTS = ((1, 1), (8, 1))
SMALL = {
    "backbone_options": {"width": 0.125},
    "image_size": 32,
    "optimizer": {"schedule": "constant", "learning_rate": 0.01},
    "augmentation": (),
}
KEY = jax.random.key(0)


def batch(rows=16):
    arrays = landmark_faces.arrays(rows)
    arrays["seed"] = np.arange(rows, dtype=np.uint32)
    return {name: jnp.asarray(a) for name, a in arrays.items() if name != "label"}


def trained(head, num_steps):
    options = SMALL["backbone_options"] | {"head": head}
    system = landmarks.make(**SMALL | {"backbone_options": options})
    state = jit(system.init)(KEY, batch())
    step, losses, errors = jit(system.train_step), [], []
    for number in range(num_steps):
        state, metrics = step(state, batch(), jax.random.key(number))
        losses.append(float(metrics["loss"]))
        errors.append(float(metrics["error"]))
    return system, state, losses, errors


@pytest.fixture(scope="module")
def dense():
    return trained("dense", 60)


# --- training -----------------------------------------------------------------------


def test_the_loss_falls(dense):
    _, state, losses, errors = dense
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert np.mean(errors[-5:]) < 0.5 * errors[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert int(state.updates) == 60


def test_the_loss_falls_with_heatmaps():
    _, _, losses, _ = trained("heatmap", 60)
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def trace(layout) -> dict[str, list]:
    """Losses of five steps, and after the first: gradients (the momentum buffer)."""
    optimizer = {"name": "sgd", "schedule": "constant", "weight_decay": 0.0}
    optimizer["learning_rate"] = 1e-4
    augmentation = (("grey", {"probability": 0.5}), ("cover", {}))
    # BatchNorm over the last maps of fewer or smaller images magnifies rounding.
    changes = {"optimizer": optimizer, "augmentation": augmentation, "image_size": 64}
    system = landmarks.make(**SMALL | changes)
    mesh, loss = steps.make_mesh(layout), []
    stream = ArrayStream(landmark_faces.arrays(64), 64, seed=0, mesh=mesh)
    for state, metrics in steps.run(system, stream, mesh, 5):
        loss.append(metrics["loss"])
        if len(loss) == 1:
            gradients = steps.momentum(state.opt_state)
    return {"loss": loss, "gradients": gradients}


@pytest.mark.long
def test_every_layout_of_devices_trains_alike():
    program = "tests.systems.landmarks.test_system"
    one, other = on_eight_devices(program, LAYOUTS)
    whole = np.concatenate(one["gradients"])
    assert np.linalg.norm(whole) > 0
    assert distance(other["loss"][:1], one["loss"][:1]) < 1e-5
    assert distance(np.concatenate(other["gradients"]), whole) < 1e-5
    assert distance(other["loss"], one["loss"]) < 1e-3


# --- networks -----------------------------------------------------------------------


def test_the_regressor_is_saved_and_gives_the_same_points(dense, tmp_path):
    system, state, _, _ = dense
    network = system.hand_over(state)["landmarks"]
    assert network.kind == "landmarks"
    embedder = Embedder(network, batch_size=8)
    embedder.save(tmp_path)
    loaded = load_embedder(tmp_path, batch_size=8)
    images = landmark_faces.arrays(11)["image"]
    points = loaded.points(images)
    assert points.shape == (11, 68, 2) and points.dtype == np.float32
    np.testing.assert_array_equal(points, embedder.points(images))
    assert loaded.network.input_spec == InputSpec(size=32)
    outputs = system.embed(state, {"image": jnp.asarray(images)})["embedding"]
    np.testing.assert_allclose(points, to_pixels(outputs, 48, 48), atol=1e-2)
    # In pixels of the crop: of one twice as large, the same places.
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(loaded.points(large), 2 * points + 0.5, atol=2.0)
    with pytest.raises(UserError, match="kind 'landmarks' .* gives no embeddings"):
        loaded.embed(images)


def test_other_networks_have_no_points():
    options = {"stage_sizes": (1,), "width": 0.125, "embedding_size": 16}
    variables = random_variables(models.create("iresnet18", **options), 16)
    other = Embedder(Network("iresnet18", options, variables, InputSpec(size=16)))
    with pytest.raises(UserError, match="kind 'embedding' .* gives no landmarks"):
        other.points(np.zeros((1, 16, 16, 3), np.uint8))


def test_outputs_are_shares_of_the_side():
    points = jnp.asarray(landmark_faces.arrays(3)["landmarks68"])
    shares = to_shares(points, 48)
    assert shares.shape == (3, 136)
    np.testing.assert_allclose(to_pixels(shares, 48, 48), points, atol=1e-4)
    corner = jnp.tile(jnp.array([[-0.5, 0.5]]), (1, 68))
    expected = np.tile(np.array([-0.5, 23.5]), (1, 68, 1))  # edges of the crop
    np.testing.assert_allclose(to_pixels(corner, 24, 10), expected)


@pytest.mark.parametrize("size", [112, 50])
@pytest.mark.parametrize("head", ["dense", "heatmap"])
def test_the_network_takes_crops_of_every_size(head, size):
    model = models.create("landmark_regressor", width=0.25, head=head)
    image = jnp.zeros((2, size, size, 3))
    outputs, _ = jax.eval_shape(model.init_with_output, KEY, image)
    assert outputs.shape == (2, 136)


def test_the_network_starts_from_given_variables():
    options = SMALL["backbone_options"]
    given = random_variables(models.create("landmark_regressor", **options), 32)
    start = Network("landmark_regressor", options, (), InputSpec(size=32), "landmarks")
    system = landmarks.make(**SMALL, pretrained={"init": start})
    state = jit(system.init)(KEY, {}, {"init": given})
    assert toy.same(system.hand_over(state)["landmarks"].variables, given)


# --- invalid arguments --------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("loss 'wng'; did you mean 'wing'", {"loss": "wng"}),
        ("unknown option 'widht'", {"loss_options": {"widht": 3.0}}),
        ("unknown option 'shfit' of crop", {"crop": {"shfit": 0.1}}),
        ("crop.margin is 0.1; use 0.5", {"crop": {"margin": 0.1}}),
        ("crop.shift is -1; use 0", {"crop": {"shift": -1}}),
        ("'flip' moves pixels and not land", {"augmentation": (("flip", {}),)}),
        ("unknown augmentation 'blurr'", {"augmentation": (("blurr", {}),)}),
        ("image_size is 8; use 16", {"image_size": 8}),
        ("ends with the run: give num_s", {"optimizer": {"schedule": "cosine"}}),
        (
            "kind 'embedding' .* needs one of kind 'landmarks'",
            {"pretrained": {"init": Network("mbf", {}, (), InputSpec())}},
        ),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        landmarks.make(**SMALL | options)


def test_a_network_without_136_outputs_is_refused():
    options = {"stage_sizes": (1,), "width": 0.125, "embedding_size": 16}
    changes = {"backbone": "iresnet18", "backbone_options": options}
    system = landmarks.make(**SMALL | changes)
    with pytest.raises(UserError, match="16 outputs, landmarks need 136"):
        jax.eval_shape(system.init, KEY, {})


def test_expected_batches_are_accepted_and_others_refused():
    expects = landmarks.make(**SMALL).expects
    check_batch(expects, batch())
    five = {**batch(), "landmarks68": np.zeros((16, 5, 2), np.float32)}
    with pytest.raises(UserError, match="'landmarks68' of a batch"):
        check_batch(expects, five)


if __name__ == "__main__":
    steps.print_traces(trace)
