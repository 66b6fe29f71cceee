"""IR-50 + ArcFace, 10,572 classes, float32: a training step against PyTorch."""

import numpy as np

from benchmarks import contest

CLASSES, BATCH = 10_572, 16


def random_batch(rows: int, size: int, **classes: int) -> dict[str, np.ndarray]:
    """Returns random images [rows, size, size, 3], and labels below `classes`."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, size, size, 3), np.uint8)
    return {"image": images} | {
        name: rng.integers(0, count, rows).astype(np.int32)
        for name, count in classes.items()
    }


class _OneBatch:
    """A stream of one batch of arrays without images."""

    def __init__(self, arrays):
        self._arrays, self.batch_size = arrays, len(next(iter(arrays.values())))

    def batch_at(self, step: int):
        del step
        return self._arrays


def stepping(system, arrays, steps: int = 1):
    """Returns a function that runs the loop's steps, and the seconds of compilation."""
    from fr_jax.backend import cpu, sharding
    from fr_jax.training.guard import Guard
    from fr_jax.training.streams import ArrayStream
    from fr_jax.training.update import Update

    cpu.keep_freed_memory()
    stream = _OneBatch(arrays)
    if "image" in arrays:
        stream = ArrayStream(arrays, len(arrays["image"]))
    update = Update(system, stream, sharding.make_mesh(), 0, {}, Guard())
    loop = update.initial()
    seconds = update.compile(loop)
    placed = update.place(stream.batch_at(0))

    def step():
        nonlocal loop
        for _ in range(steps):
            loop, bad = update(loop, placed, 0)
        return int(bad)

    return step, seconds


def compiled(backbone: str):
    """Returns the step of a backbone, and the seconds of its compilation."""
    from fr_jax.systems import inter_prototype

    optimizer = {"learning_rate": 0.01, "schedule": "constant"}
    system = inter_prototype.make(CLASSES, backbone=backbone, optimizer=optimizer)
    return stepping(system, random_batch(BATCH, 112, label=CLASSES))


def ours():
    return compiled("iresnet50")[0]


def pytorch():
    from benchmarks import torch_iresnet

    batch = random_batch(BATCH, 112, label=CLASSES)
    return torch_iresnet.training_step(batch["image"], batch["label"], CLASSES)


def run(rounds: int) -> dict[str, float]:
    seconds = contest.contest("training_step", rounds)
    return contest.figures("training_step", seconds, BATCH)
