"""A queue of keys that contrastive learning takes its negatives from.

Pure functions of a state: rows in a ring, padded so that any mesh can cut them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, unknown

Array = jax.Array

POLICIES = ("normal", "simQ", "dissimQ")
# Rows are padded to a multiple of this, so that a checkpoint fits 1, 2, 4, 8 devices.
_ROW_MULTIPLE = 128


class Queue(NamedTuple):
    """K keys and what is known of them; rows from K on are padding.

    Attributes:
      keys: float32 [rows, D], of length 1; padding is 0.
      identity: int32 [rows], whose key it is; -1 where nobody knows.
      filled: bool [rows], which rows have been enqueued; the others are random.
      cursor: the row that is overwritten next.
    """

    keys: Array
    identity: Array
    filled: Array
    cursor: Array


def create(key: Array, size: int, features: int) -> Queue:
    """Returns a queue of `size` random unit vectors, none of them enqueued yet."""
    rows = jax.random.normal(key, (size, features))
    rows /= jnp.linalg.norm(rows, axis=1, keepdims=True)
    padded = size + -size % _ROW_MULTIPLE
    return Queue(
        keys=jnp.pad(rows, ((0, padded - size), (0, 0))),
        identity=jnp.full(padded, -1, jnp.int32),
        filled=jnp.zeros(padded, bool),
        cursor=jnp.int32(0),
    )


def enqueue(
    queue: Queue, size: int, keys: Array, identity: Array, policy: str = "normal"
) -> Queue:
    """Returns the queue with new keys in it.

    Until all K rows have been enqueued, keys go round the ring whatever the policy. K
    need not be a multiple of B: a batch may straddle the end.

    Args:
      size: K.
      keys, identity: float [B, D] unit vectors, int32 [B].
      policy: 'normal' overwrites the oldest rows, 'simQ' for each key the row most like
        it, 'dissimQ' the least. Every key looks at the queue as it was before the
        batch; of several that choose one row the last is kept.

    Raises:
      UserError: for another policy, or more keys than the queue has rows.
    """
    check(size, len(keys), policy)
    place = (queue.cursor + jnp.arange(len(keys))) % size
    if policy != "normal":
        similarity = keys @ queue.keys.T  # [B, rows]
        sign = 1 if policy == "simQ" else -1
        rows = jnp.arange(len(queue.keys))[None]
        similarity = jnp.where(rows < size, sign * similarity, -jnp.inf)
        chosen = jnp.argmax(similarity, axis=1)
        place = jnp.where(jnp.sum(queue.filled) >= size, chosen, place)
    # Of keys that go to one row all but the last go beyond the end instead, where they
    # are dropped; what is left of them is written in no particular order.
    later = jnp.triu(place[:, None] == place[None], 1).any(axis=1)
    place = jnp.where(later, len(queue.keys), place)
    return Queue(
        keys=queue.keys.at[place].set(keys, mode="drop"),
        identity=queue.identity.at[place].set(identity, mode="drop"),
        filled=queue.filled.at[place].set(True, mode="drop"),
        cursor=(queue.cursor + len(keys)) % size,
    )


def valid(
    queue: Queue,
    size: int,
    identity: Array,
    *,
    unfilled: bool = False,
    own_identity: bool = True,
) -> Array:
    """Returns which rows are negatives of whom, bool [B, rows].

    Args:
      size: K.
      identity: int32 [B] of the queries; -1 is nobody's.
      unfilled: rows that were never enqueued count too.
      own_identity: so do keys of the query's own identity.
    """
    usable = jnp.arange(len(queue.keys)) < size
    if not unfilled:
        usable &= queue.filled
    if own_identity:
        return jnp.broadcast_to(usable[None], (len(identity), len(usable)))
    own = (identity[:, None] == queue.identity[None]) & (identity >= 0)[:, None]
    return usable[None] & ~own


def check(size: int, batch_size: int, policy: str = "normal") -> None:
    """Raises UserError as `enqueue` does."""
    if policy not in POLICIES:
        raise UserError(unknown("queue policy", policy, POLICIES))
    if batch_size > size:
        raise UserError(
            f"{batch_size} keys a step into a queue of {size}: the queue must hold at "
            "least one batch"
        )
