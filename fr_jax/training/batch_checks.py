"""Checks of batches against what a system expects, before and during training.

The stream and its first batch are checked before anything is compiled. Values of later
batches are checked in the compiled step, which keeps the extremes of each array.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError
from fr_jax.system import Input
from fr_jax.training.data import Stream


class Extremes(NamedTuple):
    """The lowest and highest value of an array of integers, int32 scalars."""

    low: Any
    high: Any


def check_stream(expects: Mapping[str, Input], stream: Stream) -> None:
    """Raises a UserError if what a stream says of its data is unexpected.

    Checked are the batch size, `num_classes`, and the `extremes` of whole columns.
    """
    check_batch_size(expects, stream.batch_size)
    extremes = dict(getattr(stream, "extremes", {}))
    classes = getattr(stream, "num_classes", None)
    if classes is not None:
        low, high = extremes.get("label", (0, 0))
        extremes["label"] = Extremes(low, max(high, classes - 1))
    _check_extremes(expects, extremes, "the data")


def check_batch_size(expects: Mapping[str, Input], batch_size: int) -> None:
    """Raises a UserError for a batch size that a system does not accept."""
    for name, expected in expects.items():
        multiple = expected.multiple
        if batch_size < 1 or batch_size % multiple:
            raise UserError(
                f"a batch of {batch_size} rows: {name!r} takes a multiple of {multiple}"
            )


def check_batch(expects: Mapping[str, Input], batch: Mapping[str, Any]) -> None:
    """Raises a UserError for the first array that a system does not expect."""
    for name, expected in expects.items():
        if name not in batch:
            raise UserError(
                f"the batches have no {name!r}, which the system needs; they have "
                f"{', '.join(sorted(batch))}"
            )
        array = batch[name]
        fits = len(array.shape) == len(expected.shape) and all(
            length in (None, actual)
            for length, actual in zip(expected.shape, array.shape)
        )
        if array.dtype != expected.dtype or not fits:
            shape = ", ".join("any" if n is None else str(n) for n in expected.shape)
            is_image = expected.dtype == np.uint8 and expected.shape[1:][-1:] == (3,)
            hint = ": images are RGB [N, H, W, 3], 0 to 255" if is_image else ""
            raise UserError(
                f"{name!r} of a batch is {array.dtype} {tuple(array.shape)}, expected "
                f"{np.dtype(expected.dtype).name} ({shape}){hint}"
            )
        if _has_range(expected):
            values = [Extremes(one.min(), one.max()) for one in _local(array)]
            for extremes in values:
                _check_extremes(expects, {name: extremes}, "a batch")


def extremes(
    expects: Mapping[str, Input],
    batch: Mapping[str, jax.Array],
    before: Mapping[str, Extremes] | None = None,
) -> dict[str, Extremes]:
    """Returns the extremes of the arrays of a batch that have an expected range.

    Args:
      before: those of earlier batches, which are included.
    """
    found = {}
    for name, expected in expects.items():
        if _has_range(expected):
            low, high = jnp.min(batch[name]), jnp.max(batch[name])
            if before is not None:
                low = jnp.minimum(low, before[name].low)
                high = jnp.maximum(high, before[name].high)
            found[name] = Extremes(low, high)
    return found


def check_extremes(
    expects: Mapping[str, Input], extremes: Mapping[str, Extremes]
) -> None:
    """Raises a UserError if the extremes of the batches so far are out of range."""
    _check_extremes(expects, extremes, "a batch")


def _check_extremes(expects, extremes, where: str) -> None:
    for name, values in extremes.items():
        if name not in expects:
            continue
        dtype, _, low, below, _ = expects[name]
        for value in map(int, values):
            if (low is None or value >= low) and (below is None or value < below):
                continue
            least = "at least " if below is None else f"{low or 0} to "
            classes = below and np.issubdtype(dtype, np.signedinteger)  # not pixels
            raise UserError(
                f"{name!r} of {where} has {value}, expected {least}"
                f"{low if below is None else below - 1}"
                + (f": {below:,} classes, counted from 0" if classes else "")
            )


def _has_range(expected: Input) -> bool:
    return expected.low is not None or expected.below is not None


def _local(array) -> list[np.ndarray]:
    """Returns the rows of a batch's array that this process holds, by device."""
    if isinstance(array, jax.Array):
        return [np.asarray(shard.data) for shard in array.addressable_shards]
    return [np.asarray(array)]
