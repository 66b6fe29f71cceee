"""Batches of tuples and negatives: embeddings and landmark pictures, by step."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError
from fr_jax.systems.fra import splits
from fr_jax.systems.fra.faces import Faces
from fr_jax.systems.fra.tuples import Negatives, Tuples, Uniform, original

Array = np.ndarray


# step -> the tuples of a batch, their numbers in the list (if there is one), a
# generator for their negatives.
Draw = Callable[[int], tuple[Tuples, Array, np.random.Generator]]


class Draws(NamedTuple):
    """The tuples of a split, and the number of tuples in an epoch."""

    draw: Draw
    negatives: Negatives
    count: int


class TupleStream:
    """Batches of tuples: a function of the step.

    `landmarks` uint8 [B, 112, 112, 1] of 0 and 1, the picture of the target pose;
    float32 [B, D], raw: `embedding` of the input, `target`, `negative_identity`,
    `negative_pose`, `negative_expression`.

    Args:
      draws: the tuples.
      faces: their images.
      maps, vectors: landmark pictures and embeddings by image number.
      rows: (start, stop) that this process supplies of a batch.
    """

    unit = "tuples"

    def __init__(
        self,
        draws: Draws,
        faces: Faces,
        maps: Array,
        vectors: Array,
        *,
        batch_size: int,
        rows: tuple[int, int],
    ):
        self.batch_size = batch_size
        self._draws, self._rows = draws, slice(*rows)
        self._maps, self._vectors = maps, vectors
        columns = np.stack(faces.columns()).astype(np.int32).tobytes()
        self._fingerprint = {
            "images": len(faces),
            "tuples": draws.count,
            "labels": hashlib.sha256(columns).hexdigest()[:16],
        }

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint

    def numbers(self, step: int) -> dict[str, Array]:
        """Returns the image numbers [B] of a step, by name in the batch."""
        tuples, rows, rng = self._draws.draw(step)
        negatives = self._draws.negatives.draw(tuples, rows, rng)
        return {
            "landmarks": tuples.picture,
            "embedding": tuples.input,
            "target": tuples.target,
            **{f"negative_{name}": drawn for name, drawn in negatives.items()},
        }

    def batch_at(self, step: int) -> dict[str, Array]:
        """Returns this process's rows of a step's batch."""
        numbers = {name: n[self._rows] for name, n in self.numbers(step).items()}
        maps = self._maps[numbers.pop("landmarks")]
        return {"landmarks": maps} | {n: self._vectors[x] for n, x in numbers.items()}


def draws(
    config: Any, several: Mapping[str, Faces | None], seed: int
) -> dict[str, Draws]:
    """Returns the tuples of 'train' and 'validation', if there are faces for it.

    Raises:
      UserError: for a split without tuples, and persons without negatives.
    """
    drawn = {}
    for key, name in enumerate(("train", "validation")):
        faces = several[name]
        if faces is None:
            continue
        images, tuples = faces.columns(), None
        if config.sampling == "original":
            tuples = original(images, config.num_tuples)
            if not len(tuples.target):
                raise UserError(f"the images for {name} give no tuple")
            if config.split.kind == "tuple":
                rows = splits.by_tuple(len(tuples.target), seed)[key]
                tuples = tuples.take(rows)
        faithful = config.faithful_negatives
        negatives = Negatives(images, faces.identities, tuples, faithful=faithful)
        if tuples is None:
            draw, count = _uniform(Uniform(images), config, seed, key)
        else:
            draw, count = _listed(tuples, config, seed, key)
        drawn[name] = Draws(draw, negatives, count)
    return drawn


def _uniform(uniform: Uniform, config: Any, seed: int, key: int) -> tuple[Draw, int]:
    """Returns new tuples in every step; an epoch has `num_tuples` of them."""
    size = config.batch_size
    uniform.draw(1, np.random.default_rng(0))  # raises if there is none

    def draw(step: int):
        rng = np.random.default_rng([seed, 21 + key, step])
        tuples = uniform.draw(size, rng)
        return tuples, np.arange(size), rng

    return draw, config.num_tuples


def _listed(tuples: Tuples, config: Any, seed: int, key: int) -> tuple[Draw, int]:
    """Returns each tuple of a list once per epoch."""
    from data_pipelines import samplers

    count = len(tuples.target)
    order = samplers.permuted(count, seed, 23 + key)

    def draw(step: int):
        rows = order(step, config.batch_size)
        rng = np.random.default_rng([seed, 25 + key, step])
        return tuples.take(rows), rows, rng

    return draw, count
