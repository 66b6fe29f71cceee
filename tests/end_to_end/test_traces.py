"""Training steps against recorded traces of the published programs.

Compared: the losses before every update and the norm of every tensor at the end.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import convert
from fr_jax.losses.contrastive import margin_logits
from fr_jax.losses.margin import unit
from fr_jax.systems import dr_gan, fra, usynthface
from fr_jax.systems.dr_gan import presets
from fr_jax.systems.dr_gan.targets import Targets
from fr_jax.systems.fra.system import NEGATIVES
from tests.support.paths import PARITY, read_npz

pytestmark = pytest.mark.long


def channels_last(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def norm_of(tensor):
    """In float64: sums of millions of float32 differ by 6e-5 between processors."""
    return np.linalg.norm(np.asarray(tensor, np.float64))


def check_norms(variables, dialect, names, norms):
    state = convert.to_state_dict(variables, dialect)
    for name, norm in zip(names, norms, strict=True):
        if not name.endswith("num_batches_tracked"):
            assert norm_of(state[name]) == pytest.approx(norm, rel=1e-5), name


def test_fra_trains_as_published(reference, golden):
    state, _ = golden("fra_magface")
    trace = read_npz(PARITY / "golden/trace_fra.npz")
    imported = convert.from_state_dict(state)
    system = fra.make(
        embedding_size=512,
        embedding_distance=1.0,
        embedding_norm=1.0,
        network={"positions": 33, "dropout": 0.0, "vit_dropout": 0.0},
        margin="published",
        reconstruction_loss="clamped_cross_entropy",
    )

    def batch(number):
        uniform = np.random.default_rng(1000 + number).uniform(size=(4, 1, 112, 112))
        names = ("embedding", "target", *(f"negative_{name}" for name in NEGATIVES))
        return {
            name: reference.gaussians(1100 + 10 * number + j, (4, 512))
            for j, name in enumerate(names)
        } | {"landmarks": channels_last((uniform > 0.95).astype(np.uint8))}

    given = {"init": imported.variables}
    state = jax.jit(system.init)(jax.random.key(0), batch(0), given)
    step = jax.jit(system.train_step)
    for number, tolerance in enumerate((1e-6, 1e-4, 1e-4)):
        state, metrics = step(state, batch(number), jax.random.key(number))
        losses = [metrics["reconstruction_loss"], metrics["triplet_loss"]]
        expected = trace["bce_triplet_loss"][number]
        np.testing.assert_allclose(losses, expected, rtol=tolerance)
    names = [
        row[0] for row in reference.read_keys(PARITY / "keys/fra_magface.keys.txt")
    ]
    variables = system.hand_over(state)["augmenter"].variables
    check_norms(variables, "fra", names, trace["norms"])


def test_dr_gan_trains_as_published(reference):
    trace = read_npz(PARITY / "golden/trace_dr_gan.npz")
    heads = [["identity", 5], ["real", 1], ["pose", 3]]
    shapes = {
        "G_dec_fc.weight": (11520, 373),
        "fc.weight": (9, 320),
        "fc.bias": (9,),
    }
    networks, names = {}, {}
    for part, options in (("generator", {}), ("discriminator", {"heads": heads})):
        file = "drgan_single_generator" if part == "generator" else f"drgan_{part}"
        rows = reference.read_keys(PARITY / f"keys/{file}.keys.txt")
        names[part] = [name for name, _, _ in rows]
        state = {
            name: reference.random_tensor(name, shapes.get(name, shape))
            for name, shape, _ in rows
        }
        networks[part] = convert.from_state_dict(state, options=options)
    preset = presets.kayamin() | {"update": "fixed"}
    targets = Targets(angles=(-30, 0, 30))
    system = dr_gan.make(5, targets=targets, canvas_size=None, **preset)

    def batch(number):
        pixels = reference.images(500 + number, (4, 3, 96, 96)) * 127.5 + 127.5
        return {
            "image": channels_last(pixels),
            "label": reference.integers(600 + number, 5, 4).astype(np.int32),
            "pose": reference.integers(700 + number, 3, 4).astype(np.int32),
            "target_pose": reference.integers(800 + number, 3, 4).astype(np.int32),
            "noise": reference.images(900 + number, (4, 50)),
            "seed": np.zeros(4, np.uint32),
        }

    given = {
        "init": networks["generator"].variables,
        "discriminator": networks["discriminator"].variables,
    }
    state = jax.jit(system.init)(jax.random.key(0), batch(0), given)
    step = jax.jit(system.train_step)
    for number, tolerance in enumerate((1e-5, 1e-5, 1e-5, 1e-4)):
        state, metrics = step(state, batch(number), jax.random.key(number))
        part = ("discriminator", "generator")[number % 2]
        terms = ("identity", "gan", "pose")
        losses = [metrics[f"{part}/{name}_loss"].total for name in terms]
        expected = trace["id_gan_pose_loss"][number]
        np.testing.assert_allclose(losses, expected, rtol=tolerance)
    for part, net in (
        ("generator", state.generator),
        ("discriminator", state.discriminator),
    ):
        variables = {"params": net.params, "batch_stats": net.batch_stats}
        dialect = networks[part].dialect
        check_norms(variables, dialect, names[part], trace[f"{part}_norms"])


def test_momentum_contrast_trains_as_published(reference):
    trace = read_npz(PARITY / "golden/trace_momentum_contrast.npz")
    keys_file = PARITY / "keys/arc_iresnet18.keys.txt"
    imported = convert.from_state_dict(reference.random_state_dict(keys_file))
    system = usynthface.make(
        100,
        backbone=imported.architecture,
        backbone_options={**imported.options, "bn_groups": 1},
        queue={"size": 32, "mask_unfilled": False},
        key_momentum=0.9,
        optimizer={
            "schedule": "constant",
            "learning_rate": 0.05,
            "reference_batch": 8,
        },
        augmentation=(),
    )

    def pixels(seed):
        return channels_last(reference.images(seed, (8, 3, 112, 112))) * 127.5 + 127.5

    def batch(number):
        return {
            "image": pixels(100 + number),
            "positive": pixels(200 + number),
            "label": jnp.full(8, -1, jnp.int32),
            "seed": jnp.zeros(8, jnp.uint32),
        }

    @jax.jit
    def logits_of(before, after, image):
        """Logits [8, 33] from the queue before the step and the keys that it wrote."""
        query, _ = imported.model.apply(
            {
                "params": before.query.params["backbone"],
                "batch_stats": before.query.batch_stats,
            },
            (image - 127.5) / 127.5,
            train=True,
            mutable=["batch_stats"],
        )
        key = jax.lax.dynamic_slice(
            after.queue.keys, (before.queue.cursor, 0), (8, 512)
        )
        positive = jnp.sum(unit(query) * key, axis=1)
        negatives = unit(query) @ before.queue.keys[:32].T
        own, others = margin_logits(positive, negatives)
        return jnp.concatenate([own[:, None], others], axis=1)

    state = system.init(jax.random.key(0), batch(0), {"init": imported.variables})
    columns = reference.gaussians(10, (512, 32))
    columns /= np.linalg.norm(columns, axis=0)
    rows = state.queue.keys.at[:32].set(columns.T)
    state = state._replace(queue=state.queue._replace(keys=rows))
    step = jax.jit(system.train_step)
    tolerances = ((1e-5, 1e-5), (1e-4, 1e-3), (3e-4, 5e-3), (1e-3, 1.5e-2))
    for number, (loss_tolerance, logits_tolerance) in enumerate(tolerances):
        before = state
        state, metrics = step(state, batch(number), jax.random.key(number))
        assert float(metrics["loss"]) == pytest.approx(
            trace["loss"][number], rel=loss_tolerance
        )
        logits = logits_of(before, state, batch(number)["image"])
        assert distance(logits, trace["logits"][number]) < logits_tolerance

    assert distance(state.queue.keys[:32].T, trace["queue"]) < 3e-3
    assert int(state.queue.cursor) == int(trace["queue_ptr"].item())
    assert (state.queue.keys[32:] == 0).all()
    names = [row[0] for row in reference.read_keys(keys_file)]
    frozen = imported.variables["params"]["features"]["scale"]
    encoders = {
        "query_norms": (state.query.params, state.query.batch_stats),
        "key_norms": (state.key_params, state.key_batch_stats),
    }
    for part, (params, statistics) in encoders.items():
        np.testing.assert_array_equal(params["backbone"]["features"]["scale"], frozen)
        variables = {"params": params["backbone"], "batch_stats": statistics}
        tensors = convert.to_state_dict(variables, imported.dialect)
        for name, norm in zip(names, trace[part], strict=True):
            if name.endswith("num_batches_tracked"):
                continue
            matrix = name.endswith("weight") and ("conv" in name or name[:2] == "fc")
            tolerance = 3e-5 if matrix else 1e-3
            assert norm_of(tensors[name]) == pytest.approx(norm, rel=tolerance), name


def distance(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)
