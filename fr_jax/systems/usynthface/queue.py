"""Queue of keys: the negatives of momentum contrast.

Pure functions of a state, a ring of rows padded so that any mesh can shard them. The
queue of MoCo (He et al., CVPR 2020, arXiv 1911.05722); K = 32,768 and the policies simQ
and dissimQ are those of USynthFace (FG 2023, arXiv 2211.07371).
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
    """Options of a queue.

    Attributes:
      size: K, the number of keys.
      policy: see `enqueue`.
      mask_unfilled: rows that were never enqueued are invalid negatives.
      mask_identity: keys of the query's identity are invalid negatives.
      force: allow more keys than half the identities without `mask_identity`.
    """

    size: int = 32_768
    policy: str = "normal"
    mask_unfilled: bool = True
    mask_identity: bool = True
    force: bool = False


def options(given: Mapping[str, Any] | None, num_classes: int) -> Options:
    """Returns the given options merged over the defaults.

    Raises:
      UserError: for unknown names and values, and for more keys than half the
        identities with neither `mask_identity` nor `force`.
    """
    check_names("option of the queue", given or {}, Options._fields)
    queue = Options(**(given or {}))
    check_range("the queue's size", queue.size, 1)
    check_names("queue policy", [queue.policy], POLICIES)
    if queue.size > num_classes / 2 and not (queue.mask_identity or queue.force):
        raise UserError(
            f"a queue of {queue.size:,} keys for {num_classes:,} identities would "
            "often hold the query's own identity among its negatives: use size <= "
            f"{num_classes // 2:,}, mask_identity=True, or force=True"
        )
    return queue


def check(options: Options, keys: int) -> None:
    """Raises a UserError if a step has more keys than the queue has rows."""
    if keys > options.size:
        raise UserError(
            f"{keys} keys a step exceed a queue of {options.size}: the queue must hold "
            "at least one batch"
        )


class Queue(NamedTuple):
    """K keys and their identities; rows from K on are padding.

    Attributes:
      keys: float32 [rows, D], unit vectors; padding is 0.
      identity: int32 [rows]; -1 is unknown.
      filled: bool [rows], True once a key was enqueued; other rows are random.
      cursor: the next row to overwrite.
    """

    keys: Array
    identity: Array
    filled: Array
    cursor: Array


def create(key: Array, size: int, features: int) -> Queue:
    """Returns a queue of `size` random unit vectors, all unfilled."""
    keys = unit(jax.random.normal(key, (size, features)))
    keys = jnp.pad(keys, ((0, -size % _ROW_MULTIPLE), (0, 0)))
    identity = jnp.full(len(keys), -1, jnp.int32)
    return Queue(keys, identity, jnp.zeros(len(keys), bool), cursor=jnp.int32(0))


def enqueue(queue: Queue, options: Options, keys: Array, identity: Array) -> Queue:
    """Returns the queue after enqueuing a batch of keys.

    Until all K rows are filled, every policy fills the ring in order. K need not be a
    multiple of B: a batch may wrap around.

    Args:
      options: policy 'normal' overwrites the oldest rows, 'simQ' for each key the most
        similar row, 'dissimQ' the least similar one. Keys are compared with the queue
        before the batch; of several keys with one row the last is kept.
      keys, identity: float [B, D] unit vectors, int32 [B].
    """
    size = options.size
    check(options, len(keys))
    row = (queue.cursor + jnp.arange(len(keys))) % size
    if options.policy != "normal":
        similarity = keys @ queue.keys.T  # [B, rows]
        sign = 1 if options.policy == "simQ" else -1
        is_key = jnp.arange(len(queue.keys))[None] < size
        chosen = jnp.argmax(jnp.where(is_key, sign * similarity, -jnp.inf), axis=1)
        row = jnp.where(jnp.sum(queue.filled) >= size, chosen, row)
    # Writes to one row have no defined order: all but the last key of a row get an
    # index past the end, which is dropped.
    overwritten = jnp.triu(row[:, None] == row[None], 1).any(axis=1)
    row = jnp.where(overwritten, len(queue.keys), row)
    return Queue(
        keys=queue.keys.at[row].set(keys, mode="drop"),
        identity=queue.identity.at[row].set(identity, mode="drop"),
        filled=queue.filled.at[row].set(True, mode="drop"),
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
    same = (identity[:, None] == queue.identity[None]) & (identity >= 0)[:, None]
    return usable[None] & ~(same & options.mask_identity)
