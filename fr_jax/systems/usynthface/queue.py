"""A queue of keys that contrastive learning takes its negatives from.

Pure functions of a state: rows in a ring, padded so that any mesh can shard them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, check_names, check_range
from fr_jax.losses.margin import unit

Array = jax.Array

POLICIES = ("normal", "simQ", "dissimQ")
# Rows are padded to a multiple of this, so that a checkpoint fits 1, 2, 4, 8 devices.
_ROW_MULTIPLE = 128


class Options(NamedTuple):
    """How a queue is used.

    Attributes:
      size: K, the number of keys.
      policy: see `enqueue`.
      mask_unfilled: rows that were never enqueued are no negatives.
      mask_identity: keys of the query's own identity are no negatives.
      force: allow more keys than half the identities without `mask_identity`.
    """

    size: int = 32_768
    policy: str = "normal"
    mask_unfilled: bool = True
    mask_identity: bool = True
    force: bool = False


def options(given: Mapping[str, Any] | None, num_classes: int) -> Options:
    """Returns the options over the defaults.

    Raises:
      UserError: for unknown names, and for a queue that would often hold keys of the
        query's own identity, unmasked.
    """
    check_names("option of the queue", given or {}, Options._fields)
    found = Options(**(given or {}))
    check_range("the queue's size", found.size, 1)
    check_names("queue policy", [found.policy], POLICIES)
    if found.size > num_classes / 2 and not (found.mask_identity or found.force):
        raise UserError(
            f"a queue of {found.size:,} keys for {num_classes:,} identities would "
            "often hold the query's own identity among its negatives: use size <= "
            f"{num_classes // 2:,}, mask_identity=True, or force=True"
        )
    return found


def check(options: Options, keys: int) -> None:
    """Raises a UserError for more new keys in a step than the queue has rows."""
    if keys > options.size:
        raise UserError(
            f"{keys} keys a step into a queue of {options.size}: the queue must hold "
            "at least one batch"
        )


class Queue(NamedTuple):
    """K keys and their identities; rows from K on are padding.

    Attributes:
      keys: float32 [rows, D], of length 1; padding is 0.
      identity: int32 [rows]; -1 where it is unknown.
      filled: bool [rows], which rows have been enqueued; the others are random.
      cursor: the row that is overwritten next.
    """

    keys: Array
    identity: Array
    filled: Array
    cursor: Array


def create(key: Array, size: int, features: int) -> Queue:
    """Returns a queue of `size` random unit vectors, none of them enqueued yet."""
    rows = unit(jax.random.normal(key, (size, features)))
    padded = size + -size % _ROW_MULTIPLE
    return Queue(
        keys=jnp.pad(rows, ((0, padded - size), (0, 0))),
        identity=jnp.full(padded, -1, jnp.int32),
        filled=jnp.zeros(padded, bool),
        cursor=jnp.int32(0),
    )


def enqueue(queue: Queue, options: Options, keys: Array, identity: Array) -> Queue:
    """Returns the queue with new keys in it.

    Until all K rows have been enqueued, keys go round the ring whatever the policy. K
    need not be a multiple of B: a batch may straddle the end.

    Args:
      options: 'normal' overwrites the oldest rows, 'simQ' for each key the row most
        similar to it, 'dissimQ' the least. Every key is compared with the queue as it
        was before the batch; of several that choose one row the last is kept.
      keys, identity: float [B, D] unit vectors, int32 [B].
    """
    size = options.size
    check(options, len(keys))
    place = (queue.cursor + jnp.arange(len(keys))) % size
    if options.policy != "normal":
        similarity = keys @ queue.keys.T  # [B, rows]
        sign = 1 if options.policy == "simQ" else -1
        rows = jnp.arange(len(queue.keys))[None]
        similarity = jnp.where(rows < size, sign * similarity, -jnp.inf)
        chosen = jnp.argmax(similarity, axis=1)
        place = jnp.where(jnp.sum(queue.filled) >= size, chosen, place)
    # Of keys that go to one row all but the last go beyond the end instead, where they
    # are dropped; the others are written in no particular order.
    later = jnp.triu(place[:, None] == place[None], 1).any(axis=1)
    place = jnp.where(later, len(queue.keys), place)
    return Queue(
        keys=queue.keys.at[place].set(keys, mode="drop"),
        identity=queue.identity.at[place].set(identity, mode="drop"),
        filled=queue.filled.at[place].set(True, mode="drop"),
        cursor=(queue.cursor + len(keys)) % size,
    )


def valid(queue: Queue, options: Options, identity: Array) -> Array:
    """Returns a mask [B, rows]: True where a queue row is a valid negative of a query.

    Args:
      identity: int32 [B] of the queries; -1 is unknown.
    """
    usable = jnp.arange(len(queue.keys)) < options.size
    if options.mask_unfilled:
        usable &= queue.filled
    own = (identity[:, None] == queue.identity[None]) & (identity >= 0)[:, None]
    return usable[None] & ~(own & options.mask_identity)
