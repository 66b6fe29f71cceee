"""Digests of updates: equal wherever they are traced, other for another update."""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.backend import sharding
from fr_jax.backend.convolution import convolve
from fr_jax.training import digests
from tests.support import toy
from tests.support.paths import ROOT

KEY = jax.random.key(0)


def of_step(train_step):
    """Returns the digest of a step on a state [100] and images uint8 [2, 8, 8, 3]."""
    system = SimpleNamespace(
        init=lambda key, batch, given: {"w": jnp.zeros(100)}, train_step=train_step
    )
    batch = {"image": np.zeros((2, 8, 8, 3), np.uint8)}
    return digests.trace(system, KEY, batch, {})[2]


def step_of(loss):
    """Returns a train step that takes one gradient step of a loss(w)."""

    def train_step(state, batch, key):
        value, gradient = jax.value_and_grad(loss)(state["w"])
        return {"w": state["w"] - gradient}, {"loss": value}

    return train_step


def scaled(constant):
    return lambda w: jnp.sum(w * constant)


def table(changed=None, where=np):
    values = np.arange(100, dtype=np.float32)
    if changed is not None:
        values[changed] += 1e-3
    return where.asarray(values)


def jitted(constant):
    inner = jax.jit(lambda w: w * constant)
    return lambda w: jnp.sum(inner(w))


def repeated(constant):
    def body(carry, _):
        return carry * constant, None

    return lambda w: jnp.sum(jax.lax.scan(body, w, None, length=3)[0])


def backward(constant):
    @jax.custom_vjp
    def doubled(w):
        return 2 * w

    doubled.defvjp(lambda w: (2 * w, None), lambda _, g: (constant * g,))
    return lambda w: jnp.sum(doubled(w))


PAIRS = {
    "closure constant": (scaled(2.0), scaled(2.5)),
    "another function": (lambda w: jnp.sum(jnp.sin(w)), lambda w: jnp.sum(jnp.cos(w))),
    "one number of a NumPy table": (scaled(table()), scaled(table(50))),
    "one number of a JAX table": (scaled(table(None, jnp)), scaled(table(50, jnp))),
    "constant in jit": (jitted(table()), jitted(table(50))),
    "scalar in jit": (jitted(2.0), jitted(3.0)),
    "constant in scan": (repeated(table()), repeated(table(50))),
    "custom gradient": (backward(2.0), backward(3.0)),
    "operands": (
        lambda w: jnp.sum(w[:50] - w[50:]),
        lambda w: jnp.sum(w[50:] - w[:50]),
    ),
    "parameter of an operation": (
        lambda w: jnp.sum(w.reshape(10, 10).sum(0) ** 2),
        lambda w: jnp.sum(w.reshape(10, 10).sum(1) ** 2),
    ),
    "type": (
        lambda w: jnp.sum(w.astype(jnp.bfloat16)).astype(jnp.float32),
        lambda w: jnp.sum(w.astype(jnp.float16)).astype(jnp.float32),
    ),
    "key": (
        lambda w: jnp.sum(w * jax.random.normal(jax.random.key(1), w.shape)),
        lambda w: jnp.sum(w * jax.random.normal(jax.random.key(2), w.shape)),
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_digest_changes_with_the_loss(kind):
    one, other = (of_step(step_of(loss)) for loss in PAIRS[kind])
    assert one != other
    assert one == of_step(step_of(PAIRS[kind][0]))


def test_digest_does_not_depend_on_names_and_sharing():
    @jax.jit
    def inner(w):
        return jnp.clip(w, 0, 1)

    @jax.jit
    def another_name(w):
        return jnp.clip(w, 0, 1)

    shared = of_step(step_of(lambda w: jnp.sum(inner(w) + inner(w))))
    other = of_step(step_of(lambda w: jnp.sum(inner(w) + another_name(w))))
    assert shared == other


@jax.jit
def filtered(image, kernel):
    return convolve(image, kernel, stride=1, padding=1)


def test_compiled_update_keeps_the_convolutions_of_its_backend():
    """Functions of JAX that the trace of the digest caches are not used for it."""

    def train_step(state, batch, key):
        kernel = jnp.ones((3, 3, 256, 256)) * state["w"].mean()
        image = jnp.broadcast_to(jnp.float32(batch["image"][..., :1]), (2, 8, 8, 256))
        return state, {"loss": filtered(image, kernel).mean()}

    batch = {"image": np.zeros((2, 8, 8, 3), np.uint8)}
    arguments = {"w": jnp.zeros(100)}, batch, KEY
    of_step(train_step)
    after = jax.make_jaxpr(train_step)(*arguments)
    filtered.clear_cache()
    before = jax.make_jaxpr(train_step)(*arguments)
    count = str(before).count("conv_general_dilated")
    assert count == 0  # by matrix products on a CPU
    assert str(after).count("conv_general_dilated") == count


PROGRAM = """
import sys
import jax
from fr_jax.training import digests
from tests.support import subject, toy
def of(name):
    if name == "toy":
        return digests.trace(toy.make(), jax.random.key(0), toy.arrays(16), {})[2]
    system, batch = subject.contrast(), subject.pairs_of_noise(16)
    return digests.trace(system, jax.random.key(0), batch, {})[2]
if __name__ == "__main__":
    print(of(sys.argv[1]), jax.device_count())
"""


@pytest.mark.parametrize(
    "name", ["toy", pytest.param("contrast", marks=pytest.mark.long)]
)
def test_digest_is_equal_in_another_process_on_another_machine(name):
    """Other devices, instructions of the CPU, addresses and order of sets."""
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_max_isa=SSE4_2"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    here: dict = {}
    exec(PROGRAM, here)
    assert done.stdout.split() == [here["of"](name), "8"]


def test_digest_of_weights_changes_with_names_types_and_values():
    original = {"a": {"kernel": np.ones(3, np.float32), "bias": np.zeros(2)}}
    digest = functools.partial(digests.of_weights)
    expected = digest({"init": original})["init"]
    assert digest({"init": jax.tree.map(np.copy, original)}) == {"init": expected}
    kernel = original["a"]["kernel"]
    for changed in (
        {"kernel": kernel + 1e-6},
        {"kernel": kernel.astype(np.float64)},
        {"kernel": kernel[None]},
        {"kernels": kernel},
    ):
        tree = {"a": {"bias": np.zeros(2), **changed}}
        assert digest({"init": tree})["init"] != expected


def test_digest_of_a_batch_does_not_depend_on_the_devices():
    batch = toy.arrays(16) | {"seed": np.arange(16, dtype=np.uint32)}
    placed = sharding.to_global(sharding.make_mesh(), batch, 16)
    one, other = (digests.of_batch(b) for b in (placed, jax.tree.map(jnp.array, batch)))
    assert one == other
    assert one["arrays"].startswith("image uint8(16, 8, 8, 3), label int32(16,)")
    assert one["mean_pixels"][3] == pytest.approx(batch["image"][3].mean(), abs=0.01)
    swapped = digests.of_batch(placed | {"label": jnp.array(batch["label"][::-1])})
    assert swapped["labels_and_seeds"] != one["labels_and_seeds"]
