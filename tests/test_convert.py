"""Published networks: golden embeddings, round trips, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import convert
from fr_jax.systems import inter_prototype
from tests.conftest import PARITY
from tests.networks import random_variables

NETWORKS = {
    "arc_iresnet18": ("iresnet18", None),
    "arc_iresnet50": ("iresnet50", None),
    "mag_iresnet100": ("magface_iresnet100", "magface"),
    "ip_irse50": ("ir_se50", None),
    "ip_mbf": ("mobilefacenet", None),
}


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_give_their_golden_embeddings(name, reference, golden):
    architecture, dialect = NETWORKS[name]
    state, arrays = golden(name)
    converted = convert.from_state_dict(state, dialect)
    assert converted.architecture == architecture
    x = reference.images(1, (2, 3, 112, 112)).transpose(0, 2, 3, 1)
    embedding = np.array(jax.jit(converted.model.apply)(converted.variables, x))
    if name.startswith("ip"):  # theirs normalise inside the network
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    expected = arrays["embedding"]
    error = np.linalg.norm(embedding - expected) / np.linalg.norm(expected)
    assert error < 1e-5

    back = convert.to_state_dict(converted.variables, converted.dialect)
    for key, array in back.items():
        np.testing.assert_array_equal(array, state[key], err_msg=key)
    lost = set(state) - set(back)
    assert all(key.endswith("num_batches_tracked") for key in lost)


def test_training_follows_the_published_trace(reference, golden):
    """Inter-Prototype, three steps of IR-SE50: losses, every tensor's norm, kernel."""
    state, _ = golden("ip_irse50")
    trace = np.load(PARITY / "golden/trace_inter_prototype.npz")
    converted = convert.from_state_dict(state)
    system = inter_prototype.make(
        20,
        backbone_options={"dropout": 0.0},
        child_classes=(2, 5, 7, 11, 13),
        schedule="constant",
        augmentation=(),
    )
    run = jax.jit(system.init)(jax.random.key(0), {}, {"init": converted.variables})
    rows = jnp.array(reference.gaussians(20, (512, 20)).T)
    run.params["prototypes"] = run.params["prototypes"].at[:20].set(rows)
    step = jax.jit(system.train_step)
    limits = (1e-5, 1e-4, 5e-3)
    for number, limit in enumerate(limits):
        images = reference.images(300 + number, (6, 3, 112, 112)).transpose(0, 2, 3, 1)
        batch = {
            "image": 127.5 * images + 127.5,
            "label": reference.integers(400 + number, 20, 6).astype(np.int32),
            "seed": np.zeros(6, np.uint32),
        }
        run, metrics = step(run, batch, jax.random.key(0))
        expected = trace["arcface_loss"][number]
        assert float(metrics["margin_loss"]) == pytest.approx(expected, rel=limit)
        expected = trace["inter_prototype_loss"][number]
        found = float(metrics["inter_prototype_loss"])
        assert found == pytest.approx(expected, rel=1e-5)

    variables = {
        "params": run.params["backbone"],
        "batch_stats": run.batch_stats["backbone"],
    }
    ours = convert.to_state_dict(variables, converted.dialect)
    names = [row[0] for row in reference.read_keys(PARITY / "keys/ip_irse50.keys.txt")]
    for name, expected in zip(names, trace["backbone_norms"]):
        if name.endswith("num_batches_tracked"):
            assert expected == 3
            continue
        loose = name.endswith(("bias", "running_mean", "running_var"))
        found = np.linalg.norm(ours[name])
        assert found == pytest.approx(expected, rel=1e-2 if loose else 5e-4), name
    kernel = np.asarray(run.params["prototypes"][:20]).T
    error = np.linalg.norm(kernel - trace["kernel"]) / np.linalg.norm(trace["kernel"])
    assert error < 1e-4


def tiny_state():
    """A small arcface_torch-like state dict: an iresnet18 of an eighth of the width."""
    from fr_jax import models

    model = models.create("iresnet18", width=0.125, embedding_size=8)
    variables = random_variables(model, 32)
    return convert.to_state_dict(variables, "arcface_torch"), variables


def test_width_size_and_trainers_prefixes_are_understood():
    state, variables = tiny_state()
    found = convert.from_state_dict(state)
    assert found.options == {"width": 0.125, "embedding_size": 8}
    assert (found.dialect, found.input_spec.size) == ("arcface_torch", 32)
    for prefix in ("module.features.", "features.module."):
        wrapped = {prefix + name: array for name, array in state.items()}
        # The head's name collides with the backbone's once the prefix is cut.
        wrapped["module.fc.weight"] = np.zeros((8, 100), np.float32)
        magface = convert.from_state_dict(wrapped)
        assert magface.dialect == "magface"
        assert magface.input_spec[1:4] == ("BGR", 0.0, 255.0)
        assert magface.unused == ("module.fc.weight",)
        for a, b in zip(
            jax.tree.leaves(magface.variables), jax.tree.leaves(dict(variables))
        ):
            np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_named():
    state, _ = tiny_state()

    def failing(match, change, dialect=None):
        altered = dict(state)
        change(altered)
        with pytest.raises(ValueError, match=match):
            convert.from_state_dict(altered, dialect)

    failing("missing layer2.0.conv1.weight", lambda s: s.pop("layer2.0.conv1.weight"))
    failing("unexpected extra.weight", lambda s: s.update({"extra.weight": np.ones(3)}))
    failing(
        r"layer1\.1\.bn2\.bias has shape \(5,\)",
        lambda s: s.update({"layer1.1.bn2.bias": np.ones(5)}),
    )
    failing("no fc.weight|no 'fc.weight'", lambda s: s.pop("fc.weight"))
    failing("no iresnet has", lambda s: s.pop("layer3.1.bn1.weight"))
    failing("unknown dialect 'keras'", lambda s: None, "keras")
    with pytest.raises(ValueError, match="no known network has tensors a, b"):
        convert.from_state_dict({"a": np.ones(1), "b": np.ones(1)})
