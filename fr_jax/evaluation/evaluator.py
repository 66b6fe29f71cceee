"""Evaluators: functions that measure a trained network, during training and after."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fr_jax.embedder import Embedder


class Trained(NamedTuple):
    """The networks of a run, or of a saved embedder, in the form evaluators take.

    Attributes:
      embed: (images, flip=False, progress='') -> {'embedding': float32 [N, D]}, raw,
        and with `flip` 'mirrored', the embeddings of the mirrored images; `images`
        slices to uint8 RGB [n, H, W, 3]. Batched, over all devices.
      networks: networks that the run hands over, by name, built on first access.
    """

    embed: Callable[..., dict[str, np.ndarray]]
    networks: Mapping[str, Embedder]


class Evaluator(Protocol):
    """A callable that returns metrics of trained networks.

    Optional methods:
      subset(count) -> Evaluator, a fixed subset to evaluate during training.
      draw(folder) -> paths, figures of the last result.
      mark_seen(trained, digests) -> Evaluator, see `Verification.mark_seen`.
    And of the last result, after training and in `fr-jax evaluate` only:
      intervals(resamples, progress=label) -> (bounds by result key, notes).
      stored_set() -> EvaluatedSet, for reports.
      notes, an attribute: why a metric is undefined, by its result key.
    """

    @property
    def metric_names(self) -> Sequence[str]: ...

    def __call__(self, trained: Trained) -> dict[str, float]: ...


class LazyNetworks(collections.UserDict[str, Embedder]):
    """The embedders of `make`'s networks, built on first access."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]):
        self._make = make

    @functools.cached_property
    def data(self) -> dict[str, Embedder]:
        return {name: Embedder(one) for name, one in self._make().items()}
