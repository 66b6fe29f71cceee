"""Small USynthFace systems, batches and steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.system import System
from fr_jax.systems import usynthface
from tests.support.steps import jit

IDENTITIES = 300
SMALL = {
    "backbone": "iresnet18",
    "backbone_options": {"stage_sizes": (1, 1), "width": 0.125, "embedding_size": 16},
    "image_size": 16,
    "queue": {"size": 100},  # no batch divides it, no mesh either: 128 rows
    "optimizer": {"schedule": "constant"},
    "augmentation": (),
}
UNMASKED = {"queue": {"mask_unfilled": False}}  # the first step has negatives
KEY = jax.random.key(0)


def make(**changes) -> System:
    """Returns the small system with other arguments; dicts are merged."""
    merged = dict(SMALL)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    return usynthface.make(IDENTITIES, **merged)


def faces(rows: int = 64) -> dict[str, np.ndarray]:
    """Returns noise, and as positives the same with more noise."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    noise = rng.integers(-20, 20, image.shape)
    return {
        "image": image,
        "positive": np.clip(image + noise, 0, 255).astype(np.uint8),
        "label": np.arange(rows, dtype=np.int32) % IDENTITIES,
    }


def seeded_faces(rows: int) -> dict[str, np.ndarray]:
    """Returns `faces` with seeds."""
    return faces(rows) | {"seed": np.arange(rows, dtype=np.uint32)}


def batch(rows: int = 16) -> dict[str, jax.Array]:
    """Returns a batch."""
    return {name: jnp.asarray(array) for name, array in seeded_faces(rows).items()}


def calm() -> System:
    """Returns a system whose steps are small, so that roundings do not grow."""
    return make(
        queue={"mask_unfilled": False},
        loss_options={"temperature": 0.2},
        optimizer={"learning_rate": 0.01, "weight_decay": 0.0},
    )


@functools.cache
def initial() -> Any:
    """Returns the first State of the small system, however its steps differ."""
    return jit(make().init)(KEY, batch())


class Steps(NamedTuple):
    """States before, between and after some steps, and the metrics of each."""

    states: list[Any]
    metrics: list[dict[str, float]]


class Compiled:
    """A system with its step, compiled once."""

    def __init__(self, **changes):
        self.system = make(**changes)
        self._step = jit(self.system.train_step)

    def run(self, steps: int = 1, state: Any = None, data: Any = None) -> Steps:
        """Returns some steps on one batch."""
        states, metrics = [initial() if state is None else state], []
        for number in range(steps):
            data = batch() if data is None else data
            state, measured = self._step(states[-1], data, jax.random.key(number))
            states.append(state)
            metrics.append({name: float(value) for name, value in measured.items()})
        return Steps(states, metrics)


def metrics_of(system: System, state: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Returns some metrics of a step, without compiling what they do not need."""

    def some(state, batch, key):
        measured = system.train_step(state, batch, key)[1]
        return {name: measured[name] for name in names}

    return jax.device_get(jit(some)(state, batch(), KEY))


def queue_after(system: System, state: Any, data: Any) -> Any:
    """Returns the queue after a step, without compiling the gradient."""
    return jit(lambda *given: system.train_step(*given)[0].queue)(state, data, KEY)
