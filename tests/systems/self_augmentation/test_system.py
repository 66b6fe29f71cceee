"""Self-augmentation: the steps of its stages, and equal numbers on every mesh.

Runs itself in a process with eight devices, which prints the compared numbers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.losses.triplet import sym_triplet
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.models.self_augmentation import condition
from fr_jax.system import Network
from fr_jax.systems import self_augmentation
from fr_jax.systems.self_augmentation.encoders import code_size
from tests.support import steps
from tests.support.devices import on_eight_devices
from tests.support.networks import random_variables
from tests.support.steps import distance, jit, largest_change

pytestmark = pytest.mark.xdist_group("self_augmentation")  # they share compiled steps
SIDE, CODE = 32, 8
LAYOUTS = ((1, 1), (8, 1))
KEY = jax.random.key(0)
TRUNK = {"width": 0.0625, "embedding_size": 16}
ENCODER = {
    "backbone": "sphere20",
    "backbone_options": TRUNK,
    "embedding_size": CODE,
    "image_size": SIDE,
    "optimizer": {"learning_rate": 100.0},
}
AUGMENT = {"image_size": SIDE, "width": 0.0625, "appearance_size": 4}


def batch(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    names = ("image", "positive", "negative")
    colours = {name: rng.integers(30, 226, (rows, 1, 1, 3)) for name in names}
    colours["positive"] = colours["image"]
    noise = rng.integers(-20, 21, (rows, SIDE, SIDE, 3))
    arrays = {name: (one + noise).astype(np.uint8) for name, one in colours.items()}
    arrays["seed"] = np.arange(rows, dtype=np.uint32)
    return jax.tree.map(jnp.asarray, arrays)


@functools.cache
def encoder_network():
    """A random encoder with codes of the order 1."""
    options = {"trunk": "sphere20", "trunk_options": TRUNK, "embedding_size": CODE}
    model = models.create("identity_encoder", **options)
    variables = jit(model.init)(KEY, jnp.zeros((1, SIDE, SIDE, 3)))
    variables = jax.tree.map(lambda x: x, dict(variables))
    fc = variables["params"]["fc"]
    kernel = jax.random.normal(jax.random.key(1), fc["kernel"].shape)
    variables["params"]["fc"] = {**fc, "kernel": kernel}
    return Network("identity_encoder", options, variables, InputSpec(size=SIDE))


@functools.cache
def augmentation_network():
    """Random, with images that depend on both codes."""
    options = {**AUGMENT, "identity_size": CODE}
    model = models.create("self_augmentation", **options)
    spec = InputSpec(size=SIDE)
    variables = random_variables(model, spec, seed=2)
    return Network("self_augmentation", options, variables, spec, "augmentation")


def given(*names):
    networks = {"identity": encoder_network(), "augmentation": augmentation_network()}
    return {name: networks[name] for name in names}


def variables(networks):
    return {name: network.variables for name, network in networks.items()}


@functools.cache
def identity_stage():
    system = self_augmentation.make(encoder=ENCODER)
    return system, jit(system.init), jit(system.train_step)


@functools.cache
def augment_stage():
    networks = given("identity")
    options = {**AUGMENT, "kl_warmup": 10, "optimizer": {"learning_rate": 2e-3}}
    system = self_augmentation.make(
        stage="augment", augment=options, pretrained=networks
    )
    return system, jit(system.init), jit(system.train_step), variables(networks)


@functools.cache
def refine_stage(share=0.5, gate=True):
    networks = given("identity", "augmentation")
    networks = {name: one._replace(variables=()) for name, one in networks.items()}
    system = self_augmentation.make(
        stage="refine",
        encoder={**ENCODER, "augmentation": ()},
        refine={"augmented_share": share, "gate": gate},
        pretrained=networks,
    )
    weights = variables(given("identity", "augmentation"))
    return system, jit(system.init), jit(system.train_step), weights


# --- stage I ------------------------------------------------------------------------


def test_the_loss_of_stage_one_is_sym_triplet_of_raw_embeddings():
    system = self_augmentation.make(encoder={**ENCODER, "augmentation": ()})
    state = jit(system.init)(KEY, batch())
    _, metrics = jit(system.train_step)(state, batch(), KEY)
    embed = jit(system.embed)
    names = ("image", "positive", "negative")
    parts = [embed(state, {"image": batch()[n]})["embedding"] for n in names]
    expected = sym_triplet(*parts)
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-4)
    far = np.linalg.norm(parts[0] - parts[2], axis=1).mean()
    np.testing.assert_allclose(metrics["negative_distance"], far, rtol=1e-4)
    np.testing.assert_allclose(metrics["active_triplets"], (expected > 0).mean())


def test_stage_one_separates_the_negatives():
    network = encoder_network()
    system = self_augmentation.make(
        encoder={"optimizer": {"learning_rate": 0.003}}, pretrained={"init": network}
    )
    init, step = jit(system.init), jit(system.train_step)
    state = init(KEY, batch(), {"init": network.variables})
    losses, far = [], []
    for number in range(30):
        state, metrics = step(state, batch(), jax.random.key(number))
        losses.append(float(metrics["loss"]))
        far.append(float(metrics["negative_distance"] / metrics["positive_distance"]))
    assert losses[-1] < 0.7 * losses[0]
    assert far[-1] > 2 * far[0]


def test_the_network_before_the_new_layer_learns_at_a_tenth_of_the_rate():
    def update(factor):
        options = {**ENCODER, "slow_factor": factor}
        system = self_augmentation.make(encoder=options)
        before = jit(system.init)(KEY, batch())
        after, _ = jit(system.train_step)(before, batch(), KEY)
        pairs = (before.params, after.params)
        return [
            max(largest_change(*(tree[part] for tree in pairs)))
            for part in ("network", "fc")
        ]

    slow, fast = update(0.1), update(1.0)
    np.testing.assert_allclose(slow[0], 0.1 * fast[0], rtol=1e-3)
    np.testing.assert_allclose(slow[1], fast[1], rtol=1e-5)


def test_training_begins_with_a_given_network():
    trunk = models.create("sphere20", **TRUNK)
    weights = dict(jit(trunk.init)(jax.random.key(7), jnp.zeros((1, SIDE, SIDE, 3))))
    spec = InputSpec(size=SIDE, mean=100.0, scale=50.0)
    network = Network("sphere20", TRUNK, weights, spec)
    options = {"embedding_size": CODE}
    system = self_augmentation.make(encoder=options, pretrained={"init": network})
    state = jit(system.init)(KEY, batch(), {"init": weights})
    assert max(largest_change(state.params["network"], weights["params"])) == 0
    kept = system.hand_over(state)["embedding"]
    assert kept.input_spec == spec and kept.architecture == "identity_encoder"
    images = batch()["image"]
    model = models.create(kept.architecture, **kept.options)
    expected = model.apply(kept.variables, prepare(images, spec))
    actual = system.embed(state, {"image": images})["embedding"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    assert actual.shape == (8, CODE)


def test_an_encoder_of_an_earlier_run_keeps_its_layer():
    network = encoder_network()
    system = self_augmentation.make(pretrained={"init": network})
    state = jit(system.init)(KEY, batch(), {"init": network.variables})
    assert max(largest_change(state.params, network.variables["params"])) == 0


def test_embeddings_of_unit_length_without_a_new_layer():
    options = {**ENCODER, "head": "none", "unit_length": True, "slow": ()}
    system = self_augmentation.make(encoder=options)
    state = jit(system.init)(KEY, batch())
    embeddings = system.embed(state, batch())["embedding"]
    assert embeddings.shape == (8, TRUNK["embedding_size"])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert set(state.params) == {"network"}


def test_slow_parameters_must_exist():
    system = self_augmentation.make(encoder={**ENCODER, "slow": ("network/convv",)})
    with pytest.raises(UserError, match="no parameter's path begins with 'network/con"):
        jax.eval_shape(system.init, KEY, batch())


# --- stage II -----------------------------------------------------------------------


def test_a_step_updates_one_network_and_never_the_encoder_of_identities():
    _, init, step, weights = augment_stage()
    state = init(KEY, batch(), weights)
    first, metrics = step(state, batch(), KEY)
    second, others = step(first, batch(), KEY)
    changed = lambda a, b: max(largest_change(a.params, b.params)) > 0  # noqa: E731
    live = state, first, second
    assert changed(live[0].discriminator, live[1].discriminator)
    assert not changed(live[0].augmentation, live[1].augmentation)
    assert changed(live[1].augmentation, live[2].augmentation)
    assert not changed(live[1].discriminator, live[2].discriminator)
    assert max(largest_change(live[0].identity, live[2].identity)) == 0
    assert metrics["discriminator/loss"].count == 1
    assert metrics["generator/loss"].count == 0
    assert others["generator/loss"].count == 1


def test_reconstruction_improves_and_the_head_learns_the_codes():
    _, init, step, weights = augment_stage()
    state, history = init(KEY, batch(), weights), []
    for number in range(80):
        state, metrics = step(state, batch(), jax.random.key(number))
        history.append({k: float(m.total) for k, m in metrics.items() if m.count})
    for name in ("generator/reconstruction_loss", "discriminator/information_loss"):
        values = [one[name] for one in history if name in one]
        assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5]), name


def test_fakes_move_the_generator_and_not_the_appearance_encoder():
    networks = given("identity")
    options = {**AUGMENT, "weights": {"reconstruction": 0.0, "kl": 0.0}}
    system = self_augmentation.make(
        stage="augment", augment=options, pretrained=networks
    )
    step = jit(system.train_step)
    before = jit(system.init)(KEY, batch(), variables(networks))
    for _ in range(2):
        before_generator = before
        before, _ = step(before, batch(), KEY)
    change = {
        part: max(
            largest_change(
                before_generator.augmentation.params[part],
                before.augmentation.params[part],
            )
        )
        for part in ("encoder", "generator")
    }
    assert change["encoder"] == 0 and change["generator"] > 0


def test_the_figures_form_has_no_swaps():
    networks = given("identity")
    system = self_augmentation.make(
        stage="augment",
        augment={**AUGMENT, "train_on_swaps": False},
        pretrained=networks,
    )
    shapes = jax.eval_shape(system.init, KEY, batch(), variables(networks))
    _, metrics = jax.eval_shape(system.train_step, shapes, batch(), KEY)
    assert "generator/swap_distance" not in metrics
    assert "generator/adversarial_loss" in metrics


# --- stage III ----------------------------------------------------------------------


def generated_negatives():
    """The negatives of Stage III, written down again."""
    encoder, generating = encoder_network(), augmentation_network()
    embed = models.create(encoder.architecture, **encoder.options).apply
    model = models.create(generating.architecture, **generating.options)
    anchor, negative = (batch()[n].astype(jnp.float32) for n in ("image", "negative"))
    codes = [
        embed(encoder.variables, prepare(x, encoder.input_spec))
        for x in (anchor, negative)
    ]
    mean, _ = model.apply(
        generating.variables, anchor / 127.5 - 1, condition(codes[0]), method="encode"
    )
    drawn = model.apply(
        generating.variables, condition(codes[1]), mean, method="decode"
    )
    return 127.5 * (drawn + 1), codes


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_negatives_is_generated(share):
    _, init, step, weights = refine_stage(share, False)
    state = init(KEY, batch(), weights)
    _, metrics = step(state, batch(), KEY)
    encoder = encoder_network()
    embed = models.create(encoder.architecture, **encoder.options).apply
    images, _ = generated_negatives()
    count = round(share * 8)
    negative = jnp.concatenate([images[:count], batch()["negative"][count:]])
    parts = [
        embed(encoder.variables, prepare(x, encoder.input_spec))
        for x in (batch()["image"], batch()["positive"], negative)
    ]
    expected = np.mean(sym_triplet(*parts))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)


def test_generated_negatives_depend_on_both_faces():
    images, _ = generated_negatives()
    assert float(jnp.std(images, axis=0).mean()) > 10


def test_the_gate_keeps_the_real_negative():
    _, init, step, weights = refine_stage(1.0, True)
    _, metrics = step(init(KEY, batch(), weights), batch(), KEY)
    encoder = encoder_network()
    embed = models.create(encoder.architecture, **encoder.options).apply
    images, (of_anchor, of_negative) = generated_negatives()
    code = embed(encoder.variables, prepare(images, encoder.input_spec))
    near, far = (
        np.sum((code - other) ** 2, axis=1) for other in (of_negative, of_anchor)
    )
    np.testing.assert_allclose(metrics["gated"], np.mean(near >= far), atol=1e-6)
    assert 0 < np.mean(near >= far) < 1
    used = jnp.where((near < far)[:, None, None, None], images, batch()["negative"])
    parts = [
        embed(encoder.variables, prepare(x, encoder.input_spec))
        for x in (batch()["image"], batch()["positive"], used)
    ]
    expected = np.mean(sym_triplet(*parts))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)


def test_stage_three_changes_the_encoder_alone():
    _, init, step, weights = refine_stage()
    before = init(KEY, batch(), weights)
    after, _ = step(before, batch(), KEY)
    assert max(largest_change(before.encoder.params, after.encoder.params)) > 0
    assert max(largest_change(before.first, after.first)) == 0
    assert max(largest_change(before.augmentation, after.augmentation)) == 0


def test_stage_three_takes_any_embedder():
    options = {**TRUNK, "embedding_size": CODE}
    trunk = models.create("sphere20", **options)
    weights = dict(jit(trunk.init)(jax.random.key(7), jnp.zeros((1, SIDE, SIDE, 3))))
    plain = Network("sphere20", options, (), InputSpec(size=SIDE))
    networks = given("identity", "augmentation") | {"identity": plain}
    system = self_augmentation.make(
        stage="refine", encoder={"augmentation": ()}, pretrained=networks
    )
    taken = {"identity": weights, "augmentation": augmentation_network().variables}
    state = jit(system.init)(KEY, batch(), taken)
    images = batch()["image"]
    expected = trunk.apply(weights, prepare(images, plain.input_spec))
    actual = system.embed(state, {"image": images})["embedding"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    _, metrics = jit(system.train_step)(state, batch(), KEY)
    assert np.isfinite(metrics["loss"])


# --- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"stage": "identify"}, "unknown stage 'identify'; did you mean 'identity'"),
        ({"encoder": {"heads": 1}}, "unknown argument 'heads' of stage identity"),
        ({"encoder": {"head": "densely"}}, "unknown head 'densely'"),
        ({"encoder": {"loss": "triplets"}}, "unknown triplet loss 'triplets'"),
        ({"stage": "augment"}, "needs the encoder of stage identity: --given"),
        ({"stage": "refine"}, "needs the network of stage identity: --given"),
    ],
)
def test_mistakes_are_refused(arguments, match):
    with pytest.raises(UserError, match=match):
        self_augmentation.make(**arguments)


def test_images_of_another_size_and_other_codes_are_refused():
    networks = given("identity")
    with pytest.raises(UserError, match="images of 48 pixels: use 32, 64"):
        self_augmentation.make(
            stage="augment", augment={"image_size": 48}, pretrained=networks
        )
    other = augmentation_network()
    other = other._replace(options={**other.options, "identity_size": 5})
    with pytest.raises(UserError, match=r"codes of 8 values.*trained with 5"):
        self_augmentation.make(
            stage="refine", pretrained=networks | {"augmentation": other}
        )
    assert code_size(networks["identity"]) == CODE


# --- devices ------------------------------------------------------------------------


def trace(layout):
    """Losses of a few steps of each stage."""
    return {name: losses(name, layout) for name in ("identity", "augment", "refine")}


def losses(stage, layout):
    stages = {"identity": identity_stage, "augment": augment_stage}
    system, *_ = {**stages, "refine": refine_stage}[stage]()
    networks = {
        "identity": (),
        "augment": ("identity",),
        "refine": ("identity", "augmentation"),
    }[stage]
    weights = variables(given(*networks))
    init = system.init
    system = system._replace(init=lambda key, batch, _: init(key, batch, weights))

    class Stream:
        batch_size = 8

        def batch_at(self, step):
            return jax.tree.map(np.asarray, batch(seed=step))

    mesh, values = steps.make_mesh(layout), []
    for _, metrics in steps.run(system, Stream(), mesh, 4, guard=None):
        values += [metrics[name] for name in sorted(metrics) if name.endswith("loss")]
    return values


@pytest.mark.long
def test_eight_devices_train_as_one():
    one, eight = on_eight_devices(
        "tests.systems.self_augmentation.test_system", LAYOUTS
    )
    for stage in one:
        assert len(one[stage]) > 3
        assert distance(eight[stage], one[stage]) < 1e-4, stage


if __name__ == "__main__":
    steps.print_traces(trace)
