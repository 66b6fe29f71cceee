"""The ring of keys: order, wrap-around, policies, masks, and cut over devices."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.systems.usynthface import queue
from tests.conftest import ROOT


def units(seed, rows, features=4):
    made = np.random.default_rng(seed).normal(size=(rows, features))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def fill(size, batches, policy="normal", features=4):
    state = queue.create(jax.random.key(0), size, features)
    for number, keys in enumerate(batches):
        who = np.full(len(keys), number, np.int32)
        state = queue.enqueue(state, size, keys, who, policy)
    return state


def test_it_starts_with_random_unit_vectors_none_of_them_a_key():
    state = fill(10, [])
    assert state.keys.shape == (128, 4)
    np.testing.assert_allclose(np.linalg.norm(state.keys[:10], axis=1), 1, rtol=1e-6)
    assert (state.keys[10:] == 0).all()
    assert not state.filled.any() and (state.identity == -1).all()
    assert len(np.unique(state.keys[:10], axis=0)) == 10


@pytest.mark.parametrize("size", [12, 10, 4])  # 4 divides 12, not 10
def test_the_newest_keys_stay_in_a_ring(size):
    batches = [units(number, 4) for number in range(7)]
    state = fill(size, batches)
    expected = np.zeros((size, 4), np.float32)
    owner = np.zeros(size)
    for count, row in enumerate(np.concatenate(batches)):
        expected[count % size], owner[count % size] = row, count // 4
    np.testing.assert_array_equal(state.keys[:size], expected)
    np.testing.assert_array_equal(state.identity[:size], owner)
    assert state.filled[:size].all() and not state.filled[size:].any()
    assert (state.keys[size:] == 0).all()
    assert state.cursor == 28 % size


def test_only_what_was_enqueued_is_filled():
    state = fill(10, [units(0, 4)])
    assert state.filled.tolist() == [True] * 4 + [False] * 124


@pytest.mark.parametrize("policy", ["simQ", "dissimQ"])
def test_similar_or_dissimilar_rows_are_overwritten_once_it_is_full(policy):
    first = [units(0, 5), units(1, 5)]
    before = fill(9, first, policy)
    np.testing.assert_array_equal(before.keys, fill(9, first).keys)
    new = units(2, 3)
    after = queue.enqueue(before, 9, new, np.array([7, 8, 9], np.int32), policy)
    expected = np.asarray(before.keys[:9]).copy()
    cosines = new @ expected.T
    places = cosines.argmax(1) if policy == "simQ" else cosines.argmin(1)
    for place, key in zip(places, new):
        expected[place] = key
    np.testing.assert_array_equal(after.keys[:9], expected)
    assert (after.keys[9:] == 0).all()
    assert set(after.identity[places].tolist()) <= {7, 8, 9}


def test_of_keys_that_choose_one_row_the_last_is_kept():
    before = fill(4, [np.eye(4, dtype=np.float32)])
    alike = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0]], np.float32)
    after = queue.enqueue(before, 4, alike, np.array([5, 6], np.int32), "simQ")
    np.testing.assert_array_equal(after.keys[0], alike[1])
    assert after.identity[:4].tolist() == [6, 0, 0, 0]
    np.testing.assert_array_equal(after.keys[1:4], np.eye(4)[1:])


def test_who_is_a_negative_of_whom():
    state = fill(6, [units(0, 2), units(1, 2)])  # identities 0 0 1 1, two unfilled
    who = jnp.array([0, 1, 5, -1])
    some = functools.partial(queue.valid, state, 6, who)
    assert some().sum(1).tolist() == [4, 4, 4, 4]
    assert some(unfilled=True).sum(1).tolist() == [6, 6, 6, 6]
    masked = some(own_identity=False)
    assert masked[:, :6].astype(int).tolist() == [
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]
    # A row of nobody is everybody's negative, those of nobody included.
    unknown = some(own_identity=False, unfilled=True)
    assert unknown[:, 4:6].all() and not unknown[:, 6:].any()


def test_refusals():
    with pytest.raises(UserError, match="8 keys a step into a queue of 6"):
        fill(6, [units(0, 8)])
    with pytest.raises(UserError, match="did you mean 'simQ'"):
        fill(6, [units(0, 2)], "sim")


CUT = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from fr_jax.systems.usynthface import queue
from tests.test_queue import fill, units
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
for policy in queue.POLICIES:
    whole = fill(100, [units(n, 8) for n in range(14)], policy)
    rows = NamedSharding(mesh, PartitionSpec("model"))
    places = queue.Queue(rows, rows, rows, NamedSharding(mesh, PartitionSpec()))
    cut = jax.device_put(whole, places)
    step = jax.jit(queue.enqueue, static_argnums=(1, 4), out_shardings=places)
    data = NamedSharding(mesh, PartitionSpec("data"))
    for n in range(3):
        keys, who = units(50 + n, 8), np.arange(8, dtype=np.int32)
        whole = queue.enqueue(whole, 100, keys, who, policy)
        cut = step(cut, 100, *jax.device_put((keys, who), data), policy)
    assert cut.keys.sharding.shard_shape((128, 4)) == (32, 4)
    for one, other in zip(whole, cut):
        np.testing.assert_array_equal(one, other)
print("same")
"""


def test_cut_over_devices_it_holds_the_same_numbers():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.environ['XLA_FLAGS'] = {flags!r}" + CUT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr[-3000:]
