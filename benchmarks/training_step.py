"""IR-50 + ArcFace, 10,572 classes, float32: a training step against PyTorch's."""

import sys

import numpy as np

from benchmarks import contest

CLASSES, BATCH = 10_572, 16


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 112, 112, 3), np.uint8)
    return images, rng.integers(0, CLASSES, BATCH).astype(np.int32)


class OneBatch:
    """A stream that says the same thing at every step."""

    def __init__(self, arrays):
        self.batch_size, self._arrays = len(arrays["image"]), arrays

    def batch_at(self, step: int):
        return self._arrays


def stepping(system, arrays):
    """The step as the loop runs it, guard included; and the seconds it took to make."""
    from fr_jax.backend import cpu, sharding
    from fr_jax.training import loop as train

    cpu.keep_freed_memory()
    stream = OneBatch(arrays)
    update = train._Update(system, stream, sharding.make_mesh(), 0, {}, train.Guard())
    loop = update.initial()
    seconds = update.compile(loop)
    placed = update.place(stream.batch_at(0))

    def step():
        nonlocal loop
        loop, bad = update(loop, placed, 0)
        return int(bad)

    return step, seconds


def ours(backbone: str = "iresnet50", **options):
    """The step as the loop runs it, and the seconds it took to make."""
    from fr_jax.systems import inter_prototype

    system = inter_prototype.make(
        CLASSES,
        backbone=backbone,
        backbone_options=options,
        learning_rate=0.01,
        schedule="constant",
    )
    images, labels = batch()
    seeds = labels.astype(np.uint32)
    return stepping(system, {"image": images, "label": labels, "seed": seeds})


def run(rounds: int) -> dict[str, float]:
    keep = contest.KEEP_FREED_MEMORY
    seconds = contest.contest(
        "benchmarks.training_step",
        ["ours", "pytorch", "pytorch_keeping_memory"],
        rounds,
        {"pytorch_keeping_memory": keep},
    )
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    return {
        "training_step/ours_images_per_second": BATCH / median["ours"],
        "training_step/pytorch_images_per_second": BATCH / median["pytorch"],
        "training_step/times_pytorch": contest.ratio(
            seconds["pytorch"], seconds["ours"]
        ),
        "training_step/times_pytorch_keeping_memory": contest.ratio(
            seconds["pytorch_keeping_memory"], seconds["ours"]
        ),
    }


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        contest.serve(ours()[0])
    else:
        from benchmarks import torch_iresnet

        contest.serve(torch_iresnet.training_step(*batch(), CLASSES))
