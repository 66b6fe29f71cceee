"""The queue of keys: order, wrap-around, policies, masks and sharding.

Runs itself in a process with eight devices.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fr_jax.errors import UserError
from fr_jax.systems.usynthface import queue
from fr_jax.systems.usynthface.queue import Options
from tests.support.devices import on_eight_devices
from tests.support.steps import jit, make_mesh

create = jit(queue.create, static_argnums=(1, 2))
enqueue = jit(queue.enqueue, static_argnums=1)


def units(seed, rows, features=4):
    made = np.random.default_rng(seed).normal(size=(rows, features))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def fill(options, batches, features=4):
    """Returns a queue after batches, the n-th of which are keys of identity n."""
    state = create(jax.random.key(0), options.size, features)
    for number, keys in enumerate(batches):
        identity = np.full(len(keys), number, np.int32)
        state = enqueue(state, options, keys, identity)
    return state


def test_a_queue_starts_with_random_unit_vectors_all_unfilled():
    state = fill(Options(10), [])
    assert state.keys.shape == (128, 4)
    np.testing.assert_allclose(np.linalg.norm(state.keys[:10], axis=1), 1, rtol=1e-6)
    assert (state.keys[10:] == 0).all()
    assert not state.filled.any() and (state.identity == -1).all()
    assert len(np.unique(state.keys[:10], axis=0)) == 10


@pytest.mark.parametrize("size", [12, 10, 4])  # 4 divides 12, not 10
def test_a_ring_keeps_the_newest_keys(size):
    batches = [units(number, 4) for number in range(7)]
    state = fill(Options(size), batches)
    expected = np.zeros((size, 4), np.float32)
    owner = np.zeros(size)
    for count, row in enumerate(np.concatenate(batches)):
        expected[count % size], owner[count % size] = row, count // 4
    np.testing.assert_array_equal(state.keys[:size], expected)
    np.testing.assert_array_equal(state.identity[:size], owner)
    assert state.filled[:size].all() and not state.filled[size:].any()
    assert (state.keys[size:] == 0).all()
    assert state.cursor == 28 % size


def test_only_enqueued_rows_are_filled():
    state = fill(Options(10), [units(0, 4)])
    assert state.filled.tolist() == [True] * 4 + [False] * 124


@pytest.mark.parametrize("policy", ["simQ", "dissimQ"])
def test_a_full_queue_overwrites_similar_or_dissimilar_rows(policy):
    first, options = [units(0, 5), units(1, 5)], Options(9, policy)
    before = fill(options, first)
    np.testing.assert_array_equal(before.keys, fill(Options(9), first).keys)
    new = units(2, 3)
    after = enqueue(before, options, new, np.array([7, 8, 9], np.int32))
    expected = np.asarray(before.keys[:9]).copy()
    cosines = new @ expected.T
    places = cosines.argmax(1) if policy == "simQ" else cosines.argmin(1)
    for place, key in zip(places, new):
        expected[place] = key
    np.testing.assert_array_equal(after.keys[:9], expected)
    assert (after.keys[9:] == 0).all()
    assert set(after.identity[places].tolist()) <= {7, 8, 9}


def test_the_last_of_several_keys_with_one_row_is_kept():
    options = Options(4, "simQ")
    before = fill(options, [np.eye(4, dtype=np.float32)])
    alike = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0]], np.float32)
    after = enqueue(before, options, alike, np.array([5, 6], np.int32))
    np.testing.assert_array_equal(after.keys[0], alike[1])
    assert after.identity[:4].tolist() == [6, 0, 0, 0]
    np.testing.assert_array_equal(after.keys[1:4], np.eye(4)[1:])


# --- masks --------------------------------------------------------------------------


def valid(**masks):
    """Returns the mask of queries of identities 0, 1, 5 and of an unknown one.

    The queue has keys of identities 0 0 1 1, and two unfilled rows.
    """
    options = Options(6, **masks)
    state = fill(options, [units(0, 2), units(1, 2)])
    return queue.valid(state, options, jnp.array([0, 1, 5, -1]))


def test_unfilled_rows_are_invalid_negatives():
    assert valid(mask_identity=False).sum(1).tolist() == [4, 4, 4, 4]
    every = valid(mask_identity=False, mask_unfilled=False)
    assert every.sum(1).tolist() == [6, 6, 6, 6]


def test_keys_of_the_querys_identity_are_invalid_negatives():
    assert valid()[:, :6].astype(int).tolist() == [
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]


def test_rows_of_unknown_identity_are_valid_for_every_query():
    unknown = valid(mask_unfilled=False)  # including a query of unknown identity
    assert unknown[:, 4:6].all() and not unknown[:, 6:].any()


# --- options ------------------------------------------------------------------------


def test_options_override_the_defaults():
    assert queue.options(None, 10**6) == Options()
    actual = queue.options({"size": 7, "policy": "simQ"}, 20)
    assert actual == Options(7, "simQ", True, True, False)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("did you mean 'simQ'", {"size": 6, "policy": "sim"}),
        ("option 'sizes' of the queue; did you mean 'size'", {"sizes": 6}),
        ("the queue's size is 0; use 1 or more", {"size": 0}),
        ("use size <= 10, mask_identity=True", {"size": 11, "mask_identity": False}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        queue.options(options, 20)


def test_more_keys_than_rows_are_refused():
    with pytest.raises(UserError, match="8 keys a step exceed a queue of 6"):
        fill(Options(6), [units(0, 8)])


# --- devices ------------------------------------------------------------------------


def test_a_sharded_queue_equals_the_whole_one():
    actual = on_eight_devices("tests.systems.usynthface.test_queue")
    assert actual == dict.fromkeys(queue.POLICIES, True)


def same_numbers(policy) -> bool:
    """Returns whether a queue sharded over four devices equals the whole one."""
    mesh, options = make_mesh((2, 4)), Options(100, policy)
    whole = fill(options, [units(n, 8) for n in range(14)])
    rows = NamedSharding(mesh, PartitionSpec("model"))
    places = queue.Queue(rows, rows, rows, NamedSharding(mesh, PartitionSpec()))
    cut = jax.device_put(whole, places)
    step = jit(queue.enqueue, static_argnums=1, out_shardings=places)
    data = NamedSharding(mesh, PartitionSpec("data"))
    for n in range(3):
        keys, identity = units(50 + n, 8), np.arange(8, dtype=np.int32)
        whole = enqueue(whole, options, keys, identity)
        cut = step(cut, options, *jax.device_put((keys, identity), data))
    assert cut.keys.sharding.shard_shape((128, 4)) == (32, 4)
    pairs = zip(whole, cut, strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


if __name__ == "__main__":
    print(json.dumps({policy: same_numbers(policy) for policy in queue.POLICIES}))
